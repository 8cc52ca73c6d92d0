"""Webcams that are unplugged and plugged in again, and what Linux says of them. OpenCV's capture is a stand-in here."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_ann.errors import SourceNotFoundError, UsageError
from stream_ann.ingest import SourceOptions, WebcamSource, list_webcams, size_px_from, source_from, spec, webcam
from stream_ann.ingest.v4l2 import Capabilities, capabilities
from tests.cameras import Watched

BGR = np.zeros((48, 64, 3), dtype=np.uint8)


class Capture:
    """A camera that gives so many frames, and is gone with its device then."""

    def __init__(self, device: Path, frames: int) -> None:
        self.device, self.frames = device, frames
        self.released = False

    def isOpened(self) -> bool:
        return self.device.exists()

    def read(self) -> tuple[bool, Any]:
        time.sleep(0.005)
        if self.frames == 0:
            self.device.unlink(missing_ok=True)
            return False, None
        self.frames -= 1
        return True, BGR

    def set(self, propId: int, value: float) -> bool:
        return True

    def release(self) -> None:
        self.released = True


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "video0"
    path.touch()
    return path


def plugged(device: Path, captures: list[Capture], **options: Any) -> WebcamSource:
    source = WebcamSource(0, open_capture=lambda number: captures.pop(0) if captures else Capture(device, 0), **options)
    source._device = device
    return source


class TestReplugging:
    def test_it_goes_on_when_it_is_plugged_in_again(self, device: Path):
        captures = [Capture(device, 5), Capture(device, 10**9)]
        first = captures[0]
        with Watched(plugged(device, captures)) as it:
            change = it.until_state("live", "reconnecting")
            assert "is unplugged" in change.why
            assert first.released
            device.touch()
            it.until_state("live")
            assert it.more_frames(3)
        assert it.names == ["connecting", "live", "reconnecting", "live", "ended"]
        assert [f.index for f in it.frames] == sorted({f.index for f in it.frames})

    def test_it_stays_away_until_then(self, device: Path, monkeypatch: pytest.MonkeyPatch):
        # as on Linux, where a device that is not there is not even tried
        def check(self: WebcamSource) -> None:
            if not device.exists():
                raise SourceNotFoundError("there is no webcam")

        monkeypatch.setattr(WebcamSource, "check", check)
        with Watched(plugged(device, [Capture(device, 5), Capture(device, 10**9)])) as it:
            it.until(lambda: it.reader.state.attempt > 2)
            assert it.reader.state.state == "reconnecting", "no device is no refusal of a camera that was there"
            device.touch()
            it.until_state("live")

    def test_one_that_was_never_there_ends_the_run(self, device: Path):
        device.unlink()
        with Watched(plugged(device, [])) as it:
            it.until(lambda: it.error)
        assert it.names == ["connecting", "ended"]
        assert "cannot be opened" in str(it.error)

    def test_only_so_many_attempts(self, device: Path):
        with Watched(plugged(device, [Capture(device, 5)], reconnect_attempts=1)) as it:
            it.until(lambda: it.error)
        assert it.names == ["connecting", "live", "reconnecting", "ended"]


class TestSize:
    def test_another_size_than_the_one_asked_for_is_said(self, device: Path):
        with Watched(plugged(device, [Capture(device, 10**9)], size_px=(1280, 720))) as it:
            it.until_state("live")
        assert it.states[1].why == "1280x720 was asked for, but it gives 64x48"

    def test_the_one_asked_for_is_nothing_to_talk_of(self, device: Path):
        with Watched(plugged(device, [Capture(device, 10**9)], size_px=(64, 48))) as it:
            it.until_state("live")
        assert it.states[1].why == ""

    def test_options_reach_the_camera(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(WebcamSource, "check", lambda self: None)
        source = source_from("0", SourceOptions(webcam_size_px=(640, 480), webcam_fps=30, reconnect_attempts=4))
        assert isinstance(source, WebcamSource)
        assert (source._size_px, source._fps, source.retries.attempts) == ((640, 480), 30, 4)

    @pytest.mark.parametrize("text", ["", "1280", "1280*720", "x", "-1x5"])
    def test_a_size_must_be_one(self, text: str):
        with pytest.raises(UsageError, match="is no size in pixels; write width and height"):
            size_px_from(text)
        assert size_px_from("1280X720") == (1280, 720)


class FakeDriver:
    """Answers as a driver would: two formats, one with sizes of its own and one with steps."""

    def __init__(self, *, whole: int = 0x85200001, this: int = 0x04200001) -> None:
        self.whole, self.this = whole, this

    def __call__(self, descriptor: int, request: int, asked: bytearray) -> None:
        kind, number = chr(request >> 8 & 0xFF), request & 0xFF
        assert kind == "V"
        assert len(asked) == request >> 16 & 0x3FFF, "the size is part of the request"
        index = struct.unpack_from("=I", asked)[0]
        if number == 0:
            struct.pack_into("=II", asked, 84, self.whole, self.this)
        elif number == 2 and index < 2:
            struct.pack_into("=I", asked, 44, (b"MJPG", b"YUYV")[index][0])
        elif number == 74:
            pixel_format = struct.unpack_from("=I", asked, 4)[0]
            sizes = [(1280, 720), (640, 480)]
            if pixel_format == b"MJPG"[0] and index < 2:
                struct.pack_into("=III", asked, 8, 1, *sizes[index])
            elif pixel_format == b"YUYV"[0] and index == 0:
                struct.pack_into("=I6I", asked, 8, 3, 160, 640, 16, 120, 480, 8)
            else:
                raise OSError(22, "Invalid argument")
        else:
            raise OSError(22, "Invalid argument")


class TestCapabilities:
    def test_the_sizes_of_all_formats(self, device: Path):
        assert capabilities(device, ioctl=FakeDriver()) == Capabilities(True, ((160, 120), (640, 480), (1280, 720)))

    def test_a_device_for_metadata_gives_no_pictures(self, device: Path):
        assert capabilities(device, ioctl=FakeDriver(this=0x04A00000)) == Capabilities(False, ())

    def test_old_drivers_speak_for_the_whole(self, device: Path):
        found = capabilities(device, ioctl=FakeDriver(whole=0x04000001, this=0))
        assert found is not None
        assert found.captures

    def test_what_is_no_device_says_nothing(self, device: Path, tmp_path: Path):
        assert capabilities(device) is None
        assert capabilities(tmp_path / "nowhere") is None

    def test_listed_with_their_sizes_and_without_metadata_devices(self, tmp_path: Path, monkeypatch):
        devices = tmp_path / "dev"
        devices.mkdir()
        (devices / "video0").touch()
        (devices / "video1").touch()
        drivers = {"video0": FakeDriver(), "video1": FakeDriver(this=0x04A00000)}
        monkeypatch.setattr(webcam, "capabilities", lambda path: capabilities(path, ioctl=drivers[path.name]))
        (found,) = list_webcams(devices=devices, names=tmp_path)
        assert found.sizes_px == ((160, 120), (640, 480), (1280, 720))
        monkeypatch.setattr(spec, "list_webcams", lambda: [found])
        assert spec.list_sources()[0].description == "webcam: 160x120, 640x480, 1280x720"
