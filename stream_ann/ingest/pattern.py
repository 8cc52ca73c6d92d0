"""A synthetic moving picture of any size and rate, with its frame number written into it."""

from __future__ import annotations

import re

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_ann.errors import UsageError
from stream_ann.ingest.source import MAX_PIXELS, Picture

__all__ = ["PATTERN_FORM", "PatternSource", "frame_number", "pattern_image"]

PATTERN_FORM = "pattern:WxH@FPS"
_SPEC = re.compile(r"pattern:(?:(\d{1,5})x(\d{1,5}))?(?:@(\d{1,4}(?:\.\d{1,6})?))?")
_DEFAULT_SIZE_PX = (640, 360)
_DEFAULT_FPS = 25.0
_MIN_SIZE_PX = (64, 32)
_MAX_FPS = 1000.0

NUMBER_BITS = 24
"""Frame numbers are written modulo 2 to this power: 77 hours at 60 frames a second."""


class PatternSource:
    """Coloured bars drifting behind a moving disc, for ever, with the frame number as text and as a code of blocks.

    A camera to try things with, at whatever rate: picture ``i`` has the timestamp ``i / fps``, and is always the same.

    Args:
        spec: ``pattern:WxH@FPS``; size, rate or both may be left out (640x360, 25).

    Raises:
        UsageError: If that cannot be understood, or asks for a size or rate out of range.
    """

    live = False

    def __init__(self, spec: str) -> None:
        found = _SPEC.fullmatch(spec)
        if found is None:
            raise UsageError(f"'{spec}' is not of the form {PATTERN_FORM}", "for instance: pattern:1280x720@30")
        width, height, fps = found.groups()
        self.size_px = (int(width), int(height)) if width else _DEFAULT_SIZE_PX
        """Width and height, in pixels."""
        self.fps = float(fps) if fps else _DEFAULT_FPS
        """Frames a second."""
        if not 0 < self.fps <= _MAX_FPS:
            raise UsageError(f"the rate in '{spec}' must be above 0 and at most {_MAX_FPS:g} frames a second")
        least_w, least_h = _MIN_SIZE_PX
        if self.size_px[0] < least_w or self.size_px[1] < least_h or self.size_px[0] * self.size_px[1] > MAX_PIXELS:
            raise UsageError(
                f"the size in '{spec}' is out of range",
                f"choose at least {least_w}x{least_h} and at most {MAX_PIXELS // 10**6} megapixels",
            )
        self.name = f"pattern:{self.size_px[0]}x{self.size_px[1]}@{self.fps:g}"
        self._next = 0

    def open(self) -> None:
        """Begin with picture 0."""
        self._next = 0

    def read(self) -> Picture:
        """The next picture. There is always one."""
        index = self._next
        self._next += 1
        return Picture(pattern_image(index, *self.size_px, fps=self.fps), index / self.fps)

    def close(self) -> None:
        """Nothing is held open."""


def pattern_image(index: int, width_px: int, height_px: int, *, fps: float = _DEFAULT_FPS) -> NDArray[np.uint8]:
    """Picture number ``index`` of the pattern, uint8 [height, width, 3] RGB. It moves as fast at any rate."""
    time_s = index / fps
    # bars: one turn of the hue over the width, drifting by an eighth of it a second
    across = (np.arange(width_px) / width_px + time_s / 8) % 1.0
    hue = (np.floor(across * 12) * 15).astype(np.uint8)
    hsv = np.stack([hue, np.full_like(hue, 110), np.full_like(hue, 190)], axis=-1)[None]
    image = np.empty((height_px, width_px, 3), dtype=np.uint8)
    image[:] = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    radius = max(4, height_px // 6)
    angle = 2 * np.pi * time_s / 4
    centre = (
        round(width_px / 2 + (width_px / 2 - radius) * np.cos(angle) * 0.9),
        round(height_px / 2 + (height_px / 2 - radius) * np.sin(2 * angle) * 0.7),
    )
    cv2.circle(image, centre, radius, (250, 250, 250), -1, cv2.LINE_AA)
    cv2.circle(image, centre, max(2, radius // 2), (30, 30, 30), -1, cv2.LINE_AA)
    scale = height_px / 360
    weight, left, base = max(1, round(2 * scale)), round(12 * scale), round(40 * scale)
    for shift, colour in ((weight, (20, 20, 20)), (0, (255, 255, 255))):
        place = (left + shift, base + shift)
        cv2.putText(
            image, f"{index}  {time_s:.2f} s", place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, weight, cv2.LINE_AA
        )
    edges = _block_edges(width_px)
    top = height_px - _code_height_px(height_px)
    for bit in range(NUMBER_BITS):
        image[top:, edges[bit] : edges[bit + 1]] = 255 * (index >> bit & 1)
    return image


def frame_number(image: NDArray[np.uint8]) -> int:
    """The number that is written into a picture of the pattern, modulo 2**24; survives scaling and encoding.

    Args:
        image: uint8 [H, W, 3].
    """
    height, width = image.shape[:2]
    edges = _block_edges(width)
    row = image[height - max(1, _code_height_px(height) // 2)].mean(axis=-1)
    middles = (edges[:-1] + edges[1:]) // 2
    return int(sum(1 << bit for bit, x in enumerate(middles) if row[x] > 127))


def _block_edges(width_px: int) -> NDArray[np.int64]:
    return np.linspace(0, width_px, NUMBER_BITS + 1).astype(np.int64)


def _code_height_px(height_px: int) -> int:
    return max(4, height_px // 20)
