"""Early exit that is vouched for: thresholds that lose at most so much accuracy, with a confidence that is known.

The cheapest thresholds that lose nothing on some images were picked because they lose nothing there, and lose something
elsewhere. Here thresholds come in an order that is fixed beforehand, from the most careful on: the share of doubt that
an exit may answer with rises in proportion to its depth, since the deeper it is, the less those behind it can still put
right. Each is tested in turn, and the last one before the first failure is taken (fixed sequence testing; Angelopoulos
et al., "Learn then Test", 2021). The test holds for any number of images: it bets on them one by one, and rejects when
it has won more than chance allows (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting",
2024). So the loss is at most what was asked for in all but one of twenty sets of images like these.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_ann.errors import CardError, UsageError
from stream_ann.training.early_exit import NEVER, exits_taken

__all__ = ["LEVEL", "MAX_DROPS", "SafeExits", "drop_p_value", "safe_exits", "safe_thresholds"]

LEVEL = 0.95
"""How sure it is that no more is lost."""

MAX_DROPS = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
"""Losses that a card offers, in percentage points."""

_DOUBT_STEP = 0.005


@dataclass(frozen=True, slots=True)
class SafeExits:
    """Thresholds for several losses, as a card keeps them under ``safe_exits``."""

    max_drops: tuple[float, ...]
    """Percentage points of accuracy that are lost at most, rising."""
    thresholds: tuple[tuple[float, ...], ...]
    """For each of them, the thresholds of the exits."""

    def at(self, max_drop: float) -> tuple[float, ...]:
        """The thresholds for the largest known loss that is not over ``max_drop``.

        Raises:
            UsageError: If so little is not vouched for.
        """
        fitting = [limits for drop, limits in zip(self.max_drops, self.thresholds, strict=True) if drop <= max_drop]
        if not fitting:
            raise UsageError(
                f"a drop of {max_drop:g} points is less than these weights vouch for",
                f"give at least {self.max_drops[0]:g}, or leave early exit out with --confidence never",
            )
        return fitting[-1]

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        rows = [[None if limit == NEVER else limit for limit in limits] for limits in self.thresholds]
        return {"level": LEVEL, "max_drops": list(self.max_drops), "thresholds": rows}

    @classmethod
    def from_json(cls, value: Any, *, exits: int) -> SafeExits:
        """Read what :meth:`as_json` gave; other keys are passed over.

        Raises:
            CardError: If it is malformed.
        """
        read = value if isinstance(value, Mapping) else {}
        drops, rows = _numbers(read.get("max_drops"), 100), read.get("thresholds")
        found = tuple(_numbers(row, 1) for row in rows) if isinstance(rows, list) else ()
        good = drops and len(found) == len(drops) and all(len(row) == exits for row in found)
        if not good or list(drops) != sorted(drops):
            raise CardError("'safe_exits' must hold rising drops and thresholds of all exits for each", "fit it again")
        return cls(drops, found)


def safe_exits(correct: NDArray[np.bool_], confidence: NDArray[np.floating], *, seed: int = 0) -> SafeExits | None:
    """The thresholds for each of :data:`MAX_DROPS` that the images can vouch for; None if they can for none.

    Args:
        correct: bool [exits, N], whether each exit's answer is right.
        confidence: float [exits, N], its confidence.
        seed: The order in which the images are looked at.
    """
    found = [(drop, safe_thresholds(correct, confidence, max_drop=drop, seed=seed)) for drop in MAX_DROPS]
    known = [(drop, limits) for drop, limits in found if limits is not None]
    return SafeExits(tuple(d for d, _ in known), tuple(limits for _, limits in known)) if known else None


def safe_thresholds(
    correct: NDArray[np.bool_],
    confidence: NDArray[np.floating],
    *,
    max_drop: float,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, ...] | None:
    """The least careful thresholds that lose at most ``max_drop`` against the last exit, as far as the images can tell.

    Args:
        correct: bool [exits, N], whether each exit's answer is right. Of images that nothing else was fitted to.
        confidence: float [exits, N], its confidence, calibrated.
        max_drop: Percentage points of accuracy.
        level: How sure that is.
        seed: The order in which the images are looked at.

    Returns:
        The thresholds, the last one 0; None if there are too few images to vouch for any.
    """
    if correct.shape != confidence.shape or correct.ndim != 2 or correct.size == 0:
        raise ValueError(f"correct and confidence must be [exits, N], got {correct.shape} and {confidence.shape}")
    images = np.arange(correct.shape[1])
    safe: tuple[float, ...] | None = None
    for limits in _from_careful_to_bold(len(correct)):
        answers = correct[exits_taken(limits, confidence), images]
        drops = correct[-1].astype(np.float64) - answers
        if drop_p_value(drops, max_drop / 100, level=level, seed=seed) > 1 - level:
            return safe
        safe = limits
    return safe


def drop_p_value(drops: NDArray[np.float64], limit: float, *, level: float = LEVEL, seed: int = 0) -> float:
    """How well the images agree with a mean drop of at least ``limit``: small where it is less. For any number of them.

    Args:
        drops: float64 [N], 1 where an image is lost, -1 where it is won, else 0.
        limit: The mean drop, 0 to 1.
        level: For which the test is made to have the most power.
        seed: The order in which the images are looked at.
    """
    kept = (1 - drops[np.random.default_rng(seed).permutation(len(drops))]) / 2  # 0 to 1
    expected = (1 - limit) / 2
    seen = np.arange(1, len(kept) + 1)
    mean = (0.5 + np.cumsum(kept)) / (seen + 1)
    variance = (0.25 + np.cumsum((kept - mean) ** 2)) / (seen + 1)
    before = np.concatenate([[0.25], variance[:-1]])  # a bet knows only the images before its own
    stake = np.minimum(np.sqrt(2 * math.log(1 / (1 - level)) / (len(kept) * before)), 0.75 / expected)
    won = np.cumsum(np.log1p(stake * (kept - expected)))
    return float(min(1.0, math.exp(-float(won.max()))))


def _from_careful_to_bold(exits: int) -> Iterator[tuple[float, ...]]:
    """Thresholds in the order in which they are tested, which must not depend on the images."""
    yield (*(NEVER for _ in range(exits - 1)), 0.0)
    depth = np.arange(1, exits) / (exits / 2)  # 1 in the middle
    for step in range(1, round(1 / _DOUBT_STEP) if exits > 1 else 0):
        limits = np.round(np.maximum(0.0, 1 - step * _DOUBT_STEP * depth), 6)
        yield (*limits.tolist(), 0.0)


def _numbers(value: object, most: float) -> tuple[float, ...]:
    """Numbers from 0 to ``most``, None standing for :data:`NEVER`; none where the value is anything else."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return ()
    good = all(n is None or (isinstance(n, int | float) and 0 <= n <= most) for n in value)
    return tuple(NEVER if n is None else float(n) for n in value) if good else ()
