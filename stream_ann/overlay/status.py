"""A run at one moment as one picture: each source with its answer so far, its state and the age of its frame."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_ann.frames import Frame, FrameResult
from stream_ann.overlay.banner import WARNING, draw_badge, draw_banner
from stream_ann.overlay.drawing import Overlay
from stream_ann.states import TROUBLED
from stream_ann.stats import LiveStatus
from stream_ann.text import clean, format_age

__all__ = ["draw_statuses"]

LARGEST_PX = (1920, 1080)
"""A view is drawn no larger than this: nobody sees more, and every pixel costs time."""
TILE_PX = (640, 360)
AGE_SHOWN_S = 1.0
"""A younger picture is taken for the present."""
_GREY = 0.55


def draw_statuses(overlay: Overlay, statuses: Sequence[LiveStatus], now_s: float) -> NDArray[np.uint8]:
    """All sources in one picture, uint8 [H, W, 3] RGB: one alone as it is, several beside and below each other.

    Where a source is in trouble its last picture is darkened and grey, and says what is wrong and how old it is.

    Args:
        overlay: Draws the answers.
        statuses: The present status of every source; one at least.
        now_s: The monotonic time, in seconds.
    """
    if len(statuses) == 1:
        return _draw(overlay, statuses[0], now_s, None)
    columns = math.ceil(math.sqrt(len(statuses)))
    rows = math.ceil(len(statuses) / columns)
    scale = min(1.0, LARGEST_PX[0] / (columns * TILE_PX[0]), LARGEST_PX[1] / (rows * TILE_PX[1]))
    width, height = round(TILE_PX[0] * scale), round(TILE_PX[1] * scale)
    canvas = np.zeros((rows * height, columns * width, 3), np.uint8)
    for i, status in enumerate(statuses):
        top, left = i // columns * height, i % columns * width
        canvas[top : top + height, left : left + width] = _draw(overlay, status, now_s, (width, height))
    return canvas


def _draw(overlay: Overlay, status: LiveStatus, now_s: float, size_px: tuple[int, int] | None) -> NDArray[np.uint8]:
    frame, state = status.frame, status.state
    troubled = state is not None and state.state in TROUBLED
    if frame is None:
        picture = np.zeros((*(size_px or TILE_PX)[::-1], 3), np.uint8)
        draw_banner(picture, [clean(status.source), clean(state.line) if state else "waiting for the first frame"])
        return picture
    picture = _fitted(frame.image, size_px)
    if troubled:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) * _GREY
        picture = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if status.exits:
        overlay.paint(picture, _result(status, frame), status.stats)
    age_s = now_s - frame.arrival_s
    if size_px is not None:
        draw_badge(picture, clean(status.source), right=True, room=0.6)
    if state is not None and state.state != "live":
        draw_banner(picture, [clean(state.line), f"the picture is {format_age(age_s)} old"])
    elif frame.suspect:
        draw_badge(picture, "suspect picture", WARNING)
    elif age_s > AGE_SHOWN_S:
        draw_badge(picture, f"{format_age(age_s)} old")
    return picture


def _fitted(image: NDArray[np.uint8], size_px: tuple[int, int] | None) -> NDArray[np.uint8]:
    """A copy of the picture: in its own size where that is not too large, else between black bars in the given one."""
    height, width = image.shape[:2]
    most = size_px or LARGEST_PX
    scale = min(most[0] / width, most[1] / height)
    if size_px is None:
        scale = min(1.0, scale)
    if scale == 1.0 and size_px is None:
        return image.copy()
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(image, inner, interpolation=method).astype(np.uint8, copy=False)
    if size_px is None:
        return resized
    canvas = np.zeros((size_px[1], size_px[0], 3), np.uint8)
    left, top = (size_px[0] - inner[0]) // 2, (size_px[1] - inner[1]) // 2
    canvas[top : top + inner[1], left : left + inner[0]] = resized
    return canvas


def _result(status: LiveStatus, frame: Frame) -> FrameResult:
    """The present answer, as far as it has come, in the form of a finished one."""
    last = status.result
    if last is not None and last.frame is frame:
        return last
    deepest = status.exits[-1]
    return FrameResult(
        frame=frame,
        label=status.label,
        class_id=deepest.class_id,
        confidence=status.confidence,
        top=status.top,
        exit=deepest.exit,
        exits=status.exits,
        budget_ms=None,
        replaced_before=0,
        ended="newer-frame",
        key_frame=status.key_frame,
        carried=status.carried,
    )
