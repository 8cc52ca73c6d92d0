"""Training: from a folder of images, or a data set's name, to weights with a card, a history and two plots."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pipelines.signals import stop_on_signals
from pipelines.train_start import (
    Notes,
    Start,
    begun_epochs,
    check_minutes,
    data_for,
    fitted,
    leads,
    options_for,
    start_from,
    teacher_for,
)
from pipelines.train_view import TrainView, duration
from stream_ann import weights as weights_room
from stream_ann.card import Card, Validation
from stream_ann.errors import MissingExtraError, OutputError, UsageError, nearest
from stream_ann.machine import machine
from stream_ann.nets import arch_of
from stream_ann.training.augment import Augment, default_augment
from stream_ann.training.checkpoint import LAST
from stream_ann.training.data import Data
from stream_ann.training.distributed import device_for
from stream_ann.training.evaluate import AnytimeCurve, anytime_curve
from stream_ann.training.history import History
from stream_ann.training.options import TrainOptions
from stream_ann.training.outputs import collect
from stream_ann.training.plots import evaluation_plot, learning_plot, save
from stream_ann.training.stepper import resolution_of
from stream_ann.training.trainer import Trainer
from stream_ann.training.transfer import fit_classifiers
from stream_ann.whole_files import whole_file

__all__ = ["CHECKPOINTS", "TrainResult", "checked_name", "given_command", "make_folder", "train", "validated"]

CHECKPOINTS = "checkpoints"
"""Folder within the output folder that the checkpoints are in."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What came of a run."""

    history: History
    """Every epoch."""
    card: Card | None
    """The card of the weights; None if the run was interrupted."""
    path: Path | None
    """Where that card lies, the weights beside it; None if the run was interrupted."""
    curve: AnytimeCurve | None
    """Every exit on the validation images, with the weights as they were written."""
    notes: tuple[str, ...]
    """What was chosen, left out or skipped, a line each."""


