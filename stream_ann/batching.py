"""Batches that stay full while their frames leave one by one: the logic of offline labelling, without device or files.

After each exit the frames that are sure leave, and the rest goes on. Batches would shrink from step to step, so before
each member of the plan (where no state is carried over) its frames wait until enough of them are there to fill a batch.
Which frames run together follows from their order and their answers alone, never from time: that is what makes a run
that was interrupted end in the same bytes as one that was not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Allowance", "InOrder", "Pace", "Stations", "Together"]

T = TypeVar("T")

SPENT_AT_ONCE = 8
"""Time that frames have saved is kept for this many batches of the whole plan, at most."""


@dataclass(frozen=True, slots=True)
class Together(Generic[T]):
    """Frames that are to run together."""

    station: int
    """The member that they wait for, from 0."""
    items: tuple[T, ...]
    """The frames, longest waiting first."""


class Stations(Generic[T]):
    """The queues before the members of a plan, first come first served. Holds fewer than ``2 * batch`` frames each.

    Args:
        count: Number of members.
        batch: Frames that run together, at most.
    """

    def __init__(self, count: int, batch: int) -> None:
        if count < 1 or batch < 1:
            raise ValueError(f"count and batch must be at least 1, got {count} and {batch}")
        self._waiting: tuple[deque[T], ...] = tuple(deque() for _ in range(count))
        self._batch = batch

    def __len__(self) -> int:
        """How many frames wait, at all stations."""
        return sum(len(queue) for queue in self._waiting)

    def add(self, item: T) -> None:
        """A new frame arrives at the first member. Take :meth:`full` batches away before adding more.

        Raises:
            ValueError: If a whole batch waits there already.
        """
        if len(self._waiting[0]) >= self._batch:
            raise ValueError("a whole batch waits already: run it first")
        self._waiting[0].append(item)

    def go_on(self, station: int, items: Sequence[T]) -> None:
        """Frames that were not sure enough wait for the member ``station``."""
        self._waiting[station].extend(items)

    def full(self) -> Together[T] | None:
        """The next full batch, of the deepest member that has one; None where none is full."""
        for station in reversed(range(len(self._waiting))):
            if len(self._waiting[station]) >= self._batch:
                return self._take(station)
        return None

    def rest(self) -> Together[T] | None:
        """The next batch once no more frames come, full or not: of the first member with any; None when none wait."""
        full = self.full()
        if full is not None:
            return full
        for station, queue in enumerate(self._waiting):
            if queue:
                return self._take(station)
        return None

    def _take(self, station: int) -> Together[T]:
        queue = self._waiting[station]
        return Together(station, tuple(queue.popleft() for _ in range(min(self._batch, len(queue)))))


class InOrder(Generic[T]):
    """Gives things back in the order of their numbers, whatever order they come in."""

    def __init__(self) -> None:
        self._next = 0
        self._early: dict[int, T] = {}

    def __len__(self) -> int:
        """How many wait for one before them."""
        return len(self._early)

    def put(self, number: int, item: T) -> Iterator[T]:
        """Take in one; gives it and those behind it as far as nothing is missing.

        Raises:
            ValueError: If there was one of that number already.
        """
        if number < self._next or number in self._early:
            raise ValueError(f"number {number} came twice")
        self._early[number] = item
        while self._next in self._early:
            yield self._early.pop(self._next)
            self._next += 1


Pace = Callable[[], float | None]
"""How long a frame may take now on average, in seconds; None for as long as it takes."""


class Allowance:
    """What frames may cost on average: each brings some time along, and deeper steps are paid from what is there.

    Args:
        pace: How long a frame may take.
        most_s: What one batch of the whole plan takes: time saved is kept for a few of these at most.
    """

    def __init__(self, pace: Pace, most_s: float) -> None:
        self._pace = pace
        self._most_s = most_s * SPENT_AT_ONCE
        self._left_s = 0.0

    def came(self, frames: int) -> None:
        """Frames have begun."""
        each_s = self._pace()
        self._left_s = self._most_s if each_s is None else min(self._most_s, self._left_s + frames * each_s)

    def spent(self, seconds: float) -> None:
        """A step has run."""
        self._left_s -= seconds

    def affordable(self, frames: int, each_s: float) -> int:
        """How many of ``frames`` can run another step that takes ``each_s`` seconds for each of them."""
        if self._pace() is None or each_s <= 0:
            return frames
        return max(0, min(frames, int(self._left_s / each_s)))
