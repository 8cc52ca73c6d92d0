"""Streaming accuracy: what a stream's frames are answered with at the moment when it counts.

Frame i of a stream is scored at a moment of its own against the last answer that was there by then, about whichever
frame; no answer yet counts as wrong (streaming perception, Li, Wang and Ramanan, ECCV 2020, for a classifier). That
moment is ``arrival - eta`` frame intervals: with ``eta = 0`` it is the frame's arrival, as in the paper, and with
``eta = -1`` it is the arrival of the next frame, the end of the frame's own interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Mean",
    "Shown",
    "check_same_frames",
    "last_shown",
    "mean_of",
    "moments",
    "ratio_of",
    "streaming_correct",
]


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer as it came up: from now on it is what is shown."""

    time_s: float
    """Monotonic time at which it was there, in seconds."""
    frame: int
    """The frame that it is about."""
    class_id: int
    """The class."""
    exit: int
    """The exit that it comes from."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A share or a ratio, and how sure it is."""

    value: float
    """The figure."""
    error: float | None
    """Its standard error; None where fewer than two scenes leave no way of telling."""

    def as_dict(self) -> dict[str, float | None]:
        """Plain JSON values, rounded to what they are good for."""
        return {"value": round(self.value, 5), "error": None if self.error is None else round(self.error, 5)}


def moments(arrivals_s: NDArray[np.float64], eta: float) -> NDArray[np.float64]:
    """When each frame is scored, in seconds.

    Between arrivals the time is interpolated: with ``eta = -0.5`` a frame is scored half-way to the next one. Before
    the first and after the last arrival, the mean interval stands in.

    Args:
        arrivals_s: When each frame arrives, float64 [N], in seconds, rising.
        eta: By how many frames the scoring is early; usually 0 or -1.

    Raises:
        ValueError: If there are no frames.
    """
    count = len(arrivals_s)
    if count == 0:
        raise ValueError("there are no frames to score")
    gap_s = (arrivals_s[-1] - arrivals_s[0]) / (count - 1) if count > 1 else 1.0
    wanted = np.arange(count) - eta
    known = np.interp(wanted, np.arange(count), arrivals_s)
    before, after = np.minimum(wanted, 0), np.maximum(wanted - (count - 1), 0)
    return np.asarray(known + gap_s * (before + after))


def last_shown(shown: Sequence[Shown], times_s: NDArray[np.float64]) -> NDArray[np.intp]:
    """Number of the answer that is shown at each time, intp [N]; -1 where there is none yet.

    Args:
        shown: The answers in the order in which they came up.
        times_s: Times in seconds, float64 [N]. An answer that comes up at that very moment counts.
    """
    done_s = np.fromiter((answer.time_s for answer in shown), float, len(shown))
    return np.searchsorted(done_s, times_s, side="right").astype(np.intp) - 1


def streaming_correct(
    shown: Sequence[Shown],
    arrivals_s: NDArray[np.float64],
    truths: Sequence[frozenset[int]],
    *,
    eta: float,
) -> NDArray[np.bool_]:
    """For each frame, whether what is shown at its moment is right for it, bool [N].

    Args:
        shown: The answers in the order in which they came up.
        arrivals_s: When each frame arrives, float64 [N], in seconds, rising.
        truths: For each frame the classes that count as right.
        eta: By how many frames the scoring is early, see the module.

    Raises:
        ValueError: If there are no frames, or not a truth for each.
    """
    if len(truths) != len(arrivals_s):
        raise ValueError(f"{len(truths)} truths for {len(arrivals_s)} frames")
    rows = last_shown(shown, moments(arrivals_s, eta))
    right = [row >= 0 and shown[row].class_id in truth for row, truth in zip(rows.tolist(), truths, strict=True)]
    return np.array(right, dtype=np.bool_)


def check_same_frames(one: NDArray[Any], other: NDArray[Any], scenes: NDArray[np.intp]) -> None:
    """See to it that two contenders can be compared.

    Args:
        one: A value for each frame, [N].
        other: The same of the other one, [N].
        scenes: Which scene each frame belongs to, intp [N].

    Raises:
        ValueError: If there are no frames, or the three differ in length.
    """
    if not len(one) == len(other) == len(scenes) or not len(scenes):
        raise ValueError(f"{len(one)} and {len(other)} values for {len(scenes)} frames' scenes")


def mean_of(values: NDArray[np.bool_] | NDArray[np.float64], scenes: NDArray[np.intp]) -> Mean:
    """A mean over frames whose standard error knows that frames of one scene are not independent.

    The error is that of a mean over clusters: what the frames of a scene deviate together counts as one deviation. A
    thousand frames of one photograph say no more about a network than one does.

    Args:
        values: One for each frame, [N].
        scenes: Which scene each frame belongs to, intp [N].

    Raises:
        ValueError: If there are no values, or not a scene for each.
    """
    return ratio_of(np.asarray(values, dtype=np.float64), np.ones(len(values)), scenes)


def ratio_of(numerator: NDArray[np.float64], denominator: NDArray[np.float64], scenes: NDArray[np.intp]) -> Mean:
    """The ratio of two sums over the same frames, with the standard error over scenes (delta method).

    Args:
        numerator: float64 [N].
        denominator: float64 [N].
        scenes: Which scene each frame belongs to, intp [N].

    Returns:
        The ratio; 0 over 0 counts as 1, and anything else over 0 as infinite.

    Raises:
        ValueError: If there are no frames, or the three differ in length.
    """
    check_same_frames(numerator, denominator, scenes)
    above, below = float(numerator.sum()), float(denominator.sum())
    if below == 0:
        return Mean(1.0 if above == 0 else math.inf, None)
    ratio = above / below
    _, rows = np.unique(scenes, return_inverse=True)
    deviations = np.bincount(rows, weights=numerator - ratio * denominator)
    clusters = len(deviations)
    if clusters < 2:
        return Mean(ratio, None)
    error = math.sqrt(clusters / (clusters - 1) * float((deviations**2).sum())) / below
    return Mean(ratio, error)
