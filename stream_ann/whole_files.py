"""Files that are whole at every moment: written under another name, made durable, then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

__all__ = ["sync_folder", "whole_file"]


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which takes the place of ``path`` when the block ends without an exception.

    It allows what files of this process usually allow (umask). A symbolic link at ``path`` is replaced, not followed.

    However the block or the process ends, ``path`` holds all of the old content or all of the new one; only a process
    that is killed leaves a hidden temporary file beside it.

    Args:
        path: Where the file is to be; its folder must exist.

    Raises:
        OSError: It cannot be written. ``path`` is as it was.
    """
    name = ""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            name = file.name
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
        sync_folder(path.parent)
    finally:
        if name:
            with suppress(OSError):
                os.unlink(name)  # gone already where it was renamed


def _umask() -> int:
    """What new files of this process are not to allow."""
    # Asking for it would mean to set it for a moment, in which other threads' files would have none.
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("\nUmask:")[2].split(maxsplit=1)[0], 8)
    except (OSError, IndexError, ValueError):  # not Linux: the usual one
        return 0o022


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` durable, where the platform lets folders be opened (Windows does not)."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
