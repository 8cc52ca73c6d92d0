"""Writing a report into a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pipelines.benchmarking.page import page
from pipelines.benchmarking.results import BenchReport
from stream_ann.errors import MissingExtraError
from stream_ann.sinks.files import check_writable, output_error
from stream_ann.whole_files import whole_file

__all__ = ["check_folder", "report_progress", "write_report"]


@contextmanager
def report_progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on a terminal, and nothing elsewhere; yields what to call with stage, done and total."""
    if not console.is_terminal:
        yield lambda what, done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield tell


def check_folder(folder: Path) -> None:
    """Make sure, before any long work, that a report can be written to a folder; makes it where it is missing.

    Raises:
        OutputError: It cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    check_writable(folder / "report.json")


def write_report(report: BenchReport, folder: Path) -> list[Path]:
    """Write ``report.json``, ``report.csv``, ``report.html`` and ``accuracy.png`` into a folder, each whole or not at
    all. Without matplotlib there is no picture, and the page says how to get its plots.

    Returns:
        The files.

    Raises:
        OutputError: One cannot be written.
    """
    contents = {"report.json": report.to_json().encode(), "report.csv": report.to_csv().encode()}
    try:
        from pipelines.benchmarking import plots

        picture = plots.accuracy_figure(report)
        makers = (plots.exits_figure, plots.latency_figure, plots.time_figure)
        figures = [picture, *(make(report) for make in makers)]
        svgs = [plots.svg_of(figure, f"plot{number}") for number, figure in enumerate(figures)]
        contents["report.html"] = page(report, svgs).encode()
        contents["accuracy.png"] = plots.png_of(picture)
    except MissingExtraError as error:
        contents["report.html"] = page(report, (), without=str(error)).encode()
    written = []
    for name, content in contents.items():
        path = folder / name
        try:
            with whole_file(path) as file:
                file.write(content)
        except OSError as error:
            raise output_error(path, error) from error
        written.append(path)
    return written
