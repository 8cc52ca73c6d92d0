"""What the sinks that write files have in common: checking a path early, and keeping the file that was there before."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from stream_ann.errors import OutputError

__all__ = ["check_writable", "keep_previous", "output_error", "reason_of"]

_REMEDIES = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some of your quota, or write to another disk",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f), or write to another disk",
    errno.EROFS: "it is on a read-only file system; choose another folder",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def output_error(path: Path | str, error: BaseException) -> OutputError:
    """The error to show a user when writing to ``path`` has failed with ``error``."""
    code = getattr(error, "errno", None)
    remedy = _REMEDIES.get(code, "choose another file") if isinstance(code, int) else "choose another file"
    return OutputError(f"cannot write '{path}': {reason_of(error)}", remedy)


def reason_of(error: BaseException) -> str:
    """What an error of the system says, in lower case and without its number."""
    code = getattr(error, "errno", None)
    reason = (
        os.strerror(code) if isinstance(code, int) and code > 0 else getattr(error, "strerror", None) or str(error)
    ) or type(error).__name__
    return f"{reason[:1].lower()}{reason[1:]}"


def check_writable(path: Path) -> None:
    """Make sure, without changing anything, that a file at ``path`` can be written.

    Raises:
        OutputError: If it cannot.
    """
    parent = path.parent
    try:
        if not parent.exists():
            raise OutputError(
                f"cannot write '{path}': there is no folder '{parent}'", f"create it: mkdir -p '{parent}'"
            )
        if not parent.is_dir():
            raise OutputError(f"cannot write '{path}': '{parent}' is not a folder", "choose a file in a folder")
        if path.is_dir():
            raise OutputError(f"cannot write '{path}': it is a folder", "name a file inside it")
        if path.exists():
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, "permission denied")
            if not path.is_file():
                return  # a device or a pipe: it is written as it is, and its folder does not matter
        # Only trying tells: permission bits say nothing of read-only mounts, and root passes them all.
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise output_error(path, error) from error


def keep_previous(path: Path) -> Path | None:
    """Move a file that is at ``path`` to ``NAME.previous.EXT`` beside it, in place of one that is there already.

    Empty files, devices and pipes stay where they are.

    Returns:
        Where the file is now, or None where none had to be moved.

    Raises:
        OutputError: If it cannot be moved.
    """
    try:
        if not path.is_file() or path.stat().st_size == 0:
            return None
        previous = path.with_name(f"{path.stem}.previous{path.suffix}")
        path.replace(previous)
    except OSError as error:
        raise output_error(path, error) from error
    return previous
