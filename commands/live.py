"""``stream-ann live``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from commands.shared import (
    LABELS,
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
    ThreadsOption,
    WeightsOption,
    reported,
)

__all__ = ["View", "live"]


class View(StrEnum):
    """Values of ``--view``."""

    auto = "auto"
    window = "window"
    web = "web"
    terminal = "terminal"
    none = "none"


class PolicyChoice(StrEnum):
    """Values of ``--policy``."""

    in_order = "in-order"
    planned = "planned"
    steady = "steady"
    scene = "scene"


class TransportChoice(StrEnum):
    """Values of ``--transport``."""

    tcp = "tcp"
    udp = "udp"


class SnapshotChoice(StrEnum):
    """Values of ``--snapshot-when``."""

    change = "change"
    confidence = "confidence"


class PictureChoice(StrEnum):
    """Values of ``--snapshot-format``."""

    jpg = "jpg"
    png = "png"


_SOURCES = "Sources"
_REFINEMENT = "Refinement"
_VIEWS = "Views"
_OUTPUTS = "Outputs"


@reported
def live(
    source: Annotated[
        list[str],
        typer.Argument(
            help="demo, a webcam (0), a camera (rtsp://...), a video file, a folder or glob of images, "
            "pattern:WxH@FPS, or @FILE with some of these, one a line. Several share the engine.",
            metavar="SOURCE",
            show_default=False,
        ),
    ],
    realtime: Annotated[
        bool,
        typer.Option(
            help="Play files at their own pace; --no-realtime: as fast as frames are taken, none lost.",
            rich_help_panel=_SOURCES,
        ),
    ] = True,
    max_frames: Annotated[
        int | None, typer.Option(min=1, help="End after this many answered frames.", rich_help_panel=_SOURCES)
    ] = None,
    transport: Annotated[
        TransportChoice,
        typer.Option(help="How RTSP carries the pictures. Over udp they may get lost.", rich_help_panel=_SOURCES),
    ] = TransportChoice.tcp,
    connect_timeout_s: Annotated[
        float, typer.Option(help="How long a network camera may take to answer.", rich_help_panel=_SOURCES)
    ] = 5.0,
    read_timeout_s: Annotated[
        float,
        typer.Option(help="Connect anew to a camera that gives no picture for so long.", rich_help_panel=_SOURCES),
    ] = 5.0,
    reconnect_attempts: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Give a camera up after so many failed attempts in a row; never by default.",
            rich_help_panel=_SOURCES,
        ),
    ] = None,
    webcam_size: Annotated[
        str | None, typer.Option(help="Size to ask a webcam for, such as 1280x720.", rich_help_panel=_SOURCES)
    ] = None,
    webcam_fps: Annotated[
        float | None, typer.Option(help="Frames a second to ask a webcam for.", rich_help_panel=_SOURCES)
    ] = None,
    weights: WeightsOption = "imagenet",
    device: DeviceOption = "auto",
    engine: EngineOption = EngineChoice.auto,
    precision: PrecisionOption = PrecisionChoice.auto,
    compile_steps: Annotated[
        bool,
        typer.Option("--compile", help="Compile the torch engine's steps; takes a minute.", rich_help_panel=NETWORK),
    ] = False,
    threads: ThreadsOption = None,
    queue_depth: Annotated[
        int, typer.Option(min=1, help="Steps that a GPU is given ahead.", rich_help_panel=NETWORK)
    ] = 1,
    policy: Annotated[
        PolicyChoice | None,
        typer.Option(
            help="scene: a crude answer at once after a cut, then ever better ones from all frames of the scene; "
            "in-order: every exit in turn; planned: those that promise the best answer by the next frame; steady: a "
            "good answer a little late rather than a poor one in time. By default scene; in-order for several sources.",
            rich_help_panel=_REFINEMENT,
        ),
    ] = None,
    deadline_ms: Annotated[
        float | None,
        typer.Option(
            help="Don't start a step that would end later than this after the frame's arrival.",
            rich_help_panel=_REFINEMENT,
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            help="Stop refining a frame once its answer is this probable (0 to 1).", rich_help_panel=_REFINEMENT
        ),
    ] = None,
    readout: Annotated[
        ReadoutChoice | None,
        typer.Option(
            help="Which answer the finished exits of a frame give together; without --policy, in order. By default "
            "average, where the card has weights for it; policy scene joins all exits instead.",
            rich_help_panel=_REFINEMENT,
        ),
    ] = None,
    background_refine: Annotated[
        bool,
        typer.Option(
            "--background-refine",
            help="When frames come too fast, reach the deep exits for a key frame in between; without --policy, in "
            "order.",
            rich_help_panel=_REFINEMENT,
        ),
    ] = False,
    classes: ClassesOption = None,
    smooth_s: SmoothOption = 0.0,
    hedge: HedgeOption = None,
    hierarchy: HierarchyOption = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many classes each event lists.", rich_help_panel=LABELS)] = 5,
    view: Annotated[
        View,
        typer.Option(
            help="Where to show it; auto: a window where there is a display, else the terminal.",
            rich_help_panel=_VIEWS,
        ),
    ] = View.auto,
    web_port: Annotated[
        int | None,
        typer.Option(
            help="Port of the web page, 0 for a free one; by default 8765 or, where that is taken, a free one.",
            rich_help_panel=_VIEWS,
        ),
    ] = None,
    web_host: Annotated[
        str,
        typer.Option(
            help="Address that page and metrics listen on; another than your own machine's needs a token.",
            rich_help_panel=_VIEWS,
        ),
    ] = "127.0.0.1",
    web_token: Annotated[
        str | None,
        typer.Option(
            envvar="STREAM_ANN_WEB_TOKEN",
            help="What visitors must know; made up and printed where it is needed.",
            rich_help_panel=_VIEWS,
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            help="Serve /metrics (Prometheus) and /healthz on this port, with any view; 0 for a free one.",
            rich_help_panel=_VIEWS,
        ),
    ] = None,
    events: Annotated[
        list[str] | None,
        typer.Option(
            help="Write one JSON object a frame, or change of a camera's state, to this file; - for stdout. "
            "May be given again.",
            show_default=False,
            rich_help_panel=_OUTPUTS,
        ),
    ] = None,
    on_change: Annotated[
        bool,
        typer.Option(
            "--on-change", help="Write a frame's event only when the label changes.", rich_help_panel=_OUTPUTS
        ),
    ] = False,
    events_mb: Annotated[
        float | None,
        typer.Option(
            help="Begin another file of events after so many megabytes; the full one gets its time and number.",
            rich_help_panel=_OUTPUTS,
        ),
    ] = None,
    events_keep: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Keep the newest so many finished files of this run's events, delete the others.",
            rich_help_panel=_OUTPUTS,
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            help="Write the video with its overlay to this .mp4, .mkv or .webm file; of several sources, one each.",
            dir_okay=False,
            rich_help_panel=_OUTPUTS,
        ),
    ] = None,
    record_chunk_s: Annotated[
        float | None,
        typer.Option(
            help="Begin another file, its time and number in its name, after so long.", rich_help_panel=_OUTPUTS
        ),
    ] = None,
    record_chunk_mb: Annotated[
        float | None, typer.Option(help="Begin another file after so many megabytes.", rich_help_panel=_OUTPUTS)
    ] = None,
    record_keep: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Keep the newest so many finished files of this run's, delete the others.",
            rich_help_panel=_OUTPUTS,
        ),
    ] = None,
    snapshot: Annotated[
        Path | None,
        typer.Option(
            help="Put snapshots into this folder: a picture, its event, and a clip where one is asked for.",
            file_okay=False,
            rich_help_panel=_OUTPUTS,
        ),
    ] = None,
    snapshot_when: Annotated[
        SnapshotChoice,
        typer.Option(help="When the label changes, or when the answer gets sure enough.", rich_help_panel=_OUTPUTS),
    ] = SnapshotChoice.change,
    snapshot_confidence: Annotated[
        float | None,
        typer.Option(
            help="How sure it must be, 0 to 1; by default 0 for change, 0.5 for confidence.", rich_help_panel=_OUTPUTS
        ),
    ] = None,
    snapshot_format: Annotated[
        PictureChoice, typer.Option(help="What pictures are stored as.", rich_help_panel=_OUTPUTS)
    ] = PictureChoice.jpg,
    snapshot_before_s: Annotated[
        float,
        typer.Option(help="Keep a clip with so much of the time before.", rich_help_panel=_OUTPUTS),
    ] = 0.0,
    snapshot_after_s: Annotated[
        float, typer.Option(help="Keep a clip with so much of the time after.", rich_help_panel=_OUTPUTS)
    ] = 0.0,
    snapshot_gap_s: Annotated[
        float, typer.Option(help="Shortest time between two snapshots of a source.", rich_help_panel=_OUTPUTS)
    ] = 1.0,
    snapshot_max: Annotated[
        int,
        typer.Option(
            min=1,
            help="How many the folder may hold; the oldest are deleted, earlier runs' too.",
            rich_help_panel=_OUTPUTS,
        ),
    ] = 1000,
) -> None:
    """Classify streams live, each frame refined until the next one arrives.

    Example: stream-ann live demo --record demo.mp4 --events demo.jsonl
    """
    from rich.console import Console

    import pipelines
    from pipelines.outputs import Outputs
    from pipelines.views import Serving
    from pipelines.watch import warn, watch
    from stream_ann.errors import UsageError
    from stream_ann.ingest import SourceOptions, size_px_from, specs_from
    from stream_ann.labels import LabelOptions
    from stream_ann.sinks import SnapshotOptions, summary_table

    console = Console(stderr=True)
    snapshots = None
    if snapshot is None and (snapshot_confidence, snapshot_before_s, snapshot_after_s) != (None, 0.0, 0.0):
        raise UsageError("there is no folder for snapshots", "add --snapshot FOLDER")
    if snapshot is not None:
        snapshots = SnapshotOptions(
            snapshot,
            when=snapshot_when.value,
            confidence=snapshot_confidence,
            format=snapshot_format.value,
            before_s=snapshot_before_s,
            after_s=snapshot_after_s,
            gap_s=snapshot_gap_s,
            most=snapshot_max,
        )
    outputs = Outputs(
        events=tuple(events or ()),
        on_change=on_change,
        events_mb=events_mb,
        keep_events=events_keep,
        record=record,
        chunk_s=record_chunk_s,
        chunk_mb=record_chunk_mb,
        keep_chunks=record_keep,
        snapshots=snapshots,
    )
    run = pipelines.live(
        specs_from(source, on_warning=lambda line: warn(console, line)),
        weights=weights,
        device=device,
        engine=engine.value,
        precision=precision.value,
        compile=compile_steps,
        threads=threads,
        path=None if policy is None else policy.value,
        background_refine=background_refine,
        queue_depth=queue_depth,
        deadline_ms=deadline_ms,
        confidence=confidence,
        readout=None if readout is None else readout.value,
        labels=LabelOptions(classes=classes or (), smooth_s=smooth_s, hedge=hedge, hierarchy=hierarchy),
        top_k=top_k,
        max_frames=max_frames,
        realtime=realtime,
        source_options=SourceOptions(
            transport=transport.value,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            reconnect_attempts=reconnect_attempts,
            webcam_size_px=None if webcam_size is None else size_px_from(webcam_size),
            webcam_fps=webcam_fps,
        ),
        on_warning=lambda line: warn(console, line),
    )
    serving = Serving(host=web_host, port=web_port, token=web_token, metrics_port=metrics_port)
    summary = watch(run, console=console, view=view.value, outputs=outputs, serving=serving)
    console.print(summary_table(summary.stats, summary.exit_names, summary.elapsed_s))
    for name, dropped in summary.dropped.items():
        warn(console, f"{name} lost {dropped} frames")
    if summary.interrupted:
        raise typer.Exit(130)
    if summary.errors:
        raise typer.Exit(1)
