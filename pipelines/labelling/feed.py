"""The frames of a unit, decoded in a thread of their own with bounded memory."""

from __future__ import annotations

import gc
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from pipelines.labelling.inputs import Video
from pipelines.labelling.work import Piece, PieceEnd, Unit
from stream_ann.errors import DecodeError, SourceError
from stream_ann.ingest.spans import Selection
from stream_ann.ingest.squares import Cut, Square, SquareSource
from stream_ann.text import clean

__all__ = ["Decoding", "Fed", "Feed"]

WAIT_S = 0.2
"""How often a waiting thread looks whether it is to stop."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How frames become squares."""

    side_px: int
    """Side of the squares."""
    cut: Cut
    """Where the square is in a picture."""
    selection: Selection
    """Which frames are wanted."""
    threads: int = 1
    """Threads of each decoder."""
    hwaccel: str | None = None
    """Kind of device to decode on."""
    ahead: int = 64
    """How many squares may wait."""


@dataclass(frozen=True, slots=True, eq=False)
class Fed:
    """A frame and the video that it is of."""

    video: int
    square: Square


class Feed:
    """Decodes the pieces of a unit one after the other; iterate over it for their frames and ends, in order.

    Args:
        unit: The unit.
        videos: All videos of the job.
        decoding: How frames become squares.
        stop: Ends it early when set.
    """

    def __init__(self, unit: Unit, videos: Sequence[Video], decoding: Decoding, stop: threading.Event) -> None:
        self._unit = unit
        self._videos = videos
        self._decoding = decoding
        self._stop = stop
        self._closed = threading.Event()
        self._queue: queue.Queue[Fed | PieceEnd | BaseException | None] = queue.Queue(decoding.ahead)
        self._thread = threading.Thread(target=self._run, name=f"stream-ann decoder {unit.number}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join(2.0)

    def __iter__(self) -> Iterator[Fed | PieceEnd]:
        while True:
            try:
                item = self._queue.get(timeout=WAIT_S)
            except queue.Empty:
                if self._over():
                    return
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def _over(self) -> bool:
        return self._stop.is_set() or self._closed.is_set()

    def _run(self) -> None:
        try:
            for piece in self._unit.pieces:
                for item in self._decode(piece):
                    self._put(item)
                    if self._over():
                        return
        except BaseException as error:  # handed to whoever takes the frames
            self._put(error)
        self._put(None)
        # PyAV's containers and streams refer to each other, so that only this frees their frames: without it an hour of
        # 1080p holds gigabytes
        gc.collect()

    def _decode(self, piece: Piece) -> Iterator[Fed | PieceEnd]:
        video, decoding = self._videos[piece.video], self._decoding
        source = SquareSource(
            video.path,
            name=video.name,
            side_px=decoding.side_px,
            cut=decoding.cut,
            selection=decoding.selection,
            span=piece.span,
            threads=decoding.threads,
            hwaccel=decoding.hwaccel,
        )
        error: str | None = None
        busy_s = 0.0
        try:
            begun_s = time.thread_time()
            source.open()
            while True:
                try:
                    square = source.next()
                except DecodeError:
                    continue  # counted by the source
                if square is None:
                    break
                busy_s += time.thread_time() - begun_s
                yield Fed(piece.video, square)
                begun_s = time.thread_time()
            busy_s += time.thread_time() - begun_s
        except SourceError as failure:
            error = clean(str(failure))
        finally:
            source.close()
        yield PieceEnd(piece, source.decoded, source.damaged, error, busy_s)

    def _put(self, item: Fed | PieceEnd | BaseException | None) -> None:
        while not self._over():
            try:
                self._queue.put(item, timeout=WAIT_S)
                return
            except queue.Full:
                continue
