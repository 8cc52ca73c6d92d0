"""A target that does everything that none may, so that it can be seen that each of it is found."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import cv2
import numpy as np
from hypothesis import strategies as st

from stream_ann.errors import UsageError
from tests.fuzz.target import Target

__all__ = ["BROKEN", "WAYS"]

_MEMORY_BYTES = 24 << 20
WAYS = {
    b"raises what is not the project's": "ValueError in tests/fuzz/broken.py",
    b"says nothing": "an error that says nothing",
    b"warns": "UserWarning in tests/fuzz/broken.py",
    b"crashes": "the process was ended by SIGSEGV",
    b"ends": "exit code 7",
    b"hangs": "it hangs",
    b"hangs and holds the lock": "it hangs",
    b"grows": "it took ",
    b"writes elsewhere": "it wrote elsewhere: open ",
    b"deletes elsewhere": "it wrote elsewhere: os.remove ",
    b"writes elsewhere in native code": "it left files elsewhere: ",
    b"starts a program": "it wrote elsewhere: subprocess.Popen ",
    b"leaves a thread": "it left threads behind: ['stream-ann-left']",
}
"""What it can do, and how that is called."""


def _check(data: bytes, folder: Path) -> None:
    match data:
        case b"raises what is not the project's":
            raise ValueError("oh")
        case b"says nothing":
            raise UsageError("")
        case b"warns":
            warnings.warn("careful", stacklevel=1)
        case b"crashes":
            ctypes.string_at(0)
        case b"ends":
            ctypes.CDLL(None)._exit(7)
        case b"hangs":
            time.sleep(60)
        case b"hangs and holds the lock":
            ctypes.PyDLL(None).sleep(60)
        case b"grows":
            np.ones(2 * _MEMORY_BYTES, dtype=np.uint8)
        case b"writes elsewhere":
            (folder.parent / "x").write_text("x")
        case b"deletes elsewhere":
            (folder.parent.parent / "canary").unlink()
        case b"writes elsewhere in native code":
            cv2.imwrite("../x.png", np.zeros((2, 2, 3), dtype=np.uint8))
        case b"starts a program":
            subprocess.run([sys.executable, "-c", ""], check=True)
        case b"leaves a thread":
            threading.Thread(target=time.sleep, args=(60,), name="stream-ann-left", daemon=True).start()


BROKEN = Target(
    "broken", "this", lambda _: st.sampled_from([b"", *list(WAYS)[:5]]), _check, 0, _MEMORY_BYTES, timeout_s=2.0
)
