"""Crops of images with a teacher's answers to them, made once and then trained on for many epochs.

The answers belong to the very crops that the student sees, as in the fast knowledge distillation of Shen and Xing
(arXiv 2112.01528): the teacher, which costs many times what a small student does, runs once for each crop instead of
once for each crop and epoch. No labels are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_ann.errors import TrainingError
from stream_ann.preprocess import Interpolation
from stream_ann.training.augment import Augment
from stream_ann.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from stream_ann.training.memory import MemorySplit, PixelStore
from stream_ann.training.resample import resize_batch
from stream_ann.training.split import Batch, Split
from stream_ann.training.validation import closed

__all__ = ["TaughtCrops", "Teach", "centre_crops", "joined_crops", "read_crops", "varied_crops", "write_crops"]

Teach = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""A teacher: squares uint8 [B, S, S, 3] to logits float32 [B, classes], or anything that differs from them by a number
for each image, as the logarithms of probabilities do."""


@dataclass(frozen=True, slots=True, eq=False)
class TaughtCrops:
    """Square pictures and what the teacher says about them."""

    pixels: Tensor
    """uint8 [N, R, R, 3] RGB, R being the student's resolution."""
    answers: Tensor
    """The teacher's logits, float16 [N, classes]."""

    def __len__(self) -> int:
        return len(self.pixels)

    def split(self, classes: Sequence[str]) -> MemorySplit:
        """A split of them; the label of each is what the teacher thinks most likely."""
        return MemorySplit(PixelStore.of_batch(self.pixels), self.answers.argmax(1), classes)


def varied_crops(
    split: Split,
    teach: Teach,
    *,
    crops: int,
    resolution_px: int,
    teacher_px: int,
    augment: Augment,
    seed: int,
    batch_size: int = 32,
    on_progress: Callable[[int, int], None] | None = None,
) -> TaughtCrops:
    """Crops to train on.

    Args:
        split: The images.
        teach: The teacher.
        crops: Crops of each image. A few images that do not fill a batch are left out of each round.
        resolution_px: The student's resolution.
        teacher_px: The teacher's, at which the crops are cut; the student's are resized from them.
        augment: How they are varied.
        seed: What every random choice follows from.
        batch_size: Crops in a batch.
        on_progress: Called with the number of crops done and their total.

    Raises:
        UsageError: There are fewer images than a batch.
    """
    batch_size = min(batch_size, max(1, len(split)))
    total = crops * (len(split) // batch_size * batch_size)
    maker = _Maker(teach, resolution_px, augment.interpolation, total, on_progress)
    for epoch in range(crops):
        batches = split.train_batches(
            epoch,
            batch_size=batch_size,
            resolution_px=teacher_px,
            seed=seed,
            device=torch.device("cpu"),
            augment=augment,
        )
        with closed(batches):
            for batch in batches:
                maker.add(batch)
    return maker.made()


def centre_crops(
    split: Split,
    teach: Teach,
    *,
    crop: float,
    interpolation: Interpolation,
    resolution_px: int,
    teacher_px: int,
    batch_size: int = 32,
    on_progress: Callable[[int, int], None] | None = None,
) -> TaughtCrops:
    """The centre square of each image, to validate on; the arguments are those of :func:`varied_crops`.

    Args:
        crop: Side of the square as a fraction of the shorter side.
        interpolation: How it is resized.
    """
    maker = _Maker(teach, resolution_px, interpolation, len(split), on_progress)
    batches = split.eval_batches(
        batch_size=batch_size,
        resolution_px=teacher_px,
        device=torch.device("cpu"),
        crop=crop,
        interpolation=interpolation,
    )
    with closed(batches):
        for batch in batches:
            maker.add(batch)
    return maker.made()


def joined_crops(parts: Sequence[TaughtCrops]) -> TaughtCrops:
    """Crops of several sources as one."""
    return TaughtCrops(torch.cat([p.pixels for p in parts]), torch.cat([p.answers for p in parts]))


def write_crops(crops: TaughtCrops, path: Path, *, about: dict[str, object]) -> None:
    """Keep crops in a file, atomically.

    Args:
        crops: The crops.
        path: The file.
        about: What they were made of, as plain JSON data: :func:`read_crops` compares it.

    Raises:
        OutputError: The file cannot be written.
    """
    write_checkpoint(Checkpoint({"pixels": crops.pixels, "answers": crops.answers}, {"crops": about}), path)


def read_crops(path: Path, *, about: dict[str, object]) -> TaughtCrops:
    """Crops that :func:`write_crops` kept.

    Raises:
        TrainingError: The file is damaged, or its crops were made of something else than ``about`` says.
    """
    kept = read_checkpoint(path)
    if kept.about.get("crops") != about or set(kept.tensors) != {"pixels", "answers"}:
        raise TrainingError(f"the crops in '{path}' were made otherwise", "give the same arguments, or another folder")
    return TaughtCrops(kept.tensors["pixels"], kept.tensors["answers"])


class _Maker:
    """Collects crops and the answers to them."""

    def __init__(
        self,
        teach: Teach,
        resolution_px: int,
        interpolation: Interpolation,
        total: int,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self._teach = teach
        self._resolution_px = resolution_px
        self._interpolation: Interpolation = interpolation
        self._total = total
        self._on_progress = on_progress
        self._pixels: list[Tensor] = []
        self._answers: list[Tensor] = []
        self._done = 0

    def add(self, batch: Batch) -> None:
        squares = batch.images.permute(0, 2, 3, 1).contiguous()
        self._answers.append(torch.from_numpy(self._teach(squares.numpy())).half())
        self._pixels.append(resize_batch(squares, self._resolution_px, self._interpolation))
        self._done += len(squares)
        if self._on_progress is not None:
            self._on_progress(self._done, self._total)

    def made(self) -> TaughtCrops:
        return TaughtCrops(torch.cat(self._pixels), torch.cat(self._answers))
