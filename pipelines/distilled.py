"""What the ways to distil have in common: the recipe, the checks before a run, and what is written after it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from pipelines.signals import stop_on_signals
from pipelines.train import CHECKPOINTS, TrainResult, given_command
from pipelines.train_start import Notes
from pipelines.train_view import duration
from stream_ann import weights as weights_room
from stream_ann.card import Card
from stream_ann.errors import UsageError
from stream_ann.nets import EANN, AnytimeNet
from stream_ann.training.blending import kept_exits
from stream_ann.training.checkpoint import LAST
from stream_ann.training.options import TrainOptions
from stream_ann.training.trainer import Trainer
from stream_ann.whole_files import whole_file

__all__ = [
    "CROP_SCALE",
    "NORM_IMAGES",
    "RECIPE",
    "check_begun",
    "check_request",
    "counted_folder",
    "finished",
    "names_of",
    "options_of",
    "save_changed",
    "save_distilled",
    "teaching_weights",
]

RECIPE: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 64,
    "optimizer": "adamw",
    "lr": 1e-3,
    "trunk_lr_factor": 0.1,
    "weight_decay": 0.0,
    "warmup": 0.1,
    "clip": 1.0,
    "weighting": "linear",
    "freeze_norms": True,
    "distill": 1.0,
    "temperature": 1.0,
}
"""What holds unless something else is asked for. Batch norms stay frozen: counted anew on other images than those that
the network was made with, they cost more than training gains."""

CROP_SCALE = (0.35, 1.0)
"""Least and greatest share of a picture that a crop takes."""
NORM_IMAGES = 2560
"""Crops that the statistics of new heads are counted from."""


def check_request(images: Sequence[str | os.PathLike[str]], share: float) -> None:
    """Raise UsageError unless there are images, and ``share`` is a share."""
    if not images:
        raise UsageError("no images to distil on", "name at least one folder")
    if not 0 <= share <= 1:
        raise UsageError(f"share is {share}", "it must be from 0 to 1")


def check_begun(folder: Path, resume: bool) -> None:
    """Raise UsageError if a run was begun in the folder and is not to be gone on with."""
    if (folder / CHECKPOINTS / LAST).exists() and not resume:
        raise UsageError(f"there is a training run in '{folder}' already", "resume it, or give another folder")


def options_of(recipe: Mapping[str, Any], given: Mapping[str, Any], seed: int, device: str) -> TrainOptions:
    """A recipe, but for what was given and is not None."""
    return TrainOptions(**{**recipe, **{k: v for k, v in given.items() if v is not None}}, seed=seed, device=device)


def teaching_weights(teacher: str | os.PathLike[str], base: weights_room.Weights) -> weights_room.Weights:
    """The weights that teach those of ``base``; raises UsageError if they were trained for other classes."""
    teaching = weights_room.load(teacher)
    if teaching.card.classes != base.card.classes:
        raise UsageError(f"the teacher '{teaching.card.name}' was trained for other classes", "take another teacher")
    return teaching


def names_of(images: Sequence[str | os.PathLike[str]]) -> str:
    """What a card calls the images unless told otherwise: the names of the folders."""
    return ", ".join(Path(os.fspath(spec)).name for spec in images)


def finished(
    trainer: Trainer,
    base: weights_room.Weights,
    members: Sequence[str],
    folder: Path,
    name: str,
    facts: Mapping[str, Any],
    assembled: Callable[[AnytimeNet], EANN],
    notes: Notes,
    *,
    resume: bool,
    idle: int = 0,
) -> TrainResult:
    """Train, and write weights, card and history; interrupted, only a checkpoint.

    Args:
        trainer: What is to be run.
        base: The weights that the net was made from.
        members: Names of the members, in ``base``, that are trained.
        folder: Where everything is written.
        name: Name of the new weights.
        facts: What the card says of the training that is not the same for every run.
        assembled: Makes the whole EANN of what was trained.
        notes: What is told.
        resume: Go on from the folder's last checkpoint, if there is one.
        idle: How many of the last exits do not learn, so that their losses say nothing.
    """
    with ExitStack() as stack:
        stack.enter_context(stop_on_signals(trainer.stop))
        history = trainer.run(resume=resume)
    if history.interrupted:
        notes.add(f"interrupted; the checkpoint is in '{folder / CHECKPOINTS}': go on with --resume")
        return TrainResult(history, None, None, None, tuple(notes.lines))
    net, options = assembled(trainer.trained()), trainer.options
    about = {
        "kind": "trained",
        "command": given_command(),
        **facts,
        "seed": options.seed,
        "options": {key: value for key, value in options.decisive().items() if key != "seed"},
        "agreement_held_out": [round(value, 4) for value in history.records[-1].val_accuracy],
        "init": {"name": base.card.name, "sha256": base.card.file.sha256, **dict(base.card.training)},
        "torch": torch.__version__,
    }
    card = save_distilled(net, base, members, folder / name, about)
    told = {**history.as_dict(), "options": options.as_dict()}
    for epoch in told["epochs"]:
        for key in ("train_loss", "val_loss"):
            learning = len(epoch[key]) - idle
            epoch[key] = [*epoch[key][:learning], *[None] * idle]
    with whole_file(folder / "history.json") as file:
        file.write((json.dumps(told, indent=2) + "\n").encode())
    seconds = sum(record.train_s for record in history.records)
    notes.add(f"trained for {duration(seconds)}; weights and card are '{folder / name}.safetensors' and '.json'")
    return TrainResult(history, card, folder / f"{name}.json", None, tuple(notes.lines))


def counted_folder(spec: str | os.PathLike[str], limit: int | None) -> tuple[str, int | None]:
    """Folder and count of ``FOLDER`` or ``FOLDER:COUNT``; without a count of its own the limit that is given."""
    text, colon, count = os.fspath(spec).rpartition(":")
    return (text, int(count)) if colon and count.isdecimal() else (os.fspath(spec), limit)


def save_distilled(
    net: EANN, base: weights_room.Weights, trained: Sequence[str], target: Path, about: Mapping[str, Any]
) -> Card:
    """Write weights of which some members were distilled.

    Args:
        net: The net.
        base: The weights that it was made from, with as many members.
        trained: Names of the members, in ``base``, that have been trained.
        target: Path of the files, without their suffixes.
        about: What the card says of the training.
    """
    card, several, teacher = base.card, len(trained) > 1, about["teacher"]
    return save_changed(
        net,
        base,
        target,
        about,
        title=f"{card.name} with {', '.join(trained)} distilled from {teacher['exit']}"
        f" ({', '.join(member.name for member in net.members())})",
        description=(
            f"The weights '{card.name}', of which {', '.join(trained)} {'were' if several else 'was'} trained at "
            f"{'their resolutions' if several else 'that resolution'} to say what {teacher['exit']} of "
            f"'{teacher['name']}' says about the same crops. {card.description}"
        ),
    )


def save_changed(
    net: EANN,
    base: weights_room.Weights,
    target: Path,
    about: Mapping[str, Any],
    *,
    title: str,
    description: str,
    mixing: Sequence[float] | None = None,
) -> Card:
    """Write weights that differ from others in some members; what the card said of the other exits still holds.

    Args:
        net: The net.
        base: The weights that it was made from, with as many members.
        target: Path of the files, without their suffixes.
        about: What the card says of how they came about.
        title: Its title.
        description: Its description.
        mixing: The readout weights of all exits; by default those of ``base``, halved from one new exit to the one
            before.
    """
    plan, card = net.plan(), base.card
    assert isinstance(base.net, EANN)
    same = kept_exits(base.net, net)
    if mixing is None and card.readout_weights is not None:
        mixing = []
        for i, step in enumerate(plan.steps):
            own = [j for j, other in enumerate(plan.steps) if other.member == step.member]
            last = max(j for j, other in enumerate(card.steps) if other.member == step.member)
            whole = card.readout_weights[same.get(i, last)]
            mixing.append(whole if i in same else whole * 0.5 ** (own[-1] - i))
    saved = weights_room.save(
        net,
        target,
        title=title,
        description=description,
        classes=card.classes,
        preprocessing=card.preprocessing,
        training=about,
        licence=card.licence,
        sources=card.sources,
        readout_weights=mixing,
    )
    kept = ("accuracy", "temperature", "threshold")
    steps = tuple(
        dataclasses.replace(step, **{key: getattr(card.steps[same[i]], key) for key in kept}) if i in same else step
        for i, step in enumerate(saved.steps)
    )
    saved = dataclasses.replace(saved, steps=steps, validation=card.validation)
    weights_room.write_card(saved, target.with_name(target.name + ".json"))
    return saved
