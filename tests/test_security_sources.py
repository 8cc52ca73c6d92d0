"""Hostile files, cameras and playlists: what they name is not opened, what they say is not shown, what they learn."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stream_ann.containers import FOLLOWING, file_options
from stream_ann.errors import SourceError, UnsupportedSourceError
from stream_ann.ingest import DEMO_CLIP, SourceOptions, source_from
from stream_ann.sinks.annotated import annotated_path
from stream_ann.training.clips import load_clip

IMPATIENT = SourceOptions(connect_timeout_s=2, read_timeout_s=2, reconnect_attempts=0)
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"


def playlist(target: str) -> str:
    return f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n"


def lists_of(target: Path) -> dict[str, str]:
    """Files that hold no video but the name of one, whatever their extension says."""
    return {
        "hls.m3u8": playlist(str(target)),
        "hls.mp4": playlist(target.name),
        "url.m3u8": playlist(f"file://{target}"),
        "concat.mp4": f"ffconcat version 1.0\nfile {target.name}\n",
        "unsafe.mkv": f"ffconcat version 1.0\nfile 'file:{target}'\n",
        "session.mp4": SDP,
    }


class TestFiles:
    @pytest.mark.parametrize("name", lists_of(DEMO_CLIP))
    def test_what_a_file_names_is_not_opened(self, tmp_path: Path, name: str):
        secret = tmp_path / "secret.mp4"
        secret.write_bytes(DEMO_CLIP.read_bytes())
        path = tmp_path / name
        path.write_text(lists_of(secret)[name])
        with closing(source_from(str(path))) as source, pytest.raises(UnsupportedSourceError, match="no video"):
            source.open()
        assert isinstance(load_clip(path, 4, 64), str)
        assert annotated_path(path, tmp_path / "out").suffix == ".mp4"

    def test_every_other_kind_of_file_is_still_read(self):
        kinds = set(file_options()["format_whitelist"].split(","))
        assert {"avi", "matroska", "mp4", "mpegts", "ogg", "flv", "mjpeg", "webm"} <= kinds
        assert not FOLLOWING & kinds
        assert len(kinds) > 250


class TestPlaylists:
    """A server's answers, which can name anything."""

    @pytest.mark.parametrize(
        "content",
        [
            playlist(f"file://{DEMO_CLIP}"),
            playlist(str(DEMO_CLIP)),
            playlist(f"concat:{DEMO_CLIP}"),
            playlist(f"crypto+file:{DEMO_CLIP}"),
            playlist(f"subfile,,start,0,end,0,,:{DEMO_CLIP}"),
            f"ffconcat version 1.0\nfile 'file:{DEMO_CLIP}'\n",
            f"ffconcat version 1.0\nfile {DEMO_CLIP}\n",
            SDP,
        ],
        ids=["file", "path", "concat", "crypto", "subfile", "ffconcat-url", "ffconcat-path", "session"],
    )
    @pytest.mark.parametrize("ending", [".m3u8", ""])
    def test_none_leads_to_a_file_or_an_open_port_here(self, content: str, ending: str):
        with web({f"/live{ending}": (200, {}, content.encode())}) as (port, _):
            source = source_from(f"http://127.0.0.1:{port}/live{ending}", IMPATIENT)
            with closing(source), pytest.raises(SourceError) as raised:
                source.open()
        assert "timeout" not in type(raised.value).__name__.lower(), "it listened for pictures on a port"

    def test_a_redirect_to_a_file_is_not_followed(self):
        with web({"/live": (302, {"Location": f"file://{DEMO_CLIP}"}, b"")}) as (port, _):
            source = source_from(f"http://127.0.0.1:{port}/live", IMPATIENT)
            with closing(source), pytest.raises(SourceError):
                source.open()

    def test_a_redirect_elsewhere_does_not_take_the_password_along(self):
        asked = (401, {"WWW-Authenticate": 'Basic realm="x"'}, b"")
        with web({"/x": asked}) as (other, told):
            there = {"Location": f"http://127.0.0.1:{other}/x"}
            with web({"/live": (302, there, b"")}) as (port, _):
                source = source_from(f"http://me:hunter2@127.0.0.1:{port}/live", IMPATIENT)
                with closing(source), pytest.raises(SourceError) as raised:
                    source.open()
        assert told, "nobody followed the redirect: the test shows nothing"
        assert not any(told)
        assert "hunter2" not in str(raised.value)


