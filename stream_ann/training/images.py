"""Image files as training needs them: their size before they are decoded, then RGB pixels, upright."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from stream_ann.errors import SourceError
from stream_ann.text import clean
from stream_ann.training.resample import resize_picture

__all__ = [
    "IMAGE_SUFFIXES",
    "Progress",
    "StoredImage",
    "in_threads",
    "load_image",
    "reason_of",
    "shrink",
    "usable_cpus",
    "why_unusable",
]

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
"""How the names of image files end, in lower case."""

Progress = Callable[[int, int], None]
"""Told how many files are done and how many there are, on the thread that asked for them."""

_ORIENTATION_TAG = 0x0112
_TAIL_BYTES = 4096
_CHUNK = 8
"""Items that a thread takes at a time."""
_WAIT_S = 600.0
"""No single file may take longer than this, on a network drive that hangs for example."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class StoredImage:
    """An image file whose header has been read.

    Args:
        path: The file.

    Raises:
        Exception: The file cannot be read or holds no image. Pillow's parsers raise whatever comes up, so that callers
            catch everything and pass it to ``reason_of``.
    """

    def __init__(self, path: Path) -> None:
        self._image = Image.open(path)
        try:
            self._orientation = int(self._image.getexif().get(_ORIENTATION_TAG, 1))
        except Exception:  # a damaged header beside whole pixels: shown as it is stored
            self._orientation = 1
        width, height = self._image.size
        turned = 5 <= self._orientation <= 8
        self.height_px: int = width if turned else height
        """Height as it is to be seen."""
        self.width_px: int = height if turned else width
        """Width as it is to be seen."""

    @property
    def ending(self) -> bytes | None:
        """What the end of a whole file of this kind holds; None where that is not known."""
        return {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}.get(self._image.format or "")

    def close(self) -> None:
        """Close the file, where it is not decoded."""
        self._image.close()

    def pixels(self, reduction: int = 1) -> NDArray[np.uint8]:
        """The decoded image, uint8 [h, w, 3] RGB. Call it once.

        Transparency is dropped, not blended; of an animation the first picture counts; 16 bits a channel become 8.

        Args:
            reduction: The size may be divided by as much as this, where that saves decoding time: in JPEG by 2, 4 or 8.

        Raises:
            Exception: The data is damaged, or of a kind that has no natural colours.
        """
        image = self._image
        with image:
            if reduction > 1 and isinstance(image, JpegImagePlugin.JpegImageFile):
                image.draft(image.mode, (-(-image.width // reduction), -(-image.height // reduction)))
            return _upright(_rgb(image), self._orientation)


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    mode = image.mode
    if mode == "F":
        raise ValueError("floating-point pixels have no range that is known")
    if mode == "I" or mode.startswith("I;"):
        # Pillow itself would clip at 255. "I" is what it makes of 16-bit files in formats without a mode of their own.
        high = (np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8)
        return np.repeat(high[..., None], 3, axis=2)
    if mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"), np.uint8)


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turned and mirrored as the EXIF orientation, 1 to 8, asks for."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def shrink(pixels: NDArray[np.uint8], short_side_px: int) -> NDArray[np.uint8]:
    """uint8 [h, w, 3] with its shorter side reduced to ``short_side_px``, where it is longer; the aspect is kept."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    if short <= short_side_px:
        return pixels
    size = (max(1, round(height * short_side_px / short)), max(1, round(width * short_side_px / short)))
    return np.ascontiguousarray(resize_picture(torch.from_numpy(pixels), *size, "bicubic").numpy())


def load_image(path: Path, short_side_px: int) -> NDArray[np.uint8] | str:
    """An image with its shorter side at most so long, uint8 [h, w, 3], or in a few words why it cannot be had."""
    try:
        image = StoredImage(path)
        # Twice the size that is wanted is left for the resampling proper.
        reduction = min(image.height_px, image.width_px) // (2 * short_side_px)
        return shrink(image.pixels(max(1, reduction)), short_side_px)
    except Exception as error:
        return reason_of(error)


def why_unusable(path: Path) -> str:
    """Why an image cannot be used, in a few words; empty where header and end of the file look whole.

    JPEG and PNG files are not decoded for it unless their end is missing; other kinds are.
    """
    try:
        image = StoredImage(path)
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            tail = file.read()
        if image.ending is None or image.ending not in tail:
            image.pixels(8)
        else:
            image.close()
    except Exception as error:
        return reason_of(error)
    return ""


def reason_of(error: BaseException) -> str:
    """Why a file was left out, in a few words on one line, without its path."""
    match error:
        case UnidentifiedImageError():
            return "not an image, or of a kind that Pillow does not know"
        case Image.DecompressionBombError():
            return "too many pixels"
        case MemoryError():
            return "not enough memory"
        case OSError() if error.errno is not None:
            return os.strerror(error.errno)
    return clean(str(error))[:120] or type(error).__name__


def usable_cpus() -> int:
    """Processors that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def in_threads(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    done: Callable[[int, Result], bool],
    progress: Progress | None,
) -> bool:
    """Work on items in threads, as many as there are processors: decoders release Python's lock.

    Args:
        work: What to do with each, on a thread. It should not raise.
        items: What to work on.
        done: Called on this thread with the number of each item and its result, in any order; False ends the work.
        progress: Called on this thread after every few.

    Returns:
        Whether all items were done.
    """
    threads = usable_cpus()
    chunks = range(0, len(items), _CHUNK)  # tiny images are decoded faster than a thread is handed one
    executor = ThreadPoolExecutor(threads, thread_name_prefix="stream-ann-decode")
    try:
        waiting: dict[Future[list[Result]], int] = {}
        finished = 0
        todo = iter(chunks)
        while True:
            # A bounded queue: results are taken up as they come, and an early end leaves little behind.
            while len(waiting) < 3 * threads and (start := next(todo, None)) is not None:
                chunk = items[start : start + _CHUNK]
                waiting[executor.submit(lambda chunk: [work(item) for item in chunk], chunk)] = start
            if not waiting:
                return True
            ready = wait(waiting, timeout=_WAIT_S, return_when=FIRST_COMPLETED).done
            if not ready:
                raise SourceError(f"no file could be read for {_WAIT_S:.0f} s", "check the drive they are on")
            for future in sorted(ready, key=waiting.__getitem__):
                start = waiting.pop(future)
                for number, result in enumerate(future.result(), start):
                    if not done(number, result):
                        return False
                finished += len(future.result())
                if progress is not None:
                    progress(finished, len(items))
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
