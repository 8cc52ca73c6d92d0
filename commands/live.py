"""``stream-ann live``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from commands.shared import ClassesOption, HedgeOption, HierarchyOption, ReadoutChoice, SmoothOption, reported

__all__ = ["View", "live"]


class View(StrEnum):
    """Values of ``--view``."""

    auto = "auto"
    window = "window"
    web = "web"
    terminal = "terminal"
    none = "none"


class EngineChoice(StrEnum):
    """Values of ``--engine``."""

    auto = "auto"
    torch = "torch"
    openvino = "openvino"
    cuda = "cuda"


class PolicyChoice(StrEnum):
    """Values of ``--policy``."""

    in_order = "in-order"
    planned = "planned"


class TransportChoice(StrEnum):
    """Values of ``--transport``."""

    tcp = "tcp"
    udp = "udp"


_CAMERAS = "Cameras"
_TIME = "How a frame's time is spent"


@reported
def live(
    source: Annotated[
        list[str],
        typer.Argument(
            help="demo, a webcam (0), a camera (rtsp://...), a video file, a folder or glob of images, "
            "pattern:WxH@FPS. Several share the engine.",
            metavar="SOURCE...",
            show_default=False,
        ),
    ],
    weights: Annotated[str, typer.Option(help="Name of bundled weights, or path of a weights file.")] = "imagenet",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    engine: Annotated[
        EngineChoice, typer.Option(help="What runs the network; auto takes the fastest that is installed.")
    ] = EngineChoice.auto,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads on the CPU; by default one core is left to the decoder.")
    ] = None,
    view: Annotated[View, typer.Option(help="Where to show it.")] = View.auto,
    web_port: Annotated[
        int | None, typer.Option(help="Port of the web page; 0 for a free one.  [default: 8765, or a free one]")
    ] = None,
    web_host: Annotated[
        str, typer.Option(help="Address that the web page listens on; another than your own machine's needs a token.")
    ] = "127.0.0.1",
    web_token: Annotated[
        str | None,
        typer.Option(envvar="STREAM_ANN_WEB_TOKEN", help="What visitors of the web page must know."),
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Serve /metrics and /healthz on this port; 0 for a free one.")
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(help="Write the video with its overlay to this .mp4, .mkv or .webm file.", dir_okay=False),
    ] = None,
    events: Annotated[
        str | None,
        typer.Option(help="Write one JSON object a frame, or change of a camera's state, to this file; - for stdout."),
    ] = None,
    policy: Annotated[
        PolicyChoice | None,
        typer.Option(
            help="in-order: every exit in turn; planned: those that promise the best answer by the next frame.  "
            "[default: in-order]",
            rich_help_panel=_TIME,
        ),
    ] = None,
    deadline_ms: Annotated[
        float | None,
        typer.Option(
            help="Don't start a step that would end later than this after the frame's arrival.", rich_help_panel=_TIME
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(help="Stop refining a frame once its answer is this probable (0 to 1).", rich_help_panel=_TIME),
    ] = None,
    background_refine: Annotated[
        bool,
        typer.Option(
            "--background-refine",
            help="When frames come too fast, reach the deep exits for a key frame in between.",
            rich_help_panel=_TIME,
        ),
    ] = False,
    queue_depth: Annotated[
        int,
        typer.Option(min=1, help="Steps that a GPU is given ahead.", rich_help_panel=_TIME),
    ] = 1,
    readout: Annotated[
        ReadoutChoice, typer.Option(help="Which answer the finished exits give together.")
    ] = ReadoutChoice.latest,
    top_k: Annotated[int, typer.Option(min=1, help="How many classes each event lists.")] = 5,
    max_frames: Annotated[int | None, typer.Option(min=1, help="End after this many answered frames.")] = None,
    realtime: Annotated[
        bool,
        typer.Option(help="Play files at their own pace; --no-realtime: as fast as frames are taken, none lost."),
    ] = True,
    classes: ClassesOption = None,
    smooth_s: SmoothOption = 0.0,
    hedge: HedgeOption = None,
    hierarchy: HierarchyOption = None,
    transport: Annotated[
        TransportChoice,
        typer.Option(help="How RTSP carries the pictures. Over udp they may get lost.", rich_help_panel=_CAMERAS),
    ] = TransportChoice.tcp,
    connect_timeout_s: Annotated[
        float, typer.Option(help="How long a network camera may take to answer.", rich_help_panel=_CAMERAS)
    ] = 5.0,
    read_timeout_s: Annotated[
        float,
        typer.Option(help="Connect anew to a camera that gives no picture for so long.", rich_help_panel=_CAMERAS),
    ] = 5.0,
    reconnect_attempts: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Give a camera up after so many failed attempts in a row; never by default.",
            rich_help_panel=_CAMERAS,
        ),
    ] = None,
    webcam_size: Annotated[
        str | None, typer.Option(help="Size to ask a webcam for, such as 1280x720.", rich_help_panel=_CAMERAS)
    ] = None,
    webcam_fps: Annotated[
        float | None, typer.Option(help="Frames a second to ask a webcam for.", rich_help_panel=_CAMERAS)
    ] = None,
) -> None:
    """Classify streams live, each frame refined until the next one arrives.

    Example: stream-ann live demo --record demo.mp4 --events demo.jsonl
    """
    from rich.console import Console

    import pipelines
    from pipelines.views import Serving
    from pipelines.watch import warn, watch
    from stream_ann.ingest import SourceOptions, size_px_from
    from stream_ann.labels import LabelOptions
    from stream_ann.scheduler import DEFAULT_PATH
    from stream_ann.sinks import summary_table

    console = Console(stderr=True)
    run = pipelines.live(
        source,
        weights=weights,
        device=device,
        engine=engine.value,
        threads=threads,
        path=DEFAULT_PATH if policy is None else policy.value,
        background_refine=background_refine,
        queue_depth=queue_depth,
        deadline_ms=deadline_ms,
        confidence=confidence,
        readout=readout.value,
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
    summary = watch(run, console=console, view=view.value, record=record, events=events, serving=serving)
    console.print(summary_table(summary.stats, summary.exit_names, summary.elapsed_s))
    for name, dropped in summary.dropped.items():
        warn(console, f"{name} lost {dropped} frames")
    if summary.interrupted:
        raise typer.Exit(130)
    if summary.errors:
        raise typer.Exit(1)
