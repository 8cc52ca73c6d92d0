"""Full disks, limits, outputs that block, viewers that vanish, clocks that jump, files that change: nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.faults.tools import ALONE, Tried, drawn, frames_in, gone, lines_in, session_of, until, whole_lines
from tests.labelling import Job, Jobs

TRAIN = ("--device", "cpu", "--arch", "resann@16", "--epochs", "3", "--batch-size", "4", "--no-plots")
TUNE = ("--device", "cpu", "--epochs", "1", "--batch-size", "4", "--no-plots")
COMMANDS = ("label", "live", "train")


class Disk:
    """A small file system of its own."""

    def __init__(self, folder: Path, size_kib: int) -> None:
        self.folder = folder
        folder.mkdir()
        self._mount(f"size={size_kib}k", "-t", "tmpfs")

    def resize(self, size_kib: int) -> None:
        self._mount(f"remount,size={size_kib}k")

    def write_protect(self) -> None:
        self._mount("remount,ro")

    def _mount(self, options: str, *kind: str) -> None:
        subprocess.run(["mount", *kind, "-o", options, "tmpfs", str(self.folder)], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[[int], Disk]]:
    """Makes a disk of so many KiB, where the system lets its user do that."""
    made: list[Disk] = []

    def make(size_kib: int) -> Disk:
        try:
            made.append(Disk(tmp_path / f"disk{len(made)}", size_kib))
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("file systems cannot be mounted here")
        return made[-1]

    yield make
    for one in made:
        subprocess.run(["umount", "-l", str(one.folder)], check=False)


def live(weights: Path, *options: str | Path, source: str = "pattern:320x240@30") -> list[str | Path]:
    return ["live", source, "--weights", weights, "--device", "cpu", "--engine", "torch", "--view", "none", *options]


def one_line(job: Job, code: int, *, says: str = "") -> None:
    """It ended with an error in one line."""
    assert code == 1, (code, job.err())
    errors = [line for line in job.err().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, job.err()
    assert "Traceback" not in job.err(), job.err()
    assert re.search(says, errors[0]), errors[0]


def interrupted(job: Job, tried: Tried) -> None:
    """It ends on Ctrl-C as it should, whatever has gone wrong before."""
    gone(job.pid, job.over, partial(job.kill, signal.SIGINT)).soon(tried, "Ctrl-C")
    assert job.wait() == 130, job.err()
    assert "Traceback" not in job.err()


@pytest.mark.long
def test_a_full_disk_under_live(small, tmp_path, jobs, disk):
    with Tried("full disk under `live`", "says so, files valid, the outputs elsewhere go on") as tried:
        for size_kib in (60, 150, 400):
            folder = disk(size_kib).folder
            other = tmp_path / f"other-{size_kib}.jsonl"
            outputs: list[str | Path] = ["--events", folder / "e.jsonl", "--record", folder / "v.mp4"]
            outputs += ["--snapshot", folder / "shots"]
            more: list[str | Path] = [
                "--snapshot-gap-s",
                "0.1",
                "--snapshot-when",
                "confidence",
                "--snapshot-confidence",
                "0",
            ]
            job = jobs.start(*live(small, *outputs, *more, "--events", other, "--no-realtime", "--max-frames", "400"))
            code = job.wait(120)
            with tried.once(f"{size_kib} KiB"):
                assert code == 1, (code, job.err())
                assert re.search("warning: cannot write .*no space left on device; free some space", job.err())
                assert "Traceback" not in job.err(), job.err()
                assert len(whole_lines(other)) == 400
                whole_lines(folder / "e.jsonl")
                if (folder / "v.mp4").exists() and (folder / "v.mp4").stat().st_size:
                    frames_in(folder / "v.mp4")
                for about in (folder / "shots").glob("*.json"):
                    assert (folder / "shots" / json.loads(about.read_text())["picture"]).stat().st_size > 0


@pytest.mark.long
@pytest.mark.parametrize("name", ["o.jsonl", "o.csv", "o.parquet", "each/"])
def test_a_full_disk_under_label(name: str, tiny, videos, tmp_path, jobs, disk):
    whole = tmp_path / "whole" / name
    whole.parent.mkdir(parents=True)
    options = ["--weights", tiny, "--resume"]
    job = jobs.start("label", videos, "--out", f"{tmp_path}/whole/{name}", *options)
    assert job.wait() == 0, job.err()
    with Tried(f"full disk under `label` ({name})", "one line; with room again, the same bytes") as tried:
        for size_kib in (4, 8, 12):
            small_disk = disk(size_kib)
            out = f"{small_disk.folder}/{name}"
            job = jobs.start("label", videos, "--out", out, *options)
            code = job.wait(120)
            with tried.once(f"{size_kib} KiB"):
                one_line(job, code, says="no space left on device")
                small_disk.resize(4000)
                job = jobs.start("label", videos, "--out", out, *options)
                assert job.wait(120) == 0, job.err()
                for path in (p for p in whole.parent.rglob("*") if p.is_file() and p.suffix != ".manifest"):
                    found = small_disk.folder / path.relative_to(whole.parent)
                    assert found.read_bytes() == path.read_bytes(), path.name


@pytest.mark.long
def test_a_full_disk_under_train(flowers, tmp_path, jobs, disk):
    whole = tmp_path / "whole"
    assert jobs.start("train", flowers, "--out", whole, *TRAIN).wait(120) == 0
    wanted = (whole / "whole.safetensors").read_bytes()
    with Tried("full disk under `train`", "one line; with room again, the same weights") as tried:
        for size_kib in (8, len(wanted) * 5 // 1024, len(wanted) * 8 // 1024):
            small_disk = disk(size_kib)
            options = ["--out", small_disk.folder / "t", "--name", "whole", "--resume", *TRAIN]
            job = jobs.start("train", flowers, *options)
            code = job.wait(120)
            with tried.once(f"{size_kib} KiB"):
                if code != 0:
                    one_line(job, code, says="(?i)no space left on device")
                small_disk.resize(20_000)
                job = jobs.start("train", flowers, *options)
                assert job.wait(120) == 0, job.err()
                assert (small_disk.folder / "t" / "whole.safetensors").read_bytes() == wanted


@pytest.mark.long
def test_a_read_only_folder(small, tiny, videos, flowers, tmp_path, jobs, disk):
    protected = disk(100)
    protected.write_protect()
    folder = protected.folder
    commands: dict[str, list[str | Path]] = {
        "live --events": live(small, "--events", folder / "e.jsonl"),
        "live --record": live(small, "--record", folder / "v.mp4"),
        "live --snapshot": live(small, "--snapshot", folder / "shots"),
        "label": ["label", videos, "--out", folder / "o.csv", "--weights", tiny],
        "label, a file each": ["label", videos, "--out", f"{folder}/each/", "--weights", tiny],
        "label --overlay": ["label", videos, "--out", tmp_path / "o.csv", "--overlay", folder / "v", "--weights", tiny],
        "label --summary-json": [
            *("label", videos, "--out", tmp_path / "p.csv", "--weights", tiny),
            *("--summary-json", folder / "s.json"),
        ],
        "train": ["train", flowers, "--out", folder / "t", *TRAIN],
        "evaluate --json": ["evaluate", tiny, flowers, "--device", "cpu", "--json", folder / "f.json"],
        "bench --out": ["bench", "demo", "--weights", small, "--out", folder / "report", "--fps", "30"],
        "weights convert": ["weights", "convert", "--out", folder / "w", "--members", "lite0@64"],
    }
    with Tried("read-only folder", "one line that says so") as tried:
        for name, command in commands.items():
            job = jobs.start(*command)
            code = job.wait(120)
            with tried.once(name):
                if name != "evaluate --json":  # those data are of other classes, which is said first
                    one_line(job, code, says="(?i)read-only")
                one_line(job, code)


NATIVE = (-signal.SIGSEGV, -signal.SIGABRT, 127)
"""How a process ends where native code asks for memory and does not get it, or with a panic of Rust's."""
MEMORY = """
import resource
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {more}, used + {more}))
"""
FILES = """
import os, resource
used = max(int(n) for n in os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (used + {more}, used + {more}))
"""


