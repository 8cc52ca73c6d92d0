"""The planned path: the steps that promise the best answer at the moment when the next frame comes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_ann.nets.contract import Plan
from stream_ann.scheduler.arrivals import Arrivals
from stream_ann.scheduler.memory import GUESS_S
from stream_ann.scheduler.paths import Choice, InOrder, Outlook, Path
from stream_ann.scheduler.planning import NOTHING, Problem, Solution, solve, successors, ways
from stream_ann.scheduler.times import StepTimes

__all__ = ["Planned", "Steady"]

FIRST_SWEEPS, MORE_SWEEPS = 16, 4
"""How often the cost of starting late is improved on: for a new plan, and for one that goes on from an older one."""
LOOK_AFTER = 8
"""After so many gaps, see whether the distribution has moved."""
MOVED = 0.05
"""So much, relatively, must a quantile of the gaps or the time of a step move for the plan to be made anew."""
LATE, LATE_SHARE, LATE_POINTS = 0.1, 0.1, 8
"""A frame may come later than ever by this share of the gap, with so much of a gap's probability."""
QUANTILES = (0.1, 0.5, 0.9)
TIGHT = 0.8
"""A member that takes less than this part of the usual gap is left to the plan, which has time for it."""
BINS, BINS_PER_STEP, MOST_BINS = 128, 8, 512


@dataclass(frozen=True, slots=True, eq=False)
class _Basis:
    """What a plan was made from."""

    seen: int
    gaps_s: tuple[float, ...]
    steps_s: tuple[float, ...]
    deadline_s: float | None

    def has_moved(self, now: _Basis) -> bool:
        return self.deadline_s != now.deadline_s or any(
            abs(a - b) > MOVED * max(a, b)
            for old, new in ((self.gaps_s, now.gaps_s), (self.steps_s, now.steps_s))
            for a, b in zip(old, new, strict=True)
        )


@dataclass(slots=True, eq=False)
class _Table:
    """A plan, ready to be looked up."""

    basis: _Basis
    bin_s: float
    solution: Solution


class Planned(Path):
    """The steps that give the largest expected accuracy at the moment when the next frame comes.

    Mostly a cheap member at once, then straight to the largest one that will be done in time; or idle, where the only
    step left would most probably make the next frame start late for nothing. The first step that a frame runs is
    started at once in any case. After each step the choice is made anew, by the time that has really passed.

    The plan follows from the gaps between the source's frames, the times of the steps and the accuracies of the exits,
    see :mod:`stream_ann.scheduler.planning`; it is made again when one of them has moved. While fewer than
    :data:`~stream_ann.scheduler.arrivals.KNOWN` gaps have been seen, steps run in order. So they do where no newer
    frame can come.
    """

    def __init__(self, plan: Plan, accuracies: Sequence[float | None] = ()) -> None:
        super().__init__(plan, accuracies)
        self._in_order = InOrder(plan, self._accuracies)
        self._following = successors(plan)
        self._tables: dict[int, _Table] = {}

    def for_source(self) -> Planned:
        """A path with plans of its own."""
        return Planned(self._plan, self._accuracies)

    def choose(self, outlook: Outlook) -> Choice:
        """The step that is worth most now, or how long to wait for one that will be."""
        arrivals = outlook.arrivals
        if arrivals is None or not arrivals.known:
            return self._in_order.choose(outlook)
        table = self._table(outlook, arrivals)
        choices = table.solution.choices[len(self._plan) if outlook.last is None else outlook.last]
        now = min(round(outlook.elapsed_s / table.bin_s), len(choices) - 1)
        if choices[now] != NOTHING:
            return Choice(int(choices[now]))
        later = np.flatnonzero(choices[now:] != NOTHING)
        if not later.size:
            return Choice(None)
        return Choice(None, max(table.bin_s, (now + int(later[0])) * table.bin_s - outlook.elapsed_s))

    def _table(self, outlook: Outlook, arrivals: Arrivals) -> _Table:
        # powers of two, so that few plans serve any number of frames in the works
        sharers = 1 << (max(1, outlook.sharers) - 1).bit_length()
        old = self._tables.get(sharers)
        fresh = old is not None and (outlook.last is not None or arrivals.seen - old.basis.seen < LOOK_AFTER)
        if old is not None and fresh and outlook.deadline_s == old.basis.deadline_s:
            return old
        basis = _Basis(
            arrivals.seen,
            tuple(arrivals.quantile_s(q) for q in QUANTILES),
            tuple(sharers * outlook.times.careful_s(i) for i in range(len(self._plan))),
            outlook.deadline_s,
        )
        if old is not None and not old.basis.has_moved(basis):
            old.basis = _Basis(basis.seen, old.basis.gaps_s, old.basis.steps_s, old.basis.deadline_s)
            return old
        table = self._made(basis, arrivals, outlook.times, sharers, old)
        self._tables[sharers] = table
        return table

    def _made(self, basis: _Basis, arrivals: Arrivals, times: StepTimes, sharers: int, old: _Table | None) -> _Table:
        # a frame needs no more time than all steps take, after a start that is as late as can be
        longest_s = (1 + LATE) * arrivals.gaps_s[-1]
        horizon_s = min(sum(basis.steps_s) + max(basis.steps_s), longest_s)
        count = min(MOST_BINS, BINS + BINS_PER_STEP * len(self._plan))
        bin_s = max(horizon_s, 1e-6) / (count - 1)
        histogram = _histogram(np.array(arrivals.gaps_s), bin_s, count)
        latest = None
        if basis.deadline_s is not None:
            latest = [int((basis.deadline_s - sharers * times.p95_s(i)) / bin_s) for i in range(len(self._plan))]
        problem = Problem(
            following=self._following,
            accuracies=self._accuracies,
            # a step that is longer than any gap is hopeless, however much longer it is
            step_bins=[min(2 * count, max(1, round(s / bin_s))) for s in basis.steps_s],
            gaps=histogram,
            pause=1.0 - float(histogram.sum()),
            latest=latest,
        )
        sweeps, lateness = (FIRST_SWEEPS, None) if old is None else (MORE_SWEEPS, old.solution.lateness)
        return _Table(basis, bin_s, solve(problem, sweeps=sweeps, lateness=lateness))


