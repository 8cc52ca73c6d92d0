"""How soon a thread that computes in Python lets another one go on."""

from __future__ import annotations

import sys
import threading

__all__ = ["PROMPT_S", "begin_prompt", "end_prompt"]

PROMPT_S = 0.0005
"""A live run's threads let go of the interpreter after this time. By Python's own 5 ms, the thread that has an answer
from the engine would wait for as long as a step takes, each time that a page or a file is being written."""

_lock = threading.Lock()
_runs = 0
_before_s = 0.0


def begin_prompt() -> None:
    """Let threads change places after :data:`PROMPT_S`, in the whole process, until :func:`end_prompt`.

    May be called again, by another run, and ends with the last one.
    """
    global _runs, _before_s
    with _lock:
        if not _runs:
            _before_s = sys.getswitchinterval()
            sys.setswitchinterval(min(_before_s, PROMPT_S))
        _runs += 1


def end_prompt() -> None:
    """Leave it to Python again."""
    global _runs
    with _lock:
        _runs -= 1
        if not _runs:
            sys.setswitchinterval(_before_s)
