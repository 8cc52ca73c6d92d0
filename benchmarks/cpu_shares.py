"""Who takes how much of the machine: the threads of this process by what they do, processes beside it, all others."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Beside", "Taken"]

ROOT = Path(__file__).resolve().parent.parent
_TICKS = os.sysconf("SC_CLK_TCK")
_ANSWERS_WITHIN_S = 30.0
_ROLES = (("MainThread", "scheduler"), ("stream-ann web", "page"), ("stream-ann", "readers"))
"""Beginnings of the names of threads, and what they do; all others are the libraries'."""


class Taken:
    """Processor time from its making on, by role.

    Args:
        beside: A process beside this one, if there is one.
    """

    def __init__(self, beside: Beside | None = None) -> None:
        self._beside = beside
        self._before = self._now()

    def cores(self) -> dict[str, float]:
        """How many cores each has taken on average: threads of this process by role, ``beside``, and ``elsewhere``:
        whatever else was running."""
        before, now = self._before, self._now()
        taken = {name: (now[name] - before.get(name, 0.0)) for name in now}
        seconds = taken.pop("seconds")
        taken["elsewhere"] = taken.pop("machine") - sum(v for name, v in taken.items() if name != "machine")
        return {name: round(max(0.0, value) / seconds, 3) for name, value in taken.items()}

    def _now(self) -> dict[str, float]:
        found = {"scheduler": 0.0, "page": 0.0, "readers": 0.0, "libraries": 0.0}
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        for task in Path("/proc/self/task").iterdir():
            try:
                fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:  # it has ended meanwhile
                continue
            name = names.get(int(task.name), "")
            role = next((role for begin, role in _ROLES if name.startswith(begin)), "libraries")
            found[role] += (int(fields[11]) + int(fields[12])) / _TICKS
        if self._beside is not None:
            found["beside"] = self._beside.ask()["cpu_s"]
        times = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]]
        found["machine"] = (sum(times) - times[3] - times[4]) / _TICKS  # neither idle nor waiting for a disk
        found["seconds"] = time.monotonic()
        return found


class Beside:
    """A process of ``benchmarks/page_visitors.py``, as long as the context lasts.

    Args:
        arguments: Its arguments.
    """

    def __init__(self, *arguments: object) -> None:
        self._command = [sys.executable, "-S", "-m", "benchmarks.page_visitors", *map(str, arguments)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def ready(self, timeout_s: float = 0.0) -> bool:
        """Whether it is; if so, to be asked once only."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            return False
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the process beside has ended: {' '.join(self._command)}")
        return True

    def ask(self) -> dict[str, Any]:
        """What it has done so far.

        Raises:
            RuntimeError: If it does not say.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file=self._process.stdin, flush=True)
        if not select.select([self._process.stdout], [], [], _ANSWERS_WITHIN_S)[0]:
            raise RuntimeError("the process beside does not answer")
        return dict(json.loads(self._process.stdout.readline()))
