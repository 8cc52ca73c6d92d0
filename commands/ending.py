"""How a command ends when it is told to: by SIGINT or SIGTERM, within two seconds, whatever it is waiting for."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from types import FrameType

__all__ = ["INTERRUPTED", "Ending"]

INTERRUPTED = 130
"""Exit code of an interrupted command."""
GRACE_S = 1.7
"""How long a command has to end by itself once a signal has come."""


class Ending:
    """Sees to it that a signal ends the process. Made once, by the main thread, before anything else is imported.

    A signal raises KeyboardInterrupt, or does what the command has asked for (``pipelines.signals``). Neither happens
    while the main thread is in a call that does not return: a write to a pipe that nobody reads, a compiler, a slow
    step of a large network. A thread that hears of the signal from the system itself, not from the main thread, ends
    the process then, and so does a second signal at once. Files are whole at every moment, so that nothing is lost
    that has been committed.

    Attributes:
        came: Whether a signal has come.
        catching: Whether somebody would catch a KeyboardInterrupt now; where nobody would, a signal ends the process
            at once.
    """

    def __init__(self) -> None:
        self.came = False
        self.catching = False
        self._unraisable = sys.unraisablehook
        self._hears, self._tells = os.pipe()
        os.set_blocking(self._tells, False)
        signal.set_wakeup_fd(self._tells, warn_on_full_buffer=False)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as for what a shell runs in the background
            signal.signal(signal.SIGINT, self._interrupt)
        signal.signal(signal.SIGTERM, self._interrupt)
        sys.unraisablehook = self._ignored
        threading.Thread(target=self._watch, name="stream-ann signals", daemon=True).start()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        # An exception raised while a module in C++ is being imported aborts the process.
        if not self.catching or _imports(frame):
            os._exit(INTERRUPTED)
        raise KeyboardInterrupt

    def _watch(self) -> None:
        self._wait_for_signal(None)
        self.came = True
        if not self._wait_for_signal(GRACE_S) and select.select([], [2], [], 0)[1]:
            os.write(2, b"interrupted; it did not end by itself in time: what was not committed is not in its files\n")
        os._exit(INTERRUPTED)

    def _wait_for_signal(self, timeout_s: float | None) -> bool:
        """Whether a signal that ends the process has come in time."""
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = None if until_s is None else max(0.0, until_s - time.monotonic())
            if not select.select([self._hears], [], [], left_s)[0]:
                return False
            if os.read(self._hears, 1)[0] in (signal.SIGINT, signal.SIGTERM):
                return True

    def _ignored(self, what: sys.UnraisableHookArgs) -> None:
        """Python throws away what is raised where nobody could catch it: a Ctrl-C must not get lost there."""
        if isinstance(what.exc_value, KeyboardInterrupt):
            os._exit(INTERRUPTED)
        self._unraisable(what)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported: then no output of the command is half written."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
