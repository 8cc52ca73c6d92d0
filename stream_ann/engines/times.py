"""How long steps take for several frames at a time."""

from __future__ import annotations

import bisect
import statistics
from collections import deque

__all__ = ["BatchTimes"]

_WINDOW = 16
"""How many of the latest runs of a step at one size count."""


class BatchTimes:
    """Running estimate of each step's time by the number of frames that it runs for at once.

    The median of the latest runs where that number was seen; a straight line between the numbers seen around it. Beyond
    the largest it grows with the number, and below the smallest it stays as it is there: both err on the slow side.

    Args:
        steps: Number of steps.
    """

    def __init__(self, steps: int) -> None:
        self._runs_s: list[dict[int, deque[float]]] = [{} for _ in range(steps)]

    def forget(self) -> None:
        """Start anew."""
        for seen in self._runs_s:
            seen.clear()

    def add(self, step: int, count: int, seconds: float) -> None:
        """Take in one more run of ``step`` for ``count`` frames."""
        self._runs_s[step].setdefault(count, deque(maxlen=_WINDOW)).append(seconds)

    def estimate_s(self, step: int, count: int) -> float | None:
        """Seconds that ``step`` takes for ``count`` frames together, or None while it never ran."""
        seen = self._runs_s[step]
        if count in seen:
            return statistics.median(seen[count])
        counts = sorted(seen)
        if not counts:
            return None
        place = bisect.bisect(counts, count)
        if place == 0:
            return statistics.median(seen[counts[0]])
        below = counts[place - 1]
        below_s = statistics.median(seen[below])
        if place == len(counts):
            return below_s * count / below
        above = counts[place]
        above_s = statistics.median(seen[above])
        return below_s + (above_s - below_s) * (count - below) / (above - below)
