"""The reader thread: source to slot, at the source's own pace."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from stream_ann.clock import Clock, MonotonicClock
from stream_ann.errors import DecodeError, DisconnectedError, SourceError
from stream_ann.ingest.retries import REFUSALS, Retries, retry_delay_s
from stream_ann.ingest.slot import SLICE_S, Slot
from stream_ann.ingest.source import Cancellable, Paced, Picture, Remarking, Returning, Source
from stream_ann.ingest.watching import StallWatch, StateKeeper
from stream_ann.states import SourceState, StateChange

__all__ = ["Pacer", "Reader", "ReaderCounts"]

MAX_GAP_S = 10.0
"""A longer step between two timestamps is taken for a cut in the recording, not for a pause to sit through."""
MAX_LAG_S = 1.0
"""Playback that is later than this gives the lost time up, rather than racing to catch up with it."""
MAX_DAMAGED_IN_A_ROW = 10_000
"""So many damaged frames without a good one in between are taken for a source that will never recover."""
WARNINGS = 5
"""So many damaged frames are reported one by one; the rest is counted."""
STEADY_S = 5.0
"""A live source that is lost again within this time of coming back counts as away since the first loss, in seconds."""


@dataclass(frozen=True, slots=True)
class ReaderCounts:
    """What a reader has got from its source so far."""

    frames_in: int = 0
    """Frames handed to the slot, and damaged ones."""
    corrupt: int = 0
    """Frames that could not be decoded."""


class Pacer:
    """Says how long each picture of a recording has to wait for its time.

    The first picture is due at once, and every later one as long after it as the timestamps say. Where they jump back,
    or ahead by more than :data:`MAX_GAP_S`, the count starts afresh. So it does where playback is more than
    :data:`MAX_LAG_S` late: a slow source plays on at its own speed instead of falling ever further behind.

    Args:
        clock: Tells the time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_s: float | None = None
        self._last_pts_s = 0.0

    def wait_s(self, pts_s: float | None) -> float:
        """How long the next picture has to wait, in seconds; 0 where its time has come or is not known.

        Args:
            pts_s: Its presentation time in seconds, or None.
        """
        if pts_s is None:
            return 0.0
        now_s = self._clock.now_s()
        step_s = pts_s - self._last_pts_s
        self._last_pts_s = pts_s
        if self._offset_s is not None and 0 <= step_s <= MAX_GAP_S:
            wait_s = pts_s + self._offset_s - now_s
            if wait_s >= -MAX_LAG_S:
                return max(0.0, wait_s)
        self._offset_s = now_s - pts_s
        return 0.0


