"""What the commands share: errors as one line, data and talk apart, tables, and choices that several offer."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = [
    "LABELS",
    "NETWORK",
    "ClassesOption",
    "DeviceOption",
    "EngineChoice",
    "EngineOption",
    "HedgeOption",
    "HierarchyOption",
    "PrecisionChoice",
    "PrecisionOption",
    "ReadoutChoice",
    "SmoothOption",
    "State",
    "ThreadsOption",
    "WeightsOption",
    "report_usage",
    "reported",
    "say",
    "say_data",
    "table",
]


class EngineChoice(StrEnum):
    """Values of ``--engine``."""

    auto = "auto"
    torch = "torch"
    openvino = "openvino"
    cuda = "cuda"


class PrecisionChoice(StrEnum):
    """Values of ``--precision``."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


NETWORK = "Network"
"""The panel of the options that say which network runs, and how."""
WeightsOption = Annotated[
    str, typer.Option(help="Name of bundled weights, or path of a weights file.", rich_help_panel=NETWORK)
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=NETWORK)]
EngineOption = Annotated[
    EngineChoice,
    typer.Option(help="What runs the network; auto takes the fastest that is installed.", rich_help_panel=NETWORK),
]
PrecisionOption = Annotated[
    PrecisionChoice,
    typer.Option(help="Type of weights and features; auto is the engine's best.", rich_help_panel=NETWORK),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Threads on the CPU; by default one core is left to the decoder.", rich_help_panel=NETWORK
    ),
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


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?!USER:PASSWORD@)\S+")


class State:
    """What holds for the whole command line."""

    verbose = False


def say(text: str) -> None:
    """One line of talk, on standard error; data goes to standard output."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def say_data(text: str) -> None:
    """Data, on standard output."""
    print(text, flush=True)  # noqa: T201


def without_passwords(text: str) -> str:
    """A text as it may be shown, whatever it names: what was taken for something else than a source, too."""
    from stream_ann.text import clean

    text = clean(text)
    if "://" in text:
        from stream_ann.ingest.url import redact

        text = _URL.sub(lambda url: redact(url[0]), text)
    return text


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

            known = error if isinstance(error, StreamAnnError) else resource_error(error)
            if State.verbose or known is None:
                raise
            say(f"error: {without_passwords(str(known))}")
            raise typer.Exit(1) from None

    return run


def report_usage(error: Exception) -> int:
    """Tell in one line what was wrong with the command line, as for every other error; the exit code.

    Args:
        error: What ended the command line. One that is not about it is raised again.
    """
    message = getattr(error, "format_message", None)  # only typer's own errors have one, and their class is hidden
    if message is None:
        raise error
    from stream_ann.text import clean

    context = getattr(error, "ctx", None)
    program = "stream-ann" if context is None else " ".join(["stream-ann", *context.command_path.split()[1:]])
    text = clean(message().replace("Value error, ", ""))
    if text:  # help that was not asked for is printed already
        if "://" in text:  # whoever forgets the name of the command or of an option may have written a password there
            from stream_ann.ingest.url import redact

            text = re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://.*", lambda url: redact(url[0]), text)
        say(f"error: {text[:1].lower()}{text[1:].rstrip('.')}; see: {program} --help")
    return int(getattr(error, "exit_code", 2))


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
