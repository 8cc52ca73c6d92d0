"""Stand-ins for cameras, for tests and simulations: pictures, errors and arrival times come from a script."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from stream_ann.clock import FakeClock
from stream_ann.frames import Frame
from stream_ann.ingest.retries import Retries
from stream_ann.ingest.slot import SlotCounts, Taken
from stream_ann.ingest.source import Picture

__all__ = ["FakeSource", "ScriptedInbox", "ScriptedSlot"]

Item = Picture | NDArray[np.uint8] | BaseException


class FakeSource:
    """Gives the pictures, and raises the exceptions, that it was made with.

    Args:
        items: What each call of :meth:`read` gives: a picture, an image uint8 [H, W, 3] RGB without timestamp, or an
            exception to raise. May be endless.
        gaps_s: How long to wait before each item, in seconds of real time; none once they are used up.
        name: Name of the source.
        live: Whether its pictures come at their own pace.
        open_error: Raised by :meth:`open`.
        retries: When to open it again if it is live; never where None. It goes on with the next item.
    """

    def __init__(
        self,
        items: Iterable[Item],
        gaps_s: Iterable[float] = (),
        *,
        name: str = "fake",
        live: bool = False,
        open_error: BaseException | None = None,
        retries: Retries | None = None,
    ) -> None:
        self.name = name
        self.live = live
        self.retries = retries
        self.opened = self.closed = 0
        """How often each was called."""
        self._items: Iterator[Item] = iter(items)
        self._gaps_s = iter(gaps_s)
        self._open_error = open_error
        self._cancelled = threading.Event()

    def open(self) -> None:
        """Open, or raise the error given."""
        self.opened += 1
        if self._open_error is not None:
            raise self._open_error

    def read(self) -> Picture | None:
        """The next item of the script, after its gap; None at the end and once cancelled."""
        if self._cancelled.wait(next(self._gaps_s, 0.0)):
            return None
        item = next(self._items, None)
        if isinstance(item, BaseException):
            raise item
        if isinstance(item, np.ndarray):
            return Picture(item, None)
        return item

    def close(self) -> None:
        """Count the call."""
        self.closed += 1

    def cancel(self) -> None:
        """End a waiting :meth:`read`."""
        self._cancelled.set()


class ScriptedSlot:
    """A live slot whose frames arrive by a script on a fake clock: the same every time, and no threads.

    A frame is there from its ``arrival_s`` on, and takes the place of an older one that was not taken. Waiting for a
    frame moves the clock.

    Args:
        arrivals: The frames, by time of arrival; or just the times, for frames of 2 x 2 black pixels.
        clock: The clock, which the engine and the scheduler share.
        error: Raised by :meth:`take` after the last frame.

    Raises:
        ValueError: If the arrivals are not in order.
    """

    def __init__(
        self, arrivals: Iterable[Frame | float], clock: FakeClock, *, error: BaseException | None = None
    ) -> None:
        self._clock = clock
        self._error = error
        self._frames = [a if isinstance(a, Frame) else _black(i, a) for i, a in enumerate(arrivals)]
        times_s = [frame.arrival_s for frame in self._frames]
        if times_s != sorted(times_s):
            raise ValueError(f"arrivals must be in order, got {times_s}")
        self._waiting: Frame | None = None
        self._next_arrival_s = 0.0
        self._put = self._taken = self._replaced = self._replaced_since = self._unused = 0
        self._closed = False

    @property
    def lossless(self) -> bool:
        """False: frames are replaced."""
        return False

    @property
    def counts(self) -> SlotCounts:
        """Where the frames have gone that have arrived so far."""
        self._arrive()
        return SlotCounts(self._put, self._taken, self._replaced, int(self._waiting is not None), self._unused)

    def take(self, timeout_s: float) -> Taken | None:
        """The newest frame, after moving the clock on to the next arrival where none is there.

        Args:
            timeout_s: How far to move the clock at most, in seconds.

        Returns:
            The frame, or None when the time is up or there will be no more.
        """
        self._arrive()
        if self._waiting is None and not self._closed:
            if self._put == len(self._frames):
                if self._error is not None:
                    raise self._error
                return None
            next_s = self._frames[self._put].arrival_s
            self._clock.advance_to(min(next_s, self._clock.now_s() + timeout_s))
            self._arrive()
        frame = self._waiting
        if frame is None:
            return None
        self._waiting = None
        self._taken += 1
        replaced, self._replaced_since = self._replaced_since, 0
        return Taken(frame, replaced)

    def wait(self, timeout_s: float) -> bool:
        """Move the clock on to the next arrival, by at most so many seconds; not at all where a frame waits.

        Returns:
            Whether a frame waits.
        """
        self._clock.advance_to(min(self.next_s, self._clock.now_s() + timeout_s))
        return self.waiting

    @property
    def next_s(self) -> float:
        """When the next change comes that wakes :meth:`wait`, in seconds: now, an arrival, or never."""
        if self.waiting:
            return self._clock.now_s()
        return math.inf if self._closed or self._put == len(self._frames) else self._frames[self._put].arrival_s

    @property
    def waiting(self) -> bool:
        """Whether there is a frame to take."""
        self._arrive()
        return self._waiting is not None

    def newer_waiting(self) -> bool:
        """Whether a frame has arrived since the last one was taken."""
        self._arrive()
        return self._waiting is not None

    @property
    def next_arrival_s(self) -> float | None:
        """Arrival of the first frame since the last one taken, though others may have replaced it; None without one."""
        self._arrive()
        return None if self._waiting is None else self._next_arrival_s

    @property
    def ended(self) -> bool:
        """Whether no frame will be there ever again."""
        self._arrive()
        return self._closed or (self._waiting is None and self._put == len(self._frames))

    def close(self) -> None:
        """Take no more frames; one that waits is counted as unused."""
        self._arrive()
        self._closed = True
        self._unused += int(self._waiting is not None)
        self._waiting = None

    def _arrive(self) -> None:
        """Put in every frame whose time has come."""
        while not self._closed and self._put < len(self._frames):
            frame = self._frames[self._put]
            if frame.arrival_s > self._clock.now_s():
                return
            self._put += 1
            if self._waiting is None:
                self._next_arrival_s = frame.arrival_s
            else:
                self._replaced += 1
                self._replaced_since += 1
            self._waiting = frame


class ScriptedInbox:
    """Waits for several scripted slots at once by moving their clock on.

    Args:
        slots: The slots.
        clock: Their clock.
    """

    def __init__(self, slots: Sequence[ScriptedSlot], clock: FakeClock) -> None:
        self._slots, self._clock = slots, clock

    def wait(self, timeout_s: float) -> bool:
        """Move the clock on to the next arrival in any slot, by at most so many seconds.

        Returns:
            Whether a frame waits in one of them.
        """
        next_s = min(slot.next_s for slot in self._slots)
        self._clock.advance_to(min(next_s, self._clock.now_s() + timeout_s))
        return any(slot.waiting for slot in self._slots)


def _black(index: int, arrival_s: float) -> Frame:
    return Frame(np.zeros((2, 2, 3), dtype=np.uint8), "fake", index, arrival_s, arrival_s)
