"""``stream-ann evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commands.shared import ReadoutChoice, reported

__all__ = ["evaluate"]


@reported
def evaluate(
    weights: Annotated[str, typer.Argument(help="Name of weights, or path of a weights file or its card.")],
    data: Annotated[str, typer.Argument(help="Folder in ImageFolder layout or of clips, or the name of a public set.")],
    split: Annotated[str, typer.Option(help="train or val.")] = "val",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 64,
    max_drop: Annotated[
        float | None, typer.Option(help="Early exit may lose this many points of top-1 (0.5 if nothing is asked for).")
    ] = None,
    target_cost: Annotated[
        float | None, typer.Option(help="Early exit at this fraction of the whole plan's cost on average.")
    ] = None,
    readout: Annotated[
        ReadoutChoice | None,
        typer.Option(
            help="Whose confidence decides on early exit. By default average, where the card has weights for it."
        ),
    ] = None,
    fit_readout: Annotated[
        bool, typer.Option("--fit-readout", help="Fit how much each exit counts in the average, and go by that.")
    ] = False,
    as_json: Annotated[
        str | None, typer.Option("--json", help="Write all figures to this file; - for standard output.")
    ] = None,
    csv: Annotated[
        str | None, typer.Option(help="Write the anytime curve to this file; - for standard output.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Plot it to this .png, .svg or .pdf (extra 'plots').")] = None,
    into_card: Annotated[
        bool,
        typer.Option(
            "--into-card", help="Write accuracies, temperatures, thresholds and fitted weights into the card."
        ),
    ] = False,
    val_fraction: Annotated[
        float | None, typer.Option(help="Share held out where the data has no val folder; by default the card's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="By default the card's.")] = None,
) -> None:
    """Measure every exit on a data set: accuracy, calibration, cost and time; and calibrate early exit.

    Example: stream-ann evaluate my-weights/flowers.json flowers --plot curve.png
    """
    from rich.console import Console

    from pipelines.evaluate import evaluate as run

    result = run(
        weights,
        data,
        split=split,  # type: ignore[arg-type]  # checked there
        device=device,
        batch_size=batch_size,
        max_drop=max_drop,
        target_cost=target_cost,
        readout=None if readout is None else readout.value,
        val_fraction=val_fraction,
        seed=seed,
        fit_readout=fit_readout,
        json=as_json,
        csv=csv,
        plot=plot,
        into_card=into_card,
        console=Console(stderr=True),
    )
    Console(stderr="-" in (as_json, csv)).print(result)
