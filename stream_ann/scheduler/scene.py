"""The scene path: a crude answer at once after a cut, and then better ones from all frames of the scene."""

from __future__ import annotations

from collections.abc import Sequence

from stream_ann.nets.contract import Plan
from stream_ann.scheduler.arrivals import Arrivals
from stream_ann.scheduler.memory import SceneMemory
from stream_ann.scheduler.paths import Choice, InOrder, Outlook, Path
from stream_ann.scheduler.planning import successors, ways

__all__ = ["Scene"]

SURE = 0.9
"""A member begins where it will be done before the next frame with this probability."""
MARGIN = 0.03
"""This part of the usual gap is left to what lies between the steps."""
LATE_SHARE = 0.02
"""For this part of the time at most, members run once more that are not done before the next frame."""
NEARLY, SOON_SHARE = 0.9, 0.06
"""Members this good beside the best, and done in this part of a scene, have their say soon after a cut: several
networks that err differently are better together than the best of them."""
SHORTEST_WAIT_S = 1e-6
LONGEST_WAIT_S = 0.25
"""After so long at most it is asked again whether there is something to do."""


class Scene(Path):
    """Gathers answers about a scene from all its frames.

    As long as a scene goes on, what its earlier frames have said still holds: it is remembered and joined to the answer
    of each new frame, see :class:`~stream_ann.scheduler.memory.SceneMemory`. So a frame need not be taken through the
    deepest exits to have a good answer, and different frames had better go through different members.

    - Each frame goes through the cheapest member first, if there is time for more, and then through those that are
      done before the next frame in all likelihood: the one first whose answer is wanted most, because the exit is
      good and has not seen much of the scene lately.
    - After a cut, the best member that is worth its time runs to its end right after the first answer, though newer
      frames come meanwhile, which then may have no answer of their own. So do then, on the frames that follow and after
      the first answer of each, the other members that are nearly as good.
    - So do later on the members that are never done in time, for :data:`LATE_SHARE` of the time.

    While fewer than :data:`~stream_ann.scheduler.arrivals.KNOWN` gaps have been seen, and where no newer frame can
    come, steps run in order.
    """

    scenes = "remembered"

    def __init__(self, plan: Plan, accuracies: Sequence[float | None] = ()) -> None:
        super().__init__(plan, accuracies)
        self._in_order = InOrder(plan, self._accuracies)
        firsts = successors(plan)[-1]
        self._ways = ways(firsts, len(plan), self._accuracies)
        self._begins = [max(first for first in firsts if first <= step) for step in range(len(plan))]
        self._insists = False

    def for_source(self) -> Scene:
        """A path of its own."""
        return Scene(self._plan, self._accuracies)

    def insists(self, last: int) -> bool:
        """Whether the step that was chosen is to run though a newer frame waits."""
        return self._insists

    def choose(self, outlook: Outlook) -> Choice:
        """The next step on the way to the exit that is wanted most, or how long to wait for a pause of the camera."""
        self._insists = False
        arrivals, memory = outlook.arrivals, outlook.scene
        if arrivals is None or not arrivals.known or not isinstance(memory, SceneMemory):
            return self._in_order.choose(outlook)
        crude = min(self._begins, key=outlook.times.typical_s)
        if outlook.last is None and not len(memory):
            return Choice(crude)
        late = self._late(outlook, arrivals, memory, crude)
        if late:
            self._insists = True
            return Choice(late[0])
        left = self._left(outlook)
        fitting = [way for way in left if self._fits(outlook, arrivals, way)]
        if fitting:
            wanted = max(fitting, key=lambda way: self._need(memory, way[-1], outlook.now_s))
            if outlook.last is None and wanted[0] != crude and self._fits(outlook, arrivals, (crude, *wanted)):
                return Choice(crude)
            return Choice(wanted[0])
        if outlook.last is None:
            return Choice(crude)
        pause_s = arrivals.gaps_s[-1] - outlook.elapsed_s
        if pause_s < 0 or not left:
            return Choice(None)
        return Choice(None, min(LONGEST_WAIT_S, pause_s + SHORTEST_WAIT_S))

    def gain(self, outlook: Outlook, step: int) -> float:
        """How much the exit is wanted, times the chance that it is done in time."""
        if not isinstance(outlook.scene, SceneMemory):
            return super().gain(outlook, step)
        chance = 1.0
        if outlook.arrivals is not None:
            chance = outlook.arrivals.chance(outlook.elapsed_s, outlook.times.typical_s(step))
        return chance * self._need(outlook.scene, step, outlook.now_s)

    def _need(self, memory: SceneMemory, exit_: int, now_s: float) -> float:
        """How much an exit's answer is wanted: for its accuracy, and less where it has seen much of the scene."""
        return memory.values[exit_] / (1 + memory.looks(exit_, now_s))

    def _left(self, outlook: Outlook) -> list[tuple[int, ...]]:
        """The ways to each exit that the frame can still reach: in the member begun last, or one that was not begun."""
        begun = {self._begins[exit_] for exit_ in outlook.exits}
        if outlook.last is not None:
            begun.add(self._begins[outlook.last])
        found = []
        for step, begin in enumerate(self._begins):
            if begin not in begun:
                found.append(tuple(range(begin, step + 1)))
            elif outlook.last is not None and begin == self._begins[outlook.last] and step > outlook.last:
                found.append(tuple(range(outlook.last + 1, step + 1)))
        return found

    def _fits(self, outlook: Outlook, arrivals: Arrivals, way: Sequence[int]) -> bool:
        """Whether all steps of a way are in all likelihood done before the next frame comes, and by the deadline."""
        way_s = self._careful_s(outlook, way)
        if outlook.deadline_s is not None and outlook.elapsed_s + way_s > outlook.deadline_s:
            return False
        return arrivals.chance(outlook.elapsed_s, way_s + MARGIN * (arrivals.mean_s or 0.0)) >= SURE

    def _late(self, outlook: Outlook, arrivals: Arrivals, memory: SceneMemory, crude: int) -> tuple[int, ...]:
        """The steps to run now though newer frames may come meanwhile; none where that is not worth it."""
        if outlook.deadline_s is not None:
            return ()
        if not len(memory):
            way = max(self._ways, key=lambda way: self._worth(outlook, memory, way, crude))
            if self._worth(outlook, memory, way, crude) <= memory.values[crude]:
                return ()
            soon = True
        else:
            late = [way for way in self._ways if way[-1] != crude and self._is_late(outlook, arrivals, memory, way)]
            unseen = [way for way in late if self._is_wanted_soon(outlook, memory, way)]
            soon = bool(unseen)
            if soon and outlook.last is None:  # the frame's own crude answer first
                return ()
            if not late:
                return ()
            way = max(unseen or late, key=lambda way: self._need(memory, way[-1], outlook.now_s))
            ages_s = [age_s for one in late if (age_s := memory.age_s(one[-1], outlook.now_s)) is not None]
            if not soon and ages_s and LATE_SHARE * min(ages_s) < self._way_s(outlook, way):
                return ()
        if outlook.last is None:
            return way
        if outlook.last in way:
            begun = soon or outlook.exits[0] == way[0]
            return way[way.index(outlook.last) + 1 :] if begun else ()
        return way if soon and way[-1] not in outlook.exits else ()

    def _is_wanted_soon(self, outlook: Outlook, memory: SceneMemory, way: Sequence[int]) -> bool:
        """Whether a member is as good as any, has said nothing about the scene yet, and costs little of its time."""
        good = memory.values[way[-1]] >= NEARLY * max(memory.values)
        unsaid = memory.age_s(way[-1], outlook.now_s) is None
        return good and unsaid and self._way_s(outlook, way) <= SOON_SHARE * memory.dwell_s

    def _is_late(self, outlook: Outlook, arrivals: Arrivals, memory: SceneMemory, way: Sequence[int]) -> bool:
        """Whether a member is not done in time even if a frame goes through it alone, and not too slow altogether."""
        if self._way_s(outlook, way) > memory.dwell_s / 2:
            return False
        return arrivals.chance(0.0, self._careful_s(outlook, way) + MARGIN * (arrivals.mean_s or 0.0)) < SURE

    def _worth(self, outlook: Outlook, memory: SceneMemory, way: Sequence[int], crude: int) -> float:
        """Mean accuracy over a scene whose frames have the crude answer until this member is done."""
        share = min(1.0, self._way_s(outlook, way) / memory.dwell_s)
        return (1 - share) * memory.values[way[-1]] + share * memory.values[crude]

    def _careful_s(self, outlook: Outlook, way: Sequence[int]) -> float:
        """How long a way takes if one of its steps takes as long as the slowest one in twenty."""
        times = outlook.times
        overrun_s = max(times.p95_s(step) - times.typical_s(step) for step in way)
        return self._way_s(outlook, way) + outlook.sharers * max(0.0, overrun_s)

    def _way_s(self, outlook: Outlook, way: Sequence[int]) -> float:
        return outlook.sharers * sum(outlook.times.typical_s(step) for step in way)
