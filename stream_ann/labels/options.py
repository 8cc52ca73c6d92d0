"""What users can ask of labels, and the labelling that does it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_ann.errors import UsageError
from stream_ann.frames import Frame, Prediction
from stream_ann.labels.groups import Groups, groups_from
from stream_ann.labels.hedging import Concepts, HedgeCalibration
from stream_ann.labels.hierarchy import Hierarchy, bundled_hierarchy
from stream_ann.labels.labelling import Labelling, Plain, Settled
from stream_ann.labels.smoothing import Smoothing

__all__ = ["LabelOptions", "labelling_from"]


@dataclass(frozen=True, slots=True)
class LabelOptions:
    """How answers are called. Without any of it: every class by its own name, every frame by itself.

    Raises:
        UsageError: If a value makes no sense.
    """

    classes: Sequence[str] = ()
    """Only these: class names, groups such as ``"cat=tabby,tiger cat"``, concepts, or ``"@FILE"`` with one of these a
    line. Each answer says how probable they are if it is one of them; with ``"other"`` among them, the rest counts."""
    smooth_s: float = 0.0
    """Time constant of the smoothing over a source's frames within a scene, in seconds; 0 for none."""
    hedge: float | None = None
    """Show the most specific concept that is right at least this often, over 0 and under 1; None for the most probable
    class."""
    hierarchy: str | os.PathLike[str] | None = None
    """Text file with the concepts that the classes fall under; by default those of WordNet where the classes are
    ImageNet's."""

    def __post_init__(self) -> None:
        if isinstance(self.classes, str):
            object.__setattr__(self, "classes", (self.classes,))
        if not (math.isfinite(self.smooth_s) and self.smooth_s >= 0):
            raise UsageError(f"smooth-s must be 0 or a number of seconds, got {self.smooth_s:g}")
        if self.hedge is not None and not 0 < self.hedge < 1:
            raise UsageError(f"hedge must be over 0 and under 1, got {self.hedge:g}", "0.7 is a good start")


def labelling_from(class_names: Sequence[str], options: LabelOptions, *, hedging: object = None) -> Labelling:
    """The labelling that a user asked for.

    Args:
        class_names: Name of each class of the weights.
        options: What was asked for.
        hedging: What the weights card holds under ``hedging``: the thresholds that make hedged labels right as often
            as they should be. Without them a label needs that very probability.

    Raises:
        UsageError: If it does not fit the classes, or a file cannot be read.
        CardError: If ``hedging`` is malformed.
    """
    hierarchy = _hierarchy(class_names, options)
    groups = groups_from(options.classes, class_names, hierarchy) if options.classes else None
    smoothing = Smoothing(options.smooth_s) if options.smooth_s > 0 else None
    hedge: _Hedge | None = None
    if options.hedge is not None:
        if hierarchy is None:
            what = "these classes are not ImageNet's: there is no hierarchy for hedged labels"
            raise UsageError(what, "give one with --hierarchy, see docs/labels.md")
        # thresholds were fitted for the hierarchy that the weights come with
        fitted = None if hedging is None or options.hierarchy is not None else HedgeCalibration.from_json(hedging)
        hedge = _Hedge(_concepts(class_names, groups, hierarchy), options.hedge, fitted)
    if groups is None and smoothing is None and hedge is None:
        return Plain(class_names)
    return _Labels(class_names, groups, smoothing, hedge)


def _hierarchy(class_names: Sequence[str], options: LabelOptions) -> Hierarchy | None:
    """The user's hierarchy, or WordNet's where it has all the classes."""
    if options.hierarchy is not None:
        hierarchy = Hierarchy.read(options.hierarchy)
        hierarchy.check_covers(class_names)
        return hierarchy
    if not options.classes and options.hedge is None:
        return None
    hierarchy = bundled_hierarchy()
    return hierarchy if hierarchy.covers(class_names) else None


def _concepts(class_names: Sequence[str], groups: Groups | None, hierarchy: Hierarchy) -> Concepts:
    if groups is None:
        return Concepts.of(class_names, hierarchy)
    found = [frozenset(hierarchy.find(class_names[i]) or "" for i in numbers) for numbers in groups.members]
    return Concepts(groups.names, found, hierarchy)


@dataclass(frozen=True, slots=True, eq=False)
class _Hedge:
    """Which concept to show."""

    concepts: Concepts
    target: float
    fitted: HedgeCalibration | None

    def choose(self, answer: Prediction) -> tuple[str, float]:
        threshold = self.target if self.fitted is None else self.fitted.threshold(answer.exit, self.target)
        return self.concepts.choose(answer.probabilities, threshold)


class _Labels:
    """Groups, then smooths, then hedges."""

    def __init__(
        self, class_names: Sequence[str], groups: Groups | None, smoothing: Smoothing | None, hedge: _Hedge | None
    ) -> None:
        self._names = tuple(class_names) if groups is None else groups.names
        self._groups = groups
        self._smoothing = smoothing
        self._hedge = hedge

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each class or group."""
        return self._names

    def group(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities of the groups."""
        return probabilities if self._groups is None else self._groups.of(probabilities)

    def settle(self, frame: Frame, answer: Prediction, *, final: bool) -> Settled:
        """The most probable class or group over time, or the concept that it is sure enough of."""
        if self._smoothing is not None:
            answer = self._smoothing.of(frame, answer, final=final)
        if self._hedge is None:
            return Settled(answer, self._names[answer.class_id], answer.confidence)
        label, confidence = self._hedge.choose(answer)
        return Settled(answer, label, confidence, hedged=True)
