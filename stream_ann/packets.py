"""Compressed packets of a source, as they came, for clips that need no second encoding. Data only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, runtime_checkable

__all__ = ["CodedPacket", "PacketSource", "PacketTap"]


@dataclass(frozen=True, slots=True, eq=False)
class CodedPacket:
    """One compressed packet of a source's video stream."""

    data: bytes
    """The packet's bytes, as they came. Never empty."""
    template: bytes
    """What a writer must know of the stream: a NUT file with that one stream. The same object for all packets of one
    connection; another one says that the stream was opened anew and that nothing before it fits what follows."""
    pts: int | None
    """When it is shown, in units of :attr:`time_base`; None where the source does not say."""
    dts: int | None
    """When it is decoded, in units of :attr:`time_base`; None where the source does not say."""
    duration: int
    """How long it is shown, in units of :attr:`time_base`; 0 where the source does not say."""
    time_base: Fraction
    """Unit of its times, in seconds."""
    key: bool
    """Whether decoding can begin with it."""
    pts_s: float | None
    """When it is shown, on the scale of :attr:`Frame.pts_s <stream_ann.frames.Frame.pts_s>`, in seconds."""
    arrival_s: float
    """Monotonic time at which it was read, in seconds."""


PacketTap = Callable[[CodedPacket], None]
"""Takes a source's packets in. Called by the thread that reads the source: it must neither wait nor raise."""


@runtime_checkable
class PacketSource(Protocol):
    """A source that reads compressed packets and offers them, besides its pictures."""

    packet_tap: PacketTap | None
    """Where packets go, in the order in which they are read and before they are decoded; None for nowhere. May be set
    by any thread at any time, before and after the source is opened."""
