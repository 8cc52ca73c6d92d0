"""Paths by the names that users know."""

from __future__ import annotations

from collections.abc import Sequence

from stream_ann.nets.contract import Plan
from stream_ann.scheduler.paths import InOrder, Path, PathName, checked_path_name
from stream_ann.scheduler.planned import Planned, Steady
from stream_ann.scheduler.scene import Scene

__all__ = ["DEFAULT_PATH", "path_named"]

DEFAULT_PATH: PathName = "in-order"
"""The path that frames take unless told otherwise."""


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
