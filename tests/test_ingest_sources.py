from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stream_ann.errors import DecodeError, SourceError, SourceNotFoundError, UnsupportedSourceError, UsageError
from stream_ann.ingest import (
    Cancellable,
    FakeSource,
    ImageSource,
    NetworkSource,
    PatternSource,
    Picture,
    Source,
    SourceOptions,
    VideoSource,
    WebcamSource,
    list_sources,
    list_webcams,
    redact,
    source_from,
)
from stream_ann.ingest.images import load_image, natural_key
from stream_ann.ingest.pattern import frame_number, pattern_image
from tests.videos import corner_names, corners, encode, numbered


def save(path: Path, image: np.ndarray | None = None, **options: Any) -> Path:
    Image.fromarray(corners((48, 32)) if image is None else image).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten numbered images, with other things between them."""
    for i, image in enumerate(numbered(11, (64, 48))):
        save(tmp_path / f"shot{i}.png", image)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._shot3.png").write_bytes(b"what a Mac leaves behind")
    (tmp_path / "more.png").mkdir()
    return tmp_path


class TestSourceFrom:
    def test_each_form_gives_its_source(self, folder: Path):
        clip = encode(folder / "clip.mp4", numbered(2))
        nameless = folder / "clip"
        nameless.write_bytes(clip.read_bytes())
        forms: dict[str | Path, tuple[type, str]] = {
            "demo": (VideoSource, "demo"),
            "pattern:": (PatternSource, "pattern:640x360@25"),
            "pattern:320x240@12.5": (PatternSource, "pattern:320x240@12.5"),
            str(clip): (VideoSource, str(clip)),
            clip: (VideoSource, str(clip)),
            str(nameless): (VideoSource, str(nameless)),
            clip.as_uri(): (VideoSource, str(clip)),
            str(folder): (ImageSource, str(folder)),
            folder: (ImageSource, str(folder)),
            f"{folder}/*[13].png": (ImageSource, f"{folder}/*[13].png"),
            str(folder / "shot1.png"): (ImageSource, str(folder / "shot1.png")),
        }
        for spec, (kind, name) in forms.items():
            source = source_from(spec)
            assert type(source) is kind, spec
            assert source.name == name
            assert source.live is False

    def test_a_path_object_is_never_taken_for_a_word(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SourceNotFoundError, match="there is no file or folder 'demo'"):
            source_from(Path("demo"))
        encode(tmp_path / "demo", numbered(1), container_format="mp4")
        assert source_from("demo").name == "demo"
        assert source_from("./demo").name == "./demo"

    def test_the_home_folder_is_found(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("HOME", str(folder))
        assert isinstance(source_from("~/shot1.png"), ImageSource)

    @pytest.mark.parametrize(
        ("wrong", "hint"),
        [
            ("shot1.pgn", "did you mean '{}/shot1.png'?"),
            ("SHOT7.PNG", "did you mean '{}/shot7.png'?"),
            ("something-else.mkv", "check the path"),
            ("nowhere/clip.mp4", "there is no folder '{}/nowhere' either"),
        ],
    )
    def test_what_is_not_there_is_said_at_once_with_what_is(self, folder: Path, wrong: str, hint: str):
        with pytest.raises(SourceNotFoundError, match="there is no file or folder") as caught:
            source_from(str(folder / wrong))
        assert str(folder / wrong) in caught.value.what
        assert caught.value.remedy == hint.format(folder)

    def test_a_mistyped_word_is_recognised(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SourceNotFoundError, match=r"'dmeo'; did you mean 'demo'\?"):
            source_from("dmeo")

    @pytest.mark.parametrize(
        ("url", "live"),
        [
            ("rtsp://cam:hunter2@host/live", True),
            ("HTTPS://host/a.m3u8?token=hunter2", True),
            ("http://host/video.mjpg", True),
            ("https://cam:hunter2@host/holiday.MP4?token=hunter2", False),
        ],
    )
    def test_urls_are_network_sources_whose_names_hold_no_secrets(self, url: str, live: bool):
        source = source_from(url)
        assert isinstance(source, NetworkSource)
        assert source.live is live
        assert "hunter2" not in source.name

    @pytest.mark.parametrize("url", ["srt://cam:hunter2@x/y", "rtsp://", "rtsp://cam:hunter2@", "http://host:99999/x"])
    def test_urls_of_other_kinds_are_refused_without_showing_passwords(self, url: str):
        with pytest.raises((UnsupportedSourceError, UsageError), match=r"cannot be read|no host and port") as caught:
            source_from(url)
        assert "hunter2" not in repr(caught.value)

    @pytest.mark.parametrize("spec", ["", "  "])
    def test_nothing_is_no_source(self, spec: str):
        with pytest.raises(UsageError, match="the source is empty"):
            source_from(spec)

    @pytest.mark.parametrize("spec", ["x" * 5000, "nul\0character"])
    def test_impossible_names_are_told_like_others(self, spec: str):
        with pytest.raises((SourceError, UsageError), match=r"cannot be read|there is no file|null character"):
            source_from(spec)

    def test_a_name_cannot_steer_the_terminal(self):
        with pytest.raises(SourceNotFoundError, match="there is no file") as caught:
            source_from("\x1b]0;title\x07red\nalert")
        assert "\x1b" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path):
    with pytest.raises(UnsupportedSourceError, match="holds no images; give one with images"):
        source_from(tmp_path)
    encode(tmp_path / "film.mp4", numbered(1))
    with pytest.raises(UnsupportedSourceError, match=r"holds no images; it holds videos: .*film\.mp4"):
        source_from(tmp_path)
    with pytest.raises(SourceNotFoundError, match=r"nothing matches '.*\*\.jpg'"):
        source_from(f"{tmp_path}/*.jpg")
    with pytest.raises(UnsupportedSourceError, match="no image matches"):
        source_from(f"{tmp_path}/*.mp4")


class TestImages:
    def test_come_in_the_order_in_which_people_count(self, folder: Path):
        source = source_from(folder, SourceOptions(image_fps=10))
        source.open()
        seen = []
        while (picture := source.read()) is not None:
            seen.append((frame_number(picture.image), picture.pts_s))
        source.close()
        assert seen == [(i, i / 10) for i in range(11)]
        source.open()
        assert source.read() is not None

    def test_natural_order(self):
        names = ["b1", "A10", "a9", "a10b", "a010", "²", "a", "10", "9"]
        assert sorted(names, key=natural_key) == ["9", "10", "a", "a9", "A10", "a010", "a10b", "b1", "²"]

    def test_globs_reach_into_folders(self, folder: Path):
        inner = folder / "more.png" / "deep"
        inner.mkdir()
        save(inner / "x.jpg")
        source = source_from(f"{folder}/**/*.jpg")
        assert isinstance(source, ImageSource)
        assert source.paths == (inner / "x.jpg",)

    def test_a_damaged_image_is_told_and_the_next_one_given(self, folder: Path):
        whole = (folder / "shot1.png").read_bytes()
        (folder / "shot1.png").write_bytes(whole[: len(whole) // 2])
        (folder / "shot2.png").write_bytes(b"")
        (folder / "shot3.png").write_bytes(b"no image at all")
        source = ImageSource(sorted(folder.glob("shot[0-5].png")), name="x")
        (folder / "shot4.png").unlink()
        source.open()
        assert source.read() is not None
        for name in ("shot1.png", "shot2.png", "shot3.png"):
            with pytest.raises(DecodeError, match=f"{name}' cannot be read: "):
                source.read()
        with pytest.raises(DecodeError, match=r"shot4\.png' any more"):
            source.read()
        last = source.read()
        assert last is not None
        assert (frame_number(last.image), last.pts_s) == (5, 5.0)
        assert source.read() is None

    def test_a_source_of_damaged_images_only_is_an_error(self, tmp_path: Path):
        path = tmp_path / "x.png"
        path.write_bytes(b"no image")
        source = source_from(path)
        source.open()
        with pytest.raises(DecodeError, match="it is no image, or is damaged"):
            source.read()
        with pytest.raises(UnsupportedSourceError, match=r"no image of '.*x\.png' can be read"):
            source.read()

    def test_exif_orientation_is_applied(self, tmp_path: Path):
        expected = {1: "rgbw", 2: "grwb", 3: "wbgr", 4: "bwrg", 5: "rbgw", 6: "brwg", 7: "wgbr", 8: "gwrb"}
        for orientation, names in expected.items():
            exif = Image.Exif()
            exif[0x0112] = orientation
            image = load_image(save(tmp_path / "turned.jpg", exif=exif, quality=95))
            assert corner_names(image) == names, orientation
            assert image.shape == ((48, 32, 3) if orientation >= 5 else (32, 48, 3))
            assert image.flags.c_contiguous

    @pytest.mark.parametrize(
        ("mode", "suffix"),
        [
            ("RGB", "png"),
            ("RGBA", "png"),
            ("P", "png"),
            ("P", "bmp"),
            ("CMYK", "jpg"),
            ("YCbCr", "jpg"),
            ("RGB", "webp"),
        ],
    )
    def test_every_colour_mode_gives_rgb(self, tmp_path: Path, mode: str, suffix: str):
        path = tmp_path / f"x.{suffix}"
        Image.fromarray(corners((48, 32))).convert(mode).save(path, quality=95)
        image = load_image(path)
        assert (image.shape, image.dtype.name, image.flags.c_contiguous) == ((32, 48, 3), "uint8", True)
        assert corner_names(image) == "rgbw"

    def test_a_palette_with_transparency(self, tmp_path: Path):
        path = tmp_path / "x.png"
        Image.fromarray(corners((48, 32))).convert("P").save(path, transparency=b"\x00\x80")
        assert corner_names(load_image(path)) == "rgbw"

    @pytest.mark.parametrize(
        ("values", "suffix"),
        [
            (np.array([[0, 128, 255]], dtype=np.uint8), "png"),
            (np.array([[0, 128 * 257, 65535]], dtype=np.uint16), "png"),
            (np.array([[0, 128 * 257, 65535]], dtype=np.uint16), "tif"),
            (np.array([[0, 128 * 257, 65535]], dtype=np.int32), "tif"),
            (np.array([[0.0, 128 / 255, 1.0]], dtype=np.float32), "tif"),
            (np.array([[0.0, 128.0, 255.0]], dtype=np.float32), "tif"),
        ],
        ids=["8", "16-png", "16-tif", "32", "float", "float255"],
    )
    def test_greyscales_of_any_depth_keep_their_brightness(self, tmp_path: Path, values: np.ndarray, suffix: str):
        path = tmp_path / f"grey.{suffix}"
        Image.fromarray(values).save(path)
        image = load_image(path)
        assert image.dtype == np.uint8
        assert image[0].tolist() == [[0, 0, 0], [128, 128, 128], [255, 255, 255]]

    def test_black_and_white(self, tmp_path: Path):
        path = tmp_path / "bits.png"
        Image.fromarray(np.array([[True, False]])).save(path)
        assert load_image(path)[0].tolist() == [[255] * 3, [0] * 3]

    def test_an_image_that_would_take_all_memory_is_damaged(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("stream_ann.ingest.source.MAX_PIXELS", 1000)
        with pytest.raises(DecodeError, match="48x32, more than 0 megapixels"):
            load_image(save(tmp_path / "x.png"))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        with pytest.raises(DecodeError, match="out of all proportion"):
            load_image(tmp_path / "x.png")

    @pytest.mark.parametrize("fps", [0, -1, float("nan"), 1001])
    def test_a_rate_must_make_sense(self, fps: float):
        with pytest.raises(UsageError, match="images a second must be above 0"):
            ImageSource(["x.png"], name="x", fps=fps)

    def test_no_images_are_no_source(self):
        with pytest.raises(UnsupportedSourceError, match="'x' holds no images"):
            ImageSource([], name="x")


class TestPattern:
    def test_is_endless_numbered_and_the_same_every_time(self):
        source = PatternSource("pattern:160x120@50")
        source.open()
        first = [source.read() for _ in range(5)]
        assert [frame_number(p.image) for p in first] == [0, 1, 2, 3, 4]
        assert [p.pts_s for p in first] == pytest.approx([0.0, 0.02, 0.04, 0.06, 0.08])
        source.close()
        source.open()
        assert (source.read().image == first[0].image).all()
        assert (first[0].image != first[1].image).any()

    @pytest.mark.parametrize("size", [(64, 32), (161, 121), (640, 360), (1920, 1080)])
    def test_numbers_can_be_read_at_any_size(self, size: tuple[int, int]):
        for number in (0, 1, 25, 0xABCDEF, 2**24 - 1):
            image = pattern_image(number, *size)
            assert (image.shape, image.dtype.name, image.flags.c_contiguous) == ((size[1], size[0], 3), "uint8", True)
            assert frame_number(image) == number
        assert frame_number(pattern_image(2**24 + 5, *size)) == 5

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ("pattern:640", "is not of the form pattern:WxH@FPS"),
            ("pattern:axb@25", "is not of the form"),
            ("pattern:640x360@", "is not of the form"),
            ("pattern:640x360@0", "the rate in .* must be above 0"),
            ("pattern:640x360@5000", "at most 1000"),
            ("pattern:8x8", "the size in .* is out of range; choose at least 64x32"),
            ("pattern:99999x99999", "out of range"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, spec: str, words: str):
        with pytest.raises(UsageError, match=words):
            source_from(spec)


class FakeCapture:
    """What OpenCV would give for a webcam: frames, and None for a failed read."""

    def __init__(self, frames: list[Any], *, opened: bool = True) -> None:
        self.frames = frames
        self.opened = opened
        self.released = 0
        self.settings: dict[int, float] = {}

    def isOpened(self) -> bool:
        return self.opened

    def read(self) -> tuple[bool, Any]:
        frame = self.frames.pop(0) if self.frames else None
        return frame is not None, frame

    def set(self, propId: int, value: float) -> bool:
        self.settings[propId] = value
        return True

    def release(self) -> None:
        self.released += 1


def webcam(capture: FakeCapture, **options: Any) -> WebcamSource:
    return WebcamSource(0, open_capture=lambda number: capture, **options)


class TestWebcam:
    def test_gives_rgb_without_times_and_asks_for_no_queue(self):
        bgr = np.ascontiguousarray(corners((48, 32))[..., ::-1])
        capture = FakeCapture([None, bgr, bgr[..., 0], bgr[..., :1]])
        source = webcam(capture, size_px=(1280, 720), fps=60)
        assert source.live
        source.open()
        picture = source.read()
        assert picture is not None
        assert corner_names(picture.image) == "rgbw"
        assert picture.pts_s is None
        for _ in range(2):
            grey = source.read()
            assert grey is not None
            assert grey.image.shape == (32, 48, 3)
            assert grey.image.flags.c_contiguous
        import cv2

        assert capture.settings == {
            cv2.CAP_PROP_BUFFERSIZE: 1,
            cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*"MJPG"),
            cv2.CAP_PROP_FRAME_WIDTH: 1280,
            cv2.CAP_PROP_FRAME_HEIGHT: 720,
            cv2.CAP_PROP_FPS: 60,
        }
        source.close()
        source.close()
        assert capture.released == 1

    def test_silence_is_an_error_after_a_while(self):
        source = webcam(FakeCapture([]), timeout_s=0.05)
        source.open()
        with pytest.raises(SourceError, match=r"gave no frame for 0\.05 s; check that it is still plugged in"):
            source.read()
        source.close()

    def test_waiting_can_be_cancelled(self):
        source = webcam(FakeCapture([]), timeout_s=60.0)
        source.open()
        assert isinstance(source, Cancellable)
        threading.Timer(0.05, source.cancel).start()
        begun_s = time.monotonic()
        assert source.read() is None
        assert time.monotonic() - begun_s < 10

    def test_a_strange_frame_is_damaged(self):
        source = webcam(FakeCapture([np.zeros((4, 4), dtype=np.uint16)]))
        source.open()
        with pytest.raises(DecodeError, match=r"gave a frame of uint16 \[4, 4\]"):
            source.read()

    def test_one_that_is_in_use_is_released_and_told(self):
        capture = FakeCapture([], opened=False)
        source = webcam(capture)
        with pytest.raises(SourceError, match="cannot be opened"):
            source.open()
        assert capture.released == 1
        with pytest.raises(SourceError, match="is not open"):
            source.read()

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux says without opening them which are there")
    @pytest.mark.parametrize("spec", ["97", "/dev/video97"])
    def test_one_that_is_not_there_is_told_at_once(self, spec: str, capfd: pytest.CaptureFixture[str]):
        with pytest.raises(SourceNotFoundError, match=r"there is no webcam '/dev/video97'; (none is|there is: /dev)"):
            source_from(spec)
        with pytest.raises(SourceNotFoundError, match="there is no webcam '/dev/video97'"):
            WebcamSource(spec).open()
        assert capfd.readouterr() == ("", "")

    def test_opencv_does_not_write_to_the_terminal(self, tmp_path: Path):
        # for real: OpenCV is made to look for a device that is not there
        code = (
            "from stream_ann.ingest import webcam, WebcamSource\n"
            "from stream_ann.errors import SourceError\n"
            "webcam._LINUX, webcam.list_webcams = False, list\n"
            "try: WebcamSource(97).open()\n"
            "except SourceError as e: print(e)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.strip() == "the webcam 'webcam 97' cannot be opened; none is plugged in here"
        assert done.stderr == ""

    def test_a_device_must_be_one(self):
        with pytest.raises(SourceNotFoundError, match="'camera' is no webcam; give its number"):
            WebcamSource("camera")

    def test_those_that_are_here_are_listed_by_number_and_name(self, tmp_path: Path):
        devices, names = tmp_path / "dev", tmp_path / "names"
        devices.mkdir()
        for number in (10, 2):
            (devices / f"video{number}").touch()
        (devices / "videocodec").touch()
        (names / "video2").mkdir(parents=True)
        (names / "video2" / "name").write_text("HD Webcam: HD Webcam\n")
        found = list_webcams(devices=devices, names=names)
        assert [(Path(w.spec).name, w.description) for w in found] == [
            ("video2", "HD Webcam: HD Webcam"),
            ("video10", "webcam"),
        ]
        assert list_webcams(devices=tmp_path / "nowhere") == []


def test_every_form_of_source_is_listed():
    listed = list_sources()
    specs = [entry.spec for entry in listed]
    for form in ("demo", "FILE", "FOLDER", "pattern:WxH@FPS"):
        assert form in specs
    assert len(specs) == len(set(specs))
    json.dumps([asdict(entry) for entry in listed])


URLS = [
    ("rtsp://cam:secret@10.0.0.7:554/live", "rtsp://cam:***@10.0.0.7:554/live"),
    ("rtsp://cam:se@cr/et?#x@host/live", "rtsp://cam:***@host/live"),
    ("rtsp://cam:secret:more@host", "rtsp://cam:***@host"),
    ("rtsp://cam:@host", "rtsp://cam:***@host"),
    ("rtsp://:secret@host", "rtsp://:***@host"),
    ("https://secret@host/x", "https://***@host/x"),
    ("rtsp://us/er:secret@host", "rtsp://***@host"),
    ("http://host:8080/a.mjpg", "http://host:8080/a.mjpg"),
    ("http://host/picture@2x.mjpg", "http://host/picture@2x.mjpg"),
    ("http://host/x?user=me&password=secret&w=1", "http://host/x?user=me&password=***&w=1"),
    ("http://host/x?TOKEN=secret#here", "http://host/x?TOKEN=***#here"),
    ("rtsp://host/user=admin&pwd=secret&channel=1", "rtsp://host/user=admin&pwd=***&channel=1"),
    ("http://host/x?api_key=secret&access_token=secret", "http://host/x?api_key=***&access_token=***"),
    ("holiday.mp4", "holiday.mp4"),
    ("a:secret@b", "a:secret@b"),
]


@pytest.mark.parametrize(("url", "shown"), URLS)
def test_secrets_in_urls_are_redacted(url: str, shown: str):
    assert redact(url) == shown
    assert redact(shown) == shown


class TestFakeSource:
    def test_plays_its_script(self):
        image = corners((8, 8))
        source = FakeSource([image, DecodeError("scratched"), Picture(image, 2.0)], name="script")
        source.open()
        assert source.read() == (image, None, False)
        with pytest.raises(DecodeError, match="scratched"):
            source.read()
        picture = source.read()
        assert picture is not None
        assert picture.pts_s == 2.0
        assert source.read() is None
        source.close()
        assert (source.opened, source.closed) == (1, 1)

    def test_a_gap_can_be_cancelled(self):
        source = FakeSource([corners((8, 8))], gaps_s=[60.0])
        source.cancel()
        assert source.read() is None


def test_everything_is_a_source(folder: Path):
    sources: list[Source] = [source_from("demo"), source_from(folder), source_from("pattern:"), FakeSource([])]
    sources += [webcam(FakeCapture([corners((8, 8))]))]
    for source in sources:
        assert isinstance(source.name, str)
        source.open()
        source.read()
        source.close()
        source.close()


def test_ingest_does_without_torch():
    code = "import sys, stream_ann.ingest; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={**os.environ})
