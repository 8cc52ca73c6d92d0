"""What distilling asks a teacher: crops of images, made once, with the answers to them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.distilled import CROP_SCALE, counted_folder
from pipelines.train_view import TrainView
from stream_ann import weights as weights_room
from stream_ann.engines import open_batch_engine
from stream_ann.errors import UsageError, nearest
from stream_ann.nets import EANN, AnytimeNet, arch_of
from stream_ann.training.augment import Augment
from stream_ann.training.data import open_data
from stream_ann.training.images import usable_cpus
from stream_ann.training.own_trunk import with_members
from stream_ann.training.taught import (
    TaughtCrops,
    Teach,
    centre_crops,
    joined_crops,
    read_crops,
    varied_crops,
    write_crops,
)

__all__ = ["CropSource", "teacher_members"]

_TINY = np.float32(1e-30)
"""Less than any probability that matters: what keeps logarithms finite."""


class CropSource:
    """Makes the crops of one folder after another, or finds those that were made before.

    Args:
        teaching: The weights that teach.
        members: The members whose last exits teach, the mean of their probabilities being the answer; see
            :func:`teacher_members`.
        crops: Crops of each image.
        crop_px: Side at which crops are kept.
        val_fraction: Share of the images that is held out.
        seed: What every random choice follows from.
        folder: Where crops and answers are kept.
        device: What the teacher runs on.

    Raises:
        UsageError: A number makes no sense, or there is no such member.
    """

    def __init__(
        self,
        teaching: weights_room.Weights,
        members: Sequence[str] = (),
        *,
        crops: int,
        crop_px: int,
        val_fraction: float,
        seed: int,
        folder: Path,
        device: str,
    ) -> None:
        if crops < 1:
            raise UsageError(f"{crops} crops of each image", "it must be at least 1")
        self._teaching = teaching
        self._net = teacher_members(teaching.net, members)
        self._members = list(members)
        self._crops, self._crop_px = crops, crop_px
        self._val_fraction, self._seed = val_fraction, seed
        self._folder, self._device = folder, device
        self._teach: Teach | None = None

    @property
    def teachers(self) -> str:
        """The names of the members that teach, as a card tells them."""
        return ", ".join(member.name for member in self._net.members())

    def crops(
        self, images: Sequence[str | os.PathLike[str]], limit: int | None, view: TrainView
    ) -> tuple[TaughtCrops, TaughtCrops]:
        """Crops to train on, and centre squares to validate on, of all folders.

        Args:
            images: Folders, ``FOLDER`` or ``FOLDER:COUNT``.
            limit: At most so many images of each class, in folders without a count of their own.
            view: Where progress is shown.

        Raises:
            SourceError: A folder cannot be used.
            TrainingError: Crops that are there already were made otherwise.
            OutputError: They cannot be written.
        """
        pairs = [self._pair(spec, limit, view) for spec in images]
        return joined_crops([train for train, _ in pairs]), joined_crops([val for _, val in pairs])

    def _pair(
        self, spec: str | os.PathLike[str], limit: int | None, view: TrainView
    ) -> tuple[TaughtCrops, TaughtCrops]:
        path, limit = counted_folder(spec, limit)
        preprocessing = self._teaching.card.preprocessing
        teacher_px = max(member.resolution_px for member in self._net.members())
        about: dict[str, object] = {
            "images": Path(path).name,
            "limit_per_class": limit,
            "crops": self._crops,
            "crop_px": self._crop_px,
            "crop_scale": list(CROP_SCALE),
            "val_fraction": self._val_fraction,
            "seed": self._seed,
            "teacher": self._teaching.card.file.sha256,
            "members": self._members,
        }
        files = [self._folder / f"{_file_name(path, limit)}-{part}.safetensors" for part in ("train", "val")]
        if all(file.exists() for file in files):
            train, val = (read_crops(file, about={**about, "part": i}) for i, file in enumerate(files))
            return train, val
        data = open_data(
            path,
            val_fraction=self._val_fraction,
            seed=self._seed,
            limit_per_class=limit,
            short_side_px=math.ceil(1.25 * teacher_px),
            progress=view.stage("reading"),
        )
        teach = self._teacher()
        val = centre_crops(
            data.val,
            teach,
            crop=preprocessing.crop,
            interpolation=preprocessing.interpolation,
            resolution_px=self._crop_px,
            teacher_px=teacher_px,
        )
        train = varied_crops(
            data.train,
            teach,
            crops=self._crops,
            resolution_px=self._crop_px,
            teacher_px=teacher_px,
            augment=Augment(flip=0.5, crop_scale=CROP_SCALE, interpolation=preprocessing.interpolation),
            seed=self._seed,
            on_progress=view.stage("asking the teacher"),
        )
        for i, (made, file) in enumerate(zip((train, val), files, strict=True)):
            write_crops(made, file, about={**about, "part": i})
        return train, val

    def _teacher(self) -> Teach:
        """The members in the fastest engine there is; the answers are the logarithms of probabilities."""
        if self._teach is None:
            engine = open_batch_engine(
                self._net, self._teaching.card.preprocessing, device=self._device, threads=usable_cpus()
            )
            steps = engine.plan.steps
            ends = [i for i in range(len(steps)) if i + 1 == len(steps) or steps[i + 1].first]

            def teach(squares: NDArray[np.uint8]) -> NDArray[np.float32]:
                batch = engine.open(squares)
                said = [engine.run(step, batch) for step in range(len(steps))]
                mean: NDArray[np.float32] = np.mean([said[step] for step in ends], axis=0, dtype=np.float32)
                return np.log(np.maximum(mean, _TINY))

            self._teach = teach
        return self._teach


def teacher_members(net: AnytimeNet, members: Sequence[str] = ()) -> AnytimeNet:
    """What teaches: some members of a net, each of its trunks at any resolution.

    Images that are smaller than a network's own resolution are blurred when they are enlarged, and it then knows less
    of them than at a lower one.

    Args:
        net: The net that they are taken from; its trunks are used, not copied.
        members: ``TRUNK@PIXELS`` of each; none for the last member of an EANN, or the whole of another net.

    Raises:
        UsageError: There is no such trunk, or a member cannot be read.
    """
    if not isinstance(net, EANN):
        if members:
            raise UsageError(f"a {type(net).__name__} has no members to choose from", "leave them out")
        return net
    places = [(str(name), int(px)) for name, px in arch_of(net)["members"]]
    known = {member.name: place for member, place in zip(net.members(), places, strict=True)}
    chosen: list[tuple[str, int]] = []
    for text in members:
        named, _, pixels = text.partition("@")
        if text in known:
            chosen.append(known[text])
        elif named in net.trunks and pixels.isdecimal():
            chosen.append((named, int(pixels)))
        else:
            names = [*known, *net.trunks]
            raise UsageError(f"no member '{text}' to learn from", f"write TRUNK@PIXELS; {nearest(text, names)}")
    return with_members(net, chosen or places[-1:]).eval()


def _file_name(path: str, limit: int | None) -> str:
    whole = Path(path).resolve()
    return f"{whole.parent.name}-{whole.name}-{limit or 'all'}".strip("-")
