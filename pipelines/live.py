"""Live classification: sources, reader threads, slots, one scheduler, one engine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from pipelines.feeds import Feed, name_apart
from pipelines.handover import begin_prompt, end_prompt
from stream_ann import weights as weights_room
from stream_ann.clock import MonotonicClock
from stream_ann.engines import open_engine
from stream_ann.errors import StreamAnnError, UsageError
from stream_ann.frames import Counts, FrameResult
from stream_ann.ingest import Inbox, Source, SourceOptions, source_from
from stream_ann.labels import LabelOptions, labelling_from
from stream_ann.nets.contract import Plan
from stream_ann.packets import PacketSource, PacketTap
from stream_ann.readout import readout_named
from stream_ann.scheduler import (
    Background,
    Confident,
    Deadline,
    Policy,
    Scheduler,
    UntilNextFrame,
    chosen_path,
    path_named,
)
from stream_ann.states import StateChange, StateFeed
from stream_ann.stats import LiveStats, LiveStatus, StatsSnapshot

__all__ = ["LiveRun", "live"]

Spec = str | os.PathLike[str] | Source

OPEN_TIMEOUT_S = 15.0
"""How long a source may take to give its first sign of life."""
CLOSE_TIMEOUT_S = 0.5
"""How long the reader threads may take to end, all together, before they are left to it."""


class LiveRun(Iterator[FrameResult]):
    """A running live classification: iterate over it for results. Made by :func:`live`.

    Frames are taken and refined in the thread that iterates: while its loop body runs nothing is refined, and newer
    frames replace older ones, which is counted. Leaving the loop through ``close()``, a ``with`` block or the end of
    the iterator's life stops the reader threads.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        loaded: weights_room.Weights,
        *,
        device: str,
        engine: str,
        precision: str,
        compile: bool,
        threads: int | None,
        policy: Policy,
        path: str,
        background: bool,
        queue_depth: int,
        readout: str | None,
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
        accuracies = self.card.planning_accuracies
        chosen = readout_named(
            self.card.default_readout if readout is None else readout,
            exits=len(self.plan),
            accuracies=self.card.accuracies,
            weights=self.card.readout_weights,
        )
        way = path_named(path, self.plan, accuracies)
        self.labelling = labelling_from(self.card.classes, labels, hedging=self.card.extra.get("hedging"))
        """What answers are called."""
        self._on_warning = on_warning
        clock = MonotonicClock()
        self.engine = open_engine(
            loaded.net,
            self.card.preprocessing,
            device=device,
            engine=engine,
            precision=precision,
            compile=compile,
            temperatures=self.card.temperatures,
            threads=threads,
            lanes=len(sources) + background,
        )
        """The engine that runs the plan."""
        slower: str | None = getattr(self.engine, "warning", None)
        if slower is not None and on_warning is not None:
            on_warning(slower)
        self.stats = LiveStats(len(self.plan))
        """Figures of the run so far, all sources together; safe to read from any thread."""
        self._states = StateFeed()
        inbox = Inbox()
        self._feeds = [
            Feed(
                source,
                clock,
                len(self.plan),
                realtime=realtime,
                inbox=inbox,
                on_warning=on_warning,
                on_state=self._states.put,
            )
            for source in sources
        ]
        self._by_name = {feed.source.name: feed for feed in self._feeds}
        self._scheduler = Scheduler(
            self.engine,
            [feed.slot for feed in self._feeds],
            clock,
            classes=self.card.classes,
            policy=policy,
            path=way,
            readout=chosen,
            labelling=self.labelling,
            top_k=top_k,
            waiter=inbox,
            queue_depth=queue_depth,
            background=Background(accuracies) if background else None,
            on_error=self._failed,
        )
        self._left = max_frames
        self._closed = False
        self._results = self._scheduler.results()
        begin_prompt()
        for feed in self._feeds:
            feed.reader.start()
        try:
            self._wait_opened()
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
        except BaseException:  # the end of the sources, an error, Ctrl-C: in each case nothing may be left running
            self.close()
            raise
        if self._left is not None:
            self._left -= 1
        self._by_name[result.frame.source].add(result)
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
        if hasattr(self, "_results"):
            self.close()

    @property
    def name(self) -> str:
        """What the run is about, fit to be shown: the name of the source, or how many there are."""
        return self._feeds[0].source.name if len(self._feeds) == 1 else f"{len(self._feeds)} sources"

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources, as they are in results and states."""
        return tuple(feed.source.name for feed in self._feeds)

    @property
    def source(self) -> Source:
        """The first source, or the only one."""
        return self._feeds[0].source

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the sources are read from."""
        return tuple(path for feed in self._feeds for path in getattr(feed.source, "paths", ()))

    def is_live(self, name: str) -> bool:
        """Whether the source of that name has a pace of its own, which a recording has not."""
        return self._by_name[name].source.live

    def tap(self, name: str, tap: PacketTap) -> bool:
        """Hand the compressed packets of the source of that name to ``tap``, from now on.

        Returns:
            Whether it has any.
        """
        source = self._by_name[name].source
        if isinstance(source, PacketSource):
            source.packet_tap = tap
            return True
        return False

    @property
    def lossless(self) -> bool:
        """Whether the frames of every source wait for their turn instead of being replaced."""
        return all(feed.lossless for feed in self._feeds)

    @property
    def counts(self) -> Counts:
        """Where the frames have gone so far. After :meth:`close`, ``frames_in == results + replaced + corrupt``.

        All sources together; :meth:`statuses` has the counts of each.
        """
        each = [feed.counts for feed in self._feeds]
        return Counts(
            sum(c.frames_in for c in each),
            sum(c.results for c in each),
            sum(c.replaced for c in each),
            sum(c.corrupt for c in each),
        )

    @property
    def errors(self) -> tuple[StreamAnnError, ...]:
        """What ended those of several sources that failed while others went on."""
        return tuple(e for e in self._scheduler.errors if isinstance(e, StreamAnnError)) if len(self._feeds) > 1 else ()

    def status(self) -> LiveStatus:
        """What a view shows of the first source at this moment. Safe to call from any thread."""
        return self.statuses()[0]

    def statuses(self) -> tuple[LiveStatus, ...]:
        """What a view shows at this moment, one for each source. Safe to call from any thread."""
        partials = self._scheduler.partials
        return tuple(feed.status(partial) for feed, partial in zip(self._feeds, partials, strict=True))

    def stats_of(self, name: str) -> StatsSnapshot:
        """The figures of the source of that name. Safe to call from any thread."""
        return self._by_name[name].stats.snapshot()

    def on_state(self, listener: Callable[[StateChange], None]) -> None:
        """Call ``listener`` with every state that a source passes into, those since the beginning of the run included.

        Args:
            listener: Called from any thread, one change at a time and in order. It must not wait.
        """
        self._states.listen(listener)

    def stop(self) -> None:
        """Ask the run to end after the present frames. Safe to call from any thread and from a signal handler."""
        self._scheduler.stop()

    def close(self) -> None:
        """Stop the reader threads and release the device. May be called more than once."""
        self._scheduler.stop()
        for feed in self._feeds:
            feed.close()
        # all together, and only once: a thread that libav holds on to ends by itself, within its timeouts
        until_s = time.monotonic() + (0.0 if self._closed else CLOSE_TIMEOUT_S)
        if not self._closed:
            end_prompt()
        self._closed = True
        for feed in self._feeds:
            feed.join(max(0.0, until_s - time.monotonic()))
        self.stats.set_counts(self.counts)
        self.engine.close()

    def _wait_opened(self) -> None:
        """Wait until the sources are open. One that is not does not stop the others; none at all is an error."""
        until_s = time.monotonic() + OPEN_TIMEOUT_S
        errors: list[StreamAnnError] = []
        for feed in self._feeds:
            try:
                feed.reader.wait_opened(max(0.0, until_s - time.monotonic()))
            except StreamAnnError as error:
                errors.append(error)
        if len(errors) == len(self._feeds):
            raise errors[0]

    def _failed(self, number: int, error: Exception) -> None:
        """One of several sources has failed; the others go on."""
        if self._on_warning is not None:
            self._on_warning(f"{error}; '{self._feeds[number].source.name}' is not used any more")


