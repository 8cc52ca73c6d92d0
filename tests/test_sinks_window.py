"""The window in a real X server: what a user does to it, and what can go wrong."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from stream_ann.errors import OutputError
from stream_ann.sinks import window as module
from stream_ann.sinks.window import WindowView, window_problem

ROOT = Path(__file__).resolve().parent.parent
needs_screen = pytest.mark.tool("Xvfb", "xdotool")
TITLE = "stream_ann test"


def until(ask, timeout_s: float = 30.0):
    """What ``ask`` gives, as soon as it is true."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := ask()):
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def screen():
    """An X server of its own; its name."""
    read_fd, write_fd = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write_fd), "-screen", "0", "1280x800x24", "-nolisten", "tcp"],
        pass_fds=[write_fd],
        stderr=subprocess.DEVNULL,
    )
    os.close(write_fd)
    try:
        with os.fdopen(read_fd) as pipe:
            yield f":{pipe.readline().strip()}"
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def display(screen, monkeypatch) -> str:
    monkeypatch.setenv("DISPLAY", screen)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    return screen


def xdotool(display: str, *args: str) -> str:
    done = subprocess.run(
        ["xdotool", *args], env={**os.environ, "DISPLAY": display}, capture_output=True, text=True, timeout=20
    )
    return done.stdout.strip()


def window_of(display: str, title: str = TITLE) -> str:
    return until(lambda: xdotool(display, "search", "--name", title).splitlines())[-1]


class Shown:
    """A window whose pictures change with every look, and what it has reported."""

    def __init__(self, size_px: tuple[int, int] = (320, 180)) -> None:
        self.quits = 0
        self.errors: list[OutputError] = []
        self.heard = threading.Event()
        self.drawn = 0
        self.size_px = size_px
        self.view = WindowView(TITLE, self.draw, on_quit=self.quit, on_error=self.fail)

    def draw(self) -> np.ndarray:
        self.drawn += 1
        return np.full((self.size_px[1], self.size_px[0], 3), (self.drawn * 5 % 256, 0, 0), np.uint8)

    def quit(self) -> None:
        self.quits += 1
        self.heard.set()

    def fail(self, error: OutputError) -> None:
        self.errors.append(error)
        self.heard.set()


@needs_screen
@pytest.mark.parametrize("key", ["q", "Escape"])
def test_keys_end_it(display, key):
    shown = Shown()
    with shown.view as view:
        window = window_of(display)
        until(lambda: view.shown > 3)
        xdotool(display, "windowfocus", "--sync", window)
        xdotool(display, "key", "--window", window, "x")
        assert not shown.heard.wait(0.3)

        def pressed() -> bool:
            xdotool(display, "key", "--window", window, key)
            return shown.heard.wait(0.5)

        until(pressed)
    assert shown.quits == 1
    assert shown.errors == []


CLOSE = """
import ctypes, sys
X = ctypes.CDLL("libX11.so.6")
X.XOpenDisplay.restype = ctypes.c_void_p
X.XInternAtom.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
X.XInternAtom.restype = ctypes.c_ulong
X.XSendEvent.argtypes = [ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
X.XCloseDisplay.argtypes = [ctypes.c_void_p]
class Message(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("serial", ctypes.c_ulong), ("sent", ctypes.c_int),
                ("display", ctypes.c_void_p), ("window", ctypes.c_ulong), ("kind", ctypes.c_ulong),
                ("format", ctypes.c_int), ("data", ctypes.c_long * 5), ("rest", ctypes.c_long * 20)]
display, window = X.XOpenDisplay(sys.argv[1].encode()), int(sys.argv[2])
message = Message(33, 0, 1, display, window, X.XInternAtom(display, b"WM_PROTOCOLS", 0), 32)
message.data[0] = X.XInternAtom(display, b"WM_DELETE_WINDOW", 0)
X.XSendEvent(display, window, 0, 0, ctypes.byref(message))
X.XCloseDisplay(display)
"""
"""Says what a window manager says when the button of a window is clicked."""


@needs_screen
def test_closing_it_is_quitting(display):
    shown = Shown()
    with shown.view:
        subprocess.run([sys.executable, "-c", CLOSE, display, window_of(display)], check=True, timeout=20)
        assert shown.heard.wait(20)
    assert (shown.quits, shown.errors) == (1, [])


@needs_screen
def test_it_can_be_resized_and_keeps_moving(display):
    shown = Shown()
    with shown.view as view:
        window = window_of(display)
        xdotool(display, "windowsize", "--sync", window, "800", "300")
        before = view.shown
        until(lambda: view.shown > before + 3)
        shape = xdotool(display, "getwindowgeometry", window)
        assert "800x300" in shape
    assert shown.errors == []


@needs_screen
def test_a_crash_is_reported_and_harms_nobody(display):
    shown = Shown()
    with shown.view as view:
        until(lambda: view.shown)
        os.kill(view.pid, signal.SIGSEGV)
        assert shown.heard.wait(20)
    assert shown.quits == 0
    (error,) = shown.errors
    assert re.match(r"the window has gone: its process ended with -11; the run goes on without it", str(error))


@needs_screen
def test_a_window_that_hangs_holds_nobody_up(display):
    shown = Shown((1280, 720))
    with shown.view as view:
        until(lambda: view.shown)
        os.kill(view.pid, signal.SIGSTOP)
        time.sleep(0.5)
        drawn = shown.drawn
        time.sleep(0.5)
        assert shown.drawn <= drawn + 1, "pictures pile up"
        begun_s = time.monotonic()
    assert time.monotonic() - begun_s < 3.5
    assert shown.errors == []


SCRIPT = """
{imports}
import sys, time
import numpy as np
from stream_ann.sinks.window import WindowView
view = WindowView("order test", lambda: np.zeros((90, 160, 3), np.uint8), on_quit=lambda: 0, on_error=print)
with view:
    deadline = time.monotonic() + 30
    while view.shown < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    print("shown" if view.shown >= 3 else "nothing", view.pid, flush=True)
    sys.stdin.readline()
"""


@needs_screen
@pytest.mark.parametrize("imports", ["import av, cv2", "import cv2, av"])
def test_it_shows_in_both_orders_of_import_and_dies_with_its_parent(display, imports):
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(imports=imports)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        word, pid = parent.stdout.readline().split()
        assert word == "shown"
        parent.kill()
        parent.wait(10)
        until(lambda: not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text())
    finally:
        parent.kill()
        parent.communicate()


def test_the_child_imports_nothing_of_this_package():
    script = (ROOT / "stream_ann" / "sinks" / "window_child.py").read_text()
    assert not re.search(r"^\s*(import|from) (stream_ann|av|torch)\b", script, re.MULTILINE)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a display")
def test_without_a_display_it_says_what_to_do(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(OutputError, match=r"no display .*; use --view web or --view terminal"):
        Shown()


def test_a_headless_opencv_is_named(monkeypatch):
    monkeypatch.setattr(module.cv2, "getBuildInformation", lambda: "\n  GUI:                           NONE\n")
    problem = window_problem()
    assert problem is not None
    assert "without windows" in problem[0]
    assert "opencv-python-headless" in problem[1]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a display")
def test_a_display_that_does_not_answer_is_an_error_not_an_abort(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":987")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    shown = Shown()
    with pytest.raises(OutputError, match="cannot open a window"), shown.view:
        pass
    assert shown.errors == []
    assert shown.quits == 0
