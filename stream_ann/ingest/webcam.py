"""Webcams, through OpenCV (V4L2 on Linux)."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_ann.errors import DecodeError, DisconnectedError, SourceError, SourceNotFoundError
from stream_ann.ingest.retries import Retries
from stream_ann.ingest.source import Picture
from stream_ann.ingest.v4l2 import capabilities
from stream_ann.text import clean

__all__ = ["FoundWebcam", "WebcamSource", "list_webcams"]

RETRY_S = 0.02
"""How long to wait before asking a camera again that had no frame, in seconds."""
_LINUX = sys.platform == "linux"


class Capture(Protocol):
    """What is used of ``cv2.VideoCapture``."""

    def isOpened(self) -> bool: ...
    def read(self) -> tuple[bool, Any]: ...
    def set(self, propId: int, value: float) -> bool: ...
    def release(self) -> None: ...


@dataclass(frozen=True, slots=True)
class FoundWebcam:
    """A webcam of this machine."""

    spec: str
    """What to give as the source, e.g. ``/dev/video0``."""
    description: str
    """The name that the device gives itself, or "webcam"."""
    sizes_px: tuple[tuple[int, int], ...] = ()
    """Widths and heights that it offers, smallest first; empty where it does not say."""


class WebcamSource:
    """A webcam. Its frames have no timestamps but their arrival.

    Args:
        device: Its number, or on Linux its path, ``/dev/videoN``.
        size_px: Width and height to ask the camera for; it may give another. Its own choice by default.
        fps: Frames a second to ask it for, likewise.
        timeout_s: A camera that gives no frame for so long has failed, in seconds.
        reconnect_attempts: How often in a row it may then be tried in vain to open it again; None for any number.
        open_capture: Opens the device; for tests.
    """

    live = True

    def __init__(
        self,
        device: int | str,
        *,
        size_px: tuple[int, int] | None = None,
        fps: float | None = None,
        timeout_s: float = 5.0,
        reconnect_attempts: int | None = None,
        open_capture: Callable[[int], Capture] | None = None,
    ) -> None:
        found = re.fullmatch(r"(?:/dev/video)?([0-9]{1,4})", str(device))
        if found is None:
            raise SourceNotFoundError(f"'{clean(str(device))}' is no webcam", "give its number, such as 0")
        self._number = int(found[1])
        self._device = Path(f"/dev/video{self._number}")
        self.name = str(self._device) if _LINUX else f"webcam {self._number}"
        self._size_px = size_px
        self._fps = fps
        self._timeout_s = timeout_s
        self.retries = Retries(reconnect_attempts, from_the_start=False)
        """When to open it again, for it may be plugged in again."""
        self._open_capture = open_capture
        self._capture: Capture | None = None
        self._was_open = self._had_file = False
        self.remark = ""
        """What is to be said of it though it works: that it gives another size than it was asked for."""
        self._cancelled = threading.Event()

    def check(self) -> None:
        """Say, without opening it, that the webcam is not there.

        Raises:
            SourceNotFoundError: If there is no such device.
            SourceError: If this user may not use it.
        """
        if not _LINUX or self._open_capture is not None:
            return
        if not self._device.exists():
            raise SourceNotFoundError(f"there is no webcam '{self.name}'", _present())
        if not os.access(self._device, os.R_OK | os.W_OK):
            raise SourceError(
                f"there is no permission to use the webcam '{self.name}'",
                "add yourself to its group: sudo usermod -aG video $USER, and log in again",
            )

    def open(self) -> None:
        """Open the device.

        Raises:
            SourceError: If it is not there, or cannot be used.
        """
        self.close()
        try:
            self.check()
        except SourceNotFoundError:
            if not self._was_open:
                raise
            raise self._unplugged() from None
        with _quiet_opencv():
            capture = (self._open_capture or _open_device)(self._number)
        self._capture = capture
        if not capture.isOpened():
            self.close()
            raise SourceError(
                f"the webcam '{self.name}' cannot be opened",
                "close other programs that may use it" if _LINUX else _present(),
            )
        self._was_open, self._had_file, self.remark = True, self._device.exists(), ""
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # older frames in the driver's queue would be pure delay
        if self._size_px is not None or self._fps is not None:
            # uncompressed, USB has room for few large pictures a second; a camera without MJPEG ignores it
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        if self._size_px is not None:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._size_px[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._size_px[1])
        if self._fps is not None:
            capture.set(cv2.CAP_PROP_FPS, self._fps)

    def read(self) -> Picture | None:
        """The next frame; None once cancelled, for a camera has no end of its own.

        Raises:
            DecodeError: If a frame is of an unknown kind.
            SourceError: If none came for too long.
        """
        capture = self._capture
        if capture is None:
            raise SourceError(f"the webcam '{self.name}' is not open")
        end_s = time.monotonic() + self._timeout_s
        while not self._cancelled.is_set():
            with _quiet_opencv():
                there, image = capture.read()
            if there and image is not None:
                picture = Picture(_rgb(image, self.name), None)
                self._compare(picture)
                return picture
            if self._had_file and not self._device.exists():
                raise self._unplugged()
            if time.monotonic() >= end_s:
                raise SourceError(
                    f"the webcam '{self.name}' gave no frame for {self._timeout_s:g} s",
                    "check that it is still plugged in",
                )
            self._cancelled.wait(RETRY_S)
        return None

    def close(self) -> None:
        """Release the device."""
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()

    def cancel(self) -> None:
        """Make :meth:`read` give up."""
        self._cancelled.set()

    def _compare(self, picture: Picture) -> None:
        height_px, width_px = picture.image.shape[:2]
        if self._size_px is not None and not self.remark and (width_px, height_px) != self._size_px:
            asked_w, asked_h = self._size_px
            self.remark = f"{asked_w}x{asked_h} was asked for, but it gives {width_px}x{height_px}"

    def _unplugged(self) -> SourceError:
        return DisconnectedError(f"the webcam '{self.name}' is unplugged", "plug it in again")


def list_webcams(*, devices: Path = Path("/dev"), names: Path = Path("/sys/class/video4linux")) -> list[FoundWebcam]:
    """The webcams that Linux knows of; none on other systems, which do not say without opening them.

    Args:
        devices: Folder of the device files.
        names: Folder in which the kernel names them.
    """
    found = []
    for device in devices.glob("video*"):
        number = device.name.removeprefix("video")
        if not number.isdecimal():
            continue
        able = capabilities(device)
        if able is not None and not able.captures:
            continue
        try:
            name = clean((names / device.name / "name").read_text(errors="replace"))
        except OSError:
            name = ""
        found.append((int(number), FoundWebcam(str(device), name or "webcam", able.sizes_px if able else ())))
    return [webcam for _, webcam in sorted(found, key=lambda pair: pair[0])]


def _present() -> str:
    names = ", ".join(webcam.spec for webcam in list_webcams())
    return f"there is: {names}" if names else "none is plugged in here"


def _open_device(number: int) -> Capture:
    return cv2.VideoCapture(number, cv2.CAP_V4L2 if _LINUX else cv2.CAP_ANY)


def _rgb(image: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """OpenCV's picture, BGR or greyscale, as RGB."""
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return np.ascontiguousarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    if image.dtype == np.uint8 and (image.ndim == 2 or image.shape[2:] == (1,)):
        return np.ascontiguousarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    raise DecodeError(f"the webcam '{name}' gave a frame of {image.dtype} {list(image.shape)}")


_SILENT = 0
"""OpenCV's log level at which it says nothing."""


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Keep OpenCV's warnings off the terminal; what matters of them is said in errors."""
    logging: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV 4 has these functions one floor higher
    level = logging.getLogLevel()
    logging.setLogLevel(_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)