def live(
    source: Spec | Sequence[Spec],
    *,
    weights: str | os.PathLike[str] = "imagenet",
    device: str = "auto",
    engine: str = "auto",
    precision: str = "auto",
    compile: bool = False,
    threads: int | None = None,
    path: str | None = None,
    background_refine: bool = False,
    queue_depth: int = 1,
    deadline_ms: float | None = None,
    confidence: float | None = None,
    readout: str | None = None,
    labels: LabelOptions | None = None,
    top_k: int = 5,
    max_frames: int | None = None,
    realtime: bool = True,
    source_options: SourceOptions | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> LiveRun:
    """Classify one stream or several, refining each frame until the next one arrives.

    Args:
        source: ``"demo"``, a webcam (``0``, ``/dev/video0``), a URL (rtsp, rtsps, http, https), a video file, a folder
            or glob of images, ``pattern:640x360@25``, or a source object; or several of these, which share the engine.
        weights: Name of bundled weights, or path of a weights file or its card.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        threads: Torch threads on the CPU, for the whole process; by default one core is left to the decoder. More are
            faster on a machine that does nothing else, and far slower beside other work.
        engine: ``"auto"``, ``"torch"``, ``"openvino"`` or ``"cuda"``, where installed.
        precision: ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``, where the engine has it.
        compile: Compile each step by ``torch.compile`` (engine ``"torch"``); takes long, and needs a C++ compiler.
        path: ``"scene"`` gathers answers from all frames of a scene, see :mod:`stream_ann.scheduler.scene`;
            ``"in-order"`` runs every step of the plan, ``"planned"`` those that promise the best answer by the time
            that the next frame comes, see :mod:`stream_ann.scheduler.planned`. None is ``"scene"``, or ``"in-order"``
            where ``readout`` or ``background_refine`` is given.
        background_refine: When frames come too fast for the deep exits, reach them for a key frame in the time that is
            left, see :mod:`stream_ann.scheduler.background`. For one source.
        queue_depth: How many steps a device that can queue them is given at once.
        deadline_ms: Stop refining a frame when the next step would end later than this after its arrival.
        confidence: Stop refining a frame once its answer is at least this probable.
        readout: ``"latest"``, ``"best"`` or ``"average"``, see :mod:`stream_ann.readout`; not for path ``"scene"``,
            which joins all exits. None is ``"average"`` where the weights card has weights for it, else ``"latest"``.
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
            is a webcam that was open, as often as ``source_options`` say. Of several sources one that fails is left
            out with a warning; only when none is left is the error raised.
        WeightsError: If the weights cannot be used.
        DeviceError: If the device cannot be used.
        UsageError: If an option makes no sense.
    """
    if top_k < 1:
        raise UsageError(f"top-k must be at least 1, got {top_k}")
    if max_frames is not None and max_frames < 1:
        raise UsageError(f"max-frames must be at least 1, got {max_frames}")
    if queue_depth < 1:
        raise UsageError(f"queue-depth must be at least 1, got {queue_depth}")
    specs = _several(source)
    if not specs:
        raise UsageError("a live run needs at least one source, got none")
    if background_refine and len(specs) > 1:
        raise UsageError(f"refining in the background is for one source, got {len(specs)}", "leave the others out")
    chosen = chosen_path(path, readout=readout, background=background_refine, sources=len(specs))
    policy: Policy = UntilNextFrame()
    if deadline_ms is not None:
        policy = policy & Deadline(deadline_ms)
    if confidence is not None:
        policy = policy & Confident(confidence)
    sources = [source_from(s, source_options) if isinstance(s, str | os.PathLike) else s for s in specs]
    name_apart(sources)
    return LiveRun(
        sources,
        weights_room.load(weights),
        device=device,
        engine=engine,
        precision=precision,
        compile=compile,
        threads=threads,
        policy=policy,
        path=chosen,
        background=background_refine,
        queue_depth=queue_depth,
        readout=readout,
        labels=labels if labels is not None else LabelOptions(),
        top_k=top_k,
        max_frames=max_frames,
        realtime=realtime,
        on_warning=on_warning,
    )


def _several(source: Spec | Sequence[Spec]) -> list[Spec]:
    # a text is a sequence too, and a source might be
    if isinstance(source, str | os.PathLike) or hasattr(source, "read"):
        return [cast(Spec, source)]
    return list(source)
