"""Every error that stream_ann raises on purpose.

Each one says what went wrong, with which value, and what to do about it, in one line that can be shown to a user as it
is. The tree::

    StreamAnnError
    ├── SourceError            a source cannot be opened or read
    │   ├── SourceNotFoundError    there is nothing at that name
    │   ├── UnsupportedSourceError it is there, but nothing in it can be shown as frames
    │   ├── AccessDeniedError      it wants another user name and password
    │   ├── UnreachableError       nothing answers at its address
    │   ├── SourceTimeoutError     it did not answer, or gave no picture, in time
    │   ├── DisconnectedError      the connection to it was lost
    │   └── DecodeError            one frame is damaged (counted, and the run goes on)
    ├── WeightsError           weights or their card cannot be used
    │   ├── UnknownWeightsError    no weights of that name
    │   ├── CardError              the card is malformed, or does not fit its weights
    │   └── CorruptWeightsError    the file's content is not what its card says
    ├── OutputError            an output cannot be written
    │   └── ManifestError          what a job has done so far cannot be told, or belongs to another job
    ├── TrainingError          a training run cannot go on, or cannot be resumed
    ├── DeviceError            the device asked for cannot be used
    ├── MissingExtraError      an optional dependency is not installed
    ├── ResourceError          the machine has no more of what is needed: memory, open files, threads, room on the disk
    └── UsageError             an option has a value that makes no sense
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

__all__ = [
    "AccessDeniedError",
    "CardError",
    "CorruptWeightsError",
    "DecodeError",
    "DeviceError",
    "DisconnectedError",
    "ManifestError",
    "MissingExtraError",
    "OutputError",
    "ResourceError",
    "SourceError",
    "SourceNotFoundError",
    "SourceTimeoutError",
    "StreamAnnError",
    "TrainingError",
    "UnknownWeightsError",
    "UnreachableError",
    "UnsupportedSourceError",
    "UsageError",
    "WeightsError",
    "nearest",
    "resource_error",
]


class StreamAnnError(Exception):
    """Base of all errors that stream_ann raises on purpose.

    Args:
        what: What went wrong, with the value that caused it, in lower case and without a final full stop.
        remedy: What the user can do about it, likewise. Empty where there is nothing to add.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}" if self.remedy else self.what


class SourceError(StreamAnnError):
    """A source cannot be opened or read."""


class SourceNotFoundError(SourceError):
    """There is no file, folder, device or stream at the name given."""


class UnsupportedSourceError(SourceError):
    """The source exists, but it holds nothing that can be shown as frames."""


class AccessDeniedError(SourceError):
    """A network source wants another user name and password, or none gives access to it."""


class UnreachableError(SourceError):
    """Nothing answers at the address of a network source: no such machine, no route to it, or nothing that listens."""


class SourceTimeoutError(SourceError):
    """A source did not answer, or gave no picture, in the time that it had."""


class DisconnectedError(SourceError):
    """The connection to a live source was lost, or ended by the other side."""


class DecodeError(SourceError):
    """One frame of a source is damaged. The reader counts it and goes on."""


class WeightsError(StreamAnnError):
    """Weights or their card cannot be used."""


class UnknownWeightsError(WeightsError):
    """No weights of that name or path."""


class CardError(WeightsError):
    """The weights card is malformed, or does not fit the weights beside it."""


class CorruptWeightsError(WeightsError):
    """The content of a weights file is not what its card says."""


class OutputError(StreamAnnError):
    """An output cannot be written."""


class ManifestError(OutputError):
    """The manifest of a job was edited, is in use, or belongs to another job."""


class TrainingError(StreamAnnError):
    """A training run cannot go on, or its checkpoint cannot be used."""


class DeviceError(StreamAnnError):
    """The device asked for does not exist here or cannot be used."""


class MissingExtraError(StreamAnnError):
    """An optional dependency is not installed.

    Args:
        extra: The extra of this package that brings it, e.g. ``"pretrained"``.
        module: The module that could not be imported.
    """

    def __init__(self, extra: str, module: str) -> None:
        super().__init__(f"this needs '{module}', which is not installed", f"run: pip install 'stream-ann[{extra}]'")
        self.extra = extra
        self.module = module


class ResourceError(StreamAnnError):
    """The machine has no more of what is needed: memory, open files, threads, or room on the disk."""


class UsageError(StreamAnnError):
    """An option has a value that makes no sense."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: ``"did you mean 'x'?"``, or the known names where none is near.

    Args:
        name: What the user wrote.
        known: What they could have written.
    """
    names = list(known)
    close = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.6)
    if close:
        original = next(n for n in names if n.lower() == close[0])
        return f"did you mean '{original}'?"
    if not names:
        return ""
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"known: {shown}"


_MEMORY = ("there is not enough memory", "free some, or use smaller weights or fewer sources, workers or threads")
_EXHAUSTED = {
    errno.ENOMEM: _MEMORY,
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n), or use fewer sources or outputs"),
    errno.ENFILE: ("too many files are open on this machine", "close some programs"),
    errno.ENOSPC: ("there is no space left on a disk", "free some space"),
    errno.EDQUOT: ("the disk quota is used up", "free some of it"),
    errno.EAGAIN: ("no more threads or processes can be started", "raise the limit (ulimit -u)"),
}
_SIGNS = {
    "can't allocate memory": errno.ENOMEM,
    "cannot allocate memory": errno.ENOMEM,
    "not enough memory": errno.ENOMEM,
    "out of memory": errno.ENOMEM,
    "bad_alloc": errno.ENOMEM,
    "failed to map segment": errno.ENOMEM,
    "could not create a primitive": errno.ENOMEM,
    "could not create a memory object": errno.ENOMEM,
    "can't start new thread": errno.EAGAIN,
    "resource temporarily unavailable": errno.EAGAIN,
    "too many open files": errno.EMFILE,
}
"""What libraries say of it whose errors have no number."""


def resource_error(error: BaseException | None) -> ResourceError | None:
    """What an unexpected error has to say of the machine, if it or one that caused it says that something ran out."""
    while error is not None:
        code = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
        if code not in _EXHAUSTED:
            text = str(error).lower()
            code = next((number for sign, number in _SIGNS.items() if sign in text), None)
        if code in _EXHAUSTED:
            return ResourceError(*_EXHAUSTED[code])
        error = error.__cause__ or error.__context__
    return None
