"""What a network camera or a web server offers over HTTP: MJPEG, files, and HLS playlists, live and complete."""

from __future__ import annotations

import base64
import io
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
from PIL import Image

from benchmarks.camera import BASIC, DIGEST, knows_digest
from stream_ann.ingest.pattern import pattern_image

BOUNDARY = "camera"


class HttpCamera:
    """Serves ``/stream.mjpg``, ``/live.m3u8`` and the files of a folder at ``http://127.0.0.1:PORT``; those below
    ``/endless/`` without their length.

    Args:
        folder: Where files are; each is served under its name.
        fps: MJPEG pictures a second.
        password: What is asked for.
        digest: Ask for a digest of it.
        segments: Files of the folder that the live playlist names, one after the other, each a second long.
        port: Where it listens; any free port by default.
    """

    def __init__(
        self,
        folder: Path,
        *,
        fps: float = 25,
        password: str | None = None,
        digest: bool = False,
        segments: list[str] | None = None,
        port: int = 0,
    ) -> None:
        self.fps = fps
        self.segments = segments or []
        self.begun_s = time.monotonic()
        self.requests: list[str] = []
        self.stopping = threading.Event()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                camera.requests.append(self.path)
                wanted = "Basic " + base64.b64encode(f"me:{password}".encode()).decode()
                offered = self.headers.get("Authorization", "")
                knows = (not digest and offered == wanted) or (digest and knows_digest(offered, "GET", password or ""))
                if password is not None and not knows:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", DIGEST if digest else BASIC)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                elif self.path.startswith("/stream.mjpg"):
                    camera._stream(self)
                elif self.path == "/live.m3u8":
                    self.answer(camera._playlist().encode(), "application/vnd.apple.mpegurl")
                elif self.path.startswith("/endless/"):
                    self.send_response(200)
                    self.send_header("Connection", "close")
                    self.end_headers()  # without a length it may go on for ever
                    self.wfile.write((folder / Path(self.path).name).read_bytes())
                    self.close_connection = True
                elif (folder / self.path.lstrip("/")).is_file():
                    self.answer((folder / self.path.lstrip("/")).read_bytes(), "application/octet-stream")
                else:
                    self.send_error(404)

            def answer(self, data: bytes, kind: str) -> None:
                begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
                self.send_response(206 if "Range" in self.headers else 200)
                self.send_header("Content-Type", kind)
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Connection", "close")
                if "Range" in self.headers:
                    self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
                self.send_header("Content-Length", str(len(data) - begin))
                self.end_headers()
                self.wfile.write(data[begin:])

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # players leave when they like

        self._server = Server(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> HttpCamera:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Go: nothing listens any more, and streams end."""
        if not self.stopping.is_set():
            self.stopping.set()
            self._server.shutdown()
            self._server.server_close()

    def _stream(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        handler.end_headers()
        begun_s, number = time.monotonic(), 0
        while not self.stopping.wait(max(0.0, begun_s + number / self.fps - time.monotonic())):
            data = jpeg(number)
            head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            handler.wfile.write(head.encode() + data + b"\r\n")
            number += 1
        handler.close_connection = True

    def _playlist(self) -> str:
        """The latest three segments, of which one more is there each second."""
        newest = min(2 + int(time.monotonic() - self.begun_s), len(self.segments) - 1)
        first = max(0, newest - 2)
        names = "".join(f"#EXTINF:1.0,\n{name}\n" for name in self.segments[first : newest + 1])
        return f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{first}\n{names}"


def jpeg(number: int) -> bytes:
    """Picture ``number`` of the pattern."""
    file = io.BytesIO()
    Image.fromarray(pattern_image(number, 160, 120)).save(file, "JPEG", quality=90)
    return file.getvalue()


def make_hls(folder: Path, *, seconds: int, fps: int = 25, name: str = "complete.m3u8") -> list[str]:
    """Write a complete playlist with segments of a second each; their names."""
    with av.open(str(folder / name), "w", format="hls", options={"hls_time": "1", "hls_list_size": "0"}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.codec_context.gop_size = fps
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "scenecut=0"}
        for i in range(seconds * fps):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pattern_image(i, 160, 120), format="rgb24")))
        container.mux(stream.encode(None))
    return [line for line in (folder / name).read_text().splitlines() if not line.startswith("#")]
