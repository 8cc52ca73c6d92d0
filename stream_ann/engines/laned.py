"""What the engines on the CPU share: several frames held in lanes, whose steps run one after another."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stream_ann.engines.opening import time_steps, time_together
from stream_ann.engines.times import BatchTimes
from stream_ann.lanes import Answer, check_different
from stream_ann.nets.contract import Plan, State

__all__ = ["Lane", "LanedEngine"]


@dataclass(slots=True)
class Lane:
    """One frame in the works."""

    picture: NDArray[np.uint8] | Tensor | None = None
    """The picture, uint8 [H, W, 3]."""
    inputs: dict[int, Tensor] = field(default_factory=dict)
    """The picture as the input of each resolution that was needed so far."""
    state: State = ()
    """What the last step left, where the engine keeps it in torch tensors."""
    last_step: int | None = None
    """The step that ran last."""
    answers: deque[Answer] = field(default_factory=deque)
    """Answers of submitted steps that nobody has collected so far."""

    def start(self, picture: NDArray[np.uint8] | Tensor | None) -> None:
        """Forget everything, and hold this picture or none."""
        self.picture = picture
        self.inputs.clear()
        self.state = ()
        self.last_step = None
        self.answers.clear()


class LanedEngine(ABC):
    """A :class:`~stream_ann.lanes.LaneEngine` whose steps run one after another, in the thread that asks for them.

    Args:
        plan: The steps.
        lanes: How many frames may be in the works at once.
    """

    name: str
    concurrent = False

    def __init__(self, plan: Plan, lanes: int) -> None:
        if lanes < 1:
            raise ValueError(f"lanes must be at least 1, got {lanes}")
        self._plan = plan
        self._lanes = [Lane() for _ in range(lanes)]
        self._times = BatchTimes(len(plan))
        self._step_s: tuple[float, ...] = ()

    @property
    def plan(self) -> Plan:
        """The steps that it runs."""
        return self._plan

    @property
    @abstractmethod
    def description(self) -> str:
        """See :attr:`LaneEngine.description <stream_ann.lanes.LaneEngine.description>`."""

    @property
    def step_s(self) -> Sequence[float]:
        """Median time of each step at opening, in seconds, with its share of the preprocessing."""
        return self._step_s

    @property
    def lanes(self) -> int:
        """How many frames may be in the works at once."""
        return len(self._lanes)

    def start(self, image: NDArray[np.uint8], *, lane: int = 0) -> None:
        """Take a new picture, uint8 [H, W, 3] RGB, into a lane, and forget the one before.

        The picture must not change until the lane's next call of this.
        """
        self._lanes[lane].start(self._taken_in(image))

    def run(self, step: int, *, lane: int = 0) -> NDArray[np.float32]:
        """Run one step and wait for its answer.

        Args:
            step: The first step of a member, or the step after the one that ran last in the lane.
            lane: The lane.

        Returns:
            The exit's probabilities, float32 [classes].

        Raises:
            ValueError: If the step cannot be run now.
            DeviceError: If the device fails.
        """
        probabilities: NDArray[np.float32] = self._checked(step, (lane,))[0]
        return probabilities

    def submit(self, step: int, *, lane: int = 0) -> None:
        """Run one step right here, and keep its answer for :meth:`collect`."""
        begun_s = time.perf_counter()
        probabilities = self.run(step, lane=lane)
        self._lanes[lane].answers.append(Answer(probabilities, time.perf_counter() - begun_s))

    def collect(self, lane: int = 0, *, timeout_s: float | None = None) -> Answer | None:
        """The answer of the lane's oldest submitted step; it is there at once.

        Raises:
            ValueError: If there is none.
        """
        answers = self._lanes[lane].answers
        if not answers:
            raise ValueError(f"no submitted step of lane {lane} is left to collect")
        return answers.popleft()

    def run_together(self, step: int, lanes: Sequence[int]) -> NDArray[np.float32]:
        """Run one step of several lanes as one batch.

        Args:
            step: The step, which must be possible in each lane.
            lanes: Different lanes.

        Returns:
            The exit's probabilities for each, float32 [len(lanes), classes].

        Raises:
            ValueError: If the step cannot be run now in one of them, or a lane occurs twice.
            DeviceError: If the device fails.
        """
        check_different(lanes)
        begun_s = time.perf_counter()
        probabilities = self._checked(step, lanes)
        self._times.add(step, len(lanes), time.perf_counter() - begun_s)
        return probabilities

    def together_s(self, step: int, count: int) -> float | None:
        """Seconds that :meth:`run_together` takes for ``count`` lanes: measured at opening and whenever it runs."""
        return self._times.estimate_s(step, count)

    def close(self) -> None:
        """Let go of the device's memory. The engine cannot be used afterwards; may be called more than once."""
        for lane in self._lanes:
            lane.start(None)

    def _time(self, runs: int) -> None:
        """Warm up and time every step; to be called at the end of opening."""
        self._step_s = time_steps(self, runs)
        time_together(self, self._times, self._step_s)
        for lane in self._lanes:
            lane.start(None)

    def _checked(self, step: int, lanes: Sequence[int]) -> NDArray[np.float32]:
        info = self._plan.steps[step]
        for lane in lanes:
            last = self._lanes[lane].last_step
            if not info.first and last != step - 1:
                raise ValueError(f"step {step} needs the state of step {step - 1}, the last one run was {last}")
            if self._lanes[lane].picture is None:
                raise ValueError("no picture yet: call start() first")
        probabilities = self._run(step, lanes)
        for lane in lanes:
            self._lanes[lane].last_step = step
        return probabilities

    def _taken_in(self, image: NDArray[np.uint8]) -> NDArray[np.uint8] | Tensor:
        """A picture as the lane holds it."""
        return image

    @abstractmethod
    def _run(self, step: int, lanes: Sequence[int]) -> NDArray[np.float32]:
        """Run a step that can be run, of one lane or several; float32 [len(lanes), classes] that the caller owns."""