def train(
    data: str | os.PathLike[str] | Data,
    *,
    out: str | os.PathLike[str],
    arch: str | Mapping[str, Any] | None = None,
    init: str | os.PathLike[str] | None = None,
    name: str | None = None,
    boost: bool = False,
    teacher: str | os.PathLike[str] | None = None,
    augment: Augment | None = None,
    resume: bool = False,
    val_fraction: float = 0.1,
    limit_per_class: int | None = None,
    download: bool = True,
    minutes: float | None = None,
    seed: int = 0,
    device: str = "auto",
    plots: bool = True,
    licence: str | None = None,
    console: Console | None = None,
    **options: Any,
) -> TrainResult:
    """Train a network on labelled images or clips, and write weights that everything else here takes.

    Without ``arch`` and ``init``, photographs are fine-tuned from the weights ``imagenet``, and small images (up to
    96 px) get a ResANN from scratch. Fine-tuning replaces the last layer of each head, fits it to what the rest of the
    net sees, and then trains everything, the trunk at a lower rate and batch norm statistics frozen.

    Under ``torchrun`` several processes train together.

    Args:
        data: A folder or the name of a data set, see :func:`stream_ann.training.data.open_data`; or opened data.
        out: Folder for the weights and their card, ``history.json`` and ``.csv``, ``learning.png``, ``anytime.png``,
            and the checkpoints.
        arch: Architecture to train from scratch, see :func:`pipelines.architectures.arch_named`; or plain data as in a
            weights card.
        init: Name or path of weights to start from.
        name: Name of the weights; by default that of the folder.
        boost: Train the exits as an additive model (:class:`stream_ann.nets.Boosted`). From scratch only.
        teacher: Name or path of weights for the same classes to distil from.
        augment: How images are varied; by default what is usual for their size.
        resume: Go on from the folder's last checkpoint, if there is one. All other arguments must be as they were.
        val_fraction: Share that is held out where the data has no part of its own to validate on.
        limit_per_class: At most so many images or clips of each class.
        download: Whether a data set with a name may be downloaded.
        minutes: Train for as many epochs as fit into this time, reading and writing included, instead of a number of
            them: a rehearsal finds out how long one takes. The run is the same as with that number. A run that is
            resumed keeps its number.
        seed: What every random choice follows from.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        plots: Whether to draw the plots, which needs matplotlib; without it they are left out, with a note.
        licence: SPDX identifier for the card; by default that of the weights to start from, else ``NOASSERTION``.
        console: Where progress is shown; None for nowhere.
        options: Fields of :class:`stream_ann.training.options.TrainOptions`. Those left out, or None, are chosen for
            the data and the device by :func:`stream_ann.training.recipes.recipe`.

    Returns:
        The result. Interrupted by Ctrl-C or SIGTERM, a run ends with a checkpoint and without weights.

    Raises:
        UsageError: An argument makes no sense.
        SourceError: The data cannot be used.
        WeightsError: The weights to start from, or the teacher's, cannot be used.
        TrainingError: The run diverged, or the checkpoint is of another run.
        DeviceError: The device cannot be used.
        OutputError: Something cannot be written.
    """
    folder = Path(out)
    name = checked_name(name, folder)
    known = {field.name for field in dataclasses.fields(TrainOptions)} - {"seed", "device"}
    for key in options:
        if key not in known:
            raise UsageError(f"no training option is called '{key}'", nearest(key, known))
    if arch is not None and init is not None:
        raise UsageError("both an architecture and weights to start from are given", "give one of them")
    if boost and init is not None:
        raise UsageError("boosting weights that were not trained so", "train from scratch, with --arch")
    if minutes is not None:
        check_minutes(minutes, options.get("epochs"))
    where, begun_s = device_for(device), time.monotonic()

    with TrainView(console if leads() else None) as view:
        notes = Notes(view)
        opened = (
            data
            if isinstance(data, Data)
            else data_for(data, arch, init, val_fraction, seed, limit_per_class, download, view)
        )
        notes.skipped(opened)
        start = start_from(opened, arch, init, boost, seed, notes)
        checkpoints = folder / CHECKPOINTS
        begun = (checkpoints / LAST).exists()
        if begun and not resume:
            raise UsageError(f"there is a training run in '{folder}' already", "resume it, or give another folder")
        chosen = options_for(options, start, opened, where, seed, device, notes, timed=minutes is not None)
        varied = augment or default_augment(opened.resolution_px, resolution_of(start.net))
        taught = None if teacher is None else teacher_for(teacher, opened)
        make_folder(checkpoints)
        if start.fresh and not begun and leads():
            fit_classifiers(
                start.net,
                opened.train,
                start.preprocessing,
                start.fresh,
                device=where,
                batch_size=chosen.batch_size,
                amp=chosen.amp,
                seed=seed,
                on_progress=view.stage("fitting the new heads"),
            )
        if minutes is not None and begun:
            chosen = dataclasses.replace(chosen, epochs=begun_epochs(checkpoints / LAST))
        elif minutes is not None:
            left_s = 60 * minutes - (time.monotonic() - begun_s)
            chosen = fitted(chosen, left_s, start, opened, varied, taught, notes)
        epochs, exit_names = chosen.epochs, start.net.plan().exit_names
        trainer = Trainer(
            start.net,
            opened,
            start.preprocessing,
            chosen,
            folder=checkpoints,
            augment=varied,
            teacher=taught,
            full_rate=start.fresh,
            on_epoch=lambda record: view.epoch(record, epochs, exit_names),
            on_progress=view.progress,
        )
        with ExitStack() as stack:
            stack.enter_context(stop_on_signals(trainer.stop))
            history = trainer.run(resume=resume)
        if history.interrupted:
            notes.add(f"interrupted; the checkpoint is in '{checkpoints}': go on with --resume")
        if history.interrupted or not leads():
            return TrainResult(history, None, None, None, tuple(notes.lines))

        _write_text(folder / "history.json", json.dumps(_history_dict(history, chosen), indent=2) + "\n")
        _write_text(folder / "history.csv", history.to_csv())
        card, curve = _save(trainer, start, opened, chosen, folder / name, licence, val_fraction, view)
        if plots:
            _plots(folder, name, opened, history, curve, notes)
        seconds = sum(record.train_s for record in history.records)
        notes.add(f"trained for {duration(seconds)}; weights and card are '{folder / name}.safetensors' and '.json'")
    return TrainResult(history, card, folder / f"{name}.json", curve, tuple(notes.lines))


