"""How many frames run a step together, and whether there is time for one before others come."""

from __future__ import annotations

from collections.abc import Callable, Iterable

__all__ = ["best_count", "leaves_time"]

WORTH_IT = 0.98
"""A larger group must take at most so much of the time for each frame: the times are estimates."""


def best_count(together_s: Callable[[int], float | None], most: int, left_s: float) -> int:
    """The number of frames that gets a step done for the most frames a second, without being late for the first.

    Args:
        together_s: Time that the step takes for so many frames, in seconds; None where that is not offered.
        most: How many frames want the step.
        left_s: The time until the most urgent of them should have its answer, in seconds. Where it would be late even
            alone, it no longer counts.
    """
    best, alone_s = 1, together_s(1)
    if alone_s is None:
        return 1
    best_s = alone_s
    # powers of two: the times of batches are estimates, and asking costs time too
    for count in sorted({*(1 << i for i in range(1, most.bit_length())), most} - {0, 1}):
        all_s = together_s(count)
        if all_s is None or (all_s > left_s >= alone_s):
            continue
        if all_s / count < WORTH_IT * best_s:
            best, best_s = count, all_s / count
    return best


def leaves_time(end_s: float, first_s: float, expected: Iterable[tuple[float, float]]) -> bool:
    """Whether, with the engine busy until ``end_s``, each frame to be expected can still have its first answer in time.

    Args:
        end_s: Until when the engine is busy, in seconds.
        first_s: How long a first answer takes, in seconds.
        expected: When each of the frames comes, and when its answer is due, in seconds.
    """
    time_s = end_s
    for comes_s, due_s in sorted(expected, key=lambda frame: frame[1]):
        time_s = max(time_s, comes_s) + first_s
        if time_s > due_s:
            return False
    return True
