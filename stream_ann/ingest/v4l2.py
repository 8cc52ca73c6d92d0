"""What Linux says about a webcam without opening its stream (Video4Linux2, ``linux/videodev2.h``)."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Capabilities", "capabilities"]

_QUERYCAP, _QUERYCAP_BYTES = 0x80685600, 104
_ENUM_FMT, _ENUM_FMT_BYTES = 0xC0405602, 64
_ENUM_FRAMESIZES, _ENUM_FRAMESIZES_BYTES = 0xC02C564A, 44
_VIDEO_CAPTURE = 0x1
_DEVICE_CAPS = 0x80000000
_DISCRETE = 1
_MOST = 64
"""No more formats, and sizes of each, are asked for: a driver that never ends its list must not hang us."""

Ioctl = Callable[[int, int, bytearray], object]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a video device can do."""

    captures: bool
    """Whether it gives pictures; webcams have other devices beside, for metadata."""
    sizes_px: tuple[tuple[int, int], ...]
    """Widths and heights that it offers, smallest first; the smallest and the largest of those without steps."""


def capabilities(device: Path, *, ioctl: Ioctl | None = None) -> Capabilities | None:
    """Ask a device. None where it does not say, for it is in use, may not be opened, or is no such device.

    Args:
        device: Its file.
        ioctl: Asks the system; for tests.
    """
    try:
        if ioctl is None:
            import fcntl

            ioctl = fcntl.ioctl
        descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK)
    except (ImportError, OSError):
        return None
    try:
        asked = bytearray(_QUERYCAP_BYTES)
        ioctl(descriptor, _QUERYCAP, asked)
        whole, this = struct.unpack_from("=II", asked, 84)
        captures = bool((this if whole & _DEVICE_CAPS else whole) & _VIDEO_CAPTURE)
        sizes = set(_sizes(descriptor, ioctl)) if captures else set()
        return Capabilities(captures, tuple(sorted(sizes, key=lambda size: (size[0] * size[1], size))))
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _sizes(descriptor: int, ioctl: Ioctl) -> Iterator[tuple[int, int]]:
    with suppress(OSError):  # the end of the list
        for index in range(_MOST):
            asked = bytearray(_ENUM_FMT_BYTES)
            struct.pack_into("=II", asked, 0, index, _VIDEO_CAPTURE)
            ioctl(descriptor, _ENUM_FMT, asked)
            (pixel_format,) = struct.unpack_from("=I", asked, 44)
            yield from _sizes_of(descriptor, ioctl, pixel_format)


def _sizes_of(descriptor: int, ioctl: Ioctl, pixel_format: int) -> Iterator[tuple[int, int]]:
    with suppress(OSError):
        for index in range(_MOST):
            asked = bytearray(_ENUM_FRAMESIZES_BYTES)
            struct.pack_into("=II", asked, 0, index, pixel_format)
            ioctl(descriptor, _ENUM_FRAMESIZES, asked)
            (kind,) = struct.unpack_from("=I", asked, 8)
            if kind == _DISCRETE:
                width, height = struct.unpack_from("=II", asked, 12)
                yield width, height
            else:
                least_w, most_w, _, least_h, most_h, _ = struct.unpack_from("=6I", asked, 12)
                yield least_w, least_h
                yield most_w, most_h
                return
