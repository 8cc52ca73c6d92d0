"""How a source is doing: the states that a camera goes through, said the same way in every view and output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["SourceState", "StateChange"]

SourceState = Literal["connecting", "live", "stalled", "reconnecting", "refused", "ended"]
"""``connecting``: opened for the first time, no picture yet. ``live``: pictures come. ``stalled``: connected, but no
picture for longer than expected. ``reconnecting``: the connection was lost and is tried again. ``refused``: the other
side says no (wrong password, nothing of that name), tried again slowly. ``ended``: it will give no picture any more."""


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

    def as_event(self) -> dict[str, Any]:
        """The change as one line of ``--events``; its key ``state`` tells it from a frame's line."""
        return {
            "source": self.source,
            "state": self.state,
            "since_s": round(self.since_s, 6),
            "why": self.why,
            "attempt": self.attempt,
        }
