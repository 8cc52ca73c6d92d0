"""Errors of libav, in the words of this package. The one place that knows them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import av

from stream_ann.errors import DecodeError, SourceError, SourceNotFoundError, UnsupportedSourceError

__all__ = ["decoding", "opening"]

_COMPLETE = "check that the file is complete and plays elsewhere"


@contextmanager
def opening(name: str) -> Iterator[None]:
    """Turn what libav raises while a container is opened or read into a SourceError.

    Args:
        name: The source as it may be shown. Libav's own text is not, since it repeats URLs with their passwords.
    """
    try:
        yield
    except av.error.FFmpegError as error:
        raise _opening_error(name, error) from error
    except OSError as error:  # raised by Python itself, for files that are opened through it
        raise SourceError(f"'{name}' cannot be read: {_reason(error)}") from error


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turn what libav raises while one packet is decoded or one frame converted into a DecodeError.

    Args:
        name: The source as it may be shown.
    """
    try:
        yield
    except av.error.MemoryError as error:
        raise SourceError(f"there is not enough memory to decode '{name}'", "scale it down first") from error
    except av.error.FFmpegError as error:
        raise DecodeError(f"'{name}' holds data that cannot be decoded") from error


def _opening_error(name: str, error: av.error.FFmpegError) -> SourceError:
    match error:
        case av.error.FileNotFoundError():
            return SourceNotFoundError(f"there is no file '{name}'", "check the path")
        case av.error.IsADirectoryError():
            return UnsupportedSourceError(f"'{name}' is a folder, not a video", "give a file in it")
        case av.error.PermissionError():
            return SourceError(f"there is no permission to read '{name}'", "change its permissions, or copy it")
        case av.error.DecoderNotFoundError() | av.error.PatchWelcomeError() | av.error.NotImplementedError():
            return UnsupportedSourceError(
                f"'{name}' is of a kind that this PyAV cannot decode", "convert it to H.264 in mp4"
            )
        case av.error.DemuxerNotFoundError() | av.error.ProtocolNotFoundError():
            return UnsupportedSourceError(f"'{name}' is of a kind that this PyAV cannot read", "convert it to mp4")
        case av.error.MemoryError():
            return SourceError(f"there is not enough memory to read '{name}'")
        case av.error.InvalidDataError():
            return UnsupportedSourceError(f"'{name}' is no video, or is cut short or damaged", _COMPLETE)
        case _:
            return SourceError(f"'{name}' cannot be read: {_reason(error)}", _COMPLETE)


def _reason(error: OSError | av.error.FFmpegError) -> str:
    """What the system says, without the file name that its text carries."""
    number = error.errno
    known = number is not None and number in errno.errorcode
    return (error.strerror or "unknown reason") if known else type(error).__name__
