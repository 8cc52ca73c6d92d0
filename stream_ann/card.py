"""The weights card: the JSON beside a weights file that says what it is, checked on the way in and on the way out."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from stream_ann.errors import CardError
from stream_ann.preprocess import Preprocessing

__all__ = ["CARD_FORMAT", "Card", "CardStep", "Kind", "Validation", "WeightsFile"]

CARD_FORMAT = 1
"""The format that this version reads and writes. Keys may be added within a format: unknown ones are kept and written
back. A number of its own is for changes that an older reader would misunderstand."""

MAX_CLASSES = 100_000
MAX_STEPS = 1_000

Kind = Literal["converted", "trained"]
"""Where weights come from: another program's, taken over as they are, or trained here."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
REMEDY = "restore the card, or write weights and card again"
_SHOWN_CHARACTERS = 60
_UNWANTED = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Unicode categories: control characters, surrogates, line and paragraph separators."""


def _nothing() -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class CardStep:
    """One exit of the plan."""

    name: str
    """Name of the exit, unique within the card."""
    member: int
    """Number of the member that it belongs to, from 0."""
    resolution_px: int
    """Side of the square images that it takes, in pixels."""
    macs: int
    """Multiply-accumulates of this step alone, for one image."""
    accuracy: float | None = None
    """What the validation measured for this exit, 0 to 1; None if it was not validated."""
    temperature: float | None = None
    """What its logits are divided by for its probabilities to be calibrated, positive; None if that was not fitted."""
    threshold: float | None = None
    """In early exit, the calibrated confidence from which on its answer is final, 0 to 1. The last exit has one (0) if
    thresholds were chosen at all; another without one then never ends a frame."""
    extra: Mapping[str, Any] = field(default_factory=_nothing)
    """Keys that this version does not know."""


@dataclass(frozen=True, slots=True)
class Validation:
    """How the accuracies of the steps were measured."""

    measure: str
    """What was measured, e.g. ``"top-1"``."""
    data: str
    """On which images."""
    images: int
    """How many they were."""
    command: str
    """The command that measures it again."""
    extra: Mapping[str, Any] = field(default_factory=_nothing)
    """Keys that this version does not know."""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """The weights that a card belongs to."""

    name: str
    """Name of the safetensors file in the card's folder, without a path."""
    sha256: str
    """SHA-256 of its content, 64 lower-case hexadecimal digits."""
    bytes: int
    """Its size in bytes."""
    extra: Mapping[str, Any] = field(default_factory=_nothing)
    """Keys that this version does not know."""


