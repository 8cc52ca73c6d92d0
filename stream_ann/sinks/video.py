"""Annotated frames as a video file that stays playable whatever happens to the run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import av
import cv2
import numpy as np
from av.video.frame import PictureType
from numpy.typing import NDArray

from stream_ann.errors import OutputError, UsageError
from stream_ann.frames import FrameResult
from stream_ann.sinks.files import check_writable, keep_previous, output_error
from stream_ann.sinks.timeline import Timeline

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

__all__ = ["VideoSink", "letterboxed", "tag_colours", "yuv_frame"]

Draw = Callable[[FrameResult], NDArray[np.uint8]]

FRAGMENT_S = 1.0
"""A key frame at least this often, and with each one what came before it goes to the disk."""

# AVCOL_SPC_SMPTE170M and friends (ISO/IEC 23091-2): the matrix that OpenCV converts with, limited range, and the
# primaries and transfer function of ordinary screens. Untagged, players would guess by the size of the picture.
_MATRIX_BT601, _RANGE_LIMITED, _PRIMARIES_BT709, _TRANSFER_BT709 = 6, 1, 1, 1


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a kind of file is written."""

    format: str
    codec: Literal["libx264", "libvpx-vp9"]
    tick: Fraction
    """Resolution of its times, in seconds."""
    container_options: dict[str, str]
    codec_options: dict[str, str]


# No frame is held back (no B-frames, no lookahead), so that a killed run loses no more than its last fragment.
_H264 = {"preset": "veryfast", "bf": "0", "rc-lookahead": "0"}
_VP9 = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "b": "0"}
_MATROSKA = {"cluster_time_limit": str(round(FRAGMENT_S * 1000)), "flush_packets": "1"}
_FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
_KINDS = {
    ".mp4": _Kind("mp4", "libx264", Fraction(1, 90_000), _FRAGMENTED, _H264),
    ".mkv": _Kind("matroska", "libx264", Fraction(1, 1000), _MATROSKA, _H264),
    ".webm": _Kind("webm", "libvpx-vp9", Fraction(1, 1000), _MATROSKA, _VP9),
}


