"""The centre squares of a video's frames, cut and resized where they are decoded."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray

from stream_ann.errors import DecodeError, SourceError
from stream_ann.ingest.decoder import Decoder
from stream_ann.ingest.libav import decoding, opening
from stream_ann.ingest.pictures import upright
from stream_ann.ingest.source import Picture, check_size
from stream_ann.ingest.spans import WHOLE, Selection, Span
from stream_ann.ingest.video import VideoSource

__all__ = ["Cut", "Square", "SquareSource"]

Cut = Callable[[int, int], tuple[int, int, int]]
"""Top, left and side of the square to look at, in pixels, from the height and width of a picture."""

_COARSE = 2.0
"""From this reduction on, pixels are averaged: as good as a cubic filter then, and twice as fast."""


@dataclass(frozen=True, slots=True, eq=False)
class Square:
    """The centre square of one frame."""

    image: NDArray[np.uint8]
    """uint8 [S, S, 3] RGB, upright."""
    index: int
    """Number of the frame in its video, from 0, damaged ones counted."""
    pts_s: float | None
    """Its presentation time in seconds, or None."""


class SquareSource(VideoSource):
    """A span of a video as squares of one size: what a network looks at, and no pixel more is converted.

    The decoder's own scaler makes them from the frame as it is, whatever its pixel format, bit depth, size or rotation,
    several times as fast as through a full picture in RGB.

    Args:
        path: The file.
        name: What to call it.
        side_px: Side S of the squares.
        cut: Where the square is in a picture.
        selection: Which frames are wanted; the others are decoded where that is needed, and not converted.
        span: Which part of the video.
        threads: Threads of the decoder.
        hwaccel: Kind of device to decode on where it can.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        name: str,
        side_px: int,
        cut: Cut,
        selection: Selection = Selection(),  # noqa: B008 (frozen)
        span: Span = WHOLE,
        threads: int = 1,
        hwaccel: str | None = None,
    ) -> None:
        super().__init__(path, name=name)
        self._side = side_px
        self._cut = cut
        self._selection = selection
        self._span = span
        self._threads = threads
        self._hwaccel = hwaccel
        self._reads_all = span.start_pts is None
        self._made: Square | None = None
        self.decoded = 0
        """Frames of the span that were decoded so far, wanted or not."""
        self.damaged = 0
        """Frames of it that could not be."""

    def open(self) -> None:
        """Open the file, and go to where the span begins. Raises as :meth:`VideoSource.open`."""
        super().open()
        decoder, start = self._decoder, self._span.start_pts
        assert decoder is not None
        self.decoded = self.damaged = 0
        self._before_s: float | None = None
        if self._span.before_pts is not None and decoder.stream.time_base:
            self._before_s = float(self._span.before_pts * decoder.stream.time_base)
        if start is not None:
            self._skip_to = start - 1
            self._go_to(decoder, start)
        if self._selection.keyframes_only:
            decoder.packets = _key_packets(decoder.packets)

    def next(self) -> Square | None:
        """The next wanted square; None at the span's end.

        Raises:
            DecodeError: If a frame is damaged.
            SourceError: If the file cannot be read any further; behind the last frame, if it is cut short.
        """
        try:
            picture = super().read()
        except DecodeError:
            self.damaged += 1
            raise
        made, self._made = self._made, None
        return None if picture is None else made

    def _open_decoder(self, thread_type: Literal["AUTO", "SLICE"]) -> Decoder:
        return Decoder(self._path, self.name, thread_type, threads=self._threads, hwaccel=self._hwaccel)

    def _go_to(self, decoder: Decoder, start: int) -> None:
        """Let the next packet be the span's first key frame, or an earlier one; what is too early is left out."""
        with opening(self.name):
            decoder.container.seek(start, stream=decoder.stream)
            decoder.packets = decoder.demux()
            first = next(decoder.packets, None)
        if first is None or first.pts is None or first.pts > start:
            raise SourceError(f"'{self.name}' cannot be read from its middle", "check that the file is complete")
        decoder.packets = itertools.chain([first], decoder.packets)

    def _convert(self, frame: VideoFrame, pts_s: float | None) -> Picture | None:
        end = self._span.end_pts
        if end is not None and frame.pts is not None and frame.pts >= end:
            self._over = True
            self._frames.clear()
            return None
        number = self.decoded
        self.decoded += 1
        keys = self._span.key_indices
        index = self._span.first_index + number + self.damaged + self._lost
        if keys is not None:
            index = keys[min(number + self.damaged + self._lost, len(keys) - 1)]
        elif not self._selection.keyframes_only:
            before_s, self._before_s = self._before_s, pts_s
            if not self._selection.wants(index, pts_s, before_s, number=self._span.first_index + number):
                return None
        try:
            check_size(frame.width, frame.height, self.name)
            with decoding(self.name):
                image = self._square(frame)
        except DecodeError:
            self.decoded -= 1  # it counts as damaged
            raise
        self._made = Square(upright(image, self._turning.matrix(frame)), index, pts_s)
        return Picture(image, pts_s)

    def _square(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """The whole frame reduced so far that its square is S pixels wide, and that cut out."""
        _, _, side = self._cut(frame.height, frame.width)
        scale = self._side / side
        width, height = (max(self._side, round(n * scale)) for n in (frame.width, frame.height))
        filter_ = Interpolation.AREA if side >= _COARSE * self._side else Interpolation.BICUBIC
        small = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=filter_, threads=1
        )
        image = np.asarray(small.to_ndarray(), dtype=np.uint8)
        top, left = (height - self._side) // 2, (width - self._side) // 2
        return image[top : top + self._side, left : left + self._side]


def _key_packets(packets: Iterator[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
    """Those that can be decoded by themselves, and the empty one at the end."""
    return (packet for packet in packets if packet.is_keyframe or not packet.size)
