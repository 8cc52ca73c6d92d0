"""Refinement of key frames behind the frames that come.

When frames come faster than the deep exits can be reached, each is answered shallowly, and what time is left goes into
the deep exits of one of them, the key frame. Its answer is then joined to those of the frames that follow, for less and
less as it ages, and dropped when the scene changes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream_ann.clock import Clock
from stream_ann.errors import UsageError
from stream_ann.frames import Frame, Prediction
from stream_ann.labels import Labelling
from stream_ann.scheduler.paths import Choice, Outlook, exit_values
from stream_ann.scheduler.planning import successors
from stream_ann.scheduler.running import Runner
from stream_ann.scheduler.sources import Job

__all__ = ["Background", "scene_change", "sketch"]

LANE = 1
"""The key frame's lane: on devices that have priorities, of a lower one than the frames that come."""
SHALLOW = 0.5
"""While a key frame is refined, frames run on beyond their first exit only in this first part of the usual gap."""
SKETCH_PX, BLOCKS = 64, 8


class Background:
    """Refines a key frame beside the frames that come, and joins its answer to theirs.

    On an engine whose lanes run at the same time, its steps are submitted to a lane of their own and collected when
    they are done. On others they run in the time between frames, one by one, and only where the next frame will still
    have its first answer before its successor comes. Where a key frame is not needed, because the deepest exit is
    reached between two frames anyway, or could not be refined in the time that is left, frames are refined as ever.

    Args:
        accuracies: Accuracy of each exit, None where it is not known.
        half_life_s: After so many seconds a deep answer counts half as much beside a frame's own.
        scene: A change of the picture from which on the scene is another, see :func:`scene_change`.

    Raises:
        UsageError: If the half-life is not positive.
    """

    def __init__(
        self, accuracies: tuple[float | None, ...] = (), *, half_life_s: float = 1.0, scene: float = 0.1
    ) -> None:
        if not half_life_s > 0:
            raise UsageError(f"the half-life must be more than 0 s, got {half_life_s:g}")
        self._given = accuracies
        self._half_life_s = half_life_s
        self._scene = scene
        self._sketch: NDArray[np.float32] | None = None
        self._frame: Frame | None = None
        self._gap_s: float | None = None
        self._target: tuple[int, ...] = ()
        self._key: Frame | None = None
        self._key_sketch: NDArray[np.float32] | None = None
        self._steps: list[int] = []
        self._submitted = False
        self._deep: Prediction | None = None
        self._deep_frame: Frame | None = None
        self._deep_sketch: NDArray[np.float32] | None = None
        self.refined = 0
        """How many key frames were refined to the end so far."""

    def attach(self, runner: Runner, clock: Clock) -> None:
        """Say what runs the steps, and what tells the time. Called by the scheduler."""
        self._runner, self._clock = runner, clock
        self._accuracies = exit_values(runner.plan, self._given)
        self._ways = _ways(successors(runner.plan)[-1], len(runner.plan), self._accuracies)

    @property
    def busy(self) -> bool:
        """Whether a step of the key frame runs at this moment."""
        return self._submitted

    def see(self, frame: Frame) -> None:
        """Look at a frame that has just been taken; a change of scene ends what belonged to the old one."""
        self._frame, self._sketch = frame, sketch(frame.image)
        if self._deep_sketch is not None and scene_change(self._deep_sketch, self._sketch) > self._scene:
            self._deep = self._deep_frame = self._deep_sketch = None
        if self._key_sketch is not None and scene_change(self._key_sketch, self._sketch) > self._scene:
            self._drop_key()

    def limited(self, job: Job, outlook: Outlook, choice: Choice) -> Choice:
        """What a frame does next, where its time may be put to better use behind it.

        Args:
            job: The frame in the works; it has had its first exit.
            outlook: What its path looked at.
            choice: What that chose.
        """
        self._plan_ahead(outlook)
        if not self._target or self._gap_s is None or choice.step is None:
            return choice
        end_s = outlook.elapsed_s + outlook.times.typical_s(choice.step)
        calm_s = 2 * self._gap_s - outlook.elapsed_s
        if end_s <= SHALLOW * self._gap_s or calm_s <= 0:  # later on the camera has paused
            return choice
        if self._key is None and self._deep_frame is not job.frame:
            self._key, self._key_sketch, self._steps = job.frame, self._sketch, list(self._target)
            self._runner.start(job.frame.image, LANE)
        return Choice(None, calm_s)

    def advance(self, labelling: Labelling) -> bool:
        """Run the key frame's next step, if there is one and time for it; False where nothing was done."""
        if self._key is None:
            return False
        step, now_s = self._steps[0], self._clock.now_s()
        if self._runner.concurrent:
            if not self._submitted:
                self._runner.submit(step, LANE)
                self._submitted = True
            answer = self._runner.collect(LANE, timeout_s=0.0)
            if answer is None:
                return False
            self._submitted = False
            probabilities = answer.probabilities
        else:
            if self._gap_s is None or self._frame is None:
                return False
            # the next frame may have to wait for the step, but must have its first answer before its successor comes
            end_s = now_s + self._runner.times.p95_s(step) + self._first_s
            if end_s > self._frame.arrival_s + 2 * self._gap_s:
                return False
            probabilities = self._runner.run(step, LANE)
        del self._steps[0]
        if not self._steps:
            self._deep = Prediction(step, labelling.group(probabilities), self._clock.now_s())
            self._deep_frame, self._deep_sketch = self._key, self._key_sketch
            self.refined += 1
            self._drop_key()
        return True

    def joined(self, frame: Frame, answer: Prediction) -> tuple[Prediction, int | None]:
        """A frame's answer joined with the deep one of the key frame, and the number of that frame.

        The deep answer counts 2 to the power of -age / half-life, the frame's own the rest. An answer that is no less
        accurate stays as it is.
        """
        deep, key = self._deep, self._deep_frame
        if deep is None or key is None or self._accuracies[answer.exit] >= self._accuracies[deep.exit]:
            return answer, None
        share = np.float32(0.5 ** (max(0.0, frame.arrival_s - key.arrival_s) / self._half_life_s))
        mixed = share * deep.probabilities + (1 - share) * answer.probabilities
        return Prediction(deep.exit, mixed, answer.done_s), key.index

    def _drop_key(self) -> None:
        self._key = self._key_sketch = None
        self._steps = []
        # an abandoned step is forgotten by the lane when the next key frame starts
        self._submitted = False

    @property
    def _first_s(self) -> float:
        times = self._runner.times
        return min(times.p95_s(way[0]) for way in self._ways)

    def _plan_ahead(self, outlook: Outlook) -> None:
        """Choose the steps that a key frame goes through; none where it isn't needed or can't be done."""
        self._target, self._gap_s = (), None
        arrivals, times = outlook.arrivals, outlook.times
        if arrivals is None or not arrivals.known:
            return
        self._gap_s = arrivals.mean_s
        if self._gap_s is None:
            return
        first_s = self._first_s
        best = self._ways[0]
        if outlook.last == best[-1] or first_s + sum(times.p95_s(step) for step in best) <= self._gap_s:
            return
        left_s = (2 - SHALLOW) * self._gap_s - first_s
        shallow = min(self._accuracies[way[0]] for way in self._ways)
        for way in self._ways:
            fits = self._runner.concurrent or all(times.p95_s(step) <= left_s for step in way)
            if fits and self._accuracies[way[-1]] > shallow:
                self._target = way
                return


