"""What libav's decoders complain about: of most damage they tell nowhere else."""

from __future__ import annotations

import logging
import threading

import av
import av.logging

__all__ = ["DecodeLog"]

_logger, _unheard = logging.getLogger("libav"), logging.NullHandler()


class DecodeLog:
    """Switches libav's log of errors on while it is open, so that a thread can listen to what is logged in it.

    Nothing of it reaches the terminal, not even from threads that nobody listens to. The log is the whole process's: it
    is switched on with the first of these and off with the last, unless somebody else has switched it on before.
    """

    _lock = threading.Lock()
    _count = 0
    _ours = False

    def __init__(self) -> None:
        self._open = False

    def open(self) -> None:
        """Switch the log on. Can be repeated."""
        with DecodeLog._lock:
            if self._open:
                return
            self._open = True
            DecodeLog._count += 1
            if av.logging.get_level() is None:
                DecodeLog._ours = True
                # nothing below errors: each line takes the interpreter's lock, wherever in libav it comes from
                av.logging.set_level(av.logging.ERROR)
                av.logging.set_skip_repeated(False)
                _logger.addHandler(_unheard)
                _logger.propagate = False

    def close(self) -> None:
        """Switch it off again. Can be repeated."""
        with DecodeLog._lock:
            if not self._open:
                return
            self._open = False
            DecodeLog._count -= 1
            if DecodeLog._count == 0 and DecodeLog._ours:
                DecodeLog._ours = False
                av.logging.set_level(None)
                av.logging.set_skip_repeated(True)
                _logger.removeHandler(_unheard)
                _logger.propagate = True

    @staticmethod
    def listen() -> av.logging.Capture:
        """A context that gives a list of what libav logs in this thread: level, part of libav, and text."""
        return av.logging.Capture(local=True)
