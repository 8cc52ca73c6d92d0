"""What the tests of faults share: a seed, a count of what was tried and lost, and small data to do it with."""

from __future__ import annotations

import json
import os
import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from tests.labelling import Job

SEED = int(os.environ.get("FAULTS_SEED", "0"))
"""What every random moment follows from."""
TALLY = os.environ.get("FAULTS_TALLY")
"""File that :class:`Tried` adds to, for ``benchmarks.faults``."""
SOON_S = 2.0
"""How soon a process must be gone after a signal."""
PATIENCE_S = 120.0
"""How long to wait for what must happen: on a machine with much else to do, everything takes long."""
MOMENTS = int(os.environ.get("FAULTS_MOMENTS", "50"))
"""How many kills there are of each kind."""
ALONE = "import os; os.setsid()\n"
"""Makes a job the leader of a session, so that its children can be told from others."""


def drawn(*what: object) -> random.Random:
    """Random numbers of a test of its own."""
    return random.Random("/".join(map(str, (SEED, *what))))


class Tried:
    """Counts how often something was tried, and what was lost; a context, which fails where anything was.

    Args:
        what: What is tried, as a table shall say.
        note: What holds nevertheless.
    """

    def __init__(self, what: str, note: str = "") -> None:
        self.what, self.note = what, note
        self.times = 0
        self.losses: list[str] = []
        self.late: list[str] = []
        """What came too late while others had the processor: no loss, and told apart."""
        self.native: list[str] = []
        """What ended in a library's native code, with nothing lost that was committed."""

    @contextmanager
    def once(self, how: str) -> Iterator[None]:
        """One attempt, in which every failure is a loss."""
        self.times += 1
        with self.again(how):
            yield

    @contextmanager
    def again(self, how: str) -> Iterator[None]:
        """More of what becomes of attempts that have been counted."""
        try:
            yield
        except Exception as error:
            self.losses.append(f"{how}: {type(error).__name__}: {error}")

    def __enter__(self) -> Tried:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, Exception):
            self.losses.append(f"the test itself failed: {kind.__name__}")
        if TALLY is not None:
            row = {"tried": self.what, "times": self.times, "lost": len(self.losses), "note": self.note}
            row |= {"losses": self.losses, "late": self.late, "native": self.native}
            with open(TALLY, "a") as file:
                file.write(json.dumps(row) + "\n")
        if kind is None:
            told = "\n".join(self.losses)
            assert not self.losses, f"{self.what}, with FAULTS_SEED={SEED}: {len(self.losses)} losses\n{told}"
            assert self.times > 0


@dataclass(frozen=True, slots=True)
class Gone:
    """How soon a process was gone."""

    took_s: float
    others_s: float
    """At least how much of that its slowest thread was ready to run while other processes had the processor."""

    def soon(self, tried: Tried, how: str) -> None:
        """It must be gone within :data:`SOON_S`; what other processes have taken does not count, and is told."""
        told = f"{how}: {self.took_s:.2f} s, at least {self.others_s:.2f} s of which others had the processor"
        assert self.took_s - self.others_s < SOON_S, told
        if self.took_s >= SOON_S:
            tried.late.append(told)


def gone(pid: int, over: Callable[[], object], end: Callable[[], object], *, most_s: float = 30.0) -> Gone:
    """Tell a process to end, and wait until it has.

    Args:
        pid: The process.
        over: Whether it is over.
        end: What tells it to end.
        most_s: How long to wait at most; then it hangs.
    """
    begun = last = _schedule(pid)
    begun_s = time.monotonic()
    end()
    while not over():
        assert time.monotonic() - begun_s < most_s, "it hangs"
        last = {**last, **_schedule(pid)}
        time.sleep(0.005)
    took_s = time.monotonic() - begun_s
    pairs = [
        (ran - begun.get(task, (0, 0))[0], waited - begun.get(task, (0, 0))[1]) for task, (ran, waited) in last.items()
    ]
    # its own threads can have kept the one that waited longest waiting for as long as they ran, and no longer
    waited_ns = max((waited for _, waited in pairs), default=0) - sum(ran for ran, _ in pairs)
    return Gone(took_s, min(took_s, max(0, waited_ns) * 1e-9))


def _schedule(pid: int) -> dict[str, tuple[int, int]]:
    """Of each thread, the nanoseconds that it has run, and that it was ready to and had to wait."""
    found = {}
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                ran, waited = (task / "schedstat").read_text().split()[:2]
                found[task.name] = (int(ran), int(waited))
    return found


def until(reached: Callable[[], object], job: Job) -> None:
    """Wait until something is so."""
    until_over(job, reached)
    assert reached(), f"it has ended already with {job.wait()}: {job.err()}"


def until_over(job: Job, reached: Callable[[], object]) -> None:
    """Wait until something is so, or the job is over."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not job.over() and not reached():
        assert time.monotonic() < deadline_s, f"it does not come to that: {job.err()}"
        time.sleep(0.005)


def wait_at_most(job: Job, seconds: float) -> None:
    """Let a job run for so long, or to its end."""
    deadline_s = time.monotonic() + seconds
    while not job.over() and (left_s := deadline_s - time.monotonic()) > 0:
        time.sleep(min(0.005, left_s))


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file, if it is there; each line must be whole."""
    if not path.exists():
        return []
    text = path.read_text()
    assert not text or text.endswith("\n"), f"{path.name} ends in {text[-80:]!r}"
    return [json.loads(line) for line in text.splitlines()]


def lines_in(path: Path) -> int:
    """How many lines a file has by now, while somebody may be in the middle of the next one."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def frames_in(path: Path) -> int:
    """How many pictures a video has; every one must decode."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def session_of(pid: int) -> list[str]:
    """Processes of the session that ``pid`` leads, it included, that are not over."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == pid and fields[0] != "Z":
                found.append((folder / "cmdline").read_text().replace("\0", " "))
    return found


def two_classes(folder: Path, *, names: Sequence[str] = ("rose", "tulip"), each: int = 12, size_px: int = 32) -> Path:
    """Pictures of two classes that differ in colour, or of others."""
    numbers = np.random.default_rng(0)
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            picture = numbers.integers(0, 100, (size_px, size_px, 3), dtype=np.uint8)
            picture[:, :, number % 3] += 120
            Image.fromarray(picture).save(folder / name / f"{i}.png")
    return folder


@contextmanager
def silent_server() -> Iterator[tuple[int, list[socket.socket]]]:
    """A port that takes connections and never says a word; gives it and the connections so far."""
    taken: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)
    try:
        yield listener.getsockname()[1], _Accepting(listener, taken)
    finally:
        for connection in taken:
            connection.close()
        listener.close()


class _Accepting(list[socket.socket]):
    """Looks for new connections when asked whether there are any."""

    def __init__(self, listener: socket.socket, taken: list[socket.socket]) -> None:
        super().__init__()
        self._listener, self._taken = listener, taken

    def __bool__(self) -> bool:
        with suppress(TimeoutError):
            self._taken.append(self._listener.accept()[0])
        return bool(self._taken)
