"""What a sink is: somewhere that results go."""

from __future__ import annotations

from typing import Protocol

from stream_ann.frames import FrameResult

__all__ = ["Sink"]


class Sink(Protocol):
    """Somewhere that results go: a file, a stream, a device. Used by one thread at a time."""

    @property
    def name(self) -> str:
        """What users know it by, such as the name of its file."""
        ...

    def write(self, result: FrameResult) -> None:
        """Take in one result.

        Raises:
            OutputError: If it cannot be written. What was written before stays valid.
        """
        ...

    def close(self) -> None:
        """Finish what was written, so that others can read it. Safe to call twice, and after :meth:`write` failed.

        Raises:
            OutputError: If it cannot be finished. What was written before stays valid.
        """
        ...
