"""Offering the compressed packets of an open stream to whoever keeps them."""

from __future__ import annotations

import io
import time
from fractions import Fraction

import av
from av.packet import Packet
from av.video.stream import VideoStream

from stream_ann.packets import CodedPacket, PacketTap

__all__ = ["Tapping"]


class Tapping:
    """Turns the packets of one open stream into :class:`~stream_ann.packets.CodedPacket`.

    Args:
        stream: The stream; opened, and not yet closed where :meth:`offer` is called.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._template: bytes | None = None

    def offer(self, packet: Packet[VideoStream], tap: PacketTap | None, *, offset_s: float = 0.0) -> None:
        """Hand a packet to ``tap``, copied, so that it outlives the container.

        Args:
            packet: A packet of the stream; an empty one, such as the last one of a file, is left out.
            tap: Where it goes; None for nowhere, which costs nothing.
            offset_s: What the source adds to the stream's times to get ``Frame.pts_s``, in seconds.
        """
        if tap is None or not packet.size:
            return
        time_base = packet.time_base or self._stream.time_base
        if not time_base:
            return
        if self._template is None:
            self._template = _template(self._stream)
        tap(
            CodedPacket(
                data=bytes(packet),
                template=self._template,
                pts=packet.pts,
                dts=packet.dts,
                duration=packet.duration or 0,
                time_base=time_base,
                key=packet.is_keyframe,
                pts_s=None if packet.pts is None else float(packet.pts * time_base) + offset_s,
                arrival_s=time.monotonic(),
            )
        )


def _template(stream: VideoStream) -> bytes:
    """The stream's parameters as a NUT file: the only container that keeps any codec's extra data as they are."""
    file = io.BytesIO()
    with av.open(file, "w", format="nut") as container:
        copy = container.add_stream_from_template(stream)
        packet = Packet(b"\0")  # without any, it cannot be opened again
        packet.pts = packet.dts = 0
        packet.time_base = Fraction(1)
        packet.is_keyframe = True
        packet.stream = copy
        container.mux(packet)
    return file.getvalue()
