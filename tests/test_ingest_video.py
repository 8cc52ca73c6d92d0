from __future__ import annotations

import io
import itertools
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import pytest

from stream_ann.errors import DecodeError, SourceError, SourceNotFoundError, UnsupportedSourceError
from stream_ann.ingest import Picture, VideoSource, video
from stream_ann.ingest.libav import decoding, opening
from stream_ann.ingest.pattern import frame_number
from stream_ann.ingest.pictures import upright
from tests.videos import UNIT, corner_names, corners, cut_short, damage, encode, numbered, sound


def read_all(source: VideoSource) -> tuple[list[Picture], int]:
    """All pictures of a file that is whole, and how many were damaged."""
    pictures, damaged, error = read_to_the_end(source)
    if error is not None:
        raise error
    return pictures, damaged


def read_to_the_end(source: VideoSource) -> tuple[list[Picture], int, SourceError | None]:
    """All pictures, how many were damaged, and what ended it."""
    pictures: list[Picture] = []
    damaged = 0
    try:
        source.open()
        while True:
            try:
                picture = source.read()
            except DecodeError:
                damaged += 1
                continue
            if picture is None:
                assert source.read() is None  # the end stays the end
                return pictures, damaged, None
            pictures.append(picture)
    except SourceError as error:
        if pictures:
            assert source.read() is None  # it is told once
        return pictures, damaged, error
    finally:
        source.close()


CONTAINERS = ("mp4", "mp4-fragments", "mkv", "webm", "avi", "ts", "flv")


def contained(folder: Path, kind: str, *, pts_ms: list[int] | None = None) -> Path:
    """The pictures 0 to 49 in a container, key frames among them."""
    suffix, _, fragments = kind.partition("-")
    codec = {"webm": "libvpx", "avi": "mjpeg"}.get(suffix, "libx264")
    options = {"g": "10", **({"deadline": "realtime", "cpu-used": "8"} if codec == "libvpx" else {})}
    movflags = "frag_keyframe+empty_moov" if fragments else "faststart"
    return encode(
        folder / f"whole.{suffix}",
        numbered(50),
        codec=codec,
        pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p",
        options={} if codec == "mjpeg" else options,
        container_options={"movflags": movflags} if suffix == "mp4" else {},
        pts_ms=pts_ms,
    )


class Unseekable:
    """A file that can only be written on, as a pipe is."""

    def __init__(self, file: io.BytesIO) -> None:
        self.write = file.write


def numbers(pictures: list[Picture]) -> list[int]:
    return [frame_number(p.image) for p in pictures]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return encode(tmp_path_factory.mktemp("clip") / "clip.mp4", numbered(50), options={"g": "10"})


class TestReading:
    def test_gives_every_frame_in_order_with_its_time(self, clip: Path):
        source = VideoSource(clip)
        assert (source.name, source.live) == (str(clip), False)
        pictures, damaged = read_all(source)
        assert numbers(pictures) == list(range(50))
        assert [p.pts_s for p in pictures] == pytest.approx([i / 25 for i in range(50)])
        assert damaged == 0
        for image, _, suspect in pictures:
            assert not suspect
            assert (image.shape, image.dtype.name) == ((120, 160, 3), "uint8")
            assert image.flags.c_contiguous

    def test_can_be_opened_again_and_closed_at_any_time(self, clip: Path):
        source = VideoSource(clip)
        source.close()
        with pytest.raises(SourceError, match="is not open"):
            source.read()
        source.open()
        assert source.read() is not None
        assert numbers(read_all(source)[0]) == list(range(50))
        source.close()

    def test_a_variable_rate_keeps_its_true_times_and_its_first_offset(self, tmp_path: Path):
        pts_ms = [200, 240, 440, 1000, 1010, 1500]
        path = encode(tmp_path / "vfr.mkv", numbered(6), pts_ms=pts_ms)
        pictures, _ = read_all(VideoSource(path))
        assert [p.pts_s for p in pictures] == pytest.approx([t / 1000 for t in pts_ms], abs=1e-3)

    def test_a_stream_without_times_gets_those_of_its_nominal_rate(self, tmp_path: Path):
        path = encode(tmp_path / "raw.h264", numbered(6), fps=25)
        pictures, _ = read_all(VideoSource(path))
        assert [p.pts_s for p in pictures] == pytest.approx([i / 25 for i in range(6)])

    def test_the_size_may_change_midway(self, tmp_path: Path):
        small = encode(tmp_path / "small.h264", numbered(4, (96, 64)))
        large = encode(tmp_path / "large.h264", numbered(4, (160, 120), first=4))
        both = tmp_path / "both.h264"
        both.write_bytes(small.read_bytes() + large.read_bytes())
        pictures, damaged = read_all(VideoSource(both))
        assert [p.image.shape for p in pictures] == [(64, 96, 3)] * 4 + [(120, 160, 3)] * 4
        assert numbers(pictures) == list(range(8))
        assert damaged == 0

    @pytest.mark.parametrize("name", ["a:b.mp4", "%03d #?.mp4", "-", "naïve clip.mp4", os.fsdecode(b"\xff\xfe.mp4")])
    def test_any_file_name_will_do(self, clip: Path, tmp_path: Path, name: str):
        path = tmp_path / name
        path.write_bytes(clip.read_bytes())
        source = VideoSource(path)
        assert len(read_all(source)[0]) == 50
        assert source.name.encode() == source.name.encode("utf-8", "replace")


