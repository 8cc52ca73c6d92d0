"""An EANN of networks that were trained one by one, each by a recipe of its own."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.train import checked_name, given_command, make_folder
from stream_ann import weights as weights_room
from stream_ann.card import Card, Validation
from stream_ann.errors import UsageError
from stream_ann.training.assemble import assemble as assembled
from stream_ann.weights import Weights

__all__ = ["assemble", "save_assembled"]


def assemble(
    members: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str],
    name: str | None = None,
) -> tuple[Card, Path]:
    """Write an EANN whose members are weights of one network each (Hu et al., arXiv 1708.06832v2).

    Args:
        members: Names or paths of the weights, cheapest first. Each member is called what its weights are called.
        out: Folder for the new weights and their card.
        name: Name of the new weights; by default that of the folder.

    Returns:
        The card and its path. It has the accuracies of the exits, where all were measured on as many images of the same
        data. Thresholds and the weights of the average are for all exits together: :func:`pipelines.evaluate` finds
        them.

    Raises:
        UsageError: There are fewer than two, two of one name, they differ in their classes or in what images must go
            through, one has several members, or their costs do not grow.
        WeightsError: Weights cannot be used.
        OutputError: Something cannot be written.
    """
    if len(members) < 2:
        raise UsageError("an EANN of fewer than two networks", "name at least two, cheapest first")
    folder = Path(out)
    name = checked_name(name, folder)
    path = folder / f"{name}.json"
    loaded: dict[str, Weights] = {}
    for given in members:
        one = weights_room.load(given)
        if path.resolve() == one.path.resolve():
            raise UsageError(f"'{path}' is one of the members", "choose another name or folder")
        if one.card.name in loaded:
            raise UsageError(f"two members are called '{one.card.name}'", "train one of them under another --name")
        loaded[one.card.name] = one
    _check_alike(loaded)
    first, *others = (one.card.training for one in loaded.values())
    shared = {  # evaluate takes from there which images were held out
        key: first[key]
        for key in ("data", "seed", "val_fraction")
        if key in first and all(other.get(key) == first[key] for other in others)
    }
    card = save_assembled(
        loaded,
        folder / name,
        title=f"EANN of {', '.join(loaded)}",
        description=f"Members {', '.join(loaded)}, trained one by one and assembled.",
        facts={"method": "assembled", "command": given_command("pipelines.assemble"), **shared},
        validation=_validation(name, [one.card.validation for one in loaded.values()]),
    )
    return card, path


def save_assembled(
    members: Mapping[str, Weights],
    target: Path,
    *,
    title: str,
    description: str,
    facts: Mapping[str, Any],
    validation: Validation | None = None,
) -> Card:
    """Assemble weights, and write them with a card that holds how each member came about.

    Args:
        members: The weights by the name of the member, cheapest first.
        target: Path of the new weights without an ending.
        title, description: As in :func:`stream_ann.weights.save`.
        facts: How the whole came about.
        validation: What the accuracies in the members' cards were measured on, all alike; None to leave them out.

    Raises:
        UsageError: They cannot be members of one EANN.
        OutputError: Something cannot be written.
    """
    net = assembled({name: one.net for name, one in members.items()})
    first = next(iter(members.values())).card
    make_folder(target.parent)
    return weights_room.save(
        net,
        target,
        title=title,
        description=description,
        classes=first.classes,
        preprocessing=first.preprocessing,
        training={
            "kind": "trained",
            **facts,
            "members": {name: dict(one.card.training) for name, one in members.items()},
        },
        licence=first.licence,
        sources=list(dict.fromkeys(source for one in members.values() for source in one.card.sources)),
        accuracies=None if validation is None else [a for one in members.values() for a in one.card.accuracies],
        validation=validation,
    )


def _check_alike(members: Mapping[str, Weights]) -> None:
    """Every member must say the same classes in the same order, and see the same pixels."""
    (first, one), *others = members.items()
    for name, other in others:
        if other.card.classes != one.card.classes:
            raise UsageError(f"'{first}' and '{name}' tell other classes apart", "train them on the same classes")
        if other.card.preprocessing != one.card.preprocessing:
            what = f"'{first}' and '{name}' want their images prepared in other ways"
            raise UsageError(what, "train them with the same preprocessing")
        if other.card.licence != one.card.licence:
            what = f"'{first}' is under {one.card.licence}, '{name}' under {other.card.licence}"
            raise UsageError(what, "assemble weights under one licence")


def _validation(name: str, known: Sequence[Validation | None]) -> Validation | None:
    """What all accuracies were measured on, if that was the same."""
    first = known[0]
    if first is None or any(v is None or _measured(v) != _measured(first) for v in known):
        return None
    command = shlex.join(["stream-ann", "evaluate", name, first.data])
    return Validation(measure=first.measure, data=first.data, images=first.images, command=command)


def _measured(validation: Validation) -> tuple[str, str, int]:
    return validation.measure, validation.data, validation.images
