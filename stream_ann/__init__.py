"""Live video classification with an anytime neural network.

``stream_ann.load("imagenet")`` gives a network to step through by hand; ``pipelines.live("demo")`` classifies a stream.
"""

from __future__ import annotations

# OpenCV's window functions hang for ever in a process that has imported av before cv2 (opencv#21952), so cv2 comes
# first, before any module of this package can import av.
import cv2  # noqa: F401  isort: skip

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stream_ann.weights import Weights, load

__all__ = ["Weights", "__version__", "load"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for, since that takes seconds."""
    if name in ("Weights", "load"):
        from stream_ann import weights

        return getattr(weights, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
