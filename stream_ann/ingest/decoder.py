"""An open video file and its decoder, as libav gives them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import av
from av.codec import Codec
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.packet import Packet
from av.video.stream import VideoStream

from stream_ann.containers import file_options
from stream_ann.errors import UnsupportedSourceError, UsageError, nearest
from stream_ann.ingest.libav import opening
from stream_ann.ingest.pictures import video_stream
from stream_ann.ingest.source import MAX_PIXELS, check_size

__all__ = ["Decoder", "PacketsSeen", "hwaccel_named"]

_GAP = 1.5
"""A step in time between two packets that is longer than so many frames is a gap."""


class Decoder:
    """An open container and the stream in it that is decoded.

    Args:
        path: The file.
        name: What to call it in errors.
        thread_type: Whether several frames may be decoded at a time; those of transport streams never are.
        threads: Threads of the decoder; by default it chooses.
        hwaccel: Kind of device to decode on, such as ``"cuda"``, where it can; the CPU decodes the rest.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        thread_type: Literal["AUTO", "SLICE"],
        *,
        threads: int | None = None,
        hwaccel: str | None = None,
    ) -> None:
        self.seen = PacketsSeen()
        """What is known of the packets that were read."""
        self._file: IO[bytes] | None = None
        accelerated = None if hwaccel is None else hwaccel_named(hwaccel)
        with opening(name):
            try:
                str(path).encode()
                # with the prefix, no name can be taken for one of libav's protocols
                target: str | IO[bytes] = f"file:{path.absolute()}"
            except UnicodeEncodeError:
                target = self._file = path.open("rb")
            self.container = av.open(
                target, "r", options=file_options(), metadata_errors="replace", hwaccel=accelerated
            )
        try:
            self.stream = video_stream(self.container, name)
            check_size(self.stream.width, self.stream.height, name, error=UnsupportedSourceError)
            self.stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # for pictures that grow midway
            # Where torn packets are shown, one frame at a time: of several, one may be handed out that builds on what
            # is torn before its decoder knows of that.
            self.stream.thread_type = thread_type if self.torn_is_useless else "SLICE"
            if threads is not None:
                self.stream.codec_context.thread_count = threads
            self.packets: Iterator[Packet[VideoStream]] = self.demux()
        except BaseException:
            self.close()
            raise

    @property
    def torn_is_useless(self) -> bool:
        """Whether a torn packet only holds the beginning of a frame. Broadcasts have torn ones that can be shown."""
        return self.container.format.name != "mpegts"

    def demux(self) -> Iterator[Packet[VideoStream]]:
        """The packets from where the container stands, an empty one at the end."""
        for packet in self.container.demux(self.stream):
            self.seen.note(packet)
            yield packet

    def close(self) -> None:
        """Close the file."""
        self.packets = iter(())
        if hasattr(self, "stream"):
            # its threads must be at rest before they are freed: one with an error to log (which is on while a network
            # source is open) would wait for the interpreter's lock, and whoever frees them holds that
            self.stream.codec_context.flush_buffers()
        self.container.close()
        if self._file is not None:
            self._file.close()


class PacketsSeen:
    """What the packets of a file tell about those that are missing."""

    def __init__(self) -> None:
        self.count = 0
        """How many there were."""
        self.last_is_torn = False
        """Whether the last one is not all there, as where the file ends in the middle of it."""
        self.torn = False
        """Whether any was not all there, or came behind some that are lost."""
        self.gap = False
        """Whether time was left out between two of them. Where the rate varies, that means nothing."""
        self._last_dts: int | None = None

    def note(self, packet: Packet[VideoStream]) -> None:
        """Look at the next packet."""
        if not packet.size:
            return
        self.count += 1
        self.last_is_torn = packet.is_corrupt
        self.torn |= packet.is_corrupt
        rate = packet.stream.average_rate
        if packet.dts is not None and self._last_dts is not None and packet.time_base and rate:
            self.gap |= (packet.dts - self._last_dts) * packet.time_base * rate > _GAP
        self._last_dts = packet.dts


def hwaccel_named(kind: str) -> HWAccel:
    """Decoding on a kind of device, or by the CPU what it cannot.

    Args:
        kind: Such as ``"cuda"`` or ``"vaapi"``.

    Raises:
        UsageError: If there is no such device here.
    """
    known = hwdevices_available()
    if kind not in known:
        raise UsageError(f"this PyAV cannot decode on '{kind}'", nearest(kind, known) or "leave out --hwaccel")
    accelerated = HWAccel(kind, allow_software_fallback=True)
    try:
        accelerated.create(Codec("h264", "r"))
    except (av.FFmpegError, NotImplementedError, RuntimeError) as error:
        raise UsageError(f"there is no '{kind}' here to decode on", "leave out --hwaccel") from error
    return HWAccel(kind, allow_software_fallback=True)