def commands_for(small, tiny, videos, flowers, folder: Path) -> dict[str, list[str | Path]]:
    outputs: list[str | Path] = ["--events", folder / "e.jsonl", "--record", folder / "v.mp4"]
    outputs += ["--snapshot", folder / "shots"]
    return {
        "live": live(small, *outputs, "--no-realtime", "--max-frames", "20"),
        "label": ["label", videos, "--out", folder / "o.parquet", "--weights", tiny],
        "train": ["train", flowers, "--out", folder / "t", *TRAIN],
    }


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("what", "limit", "amounts"),
    [
        ("file-descriptor limit", FILES, (2, 4, 6, 9, 14)),
        ("memory limit", MEMORY, (1 << 20, 20 << 20, 60 << 20, 150 << 20, 300 << 20)),
    ],
    ids=["files", "memory"],
)
def test_limits(what: str, limit: str, amounts, command: str, small, tiny, videos, flowers, tmp_path, jobs):
    with Tried(f"{what} under `{command}`", "works, or ends with one line") as tried:
        for more in amounts:
            folder = tmp_path / str(more)
            folder.mkdir()
            arguments = commands_for(small, tiny, videos, flowers, folder)[command]
            job = jobs.start(*arguments, first=ALONE + limit.format(more=more))
            code = job.wait(120)
            with tried.once(f"{more} more"):
                assert not session_of(job.pid)
                whole_lines(folder / "e.jsonl")
                video = folder / "v.mp4"
                if video.exists() and video.stat().st_size:
                    frames_in(video)
                if limit == MEMORY and (code in NATIVE or "PanicException" in job.err()):
                    # what torch, safetensors and libc end themselves may cost what a kill may, and nothing more
                    tried.native.append(f"{more} more: exit code {code}")
                    arguments += [] if command == "live" else ["--resume"]
                    job = jobs.start(*arguments)
                    assert job.wait(120) == 0, job.err()
                    continue
                told = [line for line in job.err().splitlines() if re.match("(error|warning): ", line)]
                assert code == 0 or (code == 1 and told), (code, job.err())
                assert "Traceback" not in job.err(), job.err()


