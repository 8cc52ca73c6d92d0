"""What comes over the network: a camera or a server that answers whatever it likes."""

from __future__ import annotations

import io
import re
import socket
import threading
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from stream_ann.clock import MonotonicClock
from stream_ann.errors import SourceError
from stream_ann.ingest import Reader, Slot, SourceOptions, source_from
from tests.fuzz import corpus
from tests.fuzz.damage import damaged_pieces, split
from tests.fuzz.target import Target
from tests.videos import numbered

__all__ = ["TARGETS"]

_OPTIONS = SourceOptions(connect_timeout_s=1.0, read_timeout_s=0.5, reconnect_attempts=0)
_MOST_FRAMES = 40
_MOST_WAITS = 300
"""Of a tenth of a second each: the longest timeout, that of playlists, is 20 s."""
_CSEQ = re.compile(rb"CSeq: *([0-9]+)", re.IGNORECASE)


class _Liar:
    """A server that answers to each request what comes next in a script: a reply, and what follows up to the next one.

    Args:
        script: The messages; a ``$CSEQ`` in one becomes the number of the request, ``$PORT`` its own.
    """

    def __init__(self, script: list[bytes]) -> None:
        self._script = script
        self._at = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.05)
        self.port: int = self._server.getsockname()[1]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join(10)
        self._server.close()

    def _serve(self) -> None:
        while not self._over.is_set() and self._at < len(self._script):
            try:
                client, _ = self._server.accept()
            except TimeoutError:
                continue
            with client:
                client.settimeout(0.3)
                try:
                    self._talk(client)
                except OSError:
                    continue  # it has left, or has nothing more to say

    def _talk(self, client: socket.socket) -> None:
        heard = b""
        while not self._over.is_set() and self._at < len(self._script):
            while b"\r\n\r\n" not in heard:
                if not (more := client.recv(4096)):
                    return
                heard += more
            request, _, heard = heard.partition(b"\r\n\r\n")
            number = _CSEQ.search(request)
            message = self._script[self._at].replace(b"$PORT", str(self.port).encode())
            self._at += 1
            client.sendall(message.replace(b"$CSEQ", number[1] if number else b"0"))
            while self._at < len(self._script) and not self._script[self._at].startswith((b"HTTP/", b"RTSP/")):
                client.sendall(self._script[self._at])
                self._at += 1
            if request.startswith(b"GET "):
                return


def _watch(url: str, script: list[bytes]) -> None:
    """Read what a liar sends, as a run does: a reader, a slot, and somebody who takes frames."""
    server = _Liar(script)
    try:
        slot = Slot(MonotonicClock())
        reader = Reader(source_from(url.replace("$PORT", str(server.port)), _OPTIONS), slot, on_warning=_heard)
        reader.start()
        frames = 0
        try:
            for _ in range(_MOST_WAITS):
                if slot.ended or frames >= _MOST_FRAMES:
                    break
                try:
                    taken = slot.take(0.1)
                except SourceError as error:
                    _heard(str(error))
                    if frames:
                        return
                    raise
                if taken is not None:
                    frames += 1
                    assert taken.frame.image.dtype == np.uint8
                    assert taken.frame.image.ndim == 3
            else:
                raise AssertionError("the reader neither gave frames nor gave up")
        finally:
            slot.close()
            stopped = reader.stop(5.0)
            counts = slot.counts
        assert stopped, "the reader does not stop"
        assert counts.put == counts.taken + counts.replaced + counts.unused
    finally:
        server.close()


def _heard(line: str) -> None:
    assert "\n" not in line
    assert "s3cret" not in line


def _rtsp(data: bytes, folder: Path) -> None:
    del folder
    _watch("rtsp://me:s3cret@127.0.0.1:$PORT/live", split(data))


def _http(data: bytes, folder: Path) -> None:
    del folder
    path = "live.m3u8" if b"mpegurl" in data else "stream.mjpg" if b"multipart" in data else "clip.mp4"
    _watch(f"http://me:s3cret@127.0.0.1:$PORT/{path}", split(data))


