"""What training and evaluation see of a data set: two splits that hand out batches of 8-bit images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stream_ann.errors import UsageError
from stream_ann.preprocess import Interpolation
from stream_ann.training.augment import Augment
from stream_ann.training.randomness import generator

__all__ = ["Batch", "Data", "Split", "holdout"]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some images with their labels, on the device that was asked for."""

    images: Tensor
    """uint8 [B, 3, R, R] RGB, channels-last in memory. Normalised on the device, by whoever uses them."""
    labels: Tensor
    """Class numbers, int64 [B]."""
    indices: Tensor
    """Number of each image in its split, int64 [B]."""


class Split(Protocol):
    """One part of a data set."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        ...

    @property
    def labels(self) -> Tensor:
        """Class number of each image, int64 [N] on the CPU."""
        ...

    @property
    def groups(self) -> Tensor:
        """Number of the group of each image, int64 [N] on the CPU: the clip that a video frame is from. Images that
        were taken one by one are each a group of their own."""
        ...

    def __len__(self) -> int:
        """Number of images N."""
        ...

    def train_batches(
        self,
        epoch: int,
        *,
        batch_size: int,
        resolution_px: int,
        seed: int,
        device: torch.device,
        augment: Augment,
        start_batch: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> Iterator[Batch]:
        """The batches of one epoch: shuffled, augmented, the last incomplete one dropped.

        The same arguments give the same batches, bit for bit, whatever was read before. The arguments are checked at
        once, not when the first batch is asked for.

        Args:
            epoch: Number of the epoch, 0 or more.
            batch_size: Images in a batch, over all processes.
            resolution_px: Side R of the images handed out.
            seed: Seed of the run, 0 or more.
            device: Where the batches are wanted.
            augment: How the images are varied.
            start_batch: First batch to give, to take up an epoch in the middle.
            rank: Number of this process, when several train together.
            world: Number of processes, a divisor of ``batch_size``. Each gets every ``world``-th row of the joint
                batch, beginning at ``rank``: together exactly what one process alone would get.

        Raises:
            UsageError: There are fewer images than a batch, or a number makes no sense.
        """
        ...

    def eval_batches(
        self,
        *,
        batch_size: int,
        resolution_px: int,
        device: torch.device,
        crop: float,
        interpolation: Interpolation = "bicubic",
    ) -> Iterator[Batch]:
        """All images in order, not augmented: the centre square, resized as a live frame would be.

        A streamed image that turns out to be damaged only when it is decoded is left out of its batch: go by
        ``Batch.indices``, not by position.

        Args:
            batch_size: Images in a batch; the last one may hold fewer.
            resolution_px: Side R of the images handed out.
            device: Where the batches are wanted.
            crop: Side of the centre square, as a fraction of the shorter side, as in ``Preprocessing``.
            interpolation: How the square is resized, as in ``Preprocessing``.
        """
        ...

    def subset(self, indices: Sequence[int] | Tensor) -> Split:
        """Some of the images, in the order given. Nothing is copied but the numbers."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """A data set, ready to train on."""

    name: str
    """What the user called it: the name of the set or of its folder."""
    train: Split
    """The images to train on."""
    val: Split
    """The images to evaluate on: never the ones trained on, nor frames of the same clips."""
    skipped: tuple[str, ...] = ()
    """The files that were left out, each with the reason, as ``"path: reason"``."""
    resolution_px: int = 0
    """Side of the images, where all are squares of one size (32 in CIFAR); 0 where they differ."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        return self.train.classes


def holdout(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Part a split in two at random, in the same proportion for every class.

    A group (the frames of one clip) goes to one side as a whole. Each class with two or more groups has at least one on
    either side; a class with one stays in the first part.

    Args:
        split: What to part.
        fraction: Share of every class's groups that goes to the second part, over 0 and under 1.
        seed: The same seed parts the same split in the same way.

    Returns:
        The rest and the part held out, both in the order of ``split``.

    Raises:
        UsageError: The fraction makes no sense, or no class has two groups.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"the fraction held out must be over 0 and under 1, got {fraction}")
    held: set[int] = set()
    for number in range(len(split.classes)):
        # Groups are taken in the order of their first image, which does not depend on how they are numbered.
        groups = list(dict.fromkeys(split.groups[split.labels == number].tolist()))
        wanted = min(max(1, round(fraction * len(groups))), len(groups) - 1)
        order = torch.randperm(len(groups), generator=generator("holdout", seed, number)).tolist()
        held.update(groups[i] for i in order[: max(0, wanted)])
    if not held:
        raise UsageError(
            f"no class has two images or clips, so that nothing can be held out of {len(split)}", "add some"
        )
    second = torch.tensor([g in held for g in split.groups.tolist()], dtype=torch.bool)
    return split.subset((~second).nonzero()[:, 0]), split.subset(second.nonzero()[:, 0])
