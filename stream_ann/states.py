"""How a source is doing: the states that a camera goes through, said the same way in every view and output."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["TROUBLED", "SourceState", "StateChange", "StateFeed"]

SourceState = Literal["connecting", "live", "stalled", "reconnecting", "refused", "ended"]
"""``connecting``: opened for the first time, no picture yet. ``live``: pictures come. ``stalled``: connected, but no
picture for longer than expected. ``reconnecting``: the connection was lost and is tried again. ``refused``: the other
side says no (wrong password, nothing of that name), tried again slowly. ``ended``: it will give no picture any more."""

TROUBLED: frozenset[SourceState] = frozenset({"connecting", "stalled", "reconnecting", "refused"})
"""States in which the last picture is not what the camera sees now."""


@dataclass(frozen=True, slots=True)
class StateChange:
    """A source has passed into another state."""

    source: str
    """Name of the source, fit to be shown (passwords redacted)."""
    state: SourceState
    """The state that it is in now."""
    since_s: float
    """Monotonic time at which it began, in seconds."""
    why: str = ""
    """What led to it, in one line fit to be shown, e.g. ``"the camera does not answer"``; empty where that is plain."""
    attempt: int = 0
    """Which attempt at connecting this is, from 1; 0 outside of attempts."""

    @property
    def line(self) -> str:
        """The state in words, e.g. ``"reconnecting (attempt 3): the camera does not answer"``."""
        attempt = f" (attempt {self.attempt})" if self.attempt > 1 else ""
        why = f": {self.why}" if self.why else ""
        return f"{self.state}{attempt}{why}"

    def as_event(self) -> dict[str, Any]:
        """The change as one line of ``--events``; its key ``state`` tells it from a frame's line."""
        return {
            "source": self.source,
            "state": self.state,
            "since_s": round(self.since_s, 6),
            "why": self.why,
            "attempt": self.attempt,
        }


class StateFeed:
    """Hands changes of state on to whoever listens, those from before they listened included. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._past: deque[StateChange] = deque(maxlen=64)
        self._listeners: tuple[Callable[[StateChange], None], ...] = ()

    def put(self, change: StateChange) -> None:
        """A source has passed into another state."""
        with self._lock:
            self._past.append(change)
            for listener in self._listeners:
                listener(change)

    def listen(self, listener: Callable[[StateChange], None]) -> None:
        """Call ``listener`` with every change: the past ones now, each later one when it comes, one at a time.

        Args:
            listener: Called from whichever thread a change comes from; it must not wait, nor change any state.
        """
        with self._lock:
            for change in self._past:
                listener(change)
            self._listeners += (listener,)
