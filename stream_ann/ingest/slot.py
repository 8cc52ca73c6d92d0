"""The slot: the one-place mailbox between the reader thread and the scheduler."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_ann.clock import Clock
from stream_ann.frames import Frame

__all__ = ["Inbox", "Slot", "SlotCounts", "Taken"]

SLICE_S = 0.1
"""No single wait is longer than this, in seconds, so that nothing can sleep for ever through a lost wake-up."""


class Taken(NamedTuple):
    """A frame handed over to the consumer."""

    frame: Frame
    """The frame."""
    replaced_before: int
    """How many frames were replaced in the slot since the last one that was taken."""


@dataclass(frozen=True, slots=True)
class SlotCounts:
    """Where the frames went. At any moment ``put == taken + replaced + waiting + unused``."""

    put: int = 0
    """Frames that the reader put in."""
    taken: int = 0
    """Frames that the consumer took out."""
    replaced: int = 0
    """Frames that were never looked at, because a newer one took their place."""
    waiting: int = 0
    """Frames in the slot, 0 or 1."""
    unused: int = 0
    """Frames that waited when the consumer left, or came afterwards: read ahead, and not needed any more."""


class Inbox:
    """Where a consumer of several slots waits for whichever has something new first.

    Nothing gets lost between looking at the slots and waiting: what was told since the last wait ends the next at once.
    """

    def __init__(self) -> None:
        self._news = threading.Event()

    def tell(self) -> None:
        """Wake the consumer. Safe from any thread."""
        self._news.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait for news, for at most so many seconds; whether there was any."""
        told = self._news.wait(timeout_s)
        self._news.clear()
        return told


class Slot:
    """Holds at most one frame, for one reader thread that puts and one consumer thread that takes.

    Live, a newer frame takes the place of an older one, which is counted, so that whoever takes always gets the newest.
    Lossless, :meth:`put` waits until the place is free, and no frame is ever replaced while the consumer is there.

    Args:
        clock: Stamps each frame's arrival.
        lossless: Wait instead of replacing. A frame then arrives when it is taken: its waiting is nobody's latency.
        inbox: Told of every frame and of the end, for a consumer that waits for several slots at once.
    """

    def __init__(self, clock: Clock, *, lossless: bool = False, inbox: Inbox | None = None) -> None:
        self._inbox = inbox
        self._clock = clock
        self._lossless = lossless
        self._changed = threading.Condition(threading.Lock())
        self._waiting: Frame | None = None
        self._next_arrival_s = 0.0
        self._put = self._taken = self._replaced = self._replaced_since = self._unused = 0
        self._finished = self._closed = False
        self._error: BaseException | None = None

    @property
    def lossless(self) -> bool:
        """Whether frames wait for their turn instead of being replaced."""
        return self._lossless

    @property
    def counts(self) -> SlotCounts:
        """Where the frames have gone so far."""
        with self._changed:
            waiting = int(self._waiting is not None)
            return SlotCounts(self._put, self._taken, self._replaced, waiting, self._unused)

    # the reader's side

    def put(
        self, image: NDArray[np.uint8], *, source: str, index: int, pts_s: float | None, suspect: bool = False
    ) -> bool:
        """Put in the next frame. Lossless, wait for the place to be free, or for the consumer to leave.

        Args:
            image: The picture, uint8 [H, W, 3] RGB, which nobody may write to from now on.
            source: Name of the source.
            index: Number of the frame in its source.
            pts_s: Presentation time in seconds, or None.
            suspect: Whether parts of the picture may be wrong.

        Returns:
            Whether there is still somebody to take frames. A frame put in afterwards is counted as unused.

        Raises:
            RuntimeError: If :meth:`finish` was called before.
        """
        frame = Frame(image, source, index, pts_s, self._clock.now_s(), suspect)
        while not self.wait_free(SLICE_S):
            pass
        with self._changed:
            if self._finished:
                raise RuntimeError("put() after finish()")
            self._put += 1
            if self._closed:
                self._unused += 1
                return False
            if self._waiting is None:
                self._next_arrival_s = frame.arrival_s
            else:
                self._replaced += 1
                self._replaced_since += 1
            self._waiting = frame
            self._tell()
            return True

    def wait_free(self, timeout_s: float) -> bool:
        """Wait until :meth:`put` would not have to: at once in a live slot, and in one that was closed.

        Args:
            timeout_s: How long to wait at most, in seconds.

        Returns:
            Whether it would not.
        """
        with self._changed:
            return self._wait(timeout_s, self._is_free)

    def finish(self, error: BaseException | None = None) -> None:
        """Say that no frame will come any more. Only the first call counts.

        Args:
            error: What ended the source, raised by :meth:`take` once the last frame has been taken.
        """
        with self._changed:
            if not self._finished:
                self._finished, self._error = True, error
                self._tell()

    # the consumer's side

    def take(self, timeout_s: float) -> Taken | None:
        """Take out the frame that waits, or wait for one.

        Args:
            timeout_s: How long to wait at most, in seconds.

        Returns:
            The frame, or None when the time is up or no frame will ever come again (see :attr:`ended`).

        Raises:
            BaseException: The error that the reader finished with, after the last frame.
        """
        with self._changed:
            self._wait(timeout_s, lambda: self._waiting is not None or self._finished or self._closed)
            frame = self._waiting
            if frame is None:
                if self._error is not None and not self._closed:
                    raise self._error
                return None
            self._waiting = None
            self._taken += 1
            replaced, self._replaced_since = self._replaced_since, 0
            self._changed.notify_all()
        if self._lossless:
            frame = replace(frame, arrival_s=self._clock.now_s())
        return Taken(frame, replaced)

    def wait(self, timeout_s: float) -> bool:
        """Wait until a frame waits or none will come any more.

        Args:
            timeout_s: How long to wait at most, in seconds.

        Returns:
            Whether that is so.
        """
        with self._changed:
            return self._wait(timeout_s, lambda: self._waiting is not None or self._finished or self._closed)

    @property
    def waiting(self) -> bool:
        """Whether there is a frame to take."""
        return self._waiting is not None

    def newer_waiting(self) -> bool:
        """Whether a newer frame waits, that the present one has to make room for. Never in a lossless slot."""
        # read without the lock, as this is asked after every step: a reference is read as a whole
        return self._waiting is not None and not self._lossless

    @property
    def next_arrival_s(self) -> float | None:
        """Arrival of the first frame since the last one taken, in seconds of the clock.

        That is when the budget of the frame taken ended. None where none has come, and in a lossless slot.
        """
        with self._changed:
            return None if self._waiting is None or self._lossless else self._next_arrival_s

    @property
    def ended(self) -> bool:
        """Whether no frame will ever be taken again: the reader has finished and nothing waits, or it is closed."""
        with self._changed:
            return self._closed or (self._finished and self._waiting is None)

    def close(self) -> None:
        """Take no more frames: one that waits is counted as unused, and a waiting reader wakes. Can be repeated."""
        with self._changed:
            if self._waiting is not None:
                self._waiting = None
                self._unused += 1
            self._closed = True
            self._tell()

    def _tell(self) -> None:
        """Wake whoever waits, with the lock held."""
        self._changed.notify_all()
        if self._inbox is not None:
            self._inbox.tell()

    def _is_free(self) -> bool:
        return not self._lossless or self._waiting is None

    def _wait(self, timeout_s: float, done: Callable[[], bool]) -> bool:
        """Wait in slices until ``done()``, with the lock held. Time is the system's own here: threads live in it."""
        end_s = time.monotonic() + timeout_s
        while not done():
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return False
            self._changed.wait(min(left_s, SLICE_S))
        return True
