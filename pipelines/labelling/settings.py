"""What a labelling job is to do, in plain values that can be written down, compared, and sent to other machines."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.labelling import work
from stream_ann.card import Card
from stream_ann.engines import engine_choice
from stream_ann.errors import UsageError
from stream_ann.ingest.spans import Selection
from stream_ann.labels import Labelling, LabelOptions, labelling_from
from stream_ann.training.safe_exit import SafeExits
from stream_ann.weights import Weights

__all__ = ["Settings", "confidence_from", "settings_from"]

CPU_BATCH = 16
GPU_BATCH = 64
"""Frames that run together unless it is said how many."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the labels. Two jobs that agree in these and in their videos and weights give the same."""

    weights: str
    """Name or path of the weights."""
    sha256: str
    """SHA-256 of the weights file."""
    device: str
    """Name of the device."""
    engine: str
    """Name of the engine."""
    precision: str
    """Type of weights and features."""
    batch: int
    """Frames that run together."""
    thresholds: tuple[float, ...]
    """Of each exit, the confidence that ends a frame; infinite where none does."""
    last: int
    """The deepest exit that is used."""
    readout: str
    """Which answer the exits reached give together."""
    top_k: int
    """How many classes are listed."""
    selection: Selection
    """Which frames are wanted."""
    labels: LabelOptions
    """What answers are called."""
    read: Mapping[str, Any]
    """What else decides the labels: what the card says, and the files that the labels' options name."""

    def labelling(self, card: Card) -> Labelling:
        """What answers are called."""
        return labelling_from(card.classes, self.labels, hedging=card.extra.get("hedging"))

    @property
    def remembers(self) -> bool:
        """Whether a frame's label depends on the frames before it."""
        return self.labels.smooth_s > 0

    def as_json(self) -> dict[str, Any]:
        """For the manifest: what must be the same when a job goes on."""
        return {
            "weights": self.sha256,
            "device": self.device.partition(":")[0],
            "engine": self.engine,
            "precision": self.precision,
            "batch": self.batch,
            "thresholds": [t if math.isfinite(t) else None for t in self.thresholds],
            "last exit": self.last,
            "readout": self.readout,
            "top-k": self.top_k,
            "stride": self.selection.stride,
            "every-s": self.selection.every_s,
            "keyframes-only": self.selection.keyframes_only,
            **{key: _plain(value) for key, value in dataclasses.asdict(self.labels).items()},
            **self.read,
            "frames of a unit": [work.WANTED_FRAMES, work.DECODED_FRAMES],
        }


def confidence_from(text: str) -> float | tuple[float, ...]:
    """What a user wrote: one number, or one for each exit with commas between; ``never`` for an exit that ends none.

    Raises:
        UsageError: If it is neither.
    """
    try:
        each = tuple(math.inf if part.strip() == "never" else float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"'{text}' is no confidence", "write 0.8, never, or one for each exit: 0.95,0.9,0.8,0"
        ) from error
    return each[0] if len(each) == 1 else each


def settings_from(
    loaded: Weights,
    *,
    weights: str,
    device: str,
    engine: str,
    precision: str,
    batch: int | None,
    confidence: float | Sequence[float] | None,
    max_drop: float | None,
    max_exit: int | None,
    readout: str | None,
    top_k: int,
    selection: Selection,
    labels: LabelOptions,
) -> Settings:
    """Settle what was left open.

    Args:
        loaded: The weights.
        weights: What they were asked for by.
        device: ``"auto"`` or a name.
        engine: ``"auto"`` or a name.
        precision: ``"auto"`` or a name.
        batch: Frames that run together, or None.
        confidence: What ends a frame at any exit, or at each; None for the thresholds of the card.
        max_drop: Percentage points of accuracy that may be lost by the card's word, or None.
        max_exit: The deepest exit to use, or None for the last.
        readout: Which answer the exits reached give together; None for that of the card.
        top_k: How many classes are listed.
        selection: Which frames are wanted.
        labels: What answers are called.

    Raises:
        UsageError: If an option makes no sense.
        DeviceError: If the device or engine cannot be had.
    """
    choice = engine_choice(device, engine)
    exits = len(loaded.plan)
    last = exits - 1 if max_exit is None else max_exit
    if not 0 <= last < exits:
        raise UsageError(f"there is no exit {last}", f"the last one is {exits - 1}: see stream-ann weights show")
    readout = loaded.card.default_readout if readout is None else readout
    return Settings(
        weights=weights,
        sha256=loaded.card.file.sha256,
        device=str(choice.device),
        engine=choice.name,
        precision=precision,
        batch=batch if batch is not None else CPU_BATCH if choice.device.type == "cpu" else GPU_BATCH,
        thresholds=_thresholds(loaded.card, confidence, max_drop, readout),
        last=last,
        readout=readout,
        top_k=top_k,
        selection=selection,
        labels=labels,
        read={**_of_card(loaded.card, readout, labels), **_of_files(labels)},
    )


def _of_card(card: Card, readout: str, labels: LabelOptions) -> dict[str, Any]:
    """What the card says that changes answers: it may be written anew while the weights stay the same."""
    found: dict[str, Any] = {
        "temperatures": list(card.temperatures),
        "preprocessing": card.preprocessing.as_dict(),
        "classes of the weights": _digest(card.classes),
    }
    if readout == "best":
        found["accuracies"] = list(card.accuracies)
    if readout == "average":
        found["readout weights"] = None if card.readout_weights is None else list(card.readout_weights)
    if labels.hedge is not None:
        found["thresholds for hedged labels"] = _digest(card.extra.get("hedging"))
    return found


def _of_files(labels: LabelOptions) -> dict[str, Any]:
    """Digests of the files that decide what answers are called."""
    paths = [name[1:] for name in labels.classes if name.startswith("@")]
    if labels.hierarchy is not None:
        paths.append(os.fspath(labels.hierarchy))
    found = {}
    for path in paths:
        with suppress(OSError):  # whoever reads what is in it says what is wrong with it
            found[f"content of '{path}'"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return found


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return list(value) if isinstance(value, tuple) else value


def _thresholds(
    card: Card, confidence: float | Sequence[float] | None, max_drop: float | None, readout: str
) -> tuple[float, ...]:
    """The confidence of each exit that ends a frame."""
    if max_drop is not None:
        if confidence is not None:
            raise UsageError("both a confidence and a drop in accuracy are given", "give one of them")
        if not 0 <= max_drop <= 100:
            raise UsageError(f"a drop in accuracy of {max_drop:g} points", "give 0 to 100 percentage points")
        if "safe_exits" not in card.extra:
            raise UsageError(
                f"the card of '{card.name}' does not say what early exit loses",
                "run stream-ann evaluate with --into-card, or give --confidence",
            )
        known = card.extra["safe_exits"].get("readout", "latest")
        if readout != known:
            what = f"a drop in accuracy is not known for the readout '{readout}'"
            raise UsageError(what, f"leave out one of them, or take the readout '{known}'")
        return SafeExits.from_json(card.extra["safe_exits"], exits=len(card.steps)).at(max_drop)
    if confidence is None:
        return tuple(math.inf if step.threshold is None else step.threshold for step in card.steps)
    each = (confidence,) * len(card.steps) if isinstance(confidence, float | int) else tuple(confidence)
    if len(each) != len(card.steps):
        raise UsageError(f"{len(card.steps)} exits need as many confidences, got {len(each)}", "give one for each")
    for one in each:
        if not (0 <= one <= 1 or one == math.inf):
            raise UsageError(f"confidence must be from 0 to 1, got {one}")
    return each
