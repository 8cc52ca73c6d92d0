"""One source of a live run: its reader thread, its slot, and the figures of what came of its frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, cast

from stream_ann.clock import Clock
from stream_ann.frames import Counts, FrameResult
from stream_ann.ingest import Inbox, Reader, Slot, Source
from stream_ann.scheduler import Partial
from stream_ann.states import StateChange
from stream_ann.stats import LiveStats, LiveStatus

__all__ = ["Feed", "name_apart"]


class Feed:
    """A source on its way to the scheduler.

    Args:
        source: The source.
        clock: Stamps arrivals.
        exits: Number of exits of the plan.
        realtime: Play a recording at its own pace, rather than let its frames wait for their turn.
        inbox: Told of every frame, for a scheduler that waits for several sources.
        on_warning: Called with one line for what went wrong without ending the run.
        on_state: Called with every state that the source passes into.
    """

    def __init__(
        self,
        source: Source,
        clock: Clock,
        exits: int,
        *,
        realtime: bool,
        inbox: Inbox,
        on_warning: Callable[[str], None] | None,
        on_state: Callable[[StateChange], None] | None,
    ) -> None:
        self.source = source
        self.lossless = not (realtime or source.live)
        """Whether frames wait for their turn instead of being replaced."""
        self.slot = Slot(clock, lossless=self.lossless, inbox=inbox)
        self.stats = LiveStats(exits)
        self.reader = Reader(source, self.slot, clock, realtime=realtime, on_warning=on_warning, on_state=on_state)
        self._given = 0
        self._last: FrameResult | None = None
        self._closed = False

    def add(self, result: FrameResult) -> None:
        """Take in a result of this source."""
        self._given += 1
        self._last = result
        self.stats.add(result)
        self.stats.set_counts(self.counts)

    @property
    def counts(self) -> Counts:
        """Where the frames have gone so far. Once closed, ``frames_in == results + replaced + corrupt``."""
        corrupt, slot = self.reader.counts.corrupt, self.slot.counts
        # a frame whose refinement an exception cut short was taken, but has no result
        unfinished = slot.taken - self._given if self._closed else 0
        # nor is a frame lost that was read ahead of its turn, where the run ended before that came
        came_in = slot.put - slot.waiting - slot.unused + corrupt
        return Counts(came_in, self._given, slot.replaced + unfinished, corrupt)

    def status(self, partial: Partial | None) -> LiveStatus:
        """What a view shows of this source at this moment. Safe to call from any thread.

        Args:
            partial: How far its present frame has come.
        """
        return LiveStatus(
            stats=self.stats.snapshot(),
            result=self._last,
            label=partial.label if partial else "",
            confidence=partial.confidence if partial else 0.0,
            exits=partial.exits if partial else (),
            top=partial.top if partial else (),
            source=self.source.name,
            state=self.reader.state,
            frame=partial.frame if partial else None,
            carried=partial.carried if partial else 0.0,
            key_frame=partial.key_frame if partial else None,
        )

    def close(self) -> None:
        """Read no more and count what waits. May be called more than once; :meth:`Reader.stop` waits for the thread."""
        self._closed = True
        self.slot.close()
        self.reader.cancel()

    def join(self, timeout_s: float) -> None:
        """Wait for the reader's thread to end, in seconds at most, and take over its last count."""
        self.reader.stop(timeout_s)
        self.stats.set_counts(self.counts)


class _Named(Protocol):
    name: str


def name_apart(sources: Sequence[Source]) -> None:
    """Number sources that have the same name, so that results and views can tell them apart."""
    seen: dict[str, int] = {}
    for source in sources:
        name = source.name
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            cast(_Named, source).name = f"{name} ({seen[name]})"
