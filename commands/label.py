"""``stream-ann label``."""

from __future__ import annotations

import gc
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from commands.shared import (
    NETWORK,
    ClassesOption,
    DeviceOption,
    EngineChoice,
    EngineOption,
    HedgeOption,
    HierarchyOption,
    PrecisionChoice,
    PrecisionOption,
    ReadoutChoice,
    SmoothOption,
    WeightsOption,
    reported,
)

__all__ = ["TableFormat", "label"]


class TableFormat(StrEnum):
    """Values of ``--format``."""

    auto = "auto"
    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"
    vtt = "vtt"


WHAT, SPEED, END = "What is labelled", "How deep, how fast", "Going on, and going wrong"


@reported
def label(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Videos, folders with all that is in them, 'globs', @FILE for a list of paths, - for such a list on "
            "standard input, demo.",
        ),
    ],
    out: Annotated[
        str,
        typer.Option(help="A file for all videos (.jsonl, .csv, .parquet, .vtt), a folder for a file each, or -."),
    ],
    format: Annotated[
        TableFormat, typer.Option(help="Form of the labels; by default as the file's extension says, else jsonl.")
    ] = TableFormat.auto,
    segments: Annotated[
        bool, typer.Option("--segments", help="Write runs of one label instead of frames: start, end, mean confidence.")
    ] = False,
    overlay: Annotated[
        Path | None, typer.Option(help="Write annotated videos to this folder, their sound kept.", file_okay=False)
    ] = None,
    list_: Annotated[
        list[Path] | None,
        typer.Option("--list", help="A file with a path on each line; may be given again.", dir_okay=False),
    ] = None,
    stride: Annotated[int, typer.Option(min=1, help="Label every so many frames.", rich_help_panel=WHAT)] = 1,
    every_s: Annotated[
        float | None, typer.Option(help="Label one frame every so many seconds.", rich_help_panel=WHAT)
    ] = None,
    keyframes_only: Annotated[
        bool, typer.Option("--keyframes-only", help="Label only key frames; no other is decoded.", rich_help_panel=WHAT)
    ] = False,
    top_k: Annotated[int, typer.Option(min=1, help="How many classes of each frame.", rich_help_panel=WHAT)] = 5,
    classes: ClassesOption = None,
    smooth_s: SmoothOption = 0.0,
    hedge: HedgeOption = None,
    hierarchy: HierarchyOption = None,
    confidence: Annotated[
        str | None,
        typer.Option(
            help="A frame is done once its answer is this probable (0 to 1, or 'never'), or one for each exit with "
            "commas between; by default as the weights card says.",
            rich_help_panel=SPEED,
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Instead: as early as at most so many percentage points of accuracy are lost, by the weights card.",
            rich_help_panel=SPEED,
        ),
    ] = None,
    budget_ms_per_frame: Annotated[
        float | None,
        typer.Option(help="Mean time for the steps of a frame; the least sure ones get more.", rich_help_panel=SPEED),
    ] = None,
    finish_by: Annotated[
        str | None,
        typer.Option(
            help="The whole job ends within this time, such as 45min or 2h, as deep as that allows.",
            rich_help_panel=SPEED,
        ),
    ] = None,
    max_exit: Annotated[
        int | None, typer.Option(min=0, help="The deepest exit to use, from 0.", rich_help_panel=SPEED)
    ] = None,
    readout: Annotated[
        ReadoutChoice | None,
        typer.Option(
            help="Which answer the exits reached give together. By default average, where the card has weights for it.",
            rich_help_panel=SPEED,
        ),
    ] = None,
    weights: WeightsOption = "imagenet",
    device: DeviceOption = "auto",
    engine: EngineOption = EngineChoice.auto,
    precision: PrecisionOption = PrecisionChoice.auto,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Frames that run together.", rich_help_panel=NETWORK)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Videos that are worked on at a time; one a core.", rich_help_panel=SPEED),
    ] = None,
    hwaccel: Annotated[
        str | None,
        typer.Option(help="Decode on this kind of device where it can: cuda, vaapi, ...", rich_help_panel=SPEED),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="Work on a Ray cluster: auto, ray://HOST:10001, or local.", rich_help_panel=SPEED),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what an earlier run has left.", rich_help_panel=END)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew, in place of what is there.", rich_help_panel=END)
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first video that cannot be read.", rich_help_panel=END)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no summary; only errors.", rich_help_panel=END)
    ] = False,
    summary_json: Annotated[
        str | None,
        typer.Option(help="Write a summary as JSON to this file; - for standard output.", rich_help_panel=END),
    ] = None,
) -> None:
    """Label every frame of many videos, each exactly once, as fast as the machine can.

    Exit code 1 says that some videos could not be read to their end; all others have their labels.

    Example: stream-ann label holidays --out labels.csv --confidence 0.8
    """
    from rich.console import Console

    import pipelines
    from pipelines.labelling.progress import follow
    from pipelines.labelling.settings import confidence_from
    from pipelines.watch import warn
    from stream_ann.errors import UsageError
    from stream_ann.labels import LabelOptions

    if out == summary_json == "-":
        raise UsageError("labels and summary would be mixed on standard output", "name a file for one of them")
    console = Console(stderr=True, quiet=quiet)
    run = pipelines.label(
        inputs,
        out=out,
        format=format.value,
        segments=segments,
        overlay=overlay,
        lists=list_ or (),
        resume=resume,
        overwrite=overwrite,
        strict=strict,
        weights=weights,
        device=device,
        engine=engine.value,
        precision=precision.value,
        confidence=None if confidence is None else confidence_from(confidence),
        max_drop=max_drop,
        max_exit=max_exit,
        readout=None if readout is None else readout.value,
        budget_ms_per_frame=budget_ms_per_frame,
        finish_by=finish_by,
        stride=stride,
        every_s=every_s,
        keyframes_only=keyframes_only,
        top_k=top_k,
        labels=LabelOptions(classes=classes or (), smooth_s=smooth_s, hedge=hedge, hierarchy=hierarchy),
        batch_size=batch_size,
        workers=workers,
        hwaccel=hwaccel,
        cluster=cluster,
        beside=() if summary_json in (None, "-") else (summary_json,),
        on_warning=lambda line: warn(console, line),
    )
    gc.freeze()  # what is imported and loaded stays: it need not be searched whenever a unit's decoder is freed
    interrupted = follow(run, console=console, summary_json=summary_json)
    if interrupted:
        raise typer.Exit(130)
    if run.status().failed:
        raise typer.Exit(1)