@dataclass(frozen=True, slots=True)
class Card:
    """All that must be known about weights to use them, to judge them, and to make them again."""

    name: str
    """Short name: what ``--weights`` takes."""
    title: str
    """One line about what they are."""
    description: str
    """A paragraph about what they are, and what they are not."""
    arch: Mapping[str, Any]
    """What ``stream_ann.nets.build`` builds the network from."""
    classes: tuple[str, ...]
    """Name of each class, in the order of the logits. Unique, printable."""
    preprocessing: Preprocessing
    """What images must go through."""
    steps: tuple[CardStep, ...]
    """The exits in the order in which they run."""
    validation: Validation | None
    """How the steps' accuracies were measured; None if they were not."""
    readout_weights: tuple[float, ...] | None
    """Weight of each exit in the readout ``average``, positive, which is then what is meant where no readout is asked
    for; None if none have been found, which is readout ``latest``."""
    training: Mapping[str, Any]
    """How they came about: ``kind`` ("converted" or "trained"), and freely ``command``, ``data``, ``seed`` and more."""
    licence: str
    """SPDX identifier of the weights' licence."""
    sources: tuple[str, ...]
    """Where they come from: authors, papers, addresses."""
    file: WeightsFile
    """The weights file."""
    extra: Mapping[str, Any] = field(default_factory=_nothing)
    """Keys that this version does not know."""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def accuracies(self) -> tuple[float | None, ...]:
        """Validated accuracy of each exit, 0 to 1, None where there is none."""
        return tuple(step.accuracy for step in self.steps)

    @property
    def planning_accuracies(self) -> tuple[float | None, ...]:
        """How good each exit is, for whoever has to choose between them: 0 to 1, None where nothing tells.

        What labels have shown, where the card has that under ``planning``, else :attr:`accuracies`. Those may measure
        something else, such as agreement with the last exit, by which an exit can be better only by being more like it;
        and they are of each exit alone, where the network may answer with an average.
        """
        planning = self.extra.get("planning")
        return self.accuracies if planning is None else tuple(planning["exits"])

    @property
    def temperatures(self) -> tuple[float, ...]:
        """What the logits of each exit are divided by; 1 where the card says nothing."""
        return tuple(1.0 if step.temperature is None else step.temperature for step in self.steps)

    @property
    def total_macs(self) -> int:
        """Multiply-accumulates of the whole plan for one image."""
        return sum(step.macs for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """The card as plain JSON values, in the order in which it is written."""
        step_keys = ("name", "member", "resolution_px", "macs", "accuracy")
        validation = self.validation
        return {
            "format": CARD_FORMAT,
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "licence": self.licence,
            "sources": list(self.sources),
            "file": _as_dict(self.file, ("name", "sha256", "bytes")),
            "arch": dict(self.arch),
            "preprocessing": self.preprocessing.as_dict(),
            "steps": [_as_dict(step, step_keys) | _calibrated(step) for step in self.steps],
            "validation": validation and _as_dict(validation, ("measure", "data", "images", "command")),
            "readout_weights": None if self.readout_weights is None else list(self.readout_weights),
            "training": dict(self.training),
            **self.extra,
            "classes": list(self.classes),
        }

    @property
    def default_readout(self) -> Literal["latest", "average"]:
        """The readout where none is asked for."""
        return "latest" if self.readout_weights is None else "average"

    def summary(self) -> list[str]:
        """The card in a few lines of text, the steps left out."""
        pre, training = self.preprocessing, self.training
        lines = [
            f"{self.name}: {self.title}",
            self.description,
            f"classes: {len(self.classes)} ({', '.join(self.classes[:3])}{', …' if len(self.classes) > 3 else ''})",
            f"preprocessing: centre {pre.crop:g}, {pre.interpolation}, mean {list(pre.mean)}, std {list(pre.std)}",
            f"file: {self.file.name}, {self.file.bytes / 1e6:.1f} MB, SHA-256 {self.file.sha256}",
            f"licence: {self.licence}",
            *(f"source: {source}" for source in self.sources),
            f"{training['kind']} with: {training.get('command') or 'unknown'}",
            f"data: {training.get('data') or 'unknown'}",
        ]
        if self.validation is not None:
            v = self.validation
            lines.append(f"validated: {v.measure}; {v.data} ({v.images:,} images); {v.command}")
        return lines


def _check(card: Card) -> None:
    """Raise CardError at the first value that makes no sense, however the card was made."""
    _expect(_NAME.fullmatch(card.name), "name", "up to 100 letters, digits, '.', '_' and '-'", card.name)
    _expect(_is_plain(card.title), "title", "a text without control characters", card.title)
    _expect(_is_plain(card.description, lines=True), "description", "free of control characters", card.description)
    for source in (card.licence, *card.sources):
        _expect(_is_plain(source), "licence and sources", "texts without control characters", source)
    _expect(1 <= len(card.classes) <= MAX_CLASSES, "classes", f"1 to {MAX_CLASSES} names", len(card.classes))
    for name in card.classes:
        _expect(name.strip() and _is_plain(name), "classes", "names without control characters", name)
    _expect_unique("classes", card.classes)
    _expect(1 <= len(card.steps) <= MAX_STEPS, "steps", f"1 to {MAX_STEPS} steps", len(card.steps))
    member = 0
    for i, step in enumerate(card.steps):
        _expect(step.name.strip() and _is_plain(step.name), f"steps[{i}].name", "a name", step.name)
        allowed = (0,) if i == 0 else (member, member + 1)
        _expect(step.member in allowed, f"steps[{i}].member", " or ".join(map(str, allowed)), step.member)
        member = step.member
        if step.accuracy is not None:
            _expect(0 <= step.accuracy <= 1, f"steps[{i}].accuracy", "from 0 to 1", step.accuracy)
        if step.temperature is not None:
            good = math.isfinite(step.temperature) and step.temperature > 0
            _expect(good, f"steps[{i}].temperature", "a positive number", step.temperature)
        if step.threshold is not None:
            _expect(0 <= step.threshold <= 1, f"steps[{i}].threshold", "from 0 to 1", step.threshold)
    _expect_unique("steps", [step.name for step in card.steps])
    if card.readout_weights is not None:
        weights = card.readout_weights
        good = len(weights) == len(card.steps) and all(math.isfinite(w) and w > 0 for w in weights)
        _expect(good, "readout_weights", f"{len(card.steps)} positive numbers, one for each step", list(weights))
    if (planning := card.extra.get("planning")) is not None:
        exits = planning.get("exits") if isinstance(planning, Mapping) else None
        good = isinstance(exits, Sequence) and len(exits) == len(card.steps) and all(map(_is_share, exits))
        _expect(good, "planning.exits", f"{len(card.steps)} numbers from 0 to 1, one for each step", exits)
    told = [card.training.get("command"), card.training.get("data")]
    if card.validation is not None:
        told += [card.validation.measure, card.validation.data, card.validation.command]
    for text in told:
        good = text is None or (isinstance(text, str) and _is_plain(text, lines=True))
        _expect(good, "training and validation", "described by texts without control characters", text)
    kind = card.training.get("kind")
    _expect(kind in get_args(Kind), "training.kind", " or ".join(repr(k) for k in get_args(Kind)), kind)
    name = card.file.name
    # The name becomes a path beside the card: anything that could lead elsewhere is refused, on every platform.
    bare = _NAME.fullmatch(name) and name.endswith(".safetensors")
    _expect(bare, "file.name", "the name of a .safetensors file beside the card, without a path", name)
    _expect(_SHA256.fullmatch(card.file.sha256), "file.sha256", "64 hexadecimal digits", card.file.sha256)


def _expect(good: object, key: str, expected: str, value: object) -> None:
    if not good:
        raise CardError(f"'{key}' must be {expected}, got {shown(value)}", REMEDY)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _expect_unique(key: str, names: Sequence[str]) -> None:
    if (twice := first_twice(names)) is not None:
        raise CardError(f"'{key}' has {shown(twice)} twice", REMEDY)


def first_twice(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _as_dict(part: CardStep | Validation | WeightsFile, keys: Sequence[str]) -> dict[str, Any]:
    return {key: getattr(part, key) for key in keys} | dict(part.extra)


def _calibrated(step: CardStep) -> dict[str, float]:
    """What calibration has found out, left out where it has not been done."""
    found = {"temperature": step.temperature, "threshold": step.threshold}
    return {key: value for key, value in found.items() if value is not None}


def _is_plain(text: str, *, lines: bool = False) -> bool:
    """Whether ``text`` is free of control characters and surrogates: cards come from anywhere, and are shown.

    Format characters are let through: some scripts spell with them.
    """
    return all(unicodedata.category(c) not in _UNWANTED or (lines and c == "\n") for c in text)


def shown(value: object) -> str:
    """``value`` in one short line."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
