"""What a sink is: somewhere that results go."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from stream_ann.frames import FrameResult
from stream_ann.states import StateChange

__all__ = ["Sink", "StateSink"]


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


@runtime_checkable
class StateSink(Protocol):
    """A sink that takes in how the sources are doing, too."""

    def write_state(self, change: StateChange) -> None:
        """Take in that a source has passed into another state.

        Raises:
            OutputError: If it cannot be written. What was written before stays valid.
        """
        ...
