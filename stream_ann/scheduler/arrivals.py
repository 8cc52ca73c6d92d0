"""When the next frame comes, by the gaps between those that came."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections import deque

__all__ = ["Arrivals"]

WINDOW = 64
"""So many of the latest gaps count: two seconds of a usual camera."""
KNOWN = 8
"""From so many gaps on, their distribution is taken for known."""
PAUSE = 4.0
"""A gap of so many typical ones is a pause: part of the distribution, but not of the rate."""


class Arrivals:
    """The gaps between the frames of one source, as a distribution.

    What is wanted is the time that a frame has: from its arrival to that of the next one, whether that one was ever
    looked at or not. Where frames were replaced it is known for the first of them, and the others are counted over the
    span in which they came, so that the figures stay right when most frames are replaced. An average of gaps that
    forgets, on the other hand, would follow each jitter and be thrown by each pause.

    Args:
        window: How many of the latest gaps count.
    """

    def __init__(self, *, window: int = WINDOW) -> None:
        self._gaps_s: deque[float] = deque(maxlen=window)
        self._spans: deque[tuple[float, int]] = deque(maxlen=window)
        self._sorted_s: list[float] | None = None
        self._mean_s: float | None = None
        self._last_s: float | None = None
        self.seen = 0
        """How many gaps have been taken in over all."""

    def add(self, gap_s: float, *, span_s: float | None = None, frames: int = 1) -> None:
        """Take in one more gap.

        Args:
            gap_s: From a frame's arrival to the next one's, in seconds.
            span_s: In which ``frames`` frames came, this gap included, in seconds; the gap itself by default.
            frames: How many frames came in that span.
        """
        self._gaps_s.append(max(0.0, gap_s))
        self._spans.append((max(0.0, gap_s if span_s is None else span_s), frames))
        self._sorted_s = self._mean_s = None
        self.seen += 1

    def took(self, arrival_s: float, *, replaced: int, first_s: float | None) -> None:
        """Note that a frame was taken from the slot.

        Args:
            arrival_s: Its arrival, in seconds.
            replaced: How many were replaced since the frame taken before.
            first_s: Arrival of the first of those, in seconds; None where that is not known.
        """
        before_s, self._last_s = self._last_s, arrival_s
        if before_s is None:
            return
        span_s = arrival_s - before_s
        if replaced and first_s is not None:
            self.add(first_s - before_s, span_s=span_s, frames=replaced + 1)
        else:
            self.add(span_s / (replaced + 1), span_s=span_s, frames=replaced + 1)

    def __len__(self) -> int:
        return len(self._gaps_s)

    @property
    def known(self) -> bool:
        """Whether enough gaps have been seen to plan by them."""
        return len(self._gaps_s) >= KNOWN

    @property
    def gaps_s(self) -> list[float]:
        """The latest gaps in seconds, shortest first. Not to be changed."""
        if self._sorted_s is None:
            self._sorted_s = sorted(self._gaps_s)
        return self._sorted_s

    def quantile_s(self, share: float) -> float:
        """The gap that a share of the latest ones do not exceed (nearest rank), in seconds; 0 before the first gap."""
        gaps_s = self.gaps_s
        return gaps_s[min(len(gaps_s) - 1, int(share * len(gaps_s)))] if gaps_s else 0.0

    @property
    def mean_s(self) -> float | None:
        """Mean time between frames, replaced ones included and pauses left out, in seconds; None before the first."""
        if self._mean_s is None and self._spans:
            longest_s = PAUSE * statistics.median(span_s / frames for span_s, frames in self._spans)
            counted = [(span_s, frames) for span_s, frames in self._spans if span_s / frames <= longest_s]
            self._mean_s = sum(span_s for span_s, _ in counted) / sum(frames for _, frames in counted)
        return self._mean_s

    @property
    def last_s(self) -> float | None:
        """Arrival of the frame that was taken last, in seconds; None before the first."""
        return self._last_s

    def chance(self, elapsed_s: float, more_s: float) -> float:
        """Probability that no newer frame comes within ``more_s``, given that none has come in ``elapsed_s``.

        Both in seconds, counted from a frame's arrival. One gap without end is always reckoned with, since every
        camera pauses some day.
        """
        gaps_s = self.gaps_s
        still = len(gaps_s) - bisect_right(gaps_s, elapsed_s) + 1
        later = len(gaps_s) - bisect_right(gaps_s, elapsed_s + more_s) + 1
        return later / still
