"""The live view in a window of the desktop, which lives in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_ann.errors import OutputError
from stream_ann.sinks.window_child import HEADER, MARK

__all__ = ["WindowView", "window_problem"]

REFRESHES_PER_S = 25
OPENS_WITHIN_S = 15.0
ENDS_WITHIN_S = 1.0
_CHILD = Path(__file__).with_name("window_child.py")


def window_problem() -> tuple[str, str] | None:
    """Why no window can be opened here and what to do about it; None where nothing speaks against it.

    Asks no display: OpenCV would end the process where there is none.
    """
    gui = re.search(r"GUI:\s*(\S+)", cv2.getBuildInformation())
    if gui is not None and gui[1] == "NONE":
        return (
            "this OpenCV was built without windows",
            "pip uninstall opencv-python-headless, then pip install --force-reinstall opencv-python",
        )
    if sys.platform != "linux":
        return None
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return None
    return "there is no display (neither DISPLAY nor WAYLAND_DISPLAY is set)", "use --view web or --view terminal"


class WindowView:
    """Shows pictures in a window until the user closes it or presses q or Esc.

    A context manager. A thread draws the newest picture and hands it to a child process, which imports nothing but
    OpenCV; while the child is busy newer pictures replace those that wait. Whatever happens to the child, the run is
    told and goes on: it ends with standard input, so that it never outlives this process.

    Args:
        title: What stands above the window, fit to be shown.
        draw: Gives the picture to show, uint8 [H, W, 3] RGB, or None where nothing has changed since the last call.
            Called by the view's thread about 25 times a second. Must not wait.
        on_quit: Called once by a thread of the view when the user has seen enough.
        on_error: Called once by a thread of the view with what has ended it otherwise.

    Attributes:
        shown: How many pictures the child has shown.

    Raises:
        OutputError: If there can be no window here.
    """

    def __init__(
        self,
        title: str,
        draw: Callable[[], NDArray[np.uint8] | None],
        *,
        on_quit: Callable[[], None],
        on_error: Callable[[OutputError], None],
    ) -> None:
        problem = window_problem()
        if problem is not None:
            raise OutputError(f"cannot open a window: {problem[0]}", problem[1])
        self._title = title
        self._draw = draw
        self._on_quit = on_quit
        self._on_error = on_error
        self._done = threading.Event()
        self._opened = threading.Event()
        self._quit = False
        self._child: subprocess.Popen[bytes] | None = None
        self._talk: IO[bytes] | None = None
        self._last_words = ""
        self._threads = [
            threading.Thread(target=target, name=f"stream-ann window {name}", daemon=True)
            for name, target in (("writer", self._write), ("listener", self._listen))
        ]
        self.shown = 0

    @property
    def pid(self) -> int | None:
        """The number of the child process; None before it was started."""
        return None if self._child is None else self._child.pid

    def __enter__(self) -> Self:
        """Open the window.

        Raises:
            OutputError: If it does not open.
        """
        self._talk = tempfile.TemporaryFile()
        try:
            self._child = subprocess.Popen(  # noqa: S603 - this Python, and a script of this package
                [sys.executable, str(_CHILD), self._title],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._talk,
                start_new_session=True,
            )
        except OSError as error:
            self._talk.close()
            raise OutputError(f"cannot open a window: {error}", "use --view web or --view terminal") from error
        for thread in self._threads:
            thread.start()
        self._opened.wait(OPENS_WITHIN_S)
        if not self.shown and not self._quit:
            why = self._why()
            self.close()
            raise OutputError(f"cannot open a window: {why}", "use --view web or --view terminal")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the window and end the child. Can be repeated."""
        self._done.set()
        child = self._child
        if child is not None:
            child.terminate()  # it has nothing to lose, and ends a writer that waits for it
            try:
                child.wait(ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(ENDS_WITHIN_S)
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(ENDS_WITHIN_S)
        if self._talk is not None and not self._talk.closed:
            self._talk.close()

    def _write(self) -> None:
        """Hand the newest picture to the child, again and again."""
        assert self._child is not None
        assert self._child.stdin is not None
        try:
            with self._child.stdin as pipe:
                while not self._done.is_set():
                    picture = self._draw()
                    if picture is not None:
                        height, width = picture.shape[:2]
                        pipe.write(HEADER.pack(MARK, height, width))
                        pipe.write(np.ascontiguousarray(picture[..., ::-1]).data)
                        pipe.flush()
                    self._done.wait(1 / REFRESHES_PER_S)
        except OSError:
            pass  # the child has gone: the listener finds out why
        except Exception as error:
            self._last_words = f"{type(error).__name__}: {error}"
            self._child.terminate()

    def _listen(self) -> None:
        """Hear what happens to the window, until the child has gone."""
        assert self._child is not None
        assert self._child.stdout is not None
        with self._child.stdout as lines:
            for line in lines:
                word, _, rest = line.decode("utf-8", "replace").strip().partition(" ")
                if word == "shown":
                    self.shown += 1
                    self._opened.set()
                elif word in ("quit", "closed"):
                    self._quit = True
                elif word == "error":
                    self._last_words = self._last_words or rest
        self._child.wait()
        opened = self._opened.is_set()
        self._opened.set()
        if self._done.is_set():
            return
        self._done.set()
        if self._quit:
            self._on_quit()
        elif opened:
            self._on_error(OutputError(f"the window has gone: {self._why()}", "the run goes on without it"))

    def _why(self) -> str:
        """What is known about the end of the child, in one line."""
        code = None if self._child is None else self._child.poll()
        words = self._last_words
        if not words and self._talk is not None:
            self._talk.seek(0, os.SEEK_END)
            self._talk.seek(max(0, self._talk.tell() - 4000))
            said = [line.strip() for line in self._talk.read().decode("utf-8", "replace").splitlines()]
            words = next((line for line in said if re.search("could not|cannot|error|abort", line, re.I)), "")
        how = "it did not open in time" if code is None else f"its process ended with {code}"
        return f"{words} ({how})" if words else how
