"""SIGKILL at random moments: what is there is valid, and what goes on ends as if nothing had happened."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from tests.faults.tools import MOMENTS, Tried, drawn, frames_in, two_classes, until_over, wait_at_most, whole_lines
from tests.labelling import Jobs, some_videos
from tests.small_weights import save_small_weights

OF_EACH_FORM = max(2, -(-MOMENTS // 4))
"""How many kills of ``label`` there are for each of the eight forms of its tables: together twice as many."""
ARCH = '{"name": "resann", "n": 1, "c": 8, "s": 1, "resolution_px": 16}'
"""Three exits: most of a run shall be reading, checkpoints and writing."""
AT_MOST_LOST = 60
"""Frames at the end of a recording that a kill may cost: its last two seconds."""
HEADER_BYTES = 1500
"""A recording that was killed in its first second may hold a header and nothing behind it yet."""
Check = Callable[[bool], None]
FORMS = {
    "JSON Lines, one file": "one.jsonl",
    "JSON Lines, a file each": "each-jsonl",
    "CSV, one file": "one.csv",
    "CSV, a file each": "each-csv",
    "Parquet, one file": "one.parquet",
    "Parquet, a file each": "each-parquet",
    "WebVTT, one file": "one.vtt",
    "WebVTT, a file each": "each-vtt",
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos") / "holidays"
    some_videos(folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """All files below a folder that are no journals of the job."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".manifest"
    }


def has_committed(folder: Path, times: int) -> bool:
    """Whether a job has written down so often what it need not do again."""
    lines = sum(path.read_bytes().count(b"\n") for path in folder.rglob("*.manifest"))
    return lines + len(list((folder / "checkpoints").glob("*"))) >= times


def with_kills(
    jobs: Jobs, command: list[str | Path], moments: int, whole_s: float, tried: Tried, check: Check, fresh: Path
) -> None:
    """Kill a job a few times and let it go on, until it was killed so many times; check what every kill leaves.

    Half of the kills come at any moment, half just when something has been committed.

    Args:
        jobs: What starts it.
        command: Its arguments.
        moments: How many kills.
        whole_s: How long it takes when nobody kills it.
        tried: What counts.
        check: Called after each kill, and with True at the end of each row of them.
        fresh: The folder that it writes to, which is empty before the first run of each row.
    """
    rng = drawn(tried.what)
    row: list[float] = []
    for number in itertools.count():
        assert number < 20 * moments, "it ends before it can be killed"
        if not row:
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
        begun_s = time.monotonic()
        job = jobs.start(*command)
        if tried.times < moments and len(row) < rng.randint(2, 5):
            moment_s = rng.uniform(0, whole_s)
            if rng.random() < 0.5:  # committing is soon done, and shall not be missed
                commits, moment_s = rng.randint(1, 7), rng.uniform(0, 0.03)
                until_over(job, partial(has_committed, fresh, commits))
            wait_at_most(job, moment_s)
            job.kill()
            if job.wait() == -signal.SIGKILL:
                row.append(moment_s)
                with tried.once(f"killed after {moment_s:.3f} s"):
                    check(False)
                continue
        assert job.wait() == 0, job.err()
        with tried.again(f"gone on after kills at {row}"):
            check(True)
        if not row:  # it was faster than before: the machine has less to do
            whole_s = time.monotonic() - begun_s
        row = []
        if tried.times >= moments:
            return


def undisturbed_s(jobs: Jobs, command: list[str | Path]) -> float:
    """How long a job takes, in seconds."""
    begun_s = time.monotonic()
    job = jobs.start(*command)
    assert job.wait() == 0, job.err()
    return time.monotonic() - begun_s


