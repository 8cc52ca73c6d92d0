"""When the next frame comes, by the gaps between those that came."""

from __future__ import annotations

from collections import deque

__all__ = ["Arrivals"]

WINDOW = 128
"""So many of the latest gaps count."""


class Arrivals:
    """The gaps between the frames of a source, as a distribution.

    Args:
        window: How many of the latest gaps count.
    """

    def __init__(self, *, window: int = WINDOW) -> None:
        self._gaps_s: deque[float] = deque(maxlen=window)

    def add(self, gap_s: float) -> None:
        """Take in one more gap, in seconds."""
        self._gaps_s.append(max(0.0, gap_s))

    def __len__(self) -> int:
        return len(self._gaps_s)
