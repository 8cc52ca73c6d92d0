"""Weights in a file of half the size."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from pipelines.train import checked_name, given_command, make_folder
from stream_ann import weights as weights_room
from stream_ann.card import Card
from stream_ann.errors import UsageError

__all__ = ["quantize"]


def quantize(
    weights: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    name: str | None = None,
) -> tuple[Card, Path]:
    """Write weights with 8 bits for each convolution and matrix weight instead of 16.

    The network computes as before, with the rounded weights: this is about the size of the file.

    Args:
        weights: Name or path of the weights.
        out: Folder for the new weights and their card.
        name: Name of the new weights; by default that of the folder.

    Returns:
        The card and its path. Temperatures and the weights of the average stay; accuracies and thresholds, which were
        measured with other weights, are left out.

    Raises:
        UsageError: The new weights would replace the old ones.
        WeightsError: The weights cannot be used.
        OutputError: Something cannot be written.
    """
    folder = Path(out)
    name = checked_name(name, folder)
    base = weights_room.load(weights)
    path = folder / f"{name}.json"
    if path.resolve() == base.path.resolve():
        raise UsageError(f"'{path}' is the weights that are rounded", "choose another name or folder")
    make_folder(folder)
    card = base.card
    saved = weights_room.save(
        base.net,
        folder / name,
        title=card.title,
        description=card.description,
        classes=card.classes,
        preprocessing=card.preprocessing,
        training={
            **card.training,
            "rounded": {"bits": 8, "command": given_command("pipelines.quantize"), "from": card.file.sha256},
        },
        licence=card.licence,
        sources=card.sources,
        readout_weights=card.readout_weights,
        bits=8,
    )
    steps = tuple(
        dataclasses.replace(step, temperature=old.temperature)
        for step, old in zip(saved.steps, card.steps, strict=True)
    )
    saved = dataclasses.replace(saved, steps=steps)
    weights_room.write_card(saved, path)
    return saved, path
