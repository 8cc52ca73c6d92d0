"""Whether what a process takes stays flat: samples of it over time, their slope, and how sure that slope is."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["BLOCKS", "Slope", "Usage", "own_mib", "slope", "usage"]

BLOCKS = 20
"""Samples are averaged over so many stretches of time, so that what is left of neighbours' likeness is little."""
_T_95 = 2.101
"""Student's t for a 95 % interval with ``BLOCKS - 2`` degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process takes at a moment."""

    memory_mib: float
    """Memory of its own (anonymous), in MiB."""
    threads: int
    files: int
    """Open file descriptors."""
    children: int


def own_mib(pid: int) -> float:
    """Memory of a process's own, without files that are mapped, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this system does not say how much memory a process has of its own")


def usage(pid: int) -> Usage:
    """What a process takes now.

    Raises:
        OSError: If there is none of that number.
    """
    tasks = os.listdir(f"/proc/{pid}/task")
    children = 0
    for task in tasks:
        try:
            children += len(Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        except OSError:  # it has ended meanwhile
            continue
    return Usage(own_mib(pid), len(tasks), len(os.listdir(f"/proc/{pid}/fd")), children)


@dataclass(frozen=True, slots=True)
class Slope:
    """A straight line through values over time."""

    per_hour: float
    """How steep it is, for each hour."""
    error: float
    """Its standard error."""
    low: float
    high: float
    """Where it lies with 95 % probability."""
    first: float
    last: float
    """Mean of the first and the last quarter."""
    most: float
    hours: float
    """How long it was looked at."""

    def is_flat(self, *, per_hour: float, once: float) -> bool:
        """Whether it may well be that no more is gained than is allowed.

        Args:
            per_hour: So much may be gained each hour.
            once: And so much in all, however long it lasts.
        """
        return self.low * self.hours <= per_hour * self.hours + once

    def rounded(self) -> dict[str, Any]:
        """For a report."""
        return {key: float(f"{value:.5g}") for key, value in asdict(self).items()}


def slope(times_s: Sequence[float], values: Sequence[float]) -> Slope:
    """The slope of values over time, and its standard error, from the means of :data:`BLOCKS` stretches.

    Args:
        times_s: When each was taken, in seconds, in order.
        values: As many.

    Raises:
        ValueError: If there are too few for that.
    """
    times, taken = np.asarray(times_s, float), np.asarray(values, float)
    if len(times) < 2 * BLOCKS:
        raise ValueError(f"a slope needs at least {2 * BLOCKS} samples, got {len(times)}")
    hours = np.array([part.mean() for part in np.array_split(times, BLOCKS)]) / 3600
    means = np.array([part.mean() for part in np.array_split(taken, BLOCKS)])
    centred = hours - hours.mean()
    steep = float(centred @ means / (centred @ centred))
    left = means - means.mean() - steep * centred
    error = math.sqrt(float(left @ left) / (BLOCKS - 2) / float(centred @ centred))
    quarter = len(taken) // 4
    return Slope(
        steep,
        error,
        steep - _T_95 * error,
        steep + _T_95 * error,
        float(taken[:quarter].mean()),
        float(taken[-quarter:].mean()),
        float(taken.max()),
        float(times[-1] - times[0]) / 3600,
    )
