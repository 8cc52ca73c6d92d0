"""Paths by the names that users know."""

from __future__ import annotations

from collections.abc import Sequence

from stream_ann.errors import UsageError
from stream_ann.nets.contract import Plan
from stream_ann.scheduler.paths import InOrder, Path, PathName, checked_path_name
from stream_ann.scheduler.planned import Planned, Steady
from stream_ann.scheduler.scene import Scene

__all__ = ["DEFAULT_PATH", "chosen_path", "path_named"]

DEFAULT_PATH: PathName = "scene"
"""The path that the frames of one source take unless told otherwise: by what ``benchmarks.frame_rates`` shows."""


def chosen_path(
    name: str | None, *, readout: str | None = None, background: bool = False, sources: int = 1
) -> PathName:
    """The path that goes with what else was asked for.

    The scene path joins the answers of all exits by itself, and remembers deep answers. Whoever asks for a readout, or
    for key frames to be refined in the background, and for no path, gets every step in order. So do several sources:
    with dozens of cameras, whose scenes begin at different times, the deep answers after cuts left frames unanswered.

    Args:
        name: What was asked for; None: nothing.
        readout: The readout that was asked for; None: none.
        background: Whether key frames are to be refined in the background.
        sources: How many there are.

    Raises:
        UsageError: If there is no such path, or what was asked for does not go together.
    """
    if name is None:
        return DEFAULT_PATH if readout is None and not background and sources == 1 else "in-order"
    path = checked_path_name(name)
    if path == "scene" and readout is not None:
        raise UsageError(f"policy scene joins all exits, so that readout {readout} has no say", "leave one of them out")
    if path == "scene" and background:
        what = "policy scene remembers deep answers itself, and refines none in the background"
        raise UsageError(what, "leave one of the two out")
    return path


def path_named(name: str, plan: Plan, accuracies: Sequence[float | None] = ()) -> Path:
    """The path that a user asked for.

    Args:
        name: ``"in-order"``, ``"planned"``, ``"steady"`` or ``"scene"``.
        plan: The plan.
        accuracies: Validated accuracy of each exit, from the weights card; None where there is none.

    Raises:
        UsageError: If there is no such path.
    """
    paths: dict[PathName, type[InOrder] | type[Planned] | type[Scene]] = {
        "in-order": InOrder,
        "planned": Planned,
        "steady": Steady,
        "scene": Scene,
    }
    return paths[checked_path_name(name)](plan, accuracies)
