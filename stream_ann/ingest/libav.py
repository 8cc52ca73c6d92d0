"""Errors of libav, in the words of this package. The one place that knows them."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import av

from stream_ann.errors import (
    AccessDeniedError,
    DecodeError,
    DisconnectedError,
    SourceError,
    SourceNotFoundError,
    SourceTimeoutError,
    UnreachableError,
    UnsupportedSourceError,
)
from stream_ann.ingest.url import SourceUrl

__all__ = ["connecting", "decoding", "opening", "receiving"]

Result = TypeVar("Result")

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


def connecting(url: SourceUrl, open_it: Callable[[], Result], *, timeout_s: float) -> Result:
    """What ``open_it`` gives; what libav raises in it becomes a SourceError.

    That error keeps no trace of libav's, whose text repeats the URL with its password.

    Args:
        url: The address that is opened.
        open_it: Opens it.
        timeout_s: How long that may take, in seconds; only to be named.
    """
    begun_s = time.monotonic()
    try:
        return open_it()
    except (av.error.FFmpegError, OSError) as error:
        # an RTSP server that says nothing ends as invalid data once the time is up
        too_late = isinstance(error, av.error.InvalidDataError) and time.monotonic() - begun_s >= timeout_s
        failure = _no_answer(url, timeout_s) if too_late else _connecting_error(url, error, timeout_s)
    raise failure


def receiving(url: SourceUrl, read_it: Callable[[], Result], *, timeout_s: float) -> Result:
    """What ``read_it`` gives; what libav raises in it becomes a SourceError without a trace of libav's.

    Args:
        url: The address that is read.
        read_it: Reads on.
        timeout_s: How long that may take, in seconds; only to be named.
    """
    try:
        return read_it()
    except (av.error.ExitError, av.error.TimeoutError):
        failure: SourceError = SourceTimeoutError(f"'{url}' gave no picture for {timeout_s:g} s")
    except av.error.MemoryError:
        failure = SourceError(f"there is not enough memory to read '{url}'")
    except (av.error.FFmpegError, OSError) as error:
        failure = DisconnectedError(f"the connection to '{url}' was lost ({_reason(error)})")
    raise failure


def _connecting_error(url: SourceUrl, error: av.error.FFmpegError | OSError, timeout_s: float) -> SourceError:
    match error:
        case av.error.HTTPUnauthorizedError():
            if url.has_user:
                return AccessDeniedError(
                    f"'{url}' takes another user name or password",
                    "check them, and write @, /, ? and # in them as %40, %2F, %3F and %23",
                )
            return AccessDeniedError(
                f"'{url}' wants a user name and a password", f"write {url.scheme}://USER:PASSWORD@..."
            )
        case av.error.HTTPForbiddenError():
            return AccessDeniedError(f"'{url}' gives no access", "check the rights of the user there")
        case av.error.HTTPNotFoundError():
            return SourceNotFoundError(f"there is no stream at '{url}'", "check the path behind the address")
        case av.error.HTTPServerError():
            return SourceError(f"the server of '{url}' has an error of its own (5xx)", "look at its log")
        case av.error.HTTPError() | av.error.HTTPClientError():
            return SourceError(f"the server of '{url}' does not take the request (4xx)", "check the address")
        case av.error.ConnectionRefusedError():
            return UnreachableError(
                f"nothing listens at '{url}'", "check address and port, and that the camera is switched on"
            )
        case av.error.ExitError() | av.error.TimeoutError():
            return _no_answer(url, timeout_s)
        case av.error.DecoderNotFoundError() | av.error.PatchWelcomeError() | av.error.NotImplementedError():
            return UnsupportedSourceError(f"'{url}' sends what this PyAV cannot decode", "set the camera to H.264")
        case av.error.DemuxerNotFoundError() | av.error.ProtocolNotFoundError():
            return UnsupportedSourceError(f"'{url}' is of a kind that this PyAV cannot read", "give RTSP or HTTP")
        case av.error.InvalidDataError() if url.scheme in ("http", "https"):
            return UnsupportedSourceError(f"what is at '{url}' is no video", "open it in a browser to see what it is")
        case av.error.InvalidDataError():
            return DisconnectedError(f"what answers at '{url}' does not speak {url.scheme}", "check the port")
        case av.error.MemoryError():
            return SourceError(f"there is not enough memory to read '{url}'")
    if error.errno == errno.EPROTONOSUPPORT:
        return UnsupportedSourceError(f"'{url}' does not offer this transport", "choose --transport tcp or udp")
    if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL):
        return UnreachableError(f"there is no way to '{url}'", "check the address, and the network in between")
    if not _has_address(url.host):
        return UnreachableError(f"there is no machine of the name in '{url}'", "check how it is written")
    return DisconnectedError(f"the connection to '{url}' was lost while it was made ({_reason(error)})")


def _no_answer(url: SourceUrl, timeout_s: float) -> SourceError:
    return SourceTimeoutError(
        f"'{url}' did not answer within {timeout_s:g} s", "check the address, and the network in between"
    )


def _has_address(host: str) -> bool:
    """Whether a name stands for a machine, which libav does not tell."""
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    return True


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
        case av.error.ArgumentError():  # what file_options() has libav say of a list
            return UnsupportedSourceError(
                f"'{name}' is no video by itself but a playlist, or is damaged", "give the videos themselves"
            )
        case av.error.InvalidDataError():
            return UnsupportedSourceError(f"'{name}' is no video, or is cut short or damaged", _COMPLETE)
        case _:
            return SourceError(f"'{name}' cannot be read: {_reason(error)}", _COMPLETE)


def _reason(error: OSError | av.error.FFmpegError) -> str:
    """What the system says, without the file name that its text carries."""
    number = error.errno
    known = number is not None and number in errno.errorcode
    return (error.strerror or "unknown reason") if known else type(error).__name__