def _save(
    trainer: Trainer,
    start: Start,
    data: Data,
    options: TrainOptions,
    target: Path,
    licence: str | None,
    val_fraction: float,
    view: TrainView,
) -> tuple[Card, AnytimeCurve]:
    """Write the weights, evaluate what was written, and write the accuracies into the card."""
    base = start.base
    title = f"{arch_of(start.net)['name']} trained on {data.name}"
    if base is not None:
        title = f"{base.name} fine-tuned on {data.name}"
    description = (
        f"Trained on {len(data.train):,} images of '{data.name}' to tell {len(data.classes)} classes apart. They know "
        "these classes and nothing else: an image of anything else gets one of their names all the same."
    )
    weights_room.save(
        trainer.trained(),
        target,
        title=title,
        description=description,
        classes=data.classes,
        preprocessing=start.preprocessing,
        training={
            "kind": "trained",
            "command": given_command(),
            "data": data.name,
            "images": len(data.train),
            "seed": options.seed,
            "val_fraction": val_fraction,
            "init": None if base is None else {"name": base.name, "sha256": base.file.sha256},
            "options": {key: value for key, value in options.decisive().items() if key != "seed"},
            "augment": dataclasses.asdict(trainer.augment),
            "torch": torch.__version__,
            "device": _told(device_for(options.device)),
        },
        licence=licence or (base.licence if base is not None else "NOASSERTION"),
        sources=base.sources if base is not None else (),
        readout_weights=base.readout_weights if base is not None else None,
    )
    command = ["stream-ann", "evaluate", target.name, data.name]
    if val_fraction != 0.1:
        command += ["--val-fraction", f"{val_fraction:g}"]
    if options.seed:
        command += ["--seed", str(options.seed)]
    return validated(
        target,
        data,
        device=device_for(options.device),
        batch_size=options.batch_size,
        command=shlex.join(command),
        on_progress=view.stage("evaluating"),
    )


def validated(
    target: Path,
    data: Data,
    *,
    device: torch.device,
    batch_size: int,
    command: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Card, AnytimeCurve]:
    """Evaluate weights as they were written, rounding and all, and write each exit's accuracy into their card.

    Args:
        target: Path of the weights without an ending.
        data: Whose validation images are used.
        device: Where the net runs.
        batch_size: Images in a batch.
        command: What measures it again.
        on_progress: Called with the number of images done and their total.
    """
    loaded = weights_room.load(target.with_name(target.name + ".json"))
    card = loaded.card
    outputs = collect(
        loaded.net, data.val, card.preprocessing, device=device, batch_size=batch_size, on_progress=on_progress
    )
    curve = anytime_curve(outputs, loaded.plan, weights=card.readout_weights)
    steps = tuple(
        dataclasses.replace(step, accuracy=round(figures.top1, 6))
        for step, figures in zip(card.steps, curve.of("latest"), strict=True)
    )
    validation = Validation(measure="top-1", data=data.name, images=len(outputs), command=command)
    card = dataclasses.replace(card, steps=steps, validation=validation)
    weights_room.write_card(card, loaded.path)
    return card, curve


def _told(device: torch.device) -> str:
    """What it was computed on: the GPU, or the processor and how many threads of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads() * int(os.environ.get("WORLD_SIZE", "1"))
    return f"{machine()['processor']}, {threads} thread{'s' if threads > 1 else ''}"


def _plots(folder: Path, name: str, data: Data, history: History, curve: AnytimeCurve, notes: Notes) -> None:
    where = f"{data.name}, {curve.images:,} images; bars: one standard error"
    epochs = [record.epoch + 1 for record in history.records]
    accuracies = [record.val_accuracy for record in history.records]
    try:
        save(learning_plot(epochs, accuracies, history.exit_names, title=name), folder / "learning.png")
        save(evaluation_plot(curve, title=name, subtitle=where), folder / "anytime.png")
    except MissingExtraError as error:
        notes.add(f"no plots: {error}")


def _history_dict(history: History, options: TrainOptions) -> dict[str, Any]:
    return {**history.as_dict(), "options": options.as_dict()}


def given_command(otherwise: str = "pipelines.train") -> str:
    """The command that was given, or ``otherwise`` if it was none: without ``--resume`` and folders of this machine."""
    program = Path(sys.argv[0]).name
    program = "stream-ann" if program == "cli.py" else program
    words = [Path(word).name if os.path.isabs(word) else word for word in sys.argv[1:] if word != "--resume"]
    return shlex.join([program, *words]) if program == "stream-ann" else otherwise


def checked_name(name: str | None, folder: Path) -> str:
    """``name`` if weights can be called that, by default the folder's. Raises UsageError."""
    if name is None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._") or "trained"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise UsageError(f"weights cannot be called '{name}'", "take letters, digits, '.', '_' and '-'")
    return name


def make_folder(folder: Path) -> None:
    """Make a folder unless it is there. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"folder '{folder}' cannot be made: {error.strerror}", "give another folder") from error


def _write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    try:
        with whole_file(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror}", "make room, or give another folder") from error
