"""What is said about the source at the upper edge of a picture: its name, its state, and the age of what is shown."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream_ann.painting import (
    Colour,
    blend,
    frost,
    line_height_px,
    pill,
    shorten_to,
    text_mask,
    text_width_px,
)

__all__ = ["GLASS", "GLASS_OPACITY", "LEAST_TEXT_PX", "WARNING", "WHITE", "draw_badge", "draw_banner", "em_px"]

GLASS: Colour = (12, 15, 21)
GLASS_OPACITY = 0.8
WHITE: Colour = (255, 255, 255)
WARNING: Colour = (176, 62, 6)
"""Dark enough for white text on it, and told from the glass by its place as well."""

LEAST_TEXT_PX = 9
"""Smaller than this, text cannot be read."""


def em_px(width_px: int, height_px: int) -> int:
    """The size of the body text on pictures of one size, in pixels."""
    size: float = 12 * ((width_px * height_px) ** 0.5 / (640 * 360) ** 0.5) ** 0.84
    return max(LEAST_TEXT_PX, round(size))


def draw_badge(
    picture: NDArray[np.uint8], text: str, colour: Colour = GLASS, *, right: bool = False, room: float = 1.0
) -> None:
    """A short text in an upper corner, in place.

    Args:
        picture: uint8 [H, W, 3] RGB.
        text: The text, fit to be shown.
        colour: What it stands on.
        right: Whether in the right corner.
        room: Share of the picture's width that it may take.
    """
    height, width = picture.shape[:2]
    em = em_px(width, height)
    margin, pad, tall = round(em * 0.7), round(em * 0.6), round(line_height_px(em) * 1.25)
    text = shorten_to(text, em, round((width - 2 * margin) * room) - 2 * pad)
    if not text or tall + 2 * margin > height:
        return
    wide = text_width_px(text, em) + 2 * pad
    left = width - margin - wide if right else margin
    blend(picture, left, margin, pill(wide, tall, tall / 2), colour, GLASS_OPACITY)
    blend(picture, left + pad, margin + (tall - line_height_px(em)) // 2, text_mask(text, em), WHITE)


def draw_banner(picture: NDArray[np.uint8], lines: list[str]) -> None:
    """Lines of text in the middle of the picture on glass, in place: what is wrong, and since when.

    Args:
        picture: uint8 [H, W, 3] RGB.
        lines: The lines, fit to be shown, the first one large.
    """
    height, width = picture.shape[:2]
    em = em_px(width, height)
    sizes = [round(em * 1.4), *[em] * (len(lines) - 1)]
    heights = [line_height_px(size) for size in sizes]
    pad = round(em * 0.8)
    tall = sum(heights) + 2 * pad
    while tall > height and len(heights) > 1:
        tall -= heights.pop()
    top = max(0, round(height * 0.3) - tall // 2)
    frost(picture, 0, top, width, min(tall, height), 0, WARNING, GLASS_OPACITY)
    y = top + pad
    for text, size, step in zip(lines, sizes, heights, strict=False):
        mask = text_mask(shorten_to(text, size, width - 2 * pad), size)
        blend(picture, (width - mask.shape[1]) // 2, y, mask, WHITE)
        y += step