class VideoSink:
    """Records annotated frames: H.264 in fragmented MP4 or Matroska, VP9 in WebM, by the file's extension.

    Frames keep the times of their source, or of their arrival where it has none (:class:`Timeline`), so a variable
    frame rate stays one. About once a second everything so far is put on the disk in a form that plays, so a run that
    is killed leaves a video that lacks its last second or two. The encoder uses one thread.

    Odd sizes are made even by repeating the last row or column. Where the size changes midway, later frames are fitted
    into the first frame's size between black bars, and counted.

    A file that exists already is moved to ``NAME.previous.EXT`` with the first frame, where it replaces an older one. A
    run that ends before its first frame changes nothing.

    Args:
        path: The file; its extension chooses the container.
        draw: Gives the picture to record for a result, uint8 [H, W, 3] RGB, such as :meth:`Overlay.draw`. Called by
            the thread that writes.
        crf: Constant rate factor of the encoder, 0 (best) to 51; a step of 6 about halves the file.

    Attributes:
        frames: Frames recorded so far.
        resized: How many of them had another size than the first.
        previous: Where a file that existed before is now; None before the first frame, and where none existed.

    Raises:
        UsageError: If the extension or ``crf`` is not one of those allowed.
        OutputError: If the file cannot be written, which is found out without touching it.
    """

    def __init__(self, path: str | os.PathLike[str], *, draw: Draw, crf: int = 23) -> None:
        self._path = Path(path)
        kind = _KINDS.get(self._path.suffix.lower())
        if kind is None:
            wrong = f"'{self._path.suffix}'" if self._path.suffix else "no extension"
            raise UsageError(f"cannot record to '{path}' with {wrong}", "name the file .mp4, .mkv or .webm")
        if not 0 <= crf <= 51:
            raise UsageError(f"crf must be 0 to 51, got {crf}")
        if kind.codec not in av.codecs_available:
            raise OutputError(
                f"cannot write '{path}': this PyAV has no {kind.codec}", "pip install --force-reinstall av"
            )
        check_writable(self._path)
        self._kind = kind
        self._draw = draw
        self._crf = crf
        self._timeline = Timeline(float(kind.tick))
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._held: Packet[Any] | None = None  # until its successor tells how long it is shown
        self._last_pts = -1
        self._key_pts: int | None = None
        self._whole_bytes: int | None = None
        self._closed = False
        self.frames = 0
        self.resized = 0
        self.previous: Path | None = None

    @property
    def name(self) -> str:
        """The file's name as it was given."""
        return str(self._path)

    @property
    def size_bytes(self) -> int:
        """How much has been written so far, in bytes."""
        return self._whole_bytes or 0

    def write(self, result: FrameResult) -> None:
        """Record one frame.

        Raises:
            OutputError: If it cannot be written; the file is valid up to the last second or two, and closed.
        """
        if self._closed:
            raise OutputError(f"cannot write '{self._path}': it is closed already")
        picture = self._draw(result)
        with self._failing_closed():
            if self._stream is None:
                self._stream = self._open(picture)
            frame = self._frame(picture, self._stream)
            seconds = self._timeline.next_s(result.frame.pts_s, result.frame.arrival_s)
            # Rounding could join two frames that were a tick apart.
            frame.pts = self._last_pts = max(round(seconds / self._kind.tick), self._last_pts + 1)
            frame.time_base = self._kind.tick
            if self._key_pts is None or frame.pts - self._key_pts >= FRAGMENT_S / self._kind.tick:
                frame.pict_type = PictureType.I
                self._key_pts = frame.pts
            for packet in self._stream.encode(frame):
                self._mux(packet)
            self.frames += 1

    def close(self) -> None:
        """Finish the file.

        Raises:
            OutputError: If its end cannot be written; it is valid up to the last second or two.
        """
        if self._closed:
            return
        if self._container is None or self._stream is None:
            self._closed = True
            return
        with self._failing_closed():
            for packet in self._stream.encode(None):
                self._mux(packet)
            self._mux(None)
            self._container.close()
        self._closed = True

    @contextlib.contextmanager
    def _failing_closed(self) -> Iterator[None]:
        """Turn FFmpeg's errors into ours, and give the file up with the first one."""
        try:
            yield
        except (OSError, av.FFmpegError) as error:
            self._closed = True
            if self._container is not None:
                with contextlib.suppress(OSError, av.FFmpegError):
                    self._container.close()
            if self._whole_bytes is not None:
                with contextlib.suppress(OSError):
                    os.truncate(self._path, self._whole_bytes)  # players stumble over half a fragment
            raise output_error(self._path, error) from error

    def _open(self, picture: NDArray[np.uint8]) -> VideoStream:
        kind = self._kind
        self.previous = keep_previous(self._path)
        # An absolute path, because FFmpeg takes what stands before a colon in any other for a protocol.
        target = str(self._path.absolute())
        self._container = av.open(target, "w", format=kind.format, container_options=kind.container_options)
        options = {**kind.codec_options, "crf": str(self._crf)}
        stream = self._container.add_stream(kind.codec, rate=30, options=options)
        height, width = picture.shape[:2]
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        context = stream.codec_context
        context.thread_count = 1  # the engine needs the others
        context.time_base = stream.time_base = kind.tick
        context.gop_size = 600
        tag_colours(context)
        return stream

    def _frame(self, picture: NDArray[np.uint8], stream: VideoStream) -> av.VideoFrame:
        """``picture`` in the recording's size, as YUV 4:2:0."""
        height, width = picture.shape[:2]
        if (width + width % 2, height + height % 2) != (stream.width, stream.height):
            picture = letterboxed(picture, stream.width, stream.height)
            self.resized += 1
        return yuv_frame(picture)

    def _mux(self, packet: Packet[Any] | None) -> None:
        """Write the packet before this one, whose duration is now known; None ends the recording."""
        assert self._container is not None
        held, self._held = self._held, packet
        if held is None:
            return
        if packet is not None and packet.pts is not None and held.pts is not None:
            held.duration = packet.pts - held.pts
        else:
            held.duration = max(1, round(self._timeline.step_s / self._kind.tick))
        self._container.mux(held)
        if self._path.is_file():
            self._whole_bytes = self._path.stat().st_size  # both muxers write a fragment at once, and flush it


def tag_colours(context: VideoCodecContext | av.VideoFrame) -> None:
    """Say how the colours of :func:`yuv_frame` are meant."""
    context.colorspace, context.color_range = _MATRIX_BT601, _RANGE_LIMITED
    context.color_primaries, context.color_trc = _PRIMARIES_BT709, _TRANSFER_BT709


def yuv_frame(picture: NDArray[np.uint8]) -> av.VideoFrame:
    """A picture, uint8 [H, W, 3] RGB, as YUV 4:2:0; odd sizes are made even by repeating the last row or column."""
    height, width = picture.shape[:2]
    if width % 2 or height % 2:
        picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    planes = cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420)  # 13 times as fast as swscale
    frame = av.VideoFrame.from_ndarray(planes.astype(np.uint8, copy=False), format="yuv420p")
    tag_colours(frame)
    return frame


def letterboxed(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """``picture`` as large as it fits into ``width`` by ``height``, its shape kept, between black bars."""
    scale = min(width / picture.shape[1], height / picture.shape[0])
    inner = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    fitted = cv2.resize(picture, inner, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    canvas = np.zeros((height, width, 3), np.uint8)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas[top : top + inner[1], left : left + inner[0]] = fitted
    return canvas
