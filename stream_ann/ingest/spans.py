"""Cutting videos into spans that can be decoded by themselves, and choosing which of their frames are wanted."""

from __future__ import annotations

import bisect
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from av.container import InputContainer
from av.video.stream import VideoStream

from stream_ann.errors import SourceError, UsageError
from stream_ann.ingest.decoder import Decoder
from stream_ann.ingest.libav import opening

__all__ = ["WHOLE", "Selection", "Span", "expected_frames", "spans_of", "time_base_of"]

_SEEKABLE = frozenset({"matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2"})
"""Containers that hold an index of their key frames."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which frames of a video are wanted."""

    stride: int = 1
    """Every so many frames, from the first."""
    every_s: float | None = None
    """The first frame of every so many seconds."""
    keyframes_only: bool = False
    """Only frames that can be decoded by themselves; no other one is."""

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise UsageError(f"stride must be at least 1, got {self.stride}")
        if self.every_s is not None and not (math.isfinite(self.every_s) and self.every_s > 0):
            raise UsageError(f"every-s must be a positive number of seconds, got {self.every_s}")
        if sum((self.stride > 1, self.every_s is not None, self.keyframes_only)) > 1:
            raise UsageError("frames are chosen in one way", "give one of --stride, --every-s, --keyframes-only")

    def wants(self, index: int, pts_s: float | None, before_s: float | None, *, number: int) -> bool:
        """Whether a frame is wanted.

        Args:
            index: Its number in the video.
            pts_s: Its time in seconds, or None.
            before_s: The time of the frame before it, in seconds; None where there is none, or no time.
            number: How many frames were decoded before it.
        """
        if self.every_s is None:
            return index % self.stride == 0
        if pts_s is None or before_s is None:
            return pts_s is None or number == 0
        return math.floor(pts_s / self.every_s) > math.floor(before_s / self.every_s)


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a video that begins with a key frame."""

    start_pts: int | None = None
    """Timestamp of its first frame, in the stream's time base; None for the video's beginning."""
    end_pts: int | None = None
    """Timestamp of the first frame after it; None for the video's end."""
    first_index: int = 0
    """Number of its first frame in the video."""
    before_pts: int | None = None
    """Timestamp of the last frame before it."""
    key_indices: tuple[int, ...] | None = None
    """Numbers of its key frames in the video, where only those are wanted and they are known."""
    frames: int = 0
    """How many of its frames are wanted, as far as can be told without decoding; 0 where nothing can."""


WHOLE = Span()
"""A video in one piece."""


def spans_of(
    path: str | os.PathLike[str], name: str, selection: Selection, *, wanted: int, decoded: int
) -> tuple[Span, ...]:
    """Cut a video at key frames.

    Only its packets are read, nothing is decoded. Videos that cannot be cut reliably (no index of key frames, packets
    without timestamps, damage) stay in one piece.

    Args:
        path: The file.
        name: What to call it in errors.
        selection: Which frames are wanted.
        wanted: A span ends with the first key frame after so many wanted frames ...
        decoded: ... or after so many frames of any kind.

    Returns:
        The spans in order, at least one. What is wrong with a file shows when it is decoded.
    """
    try:
        decoder = Decoder(Path(path), name, "SLICE", threads=1)
    except SourceError:
        return (WHOLE,)
    try:
        expected = _expected(decoder.container, decoder.stream, selection)
        if decoder.container.format.name not in _SEEKABLE:
            return (Span(frames=expected),)
        if not selection.keyframes_only and 0 < expected <= wanted and expected * selection.stride <= decoded:
            return (Span(frames=expected),)  # short: not worth a look at all packets
        times: list[int] = []
        keys: list[int] = []
        with opening(name):
            for packet in decoder.packets:
                if not packet.size or packet.is_discard:
                    continue
                if packet.pts is None:
                    return (Span(frames=expected),)
                times.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
        time_base = decoder.stream.time_base
    except SourceError:
        return (WHOLE,)
    finally:
        decoder.close()
    times.sort()
    keys.sort()
    if not times or not keys or len(set(keys)) < len(keys) or time_base is None:
        return (Span(frames=len(times)),)
    return tuple(_cut(times, keys, selection, time_base, wanted, decoded))


def expected_frames(path: str | os.PathLike[str], name: str, selection: Selection) -> int:
    """About how many frames of a video are wanted, from its header alone; 0 where it does not say.

    Raises:
        SourceError: If it cannot be opened.
    """
    decoder = Decoder(Path(path), name, "SLICE", threads=1)
    try:
        return _expected(decoder.container, decoder.stream, selection)
    finally:
        decoder.close()


def time_base_of(path: str | os.PathLike[str], name: str) -> Fraction | None:
    """The unit of a video's timestamps, in seconds; None where it cannot be told."""
    try:
        decoder = Decoder(Path(path), name, "SLICE", threads=1)
    except SourceError:
        return None
    try:
        return decoder.stream.time_base
    finally:
        decoder.close()


def _expected(container: InputContainer, stream: VideoStream, selection: Selection) -> int:
    duration_s = 0.0
    if stream.duration and stream.time_base:
        duration_s = float(stream.duration * stream.time_base)
    elif container.duration:
        duration_s = container.duration / 1e6
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    if selection.every_s is not None:
        return math.ceil(duration_s / selection.every_s)
    frames = stream.frames or round(duration_s * rate)
    if selection.keyframes_only:
        return math.ceil(frames / 100)  # a guess
    return math.ceil(frames / selection.stride)


def _cut(
    times: Sequence[int], keys: Sequence[int], selection: Selection, time_base: Fraction, wanted: int, decoded: int
) -> Iterator[Span]:
    """Cut at keys, given the sorted timestamps of all frames and of the key frames."""
    chosen = _chosen(times, keys, selection, time_base)
    starts = [0]
    for key in keys[1:]:
        at = bisect.bisect_left(times, key)
        here = bisect.bisect_left(chosen, at) - bisect.bisect_left(chosen, starts[-1])
        if here >= wanted or (not selection.keyframes_only and at - starts[-1] >= decoded):
            starts.append(at)
    for i, start in enumerate(starts):
        end = starts[i + 1] if i + 1 < len(starts) else len(times)
        mine = chosen[bisect.bisect_left(chosen, start) : bisect.bisect_left(chosen, end)]
        yield Span(
            start_pts=times[start] if i else None,
            end_pts=times[end] if end < len(times) else None,
            first_index=start,
            before_pts=times[start - 1] if start else None,
            key_indices=tuple(mine) if selection.keyframes_only else None,
            frames=len(mine),
        )


def _chosen(times: Sequence[int], keys: Sequence[int], selection: Selection, time_base: Fraction) -> list[int]:
    """Numbers of the wanted frames, rising."""
    if selection.keyframes_only:
        return [bisect.bisect_left(times, key) for key in keys]
    if selection.every_s is None:
        return list(range(0, len(times), selection.stride))
    before_s: float | None = None
    found = []
    for i, pts in enumerate(times):
        now_s = float(pts * time_base)
        if selection.wants(i, now_s, before_s, number=i):
            found.append(i)
        before_s = now_s
    return found
