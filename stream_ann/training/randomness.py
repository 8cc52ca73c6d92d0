"""Randomness without state: every draw follows from what it is for, so that a run can be resumed at any batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stream_ann.errors import UsageError

__all__ = ["JointBatch", "generator", "joint_batches"]

_ORDER, _HOLDOUT, _AUGMENT, _LIMIT, _MADE = range(5)
PURPOSES = {"order": _ORDER, "holdout": _HOLDOUT, "augment": _AUGMENT, "limit": _LIMIT, "made": _MADE}
"""What random numbers are drawn for. Draws for different purposes never repeat each other."""


def generator(purpose: str, *key: int) -> torch.Generator:
    """A new generator on the CPU that depends on its arguments alone.

    Args:
        purpose: One of ``PURPOSES``.
        key: What tells this draw from others of the same purpose, e.g. seed, epoch and batch; 0 or more each.

    Raises:
        UsageError: A number of the key is negative.
    """
    if min(key) < 0:
        raise UsageError(f"a seed must not be negative, got {min(key)}", "give 0 or more")
    state = np.random.SeedSequence((PURPOSES[purpose], *key)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)  # manual_seed takes 63 bits


@dataclass(frozen=True, slots=True, eq=False)
class JointBatch:
    """One training batch, as all processes together see it, and the part of it that belongs to this one."""

    number: int
    """Its number in the epoch, from 0."""
    size: int
    """Number of images over all processes."""
    indices: Tensor
    """This process's images, int64 [size / world] on the CPU."""
    rank: int
    """Number of this process."""
    world: int
    """Number of processes."""
    seed: int
    """Seed of the run."""
    epoch: int
    """Number of the epoch, from 0."""

    def generator(self) -> torch.Generator:
        """Where the augmentation of the joint batch draws from, the same in every process."""
        return generator("augment", self.seed, self.epoch, self.number)

    def mine(self, drawn: Tensor) -> Tensor:
        """This process's rows of something that was drawn for the joint batch [size, ...]."""
        return drawn[self.rank :: self.world]


def joint_batches(
    images: int, epoch: int, *, batch_size: int, seed: int, start_batch: int = 0, rank: int = 0, world: int = 1
) -> Iterator[JointBatch]:
    """The batches of one epoch in random order, the last incomplete one dropped.

    The arguments are checked at once, not when the first batch is asked for.

    Args:
        images: Number of images to choose from.
        epoch: Number of the epoch, 0 or more: each has an order of its own.
        batch_size: Images in a batch, over all processes.
        seed: Seed of the run, 0 or more.
        start_batch: First batch to give, to take up an epoch in the middle.
        rank: Number of this process.
        world: Number of processes. Each gets every ``world``-th row of the joint batch, beginning at ``rank``.

    Raises:
        UsageError: There are fewer images than a batch, or a number makes no sense.
    """
    if batch_size < 1:
        raise UsageError(f"the batch size must be 1 or more, got {batch_size}")
    if images < batch_size:
        remedy = f"use a batch size of {images} or less, or add images" if images else "add images"
        raise UsageError(f"there are {images} images to train on, fewer than a batch of {batch_size}", remedy)
    if not 0 <= rank < world:
        raise UsageError(f"the rank must be from 0 to {world - 1}, got {rank}")
    if batch_size % world:
        raise UsageError(f"a batch of {batch_size} cannot be shared evenly by {world} processes", "use a multiple")
    if start_batch < 0:
        raise UsageError(f"the first batch must be 0 or more, got {start_batch}")
    order = torch.randperm(images, generator=generator("order", seed, epoch))

    def batches() -> Iterator[JointBatch]:
        for number in range(start_batch, images // batch_size):
            joint = order[number * batch_size : (number + 1) * batch_size]
            yield JointBatch(number, batch_size, joint[rank::world].clone(), rank, world, seed, epoch)

    return batches()
