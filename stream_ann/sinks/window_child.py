"""A process that shows pictures in a window, and does nothing else.

Run by :class:`~stream_ann.sinks.window.WindowView` as a script of its own, because OpenCV's windows hang for ever in a
process that has imported av first (opencv#21952), and abort the process where something is wrong with the display.
It imports nothing of this package.

Pictures come on standard input, each as a header (:data:`HEADER`: a mark, height, width) and uint8 [H, W, 3] BGR. What
happens goes to standard output, a line each: ``open``, ``shown``, ``quit`` (q or Esc), ``closed`` (by the window's own
button), ``error ...``. The end of standard input, which is also the end of the parent, ends this process.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import threading

__all__ = ["HEADER", "MARK"]

HEADER = struct.Struct("<4sII")
MARK = b"pic0"
PUMP_MS = 15
KEYS_TO_QUIT = (ord("q"), ord("Q"), 27)


class Pictures:
    """The newest picture that has come; an older one that was not shown is forgotten."""

    def __init__(self) -> None:
        self.ended = False
        self._lock = threading.Lock()
        self._newest: object = None

    def read(self) -> None:
        """Take pictures in until there are no more."""
        import numpy as np

        stream = sys.stdin.buffer
        try:
            while len(head := stream.read(HEADER.size)) == HEADER.size:
                mark, height, width = HEADER.unpack(head)
                data = stream.read(height * width * 3)
                if mark != MARK or len(data) < height * width * 3:
                    break
                with self._lock:
                    self._newest = np.frombuffer(data, np.uint8).reshape(height, width, 3)
        finally:
            self.ended = True

    def take(self) -> object:
        """The newest picture, once; None where there is no new one."""
        with self._lock:
            newest, self._newest = self._newest, None
        return newest


def tell(line: str) -> None:
    """Say what has happened; a parent that has gone need not know."""
    try:
        os.write(1, f"{line}\n".encode())
    except OSError:
        os._exit(0)


def is_there(title: str) -> bool:
    """Whether the window is still there: for one that was closed, some back-ends say 0, and some fail."""
    import cv2

    try:
        return cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) != 0
    except cv2.error:
        return False


def main(title: str) -> None:
    """Show what comes, until the end of it or until the user has seen enough."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this
    import cv2

    pictures = Pictures()
    threading.Thread(target=pictures.read, name="stream-ann window pictures", daemon=True).start()
    size = None
    while not pictures.ended:
        picture = pictures.take()
        if picture is not None:
            height, width = picture.shape[:2]  # type: ignore[attr-defined]
            if size is None:
                cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | getattr(cv2, "WINDOW_GUI_NORMAL", 0))
                cv2.resizeWindow(title, width, height)
            cv2.imshow(title, picture)  # type: ignore[call-overload]
            if size is None:
                tell("open")
            size = height, width
            tell("shown")
        if size is None:
            threading.Event().wait(PUMP_MS / 1000)
            continue
        key = cv2.waitKeyEx(PUMP_MS)
        if key != -1 and key & 0xFF in KEYS_TO_QUIT:
            tell("quit")
            return
        if not is_there(title):
            tell("closed")
            return


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Exception as error:  # any, since the parent can only read lines
        tell("error " + " ".join(str(error).split()))
    finally:
        os._exit(0)  # the reading thread may be waiting for a picture
