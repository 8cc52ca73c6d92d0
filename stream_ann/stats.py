"""What a live run has done so far, for whoever shows it: overlay, terminal, summary."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

from stream_ann.frames import Counts, ExitAnswer, Frame, FrameResult
from stream_ann.states import StateChange

__all__ = ["Latency", "LiveStats", "LiveStatus", "StatsSnapshot"]

WINDOW = 4096
"""Latencies are summarised over this many of the latest results, so that memory stays flat."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles over the latest results, in milliseconds after arrival."""

    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class StatsSnapshot:
    """The figures of a run at one moment."""

    counts: Counts
    """Where the frames went."""
    first: Latency | None
    """Time to the first answer; None before the first result."""
    final: Latency | None
    """Time to the last answer; None before the first result."""
    results_per_s: float
    """Answered frames a second over the last two seconds of the run."""
    last_exit_counts: tuple[int, ...]
    """How many frames ended at each exit of the plan as the deepest one reached."""

    @property
    def mean_exits(self) -> float:
        """Mean depth of the deepest answer of a frame, in exits counted from 1; 0 without results."""
        total = sum(self.last_exit_counts)
        return sum((i + 1) * n for i, n in enumerate(self.last_exit_counts)) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """What a view shows: the figures, the last finished result, and how far the present frame has come."""

    stats: StatsSnapshot
    result: FrameResult | None
    """The last finished result."""
    label: str
    """Name of the present frame's answer so far, or of the last result's; empty before the first answer."""
    confidence: float
    """Its probability, 0 to 1."""
    exits: tuple[ExitAnswer, ...]
    """The exits that the present frame has reached."""
    source: str = ""
    """Name of the source."""
    state: StateChange | None = None
    """How the source is doing, and since when; None where it does not say."""
    frame: Frame | None = None
    """The frame that the answer is about: the present one, or the last finished one; None before the first answer."""


class LiveStats:
    """Gathers results as they come. Safe to read from other threads.

    Args:
        exits: Number of exits of the plan.
    """

    def __init__(self, exits: int) -> None:
        self._lock = threading.Lock()
        self._first_ms: deque[float] = deque(maxlen=WINDOW)
        self._final_ms: deque[float] = deque(maxlen=WINDOW)
        self._done_s: deque[float] = deque(maxlen=WINDOW)
        self._last_exit = [0] * exits
        self._counts = Counts()

    def add(self, result: FrameResult) -> None:
        """Take in one more result."""
        with self._lock:
            self._first_ms.append(result.first_ms)
            self._final_ms.append(result.final_ms)
            self._done_s.append(result.frame.arrival_s + result.final_ms / 1e3)
            self._last_exit[max(e.exit for e in result.exits)] += 1

    def set_counts(self, counts: Counts) -> None:
        """Take over the newest frame counts."""
        with self._lock:
            self._counts = counts

    def snapshot(self) -> StatsSnapshot:
        """The figures now."""
        with self._lock:
            return StatsSnapshot(
                counts=self._counts,
                first=_latency(self._first_ms),
                final=_latency(self._final_ms),
                results_per_s=_rate(self._done_s),
                last_exit_counts=tuple(self._last_exit),
            )


def _latency(values: deque[float]) -> Latency | None:
    if not values:
        return None
    p50, p99, top = np.percentile(np.fromiter(values, float), [50, 99, 100])
    return Latency(float(p50), float(p99), float(top))


def _rate(done_s: deque[float], span_s: float = 2.0) -> float:
    """Intervals between the results of the last ``span_s`` seconds, a second."""
    if len(done_s) < 2:
        return 0.0
    recent = [t for t in done_s if t >= done_s[-1] - span_s]
    if len(recent) < 2 or recent[-1] <= recent[0]:
        return 0.0
    return (len(recent) - 1) / (recent[-1] - recent[0])
