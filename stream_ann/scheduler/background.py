"""Refinement of key frames behind the frames that come.

When frames come faster than the deep exits can be reached, each is answered shallowly, and what time is left goes into
the deep exits of one of them, the key frame. Its answer is then joined to those of the frames that follow, for less and
less as it ages, and dropped when the scene changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stream_ann.clock import Clock
from stream_ann.errors import UsageError
from stream_ann.frames import Frame, Prediction
from stream_ann.labels import Labelling
from stream_ann.scheduler.memory import SceneWatch
from stream_ann.scheduler.paths import Choice, Outlook, exit_values
from stream_ann.scheduler.planning import successors, ways
from stream_ann.scheduler.running import Runner

__all__ = ["Background", "Deep"]

LANE = 1
"""The key frame's lane: on devices that have priorities, of a lower one than the frames that come."""
SHALLOW = 0.5
"""While a key frame is refined, frames run on beyond their first exit only in this first part of the usual gap."""


@dataclass(frozen=True, slots=True, eq=False)
class Deep:
    """The deep answer of a key frame."""

    frame: Frame
    prediction: Prediction


@dataclass(slots=True, eq=False)
class _Key:
    """A key frame in the works."""

    frame: Frame
    steps: deque[int]
    begun: bool = False
    submitted: bool = False


