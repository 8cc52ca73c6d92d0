"""Weights that keep a share of what distilling has changed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.distilled import save_distilled
from pipelines.train import checked_name, given_command, make_folder
from stream_ann import weights as weights_room
from stream_ann.card import Card
from stream_ann.errors import UsageError
from stream_ann.nets import EANN
from stream_ann.training.blending import blended, changed_members, kept_exits

__all__ = ["Blend", "blend", "check_descent"]


@dataclass(frozen=True, slots=True)
class Blend:
    """Weights that were blended."""

    card: Card
    """Their card."""
    path: Path
    """Where it lies."""
    notes: tuple[str, ...]
    """What there is to say, a line each: which exits have changed, and what has to be measured anew."""


def blend(
    before: str | os.PathLike[str],
    after: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    share: float,
    members: Sequence[str] | None = None,
    new_exits: bool = True,
    name: str | None = None,
    chosen_by: str | None = None,
) -> Blend:
    """Write weights that are part of the way from how weights were to how distilling left them.

    Args:
        before: Name or path of the weights before.
        after: Name or path of what :func:`pipelines.distill.distill` or
            :func:`pipelines.distill_together.distill_together` made of them.
        out: Folder for the new weights and their card.
        share: How much of the change is kept, 0 to 1.
        members: Which of the changed members keep it, by their names in ``before``; None for all. The others are as
            they were.
        new_exits: Whether the exits that distilling has added are kept.
        name: Name of the new weights; by default that of the folder.
        chosen_by: How the share was chosen, for the card.

    Returns:
        Card and path. Accuracy, temperature and threshold of exits that have changed are not in the card, since they
        no longer hold.

    Raises:
        UsageError: An argument makes no sense, or the weights did not come about so.
        WeightsError: Weights cannot be used.
        OutputError: Something cannot be written.
    """
    folder = Path(out)
    name = checked_name(name, folder)
    old, new = weights_room.load(before), weights_room.load(after)
    path = folder / f"{name}.json"
    if path.resolve() in (old.path.resolve(), new.path.resolve()):
        raise UsageError(f"'{path}' is one of the weights that are blended", "choose another name or folder")
    check_descent(old, new)
    assert isinstance(old.net, EANN)
    assert isinstance(new.net, EANN)
    net = blended(old.net, new.net, share, members=members, new_exits=new_exits)
    changed = changed_members(old.net, net)
    if not changed:
        raise UsageError("nothing of the change would be kept", "take a share above 0, or other members")
    training = dict(new.card.training)
    about: dict[str, Any] = {
        key: value for key, value in training.items() if key not in ("agreement_held_out", "member", "members")
    }
    about["members"] = list(changed)
    about["share"] = share * training.get("share", 1.0)
    about["blend"] = {
        "command": given_command("pipelines.blend"),
        "share": share,
        "before": {"name": old.card.name, "sha256": old.card.file.sha256},
        "after": {"name": new.card.name, "sha256": new.card.file.sha256},
        "new_exits": new_exits,
        "chosen_by": chosen_by,
    }
    make_folder(folder)
    card = save_distilled(net, old, changed, folder / name, about)
    kept = kept_exits(old.net, net)
    anew = [step.name for i, step in enumerate(card.steps) if i not in kept]
    what = "accuracy, temperature and threshold no longer hold and are left out of the card: measure them anew"
    return Blend(card, path, (f"{share:.1%} of the change kept in {', '.join(changed)}", f"{', '.join(anew)}: {what}"))


def check_descent(before: weights_room.Weights, after: weights_room.Weights) -> None:
    """Raise UsageError unless, by its card, distilling has made ``after`` of ``before``, at once or step by step."""
    for which in (before, after):
        if not isinstance(which.net, EANN):
            raise UsageError(f"the weights '{which.card.name}' have no members", "take an EANN, such as imagenet")
    ancestor: Any = after.card.training
    while isinstance(ancestor, Mapping) and "distilled" in str(ancestor.get("method")):
        ancestor = ancestor.get("init")
        if isinstance(ancestor, Mapping) and ancestor.get("sha256") == before.card.file.sha256:
            return
    what = f"the card of '{after.card.name}' does not say that it was distilled from '{before.card.name}'"
    remedy = "name the weights that `stream-ann distill --weights` was given (their SHA-256 is in the card as init)"
    raise UsageError(what, remedy)
