"""From an answer's probabilities to the label that is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stream_ann.frames import Frame, Prediction

__all__ = ["Labelling", "Plain", "Settled"]


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """What is shown of an answer."""

    answer: Prediction
    """The answer, over the names of the labelling; another than was asked about where it was smoothed over time."""
    label: str
    """What to call it: the name of its most probable class, or a wider concept that it falls under."""
    confidence: float
    """Probability of what the label says, 0 to 1."""
    hedged: bool = False
    """Whether the label was chosen among wider concepts too."""


class Labelling(Protocol):
    """Says what answers are called. Used by one thread at a time; answers of one source come in order."""

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each class after :meth:`group`."""
        ...

    def group(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities of the plan's classes, float32 [classes] or [B, classes], as those of :attr:`names`.

        Asked for every exit, before readout and policy see the answer.
        """
        ...

    def settle(self, frame: Frame, answer: Prediction, *, final: bool) -> Settled:
        """What to show of a frame's answer so far.

        Args:
            frame: The frame.
            answer: The readout's answer, over :attr:`names`.
            final: Whether this is the frame's last answer: only then may a labelling remember it.
        """
        ...


class Plain:
    """Every class by its own name, every frame by itself.

    Args:
        names: Name of each class of the plan.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each class."""
        return self._names

    def group(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """The probabilities as they are."""
        return probabilities

    def settle(self, frame: Frame, answer: Prediction, *, final: bool) -> Settled:
        """The most probable class."""
        return Settled(answer, self._names[answer.class_id], answer.confidence)
