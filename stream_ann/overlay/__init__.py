"""What is drawn onto pictures: the answer, how it came about, and how the source is doing."""

from __future__ import annotations

from stream_ann.overlay.drawing import Overlay
from stream_ann.overlay.status import draw_statuses

__all__ = ["Overlay", "draw_statuses"]
