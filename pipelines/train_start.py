"""How a training run begins: its data, its net, and the options that were not given."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.architectures import PHOTOGRAPH_RESOLUTION_PX, arch_named, resolution_named
from pipelines.train_view import TrainView, duration
from stream_ann import weights as weights_room
from stream_ann.card import Card
from stream_ann.errors import TrainingError, UsageError
from stream_ann.nets import AnytimeNet, build
from stream_ann.preprocess import Preprocessing
from stream_ann.training.augment import Augment
from stream_ann.training.checkpoint import read_checkpoint
from stream_ann.training.data import Data, open_data
from stream_ann.training.options import TrainOptions
from stream_ann.training.pace import rehearse
from stream_ann.training.recipes import fitting_batch_size, recipe
from stream_ann.training.stepper import resolution_of
from stream_ann.training.transfer import arch_for_classes, for_classes

__all__ = [
    "DEFAULT_INIT",
    "Notes",
    "Start",
    "begun_epochs",
    "check_minutes",
    "data_for",
    "fitted",
    "leads",
    "options_for",
    "start_from",
    "teacher_for",
]

DEFAULT_INIT = "imagenet"
"""Weights that photographs are fine-tuned from, if nothing else is asked for."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as customary for photographs of anything
_SMALL_PX = 96


@dataclass(frozen=True, slots=True)
class Start:
    """What a run begins with."""

    net: AnytimeNet
    preprocessing: Preprocessing
    fresh: frozenset[str]
    """Names of parameters that start anew in a net whose others do not."""
    base: Card | None
    """The card of the weights that it starts from."""


class Notes:
    """Lines for the user, kept for the result."""

    def __init__(self, view: TrainView) -> None:
        self.lines: list[str] = []
        self._view = view

    def add(self, line: str) -> None:
        self.lines.append(line)
        self._view.say(line)

    def skipped(self, data: Data) -> None:
        for line in data.skipped[:5]:
            self.add(f"left out: {line}")
        if len(data.skipped) > 5:
            self.add(f"left out: {len(data.skipped) - 5} more files")


def leads() -> bool:
    """Whether this is the one of several processes that shows and writes."""
    return os.environ.get("RANK", "0") == "0"


def data_for(
    data: str | os.PathLike[str],
    arch: str | Mapping[str, Any] | None,
    init: str | os.PathLike[str] | None,
    val_fraction: float,
    seed: int,
    limit_per_class: int | None,
    download: bool,
    view: TrainView,
) -> Data:
    """The data, photographs no larger than the net will need them."""
    if arch is None:
        card = weights_room.read_card(DEFAULT_INIT if init is None else init)
        largest = max(step.resolution_px for step in card.steps)
    elif isinstance(arch, str):
        largest = resolution_named(arch) or PHOTOGRAPH_RESOLUTION_PX
    else:
        largest = resolution_of(build(arch, device="meta"))
    return open_data(
        data,
        val_fraction=val_fraction,
        seed=seed,
        limit_per_class=limit_per_class,
        download=download,
        short_side_px=math.ceil(1.25 * largest),
        progress=view.stage("reading"),
    )


def start_from(
    data: Data,
    arch: str | Mapping[str, Any] | None,
    init: str | os.PathLike[str] | None,
    boost: bool,
    seed: int,
    notes: Notes,
) -> Start:
    classes = len(data.classes)
    small = 0 < data.resolution_px <= _SMALL_PX
    if arch is None and init is None:
        if small or boost:
            arch = "resann"
        else:
            init = DEFAULT_INIT
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if init is not None:
            loaded = weights_room.load(init)
            preprocessing = loaded.card.preprocessing
            if loaded.card.classes == data.classes:
                notes.add(f"starting from '{loaded.card.name}', whose classes are the same: its heads are kept")
                return Start(loaded.net.train(), preprocessing, frozenset(), loaded.card)
            net, fresh = for_classes(loaded.net, classes)
            notes.add(f"starting from '{loaded.card.name}', with new heads for {classes} classes")
            return Start(net, preprocessing, fresh, loaded.card)
        assert arch is not None
        if isinstance(arch, str):
            arch = arch_named(arch, classes=classes, data_resolution_px=data.resolution_px)
        else:
            arch = arch_for_classes(arch, classes)
        if boost:
            arch = {"name": "boosted", "net": dict(arch), "shrink": 0.5}
        net = build(arch)
    resolution_px = resolution_of(net)
    notes.add(f"training {net.plan().exit_names[-1]} from scratch, {len(net.plan())} exits, {classes} classes")
    crop = 1.0 if data.resolution_px == resolution_px else 0.875
    return Start(net, Preprocessing(_MEAN, _STD, crop=crop), frozenset(), None)


