"""How a source is doing: its state, and whether its pictures have stopped coming."""

from __future__ import annotations

import statistics
import threading
from collections import deque
from collections.abc import Callable

from stream_ann.clock import Clock
from stream_ann.states import SourceState, StateChange

__all__ = ["Cadence", "StallWatch", "StateKeeper"]

MIN_STALL_S = 1.0
"""No gap between two pictures that is shorter than this is a stall, in seconds."""
STALL_GAPS = 3.0
"""A gap so many times as long as usual is a stall."""
_GAPS = 9
_LOOK_AGAIN_S = 60.0


class StateKeeper:
    """Keeps the state of one source, and tells of every change. Safe to use from any thread.

    Args:
        source: Name of the source.
        clock: Dates the changes.
        on_state: Called with every change of the state or its reason, one at a time and in order. It must not wait.
    """

    def __init__(self, source: str, clock: Clock, on_state: Callable[[StateChange], None] | None = None) -> None:
        self._clock = clock
        self._on_state = on_state
        self._lock = threading.RLock()
        self._current = StateChange(source, "connecting", clock.now_s(), attempt=1)

    @property
    def current(self) -> StateChange:
        """The state that the source is in, and since when."""
        return self._current

    def announce(self) -> None:
        """Tell of the present state, as the first one."""
        with self._lock:
            self._tell()

    def change(
        self, state: SourceState, why: str = "", *, attempt: int = 0, only_from: SourceState | None = None
    ) -> None:
        """Pass into a state. The same one with another reason is told, too, but goes on since it began.

        Args:
            state: The state.
            why: What led to it, in one line fit to be shown.
            attempt: Which attempt at connecting this is, from 1; 0 outside of attempts.
            only_from: Leave everything as it is, unless the source is in this state.
        """
        with self._lock:
            now = self._current
            if (only_from is not None and now.state != only_from) or now.state == "ended":
                return
            since_s = now.since_s if state == now.state else self._clock.now_s()
            self._current = StateChange(now.source, state, since_s, why, attempt)
            if (state, why) != (now.state, now.why):
                self._tell()

    def _tell(self) -> None:
        if self._on_state is not None:
            self._on_state(self._current)


class Cadence:
    """How far apart pictures usually come."""

    def __init__(self) -> None:
        self._gaps_s: deque[float] = deque(maxlen=_GAPS)

    def add(self, gap_s: float) -> None:
        """Take in one more gap between two pictures, in seconds."""
        self._gaps_s.append(gap_s)

    @property
    def patience_s(self) -> float:
        """A longer gap than this is a stall, in seconds. A camera of few pictures a second is given more time."""
        usual_s = statistics.median(self._gaps_s) if self._gaps_s else 0.0
        return max(MIN_STALL_S, STALL_GAPS * usual_s)


class StallWatch:
    """Watches from a thread of its own whether pictures keep coming, since the one that reads them waits meanwhile.

    Args:
        name: Name of the source.
        clock: Tells the time.
        on_stall: Called from the thread with how long no picture has come, in seconds, once for each stall.
    """

    def __init__(self, name: str, clock: Clock, on_stall: Callable[[float], None]) -> None:
        self._clock = clock
        self._on_stall = on_stall
        self._changed = threading.Condition()
        self._cadence = Cadence()
        self._last_s: float | None = None
        self._stalled = self._stopped = False
        self._thread = threading.Thread(target=self._run, name=f"stream-ann stall watch {name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def beat(self) -> None:
        """A picture has come."""
        now_s = self._clock.now_s()
        with self._changed:
            if self._last_s is None or self._stalled:
                self._changed.notify_all()  # nobody watches: the thread sleeps until it is told
            if self._last_s is not None:
                self._cadence.add(now_s - self._last_s)
            self._last_s, self._stalled = now_s, False

    def rest(self) -> None:
        """No picture is expected: the source is not connected."""
        with self._changed:
            self._last_s = None

    def stop(self) -> None:
        """End the thread. Can be repeated."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the thread, in seconds at most."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def overdue_s(self) -> float | None:
        """For how long the next picture has been overdue, in seconds: below 0 before its time, None without any."""
        with self._changed:
            return self._overdue_s()

    def _overdue_s(self) -> float | None:
        if self._last_s is None or self._stalled:
            return None
        return self._clock.now_s() - self._last_s - self._cadence.patience_s

    def _run(self) -> None:
        while (gap_s := self._next_stall_s()) is not None:
            # without the lock, for whoever is told may take a moment, and no picture should wait for that
            self._on_stall(gap_s)

    def _next_stall_s(self) -> float | None:
        """Wait for the next stall: for how long no picture has come then, in seconds; None once stopped."""
        with self._changed:
            while not self._stopped:
                overdue_s = self._overdue_s()
                if overdue_s is None or self._last_s is None:
                    self._changed.wait(_LOOK_AGAIN_S)
                elif overdue_s < 0:
                    self._changed.wait(-overdue_s)
                else:
                    self._stalled = True
                    return self._clock.now_s() - self._last_s
        return None
