"""Distilling: a member of an EANN learns, at the resolution that it runs at, to say what a better network says."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from pipelines.distilled import (
    NORM_IMAGES,
    RECIPE,
    check_begun,
    check_request,
    finished,
    names_of,
    options_of,
    teaching_weights,
)
from pipelines.teaching import CropSource
from pipelines.train import CHECKPOINTS, TrainResult, checked_name
from pipelines.train_start import Notes
from pipelines.train_view import TrainView
from stream_ann import weights as weights_room
from stream_ann.nets import EANN, AnytimeNet
from stream_ann.preprocess import Preprocessing
from stream_ann.training.augment import Augment
from stream_ann.training.data import Data
from stream_ann.training.distributed import device_for
from stream_ann.training.options import TrainOptions
from stream_ann.training.own_trunk import count_norms, frozen, interpolate, own_trunk, with_own_trunks
from stream_ann.training.stepper import normalised
from stream_ann.training.trainer import Trainer

__all__ = ["distill"]


def distill(
    images: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str],
    member: str,
    weights: str | os.PathLike[str] = "imagenet",
    teacher: str | os.PathLike[str] | None = None,
    teacher_members: Sequence[str] = (),
    exits: Sequence[int] | None = None,
    called: str | None = None,
    keep_blocks: int = 0,
    crops: int = 2,
    limit_per_class: int | None = None,
    crop_px: int | None = None,
    taught: str | os.PathLike[str] | None = None,
    share: float = 1.0,
    val_fraction: float = 0.05,
    name: str | None = None,
    data_name: str | None = None,
    resume: bool = False,
    seed: int = 0,
    device: str = "auto",
    console: Console | None = None,
    **options: Any,
) -> TrainResult:
    """Give a member of an EANN a trunk of its own, and train it to say what a teacher says about the same pictures.

    The pictures need no labels and may be of anything; what the member learns is the teacher's whole distribution over
    the classes. The teacher runs once for each crop, and its answers are kept. The last classifier stays as it is, and
    so may the first blocks: what stays is stored once for both trunks.

    Args:
        images: Folders as :func:`stream_ann.training.data.open_data` takes them, ``FOLDER`` or ``FOLDER:COUNT`` for at
            most so many images of each of its classes. Nothing is made of the names of the classes.
        out: Folder for the new weights and their card, ``history.json``, the crops and the checkpoints.
        member: Name of the member, e.g. ``"lite0@96"``.
        weights: Name or path of the weights that it belongs to.
        teacher: Name or path of the weights that teach; by default the same.
        teacher_members: The members of those that teach, as ``TRUNK@PIXELS``: their mean is the answer. By default the
            last one.
        exits: Numbers of the blocks behind which the member has auxiliary exits; None for those that it has.
        called: Name of the new trunk; by default that of the old one with its resolution.
        keep_blocks: How many of the first blocks stay as they are.
        crops: Crops of each image.
        limit_per_class: At most so many images of each class, in folders without a count of their own.
        crop_px: Side at which crops are kept; by default the member's resolution. More lets members of other
            resolutions be trained on the same crops.
        taught: Folder where crops and answers are kept for this run and others; by default in ``out``.
        share: How much of the change is kept in the end, 0 to 1, of the weights that were there before.
        val_fraction: Share of the images that is held out.
        name: Name of the new weights; by default that of the folder.
        data_name: What the card calls the images; by default the names of the folders.
        resume: Go on from the folder's last checkpoint, if there is one. All other arguments must be as they were.
        seed: What every random choice follows from.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        console: Where progress is shown; None for nowhere.
        options: Fields of :class:`stream_ann.training.options.TrainOptions` other than those in :data:`RECIPE`.

    Returns:
        The result; in its history, accuracy is agreement with the teacher on the images held out.

    Raises:
        UsageError: An argument makes no sense.
        SourceError: A folder cannot be used.
        WeightsError: Weights cannot be used.
        TrainingError: The run diverged, or crops or checkpoint are of another run.
        DeviceError: The device cannot be used.
        OutputError: Something cannot be written.
    """
    check_request(images, share)
    folder = Path(out)
    name = checked_name(name, folder)
    base = weights_room.load(weights)
    teaching = base if teacher is None else teaching_weights(teacher, base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student, fresh = own_trunk(base.net, member, exits=exits)
    start, _ = own_trunk(base.net, member, exits=exits)
    shared = frozen(student, keep_blocks)
    resolution_px = student.members()[0].resolution_px
    chosen = options_of(RECIPE, options, seed, device)
    check_begun(folder, resume)
    where = device_for(device)

    with TrainView(console) as view:
        notes = Notes(view)
        source = CropSource(
            teaching,
            teacher_members,
            crops=crops,
            crop_px=crop_px or resolution_px,
            val_fraction=val_fraction,
            seed=seed,
            folder=folder / "crops" if taught is None else Path(taught),
            device=device,
        )
        train, val = source.crops(images, limit_per_class, view)
        data = Data(base.card.name, train.split(base.card.classes), val.split(base.card.classes))
        notes.add(f"{len(train):,} crops to train {member} on, {len(val):,} images held out, on {where}")

        preprocessing = dataclasses.replace(base.card.preprocessing, crop=1.0)
        # flips alone: the teacher's answers are about these very crops
        augment = Augment(flip=0.5, interpolation=preprocessing.interpolation)
        count_norms(student, fresh, _some(data, preprocessing, resolution_px, chosen, augment))
        trainer = Trainer(
            student,
            data,
            preprocessing,
            chosen,
            folder=folder / CHECKPOINTS,
            augment=augment,
            teacher=train.answers,
            full_rate=fresh & {key for key, _ in student.named_parameters()},
            on_epoch=lambda record: view.epoch(record, chosen.epochs, student.plan().exit_names),
            on_progress=view.progress,
        )

        def assembled(trained: AnytimeNet) -> EANN:
            interpolate(trained, start, share, fresh)
            named = called or f"{member.partition('@')[0]}-{resolution_px}"
            return with_own_trunks(base.net, {member: trained}, shared, {member: named})

        facts = {
            "method": "distilled",
            "data": data_name or names_of(images),
            "crops": len(train),
            "member": member,
            "teacher": {"name": teaching.card.name, "exit": source.teachers},
            "share": share,
        }
        return finished(trainer, base, [member], folder, name, facts, assembled, notes, resume=resume)


def _some(
    data: Data, preprocessing: Preprocessing, resolution_px: int, options: TrainOptions, augment: Augment
) -> Iterator[Tensor]:
    batches = data.train.train_batches(
        0,
        batch_size=min(options.batch_size, len(data.train)),
        resolution_px=resolution_px,
        seed=options.seed,
        device=torch.device("cpu"),
        augment=augment,
    )
    for batch in itertools.islice(batches, math.ceil(NORM_IMAGES / options.batch_size)):
        yield normalised(batch.images, preprocessing)
