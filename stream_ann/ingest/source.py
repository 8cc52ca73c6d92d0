"""What every source of pictures has to offer."""

from __future__ import annotations

import os
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stream_ann.errors import DecodeError, SourceError
from stream_ann.ingest.retries import Retries
from stream_ann.text import clean

__all__ = [
    "MAX_PIXELS",
    "Cancellable",
    "Paced",
    "Picture",
    "Remarking",
    "Returning",
    "Source",
    "check_size",
    "shown_path",
]

MAX_PIXELS = 2**28 // 3
"""Pictures of more pixels than this (89 megapixels, 256 MiB as RGB) are refused: a file of a few kilobytes can claim a
size that takes all memory. The same bound as Pillow's."""


class Picture(NamedTuple):
    """One picture as a source gives it."""

    image: NDArray[np.uint8]
    """uint8 [H, W, 3], RGB, upright, C-contiguous. Owned by whoever gets it."""
    pts_s: float | None
    """Presentation time in the source, in seconds, or None where the source does not say."""
    suspect: bool = False
    """Whether parts of it may be wrong, since data were lost on the way."""


class Source(Protocol):
    """Something that gives pictures one after the other.

    ``open``, ``read`` and ``close`` are called from one and the same thread.
    """

    @property
    def name(self) -> str:
        """What the source is called in results and on the screen. Passwords in it are redacted."""
        ...

    @property
    def live(self) -> bool:
        """Whether pictures come at their own pace and cannot wait, as from a camera."""
        ...

    def open(self) -> None:
        """Get ready to read.

        Raises:
            SourceError: If the source cannot be opened.
        """
        ...

    def read(self) -> Picture | None:
        """The next picture, or None at the end. Blocks until there is one.

        Raises:
            DecodeError: If one picture is damaged; the next call goes on behind it.
            SourceError: If the source has failed for good.
        """
        ...

    def close(self) -> None:
        """Let go of files and devices. May be called more than once, and after any failure."""
        ...


@runtime_checkable
class Cancellable(Protocol):
    """A source whose ``read`` may wait long, and which can be told to give up."""

    def cancel(self) -> None:
        """Make a waiting ``read``, and all later ones, end at once. Called from another thread, at any time."""
        ...


@runtime_checkable
class Returning(Protocol):
    """A live source that is opened again when it fails: what it gives has no end but the user's."""

    @property
    def retries(self) -> Retries | None:
        """How often, and from when on; None to let it end."""
        ...


@runtime_checkable
class Paced(Protocol):
    """A source that says for itself whether its pictures are to be held back until their time."""

    @property
    def paced(self) -> bool:
        """Whether pictures come faster than they are to be shown. Known once the source is open."""
        ...


@runtime_checkable
class Remarking(Protocol):
    """A source that may have something to say though it works."""

    @property
    def remark(self) -> str:
        """In one line fit to be shown; empty where there is nothing. Known once the first picture is there."""
        ...


def check_size(width_px: int, height_px: int, name: str, *, error: type[SourceError] = DecodeError) -> None:
    """Refuse a picture that would take too much memory.

    Raises:
        SourceError: Of the class given, if it has more than :data:`MAX_PIXELS` pixels.
    """
    if width_px * height_px > MAX_PIXELS:
        raise error(
            f"'{name}' is {width_px}x{height_px}, more than {MAX_PIXELS // 10**6} megapixels", "scale it down first"
        )


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path as it can be printed anywhere, on one line, whatever bytes are in it."""
    return clean(os.fspath(path))
