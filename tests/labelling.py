"""Small networks and videos for the tests of offline labelling."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from stream_ann import weights
from stream_ann.nets import EANN, ResANN
from stream_ann.preprocess import Preprocessing
from tests.net_checks import lively
from tests.sink_tools import ROOT
from tests.videos import encode

CLASSES = ("rose", "tulip", "daisy", "=cmd|' /C calc'!A0")
"""The last one is what a spreadsheet would take for a formula."""


def tiny_weights(folder: Path, *, seed: int = 1) -> Path:
    """Weights with three members, two of them with several steps; gives the card."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    small = ResANN(classes=len(CLASSES), n=1, c=4, s=2, resolution_px=16)
    large = ResANN(classes=len(CLASSES), n=1, c=8, s=3, resolution_px=32)
    net = EANN({"small": small, "large": large}, [("small", 16), ("small", 32), ("large", 32)])
    weights.save(
        lively(net),
        folder / "tiny",
        title="Four things",
        description="For tests.",
        classes=CLASSES,
        preprocessing=Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        training={"kind": "trained"},
        licence="Apache-2.0",
    )
    return folder / "tiny.json"


def noise(count: int, *, seed: int = 0, size_px: tuple[int, int] = (64, 48)) -> list[np.ndarray]:
    """Pictures that differ much, so that their answers do."""
    rng = np.random.default_rng(seed)
    width, height = size_px
    found = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        found.append(np.kron(coarse, np.ones((16, 16, 1), dtype=np.uint8)))
    return found


def some_videos(folder: Path, counts: Sequence[int] = (30, 7, 45)) -> list[Path]:
    """Videos of so many frames, each with a key frame every 10."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        encode(folder / f"clip{i}.mp4", noise(count, seed=i), options={"g": "10", "sc_threshold": "0"})
        for i, count in enumerate(counts)
    ]


WANTED_FRAMES = 16
"""How many frames a unit has in :class:`Jobs`."""


class Jobs:
    """Starts ``stream-ann`` in processes of their own that share the time it takes to import everything.

    Their units are small. Each process is forked by one that has done nothing yet but import; one must be over before
    the next is started.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ZYGOTE, str(WANTED_FRAMES)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._last: Job | None = None

    def start(self, *args: str | Path, first: str = "") -> Job:
        """Run ``stream-ann`` with some arguments, after some Python code."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._last is not None:  # a test that failed may have left it
            self._last.kill()
            self._last.wait()
        out, err = self._folder / "out.txt", self._folder / "err.txt"
        request = {"args": [str(arg) for arg in args], "first": first, "out": str(out), "err": str(err)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        self._last = Job(int(self._process.stdout.readline()), self._process.stdout, out, err)
        return self._last

    def close(self) -> None:
        if self._last is not None:
            self._last.kill()
        self._process.communicate(timeout=10)


class Job:
    """A process of :class:`Jobs`."""

    def __init__(self, pid: int, codes: IO[str], out: Path, err: Path) -> None:
        self.pid = pid
        self._codes = codes
        self._out = out
        self._err = err
        self._code: int | None = None

    def over(self) -> bool:
        return self._code is not None or bool(select.select([self._codes], [], [], 0)[0])

    def wait(self, timeout_s: float = 60) -> int:
        """The exit code, negative where a signal ended it."""
        if self._code is None:
            assert select.select([self._codes], [], [], timeout_s)[0], "it hangs"
            self._code = int(self._codes.readline())
        return self._code

    def kill(self, number: int = signal.SIGKILL) -> None:
        if not self.over():
            os.kill(self.pid, number)

    def out(self) -> str:
        return self._out.read_text()

    def err(self) -> str:
        return self._err.read_text()


_ZYGOTE = """
import gc, json, os, sys
import cli, commands.app, pipelines, pipelines.labelling.progress, pipelines.train, pipelines.watch, pydantic, torch
from pipelines.labelling import work
from stream_ann.engines import openvino_runtime
work.WANTED_FRAMES = int(sys.argv[1])
if openvino_runtime.is_installed():
    openvino_runtime.openvino()
try:
    import pyarrow.parquet
    pyarrow.array([""])  # which imports pandas
except ImportError:
    pass
gc.freeze()  # lest collecting in a child copies and searches all of that
for line in sys.stdin:
    request = json.loads(line)
    pid = os.fork()
    if pid == 0:
        exec(request["first"])
        for number, path in ((1, request["out"]), (2, request["err"])):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["stream-ann", *request["args"]]
        cli.main()
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file, every line of which must be whole."""
    text = path.read_text()
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]
