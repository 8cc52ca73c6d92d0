"""Results as JSON Lines: one result, one line."""

from __future__ import annotations

import io
import json
import math
import os
import stat
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from stream_ann.errors import OutputError, UsageError
from stream_ann.frames import FrameResult
from stream_ann.sinks.files import check_writable, keep_previous, output_error
from stream_ann.sinks.names import stamp
from stream_ann.states import StateChange
from stream_ann.text import plain_json

__all__ = ["JsonlSink", "strict_json"]


class JsonlSink:
    """Writes each result as one line of strict JSON in UTF-8, the keys as in :meth:`FrameResult.as_event`.

    A line is written at once and whole, so that a run that is killed, or finds the disk full, leaves whole lines only,
    and ``tail -f`` shows a result when it is there. Numbers that JSON cannot say (NaN, infinities) become null.

    A file that exists already is neither mixed with the new run nor lost to it: with the first result it is moved to
    ``NAME.previous.EXT`` beside it (where it replaces an older one), and a new file begins. A run that ends before its
    first result changes nothing.

    A run without end fills any disk, unless files are cut and old ones deleted: one that another line would make larger
    than ``most_mb`` is given the time of its beginning (UTC) and a number, ``events-20260102T030405.678Z-0001.jsonl``,
    and a new one begins under the name given.

    Args:
        path: The file, or ``"-"`` for standard output.
        on_change: Write a result only where its label is another than that of its source's last one. Changes of a
            source's state are written always.
        most_mb: Begin another file rather than let one grow beyond so many megabytes; None for no limit. Standard
            output, devices and pipes have none.
        keep: How many finished files of this run to keep: older ones are deleted. None for all.
        wall_s: Tells the time, in seconds since 1970.

    Attributes:
        previous: Where a file that existed before is now; None before the first result, and where none existed.

    Raises:
        UsageError: If a limit makes no sense.
        OutputError: If the file cannot be written, which is found out without touching it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        on_change: bool = False,
        most_mb: float | None = None,
        keep: int | None = None,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        if most_mb is not None and not most_mb > 0:
            raise UsageError(f"a file of events must have more than 0 MB, got {most_mb:g}")
        if keep is not None and keep < 1:
            raise UsageError(f"at least 1 file of events must be kept, got {keep}")
        if keep is not None and most_mb is None:
            raise UsageError("a number of files of events to keep needs a size", "say how large a file may be")
        self._most_bytes = None if most_mb is None else most_mb * 1e6
        self._keep = keep
        self._wall_s = wall_s
        self._begun_s = 0.0
        self._number = 0
        self._finished: deque[Path] = deque()
        self._labels: dict[str, str] | None = {} if on_change else None
        self.previous: Path | None = None
        self._closed = False
        self._stream: TextIO | None = None
        self._path: Path | None = None
        self._fd: int | None = None
        self._size: int | None = None
        if os.fspath(path) == "-":
            self._use_stdout()
        else:
            self._path = Path(path)
            check_writable(self._path)

    @property
    def name(self) -> str:
        """The file's name as it was given, or ``standard output``."""
        return "standard output" if self._path is None else str(self._path)

    def write(self, result: FrameResult) -> None:
        """Write one line, or none where only changes are wanted and this is none.

        Raises:
            OutputError: If it cannot be written whole; none of it is left in the file then.
        """
        if self._labels is not None:
            if self._labels.get(result.frame.source) == result.label:
                return
            self._labels[result.frame.source] = result.label
        self._write_event(result.as_event())

    def write_state(self, change: StateChange) -> None:
        """Write a change of a source's state as a line of its own, which has the key ``state``.

        Raises:
            OutputError: If it cannot be written whole; none of it is left in the file then.
        """
        self._write_event(change.as_event())

    def _write_event(self, event: dict[str, Any]) -> None:
        if self._closed:
            raise OutputError(f"cannot write '{self.name}': it is closed already")
        line = strict_json(event) + "\n"
        try:
            if self._stream is not None:
                self._stream.write(line)
                self._stream.flush()
                return
            # Lone surrogates (from undecodable names) have no UTF-8; as \udcxx they are still valid JSON.
            data = line.encode("utf-8", "backslashreplace")
            if self._most_bytes is not None and self._size and self._size + len(data) > self._most_bytes:
                self._set_aside()
            if self._fd is None:
                self._open()
            self._write_whole(data)
        except BrokenPipeError as error:
            raise OutputError(f"{self.name} was closed by its reader", "keep the reader running") from error
        except OSError as error:
            raise output_error(self.name, error) from error

    def close(self) -> None:
        """Close the file; standard output stays open."""
        if self._closed:
            return
        self._closed = True
        if self._path is not None and self._fd is not None:
            fd, self._fd = self._fd, None
            try:
                os.close(fd)
            except OSError as error:  # network file systems report a full disk only here
                raise output_error(self.name, error) from error

    def _use_stdout(self) -> None:
        if sys.stdout is None:
            raise OutputError("cannot write to standard output: it is closed", "name a file")
        try:
            # Past Python's buffer: what it holds back when the reader has gone would fail again, loudly, at exit.
            self._fd = sys.stdout.fileno()
            sys.stdout.flush()
        except (AttributeError, io.UnsupportedOperation):  # replaced by something that is not a file
            self._stream = sys.stdout
        except (OSError, ValueError) as error:
            raise OutputError("cannot write to standard output: it is closed", "name a file") from error

    def _open(self) -> None:
        assert self._path is not None
        if not self._number:
            self.previous = keep_previous(self._path)
        self._begun_s = self._wall_s()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._fd = os.open(self._path, flags, 0o666)
        status = os.fstat(self._fd)
        self._size = status.st_size if stat.S_ISREG(status.st_mode) else None

    def _set_aside(self) -> None:
        """Finish the file, give it its time and number, and delete those that are not to be kept."""
        assert self._path is not None
        assert self._fd is not None
        fd, self._fd = self._fd, None
        os.close(fd)
        self._number += 1
        name = f"{self._path.stem}-{stamp(self._begun_s)}-{self._number:04d}{self._path.suffix}"
        self._path.replace(self._path.with_name(name))
        if self._keep is not None:
            self._finished.append(self._path.with_name(name))
            while len(self._finished) > self._keep:
                self._finished.popleft().unlink(missing_ok=True)

    def _write_whole(self, data: bytes) -> None:
        assert self._fd is not None
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]  # one call, unless a disk or a pipe takes only part of it
        except OSError:
            if self._size is not None and len(rest) < len(data):
                os.ftruncate(self._fd, self._size)
            raise
        if self._size is not None:
            self._size += len(data)


def strict_json(event: dict[str, Any]) -> str:
    """An event as one line of JSON, with null for every number that JSON cannot say."""
    try:
        return plain_json(json.dumps(event, ensure_ascii=False, allow_nan=False))
    except ValueError:
        return plain_json(json.dumps(_finite(event), ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    """``value`` with None in place of every number that JSON cannot say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value