OUT_OF_MEMORY = """
import torch
calls = 0
def forward(self, x, before=torch.nn.Conv2d.forward):
    global calls
    calls += 1
    if calls > {after}:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\\nGPU 0 has a total capacity ...")
    return before(self, x)
torch.nn.Conv2d.forward = forward
"""


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
def test_a_gpu_without_memory(command: str, small, tiny, videos, flowers, tmp_path, jobs):
    """What torch raises where a GPU's memory is used up, at the beginning and in the middle."""
    with Tried(f"GPU out of memory under `{command}`", "one line, files valid") as tried:
        for after in (0, 150, 400):
            folder = tmp_path / str(after)
            folder.mkdir()
            arguments = commands_for(small, tiny, videos, flowers, folder)[command]
            arguments += ["--engine", "torch"] if command == "label" else []
            job = jobs.start(*arguments, first=OUT_OF_MEMORY.format(after=after))
            code = job.wait(120)
            with tried.once(f"after {after} convolutions"):
                if code != 0 or after < 400:
                    one_line(job, code, says="memory")
                whole_lines(folder / "e.jsonl")


@pytest.mark.long
def test_a_reader_that_never_reads(small, tmp_path, jobs):
    with Tried("output that blocks for ever (pipe without or with an idle reader)", "the others go on") as tried:
        for reader in (False, True):
            folder = tmp_path / str(reader)
            folder.mkdir()
            os.mkfifo(folder / "pipe")
            held = os.open(folder / "pipe", os.O_RDONLY | os.O_NONBLOCK) if reader else None
            try:
                job = jobs.start(*live(small, "--events", folder / "pipe", "--events", folder / "e.jsonl"))
                with tried.once(f"reader: {reader}"):
                    until(lambda folder=folder: lines_in(folder / "e.jsonl") >= 300, job)
                    interrupted(job, tried)
                    assert "pipe" in job.err(), job.err()  # what it lost is said
            finally:
                if held is not None:
                    os.close(held)


@contextmanager
def viewer(port: int, path: str) -> Iterator[socket.socket]:
    """A browser that asks for a page and reads no answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        yield connection


@pytest.mark.long
def test_viewers_that_vanish_or_do_not_read(small, tmp_path, jobs):
    rng = drawn("viewers")
    job = jobs.start(*live(small, "--view", "web", "--web-port", "0", "--events", tmp_path / "e.jsonl"), first=ALONE)
    until(lambda: re.search(r"http://127\.0\.0\.1:(\d+)", job.err() + job.out()), job)
    found = re.search(r"http://127\.0\.0\.1:(\d+)", job.err() + job.out())
    assert found is not None
    port = int(found[1])
    with (
        Tried("web viewers that vanish or do not read", "every frame answered, gone in 2 s") as tried,
        contextlib.ExitStack() as stack,
    ):
        for number in range(30):
            path = rng.choice(["/", "/events", "/state", "/sources/0/stream.mjpg", "/sources/0/stream.mjpg"])
            before = lines_in(tmp_path / "e.jsonl")
            with tried.once(f"{number}: {path}"):
                if number < 6:
                    stack.enter_context(viewer(port, path))
                else:
                    with viewer(port, path) as connection:
                        time.sleep(rng.uniform(0, 0.1))
                        # reset, not closed
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                until(lambda before=before: lines_in(tmp_path / "e.jsonl") > before + 2, job)
        with tried.once("Ctrl-C beside six that do not read"):
            interrupted(job, tried)
            assert not session_of(job.pid)
            frames = [line["frame"] for line in whole_lines(tmp_path / "e.jsonl") if "frame" in line]
            assert frames == sorted(set(frames))


JUMPING = """
import itertools, time
def jumping(before=time.time, jumps=itertools.cycle([0, 3600, -86400, 5, -5, 1e8])):
    return before() + next(jumps)
