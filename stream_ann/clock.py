"""Clocks. All scheduling uses a monotonic clock in seconds; wall time appears in no computation."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "FakeClock", "MonotonicClock"]


class Clock(Protocol):
    """Something that tells a monotonic time."""

    def now_s(self) -> float:
        """Seconds since an arbitrary origin; never goes back."""
        ...


class MonotonicClock:
    """The system's monotonic clock."""

    def now_s(self) -> float:
        """Seconds since an arbitrary origin; never goes back."""
        return time.monotonic()


class FakeClock:
    """A clock that moves only when told to, for tests and simulations.

    Args:
        start_s: The first time that it tells.
    """

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now_s(self) -> float:
        """The current time, in seconds."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Move on by ``seconds``.

        Raises:
            ValueError: If that would go back in time.
        """
        if seconds < 0:
            raise ValueError(f"a clock cannot go back, got {seconds=}")
        self._now_s += seconds

    def advance_to(self, time_s: float) -> None:
        """Move on to ``time_s``, or stay where that has passed."""
        self._now_s = max(self._now_s, time_s)