def _reply(body: bytes = b"", *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"RTSP/1.0 {status}", "CSeq: $CSEQ", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def _sdp(media: str) -> bytes:
    text = f"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n{media}a=control:track1\r\n"
    return text.encode()


def _h264_units(folder: Path) -> list[bytes]:
    stream = corpus.videos(folder)["h264.h264"]
    return [unit for unit in re.split(rb"\x00{2,3}\x01", stream) if unit]


def _packets(payloads: list[tuple[bytes, int, bool]], kind: int) -> list[bytes]:
    """RTP packets, interleaved: payload, timestamp, and whether it ends a picture."""
    found = []
    for number, (payload, timestamp, last) in enumerate(payloads):
        head = bytes([0x80, kind | (0x80 if last else 0)]) + number.to_bytes(2, "big")
        packet = head + timestamp.to_bytes(4, "big") + b"\0\0\0\7" + payload
        found.append(b"$\0" + len(packet).to_bytes(2, "big") + packet)
    return found


def _fragments(unit: bytes, size: int) -> list[bytes]:
    """A NAL unit as RTP payloads, in fragments (FU-A) where it is long."""
    if len(unit) <= size:
        return [unit]
    head, body = unit[0], unit[1:]
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return [
        bytes([head & 0xE0 | 28, head & 0x1F | (0x80 if i == 0 else 0) | (0x40 if i == len(parts) - 1 else 0)]) + part
        for i, part in enumerate(parts)
    ]


def _dialogues(folder: Path) -> st.SearchStrategy[bytes]:
    session = "Session: 12345678;timeout=60"
    tcp = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1;ssrc=00000007"
    media = {
        "h264": "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\n",
        "jpeg": "m=video 0 RTP/AVP 26\r\n",
        "hevc": "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H265/90000\r\n",
        "mpeg4": "m=video 0 RTP/AVP 96\r\na=rtpmap:96 MP4V-ES/90000\r\na=fmtp:96 profile-level-id=1; config=000001\r\n",
    }
    units = _h264_units(folder)
    payloads = [(part, 3600 * i, True) for i, unit in enumerate(units) for part in _fragments(unit, 400)]
    found = []
    for name, described in media.items():
        kind = 26 if name == "jpeg" else 96
        found.append([
            _reply(b"", "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN"),
            _reply(_sdp(described), "Content-Type: application/sdp", "Content-Base: rtsp://127.0.0.1:$PORT/live/"),
            _reply(b"", tcp, session),
            _reply(b"", session, "RTP-Info: url=rtsp://127.0.0.1/live/track1;seq=0;rtptime=0"),
            *_packets(payloads, kind),
        ])  # fmt: skip
    asks = _reply(b"", 'WWW-Authenticate: Digest realm="r", nonce="abc", algorithm=MD5', status="401 Unauthorized")
    found.append([asks, *found[0]])
    found.append([_reply(b"", "Location: rtsp://127.0.0.1:$PORT/other", status="302 Found"), *found[0]])
    return damaged_pieces(found)


def _answers(folder: Path) -> st.SearchStrategy[bytes]:
    parts = []
    for picture in numbered(4, (64, 48)):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG")
        jpeg = file.getvalue()
        parts.append(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg))

    def ok(kind: bytes, body: bytes) -> bytes:
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
        return head % (kind, len(body)) + body

    endless = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: %s\r\n"
    stream = [endless % b"multipart/x-mixed-replace; boundary=frame" + b"\r\n", *parts, *parts]
    videos = corpus.videos(folder)
    transport = videos["h264.ts"]
    clips = [[ok(b"video/mp4", videos[name])] for name in ("h264.mp4", "h264.ts", "vp8.webm")]
    playlist = b"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\na.ts\n#EXT-X-ENDLIST\n"
    hls = [ok(b"application/x-mpegurl", playlist), *clips[1]]
    chunk = b"%x\r\n%s\r\n" % (len(transport), transport)
    chunked = [endless % b"video/mp2t" + b"Transfer-Encoding: chunked\r\n\r\n", chunk, b"0\r\n\r\n"]
    moved = [b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:$PORT/clip.mp4\r\nContent-Length: 0\r\n\r\n", *clips[0]]
    asks = [b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="r"\r\nContent-Length: 0\r\n\r\n', *stream]
    return damaged_pieces([stream, *clips, hls, chunked, moved, asks])


TARGETS = (
    Target("rtsp", "answers of cameras (RTSP, SDP, RTP)", _dialogues, _rtsp, 6, timeout_s=60.0),
    Target("http", "answers of web servers (MJPEG, files, HLS)", _answers, _http, 6, timeout_s=60.0),
)