time.time = jumping
import stream_ann.sinks.recording as r, stream_ann.sinks.snapshots as s
r.RecordingSink.__init__.__kwdefaults__["wall_s"] = jumping
s.SnapshotSink.__init__.__kwdefaults__["wall_s"] = jumping
"""


@pytest.mark.parametrize("frames", [60, pytest.param(600, marks=pytest.mark.long)])
def test_a_clock_that_jumps(frames: int, small, tmp_path, jobs):
    """The time of day, back and forth, at every look at it."""
    outputs = ["--events", tmp_path / "e.jsonl", "--record", tmp_path / "v.mkv", "--record-chunk-s", "1"]
    shots = ["--snapshot", tmp_path / "shots", "--snapshot-gap-s", "0", "--snapshot-after-s", "0.5"]
    job = jobs.start(*live(small, *outputs, *shots, "--no-realtime", "--max-frames", str(frames)), first=JUMPING)
    code = job.wait(120)
    with Tried("clock that jumps by hours and years", "every frame in events and recording once") as tried:
        with tried.once("live"):
            assert code == 0, job.err()
            assert [line["frame"] for line in whole_lines(tmp_path / "e.jsonl")] == list(range(frames))
            assert sum(frames_in(path) for path in tmp_path.glob("v-*.mkv")) == frames
        tried.times = frames


SLOW_DISK = """
import os, time
def slow(call):
    def wait(*args):
        time.sleep(0.25)
        return call(*args)
    return wait
os.write, os.fsync = slow(os.write), slow(os.fsync)
"""


@pytest.mark.long
def test_a_slow_disk(small, tmp_path, jobs):
    shots = ["--snapshot", tmp_path / "shots", "--snapshot-gap-s", "0.1", "--snapshot-when", "confidence"]
    job = jobs.start(
        *live(small, "--events", tmp_path / "e.jsonl", "--record", tmp_path / "v.mkv", *shots), first=SLOW_DISK
    )
    with Tried("disk that takes 0.25 s for each write", "what is dropped is counted and said; no frame waits") as tried:
        until(lambda: lines_in(tmp_path / "e.jsonl") >= 25, job)
        with tried.once("live"):
            interrupted(job, tried)
            lines = whole_lines(tmp_path / "e.jsonl")
            assert frames_in(tmp_path / "v.mkv") > 2 * len(lines), "the recording waited for the events"
            lost = re.search(r"e\.jsonl lost (\d+) frames", job.err())
            assert lost is not None, job.err()
            answered = re.search(r"answered\s+([\d,]+)", job.err())
            assert answered is not None
            assert int(lost[1]) + len(lines) == int(answered[1].replace(",", ""))


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
def test_weights_that_are_replaced_or_cut_short_while_running(
    command: str, tiny, videos, flowers, tmp_path, jobs: Jobs
):
    rng = drawn("weights", command)
    with Tried(
        f"weights replaced or cut short during `{command}`", "goes on with those it has read, or one line"
    ) as tried:
        for number in range(12):
            folder = tmp_path / str(number)
            shutil.copytree(tiny.parent, folder)
            weights = folder / "tiny.safetensors"
            arguments: list[str | Path] = {
                "live": live(folder, "--events", folder / "e.jsonl", "--no-realtime", "--max-frames", "50"),
                "label": ["label", videos, "--out", folder / "o.csv", "--weights", folder],
                "train": ["train", flowers, "--out", folder / "t", "--init", folder, *TUNE],
            }[command]
            job = jobs.start(*arguments)
            moment_s = rng.uniform(0, 1)
            time.sleep(moment_s)
            how = rng.choice(["cut short", "replaced", "overwritten"])
            if how == "cut short":
                os.truncate(weights, 100)
            elif how == "replaced":
                (folder / "new").write_bytes(b"\xff" * 5000)
                os.replace(folder / "new", weights)
            else:
                with open(weights, "r+b") as file:
                    file.write(b"\xff" * 2000)
            code = job.wait(120)
            with tried.once(f"{how} after {moment_s:.3f} s"):
                if code != 0:
                    one_line(job, code, says="weights|tensor|card")
                whole_lines(folder / "e.jsonl")
