"""A campaign: many inputs for a target, in worker processes that may be lost at any of them."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.target import Target
from tests.fuzz.worker import CURRENT, digest

__all__ = ["Fault", "Pool", "Tally", "campaign", "reproduce"]

ROOT = Path(__file__).resolve().parent.parent.parent
BATCH = 400
"""Inputs of one request."""
_START_S = 120.0
_MOST_FAULTS = 20
"""So many different faults of a target are enough to be mended before more are looked for."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An input that was not taken in as it should."""

    target: str
    """The target's name."""
    kind: str
    """What happened, in one line."""
    detail: str
    """All that is known."""
    data: bytes
    """The input."""

    def command(self, folder: Path) -> str:
        """The command that shows it again; the input is written to a file for it."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.target}-{digest(self.data)}.bin"
        path.write_bytes(self.data)
        return f"python -m tests.fuzz {self.target} --input {path}"


@dataclass(slots=True)
class Tally:
    """What a campaign comes to."""

    tried: int = 0
    """Inputs taken in."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """How many were taken, and how many were refused with which error."""
    faults: dict[str, Fault] = field(default_factory=dict)
    """One input for each kind of fault."""
    seconds: float = 0.0
    """How long it took."""

    @property
    def taken(self) -> int:
        """Inputs that were taken in without an error."""
        return self.outcomes["taken"]


class Pool:
    """One worker process, started anew whenever it is lost. Use as a context manager.

    Args:
        corpus: Folder where the corpus is kept.
    """

    def __init__(self, corpus: Path) -> None:
        self._corpus = corpus
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Pool:
        self._folder = tempfile.TemporaryDirectory(prefix="stream-ann-fuzz-")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._folder.cleanup()

    def stop(self) -> None:
        """End the worker."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()
            self._errors.close()

    def ask(self, target: Target, request: dict[str, Any], inputs: int) -> dict[str, Any]:
        """The worker's answer to a request; where it was lost, an answer that says how and at which input."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"target": target.name, **request}).encode() + b"\n")
        process.stdin.flush()
        # the worker's own alarm ends it at an input that hangs: this is for the case that even that does not work
        most_s = _START_S + inputs * target.timeout_s
        line = process.stdout.readline() if select.select([process.stdout], [], [], most_s)[0] else b""
        answer: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {"lost": None}
        return self._lost(answer["lost"]) if "lost" in answer else answer

    def _start(self) -> subprocess.Popen[bytes]:
        root = Path(self._folder.name)
        self._errors = (root / "errors").open("w+b")
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HYPOTHESIS_STORAGE_DIRECTORY": str(root / "hypothesis"),
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz.worker", str(root), str(self._corpus)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        return self._process

    def _lost(self, code: int | None) -> dict[str, Any]:
        """What is known of a child that is gone; without a code, of one that does not answer."""
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace")[-6000:]
        if code is None or code == -signal.SIGALRM:
            kind = "it hangs"
        else:
            kind = f"exit code {code}" if code > 0 else f"the process was ended by {signal.Signals(-code).name}"
        current = Path(self._folder.name) / CURRENT
        data = current.read_bytes() if current.exists() else b""
        if code is None:
            self.stop()
        fault = {"kind": kind, "detail": f"{kind}\n{said}", "input": data.hex()}
        return {"tried": 1, "outcomes": {"fault": 1}, "faults": [fault]}


def campaign(
    target: Target, inputs: int, seed: int, pool: Pool, *, told: Callable[[Tally], None] | None = None
) -> Tally:
    """Try at least so many inputs, which follow from the seed.

    Args:
        target: What takes them in.
        inputs: How many.
        seed: The seed.
        pool: The worker.
        told: Called after each batch.
    """
    tally = Tally()
    begun_s = time.monotonic()
    number = 0
    while tally.tried < inputs and len(tally.faults) < _MOST_FAULTS:
        count = min(BATCH, inputs - tally.tried)
        answer = pool.ask(target, {"seed": f"{target.name} {seed} {number}", "count": count}, count)
        number += 1
        tally.tried += answer["tried"]
        tally.outcomes.update(answer["outcomes"])
        for found in answer["faults"]:
            data = bytes.fromhex(found["input"])
            tally.faults.setdefault(found["kind"], Fault(target.name, found["kind"], found["detail"], data))
        tally.seconds = time.monotonic() - begun_s
        if told is not None:
            told(tally)
    return tally


def reproduce(target: Target, data: bytes, pool: Pool) -> Tally:
    """Try one input."""
    answer = pool.ask(target, {"input": data.hex()}, 1)
    faults = {f["kind"]: Fault(target.name, f["kind"], f["detail"], data) for f in answer["faults"]}
    return Tally(answer["tried"], Counter(answer["outcomes"]), faults)
