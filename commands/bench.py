"""``stream-ann bench``: what accuracy does a frame rate leave, on this machine?"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from commands.shared import (
    DeviceOption,
    EngineChoice,
    EngineOption,
    ReadoutChoice,
    ThreadsOption,
    WeightsOption,
    reported,
    say,
)

__all__ = ["bench"]


class AccuraciesChoice(StrEnum):
    """Values of ``--accuracies``."""

    card = "card"
    measured = "measured"


@reported
def bench(
    source: Annotated[
        list[str] | None,
        typer.Argument(
            help="A labelled recording (default: the demo clip); or: compare A.json B.json; or: arrivals CAMERA FILE.",
            metavar="SOURCE",
        ),
    ] = None,
    fps: Annotated[str, typer.Option(help="Frame rates.", metavar="N,N,...")] = "2,5,15,30,60,120,240,480",
    out: Annotated[Path | None, typer.Option(help="Folder for the report: JSON, CSV, web page, picture.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Folder of labelled photographs, a recording's labels (.json), or agreement.")
    ] = None,
    class_map: Annotated[
        Path | None, typer.Option(help="File with lines of a class folder's name, a tab, and the class it means.")
    ] = None,
    dwell_s: Annotated[float, typer.Option(help="How long each photograph of --labels is there.")] = 1.0,
    motion_fps: Annotated[float, typer.Option(help="Different pictures a second that the moving camera gives.")] = 8.0,
    scenes: Annotated[int, typer.Option(min=1, help="How many photographs of --labels at most.")] = 100,
    arrivals: Annotated[
        str, typer.Option(help="regular, jittered, or a file of recorded arrivals, such as one of live --events.")
    ] = "regular",
    policy: Annotated[
        str | None,
        typer.Option(
            help="Policies to compare, the first one is judged: scene, in-order, planned, steady, background. By "
            "default that of live."
        ),
    ] = None,
    readout: Annotated[
        ReadoutChoice | None,
        typer.Option(help="Which answer the finished exits give together; without --policy, in order."),
    ] = None,
    accuracies: Annotated[
        AccuraciesChoice, typer.Option(help="By which accuracy of each exit policies plan: the card's, or this film's.")
    ] = AccuraciesChoice.card,
    against: Annotated[
        str,
        typer.Option(help="Rivals: fixed, torchvision's (NAME or NAME=FILE.pth), .onnx or .xml files, none."),
    ] = "fixed",
    weights: WeightsOption = "imagenet",
    device: DeviceOption = "auto",
    engine: EngineOption = EngineChoice.auto,
    threads: ThreadsOption = None,
    duration_s: Annotated[
        float | None, typer.Option(help="How long each run lasts (10; on paper alone the whole film).")
    ] = None,
    simulate: Annotated[bool, typer.Option("--simulate", help="On paper alone: seconds instead of minutes.")] = False,
    times: Annotated[
        Path | None, typer.Option(help="On paper: take the step times of an earlier report.json, of any machine.")
    ] = None,
    speed: Annotated[float, typer.Option(help="On paper: a machine so many times as fast.")] = 1.0,
    streams: Annotated[
        int | None, typer.Option(min=1, help="On paper: also play so many such streams on one engine.")
    ] = None,
    interval_ms: Annotated[
        float | None, typer.Option(help="Also find the most streams with 99 % in time at this interval (MLPerf).")
    ] = None,
    target_accuracy: Annotated[
        float | None, typer.Option(help="Also say whether this machine reaches it (0 to 1), and what it takes.")
    ] = None,
    target_fps: Annotated[float | None, typer.Option(help="At which rate; by default the first of --fps.")] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Folder to keep each exit's answers to each picture in, for the next time.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn.")] = 0,
) -> None:
    """Measure what accuracy each frame rate leaves on this machine, against fixed networks on the same stream.

    Example: stream-ann bench --fps 5,15,30,60 --out report
    """
    from rich.console import Console

    from pipelines.bench import BenchOptions
    from pipelines.bench import bench as run
    from pipelines.benchmarking.streams import FilmOptions
    from pipelines.benchmarking.tables import tables
    from pipelines.benchmarking.writing import check_folder, report_progress, write_report
    from stream_ann.errors import UsageError
    from stream_ann.scheduler import chosen_path
    from stream_ann.text import clean

    words = source or []
    if words[:1] == ["compare"]:
        from pipelines.benchmarking.compare import compare

        if len(words) != 3:
            raise UsageError(f"compare takes two reports, got {len(words) - 1}", "write: compare A.json B.json")
        Console(width=None if sys.stdout.isatty() else 200).print(compare(Path(words[1]), Path(words[2])))
        return
    if words[:1] == ["arrivals"]:
        from pipelines.benchmarking.trace import record_arrivals

        if len(words) != 3:
            raise UsageError(f"arrivals takes a camera and a file, got {len(words) - 1}", "write: arrivals 0 FILE")
        times_s = record_arrivals(words[1], words[2], duration_s=60.0 if duration_s is None else duration_s)
        say(f"{len(times_s)} arrivals in {times_s[-1]:.1f} s, {(len(times_s) - 1) / times_s[-1]:.2f} frames a second")
        return
    if len(words) > 1:
        raise UsageError(
            f"more than one source: {' '.join(words)}", "give one, or: compare A.json B.json, or: arrivals CAMERA FILE"
        )
    rates = _numbers(fps)
    joint = None if readout is None else readout.value
    if out is not None:
        check_folder(out)
    options = BenchOptions(
        fps=rates,
        weights=weights,
        device=device,
        engine=engine.value,
        threads=threads,
        labels=labels,
        class_map=class_map,
        film=FilmOptions(dwell_s=dwell_s, motion_fps=motion_fps, scenes=scenes, seed=seed),
        policies=(chosen_path(None, readout=joint),) if policy is None else _words(policy),
        readout=joint,
        against=() if against == "none" else _words(against),
        arrivals=arrivals,
        duration_s=duration_s,
        simulate=simulate,
        times=times,
        speed=speed,
        accuracies=accuracies.value,
        streams=streams,
        interval_ms=interval_ms,
        target_accuracy=target_accuracy,
        target_fps=target_fps,
        keep=keep,
        seed=seed,
    )
    with report_progress(Console(stderr=True)) as told:
        report = run(words[0] if words else None, options, on_progress=told)
    # a pipe has no width: what reads it gets each row on one line
    Console(width=None if sys.stdout.isatty() else 200).print(tables(report))
    if out is not None:
        for path in write_report(report, out):
            Console(stderr=True).print(f"written: {clean(str(path))}", markup=False, highlight=False, soft_wrap=True)


def _numbers(text: str) -> tuple[float, ...]:
    from stream_ann.errors import UsageError

    try:
        return tuple(float(part) for part in _words(text))
    except ValueError as error:
        raise UsageError(f"--fps '{text}' is no list of numbers", "give some such as 5,15,30") from error


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
