"""A split whose images are too many for memory: decoded anew each time, by worker processes."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stream_ann.errors import SourceError
from stream_ann.preprocess import Interpolation
from stream_ann.training.augment import Augment, centre_boxes, random_boxes
from stream_ann.training.images import StoredImage, reason_of, usable_cpus
from stream_ann.training.memory import eval_rows, rows_of
from stream_ann.training.moving import moved
from stream_ann.training.randomness import JointBatch, joint_batches
from stream_ann.training.resample import resize_picture
from stream_ann.training.split import Batch

__all__ = ["StreamedSplit"]

_PREFETCH = 2
"""Batches that each worker process has ready."""
_TIMEOUT_S = 300.0
"""A batch that takes longer means that a worker hangs, on a network drive for example."""
_MAX_WORKERS = 16
_NEIGHBOURS = 8
"""Images tried in place of a damaged one."""
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only measured, never written to


@dataclass(frozen=True, slots=True)
class _Request:
    """One image as a worker is asked for it."""

    index: int
    """Its number in the split."""
    draws: NDArray[np.float64] | None
    """For a random box float64 [tries, 4]; None for the centre square."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A batch as it comes from a worker."""

    images: Tensor
    """uint8 [B, R, R, 3]."""
    indices: Tensor
    """int64 [B]."""
    damaged: tuple[str, ...]
    """What could not be decoded, as ``"path: reason"``."""

    def pin_memory(self) -> _Loaded:
        """Called by the DataLoader, so that the copy to a GPU need not wait."""
        return _Loaded(self.images.pin_memory(), self.indices, self.damaged)


