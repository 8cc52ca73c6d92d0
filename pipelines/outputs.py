"""What a live run is written to: any number of files and streams, each in a thread of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.live import LiveRun
from stream_ann.errors import StreamAnnError, UsageError
from stream_ann.frames import FrameResult
from stream_ann.overlay import Overlay
from stream_ann.sinks import JsonlSink, PacketRing, RecordingSink, Sink, SinkWorker, SnapshotOptions, SnapshotSink
from stream_ann.states import StateChange

__all__ = ["Attached", "Outputs"]

FINISH_TIMEOUT_S = 60.0
"""How long outputs may take to write what still waits when a run has come to its end."""
INTERRUPTED_TIMEOUT_S = 1.5
"""The same for a run that was interrupted: what cannot be written in this time is dropped and counted."""
PUT_TIMEOUT_S = 0.0
"""How long a live run waits for an output that cannot keep up, before it drops a result: while it waited frames would
be replaced, which no output had then, and no answer either."""
WAITING = 64
"""So many results of each source may wait for an output, as far as the memory for their pictures allows."""
LOSSLESS_PUT_TIMEOUT_S = 30.0
"""The same for a run that must lose nothing."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What to write. A file that is there already is kept as ``NAME.previous.EXT``."""

    events: tuple[str, ...] = ()
    """Files for one JSON object a line: each frame, and each change of a live source's state; ``-`` for standard
    output."""
    on_change: bool = False
    """Whether a frame is an event only where its label is another than the last one's."""
    events_mb: float | None = None
    """Begin another file of events rather than let one grow beyond so many megabytes."""
    keep_events: int | None = None
    """Keep so many finished files of events; None for all."""
    record: Path | None = None
    """File for the video with overlay (mp4, mkv or webm)."""
    chunk_s: float | None = None
    """Begin another file of the recording after so many seconds."""
    chunk_mb: float | None = None
    """Begin another file of the recording after so many megabytes."""
    keep_chunks: int | None = None
    """Keep so many files of the recording of each source; None for all."""
    snapshots: SnapshotOptions | None = None
    """When to take snapshots."""

    def __post_init__(self) -> None:
        """Refuse what would do nothing: whoever asks for chunks of a recording believes that there is one."""
        alone = (
            ("on-change", self.on_change, "events", self.events),
            ("events-mb", self.events_mb, "events", self.events),
            ("events-keep", self.keep_events, "events", self.events),
            ("record-chunk-s", self.chunk_s, "record", self.record),
            ("record-chunk-mb", self.chunk_mb, "record", self.record),
            ("record-keep", self.keep_chunks, "record", self.record),
        )
        for option, given, other, there in alone:
            if given is not None and given is not False and not there:
                raise UsageError(f"--{option} does nothing without --{other}", f"add --{other}, or leave it out")


class Attached:
    """The outputs of a run, each with its worker.

    Args:
        run: The run.
        outputs: What to write.
        on_error: Called with what an output failed with; it is detached, and the run goes on.

    Raises:
        UsageError: If an option makes no sense.
        OutputError: If an output cannot be written.
    """

    def __init__(self, run: LiveRun, outputs: Outputs, on_error: Callable[[StreamAnnError], None]) -> None:
        self._run = run
        self._on_error = on_error
        self._put_timeout_s = LOSSLESS_PUT_TIMEOUT_S if run.lossless else PUT_TIMEOUT_S
        self._overlay = Overlay(run.plan.exit_names)
        self._workers: list[SinkWorker] = []
        self._until_s = float("inf")
        _check_apart(outputs, run.files)
        try:
            self._open(outputs)
        except BaseException:
            self.close(INTERRUPTED_TIMEOUT_S)
            raise
        run.on_state(self._put_state)

    def put(self, result: FrameResult) -> None:
        """Hand a result to all outputs."""
        for worker in self._workers:
            worker.put(result)

    def end(self, timeout_s: float) -> None:
        """Have all outputs finish, all at the same time, within so many seconds; do not wait for them."""
        self._until_s = min(self._until_s, time.monotonic() + timeout_s)
        for worker in self._workers:
            worker.end(timeout_s=timeout_s)

    def close(self, timeout_s: float) -> None:
        """Finish all outputs within a time that they share, in seconds, since :meth:`end` at most. Can be repeated."""
        self.end(timeout_s)
        until_s = self._until_s
        for worker in self._workers:
            worker.close(timeout_s=max(0.1, until_s - time.monotonic()))

    @property
    def none_left(self) -> bool:
        """Whether every output has failed, or there was none."""
        return all(worker.error is not None for worker in self._workers)

    @property
    def previous(self) -> tuple[Path, ...]:
        """Where files are now that existed before."""
        sinks = [worker.sink for worker in self._workers]
        found = [sink.previous for sink in sinks if isinstance(sink, JsonlSink | RecordingSink)]
        return tuple(path for path in found if path is not None)

    def dropped(self) -> dict[str, int]:
        """How many results each output has lost, by its name."""
        return {worker.name: worker.dropped for worker in self._workers}

    def _open(self, outputs: Outputs) -> None:
        for path in outputs.events:
            self._attach(
                JsonlSink(path, on_change=outputs.on_change, most_mb=outputs.events_mb, keep=outputs.keep_events)
            )
        if outputs.record is not None:
            recording = RecordingSink(
                outputs.record,
                draw=self._draw,
                several=len(self._run.sources) > 1,
                chunk_s=outputs.chunk_s,
                chunk_mb=outputs.chunk_mb,
                keep=outputs.keep_chunks,
            )
            self._attach(recording)
        if outputs.snapshots is not None:
            self._attach(SnapshotSink(outputs.snapshots, self._rings(outputs.snapshots)))

    def _attach(self, sink: Sink) -> None:
        capacity = WAITING * len(self._run.sources)
        worker = SinkWorker(sink, capacity=capacity, timeout_s=self._put_timeout_s, on_error=self._on_error)
        self._workers.append(worker)

    def _rings(self, options: SnapshotOptions) -> dict[str, PacketRing]:
        """A ring for each source that has packets, where clips are wanted."""
        rings: dict[str, PacketRing] = {}
        if options.before_s > 0 or options.after_s > 0:
            for name in self._run.sources:
                ring = PacketRing(options.before_s)
                if self._run.tap(name, ring.add):
                    rings[name] = ring
        return rings

    def _draw(self, result: FrameResult) -> NDArray[np.uint8]:
        return self._overlay.draw(result, self._run.stats_of(result.frame.source))

    def _put_state(self, change: StateChange) -> None:
        if self._run.is_live(change.source):  # a file's beginning and end are its first and last line
            for worker in self._workers:
                worker.put_state(change)


def _check_apart(outputs: Outputs, files: Sequence[Path]) -> None:
    """See to it that no output takes the place of another one or of what is read.

    A file that is there is kept as ``NAME.previous.EXT``, but a second run would replace that one.
    """
    paths = [Path(path) for path in outputs.events if path != "-"]
    paths += [] if outputs.record is None else [outputs.record]
    names = [os.path.realpath(path) for path in paths]
    for path, name in zip(paths, names, strict=True):
        if names.count(name) > 1 and not path.is_char_device():
            raise UsageError(f"two outputs go to '{path}'", "give each a file of its own")
        if path.is_file() and any(file.exists() and file.samefile(path) for file in files):
            raise UsageError(f"'{path}' is what is read, and cannot be written", "name another file")