def _histogram(gaps_s: NDArray[np.float64], bin_s: float, count: int) -> NDArray[np.float64]:
    """Probability of each gap of 0, 1, ... bins, float64 [count]; what is missing to 1 are pauses.

    A gap that is a little longer than any seen so far is more probable than a pause: without that, a long step would
    begin at the very moment at which the frame is to be expected.
    """
    weight = np.repeat([1 - LATE_SHARE, LATE_SHARE / LATE_POINTS], [len(gaps_s), LATE_POINTS * len(gaps_s)])
    late = np.linspace(0, LATE, LATE_POINTS + 1)[1:]
    spread_s = np.concatenate([gaps_s, np.outer(1 + late, gaps_s).ravel()])
    bins = (spread_s / bin_s + 1e-9).astype(int)
    near = bins < count
    # one more gap, without end, is always reckoned with
    return np.bincount(bins[near], weights=weight[near], minlength=count) / (len(gaps_s) + 1)


class Steady(Planned):
    """As planned, but where frames come faster than good exits can be reached, the best one is run to its end.

    What a camera sees stays the same for a while, so that a good answer about a frame that is not the newest any more
    is worth more than a poor one about the newest. Where that holds, by the times of the steps, the rate of the frames
    and how long scenes have lasted so far, a frame goes straight through the member that is worth most, whatever comes
    meanwhile. Newer frames then have no answer of their own, and the first answer comes later: that is the price.
    """

    scenes = "watched"

    def __init__(self, plan: Plan, accuracies: Sequence[float | None] = ()) -> None:
        super().__init__(plan, accuracies)
        self._ways = ways(self._following[-1], len(plan), self._accuracies)
        self._way: tuple[int, ...] = ()

    def for_source(self) -> Steady:
        """A path with plans of its own."""
        return Steady(self._plan, self._accuracies)

    def choose(self, outlook: Outlook) -> Choice:
        """The next step of the member chosen when the frame began, and from then on as planned."""
        if outlook.last is None:
            self._way = self._chosen(outlook)
            if self._way:
                return Choice(self._way[0])
        elif self.insists(outlook.last):
            return Choice(outlook.last + 1)
        return super().choose(outlook)

    def insists(self, last: int) -> bool:
        """Whether ``last`` is a step on the way to the exit that was chosen."""
        return last in self._way[:-1]

    def _chosen(self, outlook: Outlook) -> tuple[int, ...]:
        """The steps of the member to run to its end; none where the plan is worth more."""
        arrivals = outlook.arrivals
        gap_s = None if arrivals is None else arrivals.mean_s
        if arrivals is None or gap_s is None or not arrivals.known or outlook.deadline_s is not None:
            return ()
        best = self._table(outlook, arrivals).solution.accuracy
        # how long a label lasts on average: the chance that an answer still holds falls to 1 / e in that time
        label_s = GUESS_S if outlook.scene is None else outlook.scene.dwell_s
        chosen: tuple[int, ...] = ()
        for way in self._ways:
            way_s = outlook.sharers * sum(outlook.times.typical_s(step) for step in way)
            # a frame waits half a gap for the engine; its answer is shown from its end for as long as it took
            age_s = 1.5 * way_s + gap_s / 2 - gap_s
            worth = self._accuracies[way[-1]] * math.exp(-age_s / label_s)
            if way_s > TIGHT * gap_s and worth > best:
                best, chosen = worth, way
        return chosen
