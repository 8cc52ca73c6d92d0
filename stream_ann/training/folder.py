"""Folders of classes: what is in them, and whether that is enough to train on. Nothing is decoded here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from stream_ann.errors import SourceError, SourceNotFoundError, UnsupportedSourceError, UsageError, nearest
from stream_ann.training.images import IMAGE_SUFFIXES
from stream_ann.training.randomness import generator

__all__ = ["VIDEO_SUFFIXES", "Layout", "Listing", "choose_classes", "read_layout"]

VIDEO_SUFFIXES = frozenset(
    (".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv")
)
"""How the names of video clips end, in lower case."""

TRAIN = "train"
VAL_NAMES = ("val", "valid", "validation", "test")
"""Names of the folder to evaluate on beside ``train``; the first that exists counts."""

_LAYOUT = "give a folder that holds one folder of images per class, or train/ and val/ with such folders"


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of one split."""

    paths: tuple[Path, ...]
    """Sorted by class, then by path."""
    labels: tuple[int, ...]
    """Class number of each."""

    def kept(self, rows: Sequence[int]) -> Listing:
        """Only some of the files."""
        return Listing(tuple(self.paths[i] for i in rows), tuple(self.labels[i] for i in rows))


@dataclass(frozen=True, slots=True)
class Layout:
    """What a folder holds."""

    classes: tuple[str, ...]
    """Names of the classes, in the order of their numbers."""
    kind: Literal["clips", "images"]
    """What all files are."""
    train: Listing
    """The files to train on, or all of them."""
    val: Listing | None
    """The files to evaluate on; None where a part of the others has to be held out."""


def read_layout(
    root: Path, *, classes: Sequence[str] | None = None, limit_per_class: int | None = None, seed: int = 0
) -> Layout:
    """What a folder holds, in one of two layouts.

    ``root/train/CLASS/…`` with ``root/val/CLASS/…`` (or ``valid``, ``validation``, ``test``), or ``root/CLASS/…``
    alone; ``root/train/CLASS/…`` alone is taken as the second. Class folders are searched through to the bottom. Names
    that begin with a dot are passed over, and so is whatever is neither an image nor a clip by its name.

    Args:
        root: The folder.
        classes: The classes to use, which are numbered in this order; None for all, in the order of their names.
        limit_per_class: At most so many files of each class in each split, chosen at random.
        seed: Seed of that choice.

    Raises:
        SourceNotFoundError: There is no such folder.
        UnsupportedSourceError: It is not a folder.
        SourceError: It has fewer than two classes, an empty one, or one that only one of the splits has.
        UsageError: ``classes`` names an unknown class, one twice or fewer than two; or the limit makes no sense.
    """
    if limit_per_class is not None and limit_per_class < 1:
        raise UsageError(f"the limit per class must be 1 or more, got {limit_per_class}")
    if not root.exists():
        raise SourceNotFoundError(f"there is no folder '{root}'", "check the path")
    if not root.is_dir():
        raise UnsupportedSourceError(f"'{root}' is a file", _LAYOUT)
    try:
        train_root, val_root = _roots(root)
        names = choose_classes(_folders(train_root), train_root, classes)
        train, kinds = _listing(train_root, names)
        val = None
        if val_root is not None:
            _check_same_classes(names, _folders(val_root), val_root, partly=classes is not None)
            val, val_kinds = _listing(val_root, names)
            kinds |= val_kinds
    except OSError as error:
        raise SourceError(f"'{error.filename or root}' cannot be read: {error.strerror}", "check its rights") from error
    if len(kinds) > 1:
        raise SourceError(f"'{root}' holds both images and video clips", "keep one kind")
    for where, listing in ((train_root, train), (val_root, val)):
        if listing is not None:
            _check_none_empty(names, listing, where)
    if limit_per_class is not None:
        train = _limited(train, limit_per_class, seed)
        val = val and _limited(val, limit_per_class, seed)
    return Layout(names, "clips" if kinds == {"clips"} else "images", train, val)


