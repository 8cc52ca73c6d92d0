"""Checks of constructor arguments.

Every net checks its own arguments, types included, so that an architecture read from a weights card (untrusted input)
meets the same bounds as one written in Python.
"""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Sequence
from typing import Any

from stream_ann.errors import UsageError

__all__ = ["MAX_CLASSES", "MAX_RESOLUTION_PX", "choice", "real", "resolution", "rising", "whole", "wholes"]

MAX_CLASSES = 100_000
MIN_RESOLUTION_PX = 8
MAX_RESOLUTION_PX = 1024


def whole(name: str, value: Any, low: int, high: int) -> int:
    """``value`` if it is an int from ``low`` to ``high``, else UsageError naming ``name``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UsageError(f"{name} is {reprlib.repr(value)}", f"it must be a whole number from {low} to {high}")
    return value


def real(name: str, value: Any, low: float, high: float) -> float:
    """``value`` as float if it is a number from ``low`` to ``high``, else UsageError naming ``name``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UsageError(f"{name} is {reprlib.repr(value)}", f"it must be a number from {low} to {high}")
    return float(value)


def choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """``value`` if it is one of ``allowed``, else UsageError naming both."""
    if not isinstance(value, str) or value not in allowed:
        raise UsageError(f"{name} is {reprlib.repr(value)}", f"it must be one of {', '.join(allowed)}")
    return value


def resolution(value: Any, name: str = "resolution_px") -> int:
    """``value`` if it can be a net's input resolution in pixels, else UsageError."""
    return whole(name, value, MIN_RESOLUTION_PX, MAX_RESOLUTION_PX)


def rising(name: str, value: Any, low: int, high: int) -> tuple[int, ...]:
    """``value`` as a tuple if it is a list or tuple of rising ints from ``low`` to ``high``, else UsageError."""
    fits = isinstance(value, list | tuple) and len(value) <= high - low + 1
    if fits:
        fits = all(isinstance(i, int) and not isinstance(i, bool) and low <= i <= high for i in value)
    if not fits or any(a >= b for a, b in itertools.pairwise(value)):
        remedy = f"it must be a list of rising whole numbers from {low} to {high}"
        raise UsageError(f"{name} is {reprlib.repr(value)}", remedy)
    return tuple(value)


def wholes(name: str, value: Any, low: int, high: int, *, most: int) -> tuple[int, ...]:
    """``value`` as a tuple if it is a list or tuple of 1 to ``most`` ints from ``low`` to ``high``, else UsageError."""
    fits = isinstance(value, list | tuple) and 1 <= len(value) <= most
    if not fits or not all(isinstance(i, int) and not isinstance(i, bool) and low <= i <= high for i in value):
        remedy = f"it must be a list of 1 to {most} whole numbers from {low} to {high}"
        raise UsageError(f"{name} is {reprlib.repr(value)}", remedy)
    return tuple(value)
