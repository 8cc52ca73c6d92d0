"""Distilling several members of an EANN at once, by answers to the very crops that they see."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from pipelines.distilled import (
    CROP_SCALE,
    NORM_IMAGES,
    RECIPE,
    check_begun,
    check_request,
    counted_folder,
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
from stream_ann.errors import SourceError, UsageError
from stream_ann.nets import EANN, AnytimeNet
from stream_ann.preprocess import Preprocessing
from stream_ann.training.augment import Augment
from stream_ann.training.checkpoint import tensors_of
from stream_ann.training.data import Data, open_data
from stream_ann.training.distributed import device_for
from stream_ann.training.memory import MemorySplit
from stream_ann.training.options import TrainOptions
from stream_ann.training.own_trunk import count_norms, frozen, interpolate, own_trunk, part_of, with_own_trunks
from stream_ann.training.split import Split
from stream_ann.training.stepper import autocast, final_logits, normalised, resolution_of, sized
from stream_ann.training.trainer import Trainer
from stream_ann.training.validation import closed

__all__ = ["distill_together"]

_FRESH: dict[str, Any] = {**RECIPE, "distill": 0.0, "self_distill": 1.0, "self_temperature": 1.0, "weighting": "const"}
"""The members learn from the last one's last exit, which runs on the same batch."""
_KEPT: dict[str, Any] = {**RECIPE, "weighting": "const"}
"""They learn from answers that were asked for before."""


