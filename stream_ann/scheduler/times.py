"""How long steps take, by the runs that have been seen."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence

__all__ = ["StepTimes"]

TYPICAL = 15
"""The typical time of a step is that of so many of its latest runs."""


class StepTimes:
    """Running estimate of how long each step takes.

    Args:
        initial_s: First guess for each step, in seconds; replaced by measurements as they come.
        window: How many of the latest runs of a step count.
    """

    def __init__(self, initial_s: Sequence[float], *, window: int = 64) -> None:
        self._initial_s = tuple(initial_s)
        self._runs_s: list[deque[float]] = [deque(maxlen=window) for _ in initial_s]
        self._typical_s: list[float | None] = [None] * len(self._initial_s)
        self._p95_s: list[float | None] = [None] * len(self._initial_s)

    def add(self, step: int, seconds: float) -> None:
        """Take in one more run of a step."""
        self._runs_s[step].append(seconds)
        self._typical_s[step] = self._p95_s[step] = None

    def typical_s(self, step: int) -> float:
        """Median over the very latest runs, in seconds, so that a change of pace is soon believed."""
        if self._typical_s[step] is None:
            runs = list(self._runs_s[step])[-TYPICAL:]
            self._typical_s[step] = statistics.median(runs) if runs else self._initial_s[step]
        return self._typical_s[step] or 0.0

    def p95_s(self, step: int) -> float:
        """95th percentile (nearest rank) over the latest runs, in seconds."""
        if self._p95_s[step] is None:
            runs = sorted(self._runs_s[step])
            self._p95_s[step] = runs[min(len(runs) - 1, int(0.95 * len(runs)))] if runs else self._initial_s[step]
        return self._p95_s[step] or 0.0

    def careful_s(self, step: int) -> float:
        """Half-way from the typical time to the 95th percentile, in seconds: what to plan with.

        A step that would end in time only if it took no longer than usual ends too late as often as not.
        """
        return (self.typical_s(step) + self.p95_s(step)) / 2
