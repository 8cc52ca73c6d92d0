"""What a live run has done so far, for whoever shows it: overlay, terminal, summary."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass

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
    top: tuple[tuple[str, float], ...] = ()
    """The most probable classes of the same answer by name, most probable first."""
    source: str = ""
    """Name of the source."""
    state: StateChange | None = None
    """How the source is doing, and since when; None where it does not say."""
    frame: Frame | None = None
    """The frame that the answer is about: the present one, or the last finished one; None before the first answer."""
    carried: float = 0.0
    """Which part of the answer comes from earlier frames of the scene, 0 to 1."""
    key_frame: int | None = None
    """Number of the earlier frame whose deeper exit is part of it; None where there is none."""

    @property
    def frames_back(self) -> int | None:
        """How many frames ago that one came; None where there is none."""
        return None if self.key_frame is None or self.frame is None else self.frame.index - self.key_frame


class LiveStats:
    """Gathers results as they come. Safe to read from other threads.

    Args:
        exits: Number of exits of the plan.
    """

    def __init__(self, exits: int) -> None:
        self._lock = threading.Lock()
        self._first_ms = _Window()
        self._final_ms = _Window()
        self._done_s: deque[float] = deque(maxlen=WINDOW)
        self._last_exit = [0] * exits
        self._counts = Counts()

    def add(self, result: FrameResult) -> None:
        """Take in one more result."""
        with self._lock:
            self._first_ms.add(result.first_ms)
            self._final_ms.add(result.final_ms)
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
                first=self._first_ms.latency(),
                final=self._final_ms.latency(),
                results_per_s=_rate(self._done_s),
                last_exit_counts=tuple(self._last_exit),
            )


class _Window:
    """The latest latencies, kept sorted: every view asks for percentiles many times a second, of every source."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, ms: float) -> None:
        if len(self._latest) == WINDOW:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]
        self._latest.append(ms)
        insort(self._sorted, ms)

    def latency(self) -> Latency | None:
        if not self._sorted:
            return None
        return Latency(self._quantile(0.5), self._quantile(0.99), self._sorted[-1])

    def _quantile(self, share: float) -> float:
        place = share * (len(self._sorted) - 1)
        below = int(place)
        above = min(below + 1, len(self._sorted) - 1)
        return self._sorted[below] + (place - below) * (self._sorted[above] - self._sorted[below])


def _rate(done_s: deque[float], span_s: float = 2.0) -> float:
    """Intervals between the results of the last ``span_s`` seconds, a second."""
    recent: list[float] = []
    for time_s in reversed(done_s):
        if time_s < done_s[-1] - span_s:
            break
        recent.append(time_s)
    if len(recent) < 2 or recent[0] <= recent[-1]:
        return 0.0
    return (len(recent) - 1) / (recent[0] - recent[-1])
