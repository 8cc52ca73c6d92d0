"""Reading weights: everything is checked against the card before anything is allocated."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from stream_ann.card import Card
from stream_ann.errors import CardError, CorruptWeightsError, UsageError, WeightsError
from stream_ann.nets import AnytimeNet, Plan, build
from stream_ann.weights.card_json import card_from_json
from stream_ann.weights.finding import locate, names
from stream_ann.weights.tensor_file import REMEDY, compare, fill, read_header

__all__ = ["Check", "Listed", "Weights", "available", "load", "read_card", "verify"]

MAX_CARD_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """A network with its weights, and what is known about it."""

    net: AnytimeNet
    """The network, float32 on the CPU, in evaluation mode."""
    card: Card
    """Its card."""
    plan: Plan
    """Its plan, the same as the card's steps."""
    path: Path
    """Where the card lies; the weights file is beside it."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a pair of weights and card."""

    name: str
    """What was checked."""
    error: str | None
    """What is wrong, in one line; None if nothing is."""

    @property
    def ok(self) -> bool:
        """Whether it passed."""
        return self.error is None


@dataclass(frozen=True, slots=True)
class Listed:
    """Weights that a name leads to. Of those whose card cannot be read, only name, path and error are known."""

    name: str
    """The name."""
    path: Path
    """Where the card lies, or should."""
    title: str = ""
    """What they are, in one line."""
    classes: int | None = None
    """How many classes they know."""
    exits: int | None = None
    """How many exits they have."""
    macs: int | None = None
    """Multiply-accumulates of the whole plan for one image."""
    size_bytes: int | None = None
    """Size of the weights file."""
    error: str | None = None
    """Why they cannot be used, in one line; None if nothing is known to be wrong."""


def load(name_or_path: str | os.PathLike[str], *, verify: bool = True) -> Weights:
    """Read weights and build their network.

    Size, SHA-256, header, network, tensors and plan are checked against the card before memory is allocated for the
    tensors.

    Args:
        name_or_path: A name, looked up in the folders of the environment variable STREAM_ANN_WEIGHTS and then among
            the bundled weights; or the path of a card, of a weights file, or of a folder with one weights file.
        verify: Whether the whole file is read once more to check its SHA-256. All other checks are always made.

    Raises:
        UnknownWeightsError: There are no weights of that name or at that path.
        CardError: The card is missing or malformed, or does not fit the weights.
        CorruptWeightsError: The weights file is missing, or its content is not what the card says.
    """
    inspection = _Inspection(name_or_path)
    for title, check in _CHECKS:
        if verify or title != _CHECKSUM:
            check(inspection)
    return Weights(inspection.net, inspection.card, inspection.plan, inspection.path)


def verify(name_or_path: str | os.PathLike[str]) -> list[Check]:
    """Check weights as :func:`load` does, and say how each check went. The first that fails is the last in the list."""
    inspection = _Inspection(name_or_path)
    done = []
    for title, check in _CHECKS:
        try:
            check(inspection)
        except WeightsError as error:
            done.append(Check(title, str(error)))
            break
        done.append(Check(title, None))
    return done


def available() -> list[Listed]:
    """All weights that can be had by name, sorted by name. Broken ones are listed with what is wrong with them.

    Only the card and the presence and size of the weights file are looked at: :func:`verify` does more.
    """
    return [listed for name, path in sorted(names().items()) if (listed := _listed(name, path)) is not None]


def read_card(name_or_path: str | os.PathLike[str]) -> Card:
    """The card of the weights; the weights themselves are not looked at. Raises as :func:`load`."""
    inspection = _Inspection(name_or_path)
    inspection.find()
    inspection.read()
    return inspection.card