@dataclass(frozen=True, slots=True)
class _Recipe:
    """What a worker makes of an image."""

    resolution_px: int
    interpolation: Interpolation
    crop: float = 1.0
    """Side of the centre square as a fraction of the shorter side, where no random box is asked for."""
    scale: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (1.0, 1.0)

    def make(self, path: Path, draws: NDArray[np.float64] | None) -> Tensor:
        """The square, uint8 [R, R, 3]. Raises whatever is wrong with the file."""
        image = StoredImage(path)
        size = np.array([[image.height_px, image.width_px]], np.int64)
        if draws is None:
            box = centre_boxes(size, self.crop)[0]
        else:
            box = random_boxes(size, draws[None], self.scale, self.ratio)[0]
        # Twice the size that is wanted is left for the resampling proper.
        pixels = image.pixels(max(1, int(box[2:].min()) // (2 * self.resolution_px)))
        by = np.array(pixels.shape[:2], float) / size[0]
        (top, left), (height, width) = np.rint(box[:2] * by).astype(int), np.rint(box[2:] * by).astype(int).clip(1)
        piece = torch.from_numpy(pixels)[top : top + height, left : left + width]
        return resize_picture(piece, self.resolution_px, self.resolution_px, self.interpolation)


class _Files(Dataset[_Loaded]):
    """Image files for a DataLoader, whose index is a whole batch of requests: a damaged file needs its neighbours.

    Args:
        paths: All files of the split.
        recipe: What to make of them.
        replace: Whether the next file that decodes stands in for a damaged one, or the batch is shorter.
    """

    def __init__(self, paths: Sequence[Path], recipe: _Recipe, *, replace: bool) -> None:
        self._paths, self._recipe, self._replace = paths, recipe, replace

    def __getitem__(self, requests: list[_Request]) -> _Loaded:
        images, indices, damaged = [], [], []
        for request in requests:
            for further in range(_NEIGHBOURS + 1 if self._replace else 1):
                index = (request.index + further) % len(self._paths)
                path = self._paths[index]
                try:
                    images.append(self._recipe.make(path, request.draws))
                except Exception as error:
                    damaged.append(f"{path}: {reason_of(error)}")
                    continue
                indices.append(index)
                break
        side = self._recipe.resolution_px
        stacked = torch.stack(images) if images else torch.empty(0, side, side, 3, dtype=torch.uint8)
        return _Loaded(stacked, torch.tensor(indices, dtype=torch.int64), tuple(damaged))


@dataclass(eq=False)
class StreamedSplit:
    """A split of image files. The interface is that of ``Split``.

    The pixels are decoded by worker processes, in which nothing but files is read; mirroring and colours happen on the
    device. Where the system starts processes afresh (Windows, macOS), the main program needs the usual
    ``if __name__ == "__main__"``.

    A file that turns out to be damaged while it is decoded is noted in ``damaged``, with a warning: in training the
    next file that decodes stands in for it, in evaluation it is left out.
    """

    paths: tuple[Path, ...]
    """The file of each image."""
    labels: Tensor
    """Class number of each image, int64 [N] on the CPU."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of their numbers."""
    workers: int | None = None
    """Worker processes; 0 to decode in this process, None for as many as there are processors, up to 16."""
    damaged: list[str] = field(default_factory=list)
    """Files that could not be decoded when their turn came, as ``"path: reason"``; shared with subsets."""

    def __post_init__(self) -> None:
        if len(self.paths) != len(self.labels):
            raise ValueError(f"paths and labels must have one length, got {len(self.paths)}, {len(self.labels)}")

    @property
    def groups(self) -> Tensor:
        """Group of each image: each is its own. int64 [N] on the CPU."""
        return torch.arange(len(self.paths))

    def __len__(self) -> int:
        return len(self.paths)

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
        """The batches of one epoch, as ``Split.train_batches`` says."""

        def plan(start: int) -> Iterator[JointBatch]:
            return joint_batches(
                len(self), epoch, batch_size=batch_size, seed=seed, start_batch=start, rank=rank, world=world
            )

        recipe = _Recipe(
            resolution_px, augment.interpolation, 1.0, augment.crop_scale or (1.0, 1.0), augment.crop_ratio
        )
        ahead, behind = plan(start_batch), plan(start_batch)  # what workers are asked for; what has come back

        def requests() -> Iterator[list[_Request]]:
            for joint in ahead:
                draws = augment.draw(joint).crops if augment.crop_scale else [None] * len(joint.indices)
                yield [_Request(i, d) for i, d in zip(joint.indices.tolist(), draws, strict=True)]

        def batches() -> Iterator[Batch]:
            loaded_batches = self._load(requests(), recipe, batch_size // world, device, replace=True)
            for joint, loaded in zip(behind, loaded_batches, strict=True):
                if len(loaded.indices) != len(joint.indices):
                    raise SourceError(f"too many images cannot be decoded, e.g. {self.damaged[-1]}", "repair the data")
                images = augment.draw(joint).apply(loaded.images.to(device, non_blocking=True))
                yield Batch(images, moved(self.labels[loaded.indices], device), moved(loaded.indices, device))

        return batches()

    def eval_batches(
        self,
        *,
        batch_size: int,
        resolution_px: int,
        device: torch.device,
        crop: float,
        interpolation: Interpolation = "bicubic",
    ) -> Iterator[Batch]:
        """All images in order, as ``Split.eval_batches`` says."""
        recipe = _Recipe(resolution_px, interpolation, crop)
        requests = ([_Request(i, None) for i in rows.tolist()] for rows in eval_rows(len(self), batch_size))
        for loaded in self._load(requests, recipe, batch_size, device, replace=False):
            images = loaded.images.to(device, non_blocking=True).permute(0, 3, 1, 2)
            yield Batch(images, moved(self.labels[loaded.indices], device), moved(loaded.indices, device))

    def subset(self, indices: Sequence[int] | Tensor) -> StreamedSplit:
        """Some of the images, in the order given."""
        rows = rows_of(indices)
        paths = tuple(self.paths[i] for i in rows.tolist())
        return StreamedSplit(paths, self.labels[rows], self.classes, self.workers, self.damaged)

    def _load(
        self,
        requests: Iterator[list[_Request]],
        recipe: _Recipe,
        batch_size: int,
        device: torch.device,
        *,
        replace: bool,
    ) -> Iterator[_Loaded]:
        workers = _workers(self.workers, batch_size * recipe.resolution_px**2 * 3)
        loader = DataLoader(
            _Files(self.paths, recipe, replace=replace),
            sampler=_Requests(requests),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=_PREFETCH if workers else None,
            timeout=_TIMEOUT_S if workers else 0,
            pin_memory=device.type == "cuda",
            # A generator of its own: the loader would draw from the global one, and shift what the network draws.
            generator=torch.Generator().manual_seed(0),
        )
        known = set(self.damaged)
        for loaded in loader:
            for what in loaded.damaged:
                if what not in known:
                    known.add(what)
                    self.damaged.append(what)
                    warnings.warn(f"left out an image that does not decode: {what}", stacklevel=3)
            yield loaded


class _Requests(torch.utils.data.Sampler[list[_Request]]):
    """Hands requests to a DataLoader as they are made."""

    def __init__(self, requests: Iterator[list[_Request]]) -> None:
        self._requests = requests

    def __iter__(self) -> Iterator[list[_Request]]:
        return self._requests


def _workers(asked: int | None, batch_bytes: int) -> int:
    """Worker processes for batches of a size, fewer where shared memory (64 MB in many containers) would run out."""
    workers = min(usable_cpus(), _MAX_WORKERS) if asked is None else asked
    if workers and _SHARED_MEMORY.is_dir():
        room = shutil.disk_usage(_SHARED_MEMORY).free // (batch_bytes * (_PREFETCH + 1) + 1)
        workers = min(workers, room)
    return workers
