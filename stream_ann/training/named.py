"""Public data sets by name, through torchvision, which downloads them and checks what it has downloaded.

The python version of CIFAR is stored in pickles. Torchvision reads them with ``pickle`` after comparing their MD5 with
the one it was released with; nothing else here reads pickles.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from stream_ann.errors import SourceError

__all__ = ["ARRAY_NAMES", "NAMES", "ArrayName", "ArraySet", "data_home", "fetch_imagenette", "read_arrays"]

ArrayName = Literal["cifar10", "cifar100", "fashion-mnist"]
"""The data sets that come as arrays of small images."""
ARRAY_NAMES: tuple[str, ...] = get_args(ArrayName)
NAMES: tuple[str, ...] = (*ARRAY_NAMES, "imagenette")
"""All data sets known by name."""

IMAGENETTE_SIZE = "320px"
"""The version whose shorter sides are 320 pixels: enough for networks of up to 280, at a quarter of the download."""


@dataclass(frozen=True, slots=True, eq=False)
class ArraySet:
    """A data set of small images of one size."""

    classes: tuple[str, ...]
    """Names of the classes."""
    train: tuple[Tensor, Tensor]
    """Images uint8 [N, H, W, 3] and labels int64 [N]."""
    val: tuple[Tensor, Tensor]
    """Likewise: what the set calls its test split."""


def data_home() -> Path:
    """Where data sets are kept: ``$STREAM_ANN_DATA``, or ``stream_ann/data`` in the user's cache folder."""
    if named := os.environ.get("STREAM_ANN_DATA"):
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "stream_ann" / "data"


def read_arrays(name: ArrayName, root: Path, *, download: bool) -> ArraySet:
    """One of the sets that come as arrays.

    Args:
        name: Which.
        root: Folder under which torchvision keeps it.
        download: Whether it may be downloaded where it is missing.

    Raises:
        SourceError: It is not there, is damaged, or cannot be downloaded.
    """
    from torchvision import datasets  # takes a second to import

    makers: dict[ArrayName, Callable[..., Any]] = {
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
        "fashion-mnist": datasets.FashionMNIST,
    }
    train, val = (_fetched(name, root, download, makers[name], train=train) for train in (True, False))
    return ArraySet(tuple(train.classes), _arrays(train), _arrays(val))


def fetch_imagenette(root: Path, *, download: bool) -> tuple[Path, dict[str, str]]:
    """Imagenette as a folder with train and val, and the name of the class in each of its folders.

    Args:
        root: Folder under which torchvision keeps it.
        download: Whether it may be downloaded where it is missing.

    Raises:
        SourceError: It is not there, or cannot be downloaded.
    """
    from torchvision import datasets

    found = _fetched("imagenette", root, download, datasets.Imagenette, split="train", size=IMAGENETTE_SIZE)
    names = {folder: names[0] for folder, names in zip(found.wnids, found.classes, strict=True)}
    return root / f"imagenette2-{IMAGENETTE_SIZE.removesuffix('px')}", names


def _fetched(name: str, root: Path, download: bool, maker: Callable[..., Any], **options: Any) -> Any:
    with contextlib.redirect_stdout(sys.stderr):  # torchvision talks on stdout, which is for data
        try:
            return maker(root, download=False, **options)
        except (RuntimeError, OSError, ValueError, EOFError, KeyError) as error:
            if not download:
                raise SourceError(
                    f"{name} is not in '{root}', or is damaged", "allow the download, or name the folder that holds it"
                ) from error
        try:
            root.mkdir(parents=True, exist_ok=True)
            return maker(root, download=True, **options)
        except (RuntimeError, OSError, ValueError, EOFError, KeyError) as error:
            reason = getattr(error, "reason", None) or (getattr(error, "strerror", None)) or str(error)
            raise SourceError(
                f"{name} cannot be downloaded to '{root}': {reason}",
                f"check the network and the disk, or put {name} there",
            ) from error


def _arrays(found: Any) -> tuple[Tensor, Tensor]:
    images = torch.as_tensor(found.data)
    if images.ndim == 3:  # greyscale
        images = images[..., None].expand(-1, -1, -1, 3)
    return images.contiguous(), torch.as_tensor(found.targets, dtype=torch.int64)
