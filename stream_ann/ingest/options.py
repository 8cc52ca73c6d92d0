"""What a user can choose about sources, in one place."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from stream_ann.errors import UsageError, nearest
from stream_ann.ingest.images import DEFAULT_IMAGE_FPS
from stream_ann.ingest.retries import Retries
from stream_ann.ingest.source import MAX_PIXELS

__all__ = ["SourceOptions", "Transport", "size_px_from"]

Transport = Literal["tcp", "udp"]
"""How RTSP carries the pictures. Over TCP nothing is lost; UDP is for cameras that offer nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """What to know about a source besides its name; each kind of source takes what concerns it.

    Raises:
        UsageError: If a value makes no sense.
    """

    image_fps: float = DEFAULT_IMAGE_FPS
    """How many images of a folder or glob are shown a second."""
    transport: Transport = "tcp"
    """How RTSP carries the pictures."""
    connect_timeout_s: float = 5.0
    """How long a network source may take to be connected, in seconds."""
    read_timeout_s: float = 5.0
    """A live source that gives no picture for so long is connected anew, in seconds."""
    reconnect_attempts: int | None = None
    """How many attempts at reconnecting may fail in a row before a live source is given up; None for any number."""
    webcam_size_px: tuple[int, int] | None = None
    """Width and height to ask a webcam for; its own choice by default."""
    webcam_fps: float | None = None
    """Frames a second to ask a webcam for; its own choice by default."""

    def __post_init__(self) -> None:
        if self.transport not in get_args(Transport):
            raise UsageError(f"no transport is called '{self.transport}'", nearest(self.transport, get_args(Transport)))
        for name in ("connect_timeout_s", "read_timeout_s"):
            value: float = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name.replace('_', '-')} must be above 0 and finite, got {value:g}")
        if self.webcam_fps is not None and not 0 < self.webcam_fps <= 1000:
            raise UsageError(f"webcam-fps must be above 0 and at most 1000, got {self.webcam_fps:g}")
        if self.webcam_size_px is not None:
            width_px, height_px = self.webcam_size_px
            if width_px < 1 or height_px < 1 or width_px * height_px > MAX_PIXELS:
                raise UsageError(f"webcam-size {width_px}x{height_px} is out of range", "for instance: 1280x720")
        Retries(self.reconnect_attempts)


def size_px_from(text: str) -> tuple[int, int]:
    """Width and height from ``1280x720``.

    Raises:
        UsageError: If it is not written that way.
    """
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text.strip().lower())
    if found is None:
        raise UsageError(f"'{text}' is no size in pixels", "write width and height, such as 1280x720")
    return int(found[1]), int(found[2])