def _ways(firsts: list[int], steps: int, accuracies: tuple[float, ...]) -> list[tuple[int, ...]]:
    """For each member the steps from its first to its most accurate, the most accurate member first."""
    ends = [*firsts[1:], steps]
    ways = []
    for first, end in zip(firsts, ends, strict=True):
        best = max(range(first, end), key=lambda step: accuracies[step])
        ways.append(tuple(range(first, best + 1)))
    return sorted(ways, key=lambda way: -accuracies[way[-1]])


def sketch(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A picture in 8 x 8 blocks, float32 [8, 8, 3], 0 to 1: the means of a sparse grid of its pixels.

    Takes some 0.1 ms, whatever the size of the picture.

    Args:
        image: uint8 [H, W, 3] RGB.
    """
    height, width = image.shape[:2]
    rows = np.linspace(0, height - 1, SKETCH_PX).astype(np.intp)
    columns = np.linspace(0, width - 1, SKETCH_PX).astype(np.intp)
    block = SKETCH_PX // BLOCKS
    grid = image[np.ix_(rows, columns)].reshape(BLOCKS, block, BLOCKS, block, 3)
    return np.asarray(grid.mean(axis=(1, 3), dtype=np.float32) / 255, dtype=np.float32)


def scene_change(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """How much two sketches differ: mean absolute difference, 0 to 1."""
    return float(np.abs(before - after).mean())
