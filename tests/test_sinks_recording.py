"""Recordings of several sources and in chunks: which files there are, and that each one plays."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from stream_ann.errors import OutputError, UsageError
from stream_ann.frames import FrameResult
from stream_ann.sinks.names import slug, stamp
from stream_ann.sinks.recording import RecordingSink
from tests.sink_tools import make_result, start_script

NOON_S = 1767323045.678


def results(count: int, source: str = "test", *, fps: float = 10, first_s: float = 0.0) -> list[FrameResult]:
    made = []
    for i in range(count):
        image = np.full((48, 64, 3), i * 9 % 256, np.uint8)
        result = make_result(image, index=i, pts_s=first_s + i / fps, arrival_s=100 + i / fps)
        made.append(replace(result, frame=replace(result.frame, source=source)))
    return made


def recorder(path: Path, **options) -> RecordingSink:
    wall = itertools.count()
    return RecordingSink(path, draw=lambda r: r.frame.image, wall_s=lambda: NOON_S + next(wall), **options)


def frames_in(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_source_goes_to_the_path_given(tmp_path):
    sink = recorder(tmp_path / "out.mp4")
    for result in results(5):
        sink.write(result)
    sink.close()
    assert names(tmp_path) == ["out.mp4"]
    assert frames_in(tmp_path / "out.mp4") == 5
    assert sink.files == [tmp_path / "out.mp4"]


def test_several_sources_have_a_file_each(tmp_path):
    sink = recorder(tmp_path / "out.mkv", several=True)
    sources = ("rtsp://cam:***@10.0.0.7/stream", "Front Door", "front/door", "前門")
    for result in itertools.chain(*zip(*(results(3, source) for source in sources), strict=True)):
        sink.write(result)
    sink.close()
    assert names(tmp_path) == [
        "out-front-door-2.mkv",
        "out-front-door.mkv",
        "out-rtsp-cam-10-0-0-7-stream.mkv",
        "out-前門.mkv",
    ]
    assert {frames_in(path) for path in tmp_path.iterdir()} == {3}


def test_chunks_by_time_hold_every_frame_once(tmp_path):
    sink = recorder(tmp_path / "out.mp4", chunk_s=1.0)
    for result in results(25):
        sink.write(result)
    sink.close()
    assert names(tmp_path) == [
        "out-20260102T030405.678Z-0001.mp4",
        "out-20260102T030406.678Z-0002.mp4",
        "out-20260102T030407.678Z-0003.mp4",
    ]
    assert [frames_in(path) for path in sink.files] == [10, 10, 5]


def test_chunks_begin_anew_where_the_times_do(tmp_path):
    sink = recorder(tmp_path / "out.mp4", chunk_s=60)
    for result in [*results(4, first_s=500), *results(4)]:
        sink.write(result)
    sink.close()
    assert [frames_in(path) for path in sink.files] == [4, 4]


def test_chunks_by_size(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (80, 120, 160, 3)).astype(np.uint8)
    sink = recorder(tmp_path / "out.mkv", chunk_mb=0.2)
    for result, image in zip(results(80), noise, strict=True):
        sink.write(replace(result, frame=replace(result.frame, image=image)))
    sink.close()
    sizes = [path.stat().st_size for path in sink.files]
    assert len(sizes) > 2
    assert all(0.2e6 < size < 0.6e6 for size in sizes[:-1])
    assert sum(frames_in(path) for path in sink.files) == 80


def test_only_the_newest_chunks_are_kept(tmp_path):
    sink = recorder(tmp_path / "out.mkv", chunk_s=1.0, keep=2)
    for result in results(55):
        sink.write(result)
    sink.close()
    assert [path.name[-8:-4] for path in sink.files] == ["0004", "0005", "0006"]
    assert names(tmp_path) == sorted(path.name for path in sink.files)


def test_names_of_old_chunks_are_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr("stream_ann.sinks.recording.MOST_REMEMBERED", 2)
    sink = recorder(tmp_path / "all.mkv", chunk_s=1.0)
    few = recorder(tmp_path / "few.mkv", chunk_s=1.0, keep=3)
    for result in results(55):
        sink.write(result)
        few.write(result)
    sink.close()
    few.close()
    assert [path.name[-8:-4] for path in sink.files] == ["0005", "0006"]
    assert len(list(tmp_path.glob("all-*.mkv"))) == 6
    assert len(list(tmp_path.glob("few-*.mkv"))) == 4
    assert not sink._finished, "nothing is remembered of what nobody deletes"


SCRIPT = """
import sys, time
import numpy as np
from stream_ann.sinks.recording import RecordingSink
from tests.test_sinks_recording import results
sink = RecordingSink(sys.argv[1], draw=lambda r: r.frame.image, chunk_s=2.0)
for i, result in enumerate(results(35)):
    sink.write(result)
print("there", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_every_chunk_plays_after_a_kill(ending, tmp_path):
    process = start_script(SCRIPT, str(tmp_path / f"out.{ending}"))
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
    finally:
        process.kill()
        process.communicate()
    counts = [frames_in(path) for path in sorted(tmp_path.iterdir())]
    assert counts[0] == 20
    assert 8 <= counts[1] <= 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_s": 0.5}, "at least 1 s, got 0.5"),
        ({"chunk_s": float("nan")}, "at least 1 s, got nan"),
        ({"chunk_mb": 0}, "more than 0 MB, got 0"),
        ({"chunk_s": 5, "keep": 0}, "at least 1 chunk"),
        ({"keep": 3}, "needs chunks"),
    ],
)
def test_limits_that_make_no_sense_are_named(options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        recorder(tmp_path / "out.mp4", **options)


def test_a_folder_that_is_not_there_is_found_out_early(tmp_path):
    with pytest.raises(OutputError, match="there is no folder"):
        recorder(tmp_path / "no" / "out.mp4", chunk_s=5)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Egyptian cat", "egyptian-cat"),
        ("../../etc/passwd", "etc-passwd"),
        ("Café  crème", "cafe-creme"),
        ("***", "x"),
        ("", "x"),
        ("a" * 99, "a" * 40),
        ("CON:", "con"),
        ("a_b\n\x00c", "a-b-c"),
    ],
)
def test_names_of_files_hold_nothing_that_could_lead_elsewhere(text, name):
    assert slug(text) == name


def test_times_in_names_sort(monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    assert stamp(NOON_S) == "20260102T030405.678Z"
    assert sorted([stamp(NOON_S + 1), stamp(NOON_S)]) == [stamp(NOON_S), stamp(NOON_S + 1)]
    monkeypatch.undo()
    time.tzset()
