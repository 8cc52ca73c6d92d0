"""What the exits of a net are worth: accuracy, calibration and cost of each, and of a readout of those before it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from stream_ann.errors import UsageError, nearest
from stream_ann.nets.contract import Plan
from stream_ann.readout import ReadoutName
from stream_ann.training.outputs import Outputs, collect

__all__ = [
    "BINS",
    "AnytimeCurve",
    "ExitFigures",
    "Outputs",
    "Scores",
    "anytime_curve",
    "area_under_curve",
    "calibration_error",
    "collect",
    "costs_of",
    "score",
    "standard_error",
]

BINS = 15
"""Bins of the calibration error, as in Guo et al. 2017."""

_CHUNK_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What the answers of a readout are worth, for each exit that is done last and each image. All on the CPU."""

    readout: ReadoutName
    """The readout."""
    top1: Tensor
    """bool [exits, N], whether the most probable class is the true one."""
    top5: Tensor
    """bool [exits, N], whether the true class is among the five most probable ones."""
    confidence: Tensor
    """float32 [exits, N], probability of the most probable class."""
    nll: Tensor
    """float32 [exits, N], negative logarithm of the probability of the true class."""

    def rows(self, images: Tensor) -> Scores:
        """The scores of some of the images, by number, int64 [M]."""
        columns = (self.top1, self.top5, self.confidence, self.nll)
        return Scores(self.readout, *(column[:, images] for column in columns))


