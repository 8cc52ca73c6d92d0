"""Evaluation of weights on a data set: the anytime curve, calibration, early exit; as tables, JSON, CSV and a plot."""

from __future__ import annotations

import itertools
import math
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.evaluation import Evaluation, SplitName
from stream_ann import weights as weights_room
from stream_ann.card import Card, Validation
from stream_ann.engines import device_named, open_engine
from stream_ann.errors import OutputError, UsageError, nearest
from stream_ann.readout import ReadoutName
from stream_ann.sinks.files import check_writable, output_error
from stream_ann.training.calibrate import Calibration, calibrate
from stream_ann.training.data import open_data
from stream_ann.training.early_exit import NEVER
from stream_ann.training.evaluate import anytime_curve
from stream_ann.training.outputs import collect
from stream_ann.training.plots import check_plot, evaluation_plot, save
from stream_ann.whole_files import whole_file

__all__ = ["evaluate", "write_into_card"]

DEFAULT_MAX_DROP = 0.5
"""Percentage points of top-1 that early exit may lose where nothing else is asked for."""


def evaluate(
    weights: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    split: SplitName = "val",
    device: str = "auto",
    batch_size: int = 64,
    max_drop: float | None = None,
    target_cost: float | None = None,
    readout: ReadoutName | None = None,
    val_fraction: float | None = None,
    seed: int | None = None,
    timing: bool = True,
    fit_readout: bool = False,
    json: str | os.PathLike[str] | None = None,
    csv: str | os.PathLike[str] | None = None,
    plot: str | os.PathLike[str] | None = None,
    into_card: bool = False,
    console: Console | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """Measure what every exit of some weights is worth on a data set; calibrate them, and find early-exit thresholds.

    Whatever cannot be written is found out before the images are looked at. Files are written whole or not at all, and
    all of them at the end, so that an interrupted evaluation leaves nothing behind.

    Args:
        weights: Name of bundled weights, or path.
        data: What :func:`stream_ann.training.data.open_data` takes: a folder, or the name of a data set.
        split: Which part of the data.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        batch_size: Images in a batch.
        max_drop: Early exit at the least cost that loses at most this many percentage points of top-1 against the last
            exit. Without this and ``target_cost`` it is 0.5.
        target_cost: Early exit with the greatest accuracy at a mean cost of at most this fraction of the whole plan's.
        readout: Whose confidence decides on early exit; None for what the card means where no readout is asked for.
        val_fraction: Share that is held out where the data has no part of its own to evaluate on. By default what the
            card says under ``training``, so that it is the images that were held out in training, else 0.1.
        seed: What is held out, and how the images are dealt to fitting, choosing and reporting. By default the card's,
            else 0.
        timing: Whether to time the steps on the device.
        fit_readout: Fit how much each exit counts in the readout ``"average"``, on the images that the temperatures are
            fitted on; early exit is for that readout then.
        json: File for all figures as JSON; ``-`` for standard output.
        csv: File for the anytime curve as CSV; ``-`` for standard output.
        plot: File for a plot of it (.png, .svg or .pdf).
        into_card: Whether accuracies, temperatures, thresholds and fitted weights are written into the card.
        console: Where a progress bar is drawn, if it is a terminal.
        on_progress: Called with what is done (``"reading"``, ``"evaluating"``), how many images, and of how many. An
            image is evaluated once for each resolution.

    Raises:
        UsageError: An option makes no sense, or the data does not fit the weights.
        WeightsError: The weights or their card cannot be used.
        DeviceError: The device cannot be used.
        OutputError: A file cannot be written.
        MissingExtraError: ``plot`` was asked for and matplotlib is not installed.
    """
    if split not in get_args(SplitName):
        raise UsageError(f"no split is called '{split}'", nearest(split, get_args(SplitName)))
    if readout is not None and readout not in get_args(ReadoutName):
        raise UsageError(f"no readout is called '{readout}'", nearest(readout, get_args(ReadoutName)))
    if fit_readout and readout not in (None, "average"):
        raise UsageError(
            f"weights of an average are to be fitted, and early exit is to go by '{readout}'", "ask for one of them"
        )
    if batch_size < 1:
        raise UsageError(f"a batch of {batch_size} images", "give at least 1")
    if max_drop is not None and target_cost is not None:
        raise UsageError("both a drop in accuracy and a target cost are given", "give one of them")
    if max_drop is None and target_cost is None:
        max_drop = DEFAULT_MAX_DROP
    if max_drop is not None and not 0 <= max_drop <= 100:
        raise UsageError(f"a drop in accuracy of {max_drop:g} points", "give 0 to 100 percentage points")
    if target_cost is not None and not 0 < target_cost <= 1:
        raise UsageError(f"a target cost of {target_cost:g}", "give a fraction of the whole plan's, over 0 and up to 1")
    torch_device = device_named(device)
    loaded = weights_room.load(weights)
    if val_fraction is None:
        told = loaded.card.training.get("val_fraction")
        val_fraction = told if isinstance(told, float) and 0 < told < 1 else 0.1
    if seed is None:
        told = loaded.card.training.get("seed")
        seed = told if isinstance(told, int) and told >= 0 else 0
    _check_outputs([json, csv, plot, loaded.path if into_card else None])
    if plot is not None:
        check_plot(plot)

    step_s: Sequence[float] | None = None
    if timing:  # before the images, while the machine is cool and the caches are its own
        engine = open_engine(loaded.net, loaded.card.preprocessing, device=device)
        step_s = tuple(engine.step_s)
        engine.close()
    with _Bar(console, on_progress) as bar:
        opened = open_data(
            data,
            classes=loaded.card.classes,
            val_fraction=val_fraction,
            seed=seed,
            short_side_px=math.ceil(1.25 * max(step.resolution_px for step in loaded.plan.steps)),
            progress=bar.stage("reading"),
        )
        images = opened.val if split == "val" else opened.train
        outputs = collect(
            loaded.net,
            images,
            loaded.card.preprocessing,
            device=torch_device,
            batch_size=batch_size,
            on_progress=bar.stage("evaluating"),
        )

    known = [a for a in loaded.card.accuracies if a is not None]
    accuracies = known if len(known) == len(loaded.plan) else None
    mixing = loaded.card.readout_weights
    warnings = [f"left out of '{opened.name}': {line}" for line in opened.skipped[:5]]
    if len(opened.skipped) > 5:
        warnings.append(f"left out of '{opened.name}': {len(opened.skipped) - 5} more files")
    if len(outputs) < len(images):
        warnings.append(f"{len(images) - len(outputs)} of {len(images)} images could not be decoded and are left out")
    calibration: Calibration | None = None
    if outputs.apart < 3:
        warnings.append(f"{outputs.apart} images or clips are too few for calibration and early exit")
    else:
        calibration = calibrate(
            outputs,
            loaded.plan,
            max_drop=max_drop,
            target_cost=target_cost,
            readout=readout or ("average" if fit_readout else loaded.card.default_readout),
            accuracies=accuracies,
            weights=mixing,
            fit_readout=fit_readout,
            step_s=step_s,
            seed=seed,
        )
        warnings += calibration.warnings
        mixing = calibration.readout_weights or mixing
    curve = anytime_curve(
        outputs,
        loaded.plan,
        accuracies=accuracies,
        weights=mixing,
        measure_step_s=None if step_s is None else lambda: step_s,
    )
    result = Evaluation(loaded.card.name, opened.name, split, str(torch_device), curve, calibration, tuple(warnings))
    _write(result, json, csv, plot)
    if into_card:
        write_into_card(loaded.path, loaded.card, result)
    return result


def write_into_card(path: str | os.PathLike[str], card: Card, result: Evaluation) -> Card:
    """Write what an evaluation has found out into the card of the weights.

    Each step gets the accuracy of its own answer, its temperature and its threshold (none for an exit that never ends a
    frame), ``safe_exits`` the thresholds that the images vouch for, and ``readout_weights`` what was fitted, if it was;
    ``planning`` gets the accuracies of the average, where that is what the card's network answers with.
    ``validation`` says on which images, and under ``early_exit`` what the thresholds were chosen for and what they
    gave. Where there were too few images for calibration, an older one is taken out: it is not of these figures. So are
    thresholds for hedged labels, which were fitted at other temperatures, and other accuracies to plan by.

    Args:
        path: Where the card lies.
        card: The card as it is.
        result: The evaluation.

    Returns:
        The card that was written.

    Raises:
        OutputError: The card cannot be written.
    """
    calibration = result.calibration
    steps = []
    for i, (step, figures) in enumerate(zip(card.steps, result.curve.of("latest"), strict=True)):
        temperature, threshold = None, None
        if calibration is not None:
            temperature = round(calibration.temperatures[i], 6)
            found = calibration.early_exit.thresholds[i]
            threshold = None if found == NEVER else found
        accuracy = round(figures.top1, 6)
        steps.append(replace(step, accuracy=accuracy, temperature=temperature, threshold=threshold))
    known: dict[str, Any] = {}
    command = ["stream-ann", "evaluate", card.name, result.data]
    if calibration is not None:
        early = calibration.early_exit
        command += [f"--{early.goal}", f"{early.budget:g}"]
        command += ["--fit-readout"] if calibration.readout_weights is not None else []
        known["early_exit"] = {
            "goal": early.goal,
            "budget": early.budget,
            "readout": early.readout,
            "top1": round(early.top1, 6),
            "drop": round(early.drop, 4),
            "cost": round(early.cost, 6),
            "images": calibration.images[2],
        }
    validation = Validation(
        measure="top-1",
        data=result.data if result.split == "val" else f"{result.data}, {result.split}",
        images=result.curve.images,
        command=shlex.join(command),
        extra=known,
    )
    # thresholds for hedged labels belong to the temperatures that they were fitted at, and what labels have validated
    # is what to plan by
    old = ("calibration", "hedging", "planning", "safe_exits")
    extra = {key: value for key, value in card.extra.items() if key not in old}
    if calibration is not None and calibration.safe_exits is not None:
        extra["safe_exits"] = {
            **calibration.safe_exits.as_json(),
            "readout": calibration.early_exit.readout,
            "data": result.data,
            "images": sum(calibration.images[1:]),
        }
    fitted = None if calibration is None else calibration.readout_weights
    mixing = fitted or card.readout_weights
    if mixing is not None and "average" in result.curve.readouts:
        # What a plan gains by a step is what the answer gains, which an exit that is worse alone can make better.
        averaged = [round(figures.top1, 6) for figures in result.curve.of("average")]
        extra["planning"] = {
            "measure": "top-1 of the average, of a later exit never less than of one before",
            "data": validation.data,
            "images": validation.images,
            "command": validation.command,
            "exits": list(itertools.accumulate(averaged, max)),
        }
    written = replace(card, steps=tuple(steps), readout_weights=mixing, validation=validation, extra=extra)
    weights_room.write_card(written, path)
    return written


class _Bar:
    """A progress bar on a terminal, and the caller's own callback."""

    def __init__(self, console: Console | None, on_progress: Callable[[str, int, int], None] | None) -> None:
        self._on_progress = on_progress
        self._bar: Progress | None = None
        if console is not None and console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=console, transient=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def stage(self, name: str) -> Callable[[int, int], None]:
        """A callback for one stage, which takes the number of images done and their total."""
        task = None if self._bar is None else self._bar.add_task(name, total=None)

        def tell(done: int, total: int) -> None:
            if self._bar is not None and task is not None:
                self._bar.update(task, completed=done, total=total)
            if self._on_progress is not None:
                self._on_progress(name, done, total)

        return tell


def _check_outputs(paths: Sequence[str | os.PathLike[str] | None]) -> None:
    named = [Path(p) for p in paths if p is not None and os.fspath(p) != "-"]
    for path in named:
        check_writable(path)
    twice = next((p for i, p in enumerate(named) if p.resolve() in [o.resolve() for o in named[:i]]), None)
    if twice is not None:
        raise UsageError(f"two outputs are to be written to '{twice}'", "give each a file of its own")


def _write(
    result: Evaluation,
    json: str | os.PathLike[str] | None,
    csv: str | os.PathLike[str] | None,
    plot: str | os.PathLike[str] | None,
) -> None:
    if json is not None:
        _write_text(result.to_json(), json)
    if csv is not None:
        _write_text(result.to_csv(), csv)
    if plot is not None:
        early = None if result.calibration is None else result.calibration.early_exit
        where = f"{result.data}, {result.curve.images:,} images; bars: one standard error"
        save(evaluation_plot(result.curve, early, title=result.weights, subtitle=where), plot)


def _write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write a file whole or not at all; ``-`` is standard output."""
    if os.fspath(path) == "-":
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise OutputError("standard output was closed by its reader", "keep the reader running") from error
        return
    target = Path(path)
    try:
        if target.exists() and not target.is_file():  # a pipe or a device cannot be replaced
            target.write_text(text, encoding="utf-8")
            return
        with whole_file(target) as file:
            file.write(text.encode())
    except OSError as error:
        raise output_error(target, error) from error
