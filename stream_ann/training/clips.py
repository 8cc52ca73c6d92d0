"""Frames of labelled video clips, sampled evenly in time."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from stream_ann.containers import file_options
from stream_ann.training.images import reason_of, shrink

__all__ = ["clip_shape", "load_clip", "sample_frames"]

_TIMEOUT_S = (10.0, 30.0)
"""For opening a clip, and for reading one packet of it."""


@dataclass(frozen=True, slots=True)
class _Times:
    """When the frames of a clip are shown, in the time base of its stream, in rising order."""

    frames: list[int]
    keyframes: list[int]
    """Those at which decoding can begin."""


def load_clip(path: Path, frames: int, short_side_px: int) -> list[NDArray[np.uint8]] | str:
    """Frames of a clip, uint8 [h, w, 3] each with its shorter side at most so long, or why they cannot be had."""
    try:
        return [shrink(image, short_side_px) for image in sample_frames(path, frames)]
    except Exception as error:
        if isinstance(error, av.error.InvalidDataError):
            return "not a video, or damaged"
        return reason_of(error)


def clip_shape(path: Path) -> tuple[int, int] | None:
    """Height and width of a clip's frames as its header has them; None where that cannot be read."""
    try:
        with _opened(path) as container:
            context = container.streams.video[0].codec_context
            return context.height, context.width
    except Exception:
        return None


def sample_frames(path: Path, frames: int) -> list[NDArray[np.uint8]]:
    """Frames of a clip from the middles of as many equally long parts of it, upright.

    Args:
        path: The clip.
        frames: How many. A clip that has fewer gives each of its frames once.

    Returns:
        uint8 [H, W, 3] RGB each, in the order of time.

    Raises:
        av.error.FFmpegError: The file is no video, or is damaged.
        ValueError: It has no video, or less than half of the frames chosen can be decoded.
    """
    with _opened(path) as container:
        times = _times(container)
    if not times.frames:
        raise ValueError("there are no frames in it")
    wanted = _even(times.frames, frames)
    with _opened(path) as container:
        images = [_upright(frame) for frame in _at(container, wanted, times.keyframes)]
    if 2 * len(images) < len(wanted):
        raise ValueError(f"only {len(images)} of {len(wanted)} frames can be decoded")
    return images


def _opened(path: Path) -> InputContainer:
    container = av.open(f"file:{path.absolute()}", options=file_options(), timeout=_TIMEOUT_S)
    if not container.streams.video:
        container.close()
        raise ValueError("there is no video in it")
    # Several clips are decoded side by side already.
    container.streams.video[0].codec_context.thread_count = 1
    return container


def _times(container: InputContainer) -> _Times:
    """Read the packets without decoding any: cheap, and right where a header's duration is wrong or missing."""
    stream = container.streams.video[0]
    frames, keyframes = [], []
    untimed = 0
    for packet in container.demux(stream):
        if packet.size == 0 or packet.is_discard:
            continue
        if packet.pts is None:
            untimed += 1
            continue
        frames.append(packet.pts)
        if packet.is_keyframe:
            keyframes.append(packet.pts)
    if untimed > len(frames):
        # A bare stream has no times: the frames are counted instead.
        return _Times(list(range(untimed + len(frames))), [])
    return _Times(sorted(set(frames)), sorted(set(keyframes)))


def _even(times: list[int], count: int) -> list[int]:
    """The times nearest to the middles of ``count`` equal parts, each once."""
    if len(times) <= count:
        return times
    period = (times[-1] - times[0]) / (len(times) - 1)
    length = times[-1] - times[0] + period  # the last frame is shown for a while, too
    chosen = []
    for part in range(count):
        # A frame stands for the time from when it is shown, so that the one shown at the middle is meant.
        middle = times[0] + (part + 0.5) * length / count
        chosen.append(times[max(0, bisect.bisect_right(times, middle) - 1)])
    return sorted(set(chosen))


def _at(container: InputContainer, wanted: list[int], keyframes: list[int]) -> Iterator[VideoFrame]:
    """The frames that are shown at these times; damaged ones are left out."""
    stream = container.streams.video[0]
    todo = deque(wanted)
    counted = not keyframes
    number = -1
    while todo:
        best = bisect.bisect_right(keyframes, todo[0]) - 1
        if best > 0:
            container.seek(keyframes[best], stream=stream)
        for frame in _decoded(container):
            number += 1
            time = number if counted else frame.pts
            if time is None:
                continue
            while todo and todo[0] < time:
                todo.popleft()
            if todo and todo[0] == time:
                todo.popleft()
                if not frame.is_corrupt:
                    yield frame
            if not todo or _skips(keyframes, time, todo[0]):
                break
        else:
            return


def _skips(keyframes: list[int], here: int, there: int) -> bool:
    """Whether there are two keyframes on the way: decoding all between costs more than seeking to the last one."""
    return bisect.bisect_right(keyframes, there) - bisect.bisect_right(keyframes, here) >= 2


def _decoded(container: InputContainer) -> Iterator[VideoFrame]:
    for packet in container.demux(container.streams.video[0]):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            continue
        yield from frames


def _upright(frame: VideoFrame) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB, turned as the recording phone noted."""
    pixels = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
