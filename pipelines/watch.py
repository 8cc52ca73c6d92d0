"""Showing a live run and writing it to files, until it ends or is interrupted."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipelines.live import LiveRun
from pipelines.signals import stop_on_signals
from pipelines.views import Serving, Views, say
from stream_ann.errors import StreamAnnError, UsageError
from stream_ann.overlay import Overlay
from stream_ann.sinks import JsonlSink, SinkWorker, VideoSink
from stream_ann.states import StateChange
from stream_ann.stats import StatsSnapshot

__all__ = ["LiveSummary", "warn", "watch"]

FINISH_TIMEOUT_S = 60.0
"""How long outputs may take to write what still waits when a run has come to its end."""
INTERRUPTED_TIMEOUT_S = 1.5
"""The same for a run that was interrupted: what cannot be written in this time is dropped and counted."""
PUT_TIMEOUT_S = 0.5
"""How long a live run waits for an output that cannot keep up, before it drops a result."""
LOSSLESS_PUT_TIMEOUT_S = 30.0
"""The same for a run that must lose nothing."""


def _close_all(workers: list[SinkWorker], timeout_s: float) -> None:
    """Finish all outputs within a time that they share."""
    until_s = time.monotonic() + timeout_s
    for worker in workers:
        worker.close(timeout_s=max(0.1, until_s - time.monotonic()))


def warn(console: Console, line: str) -> None:
    """Print one line of warning, whatever characters are in it."""
    say(console, f"warning: {line}")


@dataclass(frozen=True, slots=True)
class LiveSummary:
    """What there is to say at the end of a run."""

    stats: StatsSnapshot
    exit_names: tuple[str, ...]
    elapsed_s: float
    interrupted: bool
    dropped: dict[str, int]
    """For each file or stream written, how many results it lost because it could not keep up or failed."""
    errors: tuple[StreamAnnError, ...]
    """What went wrong with outputs and with some of several sources; the run went on without them."""


def watch(
    run: LiveRun,
    *,
    console: Console,
    view: str = "auto",
    record: str | os.PathLike[str] | None = None,
    events: str | os.PathLike[str] | None = None,
    serving: Serving | None = None,
) -> LiveSummary:
    """Show a run and write it to files until it ends or is interrupted.

    Args:
        run: A run of :func:`live`; closed at the end.
        console: Where the terminal view is drawn and warnings are printed.
        view: ``"web"``, ``"terminal"``, ``"none"``, or ``"auto"``: what the machine can show.
        record: File for the video with overlay (mp4, mkv or webm). A file that is there already is kept as
            ``NAME.previous.EXT``; so with ``events``.
        events: File for one JSON object a line, ``-`` for standard output: each frame, and each change of a live
            source's state.
        serving: Where the web page and the metrics are served.

    Raises:
        UsageError: If the view does not exist.
        MissingExtraError: If the view needs packages that are not installed.
        OutputError: If an output cannot be written.
        SourceError: If the source fails.
    """
    names = run.plan.exit_names
    workers: list[SinkWorker] = []
    sinks: list[JsonlSink | VideoSink] = []
    errors: list[StreamAnnError] = []
    put_timeout_s = LOSSLESS_PUT_TIMEOUT_S if run.lossless else PUT_TIMEOUT_S
    views: Views | None = None
    completed = False
    begun_s = time.monotonic()
    with ExitStack() as stack:
        stack.callback(run.close)
        stack.callback(lambda: _close_all(workers, FINISH_TIMEOUT_S if completed else INTERRUPTED_TIMEOUT_S))

        def failed(error: StreamAnnError) -> None:
            errors.append(error)
            warn(console, str(error))
            if (views is None or not views.shown) and all(worker.error is not None for worker in workers):
                run.stop()  # nobody would see what comes now

        def attach(sink: JsonlSink | VideoSink) -> None:
            sinks.append(sink)
            workers.append(SinkWorker(sink, timeout_s=put_timeout_s, on_error=failed))

        if events is not None:
            attach(JsonlSink(events))
            written = workers[-1]

            def put_state(change: StateChange) -> None:
                if run.is_live(change.source):  # a file's beginning and end are its first and last line
                    written.put_state(change)

            run.on_state(put_state)
        if record is not None:
            if len(run.sources) > 1:
                raise UsageError(f"a recording is of one source, got {len(run.sources)}", "leave --record out")
            overlay = Overlay(names)
            attach(VideoSink(Path(record), draw=lambda result: overlay.draw(result, run.stats.snapshot())))

        def drops() -> dict[str, int]:
            return {worker.name: worker.dropped for worker in workers}

        views = stack.enter_context(Views(run, console=console, view=view, serving=serving, drops=drops))
        run.on_state(views.put_state)
        came = stack.enter_context(stop_on_signals(run.stop))
        for result in run:
            views.put(result)
            for worker in workers:
                worker.put(result)
        completed = not came.is_set()
    for path in (sink.previous for sink in sinks):
        if path is not None:
            warn(console, f"the file that was there before is now '{path}'")
    return LiveSummary(
        stats=run.stats.snapshot(),
        exit_names=names,
        elapsed_s=time.monotonic() - begun_s,
        interrupted=came.is_set(),
        dropped={worker.name: worker.dropped for worker in workers if worker.dropped},
        errors=(*errors, *run.errors),
    )
