"""Hedged labels: the most specific concept that the network is sure enough of.

After Deng, Krause, Berg and Fei-Fei, "Hedging Your Bets" (CVPR 2012): who is not sure that it is an English springer
may still be sure that it is a dog. The wider the concept, the more probable it is and the less it says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_ann.errors import CardError
from stream_ann.labels.hierarchy import Hierarchy

__all__ = ["ANYTHING", "TARGETS", "Concepts", "HedgeCalibration", "fit_thresholds", "outcomes"]

ANYTHING = "something"
"""The label where not even the widest concept is probable enough."""
TARGETS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99)
"""How often the label shall be right, for which thresholds are fitted."""
GRID = np.linspace(0.005, 0.995, 199)
"""Thresholds that are tried."""
ONE_SIDED_95 = 1.645
"""Quantile of the normal distribution."""


class Concepts:
    """Everything that an answer can be called: each name by itself, and the concepts that some of them fall under.

    Args:
        names: Name of each class or group.
        members: The classes that each name stands for, as the hierarchy writes them.
        hierarchy: The concepts. One covers a name where it covers every class that the name stands for; of several
            that cover the same names the narrowest is kept.
    """

    def __init__(self, names: Sequence[str], members: Sequence[frozenset[str]], hierarchy: Hierarchy) -> None:
        self.names = tuple(names)
        """Name of each class or group."""
        wide: dict[frozenset[int], str] = {}
        taken = {name.casefold() for name in names}
        for concept in sorted(hierarchy.concepts, key=lambda c: len(hierarchy.below(c))):
            below = hierarchy.below(concept)
            covered = frozenset(i for i, m in enumerate(members) if m <= below)
            if len(covered) > 1 and concept.casefold() not in taken:
                wide.setdefault(covered, concept)
        wide.setdefault(frozenset(range(len(self.names))), ANYTHING)
        ordered = sorted(wide.items(), key=lambda item: len(item[0]))
        self.wide = tuple(concept for _, concept in ordered)
        """The concepts, the most specific first; the last one covers every name."""
        self.sizes = np.array([len(covered) for covered, _ in ordered])
        """How many names each covers, int [concepts]."""
        self.covers = np.zeros((len(self.wide), len(self.names)), dtype=np.float32)
        """1 where a concept covers a name, else 0; float32 [concepts, names]."""
        for row, (covered, _) in enumerate(ordered):
            self.covers[row, sorted(covered)] = 1.0

    @classmethod
    def of(cls, class_names: Sequence[str], hierarchy: Hierarchy) -> Concepts:
        """Those of classes, each of which is in the hierarchy."""
        return cls(class_names, [frozenset((hierarchy.find(name) or "",)) for name in class_names], hierarchy)

    def choose(self, probabilities: NDArray[np.float32], threshold: float) -> tuple[str, float]:
        """The most specific name or concept that is at least so probable; of equally specific ones the most probable.

        Args:
            probabilities: Of the names, float32 [names].
            threshold: The probability that is enough, 0 to 1.

        Returns:
            Its name and probability.
        """
        best = int(probabilities.argmax())
        if probabilities[best] >= threshold:
            return self.names[best], float(probabilities[best])
        sums = self.covers @ probabilities
        enough = np.flatnonzero(sums[:-1] >= threshold)
        if len(enough) == 0:
            return self.wide[-1], min(1.0, float(sums[-1]))
        alike = enough[self.sizes[enough] == self.sizes[enough[0]]]
        chosen = int(alike[sums[alike].argmax()])
        return self.wide[chosen], min(1.0, float(sums[chosen]))


def fit_thresholds(
    concepts: Concepts,
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    targets: Sequence[float] = TARGETS,
) -> tuple[float, ...]:
    """For each target the lowest threshold with which the label is right at least that often.

    "At least" holds for images like these with a confidence of about 95 %: going down from the highest threshold, the
    last one is taken before the upper end of Wilson's interval for the share of wrong labels first exceeds what the
    target allows.

    Args:
        concepts: What answers can be called.
        probabilities: One exit's answers to images that it was not trained on, float32 [N, names].
        labels: The true name of each, int64 [N].
        targets: How often the label shall be right, each over 0 and under 1.
    """
    right = outcomes(concepts, probabilities, labels, GRID)[0].mean(axis=0)
    worst = _upper_bound(1 - right, len(labels))
    found = []
    for target in targets:
        good = worst <= 1 - target
        holds = np.logical_and.accumulate(good[::-1])[::-1]  # here and at every higher threshold
        found.append(float(GRID[holds.argmax()]) if holds.any() else 1.0)
    return tuple(round(threshold, 4) for threshold in found)


def outcomes(
    concepts: Concepts, probabilities: NDArray[np.float32], labels: NDArray[np.int64], thresholds: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """What each threshold would have shown for each image.

    Args:
        concepts: What answers can be called.
        probabilities: float32 [N, names].
        labels: The true name of each, int64 [N].
        thresholds: float64 [T].

    Returns:
        Whether the label shown is right, bool [N, T], and how many names it covers, int64 [N, T].
    """
    sizes = np.concatenate([np.ones(1, dtype=np.int64), concepts.sizes])
    right = np.zeros((len(labels), len(thresholds)), dtype=np.bool_)
    covered = np.zeros((len(labels), len(thresholds)), dtype=np.int64)
    for image, (answer, label) in enumerate(zip(probabilities, labels, strict=True)):
        best = int(answer.argmax())
        sums = np.concatenate([answer[[best]], concepts.covers @ answer])
        true = np.concatenate([[best == label], concepts.covers[:, label] > 0])
        sums[-1] = np.inf  # what covers everything is always probable enough
        order = np.lexsort((-sums, sizes))
        # the first in this order that is probable enough is shown: where the running maximum gets there
        shown = order[np.searchsorted(np.maximum.accumulate(sums[order]), thresholds.astype(np.float32))]
        right[image], covered[image] = true[shown], sizes[shown]
    return right, covered


def _upper_bound(share: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Upper end of Wilson's one-sided 95 % interval for a share that was counted on so many images."""
    z = ONE_SIDED_95
    middle = share + z * z / (2 * count)
    spread = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    bound: NDArray[np.float64] = (middle + spread) / (1 + z * z / count)
    return bound


