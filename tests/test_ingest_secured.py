"""Cameras behind TLS and behind digests of passwords, as libav speaks them."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from benchmarks.camera import AccessUnit, RtspCamera, encode_pattern
from tests.cameras import Watched
from tests.http_camera import HttpCamera

PASSWORD = "s3cret"


class TlsFront:
    """Speaks TLS with whoever connects, and plainly with what listens at a port, while its context lasts."""

    def __init__(self, port: int, certificate: Path) -> None:
        self._target = port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self.port: int = self._listener.getsockname()[1]
        self.handshakes = 0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
                self._threads[-1].start()

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(10)
        with (
            contextlib.suppress(OSError),
            plain,
            socket.create_connection(("127.0.0.1", self._target)) as inner,
            self._context.wrap_socket(plain, server_side=True) as outer,
        ):
            self.handshakes += 1
            while not self._over.is_set():
                ready = [outer] if outer.pending() else select.select([outer, inner], [], [], 0.1)[0]
                for one in ready:
                    data = one.recv(65536)
                    if not data:
                        return
                    (inner if one is outer else outer).sendall(data)


@pytest.fixture(scope="module")
def units() -> list[AccessUnit]:
    return encode_pattern(size_px=(320, 240), frames=50)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that nobody else has signed, as those of cameras."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*command, "-keyout", "key", "-out", "cert"], cwd=folder, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text((folder / "key").read_text() + (folder / "cert").read_text())
    return both


@pytest.fixture
def web(tmp_path: Path) -> Iterator[HttpCamera]:
    with HttpCamera(tmp_path, password=PASSWORD, digest=True) as camera:
        yield camera


@pytest.mark.tool("openssl")
class TestTls:
    def test_rtsps(self, units, certificate: Path):
        with (
            RtspCamera(units, password=PASSWORD) as camera,
            TlsFront(camera.port, certificate) as front,
            Watched(f"rtsps://me:{PASSWORD}@127.0.0.1:{front.port}/live") as it,
        ):
            it.more_frames(10)
        assert it.source.name == f"rtsps://me:***@127.0.0.1:{front.port}/live"
        assert it.names == ["connecting", "live", "ended"]
        assert front.handshakes >= 1
        assert not any(frame.suspect for frame in it.frames)

    def test_https(self, tmp_path: Path, certificate: Path):
        with (
            HttpCamera(tmp_path) as camera,
            TlsFront(camera.port, certificate) as front,
            Watched(f"https://127.0.0.1:{front.port}/stream.mjpg") as it,
        ):
            it.more_frames(5)
        assert it.names == ["connecting", "live", "ended"]
        assert front.handshakes >= 1

    def test_without_tls_at_the_other_end_it_is_said(self, units):
        with RtspCamera(units) as camera, Watched(f"rtsps://127.0.0.1:{camera.port}/live") as it:
            it.until(lambda: bool(it.warnings))
        assert it.reader.counts.frames_in == 0


class TestDigest:
    def test_rtsp(self, units):
        with (
            RtspCamera(units, password=PASSWORD, digest=True) as camera,
            Watched(camera.url_for("me", PASSWORD)) as it,
        ):
            it.more_frames(5)
        assert it.names == ["connecting", "live", "ended"]

    def test_http(self, web: HttpCamera):
        with Watched(f"http://me:{PASSWORD}@127.0.0.1:{web.port}/stream.mjpg") as it:
            it.more_frames(5)
        assert it.names == ["connecting", "live", "ended"]

    def test_a_wrong_password_is_refused(self, units, web: HttpCamera):
        with RtspCamera(units, password=PASSWORD, digest=True) as camera:
            addresses = [camera.url_for("me", "another"), f"http://me:another@127.0.0.1:{web.port}/stream.mjpg"]
            for address in addresses:
                with Watched(address) as it:
                    it.until(lambda: "refused" in it.names)
                    assert "takes another user name or password" in it.reader.state.why
