"""A network camera on this machine: H.264 over RTSP and TCP, with faults on demand. For tests and benchmarks.

It speaks just enough RTSP (RFC 2326) for any player to play it, sends what :func:`encode` has made over and over, and
notes when it sent each frame. One camera serves any number of players, each from the loop's beginning.
"""

from __future__ import annotations

import base64
import hashlib
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from stream_ann.ingest.pattern import pattern_image

__all__ = ["BASIC", "DIGEST", "AccessUnit", "Faults", "RtspCamera", "encode", "encode_pattern", "knows_digest"]

AccessUnit = list[bytes]
"""One coded frame: its NAL units, without start codes."""
NONCE = "d41d8cd98f00b204"
BASIC, DIGEST = 'Basic realm="camera"', f'Digest realm="camera", nonce="{NONCE}"'
"""What players are asked for."""
_CLOCK_HZ = 90_000
_FIRST_TIMESTAMP = 900_000
"""Not 0, which FFmpeg takes for "not set"."""
_MTU = 1200
_TYPE = 0b1_1111
_SPS, _PPS = 7, 8


def encode(images: Iterable[NDArray[np.uint8]], *, fps: int = 25, gop: int = 25) -> list[AccessUnit]:
    """Encode pictures as H.264 without delay: each frame out before the next goes in, a key frame every ``gop``.

    Args:
        images: uint8 [H, W, 3] RGB, all of one even size.
        fps: Frames a second.
        gop: Frames from one key frame to the next.
    """
    units: list[AccessUnit] = []
    context: VideoCodecContext | None = None
    for index, image in enumerate(images):
        if context is None:
            context = av.CodecContext.create("libx264", "w")
            context.height, context.width = image.shape[:2]
            context.pix_fmt = "yuv420p"
            context.framerate, context.time_base = Fraction(fps), Fraction(1, fps)
            context.thread_count = 1
            context.options = {
                "preset": "ultrafast",
                "tune": "zerolatency",
                "x264-params": f"keyint={gop}:scenecut=0:repeat-headers=1:sliced-threads=0",
            }
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = index, context.time_base
        units += [_nal_units(bytes(packet)) for packet in context.encode(frame)]
    if context is not None:
        units += [_nal_units(bytes(packet)) for packet in context.encode(None)]
    return units


def encode_pattern(
    *, size_px: tuple[int, int] = (320, 240), fps: int = 25, frames: int = 100, gop: int = 25
) -> list[AccessUnit]:
    """The pattern of ``pattern:``, encoded: each picture carries its number, which survives the encoding."""
    return encode((pattern_image(i, *size_px, fps=fps) for i in range(frames)), fps=fps, gop=gop)


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong with a camera. Frames are counted from the beginning of each connection."""

    silent: bool = False
    """Takes connections, and never says a word."""
    status: str = ""
    """The answer to every DESCRIBE, such as ``"503 Service Unavailable"``."""
    stall_after: int | None = None
    """After so many frames the connection stays, and nothing is sent any more."""
    close_after: int | None = None
    """After so many frames the connection is closed."""
    reset_after: int | None = None
    """After so many frames the connection is reset."""
    drop: Callable[[int, int], bool] | None = None
    """Takes the numbers of a frame and of an RTP packet of it, and says whether that packet is lost."""
    garble: Callable[[bytes], bytes] | None = None
    """Takes each RTP packet and gives what is sent in its place, of the same length."""
    timestamp: Callable[[int], float] | None = None
    """Takes a frame's number and gives its presentation time in seconds."""


