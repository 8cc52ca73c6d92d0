"""MJPEG, files and HLS from a real HTTP server."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from stream_ann.errors import AccessDeniedError, DisconnectedError, SourceNotFoundError
from stream_ann.ingest.pattern import frame_number, pattern_image
from tests.cameras import Watched, quick
from tests.http_camera import HttpCamera, make_hls
from tests.videos import encode, numbered

PASSWORD = "se@cr/et?pa#ss"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("www")
    encode(folder / "clip.mp4", numbered(30), options={"g": "10"})
    (folder / "clip").write_bytes((folder / "clip.mp4").read_bytes())
    (folder / "page.html").write_text("<html><body>Welcome to your camera</body></html>" * 50)
    return folder


@pytest.fixture(scope="module")
def segments(folder: Path) -> list[str]:
    return make_hls(folder, seconds=8)


def numbers(frames) -> list[int]:
    return [frame_number(frame.image) for frame in frames]


class TestMjpeg:
    def test_is_live_and_comes_back(self, folder: Path):
        with HttpCamera(folder) as camera, Watched(f"{camera.url}/stream.mjpg") as it:
            before = it.more_frames(10)
            camera.stop()
            it.until_state("reconnecting")
            with HttpCamera(folder, port=camera.port):
                it.until_state("live")
                after = it.more_frames(3)
        assert numbers(before) == sorted(numbers(before))
        assert numbers(after)[0] < 10, "it is another connection"
        assert {frame.pts_s for frame in before} == {None}, "MJPEG has no times, so none are made up"
        assert not any(frame.suspect for frame in before)

    def test_wants_its_password(self, folder: Path):
        with HttpCamera(folder, password=PASSWORD) as camera:
            address = f"@127.0.0.1:{camera.port}/stream.mjpg"
            with Watched(f"http://me:{PASSWORD}{address}") as it:
                it.until_state("live")
            with Watched(f"http://me:wrong{address}") as it:
                it.until_state("refused")
                assert "takes another user name or password" in it.reader.state.why
        assert "***@127.0.0.1" in it.source.name


class TestFiles:
    @pytest.mark.parametrize("name", ["clip.mp4", "clip"], ids=["by its ending", "by what it is"])
    def test_are_played_at_their_pace_to_their_end(self, folder: Path, name: str):
        with HttpCamera(folder) as camera, Watched(f"{camera.url}/{name}") as it:
            it.until(lambda: it.slot.ended)
        assert it.error is None
        assert it.names == ["connecting", "live", "ended"]
        assert it.reader.counts.frames_in == 30
        assert numbers(it.frames) == sorted(numbers(it.frames))
        assert numbers(it.frames)[-1] == 29
        assert it.frames[-1].arrival_s - it.frames[0].arrival_s > 29 / 25 - 0.1
        assert it.frames[-1].pts_s == pytest.approx(29 / 25)

    def test_what_is_not_there_ends_the_run(self, folder: Path):
        with HttpCamera(folder) as camera, Watched(f"{camera.url}/nothing.mp4") as it:
            it.until(lambda: it.error)
        assert isinstance(it.error, SourceNotFoundError)
        assert it.names == ["connecting", "ended"]

    def test_behind_a_password(self, folder: Path):
        with HttpCamera(folder, password=PASSWORD) as camera:
            with Watched(f"http://me:{PASSWORD}@127.0.0.1:{camera.port}/clip.mp4") as it:
                it.until(lambda: it.frames)
            with Watched(f"{camera.url}/clip.mp4") as it:
                it.until(lambda: it.error)
        assert isinstance(it.error, AccessDeniedError)

    def test_a_page_is_no_video(self, folder: Path):
        with HttpCamera(folder) as camera, Watched(f"{camera.url}/page.html") as it:
            it.until_state("refused")
            assert "is no video" in it.reader.state.why


class TestHls:
    def test_a_complete_playlist_is_played_like_a_file(self, folder: Path, segments: list[str]):
        short = folder / "short.m3u8"
        head = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n"
        short.write_text(head + "".join(f"#EXTINF:1.0,\n{s}\n" for s in segments[:2]) + "#EXT-X-ENDLIST\n")
        with HttpCamera(folder) as camera, Watched(f"{camera.url}/short.m3u8") as it:
            it.until(lambda: it.slot.ended)
        assert it.names == ["connecting", "live", "ended"]
        assert it.reader.counts.frames_in == 50
        assert it.frames[-1].arrival_s - it.frames[0].arrival_s > 1.8

    def test_a_live_playlist_goes_on_at_its_pace_near_its_end(self, folder: Path, segments: list[str]):
        options = quick(read_timeout_s=10.0)
        with HttpCamera(folder, segments=segments) as camera, Watched(f"{camera.url}/live.m3u8", options) as it:
            it.until(lambda: it.frames and it.frames[-1].index > 60)
            assert it.reader.state.state in ("live", "stalled")
        seen = numbers(it.frames)
        assert seen[0] >= 50, "it begins with the newest segment, not with the oldest"
        assert seen == sorted(seen)
        assert len(seen) > 30, "segments come at once, but their pictures at their times: few are replaced"


def test_frames_that_a_decoder_swallows_are_counted(tmp_path: Path):
    # HEVC over HTTP without an end. Without its predecessor, a frame does not come out at all
    with av.open(str(tmp_path / "gap.ts"), "w", format="mpegts") as container:
        stream = container.add_stream("libx265", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        x265 = "keyint=20:min-keyint=20:bframes=0:scenecut=0:ref=1:log-level=none"
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "x265-params": x265}
        images = [av.VideoFrame.from_ndarray(pattern_image(i, 160, 120), format="rgb24") for i in range(60)]
        packets = [packet for image in images for packet in stream.encode(image)] + stream.encode(None)
        assert len(packets) == 60
        for number, packet in enumerate(packets):
            if number != 25:
                container.mux(packet)
    with HttpCamera(tmp_path) as camera, Watched(f"{camera.url}/endless/gap.ts", quick(reconnect_attempts=0)) as it:
        it.until(lambda: it.error)
    assert isinstance(it.error, DisconnectedError)
    counts = it.reader.counts
    assert counts.corrupt == 14, "26 to 39 build on the lost one"
    assert counts.frames_in == 59
    assert "cannot be decoded" in it.warnings[0]
