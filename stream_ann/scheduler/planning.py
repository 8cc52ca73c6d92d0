"""The dynamic programme behind the planned path.

The frames of a camera come after random gaps. A frame runs some steps, one after another; when the next frame comes,
the exit that was done last is what counts. A step cannot be interrupted: one that is still running then makes the next
frame start late, which costs that one accuracy, and so on. What is sought is the rule that gives the highest mean
accuracy for ever: a Markov decision process whose stages are the arrivals and whose state is how late a frame starts.
It is solved by relative value iteration (White, 1963) on a grid of time, each sweep of which is a dynamic programme
backwards over the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_ann.nets.contract import Plan

__all__ = ["NOTHING", "Problem", "Solution", "solve", "successors", "ways"]

NOTHING = -1
"""In place of a step: none is worth running now."""

PROMPTNESS = 1e-3
"""What the mean accuracy over a frame's whole time weighs, beside the accuracy at the end of it: hardly anything, so
that it decides only between rules that are as good at the end, for the one that has good answers sooner."""


def successors(plan: Plan) -> list[list[int]]:
    """For each step the steps that may follow it: the next one of its member, and the first one of each later member.

    The last entry holds the steps that a frame may begin with.
    """
    firsts = [i for i, step in enumerate(plan.steps) if step.first]
    following = []
    for i in range(len(plan)):
        own = [i + 1] if i + 1 < len(plan) and not plan.steps[i + 1].first else []
        following.append(own + [j for j in firsts if j > i])
    return [*following, firsts]


def ways(firsts: Sequence[int], steps: int, accuracies: Sequence[float]) -> list[tuple[int, ...]]:
    """For each member the steps from its first to its most accurate, the most accurate member first."""
    ends = [*firsts[1:], steps]
    found = []
    for first, end in zip(firsts, ends, strict=True):
        best = max(range(first, end), key=lambda step: accuracies[step])
        found.append(tuple(range(first, best + 1)))
    return sorted(found, key=lambda way: -accuracies[way[-1]])


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """What the programme decides about, in whole bins of time."""

    following: Sequence[Sequence[int]]
    """The steps that may follow each step; last, those that a frame may begin with."""
    accuracies: Sequence[float]
    """Accuracy of each exit."""
    step_bins: Sequence[int]
    """Time of each step, at least 1."""
    gaps: NDArray[np.float64]
    """Probability of each gap of 0, 1, 2, ... bins, float64 [bins]."""
    pause: float
    """Probability of a gap without end: that of all gaps together is 1."""
    latest: Sequence[int] | None = None
    """For each step the last bin at which it may begin because of a fixed deadline; None without one. A frame's first
    step runs in any case."""


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """The rule that was found."""

    choices: NDArray[np.int64]
    """The step to run for a frame whose last step is i at bin t, or NOTHING: int64 [steps + 1, bins + 1]. The last row
    is for frames without an answer, the last column for all later times."""
    lateness: NDArray[np.float64]
    """What a start so many bins late costs in accuracy, relative to one in time, float64 [longest step + 1]."""
    accuracy: float
    """Mean accuracy at the end of a frame's time, with the share of promptness."""


def solve(problem: Problem, *, sweeps: int, lateness: NDArray[np.float64] | None = None) -> Solution:
    """Find the best rule.

    Args:
        problem: What to decide about.
        sweeps: How often to improve on the cost of starting late. A dozen is near enough.
        lateness: The cost of starting late that an earlier solution found, to go on from.
    """
    longest = max(problem.step_bins)
    late = np.zeros(longest + 1) if lateness is None else _stretched(lateness, longest + 1)
    sweep = _Sweep(problem)
    accuracy = 0.0
    for _ in range(sweeps):
        values = sweep.values(late)
        accuracy = float(values[0])
        # half a step at a time: rules that alternate between late and timely frames would oscillate otherwise
        late = (late + values - accuracy) / 2
    return Solution(sweep.choices(late), late, accuracy)