class RtspCamera:
    """Serves ``rtsp://127.0.0.1:PORT/live`` while its context lasts.

    Args:
        units: What is sent, over and over, as :func:`encode` makes it.
        fps: Frames a second.
        port: Where it listens; any free port by default.
        password: What players must give, for whatever user name.
        digest: Ask for a digest of it, rather than for the password itself.
        first_unit: Where in the loop each player joins.
        faults: What goes wrong.
    """

    def __init__(
        self,
        units: list[AccessUnit],
        *,
        fps: float = 25,
        port: int = 0,
        password: str | None = None,
        digest: bool = False,
        first_unit: int = 0,
        faults: Faults | None = None,
    ) -> None:
        self.units = units
        self.fps = fps
        self.faults = faults or Faults()
        self.sent_s: list[float] = []
        """Monotonic time at which each frame of the latest connection was handed to the network, in seconds."""
        self.on_sent: Callable[[int, float], None] | None = None
        """Called with each frame's number in its connection and that time, from the thread that sends."""
        self.connections = 0
        """How many players have begun to play."""
        self._password = password
        self._digest = digest
        self._first_unit = first_unit
        self._stopping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", port))
        self._listener.settimeout(0.1)
        self.port: int = self._listener.getsockname()[1]
        """Where it listens."""
        self._connected: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, name="camera", daemon=True)]

    @property
    def url(self) -> str:
        """Its address, without user and password."""
        return f"rtsp://127.0.0.1:{self.port}/live"

    def url_for(self, user: str, password: str) -> str:
        """Its address with a user and a password, as they are."""
        return f"rtsp://{user}:{password}@127.0.0.1:{self.port}/live"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Go, as if killed: nothing listens any more, and every connection is closed. Can be repeated."""
        self._stopping.set()
        self._listener.close()
        for connection in tuple(self._connected):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in tuple(self._threads):
            if thread.ident is not None:
                thread.join(2)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            connection.settimeout(10.0)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connected.add(connection)
            self._start(self._serve, connection)

    def _start(self, work: Callable[[socket.socket], None], connection: socket.socket) -> None:
        thread = threading.Thread(target=work, args=(connection,), name="camera connection", daemon=True)
        self._threads = [*(t for t in self._threads if t.is_alive()), thread]
        thread.start()

    def _serve(self, connection: socket.socket) -> None:
        """Answer one player's requests until it or the camera goes."""
        with suppress(OSError, ValueError):  # select() takes no socket that was closed meanwhile
            for request in self._requests(connection):
                method = request.partition(" ")[0]
                if self.faults.silent:
                    continue
                connection.sendall(self._answer(method, request))
                if method == "PLAY":
                    self.connections += 1
                    self._start(self._play, connection)
                elif method == "TEARDOWN":
                    break
        self._connected.discard(connection)
        connection.close()

    def _requests(self, connection: socket.socket) -> Iterator[str]:
        waiting = b""
        while not self._stopping.is_set():
            # not by the socket's own timeout, which is for sending: nothing can reset a connection while recv() waits
            if not select.select([connection], [], [], 0.05)[0]:
                continue
            data = connection.recv(65536)
            if not data:
                return
            waiting += data
            while True:
                if waiting[:1] == b"$":  # a report of the player's on how well it receives
                    length = 4 + int.from_bytes(waiting[2:4], "big")
                    if len(waiting) < max(4, length):
                        break
                    waiting = waiting[length:]
                    continue
                head, end, rest = waiting.partition(b"\r\n\r\n")
                if not end:
                    break
                waiting = rest
                yield head.decode()

    def _answer(self, method: str, request: str) -> bytes:
        first, *lines = request.split("\r\n")
        headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        path = first.split()[1]
        status, body = "200 OK", ""
        reply = [f"CSeq: {headers.get('cseq', '0')}", "Session: 1"]
        if method != "OPTIONS" and not self._is_allowed(method, headers.get("authorization", "")):
            status = "401 Unauthorized"
            reply.append(f"WWW-Authenticate: {DIGEST if self._digest else BASIC}")
        elif method == "OPTIONS":
            reply.append("Public: DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER")
        elif method == "DESCRIBE" and not path.rstrip("/").endswith("/live"):
            status = "404 Not Found"
        elif method == "DESCRIBE" and self.faults.status:
            status = self.faults.status
        elif method == "DESCRIBE":
            body = self._description()
            reply += ["Content-Type: application/sdp", f"Content-Base: {self.url}/"]
        elif method == "SETUP" and "interleaved" not in headers.get("transport", ""):
            status = "461 Unsupported Transport"
        elif method == "SETUP":
            reply.append("Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
        if body:
            reply.append(f"Content-Length: {len(body)}")
        return "\r\n".join([f"RTSP/1.0 {status}", *reply, "", body]).encode()

    def _is_allowed(self, method: str, authorization: str) -> bool:
        if self._password is None:
            return True
        if self._digest:
            return knows_digest(authorization, method, self._password)
        kind, _, value = authorization.partition(" ")
        return kind == "Basic" and base64.b64decode(value).decode().partition(":")[2] == self._password

    def _description(self) -> str:
        parameter_sets = {
            nal[0] & _TYPE: base64.b64encode(nal).decode() for nal in self.units[0] if nal[0] & _TYPE in (_SPS, _PPS)
        }
        lines = [
            "v=0",
            "o=- 0 0 IN IP4 127.0.0.1",
            "s=camera",
            "t=0 0",
            "m=video 0 RTP/AVP 96",
            "c=IN IP4 0.0.0.0",
            "a=rtpmap:96 H264/90000",
            f"a=fmtp:96 packetization-mode=1;sprop-parameter-sets={parameter_sets[_SPS]},{parameter_sets[_PPS]}",
            "a=control:streamid=0",
        ]
        return "".join(f"{line}\r\n" for line in lines)

    def _play(self, connection: socket.socket) -> None:
        """Send frames at their times until the connection or the camera goes."""
        faults = self.faults
        sent_s: list[float] = []
        self.sent_s = sent_s
        sequence, begun_s = 0, time.monotonic()
        with suppress(OSError):
            number = 0
            while not self._stopping.wait(max(0.0, begun_s + number / self.fps - time.monotonic())):
                if number == faults.stall_after:
                    self._stopping.wait()
                    break
                if number == faults.close_after:
                    connection.shutdown(socket.SHUT_RDWR)
                    break
                if number == faults.reset_after:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    connection.close()
                    break
                time_s = number / self.fps if faults.timestamp is None else faults.timestamp(number)
                unit = self.units[(self._first_unit + number) % len(self.units)]
                data = b""
                for packet in _packets(unit, round(time_s * _CLOCK_HZ), sequence):
                    if faults.drop is None or not faults.drop(number, sequence):
                        sent = packet if faults.garble is None else faults.garble(packet)
                        data += b"$\0" + len(sent).to_bytes(2, "big") + sent
                    sequence += 1
                sent_s.append(time.monotonic())
                if self.on_sent is not None:
                    self.on_sent(number, sent_s[-1])
                connection.sendall(data)
                number += 1


def knows_digest(authorization: str, method: str, password: str) -> bool:
    """Whether an ``Authorization`` header answers :data:`DIGEST` with a password, for whatever user (RFC 2069)."""
    given = dict(re.findall(r'(\w+)="([^"]*)"', authorization))
    if not authorization.startswith("Digest ") or given.get("nonce") != NONCE:
        return False
    user, uri = given.get("username", ""), given.get("uri", "")
    parts = (f"{user}:camera:{password}", f"{method}:{uri}")
    first, second = (hashlib.md5(part.encode(), usedforsecurity=False).hexdigest() for part in parts)
    expected = hashlib.md5(f"{first}:{NONCE}:{second}".encode(), usedforsecurity=False).hexdigest()
    return given.get("response") == expected


def _packets(unit: AccessUnit, timestamp: int, sequence: int) -> Iterator[bytes]:
    """A frame's RTP packets (RFC 6184)."""
    parts = [part for nal in unit for part in _fragments(nal)]
    for i, part in enumerate(parts):
        marker = 0x80 if i == len(parts) - 1 else 0
        header = struct.pack(
            "!BBHII", 0x80, marker | 96, (sequence + i) & 0xFFFF, (_FIRST_TIMESTAMP + timestamp) & 0xFFFFFFFF, 0x1234
        )
        yield header + part


def _fragments(nal: bytes) -> Iterator[bytes]:
    if len(nal) <= _MTU:
        yield nal
        return
    indicator, kind, body = (nal[0] & 0x60) | 28, nal[0] & _TYPE, nal[1:]
    for begin in range(0, len(body), _MTU):
        start = 0x80 if begin == 0 else 0
        end = 0x40 if begin + _MTU >= len(body) else 0
        yield bytes([indicator, kind | start | end]) + body[begin : begin + _MTU]


def _nal_units(annex_b: bytes) -> AccessUnit:
    return [unit.rstrip(b"\0") for unit in annex_b.split(b"\0\0\1")[1:]]
