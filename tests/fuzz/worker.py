"""The process that takes inputs in. It is told what to try on standard input, and may be lost at any of them.

One JSON object a line goes in and one comes out. Before each input is taken in it is written to a file, so that when
the process is gone, whoever started it knows what it was at.
"""

from __future__ import annotations

import faulthandler
import gc
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

from stream_ann.errors import StreamAnnError
from tests.fuzz.sandbox import Sandbox
from tests.fuzz.target import Target

__all__ = ["CURRENT", "digest", "main"]

ANEW = 64
"""Exit code that asks for another child."""
MOST_INPUTS = 20_000
"""After so many a child makes room for a new one, lest all that is cached fills the memory."""
CURRENT = "current"
"""Name of the file with the input that is being taken in."""
_LONGEST_MESSAGE = 2000
_PATIENCE_S = 3.0
"""How long threads may take to end."""
_ROOT = Path(__file__).resolve().parent.parent.parent


class Worker:
    """Takes inputs in, one after the other, and counts how that went.

    Args:
        root: Folder that is the process's own.
        current: File for the input that is being taken in.
        corpus: Folder of the corpus, shared with others.
    """

    def __init__(self, root: Path, current: Path, corpus: Path) -> None:
        self.served = 0
        """Inputs taken in."""
        self._sandbox = Sandbox(root)
        self._corpus = corpus
        self._current = os.open(current, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._limited = False

    def batch(self, target: Target, seed: str, count: int) -> dict[str, Any]:
        """Try ``count`` inputs that follow from the seed."""
        outcomes: Counter[str] = Counter()
        faults: dict[str, dict[str, Any]] = {}
        inputs = target.inputs(self._corpus / target.name)
        self._limit()

        @hypothesis.seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))
        @settings(
            max_examples=count, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(inputs)
        def tried(data: bytes) -> None:
            outcome, fault = self.one(target, data)
            outcomes[outcome] += 1
            if fault is not None and fault["kind"] not in faults:
                faults[fault["kind"]] = fault

        tried()
        return {"tried": outcomes.total(), "outcomes": dict(outcomes), "faults": list(faults.values())}

    def one(self, target: Target, data: bytes) -> tuple[str, dict[str, Any] | None]:
        """Try one input: how it went, and what is wrong."""
        self.served += 1
        os.pwrite(self._current, data, 0)
        os.ftruncate(self._current, len(data))
        memory_bytes = Sandbox.most_memory_bytes()
        threads = set(threading.enumerate())
        signal.setitimer(signal.ITIMER_REAL, target.timeout_s)
        outcome, fault = "taken", ""
        try:
            with self._sandbox, warnings.catch_warnings():
                warnings.simplefilter("error")
                target.check(data, self._sandbox.work)
        except StreamAnnError as error:
            outcome = type(error).__name__
            fault = _bad_message(str(error))
        except BaseException as error:
            outcome, fault = "fault", _described(error)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if not fault:
            fault = self._aftermath(memory_bytes + target.memory_bytes, threads)
        if fault:
            self._sandbox.clear()
        self._clear()
        if not fault:
            return outcome, None
        return "fault", {"kind": fault.partition("\n")[0][:200], "detail": fault, "input": data.hex()}

    def _limit(self) -> None:
        """Once everything that is needed has been imported and made."""
        if not self._limited:
            self._limited = True
            self._sandbox.limit()

    def _aftermath(self, most_bytes: int, threads: set[threading.Thread]) -> str:
        memory_bytes = Sandbox.most_memory_bytes()
        if memory_bytes > most_bytes:
            return f"it took {memory_bytes - most_bytes >> 20} MiB more than it may"
        if self._sandbox.noted:
            return f"it wrote elsewhere: {self._sandbox.noted[0]}"
        if strays := self._sandbox.strays():
            return f"it left files elsewhere: {strays}"
        deadline_s = time.monotonic() + _PATIENCE_S
        while left := [t.name for t in set(threading.enumerate()) - threads if t.name.startswith("stream-ann")]:
            if time.monotonic() > deadline_s:
                return f"it left threads behind: {sorted(left)}"
            time.sleep(0.005)
        return ""

    def _clear(self) -> None:
        for entry in os.scandir(self._sandbox.work):
            shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)


def _bad_message(text: str) -> str:
    """What is wrong with an error that a user may see."""
    if not text.strip():
        return "an error that says nothing"
    if len(text) > _LONGEST_MESSAGE:
        return f"an error of {len(text)} characters: {text[:100]}"
    return ""


def _described(error: BaseException) -> str:
    """Kind and place of an error on one line, then all of it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(str(_ROOT))]
    place = next((f for f in reversed(frames) if "/tests/" not in f.filename), frames[-1] if frames else None)
    where = "" if place is None else f" in {Path(place.filename).relative_to(_ROOT)}:{place.lineno}, {place.name}"
    return f"{type(error).__name__}{where}\n" + "".join(traceback.format_exception(error))[-6000:]


def main() -> None:
    """Serve requests until there are no more. This process imports everything; its children take the inputs in."""
    import pipelines.watch  # noqa: F401 - so that no child has to
    import tests.fuzz.targets  # noqa: F401

    root, corpus = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    requests, answers = os.fdopen(os.dup(0), "r", encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what is taken in may print what it likes
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # a hang ends the child: the traces of all threads are written first, and then the alarm does what alarms do
    faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)
    faulthandler.enable()
    number, code = 0, ANEW
    while code:
        if code != ANEW:
            answers.write(json.dumps({"lost": code}) + "\n")
            answers.flush()
        child = os.fork()
        if child == 0:
            try:
                os._exit(_serve(root, root / str(number), corpus, requests, answers))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        shutil.rmtree(root / str(number), ignore_errors=True)
        number += 1


def _serve(root: Path, own: Path, corpus: Path, requests: TextIO, answers: TextIO) -> int:
    """Serve requests; the exit code says whether more are to be served by another process."""
    from tests.fuzz.targets import target_named

    worker = Worker(own, root / CURRENT, corpus)
    # line by line, for another child may have to read on
    while line := requests.readline():
        request = json.loads(line)
        target = target_named(request["target"])
        if "input" in request:
            target.inputs(corpus / target.name)
            outcome, fault = worker.one(target, bytes.fromhex(request["input"]))
            answer: dict[str, Any] = {"tried": 1, "outcomes": {outcome: 1}, "faults": [fault] if fault else []}
        else:
            answer = worker.batch(target, request["seed"], request["count"])
        gc.collect()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if worker.served > MOST_INPUTS:
            return ANEW
    return 0


def digest(data: bytes) -> str:
    """A short name for an input."""
    return hashlib.sha256(data).hexdigest()[:12]


if __name__ == "__main__":
    main()
    os._exit(0)
