"""Paint for the overlay: text, rounded shapes and frosted glass on uint8 [H, W, 3] RGB pictures.

Everything is clipped at the picture's edges, so that no position or size can fail. Text and shapes are kept as cached
coverage masks, uint8 [h, w], 0 outside and 255 inside.
"""

from __future__ import annotations

import math
import unicodedata
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stream_ann.text import shorten

__all__ = [
    "Colour",
    "Mask",
    "blend",
    "frost",
    "line_height_px",
    "pill",
    "ring",
    "shorten_to",
    "text_mask",
    "text_width_px",
    "triangle",
]

Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""
Mask = NDArray[np.uint8]
"""Coverage, uint8 [h, w]."""
Picture = NDArray[np.uint8]
"""A picture, uint8 [H, W, 3] RGB."""

Font = ImageFont.FreeTypeFont

# Pillow's own font looks the same everywhere but knows little more than ASCII. Other scripts are drawn with the first
# of these that the system has and that knows every letter of the text.
_SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKjp-Regular.otf",
    "DroidSansFallbackFull.ttf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "NotoSansArabic-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "FreeSans.ttf",
    "LiberationSans-Regular.ttf",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "segoeui.ttf",
    "msyh.ttc",
    "malgun.ttf",
    "Nirmala.ttf",
    "Arial.ttf",
)
FINER = 4
"""Text is drawn this many times larger and reduced, so that letters keep their shape and distance at small sizes."""
_GAMMA = np.rint((np.arange(256) / 255) ** 0.8 * 255).astype(np.uint8)
"""Thin bright strokes on dark ground lose weight when they are reduced; this gives it back."""
_NO_GLYPH = "\U0010fffd"
"""A private character that no font draws: its picture is the font's box for what it does not know."""


def text_mask(text: str, size_px: int) -> Mask:
    """``text`` on one line as a mask of :func:`line_height_px` rows; all texts of one size share one baseline."""
    return _render(text, max(1, size_px))


def text_width_px(text: str, size_px: int) -> int:
    """Width of ``text`` in pixels."""
    return _measure(text, max(1, size_px))


def line_height_px(size_px: int) -> int:
    """Height of a line of text in pixels, from above the highest letter to below the lowest."""
    ascent, descent = _font(None, max(1, size_px)).getmetrics()
    return ascent + descent


@lru_cache(maxsize=1024)
def shorten_to(text: str, size_px: int, width_px: int) -> str:
    """``text``, shortened with an ellipsis to at most ``width_px``; empty where not even that fits."""
    return shorten(text, lambda candidate: text_width_px(candidate, size_px) <= width_px)


@lru_cache(maxsize=256)
def pill(width_px: int, height_px: int, radius_px: float) -> Mask:
    """A rectangle with rounded corners."""
    return _coverage(_distance(width_px, height_px, radius_px))


@lru_cache(maxsize=256)
def ring(width_px: int, height_px: int, radius_px: float, stroke_px: float) -> Mask:
    """The outline of a rectangle with rounded corners, ``stroke_px`` wide, inside its edge."""
    distance = _distance(width_px, height_px, radius_px)
    return _coverage(distance) - _coverage(distance + stroke_px)


@lru_cache(maxsize=64)
def triangle(width_px: int, height_px: int) -> Mask:
    """A triangle that points down."""
    width, height = max(1, width_px), max(1, height_px)
    y, x = np.mgrid[0:height, 0:width] + 0.5
    half = (width / 2) * (1 - (y - 0.5) / height)
    return _coverage((np.abs(x - width / 2) - half) * math.cos(math.atan2(width / 2, height)))


