"""What the commands share: errors as one line, data and talk apart, tables, and choices that several offer."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = [
    "LABELS",
    "ClassesOption",
    "HedgeOption",
    "HierarchyOption",
    "ReadoutChoice",
    "SmoothOption",
    "State",
    "reported",
    "say",
    "say_data",
    "table",
]

LABELS = "Labels"
"""The panel of the options that say what answers are called."""
ClassesOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Only these classes, or groups of them: 'tabby', 'cat=tabby,tiger cat', 'dog', 'other', or @FILE with one "
        "a line. May be given again.",
        show_default=False,
        rich_help_panel=LABELS,
    ),
]
SmoothOption = Annotated[
    float,
    typer.Option(
        min=0.0,
        help="Smooth each source's answers over about this many seconds, within a scene.",
        rich_help_panel=LABELS,
    ),
]
HedgeOption = Annotated[
    float | None,
    typer.Option(
        help="Show the most specific concept (animal, dog, spaniel, English springer) that is right at least this "
        "often, e.g. 0.7.",
        rich_help_panel=LABELS,
    ),
]
HierarchyOption = Annotated[
    Path | None,
    typer.Option(
        help="Text file of concepts, the classes indented under them; ImageNet's classes have WordNet's.",
        dir_okay=False,
        rich_help_panel=LABELS,
    ),
]


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
            from stream_ann.errors import StreamAnnError, resource_error
            from stream_ann.text import clean

            known = error if isinstance(error, StreamAnnError) else resource_error(error)
            if State.verbose or known is None:
                raise
            say(f"error: {clean(str(known))}")
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
