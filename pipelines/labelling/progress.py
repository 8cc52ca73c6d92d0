"""Showing how a labelling job gets on, and what came of it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipelines.labelling.job import LabelRun, LabelStatus
from pipelines.signals import stop_on_signals
from stream_ann.sinks.files import check_writable, output_error
from stream_ann.text import clean, format_duration
from stream_ann.whole_files import whole_file

__all__ = ["follow", "progress_line", "summary"]

REFRESH_S = 0.25
MOST_FAILED = 20
"""Videos that failed are listed up to this number; all are in the JSON summary."""


def follow(run: LabelRun, *, console: Console, summary_json: str | None = None) -> bool:
    """Run a job to its end, or until Ctrl-C: with progress on a terminal, a summary, and one in JSON on request.

    Args:
        run: The job; closed at the end.
        console: Where progress and summary are shown.
        summary_json: File for the summary as JSON, ``-`` for standard output.

    Returns:
        Whether it was interrupted.

    Raises:
        StreamAnnError: If the job cannot go on.
    """
    if summary_json is not None and summary_json != "-":
        check_writable(Path(summary_json))
    with run, stop_on_signals(run.stop) as came:
        try:
            with _Shown(run, console):
                for _ in run:
                    pass
        finally:
            run.close()
            status = run.status()
            console.print(summary(status, run.exit_names))
            if summary_json is not None:
                _write_json(summary_json, status, run.exit_names)
    return came.is_set()


def progress_line(status: LabelStatus) -> RenderableType:
    """How far a job is, as a bar and figures."""
    expected = status.expected_frames
    grid = Table.grid(padding=(0, 2))
    for _ in range(6):
        grid.add_column(no_wrap=True)
    total = None if expected is None else max(1.0, expected, status.frames)
    left = "" if status.left_s is None else f"{format_duration(status.left_s)} left"
    grid.add_row(
        ProgressBar(total=total, completed=status.frames, width=24, pulse=total is None),
        f"{status.done}/{len(status.videos)} videos",
        f"{status.frames:,} frames",
        f"{status.frames_per_s:.1f}/s",
        left,
        _exits(status),
    )
    return grid


def summary(status: LabelStatus, exit_names: Sequence[str]) -> RenderableType:
    """What came of a job."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    failed = status.failed
    table.add_row("videos", f"{status.done} of {len(status.videos)}")
    if failed:
        table.add_row("of them failed", str(len(failed)))
    table.add_row("frames", f"{status.frames:,}")
    if status.new_frames != status.frames:
        table.add_row("of them now", f"{status.new_frames:,}")
    if status.damaged:
        table.add_row("damaged frames", f"{status.damaged:,}")
    table.add_row("frames/s", f"{status.frames_per_s:.1f}")
    table.add_row("elapsed", format_duration(status.elapsed_s))
    if status.mean_exit is not None:
        table.add_row("mean exit", f"{status.mean_exit:.2f}")
        for name, count in zip(exit_names, status.left_at, strict=True):
            table.add_row(f"left at {clean(name)}", f"{count / status.frames:.1%}")
    for video in failed[:MOST_FAILED]:
        table.add_row(Text(f"failed: {clean(video.name)}"), f"{video.frames:,} frames")
    if len(failed) > MOST_FAILED:
        table.add_row(f"... and {len(failed) - MOST_FAILED} more", "")
    return table


def _exits(status: LabelStatus) -> str:
    if not status.frames:
        return ""
    shares = " ".join(f"{count / status.frames:.0%}" for count in status.left_at)
    return f"exit {status.mean_exit:.2f} ({shares})"


def _write_json(target: str, status: LabelStatus, exit_names: Sequence[str]) -> None:
    text = json.dumps(status.as_json(exit_names), indent=2) + "\n"
    if target == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        with whole_file(Path(target)) as file:
            file.write(text.encode())
    except OSError as error:
        raise output_error(target, error) from error


class _Shown:
    """Paints the progress from a thread of its own, on a terminal only."""

    def __init__(self, run: LabelRun, console: Console) -> None:
        self._run = run
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._paint, name="stream-ann label progress", daemon=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._over.set()
            self._thread.join(2.0)
            self._live.stop()

    def _paint(self) -> None:
        assert self._live is not None
        while not self._over.wait(REFRESH_S):
            self._live.update(progress_line(self._run.status()), refresh=True)