def _stretched(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """``values`` as a function of the lateness, told in another number of bins."""
    return np.interp(np.linspace(0, 1, count), np.linspace(0, 1, len(values)), values)


class _Sweep:
    """One Bellman update, with all that does not change from one to the next.

    The advantage A[i](t) of a frame at step i over staying with it for ever obeys, for each step j that may follow and
    takes s bins, and with W(t) the weight of all that happens after t:

        A[i](t) = max(0, A[i](t + 1), max_j (a[j] - a[i]) W(t + s) + late_s(t) + A[j](t + s))

    where late_s(t) is the expected cost to the next frame of a step that runs from t to t + s. Waiting, the second
    term, is a running maximum from the right.
    """

    def __init__(self, problem: Problem) -> None:
        self._p = problem
        gaps, bins = problem.gaps, len(problem.gaps)
        self._bins, self._longest = bins, max(problem.step_bins)
        # probability that the next frame comes at bin t or later: after the grid's last bin there is only the pause
        survival = np.full(bins + self._longest + 1, problem.pause)
        survival[:bins] += gaps[::-1].cumsum()[::-1]
        mean = max(1.0, float(np.arange(bins) @ gaps) + problem.pause * bins)
        held = np.zeros_like(survival)
        held[:bins] = survival[1 : bins + 1][::-1].cumsum()[::-1]
        self._weight = survival + PROMPTNESS * held / mean
        self._best = self._reachable()

    def values(self, late: NDArray[np.float64]) -> NDArray[np.float64]:
        """Value of a frame that starts so late, float64 [longest + 1], from the cost of starting late."""
        start = self._start(self._advantages(late), self._overruns(late))[0]
        # frames that a still newer one replaced before the engine was free count nothing, and the newer starts late
        replaced = np.convolve(self._p.gaps, late)[: self._longest + 1]
        values = start[: self._longest + 1].copy()
        values[: len(replaced)] += replaced
        return values

    def choices(self, late: NDArray[np.float64]) -> NDArray[np.int64]:
        """What to do for a frame at each step and time, see :attr:`Solution.choices`."""
        overruns = self._overruns(late)
        advantages = self._advantages(late)
        steps = len(self._p.accuracies)
        chosen = np.full((steps + 1, self._bins + 1), NOTHING, dtype=np.int64)
        for i in range(steps):
            gain, following = self._gains(i, advantages, overruns)
            # worth it now if nothing better comes of waiting; of equals the earlier
            now = (gain > 1e-12) & (gain >= advantages[i][: self._bins] - 1e-12)
            chosen[i, :-1][now] = following[now]
            if self._best[i] > self._p.accuracies[i] and self._p.latest is None:
                chosen[i, -1] = self._toward_best(i)
        chosen[steps, :-1] = self._start(advantages, overruns)[1][: self._bins]
        chosen[steps, -1] = self._toward_best(steps)
        return chosen

    def _reachable(self) -> list[float]:
        """The best accuracy that can be reached from each step, and from the start, in a pause."""
        accuracies = self._p.accuracies
        best = list(accuracies)
        for i in reversed(range(len(accuracies))):
            best[i] = max([accuracies[i], *(best[j] for j in self._p.following[i])])
        return [*best, max(best[j] for j in self._p.following[-1])]

    def _toward_best(self, i: int) -> int:
        """The step that begins the quickest way from ``i`` to the best exit that it can reach."""
        times: dict[int, int] = {}
        for j in reversed(range(len(self._p.accuracies))):
            ways = [times[k] for k in self._p.following[j] if self._best[k] == self._best[j]]
            reached = self._p.accuracies[j] == self._best[j]
            times[j] = self._p.step_bins[j] + (0 if reached else min(ways))
        return min((j for j in self._p.following[i] if self._best[j] == self._best[i]), key=lambda j: times[j])

    def _overruns(self, late: NDArray[np.float64]) -> dict[int, NDArray[np.float64]]:
        """For each step time s, the expected cost of lateness of a step that runs from t to t + s, by t."""
        found: dict[int, NDArray[np.float64]] = {}
        for s in self._p.step_bins:
            if s not in found:
                # sum over gaps g in (t, t + s] of P(g) late(t + s - g)
                whole = np.zeros(self._bins + self._longest + s + 1)
                product = np.convolve(self._p.gaps, late[:s])
                whole[: len(product)] = product
                found[s] = whole[s : s + self._bins + self._longest + 1]
        return found

    def _advantages(self, late: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        overruns = self._overruns(late)
        steps = len(self._p.accuracies)
        advantages: list[NDArray[np.float64]] = [np.empty(0)] * steps
        for i in reversed(range(steps)):
            # past the grid there is only the pause, which has time for everything
            most = self._best[i] - self._p.accuracies[i] if self._p.latest is None else 0.0
            padded = np.full(self._bins + self._longest + 1, self._p.pause * most)
            gain, _ = self._gains(i, advantages, overruns)
            best = np.maximum(gain, 0.0)
            best[-1] = max(best[-1], padded[-1])
            padded[: self._bins] = np.maximum.accumulate(best[::-1])[::-1]
            advantages[i] = padded
        return advantages

    def _gains(
        self, i: int, advantages: Sequence[NDArray[np.float64]], overruns: dict[int, NDArray[np.float64]]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The best gain of running a step after step ``i`` at each bin, and which one, both [bins]."""
        gain = np.full(self._bins, -np.inf)
        which = np.full(self._bins, NOTHING, dtype=np.int64)
        for j in self._p.following[i]:
            s = self._p.step_bins[j]
            of_j = (self._p.accuracies[j] - self._p.accuracies[i]) * self._weight[s : s + self._bins]
            of_j = of_j + overruns[s][: self._bins] + advantages[j][s : s + self._bins]
            if self._p.latest is not None:
                of_j[max(0, self._p.latest[j] + 1) :] = -np.inf
            better = of_j > gain
            gain[better], which[better] = of_j[better], j
        return gain, which

    def _start(
        self, advantages: Sequence[NDArray[np.float64]], overruns: dict[int, NDArray[np.float64]]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Value of a frame that starts at each bin, and its first step, both [bins + longest + 1]."""
        count = self._bins + self._longest + 1
        value, which = np.full(count, -np.inf), np.full(count, NOTHING, dtype=np.int64)
        for j in self._p.following[-1]:
            ends = np.minimum(np.arange(count) + self._p.step_bins[j], count - 1)
            of_j = self._p.accuracies[j] * self._weight[ends] + overruns[self._p.step_bins[j]] + advantages[j][ends]
            if self._p.latest is not None:  # an answer after the deadline counts nothing, but the sooner the better
                s, last = self._p.step_bins[j], max(0, self._p.latest[j] + 1)
                of_j[last:] = overruns[s][last:] - PROMPTNESS * s / self._longest
            better = of_j > value
            value[better], which[better] = of_j[better], j
        return value, which