class Background:
    """Refines a key frame beside the frames that come, and joins its answer to theirs.

    On an engine whose lanes run at the same time, its steps are submitted to a lane of their own and collected when
    they are done. On others they run in the time between frames, one by one, and only where the next frame will still
    have its first answer before its successor comes. Where a key frame is not needed, because the deepest exit is
    reached between two frames anyway, or could not be refined in the time that is left, frames are refined as ever.

    Args:
        accuracies: Accuracy of each exit, None where it is not known.
        half_life_s: After so many seconds a deep answer counts half as much beside a frame's own.

    Raises:
        UsageError: If the half-life is not positive.
    """

    def __init__(self, accuracies: Sequence[float | None] = (), *, half_life_s: float = 1.0) -> None:
        if not half_life_s > 0:
            raise UsageError(f"the half-life must be more than 0 s, got {half_life_s:g}")
        self._given = accuracies
        self._half_life_s = half_life_s
        self._watch = SceneWatch()
        self._frame: Frame | None = None
        self._gap_s: float | None = None
        self._key: _Key | None = None
        self._deep: Deep | None = None
        self._is_new = False
        self.refined = 0
        """How many key frames have been refined to the end."""

    def attach(self, runner: Runner, clock: Clock) -> None:
        """Say what runs the steps, and what tells the time. Called by the scheduler."""
        self._runner, self._clock = runner, clock
        self._accuracies = exit_values(runner.plan, self._given)
        self._following = successors(runner.plan)
        self._ways = ways(self._following[-1], len(runner.plan), self._accuracies)

    @property
    def busy(self) -> bool:
        """Whether a submitted step of the key frame runs at this moment."""
        return self._key is not None and self._key.submitted

    def see(self, frame: Frame) -> None:
        """Look at a frame that has just been taken; a change of scene ends what belonged to the old one."""
        self._frame = frame
        if self._watch.see(frame):
            self._deep = self._key = None  # the lane forgets its steps when the next key frame starts

    def limited(self, frame: Frame, outlook: Outlook, choice: Choice) -> Choice:
        """What a frame does next, where its time may be put to better use behind it.

        Args:
            frame: The frame in the works; it has had its first exit.
            outlook: What its path looked at.
            choice: What that chose.
        """
        target = self._target(outlook)
        calm_s = 0.0 if self._gap_s is None else 2 * self._gap_s - outlook.elapsed_s  # later on the camera has paused
        if self._deep is not None and self._deep.frame is frame:
            return self._beyond(self._deep.prediction.exit, outlook, choice, calm_s)
        ends = choice.step is None and choice.wait_s <= 0
        if not target or self._gap_s is None or calm_s <= 0 or ends:
            return choice
        if choice.step is not None:
            if outlook.elapsed_s + outlook.times.typical_s(choice.step) <= SHALLOW * self._gap_s:
                return choice
        else:
            calm_s = min(calm_s, choice.wait_s)
        if self._key is None or (self._key.frame is not frame and not self._key.begun):
            self._key = _Key(frame, deque(target))
            self._runner.start(frame.image, LANE)
        return Choice(None, calm_s)

    def _beyond(self, deep: int, outlook: Outlook, choice: Choice, calm_s: float) -> Choice:
        """What a frame does next that has been its own key frame: nothing, or in a pause what lies beyond that."""
        if deep == self._ways[0][-1]:
            return Choice(None)
        if calm_s > 0:
            return Choice(None, calm_s)
        last = outlook.last if outlook.last is not None else 0
        if choice.step is None or choice.step > deep:
            return choice
        return Choice(next((step for step in self._following[last] if step > deep), None))

    def advance(self, labelling: Labelling) -> bool:
        """Run the key frame's next step, if there is one and time for it; False where nothing was done."""
        key = self._key
        if key is None:
            return False
        step = key.steps[0]
        if self._runner.concurrent:
            key.begun = True
            if not key.submitted:
                self._runner.submit(step, LANE)
                key.submitted = True
            answer = self._runner.collect(LANE, timeout_s=0.0)
            if answer is None:
                return False
            key.submitted = False
            probabilities = answer.probabilities
        elif self._leaves_time(step):
            key.begun = True
            probabilities = self._runner.run(step, LANE)
        else:
            return False
        key.steps.popleft()
        if not key.steps:
            prediction = Prediction(step, labelling.group(probabilities), self._clock.now_s())
            self._deep, self._key, self._is_new = Deep(key.frame, prediction), None, True
            self.refined += 1
        return True

    def news(self) -> Deep | None:
        """The deep answer, if it is new since this was asked last."""
        new, self._is_new = self._is_new, False
        return self._deep if new else None

    def joined(self, frame: Frame, answer: Prediction) -> tuple[Prediction, int | None, float]:
        """A frame's answer joined with the deep one of the key frame, the number of that frame, and its share.

        The deep answer counts 2 to the power of -age / half-life, the frame's own the rest. An answer that is no less
        accurate stays as it is.
        """
        deep = self._deep
        if deep is None or self._accuracies[answer.exit] >= self._accuracies[deep.prediction.exit]:
            return answer, None, 0.0
        age_s = max(0.0, frame.arrival_s - deep.frame.arrival_s)
        share = np.float32(0.5 ** (age_s / self._half_life_s))
        mixed = share * deep.prediction.probabilities + (1 - share) * answer.probabilities
        return Prediction(deep.prediction.exit, mixed, answer.done_s), deep.frame.index, float(share)

    def _leaves_time(self, step: int) -> bool:
        """Whether the frame that comes next, even if it has to wait, has its first answer before its successor."""
        if self._gap_s is None or self._frame is None:
            return False
        end_s = self._clock.now_s() + self._runner.times.p95_s(step) + self._first_s
        return end_s <= self._frame.arrival_s + 2 * self._gap_s

    @property
    def _first_s(self) -> float:
        return min(self._runner.times.p95_s(way[0]) for way in self._ways)

    def _target(self, outlook: Outlook) -> tuple[int, ...]:
        """The steps that a key frame goes through; none where it isn't needed or can't be done."""
        arrivals, times = outlook.arrivals, outlook.times
        self._gap_s = arrivals.mean_s if arrivals is not None and arrivals.known else None
        if self._gap_s is None:
            return ()
        first_s, best = self._first_s, self._ways[0]
        if first_s + sum(times.p95_s(step) for step in best) <= self._gap_s:
            return ()
        left_s = (2 - SHALLOW) * self._gap_s - first_s
        shallow = min(self._accuracies[way[0]] for way in self._ways)
        for way in self._ways:
            fits = self._runner.concurrent or all(times.p95_s(step) <= left_s for step in way)
            if fits and self._accuracies[way[-1]] > shallow:
                return way
        return ()
