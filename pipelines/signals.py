"""Ending a run on Ctrl-C or a polite kill, so that every file is whole and nothing hangs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["INTERRUPTED", "stop_on_signals"]

INTERRUPTED = 130
"""Exit code of an interrupted command."""


@contextmanager
def stop_on_signals(stop: Callable[[], None]) -> Iterator[threading.Event]:
    """While in the block, SIGINT and SIGTERM call ``stop`` once; a second one ends the process at once.

    Asking the run to stop, rather than raising in the middle of it, lets the present frame end in a result and every
    file be closed. Outside the main thread, where Python takes no signals, nothing is changed.

    Args:
        stop: Asks the run to end; must return at once.

    Yields:
        An event that is set when a signal has come.
    """
    came = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if came.is_set():
            os._exit(INTERRUPTED)
        came.set()
        stop()

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