def options_for(
    given: Mapping[str, Any],
    start: Start,
    data: Data,
    where: torch.device,
    seed: int,
    device: str,
    notes: Notes,
    *,
    timed: bool = False,
) -> TrainOptions:
    """The options of a run, those that were not given by the recipe; ``timed``: how many epochs is not known yet."""
    images = len(data.train)
    wanted = {key: value for key, value in given.items() if value is not None}
    if "batch_size" in wanted:
        size = fitting_batch_size(wanted["batch_size"], images)
        if size < wanted["batch_size"]:
            notes.add(f"batch size reduced from {wanted['batch_size']} to {size}: there are no more images")
            wanted["batch_size"] = size
    plan = start.net.plan()
    chosen = recipe(
        "scratch" if start.base is None else "finetune",
        images=images,
        exits=len(plan),
        members=len(start.net.members()),
        device_type=where.type,
        batch_size=wanted.get("batch_size"),
    )
    if start.base is not None and not start.fresh:
        chosen |= {"lr": 1e-4, "trunk_lr_factor": 1.0}
    options = TrainOptions(**{**chosen, **wanted}, seed=seed, device=device)
    shown = (*(() if timed else ("epochs",)), "batch_size", "optimizer", "lr", "weighting")
    notes.add(
        f"{images} images to train on, {len(data.val)} to validate on, on {where}; "
        + ", ".join(f"{key.replace('_', ' ')} {getattr(options, key)}" for key in shown)
    )
    return options


def teacher_for(teacher: str | os.PathLike[str], data: Data) -> AnytimeNet:
    loaded = weights_room.load(teacher)
    if loaded.card.classes != data.classes:
        raise UsageError(f"the teacher '{loaded.card.name}' was trained for other classes", "take another teacher")
    return loaded.net


def check_minutes(minutes: float, epochs: int | None) -> None:
    """Raise UsageError unless a run can be as long as that."""
    if not 0 < minutes < math.inf:
        raise UsageError(f"minutes is {minutes:g}", "it must be over 0")
    if epochs is not None:
        raise UsageError("both a time and a number of epochs are given", "give one of them")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("several processes cannot find out how many epochs fit into a time", "give --epochs")


def begun_epochs(checkpoint: Path) -> int:
    """How many epochs a run that was begun is to have. Raises TrainingError if its checkpoint does not say."""
    try:
        return int(read_checkpoint(checkpoint).about["options"]["epochs"])
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"checkpoint '{checkpoint}' cannot be read: {error}", "train anew") from error


def fitted(
    options: TrainOptions,
    seconds: float,
    start: Start,
    data: Data,
    augment: Augment,
    teacher: AnytimeNet | None,
    notes: Notes,
) -> TrainOptions:
    """The same options with as many epochs as fit into a time, the rehearsal that finds that out included."""
    begun_s = time.monotonic()
    pace = rehearse(
        start.net,
        data,
        start.preprocessing,
        options,
        augment=augment,
        teacher=teacher,
        full_rate=start.fresh,
        limit_s=seconds / 20,
    )
    left_s = seconds - (time.monotonic() - begun_s)
    epochs = pace.epochs_within(left_s)
    needed_s = epochs * (pace.train_s + pace.validation_s) + pace.validation_s
    each_s = pace.train_s + pace.validation_s
    note = f"epochs {epochs}, {f'{each_s:.1f} s' if each_s < 10 else duration(each_s)} each"
    notes.add(note if needed_s <= left_s else f"{note}: more than the time that is left")
    return dataclasses.replace(options, epochs=epochs)
