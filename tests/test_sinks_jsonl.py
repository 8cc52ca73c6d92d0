"""JSON Lines: strict, whole lines only, and nothing of an earlier run lost."""

from __future__ import annotations

import io
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from stream_ann.errors import OutputError, UsageError
from stream_ann.sinks import JsonlSink
from stream_ann.sinks.files import check_writable, keep_previous
from tests.sink_tools import make_result, start_script

FULL = Path("/dev/full")
NOON_S = 1767323044.678
"""2026-01-02 03:04:04.678 UTC."""
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


def strict(line: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"not JSON: {constant}")

    event: dict[str, Any] = json.loads(line, parse_constant=refuse)
    return event


def test_each_result_is_one_line_and_there_at_once(tmp_path):
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(path)
    for i in range(3):
        result = make_result(index=i, label="Löwe\n“日本”")
        sink.write(result)
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) == i + 1
        assert strict(lines[-1]) == result.as_event()
    assert "Löwe" in lines[0]
    sink.close()
    sink.close()
    with pytest.raises(OutputError, match="closed already"):
        sink.write(make_result())
    assert len(path.read_bytes().splitlines()) == 3


def test_what_json_cannot_say_becomes_null(tmp_path):
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(path)
    sink.write(make_result(confidence=float("nan"), budget_ms=float("inf"), top=[("broken \udc80", float("nan"))]))
    sink.close()
    event = strict(path.read_text(encoding="utf-8"))
    assert event["confidence"] is None
    assert event["budget_ms"] is None
    assert event["top"] == [["broken \udc80", None]]


def test_an_earlier_file_is_kept_beside_the_new_one(tmp_path):
    path, previous = tmp_path / "events.jsonl", tmp_path / "events.previous.jsonl"
    for run in range(3):
        before = path.read_bytes() if path.exists() else None
        sink = JsonlSink(path)
        assert (path.read_bytes() if path.exists() else None) == before, "nothing changes before the first result"
        sink.write(make_result(index=run))
        sink.close()
        assert strict(path.read_text())["frame"] == run
        assert sink.previous == (previous if run else None)
        if run:
            assert strict(previous.read_text())["frame"] == run - 1


def test_events_of_a_run_without_end_are_cut_and_only_the_newest_files_are_kept(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text("old\n")
    wall = itertools.count()
    line = len(json.dumps(make_result(index=10).as_event(), ensure_ascii=False).encode()) + 1
    sink = JsonlSink(path, most_mb=4.5 * line / 1e6, keep=2, wall_s=lambda: NOON_S + next(wall))
    for i in range(10, 28):
        sink.write(make_result(index=i))
    sink.close()
    cut = [
        f"events-20260102T03040{second}.678Z-000{number}.jsonl" for second, number in ((6, 3), (7, 4))
    ]  # the first two are gone
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*cut, "events.jsonl", "events.previous.jsonl"])
    assert (tmp_path / "events.previous.jsonl").read_text() == "old\n"
    found = [[strict(text)["frame"] for text in (tmp_path / name).read_text().splitlines()] for name in cut]
    assert found == [[18, 19, 20, 21], [22, 23, 24, 25]]
    assert [strict(text)["frame"] for text in path.read_text().splitlines()] == [26, 27]


def test_every_file_of_events_is_kept_where_nobody_says_how_many(tmp_path):
    sink = JsonlSink(tmp_path / "events.jsonl", most_mb=1e-6)  # a line is never cut, however long it is
    for i in range(5):
        sink.write(make_result(index=i))
    sink.close()
    files = [*sorted(tmp_path.glob("events-*.jsonl")), tmp_path / "events.jsonl"]
    assert [strict(file.read_text())["frame"] for file in files] == list(range(5))


@pytest.mark.parametrize("options", [{"most_mb": 0.0}, {"most_mb": 1.0, "keep": 0}, {"keep": 3}])
def test_limits_of_events_that_make_no_sense_are_refused(tmp_path, options):
    with pytest.raises(UsageError, match="events"):
        JsonlSink(tmp_path / "events.jsonl", **options)


