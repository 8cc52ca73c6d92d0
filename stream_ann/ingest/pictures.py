"""From libav's frames to pictures: which stream to decode, its colours, and which way is up."""

from __future__ import annotations

from typing import Any

import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from stream_ann.errors import UnsupportedSourceError
from stream_ann.ingest.libav import decoding
from stream_ann.ingest.source import check_size

__all__ = ["Turning", "rgb_image", "upright", "video_stream"]

_TEXT_ART = frozenset({"ansi", "bintext", "idf", "xbin"})
"""Decoders that libav offers for plain text files, which nobody means by a video."""


class Turning:
    """How the frames of one stream are to be turned and mirrored.

    PyAV's frames and their side data refer to each other: a frame whose side data were looked at stays in memory until
    the collector comes by, hundreds of frames later. So they are looked at when the stream begins, and when the angle,
    which can be asked for without them, has changed.
    """

    def __init__(self) -> None:
        self._rotation: int | None = None
        self._matrix: NDArray[np.int32] | None = None

    def matrix(self, frame: VideoFrame) -> NDArray[np.int32] | None:
        """The display matrix of a frame, for :func:`upright`; None where its file does not say."""
        rotation = frame.rotation
        if rotation != self._rotation:
            data: Any = frame.side_data.get("DISPLAYMATRIX")
            self._matrix = None if data is None else np.frombuffer(bytes(data), dtype=np.int32).reshape(3, 3)
            self._rotation = rotation
        return self._matrix


def rgb_image(frame: VideoFrame, reformatter: VideoReformatter, turning: Turning, name: str) -> NDArray[np.uint8]:
    """A decoded frame as an upright picture.

    Args:
        frame: The frame.
        reformatter: Converts colours; one for all frames of a stream, as each frame's own would set up a scaler anew.
        turning: Says which way is up; one for all frames of a stream.
        name: What to call the source in errors.

    Returns:
        uint8 [H, W, 3] RGB, C-contiguous.

    Raises:
        DecodeError: If it is too large, or cannot be converted.
    """
    check_size(frame.width, frame.height, name)
    with decoding(name):
        image = np.asarray(reformatter.reformat(frame, format="rgb24").to_ndarray(), dtype=np.uint8)
    return upright(image, turning.matrix(frame))


def upright(image: NDArray[np.uint8], matrix: NDArray[np.int32] | None) -> NDArray[np.uint8]:
    """Turn and mirror a picture the way its file says that it is to be shown. Angles in between are left alone.

    Args:
        image: uint8 [H, W, 3].
        matrix: int32 [3, 3], the display matrix of ISO/IEC 14496-12 (8.3.2, ``tkhd``): a point ``(x, y)`` of the
            picture is shown at ``(x * m[0, 0] + y * m[1, 0], x * m[0, 1] + y * m[1, 1])``. None where there is none.

    Returns:
        uint8 [H, W, 3] or [W, H, 3], C-contiguous.
    """
    if matrix is not None:
        (xx, xy), (yx, yy) = matrix[:2, :2].tolist()
        if xx == yy == 0 and xy and yx:
            image = image.transpose(1, 0, 2)[:: -1 if xy < 0 else 1, :: -1 if yx < 0 else 1]
        elif xy == yx == 0 and xx and yy:
            image = image[:: -1 if yy < 0 else 1, :: -1 if xx < 0 else 1]
    return np.ascontiguousarray(image)


def video_stream(container: InputContainer, name: str) -> VideoStream:
    """The stream to show: the first that is video, and not the cover of a piece of music.

    Args:
        container: An open container.
        name: What to call it in errors.

    Raises:
        UnsupportedSourceError: If there is none that can be decoded.
    """
    moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not moving:
        if container.streams.audio:
            raise UnsupportedSourceError(f"'{name}' holds sound only, no picture", "give a video file")
        raise UnsupportedSourceError(f"'{name}' holds no video", "give a video file")
    stream = moving[0]
    if stream.codec_context is None:
        raise UnsupportedSourceError(
            f"the video in '{name}' cannot be decoded by this PyAV", "convert it to H.264 in mp4"
        )
    if stream.codec_context.name in _TEXT_ART:
        raise UnsupportedSourceError(f"'{name}' is text, not a video", "give a video file")
    return stream
