"""A second opinion on network cameras: a server that is not ours, with UDP and passwords of its own."""

from __future__ import annotations

import itertools

import pytest

from tests.cameras import Watched, quick
from tests.gst_camera import GstCamera, require_gst

pytestmark = pytest.mark.tool("gst-launch-1.0")

PASSWORD = "se@cr-et?pa#ss"


@pytest.fixture(autouse=True)
def _installed() -> None:
    require_gst()


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_plays_and_its_death_is_noticed(transport: str):
    options = quick(transport=transport, connect_timeout_s=10.0, read_timeout_s=3.0)
    with GstCamera() as camera, Watched(camera.url, options) as it:
        frames = it.more_frames(30)
        camera.kill()
        it.until_state("reconnecting")
        it.until(lambda: "nothing listens" in it.reader.state.why)
    assert {frame.image.shape for frame in frames} == {(240, 320, 3)}
    moved = sum((a.image != b.image).any() for a, b in itertools.pairwise(frames))
    assert moved > 20, "the picture stands still"
    if transport == "tcp":
        assert not any(frame.suspect for frame in frames)


def test_asks_for_its_password():
    options = quick(connect_timeout_s=10.0, read_timeout_s=5.0)
    with GstCamera("me", PASSWORD) as camera:
        address = f"@127.0.0.1:{camera.port}/live"
        with Watched(f"rtsp://me:{PASSWORD}{address}", options) as it:
            it.until_state("live")
        with Watched(f"rtsp://me:wrong{address}", options) as it:
            it.until_state("refused")
            assert "takes another user name or password" in it.reader.state.why
        with Watched(f"rtsp://127.0.0.1:{camera.port}/nothing", options) as it:
            it.until_state("refused")
