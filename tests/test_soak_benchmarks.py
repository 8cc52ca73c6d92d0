"""What the soak judges by: slopes that tell a leak from noise, and files that account for every frame."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.flatness import BLOCKS, slope, usage
from benchmarks.soak import ALLOWED, Soak
from benchmarks.soak_files import Found, Held, check_files, held
from stream_ann.overlay import Overlay
from stream_ann.sinks import JsonlSink, RecordingSink, SnapshotOptions, SnapshotSink
from tests.sink_tools import make_result


def series(gain_per_hour: float, noise: float, *, minutes: float = 10) -> tuple[np.ndarray, np.ndarray]:
    times_s = np.linspace(0, minutes * 60, 200)
    values = 700 + gain_per_hour * times_s / 3600 + np.random.default_rng(0).normal(0, noise, len(times_s))
    return times_s, values


class TestSlope:
    def test_it_is_the_line_and_says_how_sure_it_is(self):
        found = slope(*series(120.0, 1.0))
        assert found.low < 120 < found.high
        assert abs(found.per_hour - 120) < 3 * found.error
        assert slope(*series(120.0, 4.0)).error > 2 * found.error
        assert found.first < found.last <= found.most

    def test_a_leak_is_told_from_noise(self):
        per_hour, once = ALLOWED["memory_mib"]
        assert slope(*series(0.0, 10.0)).is_flat(per_hour=per_hour, once=once)
        # a megabyte for each lost connection, some 20 a minute, even in the five minutes of which a quarter is left out
        assert not slope(*series(1200.0, 10.0, minutes=3.75)).is_flat(per_hour=per_hour, once=once)
        # and a hundredth of that in an hour
        assert not slope(*series(60.0, 10.0, minutes=45)).is_flat(per_hour=per_hour, once=once)

    def test_it_needs_enough_to_judge_by(self):
        with pytest.raises(ValueError, match="at least"):
            slope(range(2 * BLOCKS - 1), range(2 * BLOCKS - 1))


def test_the_usage_of_a_process_is_its_own():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        ours, its = usage(os.getpid()), usage(child.pid)
        assert ours.children >= 1
        assert its.children == 0
        assert its.threads == 1
        assert 0 < its.memory_mib < ours.memory_mib
        assert its.files >= 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a run of three answered frames leaves: the second one was replaced."""
    overlay = Overlay(("small", "large"))
    events = JsonlSink(tmp_path / "events.jsonl", most_mb=1e-6)  # a file for each
    recording = RecordingSink(tmp_path / "video.mp4", draw=overlay.draw)
    snapshots = SnapshotSink(SnapshotOptions(tmp_path / "snapshots", before_s=1.0, gap_s=0.0))
    for index, replaced, label in ((0, 0, "cat"), (2, 1, "dog"), (3, 0, "dog")):
        result = make_result(index=index, label=label, pts_s=index / 10, arrival_s=index / 10)
        result = replace(result, replaced_before=replaced)
        for sink in (events, recording, snapshots):
            sink.write(result)
    for sink in (events, recording, snapshots):
        sink.close()
    return tmp_path


def checked(folder: Path) -> Found:
    return check_files(folder, keep_chunks=3, most_snapshots=5)


def test_good_files_account_for_every_frame(folder: Path):
    found = checked(folder)
    assert found.problems == []
    assert (found.answered, found.replaced, found.accounted) == (3, 1, 4)
    assert found.event_files == 3
    assert (found.recordings, found.recorded, found.snapshots, found.clips) == (1, 3, 2, 1), "both share a clip"


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def _forget_a_frame(folder: Path) -> None:
    path = folder / "events.jsonl"
    event = json.loads(path.read_text())
    event["replaced_before"] = 5
    path.write_text(json.dumps(event) + "\n")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: _half(folder / "video.mp4"), "video.mp4"),
        (lambda folder: _half(folder / "events.jsonl"), "not whole"),
        (_forget_a_frame, "claims 5"),
        (lambda folder: (folder / "snapshots" / "left.tmp").write_bytes(b"x"), "left.tmp"),
        (lambda folder: [(folder / f"video-{i}.mp4").write_bytes(b"") for i in range(9)], "10 recordings"),
        (lambda folder: [path.unlink() for path in (folder / "snapshots").glob("*.json")], "0 snapshots"),
    ],
    ids=["cut recording", "cut event", "lost frame", "stray file", "kept too many", "no snapshot"],
)
def test_whatever_is_wrong_with_them_is_told(folder: Path, spoil: Callable[[Path], object], told: str):
    spoil(folder)
    assert any(told in problem for problem in checked(folder).problems)


class TestHeld:
    def test_it_is_what_recordings_and_snapshots_take(self, folder: Path):
        found = held(folder)
        assert (found.recordings, found.snapshots) == (1, 2)
        media = [path for path in folder.rglob("*.*") if path.suffix != ".jsonl"]
        assert found.mib == pytest.approx(sum(path.stat().st_size for path in media) / 2**20)
        assert found.largest_recording_mib == (folder / "video.mp4").stat().st_size / 2**20

    def test_no_more_is_allowed_than_can_be_kept(self):
        most = Held(40.0, 5, 22, 2.0, 1.5).or_more(Held(30.0, 4, 21, 1.0, 1.4))
        assert most == Held(40.0, 5, 22, 2.0, 1.5)
        assert most.beyond(keep_chunks=3, most_snapshots=20) == []
        for more in (replace(most, recordings=6), replace(most, snapshots=23), replace(most, mib=43.1)):
            assert len(more.beyond(keep_chunks=3, most_snapshots=20)) == 1
            assert len(Soak(1.0, disk=more).problems()) > len(Soak(1.0, disk=most).problems())


def test_a_frame_that_is_missing_from_the_sum_is_told(folder: Path):
    seen = Soak(1.0, exit_code=130, files=checked(folder))
    seen.said = "frames in  5  ms\nanswered  3  first\nreplaced  1\ncorrupt  0\n"
    assert any("do not add up" in problem for problem in seen.problems())
    seen.said = seen.said.replace("corrupt  0", "corrupt  1")
    assert not any("frames" in problem or "account" in problem for problem in seen.problems())
    assert any("too few samples" in problem for problem in seen.problems())
