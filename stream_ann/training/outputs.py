"""The logits of every exit of a net over a split of a data set."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stream_ann.errors import OutputError, UsageError
from stream_ann.nets.contract import AnytimeNet, State
from stream_ann.preprocess import Preprocessing, preprocess

if TYPE_CHECKING:
    from stream_ann.training.split import Split

__all__ = ["MEMORY_BYTES", "Outputs", "collect"]

MEMORY_BYTES = 2 << 30
"""Logits that take more than this are kept in a temporary file that is mapped into memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What every exit of a net says about every image of a split."""

    logits: Tensor
    """float32 [exits, N, classes] on the CPU; in a file mapped into memory where they are many."""
    labels: Tensor
    """int64 [N] on the CPU, the true class of each image."""
    groups: Tensor | None = None
    """int64 [N] on the CPU, the group of each image: frames of one clip share one. None where each is its own."""

    def __post_init__(self) -> None:
        if self.logits.ndim != 3 or self.logits.dtype != torch.float32:
            raise ValueError(f"logits must be float32 [exits, N, classes], got {self.logits.dtype} {self._shape()}")
        if self.labels.shape != self.logits.shape[1:2]:
            raise ValueError(f"labels of shape {list(self.labels.shape)} for logits of shape {self._shape()}")
        if self.groups is not None and self.groups.shape != self.labels.shape:
            raise ValueError(f"groups of shape {list(self.groups.shape)} for {len(self.labels)} images")
        if self.logits.numel() == 0:
            raise ValueError(f"there are no logits, their shape is {self._shape()}")
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= self.logits.shape[2]:
            raise ValueError(f"labels must be from 0 to {self.logits.shape[2] - 1}")

    def _shape(self) -> list[int]:
        return list(self.logits.shape)

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, images: Tensor) -> Outputs:
        """What is said about some of the images, by number, int64 [M]."""
        groups = None if self.groups is None else self.groups[images]
        return Outputs(self.logits[:, images], self.labels[images], groups)

    @property
    def apart(self) -> int:
        """How many images there are that have nothing to do with each other: all frames of one clip count once."""
        return len(self) if self.groups is None else len(set(self.groups.tolist()))

    @property
    def exits(self) -> int:
        """How many exits there are."""
        return self.logits.shape[0]

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.logits.shape[2]


def collect(
    net: AnytimeNet,
    split: Split,
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    batch_size: int = 64,
    memory_bytes: int = MEMORY_BYTES,
    folder: str | os.PathLike[str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Outputs:
    """Run every exit of a net over every image of a split.

    Every member gets the picture itself, resized once to its own resolution, as in a live run: the split is gone
    through once for each resolution. Resizing smaller inputs from the largest would be cheaper, but where pictures are
    smaller than that, it changes confidences by some points. Images that the split leaves out as damaged are left out
    of the result.

    Args:
        net: The net. It is moved to ``device`` and runs in evaluation mode; each module's mode is restored afterwards.
        split: The images.
        preprocessing: What images go through; its crop is handed to the split.
        device: Where the net runs.
        batch_size: Images in a batch.
        memory_bytes: How large the logits may be to be kept in memory. Larger ones go to a temporary file without a
            name, which is gone with the process, however that ends.
        folder: Where that file is made; by default the system's folder for temporary files.
        on_progress: Called with the number of images done and their total, first with none and then after each batch.
            An image counts once for each resolution.

    Raises:
        UsageError: The split is empty or has other classes than the net, or an exit's logits are not finite.
        OutputError: There is no room for the temporary file.
    """
    if len(split) == 0:
        raise UsageError("there are no images to evaluate on", "name a data set that has some")
    if len(split.classes) != net.classes:
        what = f"the data has {len(split.classes)} classes, the net {net.classes}"
        raise UsageError(what, "use the classes that the net was trained on")
    resolutions_px = sorted({member.resolution_px for member in net.members()})
    names = net.plan().exit_names
    logits = _room((len(names), len(split), net.classes), memory_bytes, folder)
    indices = torch.empty(len(split), dtype=torch.int64)
    net.to(device)

    total = len(split) * len(resolutions_px)
    if on_progress is not None:
        on_progress(0, total)
    count = 0
    with _evaluating(net), torch.inference_mode():
        for number, px in enumerate(resolutions_px):
            batches = split.eval_batches(
                batch_size=batch_size,
                resolution_px=px,
                device=device,
                crop=preprocessing.crop,
                interpolation=preprocessing.interpolation,
            )
            count = 0
            with _closing(batches):
                for batch in batches:
                    rows = slice(count, count + len(batch.labels))
                    count = rows.stop
                    if rows.start == rows.stop:  # all its images were damaged
                        continue
                    if number == 0:
                        indices[rows] = batch.indices.cpu()
                    elif not torch.equal(indices[rows], batch.indices.cpu()):
                        raise UsageError("the images changed while they were read", "evaluate again")
                    for exit_number, answer in _answers(net, batch.images, px, preprocessing):
                        if not bool(torch.isfinite(answer).all()):
                            what = f"exit '{names[exit_number]}' gives logits that are not finite"
                            raise UsageError(what, "train the net again")
                        logits[exit_number, rows] = answer
                    if on_progress is not None:
                        on_progress(number * len(split) + count, total)
    if count == 0:
        raise UsageError("none of the images could be read", "see to it that they are whole")
    indices = indices[:count]
    return Outputs(logits[:, :count], split.labels[indices], split.groups[indices])


def _answers(
    net: AnytimeNet, images: Tensor, resolution_px: int, preprocessing: Preprocessing
) -> Iterator[tuple[int, Tensor]]:
    """Number and logits, float32 on the CPU, of each exit of the members of a resolution, for images of that size."""
    dtype = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
    # Cut out and resized already: what is left is to normalise them.
    inputs = preprocess(images.permute(0, 2, 3, 1), resolution_px, replace(preprocessing, crop=1.0), dtype=dtype)
    first = 0
    for member in net.members():
        if member.resolution_px == resolution_px:
            state: State = ()
            for number, step in enumerate(member.steps, first):
                state, answer = step(inputs, state)
                yield number, answer.float().cpu()
        first += len(member.steps)


def _room(shape: tuple[int, int, int], memory_bytes: int, folder: str | os.PathLike[str] | None) -> Tensor:
    size = 4 * math.prod(shape)
    if size <= memory_bytes:
        return torch.empty(shape, dtype=torch.float32)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                # A mapped file with holes would kill the process with SIGBUS once the disk is full.
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            # The mapping outlives the file object.
            return torch.from_numpy(np.memmap(file, dtype=np.float32, mode="r+", shape=shape))
    except OSError as error:
        place = os.fspath(folder) if folder is not None else tempfile.gettempdir()
        what = f"cannot make a temporary file of {size / 2**30:.1f} GiB in '{place}': {error.strerror or error}"
        raise OutputError(what, "free some space, or point TMPDIR to another disk") from error


@contextmanager
def _evaluating(net: AnytimeNet) -> Iterator[None]:
    """Evaluation mode inside. Modes are restored one by one: frozen batch norms are in another than the rest."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _closing(batches: Iterator[Any]) -> Iterator[None]:
    """Whatever ends the block, a generator of batches ends its worker processes with it."""
    try:
        yield
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()