@dataclass(frozen=True, slots=True)
class HedgeCalibration:
    """Thresholds that were fitted for some weights, as their card keeps them under ``hedging``."""

    targets: tuple[float, ...]
    """How often the label shall be right, rising."""
    thresholds: tuple[tuple[float, ...], ...]
    """For each exit, the threshold for each target."""

    def threshold(self, exit_: int, target: float) -> float:
        """The threshold for a target, or for the next higher one that was fitted; beyond these, at least the target.

        Args:
            exit_: Which exit the answer comes from.
            target: How often the label shall be right, 0 to 1.
        """
        fitted = self.thresholds[min(exit_, len(self.thresholds) - 1)]
        for known, threshold in zip(self.targets, fitted, strict=True):
            if known >= target - 1e-9:
                return threshold
        return max(target, fitted[-1])

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {"targets": list(self.targets), "thresholds": [list(row) for row in self.thresholds]}

    @classmethod
    def from_json(cls, value: Any) -> HedgeCalibration:
        """Read what :meth:`as_json` gave; other keys are passed over.

        Raises:
            CardError: If it is malformed.
        """
        read = value if isinstance(value, Mapping) else {}
        targets, rows = _shares(read.get("targets")), read.get("thresholds")
        thresholds = tuple(_shares(row) for row in rows) if isinstance(rows, Sequence) else ()
        alike = all(len(row) == len(targets) for row in thresholds)
        if not targets or not thresholds or not alike or list(targets) != sorted(targets):
            raise CardError("'hedging' must hold rising targets and, for each exit, as many thresholds", "fit it again")
        return cls(targets, thresholds)


def _shares(value: object) -> tuple[float, ...]:
    """Numbers from 0 to 1; none where the value is anything else."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return ()
    good = all(isinstance(n, int | float) and 0 <= n <= 1 for n in value)
    return tuple(float(n) for n in value) if good else ()
