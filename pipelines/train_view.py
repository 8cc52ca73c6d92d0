"""What a training run shows: a progress bar on a terminal, and a line for each epoch."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from stream_ann.text import clean
from stream_ann.training import history

__all__ = ["TrainView", "duration"]


class TrainView:
    """Shows a run.

    Args:
        console: Where; None shows nothing. The bar is drawn on terminals only.
    """

    def __init__(self, console: Console | None) -> None:
        self._console = console
        self._bar: Progress | None = None
        if console is not None and console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"))
            self._bar = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
        self._task = None if self._bar is None else self._bar.add_task("", total=None, figures="")
        self._headed = False

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line, above the bar."""
        self._print(clean(line))

    def stage(self, name: str) -> Callable[[int, int], None]:
        """A callback for something that is not an epoch; takes the number of images done and their total."""

        def tell(done: int, total: int) -> None:
            self._draw(name, done, total, f"{done}/{total}")

        return tell

    def progress(self, now: history.Progress) -> None:
        """Show how far the run has come."""
        losses = [loss for loss in now.losses if loss is not None]
        figures = f"{now.images_per_s:,.0f} images/s  loss {losses[-1]:.3f}  " if losses else ""
        done, total = now.epoch * now.batches + now.batch, now.epochs * now.batches
        self._draw(f"epoch {now.epoch + 1}/{now.epochs}", done, total, f"{figures}{duration(now.eta_s)} left")

    def epoch(self, record: history.EpochRecord, epochs: int, exit_names: tuple[str, ...]) -> None:
        """Print the line of an epoch: loss of the last exit, and every exit's validated accuracy in percent."""
        if not self._headed:
            self._headed = True
            self.say(f"validated accuracy in percent of: {', '.join(exit_names)}")
        losses = [loss for loss in record.train_loss if loss is not None]
        loss = f"{losses[-1]:.3f}" if losses else "-"
        accuracies = " ".join(f"{100 * accuracy:5.1f}" for accuracy in record.val_accuracy)
        width = len(str(epochs))
        where = f"epoch {record.epoch + 1:{width}}/{epochs}"
        self._print(f"{where}  loss {loss}  accuracy {accuracies}  {record.images_per_s:,.0f} images/s")

    def _print(self, line: str) -> None:
        """Print a line as it is: with the spaces that align it with those before."""
        if self._console is not None:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _draw(self, description: str, done: int, total: int, figures: str) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=description, completed=done, total=total, figures=figures)


def duration(seconds: float) -> str:
    """``"45 s"``, ``"12 min"``, ``"3.4 h"``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
