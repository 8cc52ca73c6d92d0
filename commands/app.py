"""The command line ``stream-ann``. Heavy modules are imported by the command that needs them."""

from __future__ import annotations

from typing import Annotated

import typer

from commands.about import doctor, sources
from commands.bench import bench
from commands.distill import distill
from commands.evaluate import evaluate
from commands.label import label
from commands.live import live
from commands.shared import State, say_data
from commands.train import train
from commands.weights import weights_app

__all__ = ["app"]

app = typer.Typer(
    name="stream-ann",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Classify live video with an anytime neural network: a label at once, refined until the next frame arrives.",
)
for command in (live, label, bench, train, distill, evaluate, sources, doctor):
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