def score(
    outputs: Outputs,
    *,
    readout: ReadoutName = "latest",
    accuracies: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
    temperatures: Sequence[float] | None = None,
) -> Scores:
    """Apply a readout of :mod:`stream_ann.readout` to many images at once, and compare its answers with the truth.

    Args:
        outputs: What the exits say.
        readout: ``"latest"``, ``"best"`` or ``"average"``.
        accuracies: Validated accuracy of each exit, for ``"best"``; by default what these images give.
        weights: Weight of each exit, for ``"average"``; by default they double from exit to exit.
        temperatures: What the logits of each exit are divided by; by default 1.

    Raises:
        UsageError: There is no such readout.
        ValueError: Not one number for each exit, or one that must be positive is not.
    """
    if readout not in get_args(ReadoutName):
        raise UsageError(f"no readout is called '{readout}'", nearest(readout, get_args(ReadoutName)))
    exits = outputs.exits
    scales = torch.tensor(_checked("temperatures", temperatures, exits) or [1.0] * exits)[:, None, None]
    mixing = torch.tensor(_checked("weights", weights, exits) or [2.0**i for i in range(exits)])
    best = torch.arange(exits)
    if readout == "best":
        if accuracies is None:
            accuracies = score(outputs).top1.double().mean(dim=1).tolist()
        if len(accuracies) != exits:
            raise ValueError(f"{len(accuracies)} accuracies for {exits} exits")
        for i in range(1, exits):
            best[i] = i if accuracies[i] >= accuracies[int(best[i - 1])] else best[i - 1]

    parts: list[tuple[Tensor, ...]] = []
    chunk = max(1, _CHUNK_BYTES // (4 * exits * outputs.classes))
    for start in range(0, len(outputs), chunk):
        labels = outputs.labels[start : start + chunk]
        scaled = outputs.logits[:, start : start + chunk] / scales
        probabilities = torch.softmax(scaled, dim=2)
        index = labels[None, :, None].expand(exits, -1, 1)
        # From the logits, since a probability may be too small for a float32.
        log_true = scaled.gather(2, index)[..., 0] - scaled.logsumexp(dim=2)
        if readout == "best":
            probabilities, log_true = probabilities[best], log_true[best]
        elif readout == "average":
            shape = (exits, 1, 1)
            probabilities = (probabilities * mixing.view(shape)).cumsum(dim=0) / mixing.cumsum(dim=0).view(shape)
            log_mixing = mixing.log()[:, None]
            log_true = (log_true + log_mixing).logcumsumexp(dim=0) - log_mixing.logcumsumexp(dim=0)
        # The place of the true class; of equally probable classes the one with the smaller number comes first.
        true = probabilities.gather(2, index)
        earlier = torch.arange(outputs.classes)[None, None, :] < labels[None, :, None]
        place = ((probabilities > true) | ((probabilities == true) & earlier)).sum(dim=2)
        parts.append((place < 1, place < 5, probabilities.amax(dim=2), -log_true))
    top1, top5, confidence, nll = (torch.cat(columns, dim=1) for columns in zip(*parts, strict=True))
    return Scores(readout, top1, top5, confidence, nll)


def _checked(what: str, values: Sequence[float] | None, exits: int) -> list[float] | None:
    if values is None:
        return None
    if len(values) != exits or not all(math.isfinite(v) and v > 0 for v in values):
        raise ValueError(f"{what} must be {exits} positive numbers, got {list(values)}")
    return list(values)


def calibration_error(confidence: Tensor, correct: Tensor, *, bins: int = BINS) -> float:
    """Expected calibration error (Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 2).

    The images are put into bins of equal width by their confidence, the m-th from (m - 1) / bins, exclusive, to
    m / bins; the error is the mean over images of how far the accuracy in their bin is from its mean confidence.

    Args:
        confidence: float [N], 0 to 1.
        correct: bool [N].
        bins: Number of bins.

    Returns:
        0 to 1, 0 being perfect.
    """
    number = ((confidence.double() * bins).ceil().long() - 1).clamp(0, bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, number, confidence.double() - correct.double())
    return float(gaps.abs().sum() / len(confidence))


def standard_error(accuracy: float, images: int) -> float:
    """Standard error of an ``accuracy``, 0 to 1, that was measured on so many images: sqrt(p (1 - p) / N)."""
    return math.sqrt(accuracy * (1 - accuracy) / images)


def costs_of(plan: Plan, each: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What it costs to reach each exit of a plan.

    Args:
        plan: The plan.
        each: Cost of each step, in any unit.

    Returns:
        The cost of each exit where the plan runs from its start, and where the exit's own member runs alone.
    """
    if len(each) != len(plan):
        raise ValueError(f"{len(each)} costs for a plan of {len(plan)} steps")
    alone: list[float] = []
    for step, cost in zip(plan.steps, each, strict=True):
        alone.append(cost if step.first else alone[-1] + cost)
    return tuple(itertools.accumulate(each)), tuple(alone)


@dataclass(frozen=True, slots=True)
class ExitFigures:
    """What the answer of a readout is worth once an exit is done."""

    readout: ReadoutName
    """The readout."""
    exit: int
    """The exit that is done last, from 0."""
    name: str
    """Its name."""
    resolution_px: int
    """Side of its input in pixels."""
    top1: float
    """How often the most probable class is the true one, 0 to 1."""
    top1_error: float
    """Standard error of that."""
    top5: float
    """How often the true class is among the five most probable, 0 to 1."""
    ece: float
    """Expected calibration error, 15 bins, 0 to 1."""
    nll: float
    """Mean negative log-likelihood of the true class, in nats."""
    macs: int
    """Multiply-accumulates until this exit is reached, the plan running from its start."""
    alone_macs: int
    """Multiply-accumulates where this exit's member runs alone, earlier members left out."""
    ms: float | None
    """Measured time until this exit is reached, in milliseconds; None if not measured."""
    alone_ms: float | None
    """Measured time where this exit's member runs alone, in milliseconds; None if not measured."""

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class AnytimeCurve:
    """The figures of every exit under every readout."""

    images: int
    """On how many images."""
    classes: int
    """How many classes there are."""
    figures: tuple[ExitFigures, ...]
    """Readout by readout, each exit by exit."""

    @property
    def readouts(self) -> tuple[ReadoutName, ...]:
        """The readouts in the order of the figures."""
        return tuple(dict.fromkeys(f.readout for f in self.figures))

    def of(self, readout: ReadoutName = "latest") -> tuple[ExitFigures, ...]:
        """The figures of one readout, exit by exit."""
        return tuple(f for f in self.figures if f.readout == readout)

    def area(self, low: float, high: float, *, readout: ReadoutName = "latest") -> float:
        """Mean top-1 over the logarithm of the budget from ``low`` to ``high`` multiply-accumulates."""
        figures = self.of(readout)
        return area_under_curve([f.macs for f in figures], [f.top1 for f in figures], low, high)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {"images": self.images, "classes": self.classes, "figures": [f.as_dict() for f in self.figures]}


def anytime_curve(
    outputs: Outputs,
    plan: Plan,
    *,
    readouts: Sequence[ReadoutName] = get_args(ReadoutName),
    accuracies: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
    temperatures: Sequence[float] | None = None,
    measure_step_s: Callable[[], Sequence[float]] | None = None,
) -> AnytimeCurve:
    """The figures of every exit under every readout.

    Args:
        outputs: What the exits say.
        plan: The plan that they belong to.
        readouts: Which readouts.
        accuracies: Validated accuracy of each exit, for ``"best"``; by default what these images give.
        weights: Weight of each exit, for ``"average"``; by default they double from exit to exit.
        temperatures: What the logits of each exit are divided by; by default 1.
        measure_step_s: Called once; measures the time of each step, in seconds.
    """
    if len(plan) != outputs.exits or plan.classes != outputs.classes:
        given = f"{outputs.exits} exits and {outputs.classes} classes"
        raise ValueError(f"a plan of {len(plan)} exits and {plan.classes} classes for outputs of {given}")
    macs, alone_macs = costs_of(plan, [step.macs for step in plan.steps])
    times = None if measure_step_s is None else costs_of(plan, [1000 * s for s in measure_step_s()])
    figures = []
    for readout in readouts:
        scores = score(outputs, readout=readout, accuracies=accuracies, weights=weights, temperatures=temperatures)
        for i, step in enumerate(plan.steps):
            top1 = float(scores.top1[i].double().mean())
            figures.append(
                ExitFigures(
                    readout=readout,
                    exit=i,
                    name=step.name,
                    resolution_px=step.resolution_px,
                    top1=top1,
                    top1_error=standard_error(top1, len(outputs)),
                    top5=float(scores.top5[i].double().mean()),
                    ece=calibration_error(scores.confidence[i], scores.top1[i]),
                    nll=float(scores.nll[i].double().mean()),
                    macs=int(macs[i]),
                    alone_macs=int(alone_macs[i]),
                    ms=None if times is None else times[0][i],
                    alone_ms=None if times is None else times[1][i],
                )
            )
    return AnytimeCurve(len(outputs), outputs.classes, tuple(figures))


def area_under_curve(costs: Sequence[float], accuracies: Sequence[float], low: float, high: float) -> float:
    """Mean accuracy of an anytime answer over the logarithm of the budget: one figure for a whole curve.

    At a budget between two exits the answer is that of the exit before, and below the first exit there is none, which
    counts as 0: the area under that staircase against the logarithm of the cost, divided by its width.

    Args:
        costs: Cumulative cost of each exit, positive and rising.
        accuracies: Accuracy of the answer once each exit is done, in any unit.
        low: Smallest budget, in the unit of the costs.
        high: Largest budget.

    Returns:
        A figure in the unit of the accuracies.
    """
    if len(costs) != len(accuracies) or not costs:
        raise ValueError(f"{len(costs)} costs for {len(accuracies)} accuracies")
    if costs[0] <= 0 or any(b <= a for a, b in itertools.pairwise(costs)):
        raise ValueError(f"costs must be positive and rising, got {list(costs)}")
    if not 0 < low < high < math.inf:
        raise ValueError(f"the range must be positive and rising, got {low} to {high}")
    area = 0.0
    for start, end, accuracy in zip(costs, [*costs[1:], math.inf], accuracies, strict=True):
        start, end = max(start, low), min(end, high)
        if start < end:
            area += accuracy * math.log(end / start)
    return area / math.log(high / low)
