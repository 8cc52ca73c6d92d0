"""A copy of a video with pictures drawn on: every frame at its own time, the sound as it was."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from stream_ann.containers import file_options
from stream_ann.errors import OutputError
from stream_ann.sinks.files import output_error
from stream_ann.sinks.video import letterboxed, tag_colours, yuv_frame

__all__ = ["annotated_path", "write_annotated"]

_IN_MP4 = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp2", "mp3", "opus"})
"""Sound that can be in an mp4."""
_FINEST = Fraction(1, 1_000_000)
"""The finest unit of time, in seconds, that every muxer takes."""


def annotated_path(source: Path, target: Path) -> Path:
    """``target`` with the extension of the container that can hold the sound of ``source``: mp4, else mkv.

    mp4 keeps the times of any video exactly; Matroska rounds them to milliseconds.
    """
    try:
        with av.open(f"file:{source.absolute()}", options=file_options(), metadata_errors="replace") as container:
            fits = all(s.codec_context.name.split("_")[0] in _IN_MP4 for s in _sounds(container))
    except (OSError, av.FFmpegError):
        fits = True  # whatever is wrong with it shows elsewhere
    return target.with_suffix(".mp4" if fits else ".mkv")


def write_annotated(
    source: Path,
    pictures: Iterable[tuple[NDArray[np.uint8], float | None]],
    target: Path,
    *,
    time_base: Fraction | None,
    crf: int = 23,
) -> None:
    """Write a video of ``pictures`` with the sound of ``source``, whose packets are copied as they are.

    The file appears as a whole; where it cannot be written there is none.

    Args:
        source: The video that the pictures come from.
        pictures: Each frame, uint8 [H, W, 3] RGB, and its time in seconds; None for one step after the frame before.
        target: An .mp4 or .mkv file.
        time_base: Unit of the frames' times in the source, in seconds.
        crf: Constant rate factor of the encoder, 0 (best) to 51.

    Raises:
        OutputError: If it cannot be written.
    """
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished.unlink(
            missing_ok=True
        )  # of a run that was killed; a link that somebody has put there is not followed
        with contextlib.ExitStack() as stack:
            written = stack.enter_context(av.open(str(unfinished.absolute()), "w", format=_muxer(target)))
            sounds = _Sounds(source, written, stack)
            writer = _Writer(written, time_base or Fraction(1, 90_000), crf)
            for image, time_s in pictures:
                for packet in writer.encode(image, time_s):
                    sounds.until(written, float((packet.pts or 0) * writer.time_base))
                    written.mux(packet)
            for packet in writer.end():
                written.mux(packet)
            sounds.until(written, None)
        os.replace(unfinished, target)
    except (OSError, av.FFmpegError, ValueError) as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        if isinstance(error, ValueError):
            raise OutputError(f"cannot write '{target}': {error}", "leave out --overlay for this video") from error
        raise output_error(target, error) from error


def _muxer(target: Path) -> str:
    return "mp4" if target.suffix == ".mp4" else "matroska"


def _sounds(container: InputContainer) -> list[AudioStream]:
    return [s for s in container.streams.audio if s.codec_context is not None]


class _Writer:
    """Encodes pictures of any size in the size of the first one."""

    def __init__(self, container: OutputContainer, time_base: Fraction, crf: int) -> None:
        self.time_base = max(time_base, _FINEST)
        self._container = container
        self._crf = crf
        self._stream: VideoStream | None = None
        self._last = -1
        self._begun = False
        self._step = max(1, round(Fraction(1, 25) / self.time_base))

    def encode(self, image: NDArray[np.uint8], time_s: float | None) -> Iterator[Packet[Any]]:
        stream = self._stream or self._open(image)
        height, width = image.shape[:2]
        if (width + width % 2, height + height % 2) != (stream.width, stream.height):
            image = letterboxed(image, stream.width, stream.height)
        frame = yuv_frame(image)
        pts = self._last + self._step if time_s is None else round(time_s / self.time_base)
        if self._begun:
            pts = max(pts, self._last + 1)
        self._last, self._begun = pts, True
        frame.pts, frame.time_base = pts, self.time_base
        yield from stream.encode(frame)

    def end(self) -> Iterator[Packet[Any]]:
        if self._stream is not None:
            yield from self._stream.encode(None)

    def _open(self, image: NDArray[np.uint8]) -> VideoStream:
        # no frame is held back, so that decoding times never precede the first one
        options = {"preset": "veryfast", "bf": "0", "crf": str(self._crf)}
        stream = self._container.add_stream("libx264", rate=30, options=options)
        height, width = image.shape[:2]
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        stream.codec_context.time_base = stream.time_base = self.time_base
        tag_colours(stream.codec_context)
        self._stream = stream
        return stream


class _Sounds:
    """The sound of a video, its packets in the order of their times."""

    def __init__(self, source: Path, written: OutputContainer, stack: contextlib.ExitStack) -> None:
        self._packets: Iterator[Packet[Any]] = iter(())
        self._next: Packet[Any] | None = None
        opened = stack.enter_context(
            av.open(f"file:{source.absolute()}", options=file_options(), metadata_errors="replace")
        )
        streams = _sounds(opened)
        self._outputs = {s.index: written.add_stream_from_template(s) for s in streams}
        if streams:
            self._packets = opened.demux(streams)

    def until(self, written: OutputContainer, time_s: float | None) -> None:
        """Write the packets up to a time; None for all."""
        while (packet := self._peek()) is not None:
            if time_s is not None and packet.dts is not None and float(packet.dts * packet.time_base) > time_s:
                return
            self._next = None
            if packet.dts is None:
                continue
            packet.stream = self._outputs[packet.stream.index]
            written.mux(packet)

    def _peek(self) -> Packet[Any] | None:
        if self._next is None:
            try:
                self._next = next(self._packets, None)
            except av.FFmpegError:  # the sound ends where it cannot be read
                self._packets = iter(())
        return self._next
