"""What a long job has done so far: a journal that only grows, so that the job can go on after any kind of end.

Each line is a JSON object with the SHA-256 of everything before it, so that a line that was edited, lost or moved is
noticed. A line that a killed process left unfinished is no edit: what it would have said has not happened.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from stream_ann.errors import ManifestError
from stream_ann.whole_files import sync_folder

__all__ = ["Manifest"]

_CHAIN = "chain"


class Manifest:
    """A journal of what has been committed. Made by :meth:`create` or :meth:`open`, and held by one process at a time.

    Attributes:
        path: Where it is.
        records: The lines in it, the first one describing the job.
    """

    def __init__(self, path: Path, file: FileIO, records: list[dict[str, Any]], chain: str) -> None:
        self.records = records
        self.path = path
        self._file = file
        self._chain = chain

    @classmethod
    def create(cls, path: Path, job: Mapping[str, Any]) -> Manifest:
        """Begin a journal with the description of its job, in place of one that is there.

        Raises:
            ManifestError: If another process is writing it.
            OSError: If it cannot be written.
        """
        file = path.open("ab", buffering=0)
        try:
            _lock(file, path)
            file.truncate(0)
            made = cls(path, file, [], "")
            made.commit(job)
            sync_folder(path.parent)
        except BaseException:
            file.close()
            raise
        return made

    @classmethod
    def open(cls, path: Path) -> Manifest:
        """Open a journal to go on with it.

        Raises:
            ManifestError: If it was edited, is none, or another process is writing it.
            OSError: If it cannot be read or written.
        """
        file = path.open("r+b", buffering=0)
        try:
            _lock(file, path)
            records, chain, whole = _read(file, path)
            file.truncate(whole)
            file.seek(whole)
        except BaseException:
            file.close()
            raise
        return cls(path, file, records, chain)

    def commit(self, record: Mapping[str, Any]) -> None:
        """Add a line and make it durable. It either is there as a whole afterwards, or not at all.

        Raises:
            OSError: If it cannot be written.
        """
        content = dict(record)
        chain = _link(self._chain, content)
        before = self._file.seek(0, os.SEEK_END)
        rest = memoryview(_line({**content, _CHAIN: chain}))
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError:
            with suppress(OSError):
                self._file.truncate(before)
            raise
        self._chain = chain
        self.records.append(content)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _lock(file: FileIO, path: Path) -> None:
    """Hold the file as long as it is open, where the platform has such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ManifestError(f"'{path}' is being written by another process", "wait for it, or stop it") from error


def _read(file: FileIO, path: Path) -> tuple[list[dict[str, Any]], str, int]:
    """The records, the last link of the chain, and how many bytes they take."""
    records: list[dict[str, Any]] = []
    chain, whole = "", 0
    for number, line in enumerate(file.readall().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break  # cut short by the end of the process
        try:
            content = json.loads(line)
            found = content.pop(_CHAIN)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise _edited(path, number) from error
        chain = _link(chain, content)
        if found != chain:
            raise _edited(path, number)
        records.append(content)
        whole += len(line)
    if not records:
        raise ManifestError(f"'{path}' says nothing of a job", "begin again with --overwrite")
    return records, chain, whole


def _edited(path: Path, number: int) -> ManifestError:
    return ManifestError(
        f"the manifest '{path}' was edited or damaged (line {number})",
        "restore it, or begin again with --overwrite",
    )


def _link(chain: str, content: Mapping[str, Any]) -> str:
    return hashlib.sha256(chain.encode() + _line(content)).hexdigest()


def _line(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, sort_keys=True, separators=(",", ":")) + "\n").encode()
