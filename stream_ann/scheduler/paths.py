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
from stream_ann.scheduler.memory import SceneWatch
from stream_ann.scheduler.times import StepTimes

__all__ = ["Choice", "InOrder", "Outlook", "Path", "PathName", "checked_path_name", "exit_values"]

PathName = Literal["in-order", "planned", "steady", "scene"]


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
    now_s: float = 0.0
    """The time, in seconds of the clock that stamped the frames' arrivals."""
    exits: tuple[int, ...] = ()
    """The exits that the frame has reached or has steps queued for."""
    scene: SceneWatch | None = None
    """What is known of the scene; None where nothing is remembered."""


class Choice(NamedTuple):
    """What a frame does next: run a step, wait, or, with neither, end."""

    step: int | None
    """The step to run next."""
    wait_s: float = 0.0
    """Without a step: how long nothing is worth running, in seconds; 0 where nothing ever will be."""


class Path(ABC):
    """Chooses a frame's next step. The first choice for a frame is always a step.

    Args:
        plan: The plan.
        accuracies: Accuracy of each exit; see :func:`exit_values` for where they are not known.
    """

    def __init__(self, plan: Plan, accuracies: Sequence[float | None] = ()) -> None:
        self._plan = plan
        self._accuracies = exit_values(plan, accuracies)

    scenes: Literal["ignored", "watched", "remembered"] = "ignored"
    """Whether cuts between scenes are noticed, and whether what the frames of a scene have said is remembered and
    joined to the answers of those that follow."""

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Accuracy of each exit, known or guessed."""
        return self._accuracies

    @abstractmethod
    def choose(self, outlook: Outlook) -> Choice:
        """What to do next for a frame."""

    def for_source(self) -> Path:
        """The path for the frames of one more source, whose arrivals are their own."""
        return self

    def insists(self, last: int) -> bool:
        """Whether the step after ``last`` is to run though a newer frame waits."""
        return False

    def gain(self, outlook: Outlook, step: int) -> float:
        """The accuracy to be expected of running a step now: what it adds, times the chance that it ends in time."""
        before = 0.0 if outlook.last is None else self._accuracies[outlook.last]
        chance = 1.0
        if outlook.arrivals is not None:
            chance = outlook.arrivals.chance(outlook.elapsed_s, outlook.times.typical_s(step))
        return chance * max(0.0, self._accuracies[step] - before)


class InOrder(Path):
    """Every step of the plan, one after the other."""

    def choose(self, outlook: Outlook) -> Choice:
        """The next step of the plan."""
        following = 0 if outlook.last is None else outlook.last + 1
        return Choice(following if following < len(self._plan) else None)


def exit_values(plan: Plan, accuracies: Sequence[float | None]) -> tuple[float, ...]:
    """Accuracy of each exit, 0 to 1.

    Where a weights card lacks that of any exit, each is taken to be better than the one before by the same amount.
    That is how networks behave whose cost doubles from exit to exit, and makes no more of an exit than its place.
    """
    known = [a for a in accuracies if a is not None]
    if len(known) == len(plan):
        return tuple(known)
    return tuple((i + 1) / len(plan) for i in range(len(plan)))


def checked_path_name(name: str) -> PathName:
    """``name``, if it is that of a path.

    Raises:
        UsageError: If it is not.
    """
    for known in get_args(PathName):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise UsageError(f"no policy is called '{name}'", nearest(name, get_args(PathName)))
