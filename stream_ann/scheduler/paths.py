"""Paths: which of the plan's steps a frame goes through.

A path never runs two steps of one member out of order, and may leave out whole members, or the rest of one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from stream_ann.errors import UsageError, nearest
from stream_ann.nets.contract import Plan
from stream_ann.scheduler.arrivals import Arrivals
from stream_ann.scheduler.times import StepTimes

__all__ = ["DEFAULT_PATH", "Choice", "InOrder", "Outlook", "Path", "PathName", "path_named"]

PathName = Literal["in-order", "planned"]

DEFAULT_PATH: PathName = "in-order"
"""The path that frames take unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a path may look at when it chooses a frame's next step."""

    last: int | None
    """The step that the frame went through last; None before its first one."""
    elapsed_s: float
    """Time since the frame's arrival, in seconds."""
    times: StepTimes
    """How long steps take."""
    arrivals: Arrivals | None
    """When newer frames come; None where none can: at the end of a file, or where frames wait for their turn."""
    deadline_s: float | None = None
    """The fixed time that the frame has from its arrival, in seconds; None where there is none."""
    sharers: int = 1
    """How many frames share the engine at the moment, this one included: a step then takes so many times as long."""


class Choice(NamedTuple):
    """What a frame does next: run a step, wait, or, with neither, end."""

    step: int | None
    """The step to run next."""
    wait_s: float = 0.0
    """Without a step: how long nothing is worth running, in seconds; 0 where nothing ever will be."""


class Path(ABC):
    """Chooses a frame's next step. The first choice for a frame is always a step."""

    @abstractmethod
    def choose(self, outlook: Outlook) -> Choice:
        """What to do next for a frame."""

    def for_source(self) -> Path:
        """The path for the frames of one more source, whose arrivals are their own."""
        return self


class InOrder(Path):
    """Every step of the plan, one after the other.

    Args:
        plan: The plan.
    """

    def __init__(self, plan: Plan) -> None:
        self._steps = len(plan)

    def choose(self, outlook: Outlook) -> Choice:
        """The next step of the plan."""
        following = 0 if outlook.last is None else outlook.last + 1
        return Choice(following if following < self._steps else None)


def path_named(name: str, plan: Plan, accuracies: Sequence[float | None] = ()) -> Path:
    """The path that a user asked for.

    Args:
        name: ``"in-order"`` or ``"planned"``.
        plan: The plan.
        accuracies: Validated accuracy of each exit, from the weights card; None where there is none.

    Raises:
        UsageError: If there is no such path.
    """
    if name == "in-order":
        return InOrder(plan)
    raise UsageError(f"no policy is called '{name}'", nearest(name, get_args(PathName)))
