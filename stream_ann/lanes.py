"""What an engine offers whoever schedules it: a plan run step by step, for several frames at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stream_ann.nets.contract import Plan

__all__ = ["Answer", "LaneEngine", "check_different"]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a step that was enqueued came to."""

    probabilities: NDArray[np.float32]
    """The exit's probability of each class, float32 [classes]. The caller owns the array."""
    device_s: float | None
    """How long the device worked on the step, in seconds; None where the engine cannot tell."""


def check_different(lanes: Sequence[int]) -> None:
    """See to it that lanes may run a step together.

    Raises:
        ValueError: If there is none, or one occurs twice.
    """
    if not lanes or len(set(lanes)) != len(lanes):
        raise ValueError(f"lanes must be different ones, and at least one, got {list(lanes)}")


class LaneEngine(Protocol):
    """Runs a plan on a device, step by step, for as many frames at once as it has lanes.

    A lane holds one frame: its input, and the state that the frame's last step left. A frame is abandoned by starting
    the next one in its lane. For use from one thread at a time.
    """

    @property
    def name(self) -> str:
        """Which engine it is, e.g. ``"torch"``."""
        ...

    @property
    def description(self) -> str:
        """The engine, its device and how it runs there, fit to be shown, e.g. ``"torch on cpu, float32, 1 thread"``."""
        ...

    @property
    def plan(self) -> Plan:
        """The steps that it runs."""
        ...

    @property
    def step_s(self) -> Sequence[float]:
        """Time of each step for one frame as measured when the engine was opened, in seconds."""
        ...

    @property
    def lanes(self) -> int:
        """How many frames may be in the works at once."""
        ...

    @property
    def concurrent(self) -> bool:
        """Whether steps of different lanes run at the same time on the device, rather than one after another."""
        ...

    def start(self, image: NDArray[np.uint8], *, lane: int = 0) -> None:
        """Take a new picture, uint8 [H, W, 3] RGB, into a lane, and forget the one before and its submitted steps.

        The picture must not change until the lane's next call of this.
        """
        ...

    def run(self, step: int, *, lane: int = 0) -> NDArray[np.float32]:
        """Run one step and wait for its exit's probabilities, float32 [classes]; the caller owns the array.

        Either the first step of a member, or the step after the one that ran last in the lane.
        """
        ...

    def submit(self, step: int, *, lane: int = 0) -> None:
        """Enqueue a step, as :meth:`run` does, and return; an engine without asynchrony runs it right here."""
        ...

    def collect(self, lane: int = 0, *, timeout_s: float | None = None) -> Answer | None:
        """The answer of the lane's oldest submitted step, each handed out once.

        Args:
            lane: The lane.
            timeout_s: How long to wait for it at most, in seconds; None as long as it takes, 0 not at all.

        Returns:
            The answer, or None when it is not there in time.

        Raises:
            ValueError: If no step of the lane is submitted that was not collected.
        """
        ...

    def run_together(self, step: int, lanes: Sequence[int]) -> NDArray[np.float32]:
        """Run one step of several lanes as one batch and wait: float32 [len(lanes), classes], in their order."""
        ...

    def together_s(self, step: int, count: int) -> float | None:
        """How long :meth:`run_together` takes for ``count`` lanes, in seconds, by measurements so far.

        None where the engine does not offer it.
        """
        ...

    def close(self) -> None:
        """Let go of the device's memory. The engine cannot be used afterwards; may be called more than once."""
        ...
