"""SIGINT and SIGTERM in every command and every state: gone within two seconds, exit code 130, files valid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from benchmarks.camera import AccessUnit, Faults, RtspCamera, encode_pattern
from tests.faults.tools import (
    ALONE,
    Tried,
    drawn,
    frames_in,
    gone,
    lines_in,
    session_of,
    silent_server,
    two_classes,
    until,
    whole_lines,
)
from tests.labelling import Job
from tests.sink_tools import ROOT
from tests.small_weights import save_small_distilled, save_small_eann, save_small_weights

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SLOW_STEP = """
import time
from stream_ann.engines.torch_engine import TorchEngine
def run(self, step, *, lane=0, before=TorchEngine.run):
    time.sleep({seconds})
    return before(self, step, lane=lane)
TorchEngine.run = run
"""
SLOW_BATCHES = """
import time
from stream_ann.engines.batch import TorchBatchEngine
def run(self, step, batch, before=TorchBatchEngine.run):
    time.sleep({seconds})
    return before(self, step, batch)
TorchBatchEngine.run = run
"""
SLOW_TRAINING = """
import time
from stream_ann.training.stepper import Stepper
def backward(self, *args, before=Stepper.backward, **kwargs):
    time.sleep({seconds})
    return before(self, *args, **kwargs)
