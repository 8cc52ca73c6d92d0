"""Recording when the frames of a camera arrive, to play the benchmark by it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.signals import stop_on_signals
from stream_ann.clock import MonotonicClock
from stream_ann.errors import SourceError, UsageError
from stream_ann.ingest import Reader, Slot, source_from
from stream_ann.sinks.files import check_writable, output_error
from stream_ann.whole_files import whole_file

__all__ = ["record_arrivals"]

OPEN_TIMEOUT_S = 15.0
CHECK_S = 0.05
"""How often it is looked whether the source has ended."""


class _NotingSlot(Slot):
    """A slot that notes when each frame comes, those that are replaced included, which here are all."""

    def __init__(self, clock: MonotonicClock) -> None:
        super().__init__(clock)
        self._own_clock = clock
        self.arrivals_s: list[float] = []

    def put(
        self, image: NDArray[np.uint8], *, source: str, index: int, pts_s: float | None, suspect: bool = False
    ) -> bool:
        self.arrivals_s.append(self._own_clock.now_s())
        return super().put(image, source=source, index=index, pts_s=pts_s, suspect=suspect)


def record_arrivals(spec: str, path: str | os.PathLike[str], *, duration_s: float) -> NDArray[np.float64]:
    """Write down when each frame of a source arrives, decoded and ready to be taken, one time in seconds a line.

    Nothing is classified meanwhile, so that every frame is seen. Ctrl-C ends it early, with what has come so far.

    Args:
        spec: The source, as for a live run.
        path: The file to write.
        duration_s: For how long, from the first frame on, in seconds.

    Returns:
        The arrivals, float64 [N], in seconds from the first.

    Raises:
        UsageError: The duration makes no sense.
        SourceError: The source cannot be opened, or gave fewer than two frames.
        OutputError: The file cannot be written.
    """
    if not 0 < duration_s <= 1e5:
        raise UsageError(f"a duration of {duration_s:g} s", "give one above 0 and up to 100,000")
    file = Path(path)
    check_writable(file)
    clock = MonotonicClock()
    slot = _NotingSlot(clock)
    source = source_from(spec)
    reader = Reader(source, slot, clock)
    over = threading.Event()
    with stop_on_signals(over.set):
        reader.start()
        try:
            reader.wait_opened(OPEN_TIMEOUT_S)
            begun_s = time.monotonic()
            while not over.wait(CHECK_S) and not (slot.ended and not slot.waiting):
                first_s = slot.arrivals_s[0] if slot.arrivals_s else begun_s + OPEN_TIMEOUT_S
                if clock.now_s() >= first_s + duration_s:
                    break
                slot.take(0.0)  # also raises what ended the source
        finally:
            state = reader.state
            reader.stop()
    times_s = np.array(slot.arrivals_s)
    if len(times_s) < 2:
        raise SourceError(f"'{source.name}' gave {len(times_s)} frames, it is {state.line}", "record for longer")
    times_s -= times_s[0]
    times_s = times_s[times_s <= duration_s]
    lines = [f"# arrivals of {source.name}, seconds\n", *(f"{time_s:.6f}\n" for time_s in times_s)]
    try:
        with whole_file(file) as written:
            written.write("".join(lines).encode())
    except OSError as error:
        raise output_error(file, error) from error
    return times_s