class _Inspection:
    """What is known of weights so far; each method finds out more, or raises a WeightsError."""

    path: Path
    card: Card
    net: AnytimeNet
    plan: Plan

    def __init__(self, name_or_path: str | os.PathLike[str]) -> None:
        self._given = name_or_path

    @property
    def file(self) -> Path:
        return self.path.with_name(self.card.file.name)

    def find(self) -> None:
        self.path = locate(self._given)
        if not self.path.exists():
            beside = self.path.with_suffix(".safetensors")
            raise CardError(f"weights '{beside}' have no card: there is no '{self.path}'", "put their card beside them")

    def read(self) -> None:
        size = _regular_size(self.path, CardError)
        if size > MAX_CARD_BYTES:
            raise CardError(f"weights card '{self.path}' has {size} bytes", f"at most {MAX_CARD_BYTES} are allowed")
        try:
            self.card = card_from_json(self.path.read_bytes(), origin=str(self.path))
        except OSError as error:
            raise CardError(f"weights card '{self.path}' cannot be read: {error.strerror}", "see to it") from error

    def size(self) -> None:
        given = os.fspath(self._given)
        if given.endswith(".safetensors") and Path(given).name != self.card.file.name:
            what = f"weights card '{self.path}' is not about '{given}' but about '{self.card.file.name}'"
            raise CardError(what, "put the card that was written with these weights beside them")
        size = _regular_size(self.file, CorruptWeightsError)
        if size != self.card.file.bytes:
            what = f"weights file '{self.file}' has {size} bytes, its card says {self.card.file.bytes}"
            raise CorruptWeightsError(what, REMEDY)

    def checksum(self) -> None:
        with _opened(self.file) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.card.file.sha256:
            what = f"weights file '{self.file}' has SHA-256 {found[:12]}…, its card says {self.card.file.sha256[:12]}…"
            raise CorruptWeightsError(what, REMEDY)

    def header(self) -> None:
        with _opened(self.file) as file:
            self.stored = read_header(file, self.card.file.bytes, origin=str(self.file))

    def network(self) -> None:
        try:
            self.net = build(self.card.arch, device="meta")
            self.plan = self.net.plan()
        except (CardError, UsageError) as error:
            raise CardError(f"weights card '{self.path}': {error.what}", error.remedy) from error
        except (RuntimeError, MemoryError) as error:  # a network that can be described, but not run
            detail = str(error).split("\n")[0]
            raise CardError(f"weights card '{self.path}': its network does not work: {detail}", "correct it") from error

    def class_count(self) -> None:
        if self.plan.classes != len(self.card.classes):
            what = f"weights card '{self.path}' names {len(self.card.classes)} classes, its network has"
            raise CardError(f"{what} {self.plan.classes}", "use the card that was written with these weights")

    def plan_steps(self) -> None:
        steps = self.card.steps
        if len(steps) != len(self.plan):
            what = f"weights card '{self.path}' lists {len(steps)} steps, its network has {len(self.plan)}"
            raise CardError(what, "use the card that was written with these weights")
        for i, (said, real) in enumerate(zip(steps, self.plan.steps, strict=True)):
            for key in ("name", "member", "resolution_px", "macs"):
                if getattr(said, key) != getattr(real, key):
                    values = f"{getattr(said, key)!r}, its network has {getattr(real, key)!r}"
                    what = f"weights card '{self.path}': 'steps[{i}].{key}' is {values}"
                    raise CardError(what, "use the card that was written with these weights")

    def tensors(self) -> None:
        compare(self.stored, self.net, origin=str(self.file))

    def values(self) -> None:
        fill(self.net, self.file)
        self.net.eval()


def _listed(name: str, path: Path) -> Listed | None:
    inspection = _Inspection(path)
    try:
        inspection.find()
        inspection.read()
    except WeightsError as error:
        # Without weights beside it, it may be any JSON file in a folder of the user's.
        return Listed(name, path, error=str(error)) if path.with_suffix(".safetensors").exists() else None
    error_text = None
    try:
        inspection.size()
    except WeightsError as error:
        error_text = str(error)
    card = inspection.card
    sizes = (len(card.classes), len(card.steps), card.total_macs, card.file.bytes)
    return Listed(name, path, card.title, *sizes, error=error_text)


_CHECKSUM = "SHA-256"
_CHECKS: tuple[tuple[str, Callable[[_Inspection], None]], ...] = (
    ("card found", _Inspection.find),
    ("card valid", _Inspection.read),
    ("size of the weights file", _Inspection.size),
    (_CHECKSUM, _Inspection.checksum),
    ("header of the weights file", _Inspection.header),
    ("network", _Inspection.network),
    ("class count", _Inspection.class_count),
    ("plan", _Inspection.plan_steps),
    ("names, shapes and types of the tensors", _Inspection.tensors),
    ("values of the tensors", _Inspection.values),
)


def _regular_size(path: Path, kind: type[WeightsError]) -> int:
    """Size of a file in bytes; a pipe or a device, which reading could wait on for ever, is refused."""
    try:
        info = path.stat()
    except FileNotFoundError as error:
        raise kind(f"weights file '{path}' is missing", "put it beside its card") from error
    except OSError as error:
        raise kind(f"'{path}' cannot be read: {error.strerror}", "check its permissions") from error
    if not stat.S_ISREG(info.st_mode):
        raise kind(f"'{path}' is not a regular file", "put a file there")
    return info.st_size


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise CorruptWeightsError(f"weights file '{path}' cannot be read: {error.strerror}", REMEDY) from error
