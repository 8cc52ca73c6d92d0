"""Live video classification with an anytime neural network."""

# OpenCV's window functions hang for ever in a process that has imported av before cv2 (opencv#21952), so cv2 comes
# first, before any module of this package can import av.
import cv2  # noqa: F401  isort: skip

__version__ = "0.1.0"
