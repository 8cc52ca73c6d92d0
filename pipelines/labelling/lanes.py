"""Units labelled on this machine, several at a time, each in a lane: a thread that decodes and one that labels."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pipelines.labelling.work import Block, Event, Unit
from pipelines.labelling.worker import UnitWorker

__all__ = ["Lanes"]

WAIT_S = 0.2
"""How often a waiting thread looks whether it is to stop."""
JOIN_S = 1.5
"""How long a lane may take to end."""
MOST_WAITING = 1024
"""Answers of one unit that may wait to be taken."""


@dataclass(slots=True, eq=False)
class _Running:
    """A unit that is being labelled, and what of it has not been taken yet."""

    unit: Unit
    events: deque[Event] = field(default_factory=deque)
    frames: int = 0
    done: bool = False
    error: BaseException | None = None


class Lanes:
    """Labels units in lanes, a bounded way ahead of whoever takes the answers.

    Args:
        units: The units in order; taken one by one by the lanes' threads.
        open_worker: Makes the worker of a lane, given its number, in the lane's own thread.
        count: Number of lanes.
        shared: Whether all lanes share a device.
    """

    def __init__(
        self,
        units: Iterator[Unit],
        open_worker: Callable[[int], tuple[UnitWorker, Callable[[], None]]],
        *,
        count: int,
        shared: bool = False,
    ) -> None:
        self._units = units
        self._open_worker = open_worker
        self._count = count
        self._shared = shared
        self._stop = threading.Event()
        self._taking = threading.Lock()
        self._changed = threading.Condition()
        self._running: deque[_Running] = deque()
        self._ended = 0
        self._error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._lane, args=(i,), name=f"stream-ann lane {i}", daemon=True)
            for i in range(count)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask all lanes to end. Safe to call from any thread and from a signal handler."""
        self._stop.set()

    def close(self) -> None:
        """Stop, and wait for the lanes within bounds."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(JOIN_S)

    @property
    def active(self) -> int:
        """How many cores label now, or 1 where all lanes share a device."""
        if self._shared:
            return 1
        with self._changed:
            return max(1, sum(not running.done for running in self._running))

    def results(self) -> Iterator[tuple[Unit, Iterator[Event]]]:
        """Each unit in order with its events; take all of them before the next unit. Ends early when stopped.

        Raises:
            StreamAnnError: If a lane has failed.
        """
        while (running := self._first()) is not None:
            yield running.unit, self._events(running)
            with self._changed:
                self._running.popleft()
                self._changed.notify_all()

    def _first(self) -> _Running | None:
        with self._changed:
            while not self._running:
                self._raise(self._error)
                if self._stop.is_set() or self._ended == self._count:
                    return None
                self._changed.wait(WAIT_S)
            return None if self._stop.is_set() else self._running[0]

    def _events(self, running: _Running) -> Iterator[Event]:
        while True:
            with self._changed:
                while not running.events:
                    self._raise(running.error or self._error)
                    if running.done or self._stop.is_set():
                        return
                    self._changed.wait(WAIT_S)
                event = running.events.popleft()
                if isinstance(event, Block):
                    running.frames -= len(event.index)
                self._changed.notify_all()
            yield event

    @staticmethod
    def _raise(error: BaseException | None) -> None:
        if error is not None:
            raise error

    def _lane(self, number: int) -> None:
        worker: UnitWorker | None = None
        close: Callable[[], None] | None = None
        try:
            while (running := self._take()) is not None:
                try:
                    if worker is None:  # not before there is work for it
                        worker, close = self._open_worker(number)
                    for event in worker.run(running.unit, self._stop):
                        self._give(running, event)
                except BaseException as error:  # raised again in the thread that takes the answers
                    running.error = error
                    return
                finally:
                    with self._changed:
                        running.done = True
                        self._changed.notify_all()
        except BaseException as error:
            self._error = error
        finally:
            if close is not None:
                close()
            with self._changed:
                self._ended += 1
                self._changed.notify_all()

    def _take(self) -> _Running | None:
        """The next unit, as soon as not too many are in the works; None when there are none."""
        with self._taking:
            with self._changed:
                while len(self._running) >= 2 * self._count and not self._stop.is_set():
                    self._changed.wait(WAIT_S)
            unit = None if self._stop.is_set() else next(self._units, None)
            if unit is None:
                return None
            running = _Running(unit)
            with self._changed:
                self._running.append(running)
                self._changed.notify_all()
            return running

    def _give(self, running: _Running, event: Event) -> None:
        with self._changed:
            while running.frames >= MOST_WAITING and not self._stop.is_set():
                self._changed.wait(WAIT_S)
            running.events.append(event)
            if isinstance(event, Block):
                running.frames += len(event.index)
            self._changed.notify_all()
