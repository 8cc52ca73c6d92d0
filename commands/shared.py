"""What the commands share: errors as one line, data and talk apart, tables, and choices that several offer."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import typer

__all__ = ["ReadoutChoice", "State", "reported", "say", "say_data", "table"]


class ReadoutChoice(StrEnum):
    """Values of ``--readout``."""

    latest = "latest"
    best = "best"
    average = "average"


class State:
    """What holds for the whole command line."""

    verbose = False


def say(text: str) -> None:
    """One line of talk, on standard error; data goes to standard output."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def say_data(text: str) -> None:
    """Data, on standard output."""
    print(text, flush=True)  # noqa: T201


def reported(command: Callable[..., None]) -> Callable[..., None]:
    """Turn expected errors into one line and exit code 1, Ctrl-C into 130."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except Exception as error:
            from stream_ann.errors import StreamAnnError

            if State.verbose or not isinstance(error, StreamAnnError):
                raise
            from stream_ann.text import clean

            say(f"error: {clean(str(error))}")
            raise typer.Exit(1) from None

    return run


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A table on standard output; piped, it is as wide as its content."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from stream_ann.text import clean

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name)
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    # a pipe has no width: what reads it gets each row on one line
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)