def test_a_run_without_results_changes_nothing(tmp_path):
    path = tmp_path / "events.jsonl"
    JsonlSink(path).close()
    assert list(tmp_path.iterdir()) == []
    path.write_text("old\n")
    JsonlSink(path).close()
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_paths_fail_at_once_with_a_remedy(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(OutputError, match=r"there is no folder '.*nowhere'; create it: mkdir -p"):
        JsonlSink(tmp_path / "nowhere" / "events.jsonl")
    with pytest.raises(OutputError, match="it is a folder; name a file inside it"):
        JsonlSink(tmp_path)
    with pytest.raises(OutputError, match="is not a folder"):
        JsonlSink(file / "events.jsonl")
    with pytest.raises(OutputError, match="file name too long; choose a shorter name"):
        JsonlSink(tmp_path / ("x" * 300 + ".jsonl"))


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs a folder that nobody can write to")
def test_a_folder_that_cannot_be_written_is_found_out_by_trying():
    with pytest.raises(OutputError, match=r"cannot write '/proc/events\.jsonl'"):
        check_writable(Path("/proc/events.jsonl"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everything")
def test_a_read_only_file_is_respected(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text("old\n")
    path.chmod(0o444)
    with pytest.raises(OutputError, match="permission denied"):
        JsonlSink(path)


@needs_full
def test_a_full_disk_is_named():
    sink = JsonlSink(FULL)
    with pytest.raises(OutputError, match="no space left on device; free some space"):
        sink.write(make_result())
    sink.close()
    assert keep_previous(FULL) is None


CROWDED = """
import resource, sys
from stream_ann.errors import OutputError, UsageError
from stream_ann.sinks import JsonlSink
from tests.sink_tools import make_result
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
sink = JsonlSink(sys.argv[1])
for i in range(100):
    try:
        sink.write(make_result(index=i))
    except OutputError as error:
        print(i, error)
        break
sink.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on file sizes")
def test_a_disk_that_fills_up_midway_leaves_whole_lines_only(tmp_path):
    path = tmp_path / "events.jsonl"
    out, err = start_script(CROWDED, str(path)).communicate(timeout=60)
    written, message = out.split(maxsplit=1)
    assert "file too large" in message, err
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == int(written) > 5
    assert all(line.endswith("\n") for line in lines)
    assert [strict(line)["frame"] for line in lines] == list(range(len(lines)))


def test_a_dash_is_standard_output(capfd):
    sink = JsonlSink("-")
    assert sink.name == "standard output"
    print("before", flush=False)
    sink.write(make_result(index=7, label="日本"))
    sink.close()
    print("after", flush=True)
    before, line, after = capfd.readouterr().out.splitlines()
    assert (before, strict(line)["frame"], after) == ("before", 7, "after")


def test_standard_output_may_be_anything_that_can_be_written_to(monkeypatch):
    replaced = io.StringIO()
    monkeypatch.setattr(sys, "stdout", replaced)
    sink = JsonlSink("-")
    sink.write(make_result(index=1))
    sink.close()
    assert strict(replaced.getvalue())["frame"] == 1
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputError, match="standard output: it is closed"):
        JsonlSink("-")


PIPED = """
import sys
from stream_ann.errors import OutputError, UsageError
from stream_ann.sinks import JsonlSink
from tests.sink_tools import make_result
print("before")  # kept back in the buffer of a pipe
sink = JsonlSink("-")
try:
    for i in range(100_000):
        sink.write(make_result(index=i))
except OutputError as error:
    print(error, file=sys.stderr)
sink.close()
"""


def test_a_reader_that_goes_away_ends_quietly():
    process = start_script(PIPED)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "before\n"
    assert strict(process.stdout.readline())["frame"] == 0
    process.stdout.close()
    message = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert message == "standard output was closed by its reader; keep the reader running\n"
