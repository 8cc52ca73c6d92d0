"""Videos and images: what decoders get to see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from stream_ann.errors import DecodeError
from stream_ann.ingest import VideoSource
from stream_ann.ingest.images import load_image
from stream_ann.ingest.source import MAX_PIXELS, Source
from stream_ann.ingest.spans import Selection, expected_frames, spans_of
from stream_ann.ingest.squares import SquareSource
from stream_ann.training.images import load_image as load_training_image
from stream_ann.training.images import why_unusable
from tests.fuzz import corpus
from tests.fuzz.damage import damaged_bytes
from tests.fuzz.target import Target

__all__ = ["TARGETS", "read_all"]

_MOST_FRAMES = 200
"""Damage may turn a clip of six frames into an endless one."""


def read_all(source: Source) -> int:
    """Read a source to its end, past damaged frames, and check each picture; how many there were."""
    pictures = 0
    source.open()
    try:
        for _ in range(_MOST_FRAMES):
            try:
                picture = source.read()
            except DecodeError:
                continue
            if picture is None:
                break
            pictures += 1
            height, width, channels = picture.image.shape
            assert picture.image.dtype == np.uint8
            assert channels == 3
            assert 0 < height * width <= MAX_PIXELS
            assert picture.image.flags.c_contiguous
    finally:
        source.close()
    return pictures


def _video(data: bytes, folder: Path) -> None:
    path = folder / "input.bin"
    path.write_bytes(data)
    read_all(VideoSource(path))


def _labelled_video(data: bytes, folder: Path) -> None:
    """As ``label`` reads it: cut into spans, each by itself, as squares."""
    path = folder / "input.bin"
    path.write_bytes(data)
    selection = Selection(keyframes_only=len(data) % 3 == 0)
    expected_frames(path, "input", selection)
    spans = spans_of(path, "input", selection, wanted=2, decoded=3)
    assert spans
    for span in spans[:4]:
        source = SquareSource(
            path, name="input", side_px=32, cut=_middle, selection=selection, span=span, threads=len(data) % 2 + 1
        )
        source.open()
        try:
            for _ in range(_MOST_FRAMES):
                try:
                    square = source.next()
                except DecodeError:
                    continue
                if square is None:
                    break
                assert square.image.shape == (32, 32, 3)
        finally:
            source.close()


def _middle(height: int, width: int) -> tuple[int, int, int]:
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side


def _image(data: bytes, folder: Path) -> None:
    path = folder / "input.png"  # what is in it decides, not its name
    path.write_bytes(data)
    image = load_image(path)
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3


def _training_image(data: bytes, folder: Path) -> None:
    path = folder / "input.jpg"
    path.write_bytes(data)
    why_unusable(path)
    image = load_training_image(path, 16)
    assert isinstance(image, str) or (image.shape[2] == 3 and min(image.shape[:2]) <= 16)


def _containers(folder: Path) -> st.SearchStrategy[bytes]:
    return damaged_bytes(list(corpus.videos(folder).values()), most=3)


def _codecs(folder: Path) -> st.SearchStrategy[bytes]:
    """Containers stay whole; what is in their packets does not."""
    contents = corpus.videos(folder)
    places = corpus.packet_places(folder)

    @st.composite
    def made(draw: st.DrawFn) -> bytes:
        name = draw(st.sampled_from(sorted(places)))
        data = bytearray(contents[name])
        for _ in range(draw(st.integers(1, 4))):
            start, size = draw(st.sampled_from(places[name]))
            inside = draw(damaged_bytes([bytes(data[start : start + size])], most=3))
            data[start : start + size] = inside[:size].ljust(size, b"\0")
        return bytes(data)

    return made()


def _images(folder: Path) -> st.SearchStrategy[bytes]:
    return damaged_bytes(list(corpus.images(folder).values()))


TARGETS = (
    Target("container", "video files, container bytes damaged", _containers, _video, 120),
    Target("codec", "video files, coded frames damaged", _codecs, _video, 90),
    Target("labelled-video", "the same, as label reads them", _containers, _labelled_video, 60),
    Target("image", "image files", _images, _image, 100),
    Target("training-image", "the same, as train reads them", _images, _training_image, 40),
)
