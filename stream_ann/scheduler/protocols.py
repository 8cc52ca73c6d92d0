"""What a scheduler is given: something that runs steps, and something that frames wait in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stream_ann.frames import Frame
from stream_ann.nets.contract import Plan

__all__ = ["Engine", "FrameSlot", "Waiter"]


class Engine(Protocol):
    """Runs a plan step by step on a device. A frame is abandoned by starting the next one.

    That is all that one source needs. Several at once, and a refinement in the background, need a
    :class:`~stream_ann.lanes.LaneEngine`.
    """

    @property
    def plan(self) -> Plan:
        """The steps that it runs."""
        ...

    @property
    def step_s(self) -> Sequence[float]:
        """Time of each step as measured when the engine was opened, in seconds."""
        ...

    def start(self, image: NDArray[np.uint8]) -> None:
        """Take in a new picture, uint8 [H, W, 3] RGB, and forget the one before."""
        ...

    def run(self, step: int) -> NDArray[np.float32]:
        """Run one step and wait for its exit's probabilities, float32 [classes]; the caller owns the array.

        Either the first step of a member, or the step after the one that ran last.
        """
        ...


class Waiter(Protocol):
    """Waits for whichever of several slots has something new first."""

    def wait(self, timeout_s: float) -> object:
        """Wait until a frame waits in any of the slots, or one has ended, for at most so many seconds."""
        ...


class FrameSlot(Waiter, Protocol):
    """Where the frames of one source wait, at most one at a time."""

    @property
    def lossless(self) -> bool:
        """Whether frames wait for their turn, so that when they are taken says nothing of when they came."""
        ...

    @property
    def ended(self) -> bool:
        """Whether no frame will ever come again."""
        ...

    @property
    def waiting(self) -> bool:
        """Whether there is a frame to take."""
        ...

    @property
    def next_arrival_s(self) -> float | None:
        """Arrival of the first frame since the last one taken, though others may have replaced it; None without one."""
        ...

    def take(self, timeout_s: float) -> tuple[Frame, int] | None:
        """The next frame and how many were replaced since the last one taken; None when the time is up.

        Raises what ended the source once its last frame was taken.
        """
        ...

    def newer_waiting(self) -> bool:
        """Whether a newer frame wants the engine."""
        ...