def distill_together(
    images: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str],
    members: Mapping[str, Sequence[int] | None],
    weights: str | os.PathLike[str] = "imagenet",
    teacher: str | os.PathLike[str] | None = None,
    teacher_members: Sequence[str] = (),
    keep_blocks: int = 0,
    crops: int | None = None,
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
    """Train members of an EANN to say what its last exit, or another teacher, says about the same pictures.

    Members of one network get a copy of it that differs in its batch norms alone, trained for all their resolutions at
    once. The last member may be among them: its trunk stays as it is, and only gets exits. All new heads end in the
    classifier of their network, which stays as it is too, so that classes that no picture shows are not unlearnt.

    Without ``crops``, crops are drawn anew every time, and the last member runs for every batch of every epoch, which
    suits a GPU; with ``mixup`` and ``cutmix`` it answers the mixed pictures ("function matching", Beyer et al., arXiv
    2106.05237). With ``crops``, which suits a CPU, the teacher is asked once for each of so many crops of each image.

    Args:
        images: As :func:`pipelines.distill.distill` takes them; they, or the crops, must fit into memory.
        out: Folder for the new weights and their card, ``history.json`` and the checkpoints.
        members: The blocks behind which each member has exits, by the member's name; None for those that it has.
        weights: Name or path of the weights that they belong to.
        teacher: Name or path of the weights that teach, with ``crops``; by default the same.
        teacher_members: The members of those that teach, with ``crops``, as ``TRUNK@PIXELS``: their mean is the answer.
            By default the last one.
        keep_blocks: How many of the first blocks stay as they are, in members other than the last.
        crops: Crops of each image; None for crops that are drawn anew every time.
        limit_per_class: At most so many images of each class, in folders without a count of their own.
        crop_px: Side at which crops are kept; by default the greatest resolution of the members.
        taught: Folder where crops and answers are kept for this run and others; by default in ``out``.
        share: How much of the change is kept in the end, 0 to 1, of the weights that were there before.
        val_fraction: Share of the images that is held out.
        name: Name of the new weights; by default that of the folder.
        data_name: What the card calls the images; by default the names of the folders.
        resume: Go on from the folder's last checkpoint, if there is one. All other arguments must be as they were.
        seed: What every random choice follows from.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        console: Where progress is shown; None for nowhere.
        options: Fields of :class:`stream_ann.training.options.TrainOptions`.

    Returns:
        The result; in its history, accuracy is agreement with the last exit on the images held out.

    Raises:
        UsageError: An argument makes no sense.
        SourceError: A folder cannot be used, or the images do not fit into memory.
        WeightsError: Weights cannot be used.
        TrainingError: The run diverged, or the checkpoint is of another run.
        DeviceError: The device cannot be used.
        OutputError: Something cannot be written.
    """
    check_request(images, share)
    folder = Path(out)
    name = checked_name(name, folder)
    base = weights_room.load(weights)
    whole = base.net
    if not isinstance(whole, EANN):
        raise UsageError(f"the weights '{base.card.name}' have no members", "take an EANN, such as imagenet")
    for asked in (teacher, taught, crop_px, teacher_members or None):
        if asked is not None and crops is None:
            raise UsageError("a teacher of its own for crops that are drawn anew", "say how many crops are kept")
    teaching = base if teacher is None else teaching_weights(teacher, base)
    chosen = options_of(_FRESH if crops is None else _KEPT, options, seed, device)
    check_begun(folder, resume)
    where = device_for(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = _Student(whole, members, keep_blocks, by_last=crops is None)

    with TrainView(console) as view:
        notes = Notes(view)
        preprocessing = base.card.preprocessing
        augment = Augment(flip=0.5, interpolation=preprocessing.interpolation)
        answers: Tensor | None = None
        if crops is None:
            augment = dataclasses.replace(augment, crop_scale=CROP_SCALE)
            data = _data(images, base, resolution_of(student.net), limit_per_class, val_fraction, seed, view)
            taught_by = base.plan.exit_names[-1]
        else:
            preprocessing = dataclasses.replace(preprocessing, crop=1.0)
            source = CropSource(
                teaching,
                teacher_members,
                crops=crops,
                crop_px=crop_px or resolution_of(student.net),
                val_fraction=val_fraction,
                seed=seed,
                folder=folder / "crops" if taught is None else Path(taught),
                device=device,
            )
            train, val = source.crops(images, limit_per_class, view)
            data = Data(base.card.name, train.split(base.card.classes), val.split(base.card.classes))
            answers, taught_by = train.answers, source.teachers
        notes.add(
            f"{len(data.train):,} {'images' if crops is None else 'crops'} to train {', '.join(members)} on, "
            f"{len(data.val):,} images held out, on {where}"
        )
        student.net.to(where)
        student.count_norms(data.train, preprocessing, chosen, augment, where)
        if crops is None:
            data = _answered(data, student.net, preprocessing, chosen, where)
        trainer = Trainer(
            student.net,
            data,
            preprocessing,
            chosen,
            folder=folder / CHECKPOINTS,
            augment=augment,
            teacher=answers,
            full_rate=student.fresh_names,
            on_epoch=lambda record: view.epoch(record, chosen.epochs, student.net.plan().exit_names),
            on_progress=view.progress,
        )

        def assembled(trained: AnytimeNet) -> EANN:
            assert isinstance(trained, EANN)
            return student.within(whole, trained, share)

        facts = {
            "method": "distilled together",
            "data": data_name or names_of(images),
            "images" if crops is None else "crops": len(data.train),
            "members": list(members),
            "teacher": {"name": teaching.card.name, "exit": taught_by},
            "share": share,
        }
        idle = int(student.has_last)
        return finished(trainer, base, tuple(members), folder, name, facts, assembled, notes, resume=resume, idle=idle)


class _Student:
    """What is trained: the chosen members, as a net of their own.

    Args:
        net: The EANN that they belong to; nothing in it is changed.
        members: The blocks behind which each has exits, by its name.
        keep_blocks: How many blocks of other members than the last stay as they are.
        by_last: Whether the last member is needed as a teacher.
    """

    def __init__(
        self, net: EANN, members: Mapping[str, Sequence[int] | None], keep_blocks: int, *, by_last: bool
    ) -> None:
        names = [member.name for member in net.members()]
        trunks: dict[str, AnytimeNet] = {}
        self._members = tuple(members)
        self._fresh: dict[str, frozenset[str]] = {}
        self._shared: tuple[str, ...] = ()
        for member, exits in members.items():
            trunks[member], self._fresh[member] = own_trunk(net, member, exits=exits, one_classifier=True)
            if member != names[-1]:
                self._shared = frozen(trunks[member], keep_blocks)
            elif not self._fresh[member]:
                raise UsageError(
                    f"nothing is new in the last member, {member}", "name blocks that it gets exits behind"
                )
        self._before = {member: copy.deepcopy(trunk) for member, trunk in trunks.items()}
        self.has_last = by_last or names[-1] in members
        """Whether the last exit is in the net, which does not learn."""
        numbers = sorted({*([len(names) - 1] if by_last else []), *(names.index(member) for member in members)})
        self._names = [names[i] for i in numbers]
        # a copy, since parts of it are the other net's own
        self.net = copy.deepcopy(part_of(with_own_trunks(net, trunks, self._shared), numbers))
        """The net to train."""
        for member, trunk in self._parts(self.net):
            if member == names[-1]:
                for key, parameter in trunk.named_parameters():
                    parameter.requires_grad_(key in self._fresh.get(member, ()))
            else:
                frozen(trunk, keep_blocks)

    @property
    def fresh_names(self) -> frozenset[str]:
        """The names of the new parameters in the net; one that several trunks have in common has one name."""
        known = {id(parameter): name for name, parameter in self.net.named_parameters()}
        found = set()
        for member, trunk in self._parts(self.net):
            fresh = self._fresh.get(member, frozenset())
            found |= {known[id(parameter)] for key, parameter in trunk.named_parameters() if key in fresh}
        return frozenset(found)

    def count_norms(
        self, images: Split, preprocessing: Preprocessing, options: TrainOptions, augment: Augment, where: torch.device
    ) -> None:
        """Let the batch norms of new heads see what comes in, each at its member's resolution."""
        resolution_px = resolution_of(self.net)
        for (member, trunk), of in zip(self._parts(self.net), self.net.members(), strict=True):
            batches = images.train_batches(
                0,
                batch_size=min(options.batch_size, len(images)),
                resolution_px=resolution_px,
                seed=options.seed,
                device=where,
                augment=augment,
            )
            with closed(batches):
                first = itertools.islice(batches, math.ceil(NORM_IMAGES / options.batch_size))
                some = (normalised(batch.images, preprocessing) for batch in first)
                seen = (sized(squares, of.resolution_px, preprocessing) for squares in some)
                count_norms(trunk, self._fresh.get(member, ()), seen)

    def within(self, net: EANN, trained: EANN, share: float) -> EANN:
        """The whole EANN with the members as they were trained, ``share`` of the way from how they were before."""
        own = {member: trunk for member, trunk in self._parts(trained) if member in self._members}
        done: set[int] = set()
        for member, trunk in own.items():
            # what two trunks have in common goes that way once
            spared = {key for key, tensor in tensors_of(trunk).items() if id(tensor) in done}
            done |= {id(tensor) for tensor in tensors_of(trunk).values()}
            interpolate(trunk, self._before[member], share, spared | self._fresh[member])
        return with_own_trunks(net, own, self._shared)

    def _parts(self, net: EANN) -> list[tuple[str, AnytimeNet]]:
        """The members of a net like the one that is trained: the name each had before, and its trunk."""
        found = [net.trunks[name] for name, _ in net.arch["members"]]
        trunks = [trunk for trunk in found if isinstance(trunk, AnytimeNet)]
        return list(zip(self._names, trunks, strict=True))


def _data(
    images: Sequence[str | os.PathLike[str]],
    base: weights_room.Weights,
    resolution_px: int,
    limit: int | None,
    val_fraction: float,
    seed: int,
    view: TrainView,
) -> Data:
    """All folders as one, without labels."""
    parts: list[list[MemorySplit]] = [[], []]
    for spec in images:
        path, own_limit = counted_folder(spec, limit)
        opened = open_data(
            path,
            val_fraction=val_fraction,
            seed=seed,
            limit_per_class=own_limit,
            short_side_px=math.ceil(1.25 * resolution_px),
            progress=view.stage("reading"),
        )
        for split, into in zip((opened.train, opened.val), parts, strict=True):
            if not isinstance(split, MemorySplit):
                remedy = "take fewer images of each class (FOLDER:COUNT), or distil one member at a time"
                raise SourceError(f"the images in '{path}' do not fit into memory", remedy)
            into.append(split)
    train, val = (MemorySplit.joined(splits, base.card.classes) for splits in parts)
    return Data(base.card.name, train, val)


def _answered(
    data: Data, student: EANN, preprocessing: Preprocessing, options: TrainOptions, where: torch.device
) -> Data:
    """The data with the last exit's answers as labels to validate with, so that accuracy is agreement.

    Nothing is trained on labels: the last exit, which alone would go by them, stays as it is.
    """
    student.eval()
    val = data.val
    assert isinstance(val, MemorySplit)
    found: list[Tensor] = []
    for batch in val.eval_batches(
        batch_size=options.batch_size,
        resolution_px=resolution_of(student),
        device=where,
        crop=preprocessing.crop,
        interpolation=preprocessing.interpolation,
    ):
        with torch.no_grad(), autocast(where, options.amp):
            logits = final_logits(student, normalised(batch.images, preprocessing), preprocessing)
        found.append(logits.argmax(1).cpu())
    return Data(data.name, data.train, val.labelled(torch.cat(found)))