def blend(picture: Picture, left_px: int, top_px: int, mask: Mask, colour: Colour, opacity: float = 1.0) -> None:
    """Paint ``colour`` into ``picture`` through ``mask``, whose top left corner comes to lie at the position given."""
    height, width = picture.shape[:2]
    x0, y0 = max(0, left_px), max(0, top_px)
    x1, y1 = min(width, left_px + mask.shape[1]), min(height, top_px + mask.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    region = picture[y0:y1, x0:x1]
    part = mask[y0 - top_px : y1 - top_px, x0 - left_px : x1 - left_px]
    alpha = part[..., None].astype(np.int32)
    if opacity < 1.0:
        alpha = (alpha * round(opacity * 256)) >> 8
    change = (np.asarray(colour, np.int32) - region) * alpha
    region += ((change + 127) // 255).astype(np.uint8)  # wraps around twice, so the sum is right


def frost(
    picture: Picture,
    left_px: int,
    top_px: int,
    width_px: int,
    height_px: int,
    radius_px: int,
    colour: Colour,
    opacity: float,
) -> None:
    """Lay a pane of frosted glass on ``picture``: what is behind is blurred and covered by ``colour``.

    Args:
        picture: Is written to.
        left_px, top_px, width_px, height_px: Where the pane is; must lie inside the picture.
        radius_px: Radius of its corners.
        colour: Colour of the glass.
        opacity: How much of the glass is seen, against what is behind it; 0 to 1.
    """
    if width_px < 1 or height_px < 1:
        return
    region = picture[top_px : top_px + height_px, left_px : left_px + width_px]
    radius = min(radius_px, width_px // 2, height_px // 2)
    corners = [
        (rows, columns, region[rows, columns].copy())
        for rows in (slice(0, radius), slice(height_px - radius, height_px))
        for columns in (slice(0, radius), slice(width_px - radius, width_px))
    ]
    step = max(2, round(height_px / 12))
    small = cv2.resize(region, (max(1, width_px // step), max(1, height_px // step)), interpolation=cv2.INTER_AREA)
    glass = np.asarray(colour, np.float32) * opacity
    small = cv2.GaussianBlur(small, (5, 5), 0, borderType=cv2.BORDER_REPLICATE).astype(np.float32)
    tinted = np.rint(small * (1 - opacity) + glass).astype(np.uint8)
    region[:] = cv2.resize(tinted, (width_px, height_px), interpolation=cv2.INTER_LINEAR)
    shape = pill(width_px, height_px, radius)
    for rows, columns, behind in corners:
        outside = (255 - shape[rows, columns])[..., None].astype(np.int32)
        corner = region[rows, columns]
        corner += (((behind.astype(np.int32) - corner) * outside + 127) // 255).astype(np.uint8)


def _distance(width_px: int, height_px: int, radius_px: float) -> NDArray[np.float64]:
    """Signed distance of each pixel's centre from the edge of a rounded rectangle, negative inside, in pixels."""
    width, height = max(1, width_px), max(1, height_px)
    radius = min(radius_px, width / 2, height / 2)
    x = np.abs(np.arange(width) + 0.5 - width / 2)[None, :] - (width / 2 - radius)
    y = np.abs(np.arange(height) + 0.5 - height / 2)[:, None] - (height / 2 - radius)
    outside = np.hypot(np.maximum(x, 0), np.maximum(y, 0))
    distance: NDArray[np.float64] = outside + np.minimum(np.maximum(x, y), 0) - radius
    return distance


def _coverage(distance: NDArray[np.float64]) -> Mask:
    mask: Mask = np.rint(np.clip(0.5 - distance, 0, 1) * 255).astype(np.uint8)
    mask.setflags(write=False)  # it is shared by everyone who asks the cache
    return mask


@lru_cache(maxsize=2048)
def _render(text: str, size_px: int) -> Mask:
    font, spelled = _font_for(text, size_px * FINER)
    width, height = _measure(text, size_px), line_height_px(size_px)
    baseline = _font(None, size_px).getmetrics()[0]
    image = Image.new("L", (width * FINER, height * FINER))
    ImageDraw.Draw(image).text((0, baseline * FINER), spelled, font=font, fill=255, anchor="ls")
    mask: Mask = _GAMMA[cv2.resize(np.asarray(image), (width, height), interpolation=cv2.INTER_AREA)]
    mask.setflags(write=False)
    return mask


@lru_cache(maxsize=8192)
def _measure(text: str, size_px: int) -> int:
    font, spelled = _font_for(text, size_px * FINER)
    return max(1, math.ceil(font.getlength(spelled) / FINER))


def _font_for(text: str, size_px: int) -> tuple[Font, str]:
    """The font for ``text``, and its spelling in it."""
    if text.isascii():
        return _font(None, size_px), text
    name, spelled = _spell(text)
    return _font(name, size_px), spelled


@lru_cache(maxsize=1024)
def _spell(text: str) -> tuple[str | None, str]:
    """Name of the font that shows ``text`` best, and the text, without accents where only that can be shown."""
    letters = {c for c in text if not c.isspace() and unicodedata.category(c)[0] not in "CM"}
    best: str | None = None
    fewest = len(letters) + 1
    for name in (None, *_system_fonts()):
        missing = sum(not _covers(name, c) for c in letters)
        if missing == 0:
            return name, text
        if missing < fewest:
            best, fewest = name, missing
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    if all(_covers(None, c) for c in plain if not c.isspace()):
        return None, plain
    return best, text


@lru_cache(maxsize=1)
def _system_fonts() -> tuple[str, ...]:
    """Those of the known system fonts that are installed."""
    found = []
    for name in _SYSTEM_FONTS:
        try:
            ImageFont.truetype(name, 64)
        except OSError:
            continue
        found.append(name)
    return tuple(found)


@lru_cache(maxsize=4096)
def _covers(name: str | None, character: str) -> bool:
    font = _font(name, 64)
    drawn, box = font.getmask(character), font.getmask(_NO_GLYPH)
    return drawn.size != box.size or bytes(drawn) != bytes(box)


@lru_cache(maxsize=64)
def _font(name: str | None, size_px: int) -> Font:
    if name is not None:
        return ImageFont.truetype(name, size_px)
    font = ImageFont.load_default(size_px)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow's wheels are all built with FreeType"
    return font
