"""Recordings of any length and of several sources: a file for each source, cut into chunks on request."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stream_ann.errors import UsageError
from stream_ann.frames import FrameResult
from stream_ann.sinks.names import slug, stamp
from stream_ann.sinks.video import Draw, VideoSink

__all__ = ["RecordingSink"]

SHORTEST_CHUNK_S = 1.0
MOST_REMEMBERED = 1000
"""Names of so many files are remembered: a recording may go on for years."""


@dataclass(slots=True)
class _Chunk:
    """The file that is being written for a source."""

    sink: VideoSink
    begun_s: float
    from_source: bool


class RecordingSink:
    """Records annotated frames into as many files as it takes, each as :class:`VideoSink` writes it.

    One source without chunks is recorded to the path given. With several sources each has a file of its own, with its
    name inserted: ``out-garden.mp4``. Chunks have the time of their beginning (UTC) and a number inserted, too:
    ``out-garden-20260102T030405.678Z-0001.mp4``. A chunk is finished before the next one begins, so only the last one
    can lack its last second where a run is killed.

    Args:
        path: The file; its extension chooses the container.
        draw: Gives the picture to record for a result, uint8 [H, W, 3] RGB.
        several: Whether there is more than one source.
        chunk_s: Begin another chunk after so many seconds of video; None for no limit.
        chunk_mb: Begin another chunk after so many megabytes; None for no limit.
        keep: How many finished chunks of a source to keep: older ones are deleted. None for all.
        wall_s: Tells the time, in seconds since 1970.

    Attributes:
        previous: Where a file that existed before is now, if one did.

    Raises:
        UsageError: If the extension or a limit makes no sense.
        OutputError: If the path cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        draw: Draw,
        several: bool = False,
        chunk_s: float | None = None,
        chunk_mb: float | None = None,
        keep: int | None = None,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        if chunk_s is not None and not chunk_s >= SHORTEST_CHUNK_S:
            raise UsageError(f"a chunk must have at least {SHORTEST_CHUNK_S:g} s, got {chunk_s:g}")
        if chunk_mb is not None and not chunk_mb > 0:
            raise UsageError(f"a chunk must have more than 0 MB, got {chunk_mb:g}")
        if keep is not None and keep < 1:
            raise UsageError(f"at least 1 chunk must be kept, got {keep}")
        self._chunked = chunk_s is not None or chunk_mb is not None
        if keep is not None and not self._chunked:
            raise UsageError("a number of chunks to keep needs chunks", "say how long or how large a chunk may be")
        self._path = Path(path)
        self._draw = draw
        self._several = several
        self._chunk_s = chunk_s
        self._chunk_bytes = None if chunk_mb is None else chunk_mb * 1e6
        self._keep = keep
        self._wall_s = wall_s
        self._chunks: dict[str, _Chunk] = {}
        self._finished: dict[str, deque[Path]] = {}
        self._names: dict[str, str] = {}
        self._numbers: dict[str, int] = {}
        self._files: deque[Path] = deque(maxlen=MOST_REMEMBERED)
        self.previous: Path | None = None
        VideoSink(self._path, draw=draw)  # finds out early whether it can be written at all, and changes nothing

    @property
    def name(self) -> str:
        """The file's name as it was given."""
        return str(self._path)

    @property
    def files(self) -> list[Path]:
        """The latest files, 1,000 at most, without those that were deleted again; oldest first."""
        return list(self._files)

    def write(self, result: FrameResult) -> None:
        """Record one frame.

        Raises:
            OutputError: If it cannot be written. What was written before stays valid.
        """
        source = result.frame.source
        chunk = self._chunks.get(source)
        if chunk is not None and self._is_full(chunk, result):
            del self._chunks[source]
            self._finish(source, chunk)
            chunk = None
        if chunk is None:
            time_s, from_source = _time_of(result)
            sink = VideoSink(self._path_for(source), draw=self._draw)
            chunk = self._chunks[source] = _Chunk(sink, time_s, from_source)
            self._files.append(Path(sink.name))
        chunk.sink.write(result)
        self.previous = chunk.sink.previous or self.previous

    def close(self) -> None:
        """Finish all files.

        Raises:
            OutputError: If one cannot be finished; the others are nevertheless.
        """
        failure: Exception | None = None
        while self._chunks:
            _, chunk = self._chunks.popitem()
            try:
                chunk.sink.close()
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _is_full(self, chunk: _Chunk, result: FrameResult) -> bool:
        if not self._chunked:
            return False
        time_s, from_source = _time_of(result)
        if self._chunk_s is not None:
            # where the times begin anew, as they do when a camera comes back, so does the chunk
            if from_source is not chunk.from_source or time_s < chunk.begun_s:
                return True
            if time_s - chunk.begun_s >= self._chunk_s:
                return True
        return self._chunk_bytes is not None and chunk.sink.size_bytes >= self._chunk_bytes

    def _finish(self, source: str, chunk: _Chunk) -> None:
        chunk.sink.close()
        if self._keep is None:
            return
        finished = self._finished.setdefault(source, deque())
        finished.append(Path(chunk.sink.name))
        while len(finished) > self._keep:
            oldest = finished.popleft()
            oldest.unlink(missing_ok=True)
            with suppress(ValueError):  # forgotten before
                self._files.remove(oldest)

    def _path_for(self, source: str) -> Path:
        parts = [self._path.stem]
        if self._several:
            parts.append(self._name_of(source))
        if self._chunked:
            number = self._numbers[source] = self._numbers.get(source, 0) + 1
            parts += [stamp(self._wall_s()), f"{number:04d}"]
        return self._path.with_name("-".join(parts) + self._path.suffix)

    def _name_of(self, source: str) -> str:
        """The source's name as part of a file name, unlike those of all other sources."""
        if source not in self._names:
            name = plain = slug(source, end=True)
            number = 1
            while name in self._names.values():
                number += 1
                name = f"{plain}-{number}"
            self._names[source] = name
        return self._names[source]


def _time_of(result: FrameResult) -> tuple[float, bool]:
    """When the frame was seen, in seconds, and whether by the source's own time."""
    pts_s = result.frame.pts_s
    return (result.frame.arrival_s, False) if pts_s is None else (pts_s, True)
