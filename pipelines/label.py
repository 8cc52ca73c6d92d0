"""Offline labelling: every frame of many videos, exactly once, as fast as the machine can."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from pipelines.labelling.annotating import Annotator
from pipelines.labelling.cluster import Cluster
from pipelines.labelling.inputs import find_videos
from pipelines.labelling.job import LabelRun, LabelStatus
from pipelines.labelling.lanes import Lanes
from pipelines.labelling.ledger import Ledger, VideoReport
from pipelines.labelling.opening import Opener, cores
from pipelines.labelling.outputs import Layout, Outputs, layout_of
from pipelines.labelling.pacing import Outlook, Pacing
from pipelines.labelling.settings import settings_from
from pipelines.labelling.work import units
from pipelines.labelling.worker import UnitWorker
from stream_ann import weights as weights_room
from stream_ann.clock import MonotonicClock
from stream_ann.engines import BatchEngine
from stream_ann.errors import UsageError
from stream_ann.ingest.decoder import hwaccel_named
from stream_ann.ingest.spans import Selection
from stream_ann.labels import LabelOptions
from stream_ann.readout import readout_named
from stream_ann.text import seconds_from

__all__ = ["LabelRun", "LabelStatus", "VideoReport", "label"]

GPU_LANES = 4
"""Decoders that feed one GPU."""


def label(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str] | None = None,
    format: str = "auto",
    segments: bool = False,
    overlay: str | os.PathLike[str] | None = None,
    lists: Sequence[str | os.PathLike[str]] = (),
    resume: bool = False,
    overwrite: bool = False,
    strict: bool = False,
    weights: str | os.PathLike[str] = "imagenet",
    device: str = "auto",
    engine: str = "auto",
    precision: str = "auto",
    confidence: float | Sequence[float] | None = None,
    max_drop: float | None = None,
    max_exit: int | None = None,
    readout: str | None = None,
    budget_ms_per_frame: float | None = None,
    finish_by: float | str | None = None,
    stride: int = 1,
    every_s: float | None = None,
    keyframes_only: bool = False,
    top_k: int = 5,
    labels: LabelOptions = LabelOptions(),  # noqa: B008 (frozen)
    batch_size: int | None = None,
    workers: int | None = None,
    hwaccel: str | None = None,
    cluster: str | None = None,
    beside: Sequence[str | os.PathLike[str]] = (),
    on_warning: Callable[[str], None] | None = None,
) -> LabelRun:
    """Label every frame of videos, in order, each exactly once.

    Nothing is labelled before the first result is asked for, and then a bounded way ahead. Without a budget the labels
    follow from videos, weights and options alone, bit for bit, however often the job was interrupted.

    Args:
        inputs: Files, folders with all that is in them, globs, ``@FILE`` for a list of paths, ``-`` for such a list on
            standard input, ``demo``; one or several.
        out: Where to write the labels as well: a file for all videos, a folder for a file each, ``-`` for standard
            output. Beside it, ``OUT.manifest`` says what is done. Rows are in the file when the run hands them out; a
            run that was interrupted may hand some of them out again when it goes on, but the file has them once.
        format: ``"jsonl"``, ``"csv"``, ``"parquet"``, ``"vtt"``, or ``"auto"``, by the file's extension.
        segments: Write runs of one label instead of frames.
        overlay: Folder for annotated videos.
        lists: More files with a path on each line.
        resume: Go on with what an earlier run has left.
        overwrite: Begin anew, in place of what is there.
        strict: Stop at the first video that cannot be read to its end, instead of going on with the next.
        weights: Name of bundled weights, or path of a weights file or its card.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        engine: ``"auto"`` or the name of an engine.
        precision: ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        confidence: A frame is done once its answer is at least this probable; one value, or one for each exit (infinite
            for one that ends no frame). By default as the weights card says;
            without either every frame is refined to the end.
        max_drop: Instead of ``confidence``: frames leave as early as the accuracy is at most this many percentage
            points below that of the full plan, as the weights card vouches for on images like those that it was
            calibrated on.
        max_exit: The deepest exit to use, from 0; by default the last one.
        readout: ``"latest"``, ``"best"`` or ``"average"``, see :mod:`stream_ann.readout`; None is ``"average"`` where
            the weights card has weights for it, else ``"latest"``.
        budget_ms_per_frame: Mean time that the steps of a frame may take, in milliseconds of one core or of the GPU.
            The least sure frames get more of it.
        finish_by: The whole job is to end in this time, in seconds or as text such as ``"2h"``, as deep as that allows.
            Every frame has at least the first exit's label, even where that takes longer.
        stride: Label every so many frames, from the first of each video.
        every_s: Label the first frame of every so many seconds.
        keyframes_only: Label only frames that can be decoded by themselves; no other one is.
        top_k: How many classes each result lists.
        labels: What answers are called: groups of classes, smoothing over time, wider concepts. Smoothed videos are
            gone on with from their beginning.
        batch_size: Frames that run together, at most.
        workers: How many videos, or parts of one, are worked on at a time; by default as many as there are cores.
        hwaccel: Kind of device to decode on where it can, such as ``"cuda"``.
        beside: Files that the caller writes: an error where the job reads or writes one of them.
        cluster: Work on a Ray cluster: ``"auto"``, ``"ray://HOST:PORT"``, or ``"local"`` (extra 'cluster'). Videos and
            weights must be at the same paths on all of its machines.
        on_warning: Called with one line for everything that went wrong without ending the run.

    Returns:
        An iterator of :class:`~stream_ann.labelled.LabelledFrame`, which is also a context manager.

    Raises:
        SourceError: If an input is not there; while running, with ``strict``, if one cannot be read.
        WeightsError: If the weights cannot be used.
        DeviceError: If the device cannot be used.
        OutputError: If the output cannot be written, or exists already.
        ManifestError: If the output cannot be gone on with.
        UsageError: If an option makes no sense.
    """
    finish_s = _seconds(finish_by)
    _check(top_k=top_k, batch_size=batch_size, workers=workers, budget=budget_ms_per_frame, finish=finish_s)
    if resume and overwrite:
        raise UsageError("a job either goes on or begins anew", "give one of --resume and --overwrite")
    if out is None and (overlay is not None or segments or resume or overwrite):
        raise UsageError("nothing is written", "say where, with out")
    if hwaccel is not None and cluster is None:
        hwaccel_named(hwaccel)
    several = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    videos = find_videos(several, lists=lists, apart_from=[] if overlay is None else [Path(overlay)])
    loaded = weights_room.load(weights)
    settings = settings_from(
        loaded,
        weights=os.fspath(weights),
        device=device,
        engine=engine,
        precision=precision,
        batch=batch_size,
        confidence=confidence,
        max_drop=max_drop,
        max_exit=max_exit,
        readout=readout,
        top_k=top_k,
        selection=Selection(stride, every_s, keyframes_only),
        labels=labels,
    )
    card = loaded.card
    readout_named(settings.readout, exits=len(card.steps), accuracies=card.accuracies, weights=card.readout_weights)
    layout: Layout | None = None
    if out is not None:
        layout = layout_of(out, videos, format=format, segments=segments, top_k=top_k, overlays=overlay)
        taken = {os.path.realpath(path) for path in layout.files(videos)}
        for path in beside:
            if os.path.realpath(path) in taken:
                raise UsageError(f"'{os.fspath(path)}' is read or written by the job", "name another file")
    ledger = Ledger(videos, settings, layout, exits=len(card.steps), resume=resume, overwrite=overwrite)
    outputs: Outputs | None = None
    stopped = threading.Event()
    try:
        if layout is not None:
            names = [step.name for step in card.steps]
            annotator = Annotator(ledger.videos, names, stopped.is_set)
            outputs = Outputs(
                layout,
                ledger.videos,
                state=ledger.outputs,
                finished=ledger.finished,
                more=not ledger.complete,
                annotate=annotator,
            )
        clock = MonotonicClock()
        outlook = Outlook(ledger.videos, settings.selection)
        pacing = Pacing(
            clock,
            budget_s=None if budget_ms_per_frame is None else budget_ms_per_frame / 1e3,
            finish_s=finish_s,
            total=outlook.total,
            shares_cores=settings.device == "cpu",
        )
        on_cpu = settings.device == "cpu"
        work = units(ledger.videos, settings.selection, begin=ledger.next, first=ledger.units)
        count = workers if workers is not None else cores() if on_cpu else min(GPU_LANES, cores())
        executor: Lanes | Cluster
        if cluster is not None:
            executor = Cluster(
                work,
                settings,
                ledger.videos,
                address=cluster,
                workers=workers,
                pace=pacing.pace_s,
                hwaccel=hwaccel,
            )
        else:
            opener = Opener(settings, loaded, ledger.videos, pacing.pace_s, max(1, cores() // count), hwaccel)
            executor = Lanes(work, _apart(opener) if on_cpu else _shared(opener), count=count, shared=not on_cpu)
        pacing.lanes = lambda: executor.active
        return LabelRun(
            settings,
            card,
            ledger,
            executor,
            outputs=outputs,
            pacing=pacing,
            outlook=outlook,
            clock=clock,
            stopped=stopped,
            strict=strict,
            on_warning=on_warning,
        )
    except BaseException:
        if outputs is not None:
            outputs.close()
        ledger.close()
        raise


def _apart(opener: Opener) -> Callable[[int], tuple[UnitWorker, Callable[[], None]]]:
    """Each lane has an engine of its own."""

    def open_worker(lane: int) -> tuple[UnitWorker, Callable[[], None]]:
        engine = opener.engine()
        return opener.worker(engine), engine.close

    return open_worker


def _shared(opener: Opener) -> Callable[[int], tuple[UnitWorker, Callable[[], None]]]:
    """All lanes take turns on one engine, as on a GPU."""
    lock = threading.Lock()
    engines: list[BatchEngine] = []
    users = 0

    def open_worker(lane: int) -> tuple[UnitWorker, Callable[[], None]]:
        nonlocal users
        with lock:
            if not engines:
                engines.append(opener.engine())
            users += 1
            return opener.worker(engines[0], lock), close

    def close() -> None:
        nonlocal users
        with lock:
            users -= 1
            if users == 0:
                engines.pop().close()

    return open_worker


def _seconds(duration: float | str | None) -> float | None:
    if not isinstance(duration, str):
        return duration
    try:
        return seconds_from(duration)
    except ValueError as error:
        raise UsageError(str(error), "write 90s, 45min or 2h") from error


def _check(
    *, top_k: int, batch_size: int | None, workers: int | None, budget: float | None, finish: float | None
) -> None:
    for name, count in (("top-k", top_k), ("batch-size", batch_size), ("workers", workers)):
        if count is not None and count < 1:
            raise UsageError(f"{name} must be at least 1, got {count}")
    for name, amount in (("budget-ms-per-frame", budget), ("finish-by", finish)):
        if amount is not None and not (math.isfinite(amount) and amount > 0):
            raise UsageError(f"{name} must be a positive number, got {amount}")
