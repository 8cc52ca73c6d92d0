"""What a page shows at this moment, made once for all who watch it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_ann.frames import Frame, FrameResult
from stream_ann.sinks.jsonl import strict_json
from stream_ann.states import TROUBLED
from stream_ann.stats import Latency, LiveStatus
from stream_ann.text import clean, format_carried

__all__ = ["Feed", "Marks", "jpeg"]

Marks = Mapping[str, int]
"""How many results each source has given up to some moment."""

LONGEST_SIDE_PX = 960
"""Larger pictures are scaled down: it is a view, not a recording."""
JPEG_QUALITY = 80
HISTORY = 160
"""So many of the latest results are kept for a page that is opened later: as many as its plot shows."""


@dataclass(slots=True)
class _Source:
    """What is remembered of one source."""

    points: deque[tuple[int, float, float, float | None]] = field(default_factory=lambda: deque(maxlen=HISTORY))
    """For each result: which one it is, its first and final latency and its budget in milliseconds."""
    given: int = 0
    frame: Frame | None = None
    jpeg: bytes = b""
    shown: int = 0


class Feed:
    """Turns the status of a run into what the page is sent. Except for :meth:`put`, used by one thread.

    Args:
        poll: Gives the present status of every source, always in the same order. Must not wait.
        exit_names: Name of each exit of the plan, in order.
    """

    def __init__(self, poll: Callable[[], Sequence[LiveStatus]], exit_names: Sequence[str]) -> None:
        self._poll = poll
        self._exit_names = [clean(name) for name in exit_names]
        self._sources: dict[str, _Source] = {}

    def put(self, result: FrameResult) -> None:
        """Remember a result's latencies. Called by the thread that has the result; neither waits nor raises."""
        kept = self._sources.setdefault(result.frame.source, _Source())
        kept.given += 1
        budget_ms = None if result.budget_ms is None else round(result.budget_ms, 2)
        kept.points.append((kept.given, round(result.first_ms, 2), round(result.final_ms, 2), budget_ms))

    def statuses(self) -> Sequence[LiveStatus]:
        """The present status of every source."""
        return self._poll()

    def marks(self) -> Marks:
        """How far the results have come, for :meth:`message`."""
        return {name: kept.given for name, kept in self._sources.copy().items()}

    def message(self, statuses: Sequence[LiveStatus], *, since: Marks | None, page: Mapping[str, int]) -> bytes:
        """The present state as JSON.

        Args:
            statuses: The present status of every source.
            since: With the latencies that have come since then; None for all that are remembered, for a page that is
                opened.
            page: What there is to say of the page itself.
        """
        sources = [self._entry(number, status, since) for number, status in enumerate(statuses)]
        state = {"exit_names": self._exit_names, "whole": since is None, "page": dict(page), "sources": sources}
        return strict_json(state).encode("utf-8", "replace")

    def picture(self, number: int, statuses: Sequence[LiveStatus]) -> tuple[int, bytes] | None:
        """The newest picture of a source as its number among those shown and JPEG data; None before the first.

        Args:
            number: Which source.
            statuses: The present status of every source.
        """
        status = statuses[number]
        kept = self._sources.setdefault(status.source, _Source())
        if status.frame is not None and status.frame is not kept.frame:
            kept.frame = status.frame
            kept.jpeg = jpeg(status.frame.image)
            kept.shown += 1
        return (kept.shown, kept.jpeg) if kept.shown else None

    def _entry(self, number: int, status: LiveStatus, since: Marks | None) -> dict[str, Any]:
        now_s = time.monotonic()
        kept = self._sources.setdefault(status.source, _Source())
        sent = 0 if since is None else since.get(status.source, 0)
        frame, state, counts = status.frame, status.state, status.stats.counts
        return {
            "number": number,
            "source": clean(status.source),
            "state": "live" if state is None else state.state,
            "line": "live" if state is None else clean(state.line),
            "troubled": state is not None and state.state in TROUBLED,
            "age_ms": None if frame is None else round((now_s - frame.arrival_s) * 1e3),
            "frame": None if frame is None else frame.index,
            "suspect": frame is not None and frame.suspect,
            "label": clean(status.label),
            "confidence": round(status.confidence, 4),
            "carried": format_carried(status.carried, status.frames_back),
            "top": [[clean(name), round(p, 4)] for name, p in status.top],
            "exits": [[e.exit, round(e.confidence, 4), round(e.done_ms, 2)] for e in status.exits],
            "counts": [counts.frames_in, counts.results, counts.replaced, counts.corrupt],
            "first": _percentiles(status.stats.first),
            "final": _percentiles(status.stats.final),
            "per_s": round(status.stats.results_per_s, 2),
            "points": [point for point in list(kept.points) if point[0] > sent],
        }


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """A picture, uint8 [H, W, 3] RGB, as JPEG data of at most 960 pixels a side."""
    height, width = image.shape[:2]
    scale = LONGEST_SIDE_PX / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes() if done else b""


def _percentiles(latency: Latency | None) -> list[float] | None:
    return None if latency is None else [round(latency.p50_ms, 2), round(latency.p99_ms, 2)]