Stepper.backward = backward
"""


@dataclass
class State:
    """What a command is doing when the signal comes, and how that is brought about."""

    command: list[str | Path]
    ready: Callable[[Job], object] = lambda job: False
    first: str = ""
    wait_s: float = 0.3
    """How long to wait once it is ready."""
    check: Callable[[], object] = lambda: None
    stack: ExitStack = field(default_factory=ExitStack)


@pytest.fixture(scope="module")
def units() -> list[AccessUnit]:
    return encode_pattern(size_px=(160, 120), frames=50)


class States:
    """Every state, by its name: a method makes it in a folder."""

    def __init__(self, folder: Path, units, small, tiny, videos, flowers) -> None:
        self.folder, self.units, self.small, self.tiny = folder, units, small, tiny
        self.videos, self.flowers = videos, flowers
        self.events, self.video, self.pipe = folder / "e.jsonl", folder / "v.mp4", folder / "pipe"
        self.live: list[str | Path] = [
            "live",
            "--weights",
            small,
            "--device",
            "cpu",
            "--engine",
            "torch",
            "--view",
            "none",
        ]
        self.files: list[str | Path] = ["--events", self.events, "--record", self.video, "--snapshot", folder / "shots"]

    def lines(self, count: int) -> Callable[[Job], bool]:
        return lambda job: lines_in(self.events) >= count

    def valid(self) -> None:
        events = [line for line in whole_lines(self.events) if "frame" in line]
        if self.video.exists():
            assert frames_in(self.video) == len(events)

    def camera(self, faults: Faults) -> tuple[str, ExitStack]:
        stack = ExitStack()
        return stack.enter_context(RtspCamera(self.units, faults=faults)).url, stack

    def fifo(self, *, reader: bool) -> ExitStack:
        """A pipe, which somebody holds open and does not read, or nobody."""
        os.mkfifo(self.pipe)
        stack = ExitStack()
        if reader:
            stack.callback(os.close, os.open(self.pipe, os.O_RDONLY | os.O_NONBLOCK))
        return stack

    def live_connecting(self) -> State:
        stack = ExitStack()
        port, taken = stack.enter_context(silent_server())
        timeouts = ["--connect-timeout-s", "60", "--read-timeout-s", "60"]
        return State([*self.live, f"rtsp://127.0.0.1:{port}/live", *timeouts], lambda job: taken, stack=stack)

    def live_connecting_over_http(self) -> State:
        stack = ExitStack()
        port, taken = stack.enter_context(silent_server())
        timeouts = ["--connect-timeout-s", "60", "--read-timeout-s", "60"]
        return State([*self.live, f"http://127.0.0.1:{port}/live", *timeouts], lambda job: taken, stack=stack)

    def live_stalled(self) -> State:
        url, stack = self.camera(Faults(stall_after=15))
        command = [*self.live, url, *self.files, "--connect-timeout-s", "60", "--read-timeout-s", "60"]
        return State(command, self.lines(10), wait_s=1.5, check=self.valid, stack=stack)

    def live_reconnecting(self) -> State:
        url, stack = self.camera(Faults(close_after=10))
        stalled = lambda job: self.events.exists() and '"reconnecting"' in self.events.read_text()  # noqa: E731
        return State([*self.live, url, *self.files], stalled, check=self.valid, stack=stack)

    def live_writing(self) -> State:
        clips = ["--snapshot-gap-s", "0", "--snapshot-before-s", "1", "--snapshot-after-s", "1"]
        return State([*self.live, "pattern:320x240@60", *self.files, *clips], self.lines(20), check=self.valid)

    def live_in_a_slow_step(self) -> State:
        first = SLOW_STEP.format(seconds=0.1)
        return State([*self.live, "pattern:160x120@30", *self.files], self.lines(1), first, check=self.valid)

    def live_in_a_step_of_a_minute(self) -> State:
        first = SLOW_STEP.format(seconds="60 if lane == 0 and self.__dict__.setdefault('begun', 0) else 0")
        first += "TorchEngine.start = lambda self, *a, before=TorchEngine.start, **k: (before(self, *a, **k), "
        first += "self.__dict__.__setitem__('begun', self.__dict__.get('begun', 0) + (len(open(marker).read()) > 0)))\n"
        # the first frames are answered, and one that comes later never is
        first = f"marker = {str(self.events)!r}\nopen(marker, 'a').close()\n" + first
        return State([*self.live, "pattern:160x120@30", *self.files], self.lines(1), first, wait_s=1.0)

    def live_to_a_pipe_that_is_full(self) -> State:
        stack = self.fifo(reader=True)
        command = [*self.live, "pattern:320x240@60", "--events", self.pipe, *self.files]
        return State(command, self.lines(60), wait_s=3, check=lambda: whole_lines(self.events), stack=stack)

    def live_to_a_pipe_without_a_reader(self) -> State:
        stack = self.fifo(reader=False)
        command = [*self.live, "pattern:320x240@30", "--events", self.pipe, *self.files]
        return State(command, self.lines(20), check=lambda: whole_lines(self.events), stack=stack)

    def live_web(self) -> State:
        web = ["--view", "web", "--web-port", "0", "--metrics-port", "0"]
        return State([*self.live, "pattern:160x120@30", *web, *self.files], self.lines(10), check=self.valid)

    def label_working(self) -> State:
        out = self.folder / "o.jsonl"
        command = ["label", self.videos, "--out", out, "--weights", self.tiny, "--engine", "torch", "--workers", "1"]
        first = SLOW_BATCHES.format(seconds=0.05)
        work = out.with_name("o.jsonl.manifest")
        return State(command, lambda job: work.exists(), first, check=lambda: whole_lines(out))

    def label_in_a_step_of_a_minute(self) -> State:
        out = self.folder / "o.jsonl"
        command = ["label", self.videos, "--out", out, "--weights", self.tiny, "--engine", "torch"]
        first = SLOW_BATCHES.format(seconds=60)
        work = out.with_name("o.jsonl.manifest")
        return State(command, lambda job: work.exists(), first, wait_s=1.0, check=lambda: whole_lines(out))

    def label_to_a_pipe_that_is_full(self) -> State:
        stack = self.fifo(reader=True)
        first = f"import sys; sys.stdout = open({str(self.pipe)!r}, 'w')\n"
        ready = lambda job: True  # noqa: E731
        command = ["label", self.videos, "--out", "-", "--weights", self.tiny, "--top-k", "4"]
        return State(command, ready, first + _LONG_LINES, wait_s=4, stack=stack)

    def label_drawing_videos(self) -> State:
        out, drawn_to = self.folder / "o.jsonl", self.folder / "drawn"
        command = ["label", self.videos, "--out", out, "--overlay", drawn_to, "--weights", self.tiny]
        first = SLOW_BATCHES.format(seconds=0.05)
        whole = lambda: all(frames_in(path) for path in drawn_to.glob("[!.]*.mp4"))  # noqa: E731
        return State([*command, "--engine", "torch"], lambda job: drawn_to.exists(), first, check=whole)

    def label_waiting_for_a_list(self) -> State:
        first = "import os\nreads, writes = os.pipe()\nos.dup2(reads, 0)\n"
        command = ["label", "-", "--out", self.folder / "o.jsonl", "--weights", self.tiny]
        return State(command, lambda job: True, first, wait_s=1.0)

    def train_iterating(self) -> State:
        return self._train(SLOW_TRAINING.format(seconds=0.05))

    def train_in_an_iteration_of_a_minute(self) -> State:
        return self._train(SLOW_TRAINING.format(seconds=60))

    def _train(self, first: str) -> State:
        out = self.folder / "trained"
        command = ["train", self.flowers, "--out", out, "--device", "cpu", "--arch", "resann@16", "--epochs", "90"]
        command += ["--batch-size", "4", "--no-plots"]
        return State(command, lambda job: (out / "checkpoints").exists(), first, wait_s=1.0)

    def evaluate_in_a_batch_of_a_minute(self) -> State:
        first = "import sys, time, pipelines.evaluate\n"
        first += "sys.modules['pipelines.evaluate'].collect = lambda *a, **k: time.sleep(60)\n"
        figures = self.folder / "figures.json"
        animals = two_classes(self.folder / "animals", names=("ant", "bee", "cat", "dog", "eel"))
        command = ["evaluate", self.small, animals, "--device", "cpu", "--json", figures]
        return State(command, lambda job: True, first, wait_s=2, check=lambda: not figures.exists())

    def bench_measuring(self) -> State:
        out = self.folder / "report"
        command = ["bench", "demo", "--weights", self.small, "--device", "cpu", "--fps", "30", "--out", out]
        command += ["--labels", "agreement", "--duration-s", "60"]
        return State(command, lambda job: True, wait_s=4)


_LONG_LINES = """
from stream_ann.sinks.tables import JsonlText
def rows(self, rows, before=JsonlText.rows):
    return before(self, rows) + " " * 300_000
