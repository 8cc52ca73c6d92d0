"""A sink in a thread of its own, so that a slow disk or encoder does not hold up the stream."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from stream_ann.errors import OutputError, StreamAnnError, UsageError
from stream_ann.frames import FrameResult
from stream_ann.sinks.sink import Sink, StateSink
from stream_ann.states import StateChange

__all__ = ["SinkWorker"]


class SinkWorker:
    """Runs a sink in a daemon thread behind a bounded queue.

    While the queue is full, :meth:`put` waits for a bounded time, so that nothing is lost as long as the sink keeps up
    on average; then the result is dropped and counted. A sink that has made one result wait in vain makes no other
    wait until it has taken something again. A sink that fails is detached: it is closed, its error is kept, and every
    later result counts as dropped. After :meth:`close`, ``written + dropped`` is the number of results put.

    Args:
        sink: What to run. Once handed over, only the worker's thread touches it.
        capacity: Results that may wait, at most.
        capacity_bytes: Bytes of pictures that waiting results may hold, at most (one result may always wait).
        timeout_s: How long :meth:`put` may wait for room, in seconds.
        on_error: Called once with its error where the sink fails, by the thread that calls :meth:`put` or
            :meth:`close`.

    Raises:
        UsageError: If a capacity is less than 1, or the timeout is negative.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        capacity: int = 64,
        capacity_bytes: int = 256 * 2**20,
        timeout_s: float = 0.5,
        on_error: Callable[[StreamAnnError], None] | None = None,
    ) -> None:
        if capacity < 1 or capacity_bytes < 1:
            raise UsageError(f"the capacity of a sink's queue must be 1 or more, got {min(capacity, capacity_bytes)}")
        if not timeout_s >= 0:
            raise UsageError(f"timeout_s must be 0 or more, got {timeout_s}")
        self._sink = sink
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._timeout_s = timeout_s
        self._on_error = on_error
        self._reported = False
        self._changed = threading.Condition()
        self._queue: deque[FrameResult | StateChange] = deque()
        self._held_bytes = 0  # by the queue, and by the result that is being written
        self._stalled = False
        self._closing = False
        self._drain_until_s = float("inf")
        self._finished = False
        self._written = 0
        self._dropped = 0
        self._error: StreamAnnError | None = None
        self._thread = threading.Thread(target=self._run, name=f"stream-ann sink {sink.name}", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """Name of the sink."""
        return self._sink.name

    @property
    def sink(self) -> Sink:
        """The sink."""
        return self._sink

    @property
    def written(self) -> int:
        """Results that the sink has taken."""
        return self._written

    @property
    def dropped(self) -> int:
        """Results that the sink never got: it was too slow, had failed, or was closed."""
        return self._dropped

    @property
    def error(self) -> StreamAnnError | None:
        """What the sink failed with, if it did."""
        return self._error

    def put(self, result: FrameResult) -> bool:
        """Hand over one result.

        Returns:
            Whether it was taken into the queue; False where it was dropped.
        """
        size = result.frame.image.nbytes
        with self._changed:
            deadline_s = time.monotonic() + (0.0 if self._stalled else self._timeout_s)
            while not self._over() and not self._has_room(size):
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    self._stalled = True
                    break
                self._changed.wait(left_s)
            taken = not self._over() and self._has_room(size)
            if taken:
                self._queue.append(result)
                self._held_bytes += size
                self._changed.notify_all()
            else:
                self._dropped += 1
        self._report()
        return taken

    def put_state(self, change: StateChange) -> bool:
        """Hand over how a source is doing, in order with the results, to a sink that takes that in. Never waits.

        Returns:
            Whether it was taken into the queue.
        """
        with self._changed:
            taken = isinstance(self._sink, StateSink) and not self._over() and len(self._queue) < 2 * self._capacity
            if taken:
                self._queue.append(change)
                self._changed.notify_all()
        return taken

    def end(self, *, timeout_s: float = 2.0) -> None:
        """Begin to do what :meth:`close` waits for, and do not wait. Safe to call twice.

        Args:
            timeout_s: As for :meth:`close`.
        """
        with self._changed:
            self._closing = True
            self._drain_until_s = min(self._drain_until_s, time.monotonic() + 0.75 * timeout_s)
            self._changed.notify_all()

    def close(self, *, timeout_s: float = 2.0) -> bool:
        """Write what is waiting, finish the sink and end the thread. Safe to call twice.

        Args:
            timeout_s: How long all of that may take, in seconds. A quarter of it is kept for finishing the sink: what
                is still waiting then is dropped.

        Returns:
            Whether the sink was finished without an error.
        """
        until_s = time.monotonic() + timeout_s
        self.end(timeout_s=timeout_s)
        self._thread.join(max(0.0, until_s - time.monotonic()))
        with self._changed:
            if not self._finished and self._error is None:
                self._error = OutputError(
                    f"'{self.name}' could not be finished within {timeout_s:g} s",
                    "its last second may be missing; choose a faster disk or a smaller picture",
                )
        self._report()
        return self._error is None

    def _over(self) -> bool:
        return self._closing or self._finished or self._error is not None

    def _has_room(self, size: int) -> bool:
        if not self._queue:
            return True
        return len(self._queue) < self._capacity and self._held_bytes + size <= self._capacity_bytes

    def _report(self) -> None:
        with self._changed:
            error = None if self._reported else self._error
            self._reported = self._reported or error is not None
        if error is not None and self._on_error is not None:
            self._on_error(error)

    def _run(self) -> None:
        result: FrameResult | StateChange | None = None
        try:
            while (result := self._next()) is not None:
                if isinstance(result, StateChange):
                    if isinstance(self._sink, StateSink):
                        self._sink.write_state(result)
                    continue
                self._sink.write(result)
                with self._changed:
                    self._written += 1
                    self._held_bytes -= result.frame.image.nbytes
                    self._changed.notify_all()
        except Exception as error:
            self._fail(error, in_hand=int(isinstance(result, FrameResult)))
        with self._changed:
            self._dropped += sum(isinstance(left, FrameResult) for left in self._queue)
            self._queue.clear()
        try:
            self._sink.close()
        except Exception as error:
            self._fail(error)
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def _next(self) -> FrameResult | StateChange | None:
        """The next one to write; None once there will be none."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait(1.0)
            if not self._queue or time.monotonic() >= self._drain_until_s:
                return None
            self._stalled = False
            result = self._queue.popleft()
            self._changed.notify_all()
            return result

    def _fail(self, error: Exception, *, in_hand: int = 0) -> None:
        if not isinstance(error, StreamAnnError):
            what = f"'{self.name}' failed: {error}" if str(error) else f"'{self.name}' failed: {type(error).__name__}"
            wrapped: StreamAnnError = OutputError(what.splitlines()[0])
            wrapped.__cause__ = error
        else:
            wrapped = error
        with self._changed:
            self._dropped += in_hand
            if self._error is None:
                self._error = wrapped
            self._changed.notify_all()
