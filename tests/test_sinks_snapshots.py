"""Snapshots: which moments are kept, what belongs to each, and that clips play and show the right seconds."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from stream_ann.errors import OutputError, UsageError
from stream_ann.frames import FrameResult
from stream_ann.ingest.pattern import frame_number
from stream_ann.ingest.video import VideoSource
from stream_ann.packets import CodedPacket
from stream_ann.sinks.packets import MOST_BYTES, PacketRing
from stream_ann.sinks.snapshots import SnapshotOptions, SnapshotSink
from stream_ann.states import StateChange
from tests.sink_tools import make_result
from tests.videos import encode, numbered

NOON_S = 1767323045.678


def a_result(label: str, at_s: float, confidence: float = 0.9, *, source: str = "cam", image=None) -> FrameResult:
    result = make_result(image, label=label, pts_s=at_s, arrival_s=100 + at_s, confidence=confidence)
    return replace(result, frame=replace(result.frame, source=source))


def sink_for(folder: Path, rings=None, **options) -> SnapshotSink:
    wall = itertools.count()
    return SnapshotSink(SnapshotOptions(folder, **options), rings, wall_s=lambda: NOON_S + next(wall))


def labels(folder: Path) -> list[str]:
    return [json.loads(path.read_text())["label"] for path in sorted(folder.glob("*.json"))]


def run(sink: SnapshotSink, moments: Sequence[tuple[str, float, float]]) -> None:
    for label, at_s, confidence in moments:
        sink.write(a_result(label, at_s, confidence))
    sink.close()


def test_a_snapshot_is_a_picture_and_what_was_found_out_about_it(tmp_path):
    image = np.zeros((48, 64, 3), np.uint8)
    image[..., 0] = 250
    sink = sink_for(tmp_path / "new" / "folder")
    sink.write(a_result("Egyptian cat", 1.0, source="rtsp://cam:***@door/1", image=image))
    sink.close()
    names = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    stem = "20260102T030405.678Z-rtsp-cam-door-1-egyptian-cat"
    assert names == [f"{stem}.jpg", f"{stem}.json"]
    picture = cv2.imread(str(tmp_path / "new" / "folder" / f"{stem}.jpg"))
    assert picture.shape == (48, 64, 3)
    assert picture[..., 2].mean() > 240
    event = json.loads((tmp_path / "new" / "folder" / f"{stem}.json").read_text())
    assert event["label"] == "Egyptian cat"
    assert event["picture"] == f"{stem}.jpg"
    assert event["clip"] is None
    assert event["time"] == "20260102T030405.678Z"
    assert event["exits"]


def test_png_keeps_every_pixel(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8)
    sink = sink_for(tmp_path, format="png")
    sink.write(a_result("a", 0.0, image=image))
    (path,) = tmp_path.glob("*.png")
    assert np.array_equal(cv2.imread(str(path))[..., ::-1], image)


class TestWhen:
    def test_at_a_change_of_the_label(self, tmp_path):
        run(sink_for(tmp_path), [("a", 0, 0.1), ("a", 2, 0.9), ("b", 4, 0.2), ("b", 6, 0.2), ("a", 8, 0.3)])
        assert labels(tmp_path) == ["a", "b", "a"]

    def test_at_a_change_between_answers_that_are_sure(self, tmp_path):
        moments = [("a", 0, 0.9), ("b", 2, 0.3), ("a", 4, 0.9), ("b", 6, 0.3), ("b", 8, 0.8)]
        run(sink_for(tmp_path, confidence=0.7), moments)
        assert labels(tmp_path) == ["a", "b"]

    def test_when_the_answer_comes_to_be_sure(self, tmp_path):
        moments = [("a", 0, 0.3), ("a", 2, 0.8), ("a", 4, 0.9), ("a", 6, 0.2), ("a", 8, 0.8), ("b", 10, 0.8)]
        run(sink_for(tmp_path, when="confidence", confidence=0.7), moments)
        assert labels(tmp_path) == ["a", "a", "b"]

    def test_not_more_often_than_the_gap_and_what_lasts_is_not_lost(self, tmp_path):
        moments = [("a", 0, 0.9), ("b", 0.2, 0.9), ("a", 0.4, 0.9), ("b", 0.6, 0.9), ("b", 1.2, 0.9), ("b", 1.4, 0.9)]
        run(sink_for(tmp_path, gap_s=1.0), moments)
        assert labels(tmp_path) == ["a", "b"]

    def test_each_source_by_itself(self, tmp_path):
        sink = sink_for(tmp_path)
        for at_s in (0.0, 2.0):
            sink.write(a_result("a", at_s, source="left"))
            sink.write(a_result("b", at_s, source="right"))
        assert sink.taken == 2

    def test_an_answer_without_a_number_is_never_sure(self, tmp_path):
        run(sink_for(tmp_path, when="confidence"), [("a", 0, float("nan"))])
        assert labels(tmp_path) == []


class TestLimit:
    def test_the_oldest_are_deleted_with_all_that_belongs_to_them(self, tmp_path):
        (tmp_path / "holiday.jpg").write_bytes(b"mine")
        (tmp_path / "notes.json").write_text("{}")
        run(sink_for(tmp_path, most=3), [(name, 2.0 * i, 0.9) for i, name in enumerate("abcd")])
        sink = sink_for(tmp_path, most=3)  # an earlier run's count, too
        sink._wall_s = lambda: NOON_S + 100
        run(sink, [("e", 0, 0.9)])
        assert sorted(p.stem.split("-")[-1] for p in tmp_path.glob("2026*.json")) == ["c", "d", "e"]
        assert sorted(p.stem.split("-")[-1] for p in tmp_path.glob("2026*.jpg")) == ["c", "d", "e"]
        assert sink.deleted == 1
        assert (tmp_path / "holiday.jpg").exists()
        assert (tmp_path / "notes.json").exists()


class TestClips:
    FPS = 10

    @pytest.fixture(params=["libx264", "mjpeg"])
    def video(self, request, tmp_path) -> Path:
        """Ten seconds of numbered pictures, a key frame each second."""
        pix_fmt = "yuvj420p" if request.param == "mjpeg" else "yuv420p"
        options = {} if request.param == "mjpeg" else {"g": "10", "keyint_min": "10", "sc_threshold": "0", "crf": "12"}
        path = tmp_path / "video.mkv"
        return encode(path, numbered(100), codec=request.param, pix_fmt=pix_fmt, fps=self.FPS, options=options)

    def play(self, video: Path, folder: Path, changes: dict[int, str], **options) -> list[dict[str, Any]]:
        """Take snapshots of a file, whose label changes at the frames given, and give their events."""
        source = VideoSource(video, name="cam")
        ring = PacketRing(options.get("before_s", 0.0))
        source.packet_tap = ring.add
        sink = sink_for(folder, {"cam": ring}, **options)
        source.open()
        label = "none"
        index = 0
        while (picture := source.read()) is not None:
            label = changes.get(index, label)
            sink.write(a_result(label, picture.pts_s or 0.0, image=picture.image))
            index += 1
        sink.close()
        source.close()
        return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]

    def numbers(self, path: Path) -> list[int]:
        source = VideoSource(path)
        source.open()
        found = []
        while (picture := source.read()) is not None:
            found.append(frame_number(picture.image))
        source.close()
        return found

    def test_a_clip_holds_the_seconds_before_and_after(self, video, tmp_path):
        folder = tmp_path / "snapshots"
        _, event = self.play(video, folder, {55: "cat"}, before_s=2.0, after_s=1.5, gap_s=0)
        assert event["label"] == "cat"
        numbers = self.numbers(folder / event["clip"])
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert 30 <= numbers[0] <= 35  # from the key frame before it on, of which there is one each second
        assert 68 <= numbers[-1] <= 70

    def test_moments_near_each_other_share_a_clip(self, video, tmp_path):
        folder = tmp_path / "snapshots"
        events = self.play(video, folder, {30: "cat", 38: "dog", 46: "cow"}, before_s=1, after_s=1, gap_s=0)[1:]
        assert len({event["clip"] for event in events}) == 1
        assert self.numbers(folder / events[0]["clip"])[-1] >= 54
        assert len(list(folder.glob("*.mp4")) + list(folder.glob("*.mkv"))) == 2

    def test_a_shared_clip_stays_as_long_as_one_of_its_moments(self, video, tmp_path):
        folder = tmp_path / "snapshots"
        changes = {30: "cat", 38: "dog", 46: "cow"}
        events = self.play(video, folder, changes, before_s=1, after_s=1, gap_s=0, most=2)
        assert [event["label"] for event in events] == ["dog", "cow"]
        (clip,) = {event["clip"] for event in events}
        assert self.numbers(folder / clip)
        sink = sink_for(folder, most=1)  # a later run, of which only the folder tells
        sink._wall_s = lambda: NOON_S + 100
        run(sink, [("bee", 0, 0.9)])
        assert sorted(path.suffix for path in folder.iterdir()) == [".jpg", ".json"]

    def test_what_a_file_says_deletes_nothing_else(self, tmp_path):
        mine = tmp_path / "mine.mp4"
        mine.write_bytes(b"mine")
        folder = tmp_path / "snapshots"
        folder.mkdir()
        for number, clip in enumerate(("../mine.mp4", str(mine), 7, None, ["a"])):
            (folder / f"20200101T00000{number}.000Z-a-b.json").write_text(json.dumps({"clip": clip}))
        (folder / "20200101T000009.000Z-a-b.json").write_text("[")
        run(sink_for(folder, most=1), [("a", 0, 0.9)])
        assert mine.exists()
        assert len(list(folder.glob("*.json"))) == 1

    def test_a_clip_ends_with_its_source(self, video, tmp_path):
        folder = tmp_path / "snapshots"
        event = self.play(video, folder, {95: "cat"}, before_s=1, after_s=60, gap_s=0)[1]
        assert self.numbers(folder / event["clip"])[-1] >= 98

    def test_h264_goes_into_mp4_and_nothing_is_encoded_again(self, tmp_path):
        video = encode(tmp_path / "v.mkv", numbered(40), fps=10, options={"g": "10", "sc_threshold": "0"})
        folder = tmp_path / "snapshots"
        event = self.play(video, folder, {20: "cat"}, before_s=0.5, after_s=0.5, gap_s=0)[1]
        assert event["clip"].endswith(".mp4")
        with av.open(str(video)) as container:
            original = {bytes(p) for p in container.demux(video=0) if p.size}
        with av.open(str(folder / event["clip"])) as container:
            copied = [bytes(p) for p in container.demux(video=0) if p.size]
        assert copied
        assert set(copied) <= original

    def test_before_the_first_key_frame_there_is_none(self, video, tmp_path):
        ring = PacketRing(1.0)
        sink = sink_for(tmp_path / "snapshots", {"cam": ring}, before_s=1.0, after_s=0.5)
        source = VideoSource(video, name="cam")
        source.open()
        picture = source.read()
        assert picture is not None
        for _ in range(25):
            source.read()
        source.packet_tap = ring.add  # too late for the first second
        while source.read() is not None:
            pass
        source.close()
        sink.write(a_result("cat", 0.0, image=picture.image))
        sink.close()
        (path,) = (tmp_path / "snapshots").glob("*.json")
        assert json.loads(path.read_text())["clip"] is None
        assert len(list((tmp_path / "snapshots").iterdir())) == 2

    def test_packets_of_a_lost_connection_are_in_it(self, tmp_path):
        class Overtaken(PacketRing):
            """Right after it has been asked, the camera is connected anew."""

            def since(self, time_s: float, *, own_time: bool):
                found = super().since(time_s, own_time=own_time)
                self.add(replace(found[-1][1], template=b"another", key=True))
                return found

        video = encode(tmp_path / "v.mkv", numbered(40), fps=10, options={"g": "40", "bf": "0", "crf": "12"})
        ring = Overtaken(1.0)
        source = VideoSource(video, name="cam")
        source.packet_tap = ring.add
        source.open()
        pictures = [picture for _ in range(20) if (picture := source.read()) is not None]
        sink = sink_for(tmp_path / "snapshots", {"cam": ring}, before_s=1.0, after_s=0.5)
        sink.write(a_result("cat", 1.9, image=pictures[19].image))
        sink.close()
        source.close()
        (path,) = (tmp_path / "snapshots").glob("*.json")
        assert self.numbers(tmp_path / "snapshots" / json.loads(path.read_text())["clip"])[:20] == list(range(20))

    def test_without_packets_it_is_made_of_the_frames(self, tmp_path):
        sink = sink_for(tmp_path, before_s=1.0, after_s=0.5, gap_s=0)
        for i, image in enumerate(numbered(40)):
            label = "cat" if i >= 20 else "none"
            sink.write(a_result(label, i / 10, image=image))
        sink.close()
        event = json.loads(max(tmp_path.glob("*-cat.json")).read_text())
        assert self.numbers(tmp_path / event["clip"]) == list(range(10, 26))

    def test_a_lost_camera_ends_it(self, tmp_path):
        sink = sink_for(tmp_path, before_s=1.0, after_s=60)
        for i, image in enumerate(numbered(5)):
            sink.write(a_result("cat", i / 10, image=image))
        sink.write_state(StateChange("cam", "reconnecting", 0.0))
        sink.write_state(StateChange("other", "reconnecting", 0.0))
        (clip,) = tmp_path.glob("*.mkv")
        assert self.numbers(clip) == [0, 1, 2, 3, 4]
        for i, image in enumerate(numbered(5, first=50)):
            sink.write(a_result("cat", 9 + i / 10, image=image))
        sink.close()
        assert self.numbers(clip) == [0, 1, 2, 3, 4]


class TestRing:
    def packet(self, at_s: float, *, key: bool, size: int = 10, template: bytes = b"t") -> CodedPacket:
        from fractions import Fraction

        return CodedPacket(b"x" * size, template, 0, 0, 0, Fraction(1, 1000), key, at_s, at_s)

    def times(self, ring: PacketRing, since_s: float = -1e9) -> list[float | None]:
        return [packet.pts_s for _, packet in ring.since(since_s, own_time=True)]

    def test_it_begins_with_a_key_frame_and_forgets_whole_groups(self):
        ring = PacketRing(2.0)
        for i in range(3, 200):
            ring.add(self.packet(i / 10, key=i % 10 == 0))
        times = self.times(ring)
        assert times[0] == 13.0  # the last key frame that is at least 2 s and a margin of 4 s old
        assert times[-1] == 19.9
        assert self.times(ring, 17.35)[0] == 17.0

    def test_memory_is_bounded_whatever_comes(self):
        ring = PacketRing(60.0)
        for i in range(100):
            ring.add(self.packet(i / 25, key=i % 5 == 0, size=2**20))
        assert sum(len(p.data) for _, p in ring.since(-1, own_time=True)) <= MOST_BYTES
        for i in range(100):
            ring.add(self.packet(4 + i / 25, key=False, size=2**20))  # no key frame ever again
        assert sum(len(p.data) for _, p in ring.since(-1, own_time=True)) <= MOST_BYTES

    def test_another_connection_begins_anew(self):
        ring = PacketRing(60.0)
        first, second = b"one" * 9, b"two" * 9
        for i in range(5):
            ring.add(self.packet(i, key=i == 0, template=first))
        ring.add(self.packet(9, key=False, template=second))
        assert self.times(ring) == []
        ring.add(self.packet(10, key=True, template=second))
        assert self.times(ring) == [10]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"when": "chnge"}, "did you mean 'change'"),
        ({"confidence": 1.5}, "must be 0 to 1, got 1.5"),
        ({"before_s": 61}, "0 to 60 s before"),
        ({"after_s": -1}, "0 to 120 s after"),
        ({"gap_s": -1}, "0 s or more"),
        ({"most": 0}, "at least 1 snapshot"),
        ({"format": "gif"}, "stored as 'gif'"),
    ],
)
def test_options_that_make_no_sense_are_named(options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        SnapshotOptions(tmp_path, **options)


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        sink_for(tmp_path / "file")