JsonlText.rows = rows
"""
NAMES = [name for name in vars(States) if name.split("_")[0] in ("live", "label", "train", "evaluate", "bench")]
SHORT = ("live_connecting", "live_in_a_step_of_a_minute", "label_to_a_pipe_that_is_full")
"""Those that differ most: in another thread, in the main thread, and in a system call of the main thread."""
ALL = [pytest.param(name, marks=[] if name in SHORT else [pytest.mark.long]) for name in NAMES]


@pytest.mark.parametrize("name", ALL)
def test_in_every_state(name: str, units, small, tiny, videos, flowers, tmp_path, jobs):
    state_of, _, state_is = name.partition("_")
    numbers = SIGNALS if name not in SHORT else SIGNALS[:1]
    with Tried(
        f"Ctrl-C or SIGTERM during `{state_of}`: {state_is.replace('_', ' ')}", "gone in 2 s, exit 130"
    ) as tried:
        for number in numbers:
            folder = tmp_path / number.name
            folder.mkdir()
            state: State = getattr(States(folder, units, small, tiny, videos, flowers), name)()
            with state.stack:
                job = jobs.start(*state.command, first=ALONE + state.first)
                until(partial(state.ready, job), job)
                time.sleep(state.wait_s)
                assert not job.over(), f"it has ended already: {job.err()}"
                with tried.once(number.name):
                    gone(job.pid, job.over, partial(job.kill, number)).soon(tried, number.name)
                    ended_well(job.wait(), job.err())
                    assert not session_of(job.pid), session_of(job.pid)
                    state.check()


def is_over(process: subprocess.Popen[str]) -> bool:
    return process.poll() is not None


def ended_well(code: int, err: str) -> None:
    assert code == 130, (code, err)
    assert "Traceback" not in err, err
    assert "Exception" not in err, err


STARTING: dict[str, list[str]] = {
    "live": ["live", "pattern:160x120@30", "--view", "none"],
    "label": ["label", "demo", "--out", "o.jsonl"],
    "bench": ["bench", "demo", "--fps", "30"],
    "train": ["train", "flowers", "--out", "trained", "--epochs", "90", "--no-plots"],
    "evaluate": ["evaluate", "imagenet", "flowers"],
    "distill": ["distill", "flowers", "--out", "distilled"],
    "doctor": ["doctor"],
    "sources": ["sources"],
    "weights list": ["weights", "list"],
    "weights show": ["weights", "show"],
    "weights verify": ["weights", "verify"],
    "weights convert": ["weights", "convert", "--out", "converted"],
    "weights assemble": ["weights", "assemble", "first.json", "second.json", "--out", "both"],
    "weights blend": ["weights", "blend", "small.json", "sharper.json", "--share", "0.5", "--out", "blended"],
    "weights quantize": ["weights", "quantize", "first.json", "--out", "rounded"],
    "weights tie": ["weights", "tie", "sharper.json", "lite0@128", "--to", "lite0@96", "--out", "tied"],
    "help": ["--help"],
}
UP = "import cli; print('up', flush=True); cli.main()"


@pytest.mark.long
@pytest.mark.parametrize("command", STARTING)
def test_while_it_starts(command: str, tmp_path):
    """At any moment of the first seconds: reading arguments, importing, loading, opening."""
    rng = drawn("starting", command)
    two_classes(tmp_path / "flowers")
    if "sharper.json" in STARTING[command]:
        save_small_distilled(tmp_path / "sharper", save_small_eann(tmp_path / "small", (96, 128)))
    if "first.json" in STARTING[command]:
        save_small_weights(tmp_path, "first")
        save_small_weights(tmp_path, "second", units=2)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with Tried(f"Ctrl-C or SIGTERM while `{command}` starts", "gone in 2 s, exit 130, no traceback") as tried:
        for _ in range(4):
            number = rng.choice(SIGNALS)
            process = subprocess.Popen(
                [sys.executable, "-c", UP, *STARTING[command]],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            moment_s = rng.uniform(0.02, 0.3 if command == "help" else 3)
            with suppress(subprocess.TimeoutExpired):
                process.wait(moment_s)
            how = f"{number.name} after {moment_s:.3f} s"
            with tried.once(how):
                gone(
                    process.pid,
                    partial(is_over, process),
                    partial(process.send_signal, number),
                ).soon(tried, how)
                _, err = process.communicate(timeout=30)
                if process.returncode != 0:  # it was through before the signal came
                    ended_well(process.returncode, err)
                assert not session_of(process.pid), session_of(process.pid)