def _roots(root: Path) -> tuple[Path, Path | None]:
    """The folders that hold the class folders to train on and to evaluate on."""
    train = root / TRAIN
    if train.is_dir() and not any(train.iterdir()):
        raise SourceError(f"'{train}' is empty", _LAYOUT)
    # A class may itself be called "train": then there are files in its folder, or other classes beside it.
    if not train.is_dir() or not _folders(train):
        return root, None
    for name in VAL_NAMES:
        if (root / name).is_dir() and _folders(root / name):
            return train, root / name
    if any((root / name).is_dir() for name in VAL_NAMES):
        empty = next(root / name for name in VAL_NAMES if (root / name).is_dir())
        raise SourceError(f"'{empty}' has no class folders", "fill it, or remove it to hold out a part of train/")
    return (train, None) if _folders(root) == [TRAIN] else (root, None)


def _folders(root: Path) -> list[str]:
    """Names of the folders in a folder, sorted as Python sorts text."""
    return sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def choose_classes(found: list[str], root: str | Path, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The classes asked for, in the order asked for, or all.

    Args:
        found: Those that there are.
        root: Where, for the messages.
        classes: Those asked for; None for all.

    Raises:
        SourceError: There are fewer than two.
        UsageError: Fewer than two are asked for, one twice, or one that is not there.
    """
    if not found:
        raise SourceError(f"'{root}' has no class folders", _LAYOUT)
    if len(found) == 1 and classes is None:
        raise SourceError(f"'{root}' has one class only, '{found[0]}'", "training needs two classes or more")
    if classes is None:
        return tuple(found)
    for name in classes:
        if name not in found:
            raise UsageError(f"'{root}' has no class '{name}'", nearest(name, found))
    if len(set(classes)) != len(classes):
        raise UsageError(f"a class is named twice: {', '.join(classes)}", "name each once")
    if len(classes) < 2:
        raise UsageError(f"training needs two classes or more, got {', '.join(classes) or 'none'}", "name more")
    return tuple(classes)


def _check_same_classes(names: Sequence[str], found: list[str], root: Path, *, partly: bool) -> None:
    missing = [name for name in names if name not in found]
    if missing:
        raise SourceError(f"'{root}' lacks {_shown(missing)}", "give every class images to evaluate on")
    unknown = [name for name in found if name not in names]
    if unknown and not partly:
        raise SourceError(f"'{root}' has {_shown(unknown)}, which train lacks", "give every class images to train on")


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"class{'es' if len(names) > 1 else ''} " + ", ".join(f"'{n}'" for n in names[:5]) + more


def _listing(root: Path, names: Sequence[str]) -> tuple[Listing, set[Literal["clips", "images"]]]:
    paths: list[Path] = []
    labels: list[int] = []
    kinds: set[Literal["clips", "images"]] = set()
    for label, name in enumerate(names):
        for path in _files(root / name):
            suffix = path.suffix.lower()
            if suffix in IMAGE_SUFFIXES:
                kinds.add("images")
            elif suffix in VIDEO_SUFFIXES:
                kinds.add("clips")
            else:
                continue
            paths.append(path)
            labels.append(label)
    return Listing(tuple(paths), tuple(labels)), kinds


def _files(folder: Path) -> list[Path]:
    """The regular files at any depth, sorted. Links to folders inside are not followed: they may run in circles."""
    found: list[Path] = []
    for where, inner, files in os.walk(folder, onerror=_raise):
        inner[:] = [name for name in inner if not name.startswith(".")]
        paths = (Path(where, name) for name in files if not name.startswith("."))
        found += [path for path in paths if path.is_file()]  # a pipe would block whoever opens it
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _check_none_empty(names: Sequence[str], listing: Listing, root: Path | None) -> None:
    present = set(listing.labels)
    empty = [name for label, name in enumerate(names) if label not in present]
    if len(empty) == len(names):
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise SourceError(f"no class folder of '{root}' holds images or clips", f"images end in {kinds}")
    if empty:
        raise SourceError(f"'{root}' has nothing in {_shown(empty)}", "add images, or remove the folder")


def _limited(listing: Listing, limit: int, seed: int) -> Listing:
    labels = torch.tensor(listing.labels)
    kept: list[int] = []
    for label in sorted(set(listing.labels)):
        rows = (labels == label).nonzero()[:, 0]
        order = torch.randperm(len(rows), generator=generator("limit", seed, label))[:limit]
        kept += rows[order].tolist()
    return listing.kept(sorted(kept))