class Reader:
    """Reads a source in a thread of its own and puts its frames into a slot.

    A live source that can be opened again (:class:`~stream_ann.ingest.source.Returning`) is, whenever it fails or ends,
    as often as its retries say. Every other one ends, and so does whatever the consumer has left or :meth:`stop` was
    called on. However it ends, the slot is told, with the error if there was one, so that whoever takes from it never
    waits in vain. Once the thread has ended, ``frames_in == corrupt`` + the frames put into the slot.

    Args:
        source: Where frames come from. Only the thread touches it; it is closed at the end.
        slot: Where they go.
        clock: Paces a recording, and dates the changes of state.
        realtime: Play a recording at the pace of its timestamps. Live sources have a pace of their own anyway.
        on_warning: Called from the thread with one line for what went wrong without ending the run.
        on_state: Called with every state that the source passes into, and every new reason for it, the first one
            included, one at a time and in order, from the reader's threads. It must not wait.
        chance: Spreads the attempts at reconnecting.
    """

    def __init__(
        self,
        source: Source,
        slot: Slot,
        clock: Clock | None = None,
        *,
        realtime: bool = True,
        on_warning: Callable[[str], None] | None = None,
        on_state: Callable[[StateChange], None] | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self._source = source
        self._slot = slot
        self._clock = clock or MonotonicClock()
        self._realtime = realtime
        self._pacer: Pacer | None = None
        self._on_warning = on_warning
        self._chance = chance or random.Random()  # noqa: S311 - nothing is kept secret with it
        self._states = StateKeeper(source.name, self._clock, on_state)
        self._stalls = StallWatch(source.name, self._clock, self._stalled)
        self._stop = threading.Event()
        self._opened = threading.Event()
        self._open_error: BaseException | None = None
        self._counts = ReaderCounts()
        self._index = 0
        self._came_back_s: float | None = None
        self._said = ""
        self._thread = threading.Thread(target=self._run, name=f"stream-ann reader {source.name}", daemon=True)

    @property
    def counts(self) -> ReaderCounts:
        """What has come in so far. A snapshot; safe from any thread."""
        return self._counts

    @property
    def state(self) -> StateChange:
        """How the source is doing, and since when. Safe from any thread."""
        return self._states.current

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: If it was started before.
        """
        self._thread.start()

    def wait_opened(self, timeout_s: float) -> bool:
        """Wait until the source is open; at once for one that is tried again and again until it is.

        Args:
            timeout_s: How long to wait at most, in seconds.

        Returns:
            Whether it is.

        Raises:
            SourceError: If it could not be opened.
        """
        retries = self._retries
        if retries is not None and retries.from_the_start and retries.attempts != 0:
            return self._opened.is_set()
        opened = self._opened.wait(timeout_s)
        if self._open_error is not None:
            raise self._open_error
        return opened

    def cancel(self) -> None:
        """Read no more, without waiting for the thread to end. Can be repeated."""
        self._stop.set()
        self._stalls.stop()
        if isinstance(self._source, Cancellable):
            self._source.cancel()

    def stop(self, timeout_s: float = 1.0) -> bool:
        """Read no more, and wait for the thread to end. The slot keeps a frame that waits. Can be repeated.

        Args:
            timeout_s: How long to wait at most, in seconds.

        Returns:
            Whether the thread has ended. If not, it is stuck in the source, and ends as soon as that lets go: a network
            source does within its timeouts.
        """
        self.cancel()
        if self._thread.ident is None:
            return True
        self._thread.join(timeout_s)
        self._stalls.join(timeout_s)
        self._states.change("ended")  # even if it is stuck: nothing of it will be handed over any more
        return not self._thread.is_alive()

    @property
    def _retries(self) -> Retries | None:
        """When to open the source again; None to let it end."""
        return self._source.retries if self._source.live and isinstance(self._source, Returning) else None

    def _run(self) -> None:
        error: BaseException | None = None
        self._states.announce()
        try:
            if self._retries is not None:
                self._stalls.start()
            self._read_and_return()
        except BaseException as caught:  # whatever it is, it is the consumer's to see, not this thread's
            # a source that was told to give up may do so by failing
            error = None if self._stop.is_set() else caught
        finally:
            self._stalls.stop()
            self._states.change("ended", _why(error))
            if not self._opened.is_set():
                self._open_error = error
                self._opened.set()
            self._slot.finish(error)
            self._close()

    def _read_and_return(self) -> None:
        """Read the source to its end, and a live one for as long as its retries allow."""
        failed = 0
        away_since_s = self._clock.now_s()
        while not self._stop.is_set():
            self._came_back_s = None
            try:
                self._source.open()
                self._opened.set()
                if not self._read_all() or self._retries is None:
                    return
                raise DisconnectedError(f"the connection to '{self._source.name}' was lost")
            except SourceError as error:
                self._stalls.rest()
                if self._stop.is_set():
                    return
                now_s = self._clock.now_s()
                if self._came_back_s is not None:
                    failed = 0
                    if now_s - self._came_back_s >= STEADY_S:
                        away_since_s = now_s
                failed += 1
                retries = self._retries
                never = self._counts.frames_in == 0
                if retries is None or (never and not retries.from_the_start):
                    raise
                if retries.attempts is not None and failed > retries.attempts:
                    raise
                self._failed(error, failed, never=never)
                self._close()
                self._stop.wait(retry_delay_s(error, now_s - away_since_s, self._chance))

    def _failed(self, error: SourceError, failed: int, *, never: bool) -> None:
        """Say in what state the source is between two attempts."""
        state: SourceState = "connecting" if never else "reconnecting"
        if isinstance(error, REFUSALS):
            state = "refused"
        self._states.change(state, error.what, attempt=failed + 1)
        if str(error) != self._said:
            self._said = str(error)
            self._warn(self._said)

    def _read_all(self) -> bool:
        """Hand over what an open source gives; False if nobody wants any more of it."""
        if self._realtime:
            paced = self._source.paced if isinstance(self._source, Paced) else not self._source.live
            self._pacer = Pacer(self._clock) if paced else None
        damaged_in_a_row = 0
        while not self._stop.is_set():
            try:
                picture = self._source.read()
            except DecodeError as error:
                self._count(corrupt=1)
                damaged_in_a_row += 1
                self._warn_damaged(self._index, error)
                if damaged_in_a_row >= MAX_DAMAGED_IN_A_ROW:
                    raise SourceError(
                        f"'{self._source.name}' gave {damaged_in_a_row} damaged frames in a row", "check the source"
                    ) from error
            else:
                if picture is None:
                    return not self._stop.is_set()
                if not self._hand_over(picture):
                    return False
                damaged_in_a_row = 0
            self._index += 1
        return False

    def _hand_over(self, picture: Picture) -> bool:
        """Put a picture into the slot when its time has come; False to read no more."""
        if self._pacer is not None and self._stop.wait(self._pacer.wait_s(picture.pts_s)):
            return False  # it was read ahead of its time, which has not come
        while not self._slot.wait_free(SLICE_S):
            if self._stop.is_set():
                return False
        self._count()
        if self._retries is not None:
            self._stalls.beat()
        if self._states.current.state != "live":
            remark = self._source.remark if isinstance(self._source, Remarking) else ""
            self._states.change("live", remark)
            self._said = ""
        if self._came_back_s is None:
            self._came_back_s = self._clock.now_s()
        return self._slot.put(
            picture.image,
            source=self._source.name,
            index=self._index,
            pts_s=picture.pts_s,
            suspect=picture.suspect,
        )

    def _stalled(self, gap_s: float) -> None:
        self._states.change("stalled", f"no picture for {gap_s:.1f} s", only_from="live")

    def _close(self) -> None:
        try:
            self._source.close()
        except Exception as caught:
            self._warn(f"closing '{self._source.name}' failed: {caught}")

    def _count(self, *, corrupt: int = 0) -> None:
        # one object is replaced by another, so that readers of it see both figures of one moment
        self._counts = ReaderCounts(self._counts.frames_in + 1, self._counts.corrupt + corrupt)

    def _warn_damaged(self, index: int, error: DecodeError) -> None:
        if self._counts.corrupt <= WARNINGS:
            self._warn(f"frame {index} of '{self._source.name}' is damaged: {error}")
        if self._counts.corrupt == WARNINGS:
            self._warn(f"further damaged frames of '{self._source.name}' are only counted")

    def _warn(self, line: str) -> None:
        if self._on_warning is not None:
            self._on_warning(line)


def _why(error: BaseException | None) -> str:
    """What ended a source, in one line."""
    if error is None:
        return ""
    if isinstance(error, SourceError):
        return error.what
    return (str(error).splitlines() or [type(error).__name__])[0]
