"""Live classification: source, reader thread, slot, scheduler, engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from stream_ann import weights as weights_room
from stream_ann.clock import MonotonicClock
from stream_ann.engines import open_engine
from stream_ann.errors import UsageError
from stream_ann.frames import Counts, FrameResult
from stream_ann.ingest import Reader, Slot, Source, SourceOptions, source_from
from stream_ann.labels import LabelOptions, labelling_from
from stream_ann.nets.contract import Plan
from stream_ann.readout import readout_named
from stream_ann.scheduler import Confident, Deadline, Policy, Scheduler, UntilNextFrame
from stream_ann.states import StateChange, StateFeed
from stream_ann.stats import LiveStats, LiveStatus

__all__ = ["LiveRun", "live"]

OPEN_TIMEOUT_S = 15.0
"""How long a source may take to give its first sign of life."""


class LiveRun(Iterator[FrameResult]):
    """A running live classification: iterate over it for results. Made by :func:`live`.

    Frames are taken and refined in the thread that iterates: while its loop body runs nothing is refined, and newer
    frames replace older ones, which is counted. Leaving the loop through ``close()``, a ``with`` block or the end of
    the iterator's life stops the reader thread.
    """

    def __init__(
        self,
        source: Source,
        loaded: weights_room.Weights,
        *,
        device: str,
        threads: int | None,
        policy: Policy,
        readout: str,
        labels: LabelOptions,
        top_k: int,
        max_frames: int | None,
        realtime: bool,
        on_warning: Callable[[str], None] | None,
    ) -> None:
        self.card = loaded.card
        """The weights card."""
        self.plan: Plan = loaded.plan
        """The plan that is run."""
        self.source = source
        """The source."""
        chosen = readout_named(
            readout,
            exits=len(self.plan),
            accuracies=self.card.accuracies,
            weights=self.card.readout_weights,
        )
        self.labelling = labelling_from(self.card.classes, labels)
        """What answers are called."""
        self.lossless = not (realtime or source.live)
        """Whether frames wait for their turn instead of being replaced."""
        clock = MonotonicClock()
        self.engine = open_engine(
            loaded.net,
            self.card.preprocessing,
            device=device,
            temperatures=self.card.temperatures,
            threads=threads,
        )
        """The engine that runs the plan."""
        self.stats = LiveStats(len(self.plan))
        """Figures of the run so far; safe to read from any thread."""
        self._slot = Slot(clock, lossless=self.lossless)
        self._scheduler = Scheduler(
            self.engine,
            self._slot,
            clock,
            classes=self.card.classes,
            policy=policy,
            readout=chosen,
            labelling=self.labelling,
            top_k=top_k,
        )
        self._states = StateFeed()
        self._reader = Reader(
            source, self._slot, clock, realtime=realtime, on_warning=on_warning, on_state=self._states.put
        )
        self._left = max_frames
        self._given = 0
        self._closed = False
        self._last: FrameResult | None = None
        self._results = self._scheduler.results()
        self._reader.start()
        try:
            self._reader.wait_opened(OPEN_TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> FrameResult:
        if self._left == 0:
            self.close()
            raise StopIteration
        try:
            result = next(self._results)
        except BaseException:  # the end of the source, its error, Ctrl-C: in each case nothing may be left running
            self.close()
            raise
        if self._left is not None:
            self._left -= 1
        self._given += 1
        self._last = result
        self.stats.add(result)
        self.stats.set_counts(self.counts)
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_reader"):
            self.close()

    @property
    def counts(self) -> Counts:
        """Where the frames have gone so far. After :meth:`close`, ``frames_in == results + replaced + corrupt``."""
        read = self._reader.counts
        slot = self._slot.counts
        # a frame whose refinement an exception cut short was taken, but has no result
        unfinished = slot.taken - self._given if self._closed else 0
        return Counts(read.frames_in, self._given, slot.replaced + unfinished, read.corrupt)

    def status(self) -> LiveStatus:
        """What a view shows at this moment. Safe to call from any thread."""
        partial, last = self._scheduler.partial, self._last
        return LiveStatus(
            stats=self.stats.snapshot(),
            result=last,
            label=partial.label if partial else "",
            confidence=partial.confidence if partial else 0.0,
            exits=partial.exits if partial else (),
            source=self.source.name,
            state=self._reader.state,
            frame=partial.frame if partial else None,
        )

    def statuses(self) -> tuple[LiveStatus, ...]:
        """What a view shows at this moment, one for each source. Safe to call from any thread."""
        return (self.status(),)

    def on_state(self, listener: Callable[[StateChange], None]) -> None:
        """Call ``listener`` with every state that a source passes into, those since the beginning of the run included.

        Args:
            listener: Called from any thread, one change at a time and in order. It must not wait.
        """
        self._states.listen(listener)

    def stop(self) -> None:
        """Ask the run to end after the present frame. Safe to call from any thread and from a signal handler."""
        self._scheduler.stop()

    def close(self) -> None:
        """Stop the reader thread and release the device. May be called more than once."""
        self._closed = True
        self._scheduler.stop()
        self._slot.close()
        self._reader.stop()
        self.stats.set_counts(self.counts)
        self.engine.close()


def live(
    source: str | os.PathLike[str] | Source,
    *,
    weights: str | os.PathLike[str] = "imagenet",
    device: str = "auto",
    threads: int | None = None,
    deadline_ms: float | None = None,
    confidence: float | None = None,
    readout: str = "latest",
    labels: LabelOptions | None = None,
    top_k: int = 5,
    max_frames: int | None = None,
    realtime: bool = True,
    source_options: SourceOptions | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> LiveRun:
    """Classify a stream, refining each frame until the next one arrives.

    Args:
        source: ``"demo"``, a webcam (``0``, ``/dev/video0``), a URL (rtsp, rtsps, http, https), a video file, a folder
            or glob of images, ``pattern:640x360@25``, or a source object.
        weights: Name of bundled weights, or path of a weights file or its card.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        threads: Torch threads on the CPU, for the whole process; by default one core is left to the decoder. More are
            faster on a machine that does nothing else, and far slower beside other work.
        deadline_ms: Stop refining a frame when the next step would end later than this after its arrival.
        confidence: Stop refining a frame once its answer is at least this probable.
        readout: ``"latest"``, ``"best"`` or ``"average"``, see :mod:`stream_ann.readout`.
        labels: What answers are called: groups of classes, smoothing over time, wider concepts.
        top_k: How many classes each result lists.
        max_frames: End after this many results.
        realtime: Play files at the pace of their timestamps. If False, frames come as fast as they are taken and
            none is lost; each is then refined as deep as ``deadline_ms`` and ``confidence`` allow.
        source_options: What else to know about the source: transport, timeouts, attempts at reconnecting, and more.
        on_warning: Called with one line for everything that went wrong without ending the run, from the reader thread.

    Returns:
        An iterator of :class:`~stream_ann.frames.FrameResult`, which is also a context manager.

    Raises:
        SourceError: If the source cannot be opened, or fails later on. A network camera is tried again instead, and so
            is a webcam that was open, as often as ``source_options`` say.
        WeightsError: If the weights cannot be used.
        DeviceError: If the device cannot be used.
        UsageError: If an option makes no sense.
    """
    if top_k < 1:
        raise UsageError(f"top-k must be at least 1, got {top_k}")
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}")
    if max_frames is not None and max_frames < 1:
        raise UsageError(f"max-frames must be at least 1, got {max_frames}")
    policy: Policy = UntilNextFrame()
    if deadline_ms is not None:
        policy = policy & Deadline(deadline_ms)
    if confidence is not None:
        policy = policy & Confident(confidence)
    opened = source_from(source, source_options) if isinstance(source, str | os.PathLike) else source
    return LiveRun(
        opened,
        weights_room.load(weights),
        device=device,
        threads=threads,
        policy=policy,
        readout=readout,
        labels=labels if labels is not None else LabelOptions(),
        top_k=top_k,
        max_frames=max_frames,
        realtime=realtime,
        on_warning=on_warning,
    )
