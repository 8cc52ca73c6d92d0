"""A camera made by somebody else: gst-rtsp-server, run by the system's Python. For tests."""

from __future__ import annotations

import shutil
import subprocess
from types import TracebackType
from typing import Self

import pytest

from tests.conftest import IN_CI

_PYTHON = "/usr/bin/python3"
_SERVER = """
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
user, password = sys.argv[1:3]
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=25/1 "
    "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 bitrate=300 threads=1 "
    "! rtph264pay name=pay0 pt=96 config-interval=1 )"
)
factory.set_shared(True)
server = GstRtspServer.RTSPServer.new()
server.set_address("127.0.0.1")
server.set_service("0")
if user:
    auth, token = GstRtspServer.RTSPAuth.new(), GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    access = "user, media.factory.access=true, media.factory.construct=true"
    factory.add_role_from_structure(Gst.Structure.new_from_string(access))
server.get_mount_points().add_factory("/live", factory)
server.attach(None)
GLib.timeout_add_seconds(120, sys.exit)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


def require_gst() -> None:
    """Skip the test where gst-rtsp-server is not installed; in CI it must be."""
    program = [_PYTHON, "-c", "import gi; gi.require_version('GstRtspServer', '1.0')"]
    if shutil.which(_PYTHON) is None or subprocess.run(program, capture_output=True, timeout=60).returncode != 0:
        if IN_CI:
            pytest.fail("gst-rtsp-server is not installed, and in CI it must be")
        pytest.skip("needs gir1.2-gst-rtsp-server-1.0 and python3-gi")


class GstCamera:
    """Serves a moving ball at ``rtsp://127.0.0.1:PORT/live``, over TCP and UDP, while its context lasts."""

    def __init__(self, user: str = "", password: str = "") -> None:
        self._args = [_PYTHON, "-c", _SERVER, user, password]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.strip().isdecimal():
            self._process.kill()
            raise RuntimeError(f"gst-rtsp-server does not start: {self._process.communicate()}")
        self.port = int(line)
        self.url = f"rtsp://127.0.0.1:{self.port}/live"
        return self

    def kill(self) -> None:
        """Kill it, without a word to its players."""
        self._process.kill()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate(timeout=10)
