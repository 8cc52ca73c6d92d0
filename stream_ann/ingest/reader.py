"""The reader thread: source to slot, at the source's own pace."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from stream_ann.clock import Clock, MonotonicClock
from stream_ann.errors import DecodeError, SourceError
from stream_ann.ingest.slot import SLICE_S, Slot
from stream_ann.ingest.source import Cancellable, Picture, Source

__all__ = ["Pacer", "Reader", "ReaderCounts"]

MAX_GAP_S = 10.0
"""A longer step between two timestamps is taken for a cut in the recording, not for a pause to sit through."""
MAX_LAG_S = 1.0
"""Playback that is later than this gives the lost time up, rather than racing to catch up with it."""
MAX_DAMAGED_IN_A_ROW = 10_000
"""So many damaged frames without a good one in between are taken for a source that will never recover."""
WARNINGS = 5
"""So many damaged frames are reported one by one; the rest is counted."""


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

    However the source ends, the slot is told, with the error if there was one, so that whoever takes from it never
    waits in vain. Once the thread has ended, ``frames_in == corrupt`` + the frames put into the slot.

    Args:
        source: Where frames come from. Only the thread touches it; it is closed at the end.
        slot: Where they go.
        clock: Paces a recording.
        realtime: Play a recording at the pace of its timestamps. Live sources have a pace of their own anyway.
        on_warning: Called from the thread with one line for what went wrong without ending the run.
    """

    def __init__(
        self,
        source: Source,
        slot: Slot,
        clock: Clock | None = None,
        *,
        realtime: bool = True,
        on_warning: Callable[[str], None] | None = None,
    ) -> None:
        self._source = source
        self._slot = slot
        self._pacer = Pacer(clock or MonotonicClock()) if realtime and not source.live else None
        self._on_warning = on_warning
        self._stop = threading.Event()
        self._opened = threading.Event()
        self._open_error: BaseException | None = None
        self._counts = ReaderCounts()
        self._thread = threading.Thread(target=self._run, name=f"stream-ann reader {source.name}", daemon=True)

    @property
    def counts(self) -> ReaderCounts:
        """What has come in so far. A snapshot; safe from any thread."""
        return self._counts

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: If it was started before.
        """
        self._thread.start()

    def wait_opened(self, timeout_s: float) -> bool:
        """Wait until the source is open.

        Args:
            timeout_s: How long to wait at most, in seconds.

        Returns:
            Whether it is.

        Raises:
            SourceError: If it could not be opened.
        """
        opened = self._opened.wait(timeout_s)
        if self._open_error is not None:
            raise self._open_error
        return opened

    def stop(self, timeout_s: float = 2.0) -> bool:
        """Read no more, and wait for the thread to end. The slot keeps a frame that waits. Can be repeated.

        Args:
            timeout_s: How long to wait at most, in seconds.

        Returns:
            Whether the thread has ended. If not, it is stuck in the source, and ends as soon as that lets go.
        """
        self._stop.set()
        if isinstance(self._source, Cancellable):
            self._source.cancel()
        if self._thread.ident is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            if self._open():
                self._read_all()
        except BaseException as caught:  # whatever it is, it is the consumer's to see, not this thread's
            # a source that was told to give up may do so by failing
            error = None if self._stop.is_set() else caught
        finally:
            self._slot.finish(error)
            try:
                self._source.close()
            except Exception as caught:
                self._warn(f"closing '{self._source.name}' failed: {caught}")

    def _open(self) -> bool:
        try:
            if not self._stop.is_set():
                self._source.open()
        except BaseException as caught:
            self._open_error = caught
            raise
        finally:
            self._opened.set()
        return not self._stop.is_set()

    def _read_all(self) -> None:
        index = damaged_in_a_row = 0
        while not self._stop.is_set():
            try:
                picture = self._source.read()
            except DecodeError as error:
                self._count(corrupt=1)
                damaged_in_a_row += 1
                self._warn_damaged(index, error)
                if damaged_in_a_row >= MAX_DAMAGED_IN_A_ROW:
                    raise SourceError(
                        f"'{self._source.name}' gave {damaged_in_a_row} damaged frames in a row", "check the source"
                    ) from error
            else:
                if picture is None or not self._hand_over(picture, index):
                    return
                damaged_in_a_row = 0
            index += 1

    def _hand_over(self, picture: Picture, index: int) -> bool:
        """Put a picture into the slot when its time has come; False to read no more."""
        if self._pacer is not None and self._stop.wait(self._pacer.wait_s(picture.pts_s)):
            return False  # it was read ahead of its time, which has not come
        while not self._slot.wait_free(SLICE_S):
            if self._stop.is_set():
                return False
        self._count()
        return self._slot.put(picture.image, source=self._source.name, index=index, pts_s=picture.pts_s)

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
