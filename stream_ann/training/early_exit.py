"""Early exit by confidence: thresholds that trade accuracy for cost, searched for over a whole frontier.

An image is answered by the first exit whose confidence reaches that exit's threshold; the last exit answers the rest.
Which images reach an exit depends on the thresholds before it, so they can't be chosen one by one. What can be had
exactly, at the price of one pass over the images, is every threshold of one exit while the others stay: all moves are
of that kind. The search keeps every pair of cost and accuracy that no other one beats, whatever the budget. A budget
then only picks from that frontier: a lower accuracy never costs more, and a higher cost never answers worse.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_ann.errors import UsageError

__all__ = ["NEVER", "OperatingPoint", "choose", "exits_taken", "frontier"]

NEVER = math.inf
"""The threshold of an exit that answers no image."""

LEVELS = 48
"""Thresholds that are tried for each exit, besides always and never."""

EFFORT = 4_000
"""Most moves (all thresholds of one exit, the others fixed) of a search; up to 4 exits every combination is seen."""

_PRICES = np.geomspace(0.02, 50, 24)
"""What an error costs in whole plans: the trade-offs from which the search starts."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Thresholds, and what they give on the images that they were found on."""

    thresholds: tuple[float, ...]
    """Of each exit: a confidence of at least this answers. 0 always does, so the last exit's is 0; ``NEVER`` never."""
    cost: float
    """Mean cost of an image, in the unit of the costs."""
    accuracy: float
    """How often the answer is right, 0 to 1."""


def exits_taken(thresholds: Sequence[float], confidence: NDArray[np.floating]) -> NDArray[np.int64]:
    """The exit that answers each image, int64 [N].

    Args:
        thresholds: Of each exit, the last one's being 0.
        confidence: float [exits, N], of each exit in each image.
    """
    if len(thresholds) != len(confidence) or thresholds[-1] != 0:
        raise ValueError(f"{len(confidence)} thresholds are needed, the last one 0, got {list(thresholds)}")
    reached = confidence.astype(np.float64) >= np.asarray(thresholds)[:, None]
    taken: NDArray[np.int64] = np.argmax(reached, axis=0)
    return taken


def frontier(
    correct: NDArray[np.bool_],
    confidence: NDArray[np.floating],
    costs: Sequence[float],
    *,
    levels: int = LEVELS,
    effort: int = EFFORT,
) -> tuple[OperatingPoint, ...]:
    """The best trade-offs between cost and accuracy that thresholds on a grid give.

    Every combination is seen where ``effort`` allows for it, otherwise a local search (Pareto local search; Paquete,
    Chiarandini, Stützle, 2004) that starts from every exit alone and from the best compromises at several prices of an
    error. So no exit alone is ever better than the frontier, and the result is the same each time.

    Args:
        correct: bool [exits, N], whether each exit's answer is right.
        confidence: float [exits, N], its confidence.
        costs: Cumulative cost of each exit, not falling.
        levels: Thresholds tried for each exit besides always and never: quantiles of its confidences.
        effort: Most moves of the search.

    Returns:
        The points in order of cost, each more accurate than the one before.
    """
    if correct.shape != confidence.shape or correct.ndim != 2 or len(costs) != len(correct) or correct.size == 0:
        shapes = f"{correct.shape}, {confidence.shape} and {len(costs)} costs"
        raise ValueError(f"correct and confidence must be [exits, N], with a cost for each exit, got {shapes}")
    if any(b < a for a, b in itertools.pairwise(costs)):
        raise ValueError(f"costs must not fall, got {list(costs)}")
    return _Search(correct, confidence, costs, levels).run(effort)


def choose(
    points: Sequence[OperatingPoint],
    *,
    last_accuracy: float,
    last_cost: float,
    max_drop: float | None = None,
    target_cost: float | None = None,
) -> OperatingPoint:
    """The point of a frontier that a budget asks for.

    Args:
        points: As :func:`frontier` gives them.
        last_accuracy: Accuracy of the last exit on the same images.
        last_cost: Its cumulative cost.
        max_drop: Least cost at an accuracy that is at most this many percentage points below the last exit's.
        target_cost: Greatest accuracy at a mean cost of at most this fraction of the last exit's. Either this or
            ``max_drop``.

    Raises:
        UsageError: Not exactly one of the two is given, it is out of range, or no point is as cheap as that.
    """
    if (max_drop is None) == (target_cost is None):
        raise UsageError("early exit needs one budget", "give either a drop in accuracy or a target cost")
    slack = 1e-9  # an equality in exact arithmetic
    if max_drop is not None:
        if not 0 <= max_drop <= 100:
            raise UsageError(f"a drop in accuracy of {max_drop:g} points", "give 0 to 100 percentage points")
        return next(p for p in points if p.accuracy >= last_accuracy - max_drop / 100 - slack)
    assert target_cost is not None
    if not 0 < target_cost <= 1:
        raise UsageError(f"a target cost of {target_cost:g}", "give a fraction of the whole plan's, over 0 and up to 1")
    affordable = [p for p in points if p.cost <= target_cost * last_cost + slack * last_cost]
    if not affordable:
        least = points[0].cost / last_cost
        what = f"no early exit costs {target_cost:g} of the plan: its first exit alone takes {least:.3g}"
        raise UsageError(what, f"give a target cost of at least {math.ceil(least * 1000) / 1000:g}")
    return affordable[-1]


