"""Small real videos for tests, encoded here: odd pixel formats, variable rates, turned, damaged, cut short."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.stream import VideoStream

from stream_ann.ingest.pattern import pattern_image

UNIT = 1 << 16
UPRIGHT = (UNIT, 0, 0, 0, UNIT, 0, 0, 0, 1 << 30)


def numbered(count: int, size_px: tuple[int, int] = (160, 120), *, first: int = 0) -> list[np.ndarray]:
    """Pictures with their number in them, to be read by ``frame_number``."""
    return [pattern_image(i, *size_px) for i in range(first, first + count)]


def corners(size_px: tuple[int, int] = (160, 120)) -> np.ndarray:
    """A picture whose quarters are red, green, blue and white, in reading order."""
    width, height = size_px
    image = np.full((height, width, 3), 255, dtype=np.uint8)
    image[: height // 2, : width // 2] = (255, 0, 0)
    image[: height // 2, width // 2 :] = (0, 255, 0)
    image[height // 2 :, : width // 2] = (0, 0, 255)
    return image


def corner_names(image: np.ndarray) -> str:
    """What colours the quarters have, in reading order, such as ``"rgbw"``."""
    height, width = image.shape[:2]
    known = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255), "w": (255, 255, 255)}
    names = ""
    for y in (height // 4, 3 * height // 4):
        for x in (width // 4, 3 * width // 4):
            distance = {n: np.abs(image[y, x].astype(int) - c).sum() for n, c in known.items()}
            names += min(distance, key=lambda n: distance[n])
    return names


def encode(
    path: Path,
    images: Iterable[np.ndarray],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    container_format: str | None = None,
    fps: int = 25,
    pts_ms: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    display_matrix: tuple[int, ...] | None = None,
) -> Path:
    """Write a video. ``pts_ms`` gives each picture's time, for a variable rate."""
    with av.open(str(path), "w", format=container_format, options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        assert isinstance(stream, VideoStream)
        stream.codec_context.thread_count = 1
        stream.pix_fmt = pix_fmt
        if pts_ms is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if display_matrix is not None:
            stream.set_display_matrix(display_matrix)
        for i, image in enumerate(images):
            if i == 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if pts_ms is not None:
                frame.pts, frame.time_base = pts_ms[i], Fraction(1, 1000)
            else:
                frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def damage(source: Path, target: Path, packets: Sequence[int], *, seed: int = 0) -> Path:
    """Copy a video with the data of some packets, by their order in the file, replaced by noise."""
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size and p.pos is not None]
    rng = np.random.default_rng(seed)
    for i in packets:
        start, size = places[i]
        head = min(4, size)  # the length of the unit stays, so that only this packet is hit
        data[start + head : start + size] = rng.bytes(size - head)
    target.write_bytes(data)
    return target


def cut_short(source: Path, target: Path, part: float) -> Path:
    """Copy the first part of a file."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * part)])
    return target


def sound(path: Path, *, cover: bool = False) -> Path:
    """A tenth of a second of silence, with or without a cover picture."""
    with av.open(str(path), "w") as container:
        audio = container.add_stream("libmp3lame" if path.suffix == ".mp3" else "aac", rate=44100)
        if cover:
            video = container.add_stream("png", rate=25)
            video.height = video.width = 64
            video.pix_fmt = "rgb24"
            video.disposition = Disposition.attached_pic
            picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), dtype=np.uint8), format="rgb24")
            picture.pts = 0
            container.mux(video.encode(picture))
            container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4410 * 2), dtype=np.int16), format="s16", layout="stereo")
        frame.sample_rate = 44100
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path
