"""Tables of labels as text: JSON Lines, CSV, WebVTT. They only grow, and can be taken back to any earlier commit."""

from __future__ import annotations

import csv
import io
import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol

from stream_ann.errors import ManifestError, OutputError
from stream_ann.labelled import LabelledFrame, Segment
from stream_ann.sinks.files import output_error
from stream_ann.text import clean, plain_json, safe_cell

__all__ = ["CsvText", "JsonlText", "Row", "Table", "TableText", "TextTable", "VttText"]

Row = LabelledFrame | Segment
"""One row of a table."""


class Table(Protocol):
    """A table that is written row by row. Raises OutputError where it cannot be written."""

    def add(self, rows: Sequence[Row]) -> None:
        """Write rows."""
        ...

    def commit(self) -> dict[str, Any]:
        """Make all of it durable; gives what must be known to go on from here, as plain JSON values."""
        ...

    def close(self) -> None:
        """Let go of the file. What was not committed may be lost."""
        ...


class TableText(Protocol):
    """A form of text for a table."""

    def head(self) -> str:
        """What comes before all rows."""
        ...

    def rows(self, rows: Iterable[Row]) -> str:
        """Rows, each with its line end."""
        ...


class JsonlText:
    """One JSON object a line."""

    def head(self) -> str:
        """Nothing."""
        return ""

    def rows(self, rows: Iterable[Row]) -> str:
        """Each row as an object."""
        lines = (json.dumps(row.as_event(), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        return "".join(map(plain_json, lines))


class CsvText:
    """Comma-separated values (RFC 4180) under a header, with spreadsheets in mind: no cell can become a formula.

    Args:
        kind: What the rows are.
        top_k: How many classes of each frame.
    """

    def __init__(self, kind: Literal["frames", "segments"], top_k: int) -> None:
        self._kind = kind
        self._top_k = top_k

    def head(self) -> str:
        """The names of the columns."""
        if self._kind == "segments":
            return self._lines([list(Segment("", 0, 0, "", 0, 0, 0, 0, 0).as_event())])
        names = ["source", "frame", "pts_s", "label", "class_id", "confidence", "exit"]
        for i in range(1, self._top_k + 1):
            names += [f"class_{i}", f"probability_{i}"]
        return self._lines([names])

    def rows(self, rows: Iterable[Row]) -> str:
        """Each row as a line."""
        return self._lines([self._cells(row) for row in rows])

    def _cells(self, row: Row) -> list[Any]:
        event = row.as_event()
        if isinstance(row, Segment):
            return list(event.values())
        cells = [event[key] for key in ("source", "frame", "pts_s", "label", "class_id", "confidence", "exit")]
        pairs = [*event["top"], *([["", None]] * (self._top_k - len(event["top"])))]
        return cells + [cell for pair in pairs for cell in pair]

    def _lines(self, rows: Iterable[Sequence[Any]]) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\r\n")
        writer.writerows([safe_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
        return text.getvalue()


class VttText:
    """WebVTT subtitles, one cue for each segment: labels in any player, in step with the video."""

    def head(self) -> str:
        """What makes a file WebVTT."""
        return "WEBVTT\n\n"

    def rows(self, rows: Iterable[Row]) -> str:
        """Each segment as a cue."""
        return "".join(_cue(row) for row in rows if isinstance(row, Segment))


def _cue(segment: Segment) -> str:
    start_ms, end_ms = max(0, round(segment.start_s * 1e3)), round(segment.end_s * 1e3)
    if end_ms <= start_ms:  # before the video's zero, or shorter than subtitles can be
        if end_ms <= 0:
            return ""
        end_ms = start_ms + 1
    label = clean(segment.label).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"{_vtt_time(start_ms)} --> {_vtt_time(end_ms)}\n{label} ({segment.confidence:.0%})\n\n"


def _vtt_time(milliseconds: int) -> str:
    seconds, ms = divmod(milliseconds, 1000)
    minutes, s = divmod(seconds, 60)
    hours, m = divmod(minutes, 60)
    return f"{hours:02}:{m:02}:{s:02}.{ms:03}"


class TextTable:
    """A table in a text file that holds whole lines at every moment.

    Args:
        path: The file.
        text: Its form.
        state: What :meth:`commit` gave, to go on from there: all that was written later is taken back. Without it the
            file begins anew.

    Raises:
        ManifestError: If the file is not what was committed.
        OutputError: If it cannot be written.
    """

    def __init__(self, path: Path, text: TableText, *, state: Mapping[str, Any] | None = None) -> None:
        self._path = path
        self._text = text
        self._bytes = self._crc = 0
        try:
            if state is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
                self._fd: int | None = os.open(path, flags, 0o666)
                self._write(text.head())
            else:
                self._fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
                self._go_back(int(state["bytes"]), int(state["crc32"]))
        except FileNotFoundError as error:
            if state is None:
                raise output_error(path, error) from error
            raise ManifestError(
                f"'{path}' is gone, but its manifest counts on it", "restore it, or begin again with --overwrite"
            ) from error
        except OSError as error:
            raise output_error(path, error) from error

    def add(self, rows: Sequence[Row]) -> None:
        """Write rows; what cannot be written whole is taken back.

        Raises:
            OutputError: If they cannot be written.
        """
        self._write(self._text.rows(rows))

    def commit(self) -> dict[str, Any]:
        """Make all of it durable.

        Raises:
            OutputError: If that fails.
        """
        if self._fd is not None:
            try:
                os.fsync(self._fd)
            except OSError as error:
                raise output_error(self._path, error) from error
        return {"bytes": self._bytes, "crc32": self._crc}

    def close(self) -> None:
        """Let go of the file."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with suppress(OSError):  # what was committed is on the disk
                os.close(fd)

    def _write(self, text: str) -> None:
        if self._fd is None:
            raise OutputError(f"cannot write '{self._path}': it is closed already")
        data = text.encode("utf-8", "backslashreplace")
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._fd, self._bytes)
            raise output_error(self._path, error) from error
        self._bytes += len(data)
        self._crc = zlib.crc32(data, self._crc)

    def _go_back(self, size: int, crc: int) -> None:
        """Cut the file to what was committed, after making sure that it is that."""
        assert self._fd is not None
        left, found = size, 0
        while left and (data := os.read(self._fd, min(left, 1 << 20))):
            found = zlib.crc32(data, found)
            left -= len(data)
        if left or found != crc:
            raise ManifestError(
                f"'{self._path}' is not what its manifest says: it was edited or cut short",
                "restore it, or begin again with --overwrite",
            )
        os.ftruncate(self._fd, size)
        os.lseek(self._fd, 0, os.SEEK_END)
        self._bytes, self._crc = size, crc
