"""Showing a live run and writing it to files, until it ends or is interrupted."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass

from rich.console import Console

from pipelines.live import LiveRun
from pipelines.outputs import FINISH_TIMEOUT_S, INTERRUPTED_TIMEOUT_S, Attached, Outputs
from pipelines.signals import stop_on_signals
from pipelines.views import Serving, Views, say
from stream_ann.errors import StreamAnnError
from stream_ann.stats import StatsSnapshot

__all__ = ["LiveSummary", "warn", "watch"]


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
    outputs: Outputs | None = None,
    serving: Serving | None = None,
) -> LiveSummary:
    """Show a run and write it to files until it ends or is interrupted.

    Args:
        run: A run of :func:`live`; closed at the end.
        console: Where the terminal view is drawn and warnings are printed.
        view: ``"window"``, ``"web"``, ``"terminal"``, ``"none"``, or ``"auto"``: what the machine can show.
        outputs: What to write; by default nothing.
        serving: Where the web page and the metrics are served.

    Raises:
        UsageError: If the view does not exist, or an option makes no sense.
        MissingExtraError: If the view needs packages that are not installed.
        OutputError: If an output cannot be written, or a view cannot be opened.
        SourceError: If the source fails.
    """
    errors: list[StreamAnnError] = []
    attached: Attached | None = None
    views: Views | None = None
    completed = False
    begun_s = time.monotonic()

    def failed(error: StreamAnnError) -> None:
        errors.append(error)
        warn(console, str(error))
        if attached is not None and attached.none_left and not (views is not None and views.shown):
            run.stop()  # nobody would see what comes now

    def end(outputs: Attached, shown: Views) -> None:
        """Have everything end at the same time: one after the other would take longer than an interrupted run has."""
        outputs.end(FINISH_TIMEOUT_S if completed else INTERRUPTED_TIMEOUT_S)
        shown.end()
        run.close()

    with ExitStack() as stack:
        stack.callback(run.close)
        attached = Attached(run, outputs or Outputs(), failed)
        finish = attached.close
        stack.callback(lambda: finish(FINISH_TIMEOUT_S if completed else INTERRUPTED_TIMEOUT_S))
        views = stack.enter_context(Views(run, console=console, view=view, serving=serving, drops=attached.dropped))
        stack.callback(end, attached, views)
        run.on_state(views.put_state)
        came = stack.enter_context(stop_on_signals(run.stop))
        for result in run:
            views.put(result)
            attached.put(result)
        completed = not came.is_set()
    for path in attached.previous:
        warn(console, f"the file that was there before is now '{path}'")
    return LiveSummary(
        stats=run.stats.snapshot(),
        exit_names=run.plan.exit_names,
        elapsed_s=time.monotonic() - begun_s,
        interrupted=came.is_set(),
        dropped={name: count for name, count in attached.dropped().items() if count},
        errors=(*errors, *run.errors),
    )
