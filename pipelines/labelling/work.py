"""Work in units: pieces of video that are labelled by themselves, and what comes of them.

Units are what is handed out, retried, and committed. Which frames are in a unit follows from the videos alone, so a job
is the same wherever its units run, and however often it was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.labelling.inputs import Video
from stream_ann.ingest.spans import Selection, Span, spans_of

__all__ = ["Block", "Event", "Piece", "PieceEnd", "Unit", "units"]

WANTED_FRAMES = 512
"""A unit ends after about so many wanted frames: batches are full for most of it, and little is lost when it is."""
DECODED_FRAMES = 4096
"""... or after about so many decoded ones."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A span of one video."""

    video: int
    """Number of the video in the job, from 0."""
    span: Span
    number: int
    """Number of the span in its video, from 0."""
    last: bool
    """Whether the video ends with it."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Pieces that are labelled together."""

    number: int
    pieces: tuple[Piece, ...]

    @property
    def next(self) -> tuple[int, int]:
        """Number of the video, and of the span in it, that come after the unit."""
        end = self.pieces[-1]
        return (end.video + 1, 0) if end.last else (end.video, end.number + 1)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Answers for some frames of one video, in order."""

    video: int
    index: NDArray[np.int64]
    """int64 [N], number of each frame in its video."""
    pts_s: NDArray[np.float64]
    """float64 [N], time of each in seconds, NaN where there is none."""
    answer: NDArray[np.float32]
    """float32 [N, classes], the readout's probabilities."""
    exit: NDArray[np.int32]
    """int32 [N], the exit that the answer comes from."""
    class_ids: NDArray[np.int32]
    """int32 [N, exits], the class that each exit found, -1 where it was not reached."""
    confidences: NDArray[np.float32]
    """float32 [N, exits], its probability."""
    looks: NDArray[np.uint8] | None
    """uint8 [N, s, s, 3], each frame much reduced, to notice cuts by; None where nobody looks."""


@dataclass(frozen=True, slots=True)
class PieceEnd:
    """A piece is done."""

    piece: Piece
    decoded: int
    """Frames that were decoded, wanted or not."""
    damaged: int
    """Frames that could not be."""
    error: str | None
    """Why the rest of it could not be read, in one line; None if all of it was."""
    decode_s: float
    """Time that decoding and scaling took, in seconds of one core."""


Event = Block | PieceEnd


def units(
    videos: Sequence[Video],
    selection: Selection,
    *,
    begin: tuple[int, int] = (0, 0),
    first: int = 0,
    spans: Callable[[Video], Sequence[Span]] | None = None,
) -> Iterator[Unit]:
    """Cut videos into units, lazily, one video at a time. Short videos share a unit, long ones fill several.

    Args:
        videos: The videos.
        selection: Which frames are wanted.
        begin: Video and span to begin with (:attr:`Unit.next`).
        first: Number of the first unit.
        spans: Cuts a video; by default at its key frames.
    """

    def cut(video: Video) -> Sequence[Span]:
        return spans_of(video.path, video.name, selection, wanted=WANTED_FRAMES, decoded=DECODED_FRAMES)

    cutter = cut if spans is None else spans
    pieces: list[Piece] = []
    frames = 0
    for number in range(begin[0], len(videos)):
        found = cutter(videos[number])
        for i in range(begin[1] if number == begin[0] else 0, len(found)):
            piece = Piece(number, found[i], i, last=i == len(found) - 1)
            # one that says nothing of its length may be of any
            weight = piece.span.frames or WANTED_FRAMES
            if pieces and frames + weight > WANTED_FRAMES:
                yield Unit(first, tuple(pieces))
                first, pieces, frames = first + 1, [], 0
            pieces.append(piece)
            frames += weight
    if pieces:
        yield Unit(first, tuple(pieces))
