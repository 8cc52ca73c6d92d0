"""Readouts: which answer the exits that are done give together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, get_args

import numpy as np

from stream_ann.errors import UsageError, nearest
from stream_ann.frames import Prediction

__all__ = ["Average", "Best", "Latest", "Readout", "ReadoutName", "readout_named"]

ReadoutName = Literal["latest", "best", "average"]


class Readout(Protocol):
    """Turns the predictions of a frame, in the order in which they were done, into one."""

    def answer(self, predictions: Sequence[Prediction]) -> Prediction:
        """The answer of the exits done so far.

        Args:
            predictions: At least one prediction, oldest first.

        Returns:
            One of them, or a mixture; its ``exit`` is the deepest that it includes.
        """
        ...


class Latest:
    """The exit that was done last."""

    def answer(self, predictions: Sequence[Prediction]) -> Prediction:
        """The last of the predictions."""
        return predictions[-1]


class Best:
    """The exit with the highest validated accuracy among those that are done; of equals, the later one.

    Args:
        accuracies: Validated accuracy of each exit of the plan.
    """

    def __init__(self, accuracies: Sequence[float]) -> None:
        self._accuracies = tuple(accuracies)

    def answer(self, predictions: Sequence[Prediction]) -> Prediction:
        """The prediction of the exit that validated best."""
        best = predictions[0]
        for prediction in predictions[1:]:
            if self._accuracies[prediction.exit] >= self._accuracies[best.exit]:
                best = prediction
        return best


class Average:
    """The weighted arithmetic mean of the probabilities of all exits that are done.

    Averaging over exits makes an anytime answer nearly monotone (Jazbec et al., NeurIPS 2023). With exits of very
    different quality the weights must grow with depth: a plain mean is worse than the last exit alone.

    Args:
        weights: Positive weight of each exit of the plan.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        if not weights or min(weights) <= 0 or not np.isfinite(weights).all():
            raise ValueError(f"every weight must be positive and finite, got {list(weights)}")
        self._weights = np.asarray(weights, dtype=np.float32)

    def answer(self, predictions: Sequence[Prediction]) -> Prediction:
        """The mixture; its exit and time are those of the last prediction."""
        weights = self._weights[[p.exit for p in predictions]]
        stacked = np.stack([p.probabilities for p in predictions])
        mixed = (weights / weights.sum()) @ stacked
        return Prediction(predictions[-1].exit, mixed, predictions[-1].done_s)


def readout_named(
    name: str, *, exits: int, accuracies: Sequence[float | None] = (), weights: Sequence[float] | None = None
) -> Readout:
    """The readout that a user asked for.

    Args:
        name: ``"latest"``, ``"best"`` or ``"average"``.
        exits: Number of exits of the plan.
        accuracies: Validated accuracy of each exit, from the weights card; needed by ``"best"``.
        weights: Weight of each exit, from the weights card; without them ``"average"`` doubles from exit to exit.

    Raises:
        UsageError: If there is no such readout, or the card lacks the accuracies that it needs.
    """
    if name == "latest":
        return Latest()
    if name == "best":
        known = [a for a in accuracies if a is not None]
        if len(known) != exits:
            raise UsageError(
                "readout 'best' needs the validated accuracy of every exit, which this weights card lacks",
                "use --readout latest or average",
            )
        return Best(known)
    if name == "average":
        return Average(weights if weights is not None else [2.0**i for i in range(exits)])
    raise UsageError(f"no readout is called '{name}'", nearest(name, get_args(ReadoutName)))
