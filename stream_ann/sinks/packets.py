"""Clips of a source's own packets: what came shortly before a moment, and what comes after it, without encoding."""

from __future__ import annotations

import contextlib
import io
import threading
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import cv2
from av.packet import Packet

from stream_ann.frames import Frame
from stream_ann.packets import CodedPacket
from stream_ann.sinks.files import output_error

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

__all__ = ["Clip", "FrameCoder", "PacketRing"]

MOST_BYTES = 64 * 2**20
"""So much a ring holds of one source, at most: half a minute of a camera that sends 16 Mbit/s."""
_MARGIN_S = 4.0
"""Packets are kept so much longer than asked for, until whoever writes them has come to them."""
_FOR_MP4 = frozenset({"av1", "h264", "hevc", "mpeg4"})
"""Formats that players expect in MP4; all others are put into Matroska."""


class PacketRing:
    """The packets of the last seconds of one source. Safe to fill and to read from different threads.

    It begins with a key frame, holds packets of one connection only, and forgets the oldest ones, up to the next key
    frame, where they are older than asked for or take too much memory.

    Args:
        before_s: How far back a clip may reach, in seconds.
    """

    def __init__(self, before_s: float) -> None:
        self._keep_s = before_s + _MARGIN_S
        self._lock = threading.Lock()
        self._packets: deque[tuple[int, CodedPacket]] = deque()
        self._next = 0
        self._bytes = 0

    def add(self, packet: CodedPacket) -> None:
        """Take a packet in; neither waits nor raises."""
        with self._lock:
            if self._packets and self._packets[-1][1].template is not packet.template:
                self._forget(len(self._packets))
            if not self._packets and not packet.key:
                return
            self._packets.append((self._next, packet))
            self._next += 1
            self._bytes += len(packet.data)
            # whole groups only: what follows a key frame cannot be shown without it
            while (second := self._second_key()) is not None and (
                self._bytes > MOST_BYTES or packet.arrival_s - self._packets[second][1].arrival_s > self._keep_s
            ):
                self._forget(second)
            if self._bytes > MOST_BYTES:
                self._forget(len(self._packets))

    def since(self, time_s: float, *, own_time: bool) -> list[tuple[int, CodedPacket]]:
        """What is needed to show the source from a moment on: from the last key frame before it.

        Args:
            time_s: The moment, in seconds.
            own_time: Whether by the source's own time, else by arrival.

        Returns:
            Packets with their numbers, in the order in which they came.
        """
        with self._lock:
            begin = 0
            for i, (_, packet) in enumerate(self._packets):
                at_s = packet.pts_s if own_time else packet.arrival_s
                if packet.key and at_s is not None and at_s <= time_s:
                    begin = i
            return list(self._packets)[begin:]

    def after(self, number: int) -> list[tuple[int, CodedPacket]]:
        """The packets that have come after the one of that number."""
        with self._lock:
            return [entry for entry in self._packets if entry[0] > number]

    def _second_key(self) -> int | None:
        for i, (_, packet) in enumerate(self._packets):
            if i and packet.key:
                return i
        return None

    def _forget(self, count: int) -> None:
        for _ in range(count):
            self._bytes -= len(self._packets.popleft()[1].data)


class Clip:
    """A file that packets are copied to. It plays up to its last second at every moment.

    Args:
        path: The file, without extension, which follows from what the packets hold.
        first: The first packet, a key frame.

    Attributes:
        path: The file.

    Raises:
        OutputError: If it cannot be written.
    """

    def __init__(self, path: Path, first: CodedPacket) -> None:
        self.template = first.template
        with av.open(io.BytesIO(first.template)) as template:
            stream = template.streams.video[0]
            mp4 = stream.codec_context.name in _FOR_MP4
            self.path = path.with_name(path.name + (".mp4" if mp4 else ".mkv"))
            options = (
                {"movflags": "frag_keyframe+empty_moov+default_base_moof"} if mp4 else {"cluster_time_limit": "1000"}
            )
            with _failing(self.path):
                self._container: OutputContainer = av.open(
                    str(self.path.absolute()),
                    "w",
                    format="mp4" if mp4 else "matroska",
                    container_options={**options, "flush_packets": "1"},
                )
                self._stream: VideoStream = self._container.add_stream_from_template(stream)
        begin = first.dts if first.dts is not None else first.pts
        self._begin = begin or 0
        self._last_dts: int | None = None

    def write(self, coded: CodedPacket) -> None:
        """Copy one packet.

        Raises:
            OutputError: If it cannot be written.
        """
        dts = coded.dts if coded.dts is not None else coded.pts
        if dts is None or (self._last_dts is not None and dts <= self._last_dts):
            return  # without a time, or with one that has been, no container takes it
        self._last_dts = dts
        packet = Packet(coded.data)
        packet.dts = dts - self._begin
        packet.pts = (coded.pts if coded.pts is not None else dts) - self._begin
        packet.duration = coded.duration
        packet.time_base = coded.time_base
        packet.is_keyframe = coded.key
        packet.stream = self._stream
        with _failing(self.path):
            self._container.mux(packet)

    def close(self) -> None:
        """Finish the file.

        Raises:
            OutputError: If it cannot be finished.
        """
        with _failing(self.path):
            self._container.close()


class FrameCoder:
    """Makes packets of the frames of a source that has none of its own, such as a webcam: each a JPEG picture."""

    QUALITY = 85

    def __init__(self) -> None:
        self._templates: dict[tuple[int, int], bytes] = {}

    def code(self, frame: Frame) -> CodedPacket | None:
        """A frame as a packet; None where it cannot be encoded."""
        height, width = frame.image.shape[:2]
        bgr = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
        done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, self.QUALITY])
        if not done:
            return None
        template = self._templates.get((width, height))
        if template is None:
            self._templates = {(width, height): _jpeg_template(width, height, data.tobytes())}
            template = self._templates[width, height]
        ticks = round(frame.arrival_s * 1000)
        return CodedPacket(
            data=data.tobytes(),
            template=template,
            pts=ticks,
            dts=ticks,
            duration=0,
            time_base=Fraction(1, 1000),
            key=True,
            pts_s=frame.pts_s,
            arrival_s=frame.arrival_s,
        )


def _jpeg_template(width: int, height: int, picture: bytes) -> bytes:
    """The parameters of a stream of JPEG pictures, see :attr:`CodedPacket.template`."""
    file = io.BytesIO()
    with av.open(file, "w", format="nut") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuvj420p"
        packet = Packet(picture)
        packet.pts = packet.dts = 0
        packet.time_base, packet.is_keyframe, packet.stream = Fraction(1, 25), True, stream
        container.mux(packet)
    return file.getvalue()


@contextlib.contextmanager
def _failing(path: Path) -> Iterator[None]:
    """Turn FFmpeg's errors into ours."""
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        raise output_error(path, error) from error
