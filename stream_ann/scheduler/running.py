"""Running steps on an engine, each timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from stream_ann.clock import Clock
from stream_ann.lanes import Answer, LaneEngine
from stream_ann.scheduler.protocols import Engine
from stream_ann.scheduler.times import StepTimes

__all__ = ["Runner"]


class Runner:
    """An engine, whether it has lanes or not, with a clock that times each step.

    Args:
        engine: The engine. One without lanes has a single one.
        clock: Tells the time.
    """

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._laned = cast(LaneEngine, engine)
        self._clock = clock
        self.plan = engine.plan
        self.times = StepTimes(engine.step_s)
        """Running time of each step."""
        self.lanes: int = getattr(engine, "lanes", 1)
        """How many frames may be in the works at once."""
        self.concurrent: bool = getattr(engine, "concurrent", False)
        """Whether steps of different lanes run at the same time."""
        self.queues = hasattr(engine, "submit")
        """Whether steps can be enqueued."""

    def start(self, image: NDArray[np.uint8], lane: int) -> None:
        """Take a picture into a lane."""
        if lane:
            self._laned.start(image, lane=lane)
        else:
            self._engine.start(image)

    def run(self, step: int, lane: int) -> NDArray[np.float32]:
        """Run a step and wait for its answer."""
        begun_s = self._clock.now_s()
        probabilities = self._laned.run(step, lane=lane) if lane else self._engine.run(step)
        self.times.add(step, self._clock.now_s() - begun_s)
        return probabilities

    def run_all(self, step: int, lanes: Sequence[int]) -> Sequence[NDArray[np.float32]]:
        """Run a step of any number of lanes, several as one batch; the answers in the order of the lanes."""
        if len(lanes) > 1:
            return list(self._laned.run_together(step, lanes))
        return [self.run(step, lane) for lane in lanes]

    def first_s(self, frames: int) -> float:
        """How long the quickest first answer takes for each of so many frames, in seconds."""
        alone_s = min(self.times.typical_s(i) for i, step in enumerate(self.plan.steps) if step.first)
        together_s = self.together_s(0, frames) if frames > 1 else None
        return alone_s if together_s is None else min(alone_s, together_s / frames)

    def together_s(self, step: int, count: int) -> float | None:
        """How long that takes, in seconds; None where it is not offered."""
        if count == 1:
            return self.times.typical_s(step)
        ask = getattr(self._engine, "together_s", None)
        return None if ask is None else cast("float | None", ask(step, count))

    def submit(self, step: int, lane: int) -> None:
        """Enqueue a step."""
        self._laned.submit(step, lane=lane)

    def collect(self, lane: int, *, timeout_s: float | None) -> Answer | None:
        """The oldest answer of a lane's queue; None where it is not there in time."""
        return self._laned.collect(lane, timeout_s=timeout_s)
