"""The command line ``stream-ann``: its commands, and how it ends.

Heavy modules are imported by the command that needs them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from commands.about import doctor, sources
from commands.bench import bench
from commands.evaluate import evaluate
from commands.label import label
from commands.live import live
from commands.shared import State, say_data
from commands.train import train
from commands.weights import weights_app

app = typer.Typer(
    name="stream-ann",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Classify live video with an anytime neural network: a label at once, refined until the next frame arrives.",
)
for command in (live, label, bench, train, evaluate, sources, doctor):
    app.command()(command)
app.add_typer(weights_app, name="weights")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say_data(f"stream-ann {version('stream-ann')}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    State.verbose = verbose


def main() -> NoReturn:
    """Entry point of the command ``stream-ann``."""
    code: object = 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is a Ctrl-C
    try:
        app()
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:  # outside of any command: while its arguments were read
        code = 130
    # Every file is closed and every thread has ended by now. Taking torch apart module by module would cost seconds,
    # during which Ctrl-C seems to hang.
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    main()