class _Search:
    """The frontier so far. A choice is the number of a threshold in its exit's grid, for each exit but the last."""

    def __init__(
        self, correct: NDArray[np.bool_], confidence: NDArray[np.floating], costs: Sequence[float], levels: int
    ) -> None:
        self._correct = correct.astype(np.int64)
        self._costs = np.asarray(costs, dtype=np.float64)
        self._exits, self._images = correct.shape
        confidence = confidence.astype(np.float64)
        self._grids = [_grid(row, levels) for row in confidence[:-1]]
        # How many of the thresholds an image passes, less one: it exits where its level is at least the choice.
        self._level = [
            np.searchsorted(grid, row, side="right") - 1 for grid, row in zip(self._grids, confidence[:-1], strict=True)
        ]
        # For each number of right answers, the least cost for that many, and for that many or more.
        self._cost = np.full(self._images + 1, np.inf)
        self._bound = np.full(self._images + 1, np.inf)
        self._choice: dict[int, tuple[int, ...]] = {}

    def run(self, effort: int) -> tuple[OperatingPoint, ...]:
        free = self._exits - 1
        if free == 0:
            total = int(self._correct[0].sum())
            return (OperatingPoint((0.0,), float(self._costs[0]), total / self._images),)
        sizes = [len(grid) for grid in self._grids]
        if math.prod(sizes[:-1]) <= effort:
            for choice in itertools.product(*(range(size) for size in sizes[:-1])):
                self._move((*choice, 0), free - 1)
        else:
            self._search_locally(effort)
        return tuple(self._points())

    def _search_locally(self, effort: int) -> None:
        free = self._exits - 1
        never = tuple(len(grid) - 1 for grid in self._grids)
        for e in range(free):
            self._move(never, e)  # the choice 0 among these is exit e alone
            effort -= 1
        for price in _PRICES:
            choice = never
            for _ in range(4):
                before = choice
                for e in reversed(range(free)):
                    right, cost = self._move(choice, e)
                    effort -= 1
                    loss = cost / self._costs[-1] - price * right
                    choice = (*choice[:e], int(loss.argmin()), *choice[e + 1 :])
                if choice == before:
                    break
        order = np.random.default_rng(0)
        seen: set[tuple[int, ...]] = set()
        while fresh := [choice for choice in self._frontier_choices() if choice not in seen]:
            for index in order.permutation(len(fresh)):
                seen.add(fresh[index])
                for e in range(free):
                    if effort <= 0:
                        return
                    self._move(fresh[index], e)
                    effort -= 1

    def _move(self, choice: tuple[int, ...], e: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Try every threshold of exit ``e``: right answers and summed cost [len(grid)], kept where they are better."""
        exits = np.full(self._images, self._exits - 1)  # without exit e
        for other in reversed(range(self._exits - 1)):
            if other != e:
                exits[self._level[other] >= choice[other]] = other
        right = np.take_along_axis(self._correct, exits[None], axis=0)[0]
        cost = self._costs[exits]
        reaching = exits > e
        size = len(self._grids[e])
        level = self._level[e][reaching]
        gained = np.bincount(level, weights=(self._correct[e] - right)[reaching], minlength=size)
        spent = np.bincount(level, weights=(self._costs[e] - cost)[reaching], minlength=size)
        # Choice k stops the images of level k and above.
        total_right = right.sum() + np.rint(gained[::-1].cumsum()[::-1]).astype(np.int64)
        total_cost = cost.sum() + spent[::-1].cumsum()[::-1]
        # Less by more than rounding, so that equal points do not replace one another for ever.
        for k in np.flatnonzero(total_cost < self._bound[total_right] - 1e-9 * self._costs[-1]):
            count = int(total_right[k])
            if total_cost[k] < self._bound[count]:
                self._cost[count] = total_cost[k]
                self._choice[count] = (*choice[:e], int(k), *choice[e + 1 :])
                np.minimum(self._bound[: count + 1], total_cost[k], out=self._bound[: count + 1])
        return total_right, total_cost

    def _frontier_counts(self) -> Iterator[int]:
        """Numbers of right answers that no cheaper choice reaches or exceeds, rising."""
        for count in sorted(self._choice):
            more = self._bound[count + 1] if count < self._images else np.inf
            if self._cost[count] < more:
                yield count

    def _frontier_choices(self) -> list[tuple[int, ...]]:
        return [self._choice[count] for count in self._frontier_counts()]

    def _points(self) -> Iterator[OperatingPoint]:
        for count in self._frontier_counts():
            chosen = self._choice[count]
            thresholds = [float(grid[k]) for grid, k in zip(self._grids, chosen, strict=True)]
            cost = float(self._cost[count]) / self._images
            yield OperatingPoint((*thresholds, 0.0), cost, count / self._images)


def _grid(confidence: NDArray[np.float64], levels: int) -> NDArray[np.float64]:
    """Thresholds of one exit, rising: always, quantiles halfway between confidences that occur, never."""
    ordered = np.unique(confidence)
    middles = np.round((ordered[1:] + ordered[:-1]) / 2, 6)  # as they are written down
    if len(middles) > levels:
        # By images, not by distinct values: most of them crowd at the upper end.
        wanted = np.quantile(confidence, np.linspace(0, 1, levels + 2)[1:-1], method="lower")
        middles = middles[np.minimum(np.searchsorted(ordered, wanted), len(middles) - 1)]
    return np.concatenate([[0.0], np.unique(middles[middles > 0]), [NEVER]])
