"""Data sets to train and evaluate on: a folder of images, a folder of video clips, or a public set by name.

What fits into the memory limit is decoded once and kept as 8-bit pixels, on the GPU where it has room. What does not is
decoded anew each epoch by worker processes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from stream_ann.errors import SourceError, SourceNotFoundError, UsageError, nearest
from stream_ann.training.folder import choose_classes, read_layout
from stream_ann.training.images import Progress
from stream_ann.training.loading import FolderLoader
from stream_ann.training.made import synthetic
from stream_ann.training.memory import MemorySplit, PixelStore
from stream_ann.training.named import ARRAY_NAMES, NAMES, ArrayName, ArraySet, data_home, fetch_imagenette, read_arrays
from stream_ann.training.randomness import generator
from stream_ann.training.split import Batch, Data, Split, holdout

__all__ = ["MEMORY_LIMIT_BYTES", "Batch", "Data", "Split", "holdout", "memory_limit_bytes", "open_data", "synthetic"]

MEMORY_LIMIT_BYTES = 2 * 2**30
"""Decoded images are kept in memory up to this, or up to a quarter of the machine's memory where that is less."""


def open_data(
    spec: str | os.PathLike[str],
    *,
    val_fraction: float = 0.1,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    download: bool = True,
    limit_per_class: int | None = None,
    short_side_px: int = 320,
    frames_per_clip: int = 16,
    memory_limit: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Data:
    """Open a data set.

    A folder has either ``train/CLASS/…`` and ``val/CLASS/…`` (also ``valid``, ``validation`` or ``test``), or
    ``CLASS/…`` alone, of which a part is held out. The files are images, or video clips; of a clip all frames are on
    the same side. Files that do not decode are left out and listed in ``Data.skipped``.

    Args:
        spec: ``cifar10``, ``cifar100``, ``fashion-mnist``, ``imagenette``, or a folder (``./cifar10`` for a folder of
            such a name).
        val_fraction: Share of each class that is held out, where the data has no part to evaluate on, over 0 and
            under 1.
        seed: Seed of what is held out, and of ``limit_per_class``.
        classes: The classes to use, numbered in this order; None for all.
        root: Where sets with a name are kept; None for ``$STREAM_ANN_DATA`` or the user's cache folder.
        download: Whether a set with a name may be downloaded.
        limit_per_class: At most so many images or clips of each class, in each part, chosen at random; None for all.
        short_side_px: Photographs kept in memory are reduced to this shorter side. 1.25 times the training resolution
            leaves room for random crops and for the evaluation's centre square.
        frames_per_clip: Frames taken from each clip, evenly in time.
        memory_limit: Bytes that decoded images may take; None for ``MEMORY_LIMIT_BYTES`` or a quarter of the machine's
            memory. Photographs beyond it are streamed; frames of clips are kept smaller.
        workers: Worker processes that decode streamed images; None for as many as there are processors, up to 16.
        progress: Told how many files are done of how many.

    Raises:
        SourceNotFoundError: There is neither a folder nor a set of that name.
        SourceError: The folder lacks what training needs (two classes, images in each, the same classes in both parts),
            none of its files decodes, or a set with a name cannot be had.
        UsageError: An option makes no sense.
    """
    if not 0 < val_fraction < 1:
        raise UsageError(f"the fraction held out must be over 0 and under 1, got {val_fraction}")
    for what, value in (("short_side_px", short_side_px), ("frames_per_clip", frames_per_clip)):
        if value < 1:
            raise UsageError(f"{what} must be 1 or more, got {value}")
    if workers is not None and workers < 0:
        raise UsageError(f"workers must be 0 or more, got {workers}")
    limit_bytes = memory_limit_bytes() if memory_limit is None else memory_limit
    home = data_home() if root is None else Path(root).expanduser()
    name = os.fspath(spec)
    if name in ARRAY_NAMES:
        if limit_per_class is not None and limit_per_class < 1:
            raise UsageError(f"the limit per class must be 1 or more, got {limit_per_class}")
        found = read_arrays(cast(ArrayName, name), home, download=download)
        return _open_arrays(found, name, classes, limit_per_class, seed)

    folder = Path(name).expanduser()
    shown: dict[str, str] = {}
    if name == "imagenette":
        folder, shown = fetch_imagenette(home, download=download)
        by_name = {label: wnid for wnid, label in shown.items()}
        classes = None if classes is None else [by_name.get(c, c) for c in classes]
    elif not folder.exists():
        raise SourceNotFoundError(f"there is no folder '{name}', nor a data set of that name", nearest(name, NAMES))
    layout = read_layout(folder, classes=classes, limit_per_class=limit_per_class, seed=seed)
    names = tuple(shown.get(c, c) for c in layout.classes)
    loader = FolderLoader(folder, names, short_side_px, limit_bytes, progress)
    listings = [layout.train] if layout.val is None else [layout.train, layout.val]
    parts = loader.clips(listings, frames_per_clip) if layout.kind == "clips" else loader.images(listings, workers)
    if len(parts) == 2:
        train, val = parts
    else:
        train, val = holdout(parts[0], val_fraction, seed)
        _check_held_out(train, val, "clip" if layout.kind == "clips" else "image")
    return Data(name if shown else folder.resolve().name, train, val, tuple(loader.skipped), loader.side_px)


def memory_limit_bytes() -> int:
    """What decoded images may take by default: 2 GiB, or a quarter of the machine's memory where that is less."""
    try:
        return min(MEMORY_LIMIT_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4)
    except (AttributeError, OSError, ValueError):  # not on every system
        return MEMORY_LIMIT_BYTES


def _open_arrays(
    found: ArraySet, name: str, classes: Sequence[str] | None, limit_per_class: int | None, seed: int
) -> Data:
    splits = []
    for number, (images, labels) in enumerate((found.train, found.val)):
        split: Split = MemorySplit(PixelStore.of_batch(images), labels, found.classes)
        if classes is not None or limit_per_class is not None:
            split = _reduced(split, images, name, classes, limit_per_class, seed + number)
        splits.append(split)
    side_px = found.train[0].shape[1] if found.train[0].shape[1] == found.train[0].shape[2] else 0
    return Data(name, splits[0], splits[1], resolution_px=side_px)


def _reduced(
    split: Split, images: Tensor, name: str, classes: Sequence[str] | None, limit: int | None, seed: int
) -> Split:
    """Only some classes of a split, in their order, and only some images of each."""
    chosen = choose_classes(list(split.classes), name, classes)
    rows, labels = [], []
    for label, called in enumerate(chosen):
        of_class = (split.labels == split.classes.index(called)).nonzero()[:, 0]
        if limit is not None:
            of_class = of_class[torch.randperm(len(of_class), generator=generator("limit", seed, label))[:limit]]
        rows.append(of_class)
        labels.append(torch.full((len(of_class),), label))
    picked, order = torch.cat(rows).sort()
    return MemorySplit(PixelStore.of_batch(images[picked]), torch.cat(labels)[order], chosen)


def _check_held_out(train: Split, val: Split, unit: str) -> None:
    missing = set(train.labels.tolist()) - set(val.labels.tolist())
    if missing:
        name = train.classes[min(missing)]
        raise SourceError(
            f"class '{name}' has one {unit} only, so that none can be held out to evaluate on", f"add {unit}s to it"
        )
