"""How long steps take, by the runs that have been seen."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

__all__ = ["StepTimes"]


class StepTimes:
    """Running estimate of how long each step takes.

    Args:
        initial_s: First guess for each step, in seconds; replaced by measurements as they come.
        window: How many of the latest runs of a step count.
    """

    def __init__(self, initial_s: Sequence[float], *, window: int = 64) -> None:
        self._initial_s = tuple(initial_s)
        self._runs_s: list[deque[float]] = [deque(maxlen=window) for _ in initial_s]
        self._sorted_s: list[list[float]] = [[] for _ in initial_s]

    def add(self, step: int, seconds: float) -> None:
        """Take in one more run of a step."""
        self._runs_s[step].append(seconds)
        self._sorted_s[step] = []

    def typical_s(self, step: int) -> float:
        """Median over the latest runs, in seconds."""
        return self._rank_s(step, 0.5)

    def p95_s(self, step: int) -> float:
        """95th percentile (nearest rank) over the latest runs, in seconds."""
        return self._rank_s(step, 0.95)

    def _rank_s(self, step: int, share: float) -> float:
        if not self._sorted_s[step]:
            self._sorted_s[step] = sorted(self._runs_s[step])
        runs = self._sorted_s[step]
        return runs[min(len(runs) - 1, int(share * len(runs)))] if runs else self._initial_s[step]
