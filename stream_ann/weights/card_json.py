"""The weights card as JSON text: read with every value checked, and written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn, cast

from stream_ann.card import CARD_FORMAT, REMEDY, Card, CardStep, Validation, WeightsFile, first_twice, shown
from stream_ann.errors import CardError
from stream_ann.preprocess import Interpolation, Preprocessing

__all__ = ["card_from_json", "card_to_json"]


def card_from_json(text: str | bytes, *, origin: str) -> Card:
    """Read a card.

    Args:
        text: The JSON, UTF-8 where it is bytes.
        origin: What to call the card in error messages: its path.

    Raises:
        CardError: It is no JSON, has another format, lacks a key, or a value makes no sense.
    """
    try:
        document = json.loads(
            text, parse_float=_finite, parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates
        )
    except (ValueError, RecursionError) as error:  # JSON and Unicode errors are ValueErrors
        detail = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CardError(f"weights card '{origin}' is not valid JSON: {detail}", REMEDY) from error
    try:
        return _read(_Object(document, ""))
    except _BadValueError as error:
        raise CardError(f"weights card '{origin}': {error}", error.remedy) from None
    except CardError as error:
        raise CardError(f"weights card '{origin}': {error.what}", REMEDY) from None


def card_to_json(card: Card) -> bytes:
    """The card as JSON, UTF-8, ending in a line break.

    Raises:
        CardError: ``arch``, ``training`` or unknown keys hold what JSON cannot.
    """
    try:
        return (json.dumps(card.as_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError, RecursionError) as error:  # UnicodeEncodeError is a ValueError
        raise CardError(
            f"the card of '{card.name}' cannot be written as JSON: {error}", "use plain JSON values"
        ) from error


class _BadValueError(Exception):
    def __init__(self, what: str, remedy: str = REMEDY) -> None:
        super().__init__(what)
        self.remedy = remedy


class _Object:
    """Takes the values of one JSON object out, each checked, and keeps the rest."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise _BadValueError(f"{where or 'the whole'} must be an object, got {shown(value)}")
        self._values = dict(value)
        self._where = where

    def _path(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def fail(self, key: str, expected: str, value: object) -> NoReturn:
        raise _BadValueError(f"'{self._path(key)}' must be {expected}, got {shown(value)}")

    def take(self, key: str) -> Any:
        if key not in self._values:
            raise _BadValueError(f"'{self._path(key)}' is missing")
        return self._values.pop(key)

    def text(self, key: str) -> str:
        value = self.take(key)
        return value if isinstance(value, str) else self.fail(key, "a text", value)

    def whole(self, key: str, minimum: int) -> int:
        value = self.take(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            self.fail(key, f"a whole number of at least {minimum}", value)
        return value

    def number(self, key: str) -> float:
        value = self.take(key)
        return float(value) if _is_number(value) else self.fail(key, "a number", value)

    def numbers(self, key: str) -> tuple[float, ...]:
        value = self.take(key)
        if not isinstance(value, list) or not all(_is_number(v) for v in value):
            self.fail(key, "a list of numbers", value)
        return tuple(float(v) for v in value)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.take(key)
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            self.fail(key, "a list of texts", value)
        return tuple(value)

    def object(self, key: str) -> _Object:
        return _Object(self.take(key), self._path(key))

    def objects(self, key: str) -> list[_Object]:
        value = self.take(key)
        if not isinstance(value, list):
            self.fail(key, "a list", value)
        return [_Object(v, f"{self._path(key)}[{i}]") for i, v in enumerate(value)]

    def absent(self, key: str) -> bool:
        """Whether the optional ``key`` is missing or null; it is taken out if so."""
        if self._values.get(key) is None:
            self._values.pop(key, None)
            return True
        return False

    @property
    def rest(self) -> Mapping[str, Any]:
        return self._values


def _read(card: _Object) -> Card:
    version = card.whole("format", 1)
    if version != CARD_FORMAT:
        raise _BadValueError(
            f"it has format {str(version)[:20]}, this version of stream_ann reads format {CARD_FORMAT}",
            "use a newer version: pip install --upgrade stream-ann",
        )
    steps = card.objects("steps")
    return Card(
        name=card.text("name"),
        title=card.text("title"),
        description=card.text("description"),
        arch=card.object("arch").rest,
        classes=card.texts("classes"),
        preprocessing=_read_preprocessing(card.object("preprocessing")),
        steps=tuple(_read_step(step) for step in steps),
        validation=None if card.absent("validation") else _read_validation(card.object("validation")),
        readout_weights=None if card.absent("readout_weights") else card.numbers("readout_weights"),
        training=card.object("training").rest,
        licence=card.text("licence"),
        sources=card.texts("sources"),
        file=_read_file(card.object("file")),
        extra=card.rest,
    )


def _read_preprocessing(values: _Object) -> Preprocessing:
    mean, std, crop = values.numbers("mean"), values.numbers("std"), values.number("crop")
    interpolation = values.text("interpolation")
    if values.rest:  # unlike elsewhere: whatever it asks for, leaving it out would change every answer
        raise _BadValueError(f"'preprocessing.{next(iter(values.rest))}' is not known to this version of stream_ann")
    try:
        return Preprocessing(
            cast("tuple[float, float, float]", mean),
            cast("tuple[float, float, float]", std),
            crop,
            cast(Interpolation, interpolation),
        )
    except ValueError as error:
        raise _BadValueError(f"'preprocessing': {error}") from None


def _read_step(values: _Object) -> CardStep:
    return CardStep(
        name=values.text("name"),
        member=values.whole("member", 0),
        resolution_px=values.whole("resolution_px", 1),
        macs=values.whole("macs", 0),
        accuracy=None if values.absent("accuracy") else values.number("accuracy"),
        temperature=None if values.absent("temperature") else values.number("temperature"),
        threshold=None if values.absent("threshold") else values.number("threshold"),
        extra=values.rest,
    )


def _read_validation(values: _Object) -> Validation:
    return Validation(
        measure=values.text("measure"),
        data=values.text("data"),
        images=values.whole("images", 1),
        command=values.text("command"),
        extra=values.rest,
    )


def _read_file(values: _Object) -> WeightsFile:
    return WeightsFile(
        name=values.text("name"),
        sha256=values.text("sha256"),
        bytes=values.whole("bytes", 1),
        extra=values.rest,
    )


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that is too large for a float
        return False


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"the number {shown(digits)} is too large")
    return number


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (twice := first_twice(key for key, _ in pairs)) is not None:
        raise ValueError(f"the key {shown(twice)} is there twice")
    return dict(pairs)
