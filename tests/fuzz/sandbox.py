"""A process that is watched: what it writes, and how much memory it takes."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["Sandbox"]

_ADDRESS_BYTES = 8 << 30
"""How far the process may grow before the system refuses: far beyond what is a fault, so that the machine lives on."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGING = frozenset(
    {"os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
     "os.utime", "shutil.rmtree"}
)  # fmt: skip
_STARTING = frozenset({"os.exec", "os.posix_spawn", "os.system", "subprocess.Popen", "pty.spawn"})
_DEVICES = ("/dev/null", "/dev/full", "/proc/self/")


class Sandbox:
    """Puts this process into a folder: it works, has its home, its cache and its temporary files there.

    Whatever Python code writes elsewhere is noted at once; what native code writes to relative paths shows in
    :meth:`strays`.

    Args:
        root: The folder.
        others: Where it may write besides.
    """

    def __init__(self, root: Path, others: tuple[Path, ...] = ()) -> None:
        self.root = root.resolve()
        self.work = self.root / "a" / "b" / "work"
        """Where inputs may leave what they like. It lies deep, so that what climbs out of it is still seen."""
        self.noted: list[str] = []
        """What was done elsewhere."""
        self._own = tuple(str(path.resolve()) for path in (self.work, self.root / "home", *others))
        for folder in (self.work, self.root / "home", self.root / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        for name, value in (("HOME", "home"), ("XDG_CACHE_HOME", "home/cache"), ("TMPDIR", "home")):
            os.environ[name] = str(self.root / value)
        tempfile.tempdir = None
        self._canary = self.root / "a" / "canary"
        self._canary.write_text("sings")
        os.chdir(self.work)
        self._watching = False
        sys.addaudithook(self._hear)

    def limit(self) -> None:
        """Let the system refuse to give this process without bound."""
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + _ADDRESS_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def __enter__(self) -> Sandbox:
        self.noted.clear()
        self._watching = True
        return self

    def __exit__(self, *_: object) -> None:
        self._watching = False

    def strays(self) -> list[str]:
        """Files outside of the folder for work that were not there: something climbed out."""
        known = {self.root / "a", self.root / "a" / "b", self.work, self._canary, self.root / "home", self.root / "tmp"}
        here = {*self.root.iterdir(), *(self.root / "a").iterdir(), *(self.root / "a" / "b").iterdir()}
        found = [str(path) for path in here - known]
        sings = self._canary.exists() and self._canary.read_text() == "sings"
        return found if sings else [*found, str(self._canary)]

    def clear(self) -> None:
        """Take away what :meth:`strays` found."""
        for name in self.strays():
            path = Path(name)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        self._canary.write_text("sings")

    @staticmethod
    def most_memory_bytes() -> int:
        """The most memory that this process has had at a time, in bytes."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event == "open":
            path, mode, flags = args
            writes = (isinstance(mode, str) and any(c in mode for c in "wax+")) or (mode is None and flags & _WRITING)
            if writes:
                self._judge(event, path)
        elif event in _CHANGING:
            for path in args[:2] if event in ("os.rename", "os.link", "os.symlink") else args[:1]:
                self._judge(event, path)
        elif event in _STARTING:
            self.noted.append(f"{event} {args[0]!r}")

    def _judge(self, event: str, path: object) -> None:
        if not isinstance(path, str | bytes | os.PathLike):  # a descriptor that is open already
            return
        real = os.path.abspath(os.fsdecode(path))
        if not real.startswith((*(f"{own}/" for own in self._own), *_DEVICES)) and real not in self._own:
            self.noted.append(f"{event} {real!r}")
