"""A split whose images are all in memory, decoded: on the device where they fit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_ann.errors import UsageError
from stream_ann.preprocess import Interpolation
from stream_ann.training.augment import Augment, centre_boxes
from stream_ann.training.moving import moved
from stream_ann.training.randomness import joint_batches
from stream_ann.training.resample import resize_batch, resize_boxes
from stream_ann.training.split import Batch

__all__ = ["MemorySplit", "PixelStore", "eval_rows", "rows_of"]

_DEVICE_SHARE = 0.5
"""Images move to a GPU where they take at most this share of its free memory."""


class PixelStore:
    """Decoded images of any sizes, back to back in one tensor.

    Args:
        pixels: All images as uint8 [bytes], each [h, w, 3] RGB row by row.
        sizes_px: Height and width of each, int64 [N, 2].
    """

    def __init__(self, pixels: Tensor, sizes_px: NDArray[np.int64]) -> None:
        self._sizes_px = sizes_px
        self._ends = np.concatenate([[0], np.cumsum(sizes_px.prod(1) * 3)])
        if pixels.dtype != torch.uint8 or pixels.ndim != 1 or len(pixels) != self._ends[-1]:
            raise ValueError(f"pixels must be uint8 [{self._ends[-1]}], got {pixels.dtype} {list(pixels.shape)}")
        self._pixels = {pixels.device: pixels}
        self._home = pixels.device
        self._one_size = len(sizes_px) > 0 and bool((sizes_px == sizes_px[0]).all())

    @classmethod
    def of_batch(cls, images: Tensor | NDArray[np.uint8]) -> PixelStore:
        """Images of one size, uint8 [N, H, W, 3]."""
        images = torch.as_tensor(images)
        sizes = np.tile(np.array(images.shape[1:3], np.int64), (len(images), 1))
        return cls(images.reshape(-1), sizes)

    @classmethod
    def of_list(cls, images: list[NDArray[np.uint8]]) -> PixelStore:
        """Images of any sizes, uint8 [h, w, 3] each. The list is emptied, so that no image is held twice for long."""
        sizes = np.array([image.shape[:2] for image in images], np.int64).reshape(-1, 2)
        pixels = torch.empty(int(sizes.prod(1).sum()) * 3, dtype=torch.uint8)
        end = len(pixels)
        while images:
            flat = images.pop().reshape(-1)
            pixels.numpy()[end - len(flat) : end] = flat
            end -= len(flat)
        return cls(pixels, sizes)

    @classmethod
    def of_parts(cls, parts: Sequence[tuple[PixelStore, Tensor]]) -> PixelStore:
        """Some images of several stores: each a store and the numbers of its images, int64 [n] on the CPU."""
        pixels, sizes = [], []
        for store, rows in parts:
            flat, ends = store._pixels[store._home], store._ends
            pixels += [flat[ends[row] : ends[row + 1]] for row in rows.tolist()]
            sizes.append(store._sizes_px[rows.numpy()])
        return cls(torch.cat(pixels), np.concatenate(sizes))

    def __len__(self) -> int:
        return len(self._sizes_px)

    @property
    def side_px(self) -> int:
        """Side of the images, where all are squares of one size; else 0."""
        if self._one_size and self._sizes_px[0, 0] == self._sizes_px[0, 1]:
            return int(self._sizes_px[0, 0])
        return 0

    def sizes_px(self, rows: Tensor) -> NDArray[np.int64]:
        """Height and width of some images, int64 [B, 2]."""
        chosen: NDArray[np.int64] = self._sizes_px[rows.numpy()]
        return chosen

    def cut(
        self,
        rows: Tensor,
        boxes: NDArray[np.int64],
        resolution_px: int,
        interpolation: Interpolation,
        device: torch.device,
    ) -> Tensor:
        """Boxes of some images, resized to squares.

        Args:
            rows: Numbers of the images, int64 [B] on the CPU.
            boxes: Top, left, height and width of each box in pixels, int64 [B, 4].
            resolution_px: Side R of the squares.
            interpolation: How they are resized.
            device: Where they are wanted.

        Returns:
            uint8 [B, R, R, 3] of its own memory.
        """
        pixels = self._on(device)
        if self._one_size and len(rows) and bool((boxes == boxes[0]).all()):
            height, width = self._sizes_px[0].tolist()
            top, left, h, w = boxes[0].tolist()
            chosen = pixels.view(-1, height, width, 3).index_select(0, moved(rows, pixels.device))
            resized = resize_batch(chosen[:, top : top + h, left : left + w], resolution_px, interpolation)
        else:
            pieces = []
            for row, (top, left, h, w) in zip(rows.tolist(), boxes.tolist(), strict=True):
                height, width = self._sizes_px[row].tolist()
                image = pixels[self._ends[row] : self._ends[row + 1]].view(height, width, 3)
                pieces.append(image[top : top + h, left : left + w])
            resized = resize_boxes(pieces, resolution_px, interpolation)
        return resized.to(device, non_blocking=True)

    def _on(self, device: torch.device) -> Tensor:
        """The pixels on the device, or at home where the device has no room for them."""
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        if device not in self._pixels:
            pixels = self._pixels[self._home]
            fits = True
            if device.type == "cuda":
                free_bytes, _ = torch.cuda.mem_get_info(device)
                fits = len(pixels) <= _DEVICE_SHARE * free_bytes
            self._pixels[device] = pixels.to(device) if fits else pixels
        return self._pixels[device]


class MemorySplit:
    """A split of images in memory. The interface is that of ``Split``.

    Args:
        store: The images.
        labels: Class number of each image of the split, int64 [N].
        classes: Names of the classes.
        groups: Group of each image, int64 [N]; None where each is a group of its own.
        rows: Number of each image in the store, int64 [N]; None for all of them in order.
    """

    def __init__(
        self,
        store: PixelStore,
        labels: Tensor,
        classes: Sequence[str],
        *,
        groups: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> None:
        self._store = store
        self._rows = torch.arange(len(store)) if rows is None else rows
        self._labels = labels.to(torch.int64)
        self._groups = torch.arange(len(self._labels)) if groups is None else groups
        self._classes = tuple(classes)
        if not len(self._rows) == len(self._labels) == len(self._groups):
            raise ValueError(
                f"rows, labels and groups must have one length, got {len(self._rows)}, {len(self._labels)}, "
                f"{len(self._groups)}"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        return self._classes

    @property
    def labels(self) -> Tensor:
        """Class number of each image, int64 [N] on the CPU."""
        return self._labels

    @property
    def groups(self) -> Tensor:
        """Group of each image, int64 [N] on the CPU."""
        return self._groups

    def __len__(self) -> int:
        return len(self._rows)

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
        plan = joint_batches(
            len(self), epoch, batch_size=batch_size, seed=seed, start_batch=start_batch, rank=rank, world=world
        )

        def batches() -> Iterator[Batch]:
            for joint in plan:
                rows = self._rows[joint.indices]
                variation = augment.draw(joint)
                boxes = variation.boxes(self._store.sizes_px(rows))
                squares = self._store.cut(rows, boxes, resolution_px, augment.interpolation, device)
                yield self._batch(variation.apply(squares), joint.indices, device)

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
        for indices in eval_rows(len(self), batch_size):
            rows = self._rows[indices]
            boxes = centre_boxes(self._store.sizes_px(rows), crop)
            squares = self._store.cut(rows, boxes, resolution_px, interpolation, device)
            yield self._batch(squares.permute(0, 3, 1, 2), indices, device)

    def subset(self, indices: Sequence[int] | Tensor) -> MemorySplit:
        """Some of the images, in the order given; the pixels are shared."""
        chosen = rows_of(indices)
        return MemorySplit(
            self._store, self._labels[chosen], self._classes, groups=self._groups[chosen], rows=self._rows[chosen]
        )

    @classmethod
    def joined(cls, splits: Sequence[MemorySplit], classes: Sequence[str], labels: Tensor | None = None) -> MemorySplit:
        """The images of several splits one after another, with labels of their own.

        Args:
            splits: The splits; what they say about labels, classes and groups is dropped.
            classes: Names of the classes.
            labels: Class number of each image, int64 [N]; None for 0 throughout.
        """
        store = PixelStore.of_parts([(split._store, split._rows) for split in splits])
        labels = torch.zeros(len(store), dtype=torch.int64) if labels is None else labels
        return cls(store, labels, classes)

    def labelled(self, labels: Tensor) -> MemorySplit:
        """The same images with other labels, int64 [N]; the pixels are shared."""
        return MemorySplit(self._store, labels, self._classes, groups=self._groups, rows=self._rows)

    def _batch(self, images: Tensor, indices: Tensor, device: torch.device) -> Batch:
        return Batch(images, moved(self._labels[indices], device), moved(indices, device))


def rows_of(indices: Sequence[int] | Tensor) -> Tensor:
    """Numbers of images as int64 [N] on the CPU."""
    return torch.as_tensor(indices, dtype=torch.int64).reshape(-1).cpu()


def eval_rows(images: int, batch_size: int) -> Iterator[Tensor]:
    """The numbers of all images in order, in batches of which the last may be smaller, int64 [B] each."""
    if batch_size < 1:
        raise UsageError(f"the batch size must be 1 or more, got {batch_size}")
    for batch in range(math.ceil(images / batch_size)):
        yield torch.arange(batch * batch_size, min(images, (batch + 1) * batch_size))
