"""Weights of which a member runs the network of another one."""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.distilled import save_changed
from pipelines.train import checked_name, given_command, make_folder
from stream_ann import weights as weights_room
from stream_ann.card import Card
from stream_ann.errors import UsageError
from stream_ann.training.blending import on_network_of

__all__ = ["tie"]


def tie(
    weights: str | os.PathLike[str],
    member: str,
    *,
    to: str,
    out: str | os.PathLike[str],
    name: str | None = None,
) -> tuple[Card, Path]:
    """Write weights in which a member of an EANN runs the network of another member, with batch norms of its own.

    The file is smaller by a network, and :func:`pipelines.distill_together.distill_together` then trains both as one.

    Args:
        weights: Name or path of the weights.
        member: The member that changes, e.g. ``"lite0@224"``.
        to: The member whose network it gets, e.g. ``"lite0@160"``.
        out: Folder for the new weights and their card.
        name: Name of the new weights; by default that of the folder.

    Returns:
        The card and its path. Accuracy, temperature and threshold of the member are not in the card, since they no
        longer hold.

    Raises:
        UsageError: There are no such members, or their networks do not fit.
        WeightsError: The weights cannot be used.
        OutputError: Something cannot be written.
    """
    folder = Path(out)
    name = checked_name(name, folder)
    base = weights_room.load(weights)
    path = folder / f"{name}.json"
    if path.resolve() == base.path.resolve():
        raise UsageError(f"'{path}' is the weights that are changed", "choose another name or folder")
    net = on_network_of(base.net, member, to)
    make_folder(folder)
    card = base.card
    about = {
        "kind": "trained",
        "method": "tied",
        "command": given_command("pipelines.tie"),
        "data": "none",
        "members": [member],
        "to": to,
        "init": {"name": card.name, "sha256": card.file.sha256, **dict(card.training)},
    }
    saved = save_changed(
        net,
        base,
        folder / name,
        about,
        title=f"{card.name} with {member} on the network of {to}",
        description=f"The weights '{card.name}', of which {member} runs the network of {to}. {card.description}",
    )
    return saved, path
