"""Folders and globs of images, and single ones, as a source."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from stream_ann.errors import DecodeError, SourceNotFoundError, UnsupportedSourceError, UsageError
from stream_ann.ingest.source import Picture, check_size, shown_path

__all__ = [
    "DEFAULT_IMAGE_FPS",
    "IMAGE_EXTENSIONS",
    "VIDEO_EXTENSIONS",
    "ImageSource",
    "find_images",
    "load_image",
    "natural_key",
]

_IMAGES = "avif bmp jfif jp2 jpe jpeg jpg pbm pgm png pnm ppm tga tif tiff webp"
_VIDEOS = "3gp avi flv gif h264 h265 hevc m2ts m4v mkv mov mp4 mpeg mpg mts mxf nut ogv ts vob webm wmv"
IMAGE_EXTENSIONS = frozenset(f".{ending}" for ending in _IMAGES.split())
"""Endings of files that are taken for images, in lower case. Not .gif: those are played like videos."""
VIDEO_EXTENSIONS = frozenset(f".{ending}" for ending in _VIDEOS.split())
"""Endings of files that are most likely videos, in lower case. Any other file is tried as one, too."""
DEFAULT_IMAGE_FPS = 1.0
"""How many images a second are shown: one, for photographs are there to be looked at, and none should be replaced by
the next. Give the true rate for the frames of a video."""


class ImageSource:
    """Images, one after the other. Image ``i`` has the timestamp ``i / fps``.

    An image that is damaged raises :class:`~stream_ann.errors.DecodeError`; the next call gives the next one.

    Args:
        paths: The files, in the order in which they are shown.
        name: What to call the source.
        fps: How many images a second.

    Raises:
        UnsupportedSourceError: If there are no files.
        UsageError: If ``fps`` is not above 0 and at most 1000.
    """

    live = False

    def __init__(self, paths: Sequence[str | os.PathLike[str]], *, name: str, fps: float = DEFAULT_IMAGE_FPS) -> None:
        if not paths:
            raise UnsupportedSourceError(f"'{name}' holds no images", "give image files")
        if not 0 < fps <= 1000:
            raise UsageError(f"images a second must be above 0 and at most 1000, got {fps:g}")
        self.name = name
        self.paths = tuple(Path(p) for p in paths)
        """The files, in the order in which they are shown."""
        self.fps = fps
        """Images a second."""
        self._next = self._given = 0

    def open(self) -> None:
        """Begin with the first image."""
        self._next = self._given = 0

    def read(self) -> Picture | None:
        """The next image; None after the last.

        Raises:
            DecodeError: If it is damaged, gone, or too large.
            UnsupportedSourceError: At the end, if not a single one could be read.
        """
        index = self._next
        if index == len(self.paths):
            if not self._given:
                raise UnsupportedSourceError(f"no image of '{self.name}' can be read", "check that they are complete")
            return None
        self._next += 1
        picture = Picture(load_image(self.paths[index]), index / self.fps)
        self._given += 1
        return picture

    def close(self) -> None:
        """Nothing is held open."""


def load_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read an image file: upright by its EXIF orientation, 8 bits a channel, transparency ignored.

    Args:
        path: The file. Of an animation, the first picture is read.

    Returns:
        uint8 [H, W, 3] RGB.

    Raises:
        DecodeError: If it cannot be read.
    """
    shown = shown_path(path)
    try:
        with Image.open(path) as opened:
            check_size(*opened.size, shown)
            opened.load()
            return np.ascontiguousarray(_eight_bit(ImageOps.exif_transpose(opened)))
    except DecodeError:
        raise
    except Image.DecompressionBombError as error:
        raise DecodeError(f"'{shown}' claims a size that is out of all proportion", "scale it down first") from error
    except FileNotFoundError as error:
        raise DecodeError(f"there is no file '{shown}' any more") from error
    except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no image, or is damaged"
        raise DecodeError(f"'{shown}' cannot be read: {reason}") from error


def _eight_bit(image: Image.Image) -> NDArray[np.uint8]:
    """RGB of 8 bits. Pillow clips greyscales of more bits when it converts them, instead of scaling them."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        if image.mode == "F" and values.max(initial=0.0) <= 1.0:
            values = values * 255
        elif image.mode != "F" and (image.mode.startswith("I;16") or values.max(initial=0) > 255):
            values = values / 257
        grey = np.clip(np.nan_to_num(values), 0, 255).round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "P":  # through RGBA, for Pillow warns of palettes with transparency
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def find_images(spec: str | os.PathLike[str]) -> list[Path]:
    """The image files of a folder (not of folders in it), or those that a glob finds, sorted as people count.

    Args:
        spec: A folder, or a pattern with ``*``, ``?``, ``[...]`` or ``**``.

    Raises:
        SourceNotFoundError: If a glob finds nothing.
        UnsupportedSourceError: If there are no images among what is found.
    """
    path, shown = Path(spec), shown_path(spec)
    try:
        found = list(path.iterdir()) if path.is_dir() else [Path(p) for p in glob.glob(os.fspath(spec), recursive=True)]
    except OSError as error:
        raise UnsupportedSourceError(f"the folder '{shown}' cannot be read: {error.strerror}") from error
    if not found and not path.is_dir():
        raise SourceNotFoundError(f"nothing matches '{shown}'", "check the pattern, and put it in quotes")
    images = [p for p in found if p.suffix.lower() in IMAGE_EXTENSIONS and not p.name.startswith(".") and p.is_file()]
    if not images:
        what = f"the folder '{shown}' holds no images" if path.is_dir() else f"no image matches '{shown}'"
        videos = sorted_naturally(p for p in found if p.suffix.lower() in VIDEO_EXTENSIONS)
        hint = (
            f"it holds videos: give one of them, such as {shown_path(videos[0])}" if videos else "give one with images"
        )
        raise UnsupportedSourceError(what, hint)
    return sorted_naturally(images)


def sorted_naturally(paths: Iterable[Path]) -> list[Path]:
    """Paths in the order in which people count: 9 before 10."""
    return sorted(paths, key=lambda p: (natural_key(str(p.parent)), natural_key(p.name)))


def natural_key(text: str) -> tuple[tuple[int, str], ...]:
    """A sort key for names with numbers in them: ``img9`` comes before ``img10``. Letters sort without their case."""
    parts = re.split(r"([0-9]+)", text.casefold())
    key = tuple((int(part), "") if part[:1].isdigit() and part.isascii() else (-1, part) for part in parts)
    return (*key, (-1, text))