FORMATS = [
    ("libx264", "yuv420p", "mp4"),
    ("libx264", "yuvj420p", "mp4"),
    ("libx264", "yuv444p", "mp4"),
    ("libx264", "yuv420p10le", "mp4"),
    ("libx264rgb", "rgb24", "mp4"),
    ("rawvideo", "nv12", "nut"),
    ("ffv1", "yuva420p", "matroska"),
    ("ffv1", "gbrp10le", "matroska"),
    ("png", "rgba", "mov"),
    ("prores_ks", "yuva444p10le", "mov"),
    ("gif", "rgb8", "gif"),
]


class TestPixels:
    @pytest.mark.parametrize(("codec", "pix_fmt", "container"), FORMATS, ids=[f"{c}-{p}" for c, p, _ in FORMATS])
    def test_every_pixel_format_gives_rgb(self, tmp_path: Path, codec: str, pix_fmt: str, container: str):
        # 4:2:0 in H.264 has no odd sizes; everywhere else an odd size must not shear the picture
        size = (160, 120) if codec == "libx264" and "420" in pix_fmt else (161, 121)
        image = corners(size)
        path = encode(tmp_path / "v", [image] * 3, codec=codec, pix_fmt=pix_fmt, container_format=container)
        pictures, _ = read_all(VideoSource(path))
        assert len(pictures) == 3
        got = pictures[1].image
        assert (got.shape, got.flags.c_contiguous) == (image.shape, True)
        assert corner_names(got) == "rgbw"
        assert np.abs(got.astype(int) - image).mean() < 6

    @pytest.mark.parametrize("pix_fmt", ["gray", "gray16le"])
    def test_greyscale_gives_equal_channels(self, tmp_path: Path, pix_fmt: str):
        ramp = np.repeat(np.linspace(0, 255, 161).astype(np.uint8)[None, :, None], 121, axis=0).repeat(3, axis=2)
        path = encode(tmp_path / "grey.mkv", [ramp] * 2, codec="ffv1", pix_fmt=pix_fmt)
        image = read_all(VideoSource(path))[0][0].image
        assert (image[..., 0] == image[..., 1]).all()
        assert np.abs(image.astype(int) - ramp).max() <= 3

    def test_the_colours_are_those_that_opencv_sees(self, clip: Path):
        capture = cv2.VideoCapture(str(clip))
        there, theirs = capture.read()
        capture.release()
        assert there
        ours = read_all(VideoSource(clip))[0][0].image
        assert np.abs(ours.astype(int) - theirs[..., ::-1]).mean() < 1.5

    def test_a_picture_that_would_take_all_memory_is_refused(self, clip: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("stream_ann.ingest.source.MAX_PIXELS", 1000)
        with pytest.raises(UnsupportedSourceError, match="160x120, more than 0 megapixels; scale it down"):
            VideoSource(clip).open()

    def test_a_picture_that_grows_too_large_midway_is_damaged(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        small = encode(tmp_path / "small.h264", numbered(4, (96, 64)))
        large = encode(tmp_path / "large.h264", numbered(4, (160, 120)))
        both = tmp_path / "both.h264"
        both.write_bytes(small.read_bytes() + large.read_bytes())
        for module in ("source", "decoder"):
            monkeypatch.setattr(f"stream_ann.ingest.{module}.MAX_PIXELS", 10_000)
        pictures, damaged = read_all(VideoSource(both))
        assert {p.image.shape for p in pictures} == {(64, 96, 3)}
        assert damaged >= 1


MATRICES = {
    # what the display matrix does to a picture whose quarters are r g / b w
    "upright": ((1, 0, 0, 1), "rgbw"),
    "quarter-clockwise": ((0, 1, -1, 0), "brwg"),
    "half": ((-1, 0, 0, -1), "wbgr"),
    "quarter-anticlockwise": ((0, -1, 1, 0), "gwrb"),
    "mirrored": ((-1, 0, 0, 1), "grwb"),
    "upside-down": ((1, 0, 0, -1), "bwrg"),
    "transposed": ((0, 1, 1, 0), "rbgw"),
    "transverse": ((0, -1, -1, 0), "wgbr"),
}


class TestRotation:
    @pytest.mark.parametrize("name", MATRICES)
    def test_the_picture_is_upright(self, tmp_path: Path, name: str):
        (a, b, c, d), expected = MATRICES[name]
        matrix = (a * UNIT, b * UNIT, 0, c * UNIT, d * UNIT, 0, 0, 0, 1 << 30)
        path = encode(tmp_path / "turned.mp4", [corners()] * 2, display_matrix=matrix)
        image = read_all(VideoSource(path))[0][0].image
        assert corner_names(image) == expected
        assert image.shape == ((160, 120, 3) if a == 0 else (120, 160, 3))
        assert image.flags.c_contiguous
        if "quarter" in name or name in ("upright", "half"):  # OpenCV turns, but never mirrors
            capture = cv2.VideoCapture(str(path))
            _, theirs = capture.read()
            capture.release()
            assert theirs.shape == image.shape
            assert np.abs(image.astype(int) - theirs[..., ::-1]).mean() < 1.5

    def test_angles_in_between_and_empty_matrices_are_left_alone(self):
        image = corners()
        slanted = np.array([[46341, 46341, 0], [-46341, 46341, 0], [0, 0, 1 << 30]], dtype=np.int32)
        assert (upright(image, slanted) == image).all()
        assert (upright(image, np.zeros((3, 3), dtype=np.int32)) == image).all()
        assert (upright(image, None) == image).all()


class TestDamage:
    @pytest.mark.parametrize(
        ("codec", "suffix", "options"),
        [
            ("libx264", "mp4", {"g": "10"}),
            ("libx264", "mkv", {"g": "10", "bf": "0"}),
            ("libx265", "mp4", {"g": "10", "x265-params": "log-level=none"}),
            ("libvpx-vp9", "webm", {"g": "10", "cpu-used": "8", "deadline": "realtime"}),
            ("mjpeg", "avi", {}),
        ],
    )
    @pytest.mark.parametrize("packets", [(10, 11, 25), (0,), (48,), (46, 47, 48, 49), (7, 33)])
    def test_every_frame_is_given_or_counted_as_damaged(
        self, tmp_path: Path, codec: str, suffix: str, options: dict[str, str], packets: tuple[int, ...]
    ):
        pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        whole = encode(tmp_path / f"whole.{suffix}", numbered(50), codec=codec, pix_fmt=pix_fmt, options=options)
        pictures, damaged = read_all(VideoSource(damage(whole, tmp_path / f"damaged.{suffix}", packets)))
        assert damaged >= 1
        assert len(pictures) + damaged == 50
        times = [p.pts_s for p in pictures]
        assert len(set(times)) == len(times)
        # before the first key frame that may be affected, each picture is what was there at its time
        clean = min(packets) // 10 * 10 - 5
        for image, pts_s, _ in pictures:
            if pts_s is not None and pts_s * 25 < clean:
                assert abs(frame_number(image) - pts_s * 25) < 1.5

    def test_good_frames_beside_a_damaged_one_at_the_end_are_kept(self, clip: Path, tmp_path: Path):
        # decoders that work on several frames at a time drop them all
        pictures, damaged = read_all(VideoSource(damage(clip, tmp_path / "d.mp4", [49])))
        assert (len(pictures), damaged) == (49, 1)

    @pytest.mark.parametrize("kind", CONTAINERS)
    @pytest.mark.parametrize("part", [0.61, 0.97])
    def test_a_truncated_file_gives_what_it_has_and_says_so(self, tmp_path: Path, kind: str, part: float):
        cut = cut_short(contained(tmp_path, kind), tmp_path / f"cut.{kind.partition('-')[0]}", part)
        with av.open(str(cut)) as container:
            packets = sum(p.size > 0 for p in container.demux(video=0))
        pictures, damaged, error = read_to_the_end(VideoSource(cut))
        assert numbers(pictures) == sorted(set(numbers(pictures)))
        assert numbers(pictures)[:15] == list(range(15))
        assert len(pictures) + damaged == packets
        told = rf"cut.{kind.partition('-')[0]}' is cut short.*; check that it was copied completely"
        assert re.search(told, str(error))
        if kind == "mp4":
            assert f"{50 - packets + 1} of its 50 frames are not in it" in str(error)

    @pytest.mark.parametrize("kind", CONTAINERS)
    def test_frames_that_a_hole_has_swallowed_are_told_of(self, tmp_path: Path, kind: str):
        whole = contained(tmp_path, kind)
        data = bytearray(whole.read_bytes())
        begin, end = int(len(data) * 0.45), int(len(data) * 0.6)
        data[begin:end] = bytes(end - begin)
        holed = tmp_path / f"holed.{kind.partition('-')[0]}"
        holed.write_bytes(data)
        pictures, damaged, error = read_to_the_end(VideoSource(holed))
        assert numbers(pictures)[:15] == list(range(15))
        assert len(pictures) < 50
        assert error is not None or len(pictures) + damaged == 50
        if kind not in ("mp4", "mp4-fragments"):  # there every frame's place is known
            assert re.search(r"is damaged: .*missing", str(error))

    @pytest.mark.parametrize("kind", CONTAINERS)
    @pytest.mark.parametrize("steady", [True, False])
    def test_a_whole_file_has_an_honest_end(self, tmp_path: Path, kind: str, steady: bool):
        times = None if steady else list(itertools.accumulate([40, 40, 200, 80, 1000] * 10))
        whole = contained(tmp_path, kind, pts_ms=times)
        assert len(read_all(VideoSource(whole))[0]) == 50

    @pytest.mark.parametrize("suffix", ["mkv", "avi"])
    def test_a_recording_whose_length_was_never_filled_in_is_whole(self, tmp_path: Path, suffix: str):
        """What is written to a pipe, or by a program that died, does not say how long it is."""
        whole = contained(tmp_path, suffix)
        sent = io.BytesIO()
        with (
            av.open(str(whole)) as source,
            av.open(Unseekable(sent), "w", "matroska" if suffix == "mkv" else "avi") as to,
        ):
            stream = to.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    to.mux(packet)
        live = tmp_path / f"live.{suffix}"
        live.write_bytes(sent.getvalue())
        assert len(read_all(VideoSource(live))[0]) == 50
        assert "is cut short" in str(read_to_the_end(VideoSource(cut_short(whole, tmp_path / "c", 0.95)))[2])

    @pytest.mark.tool("ffmpeg")
    def test_frames_outside_an_edit_list_are_not_missed(self, tmp_path: Path):
        whole = encode(tmp_path / "w.mp4", numbered(50), options={"g": "10"})
        begun = tmp_path / "begun.mp4"
        command = ["ffmpeg", "-v", "error", "-ss", "0.5", "-i", str(whole), "-t", "1", "-c", "copy", str(begun)]
        subprocess.run(command, check=True)
        assert 20 <= len(read_all(VideoSource(begun))[0]) < 35

    def test_a_container_that_cannot_be_read_any_further_is_given_up(self, clip: Path):
        # no file was found that makes a demuxer fail again and again, so one is played here
        source: Any = VideoSource(clip)
        source.open()
        decoder = source._decoder

        def failing(*_: object) -> Iterator[None]:
            raise av.error.InvalidDataError(1094995529, "broken")
            yield

        source._decoder = SimpleNamespace(stream=decoder.stream, demux=failing, packets=failing(), close=decoder.close)
        for _ in range(video.MAX_READ_ERRORS):
            with pytest.raises(DecodeError, match="holds data that cannot be read"):
                source.read()
        with pytest.raises(SourceError, match=r"cannot be read any further; check that it is complete"):
            source.read()
        source.close()


class TestRefusals:
    def refused(self, path: Path, kind: type[SourceError], words: str) -> None:
        source = VideoSource(path)
        with pytest.raises(kind, match=words) as caught:
            read_all(source)
        assert caught.type is kind
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        source.close()

    def test_what_is_no_video(self, tmp_path: Path):
        self.refused(tmp_path / "nowhere.mp4", SourceNotFoundError, "there is no file")
        self.refused(tmp_path, UnsupportedSourceError, "is not a file")
        empty = tmp_path / "empty.mp4"
        empty.touch()
        self.refused(empty, UnsupportedSourceError, r"is empty \(0 bytes\)")
        noise = tmp_path / "noise.mp4"
        noise.write_bytes(np.random.default_rng(0).bytes(5000))
        self.refused(noise, UnsupportedSourceError, "is no video, or is cut short or damaged")
        text = tmp_path / "notes.txt"
        text.write_text("not a film\n" * 100)
        self.refused(text, UnsupportedSourceError, "is text, not a video|holds no video|is no video")

    def test_a_pipe_is_not_waited_on(self, tmp_path: Path):
        pipe = tmp_path / "pipe.mp4"
        os.mkfifo(pipe)
        self.refused(pipe, UnsupportedSourceError, "is not a file")

    def test_an_mp4_without_its_index(self, clip: Path, tmp_path: Path):
        self.refused(cut_short(clip, tmp_path / "cut.mp4", 0.5), UnsupportedSourceError, "is cut short or damaged")

    def test_sound_only(self, tmp_path: Path):
        self.refused(sound(tmp_path / "song.m4a"), UnsupportedSourceError, "holds sound only, no picture")
        self.refused(sound(tmp_path / "cover.mp3", cover=True), UnsupportedSourceError, "holds sound only, no picture")

    def test_an_encrypted_file(self, tmp_path: Path):
        options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "1" * 32, "encryption_kid": "2" * 32}
        path = encode(tmp_path / "locked.mp4", numbered(5), container_options=options)
        self.refused(path, UnsupportedSourceError, "is encrypted; decrypt it first")

    def test_a_file_of_which_nothing_can_be_decoded(self, tmp_path: Path):
        whole = encode(tmp_path / "w.mp4", numbered(5), options={"g": "300"})
        bad = damage(whole, tmp_path / "bad.mp4", range(5))
        self.refused(bad, UnsupportedSourceError, "no frame of .* can be decoded")

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
    def test_a_file_that_may_not_be_read(self, clip: Path, tmp_path: Path):
        path = tmp_path / "secret.mp4"
        path.write_bytes(clip.read_bytes())
        path.chmod(0)
        self.refused(path, SourceError, "there is no permission to read")


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (av.error.FileNotFoundError(2, "No such file", "x"), SourceNotFoundError, "there is no file 'x.mp4'"),
        (av.error.PermissionError(13, "Permission denied", "x"), SourceError, "no permission to read 'x.mp4'"),
        (av.error.IsADirectoryError(21, "Is a directory", "x"), UnsupportedSourceError, "is a folder"),
        (av.error.DecoderNotFoundError(1, "x"), UnsupportedSourceError, "cannot decode"),
        (av.error.DemuxerNotFoundError(1, "x"), UnsupportedSourceError, "cannot read"),
        (av.error.MemoryError(12, "x"), SourceError, "not enough memory"),
        (av.error.OSError(5, "Input/output error", "secret"), SourceError, "cannot be read: Input/output error"),
        (av.error.ExternalError(99999, "odd", "secret"), SourceError, "cannot be read: ExternalError"),
        (OSError(5, "Input/output error"), SourceError, "cannot be read: Input/output error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_errors_of_libav_are_told_in_our_words(error: Exception, kind: type[SourceError], words: str):
    with pytest.raises(kind, match=words) as caught, opening("x.mp4"):
        raise error
    assert caught.type is kind
    assert "secret" not in str(caught.value)


def test_errors_while_decoding_are_damage():
    with pytest.raises(DecodeError, match=r"'x\.mp4' holds data that cannot be decoded"), decoding("x.mp4"):
        raise av.error.InvalidDataError(1094995529, "x")
    with pytest.raises(SourceError, match="not enough memory") as caught, decoding("x.mp4"):
        raise av.error.MemoryError(12, "x")
    assert not isinstance(caught.value, DecodeError)