class TestCameras:
    """An RTSP camera that answers whatever it likes."""

    def test_a_redirect_takes_the_password_along(self):
        """Not defended: libav answers whoever asks on the way, and cannot be told otherwise. SECURITY.md says so."""
        told: list[bytes] = []

        def other(number: bytes, request: bytes) -> bytes:
            told.append(request)
            return b'RTSP/1.0 401 Unauthorized\r\nCSeq: %s\r\nWWW-Authenticate: Basic realm="x"\r\n\r\n' % number

        with rtsp(other) as there:
            found = b"RTSP/1.0 302 Found\r\nCSeq: %s\r\nLocation: rtsp://127.0.0.1:%d/\r\n\r\n"
            with rtsp(lambda number, _: found % (number, there)) as port:
                source = source_from(f"rtsp://me:hunter2@127.0.0.1:{port}/live", IMPATIENT)
                with closing(source), pytest.raises(SourceError):
                    source.open()
        assert any(b"Authorization: Basic" in request for request in told)

    @pytest.mark.parametrize(
        "answer",
        [
            b"RTSP/1.0 500 \x1b]0;pwned\x07\x1b[2J\xc2\x9b31m\r\nCSeq: %s\r\n\r\n",
            b'RTSP/1.0 401 Unauthorized\r\nCSeq: %s\r\nWWW-Authenticate: Digest realm="\x1b[2J", nonce="%%n"\r\n\r\n',
            b"RTSP/1.0 302 Found\r\nCSeq: %s\r\nLocation: file:///etc/passwd\r\n\r\n",
            b"RTSP/1.0 200 OK\r\nCSeq: %s\r\nContent-Length: 2000000000\r\n\r\n",
            b"RTSP/1.0 200 OK\r\nCSeq: %s\r\nContent-Length: -1\r\n\r\n",
            b"\x1b[2J" * 4000,
        ],
        ids=["escapes", "realm", "file", "long", "negative", "no rtsp"],
    )
    def test_what_it_says_is_not_repeated(self, answer: bytes):
        with rtsp(lambda number, _: answer.replace(b"%s", number)) as port:
            source = source_from(f"rtsp://me:hunter2@127.0.0.1:{port}/live", IMPATIENT)
            with closing(source), pytest.raises(SourceError) as raised:
                source.open()
        text = str(raised.value)
        assert text.isprintable()
        assert "pwned" not in text
        assert "hunter2" not in text
        chain: list[str] = []
        error: BaseException | None = raised.value
        while error is not None:
            chain.append(repr(error))
            error = error.__cause__ or error.__context__
        assert "hunter2" not in " ".join(chain), "a traceback would show it"


Answers = dict[str, tuple[int, dict[str, str], bytes]]


@contextmanager
def web(answers: Answers) -> Iterator[tuple[int, list[str | None]]]:
    """A web server with these answers by path; its port, and the Authorization header of every request."""
    told: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.append(self.headers.get("Authorization"))
            status, headers, body = answers.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.server_address[1], told
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def rtsp(answer: Callable[[bytes, bytes], bytes]) -> Iterator[int]:
    """Something that answers every RTSP request, given with its number, as it is told to; its port."""

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.settimeout(20)
            heard = b""
            while data := connection.recv(4096):
                heard += data
                while b"\r\n\r\n" in heard:
                    request, heard = heard.split(b"\r\n\r\n", 1)
                    number = re.search(rb"CSeq: (\d+)", request)
                    connection.sendall(answer(number[1] if number else b"0", request))

    def listen() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            try:
                serve(connection)
            except OSError:
                continue

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(20)
