"""How long the work on a frame takes: before the runs, during them, and after them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipelines.benchmarking.play import run_queue
from stream_ann.scheduler import Engine
from stream_ann.streaming import BETWEEN, Recording, RunLog, TimeTable

__all__ = ["Timings", "pooled", "recording_of", "timings_in", "timings_of"]

LEAST = 12
"""What was measured less often than this says nothing about a distribution."""
EACH = 64
"""So many values stand for each of several measurements that are pooled, so that each counts alike."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Measured times in seconds, as they came."""

    starts_s: list[float] = field(default_factory=list)
    """Taking in a frame."""
    steps_s: list[list[float]] = field(default_factory=list)
    """Each step."""
    between_s: list[float] = field(default_factory=list)
    """Between a step's end and the next step's beginning, where nothing was waited for."""
    frame_s: NDArray[np.float64] | None = None
    """Times from a frame's beginning until each exit, float64 [N, exits]; None where not every step was run."""

    @property
    def parts(self) -> tuple[list[float], ...]:
        """Taking in, each step, and between."""
        return (self.starts_s, *self.steps_s, self.between_s)

    @property
    def medians_s(self) -> tuple[float, ...]:
        """Median time of each step, in seconds; every step must have been measured."""
        return tuple(float(np.median(step)) for step in self.steps_s)


def timings_of(engine: Engine, images: Sequence[NDArray[np.uint8]], *, classes: Sequence[str], frames: int) -> Timings:
    """How long everything takes, measured by the scheduler itself on frames that wait for their turn.

    Args:
        engine: Runs the network; opened and warm.
        images: Pictures to measure on.
        classes: Name of each class.
        frames: On how many frames.
    """
    spans = run_queue(engine, images, classes=classes, frames=frames + 2)
    per_frame = len(engine.plan) + 1
    spans = spans[2 * per_frame :]  # the first two frames warm up
    found = _sorted_out(spans, len(engine.plan), ())
    ends = np.array([end_s for _, _, end_s in spans]).reshape(-1, per_frame)
    begun = np.array([begin_s for _, begin_s, _ in spans]).reshape(-1, per_frame)[:, :1]
    return Timings(found.starts_s, found.steps_s, found.between_s, ends[:, 1:] - begun)


def timings_in(log: RunLog, steps: int) -> Timings:
    """How long everything took in a run, where frames come when they come and end when the next one is there.

    Args:
        log: What happened.
        steps: How many steps the plan has.
    """
    return _sorted_out(log.spans, steps, log.waits_s)


def recording_of(log: RunLog) -> Recording:
    """A run's times, those of arrivals too, to be played on paper as they came; they count from the first arrival.

    Args:
        log: What happened.
    """
    begun_s = float(log.arrivals_s[0])
    spans = (*log.spans, *((BETWEEN, before_s, begin_s) for before_s, begin_s in _gaps(log.spans, log.waits_s)))
    shifted = ((kind, begin_s - begun_s, end_s - begun_s) for kind, begin_s, end_s in spans)
    return Recording(shifted, log.arrivals_s - begun_s)


def pooled(several: Iterable[Timings]) -> TimeTable:
    """One table of several measurements, of which each counts alike, however often it saw a step.

    Raises:
        ValueError: If something was hardly ever measured in any of them.
    """
    values = []
    for each in zip(*(one.parts for one in several), strict=True):
        enough = [one for one in each if len(one) >= LEAST] or [one for one in each if one]
        middles = (np.arange(EACH) + 0.5) / EACH
        values.append(np.concatenate([np.quantile(one, middles) for one in enough]).tolist())
    return TimeTable.measured(*_apart(values))


def _apart(parts: Sequence[Sequence[float]]) -> tuple[Sequence[float], Sequence[Sequence[float]], Sequence[float]]:
    return parts[0], parts[1:-1], parts[-1]


def _sorted_out(spans: Sequence[tuple[int, float, float]], steps: int, waits_s: Sequence[float]) -> Timings:
    """Times by what they were spent on.

    Args:
        spans: What the engine did.
        steps: How many steps there are.
        waits_s: When the scheduler began to wait for something, rising: such times lie between no two steps.
    """
    found = Timings(steps_s=[[] for _ in range(steps)])
    for step, begin_s, end_s in spans:
        (found.starts_s if step < 0 else found.steps_s[step]).append(end_s - begin_s)
    found.between_s.extend(begin_s - before_s for before_s, begin_s in _gaps(spans, waits_s))
    return found


def _gaps(spans: Sequence[tuple[int, float, float]], waits_s: Sequence[float]) -> Iterator[tuple[float, float]]:
    """The times behind a step in which nothing was waited for, until whatever came next began."""
    for (step, _, before_s), (_, begin_s, _) in pairwise(spans):
        if step >= 0 and bisect_left(waits_s, before_s) == bisect_left(waits_s, begin_s):
            yield before_s, begin_s
