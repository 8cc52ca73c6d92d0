"""Following a live source in tests: what states it goes through, and what pictures come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from stream_ann.clock import Clock, MonotonicClock
from stream_ann.frames import Frame
from stream_ann.ingest import Reader, Slot, Source, SourceOptions, source_from
from stream_ann.states import SourceState, StateChange

PATIENCE_S = 30.0
"""How long to wait for what must happen, in seconds: on a machine with much else to do, everything takes long."""


def quick(**others: Any) -> SourceOptions:
    """Options with timeouts as short as a busy machine allows."""
    return SourceOptions(**{"connect_timeout_s": 2.0, "read_timeout_s": 1.5, **others})


class Watched:
    """Reads a source as a run does, and notes its states, its warnings and its frames. Stops with its context."""

    def __init__(
        self, source: Source | str, options: SourceOptions | None = None, *, clock: Clock | None = None
    ) -> None:
        self.source = source_from(source, options or quick()) if isinstance(source, str) else source
        self.states: list[StateChange] = []
        self.warnings: list[str] = []
        self.frames: list[Frame] = []
        self.error: BaseException | None = None
        self.slot = Slot(MonotonicClock())
        self.reader = Reader(
            self.source, self.slot, clock, on_state=self.states.append, on_warning=self.warnings.append
        )
        self._before = set(threading.enumerate())

    def __enter__(self) -> Watched:
        self.reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.slot.close()
        self.reader.stop()
        deadline_s = time.monotonic() + PATIENCE_S
        while self.left_behind():  # within its timeouts, libav lets go
            assert time.monotonic() < deadline_s, f"threads left behind: {self.left_behind()}"
            time.sleep(0.01)

    def left_behind(self) -> list[str]:
        """Threads of the library that were not there before."""
        return [t.name for t in set(threading.enumerate()) - self._before if t.name.startswith("stream-ann")]

    def until(self, reached: Callable[[], object]) -> None:
        """Take frames until something is so, or the source has ended."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not reached():
            assert time.monotonic() < deadline_s, (self.names, self.warnings, len(self.frames))
            try:
                taken = self.slot.take(0.05)
            except Exception as error:
                self.error = error
                return
            if taken is not None:
                self.frames.append(taken.frame)

    def until_state(self, *states: SourceState) -> StateChange:
        """Take frames until the source has gone through these states, in this order, from the last one on."""
        begin = len(self.states)

        def found() -> bool:
            wanted = list(states)
            for change in self.states[max(0, begin - 1) :]:
                if wanted and change.state == wanted[0]:
                    wanted.pop(0)
            return not wanted

        self.until(found)
        assert found(), (states, self.names)
        return self.states[-1]

    def more_frames(self, count: int) -> list[Frame]:
        """Take so many more frames."""
        begin = len(self.frames)
        self.until(lambda: len(self.frames) >= begin + count)
        return self.frames[begin:]

    @property
    def names(self) -> list[str]:
        """The states so far, by name."""
        return [change.state for change in self.states]