@pytest.mark.long
@pytest.mark.parametrize("form", FORMS)
def test_label(form: str, tiny, videos, tmp_path, jobs):
    name = FORMS[form]
    inputs = videos / "clip2.mp4" if name == "one.vtt" else videos
    out = tmp_path / "out" / name
    options = [] if name.startswith("one") else ["--format", name.removeprefix("each-")]
    command = ["label", inputs, "--out", out, "--weights", tiny, "--confidence", "0.6", "--resume", *options]
    wanted: dict[str, bytes] = {}

    def check(finished: bool) -> None:
        if finished:
            found = files(out.parent)
            assert set(found) == set(wanted), f"{sorted(found)}"
            assert found == wanted, "other bytes than without kills"
        elif out.suffix == ".jsonl":
            whole_lines(out)
        elif out.suffix == ".csv" and out.exists():
            assert out.read_bytes()[-1:] in (b"", b"\n")

    out.parent.mkdir()
    whole_s = undisturbed_s(jobs, command)
    wanted.update(files(out.parent))
    assert len(wanted) == (1 if name.startswith("one") else 3)
    with Tried(f"kill -9 during `label` ({form})", "gone on with, the same bytes as without kills") as tried:
        with_kills(jobs, command, OF_EACH_FORM, whole_s, tried, check, out.parent)


@pytest.mark.long
def test_train(tmp_path, jobs):
    data, out = two_classes(tmp_path / "flowers"), tmp_path / "trained"
    options = ["--arch", ARCH, "--epochs", "6", "--batch-size", "4", "--val-fraction", "0.25", "--no-plots"]
    command = ["train", data, "--out", out, "--device", "cpu", "--resume", *options]
    wanted: dict[str, object] = {}

    def results() -> dict[str, object]:
        history = json.loads((out / "history.json").read_text())
        card = json.loads((out / "trained.json").read_text())
        epochs = [{k: v for k, v in e.items() if k not in ("train_s", "images_per_s")} for e in history["epochs"]]
        return {"weights": (out / "trained.safetensors").read_bytes(), "epochs": epochs, "steps": card["steps"]}

    def check(finished: bool) -> None:
        if finished:
            assert results() == wanted, "another result than without kills"

    whole_s = undisturbed_s(jobs, command)
    wanted.update(results())
    with Tried("kill -9 during `train`", "gone on with, the same weights bit for bit") as tried:
        with_kills(jobs, command, MOMENTS, whole_s, tried, check, out)


@pytest.mark.parametrize("times", [2, pytest.param(MOMENTS, marks=pytest.mark.long)])
def test_live(times: int, tmp_path, jobs):
    weights = save_small_weights(tmp_path)
    rng = drawn("live")
    with Tried("kill -9 during `live` (events, recording, snapshots, clips)", "every file plays and parses") as tried:
        for number in range(times):
            folder = tmp_path / str(number)
            folder.mkdir()
            video = folder / f"v.{rng.choice(['mp4', 'mkv', 'webm'])}"
            job = jobs.start(
                *("live", "pattern:160x120@30", "--weights", weights, "--device", "cpu", "--view", "none"),
                *("--events", folder / "e.jsonl", "--record", video),
                *("--snapshot", folder / "shots", "--snapshot-gap-s", "0.1", "--snapshot-when", "confidence"),
                *("--snapshot-confidence", "0", "--snapshot-before-s", "0.3", "--snapshot-after-s", "0.3"),
            )
            moment_s = rng.uniform(0.3, 3)
            wait_at_most(job, moment_s)
            job.kill()
            assert job.wait() == -signal.SIGKILL, job.err()
            with tried.once(f"{video.suffix} killed after {moment_s:.3f} s"):
                valid(folder, video)
            shutil.rmtree(folder)


def valid(folder: Path, video: Path) -> None:
    """Every file that a killed run has left can be used, and lacks no more than the last moments."""
    lines = whole_lines(folder / "e.jsonl")
    answered = len([line for line in lines if "frame" in line])
    recorded = 0
    if video.exists() and (answered > AT_MOST_LOST or video.stat().st_size > HEADER_BYTES):
        recorded = frames_in(video)
    assert recorded >= answered - AT_MOST_LOST, (recorded, answered)
    for described in (folder / "shots").glob("*.json"):
        about = json.loads(described.read_text())
        with Image.open(folder / "shots" / about["picture"]) as picture:
            picture.load()
        clip = folder / "shots" / (about["clip"] or "none")
        if clip.exists() and clip.stat().st_size:
            frames_in(clip)
