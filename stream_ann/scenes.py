"""Noticing hard cuts, cheaply: from some ten thousand pixels of two pictures."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Glimpse", "is_cut"]

SAMPLES = (72, 128)
"""About how many rows and columns of a picture are looked at."""
BLOCKS = (9, 16)
SHADE_BITS = 2
"""The colour histogram tells 2 to the power of this many shades apart in each channel."""
COLOURS_CHANGED = 0.3
"""Share of the picture that has colours which were not there before."""
LAYOUT_CHANGED = 0.4
"""One minus the correlation of the blocks' brightness, which does not change with the light."""
SHORT_GAP_S = 0.1
LAYOUT_CHANGED_AT_ONCE, BLOCKS_CHANGED_AT_ONCE = 0.5, 8.0
"""Between two pictures so close in time no camera moves that far: then the layout alone says that there was a cut."""


@dataclass(frozen=True, slots=True, eq=False)
class Glimpse:
    """What is kept of a picture to compare it with the next one."""

    blocks: NDArray[np.float32]
    """Mean colour of each block, float32 [9, 16, 3], 0 to 255."""
    colours: NDArray[np.float64]
    """Share of each colour, float64 [64]."""

    @classmethod
    def of(cls, image: NDArray[np.uint8]) -> Glimpse:
        """Look at a picture, uint8 [H, W, 3] of any size."""
        steps = [max(1, side // most) for side, most in zip(image.shape[:2], SAMPLES, strict=True)]
        sampled = np.ascontiguousarray(image[:: steps[0], :: steps[1]])
        # all in bytes, which is several times as fast as in whole numbers or floats
        shades = sampled >> np.uint8(8 - SHADE_BITS)
        codes = (shades[..., 0] << np.uint8(2 * SHADE_BITS)) | (shades[..., 1] << np.uint8(SHADE_BITS)) | shades[..., 2]
        colours = np.bincount(codes.ravel(), minlength=1 << 3 * SHADE_BITS) / codes.size
        rows, columns = (min(side, count) for side, count in zip(codes.shape, BLOCKS, strict=True))
        means = cv2.resize(sampled, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float32)
        return cls(means, colours)


def is_cut(before: Glimpse, after: Glimpse, gap_s: float) -> bool:
    """Whether there was a hard cut between two pictures.

    A camera that pans shows new layouts of much the same colours, and a lamp that is switched on new colours in the
    same layout; after a cut both are new.

    Args:
        before: The earlier picture.
        after: The later one.
        gap_s: The time between them, in seconds.
    """
    if before.blocks.shape != after.blocks.shape:
        return True
    layout = 1 - _correlation(before.blocks, after.blocks)
    colours = 0.5 * float(np.abs(before.colours - after.colours).sum())
    if colours > COLOURS_CHANGED and layout > LAYOUT_CHANGED:
        return True
    moved = float(np.abs(before.blocks - after.blocks).mean())
    return gap_s <= SHORT_GAP_S and layout > LAYOUT_CHANGED_AT_ONCE and moved > BLOCKS_CHANGED_AT_ONCE


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Of the deviations from each channel's mean; 0 where a picture is even."""
    a, b = one - one.mean(axis=(0, 1)), other - other.mean(axis=(0, 1))
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 1e-3 else 0.0
