"""Confidences that can be believed, and what they are good for: a temperature for each exit, and early exit.

Three separate parts of the images: temperatures are fitted on the first, thresholds chosen on the second, and only the
third tells what both are worth. Figures from the images that a threshold was chosen on are too good.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_ann.errors import UsageError
from stream_ann.nets.contract import Plan
from stream_ann.readout import ReadoutName
from stream_ann.training.early_exit import NEVER, OperatingPoint, choose, exits_taken, frontier
from stream_ann.training.evaluate import Scores, calibration_error, costs_of, score, standard_error
from stream_ann.training.mixing import fit_mixing
from stream_ann.training.outputs import Outputs
from stream_ann.training.safe_exit import SafeExits, safe_exits

__all__ = [
    "MIN_PART_IMAGES",
    "Calibration",
    "EarlyExit",
    "ExitCalibration",
    "Goal",
    "StaticNetwork",
    "calibrate",
    "fit_temperature",
    "three_parts",
]

MIN_PART_IMAGES = 300
"""Fewer images than this in one of the three parts are warned of: an accuracy of 80 % then has a standard error of
more than 2.3 points."""

TEMPERATURES = (0.05, 20.0)
"""Smallest and largest temperature that is fitted; one exit without errors would want 0."""

Goal = Literal["max-drop", "target-cost"]
"""What early exit is asked for: an accuracy, at the least cost, or a cost, at the greatest accuracy."""

_CHUNK_VALUES = 4 << 20
_CURVE_POINTS = 32


@dataclass(frozen=True, slots=True)
class ExitCalibration:
    """How far the confidences of one exit can be believed, before and after, on images that were not fitted to."""

    name: str
    """Name of the exit."""
    temperature: float
    """What its logits are divided by."""
    ece: float
    """Expected calibration error before, 15 bins, 0 to 1."""
    calibrated_ece: float
    """The same after."""
    nll: float
    """Mean negative log-likelihood before, in nats."""
    calibrated_nll: float
    """The same after."""


@dataclass(frozen=True, slots=True)
class StaticNetwork:
    """One exit as the only answer: a network of a fixed cost, earlier members left out."""

    name: str
    """Name of the exit."""
    top1: float
    """How often it is right, 0 to 1."""
    top1_error: float
    """Standard error of that."""
    macs: int
    """Multiply-accumulates for one image. The heads of earlier exits of its member are counted: they are small."""
    ms: float | None
    """Measured time in milliseconds; None if not measured."""


@dataclass(frozen=True, slots=True)
class EarlyExit:
    """Answers by the first exit that is confident enough, and what they are worth on images kept apart for that."""

    goal: Goal
    """What was asked for."""
    budget: float
    """How much: percentage points of top-1, or a fraction of the plan's cost."""
    readout: ReadoutName
    """Whose confidence counts."""
    thresholds: tuple[float, ...]
    """Of each exit: a confidence of at least this answers. The last one's is 0, that of an exit that never answers is
    infinity."""
    top1: float
    """How often the answer is right, 0 to 1."""
    top1_error: float
    """Standard error of that."""
    last_top1: float
    """The same images answered by the last exit."""
    drop: float
    """How much less accurate that is, in percentage points; negative if it is more."""
    drop_error: float
    """Standard error of the drop, from the images on which the two differ."""
    cost: float
    """Mean multiply-accumulates as a fraction of the whole plan's."""
    macs: float
    """Mean multiply-accumulates for one image."""
    ms: float | None
    """Mean of the measured time in milliseconds; None if not measured."""
    shares: tuple[float, ...]
    """Which fraction of the images each exit answers."""
    chosen_top1: float
    """Top-1 on the images that the thresholds were chosen on: what it was chosen for."""
    chosen_cost: float
    """Cost on them, as a fraction."""
    statics: tuple[StaticNetwork, ...]
    """Every exit as a network of its own, on the same images."""
    smallest_static: int | None
    """Which of them is the cheapest that is at least as accurate; None if none is."""
    curve: tuple[tuple[float, float], ...]
    """Mean multiply-accumulates and top-1 of other budgets on the same images, rising in cost."""

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values, the threshold of an exit that never answers as null."""
        values = asdict(self)
        values["thresholds"] = [None if t == NEVER else t for t in self.thresholds]
        for key in ("shares", "statics", "curve"):
            values[key] = [list(v) if isinstance(v, tuple) else v for v in values[key]]
        return values


@dataclass(frozen=True, slots=True)
class Calibration:
    """Temperatures, thresholds, and what they are worth."""

    images: tuple[int, int, int]
    """How many images the temperatures were fitted on, the thresholds chosen on, and the figures reported on."""
    exits: tuple[ExitCalibration, ...]
    """The temperature of each exit."""
    early_exit: EarlyExit
    """Early exit at the calibrated confidences."""
    safe_exits: SafeExits | None
    """Early exit that is vouched for, by all images but those that the temperatures were fitted on; None if they are
    too few, or not independent of each other."""
    readout_weights: tuple[float, ...] | None
    """How much each exit counts in the readout ``average``; None if that was not fitted."""
    warnings: tuple[str, ...]
    """What makes the figures doubtful, a line each; empty if nothing does."""

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The temperature of each exit."""
        return tuple(e.temperature for e in self.exits)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {
            "images": dict(zip(("fitted", "chosen", "reported"), self.images, strict=True)),
            "exits": [asdict(e) for e in self.exits],
            "early_exit": self.early_exit.as_dict(),
            "safe_exits": None if self.safe_exits is None else self.safe_exits.as_json(),
            "readout_weights": None if self.readout_weights is None else list(self.readout_weights),
            "warnings": list(self.warnings),
        }


def calibrate(
    outputs: Outputs,
    plan: Plan,
    *,
    max_drop: float | None = None,
    target_cost: float | None = None,
    readout: ReadoutName = "latest",
    accuracies: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
    fit_readout: bool = False,
    step_s: Sequence[float] | None = None,
    least_confidence: float = 0.0,
    seed: int = 0,
) -> Calibration:
    """Fit a temperature to each exit, choose thresholds for early exit, and report what they are worth.

    Args:
        outputs: What the exits say. Images of one group stay in one part.
        plan: The plan that they belong to.
        max_drop: Least cost at most this many percentage points of top-1 below the last exit.
        target_cost: Greatest top-1 at a mean cost of at most this fraction of the plan's. Either this or ``max_drop``.
        readout: Whose confidence is compared with the thresholds.
        accuracies: Validated accuracy of each exit, for ``"best"``; by default what the fitted part gives.
        weights: Weight of each exit, for ``"average"``; by default they double from exit to exit.
        fit_readout: Fit these weights, together with the temperatures, so that no answer is worse than the one before.
        step_s: Measured time of each step, in seconds.
        least_confidence: No exit but the last ends an image that it is less sure of, 0 to 1: for images that show less
            of what the last exits are good for than those that will be asked about.
        seed: Which images are in which part.

    Raises:
        UsageError: Fewer than three images or groups, or a budget that makes no sense.
    """
    parts = three_parts(outputs.labels, groups=outputs.groups, seed=seed)
    fitted, chosen, reported = parts
    warnings = _doubts(parts, outputs.labels)
    labels = outputs.labels[fitted]
    temperatures = tuple(fit_temperature(outputs.logits[i, fitted], labels) for i in range(outputs.exits))
    mixing: tuple[float, ...] | None = None
    if fit_readout:
        weights = mixing = fit_mixing(outputs.rows(fitted), temperatures)
    raw = score(outputs)
    if readout == "best" and accuracies is None:
        accuracies = raw.top1[:, fitted].double().mean(dim=1).tolist()
    scores = score(outputs, readout=readout, accuracies=accuracies, weights=weights, temperatures=temperatures)
    latest = scores if readout == "latest" else score(outputs, temperatures=temperatures)

    before, after = raw.rows(reported), latest.rows(reported)
    exits = tuple(
        ExitCalibration(
            name=name,
            temperature=temperatures[i],
            ece=calibration_error(before.confidence[i], before.top1[i]),
            calibrated_ece=calibration_error(after.confidence[i], after.top1[i]),
            nll=float(before.nll[i].double().mean()),
            calibrated_nll=float(after.nll[i].double().mean()),
        )
        for i, name in enumerate(plan.exit_names)
    )

    macs, _ = costs_of(plan, [step.macs for step in plan.steps])
    basis = scores.rows(chosen)
    points = frontier(basis.top1.numpy(), basis.confidence.numpy(), macs)
    point = choose(
        points,
        last_accuracy=float(basis.top1[-1].double().mean()),
        last_cost=macs[-1],
        max_drop=max_drop,
        target_cost=target_cost,
    )
    if least_confidence > 0:
        point = _held(point, least_confidence, basis, macs)
    goal: tuple[Goal, float] = ("max-drop", max_drop) if max_drop is not None else ("target-cost", target_cost or 0.0)
    early = _report(scores.rows(reported), before, plan, point, points, goal, step_s)
    safe: SafeExits | None = None
    if outputs.apart == len(outputs):
        rest = scores.rows(torch.cat((chosen, reported)).sort().values)
        safe = safe_exits(rest.top1.numpy(), rest.confidence.numpy(), seed=seed)
    return Calibration((len(fitted), len(chosen), len(reported)), exits, early, safe, mixing, warnings)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T at which ``softmax(logits / T)`` has the least negative log-likelihood (Guo et al., ICML 2017).

    It is convex in 1 / T, its derivatives there being a mean and a variance of the logits, so that Newton's method held
    by a shrinking bracket finds the minimum in a few passes.

    Args:
        logits: float [N, classes].
        labels: int64 [N].

    Returns:
        A temperature from 0.05 to 20, at which the likelihood is no less than at 1.
    """
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    beta = 1.0
    nll, slope, curvature = _derivatives(logits, labels, beta)
    nll_at_1 = nll
    for _ in range(50):
        if slope > 0:
            high = beta
        else:
            low = beta
        new = beta - slope / curvature if curvature > 0 else math.inf
        if not low < new < high:
            # Halfway on a logarithmic scale; ends at a limit where that is the minimum.
            new = math.sqrt(low * high)
        if abs(new - beta) <= 1e-6 * beta:
            break
        beta = new
        nll, slope, curvature = _derivatives(logits, labels, beta)
    return 1 / beta if nll < nll_at_1 else 1.0


def _derivatives(logits: Tensor, labels: Tensor, beta: float) -> tuple[float, float, float]:
    """Mean negative log-likelihood of ``softmax(beta * logits)``, and its first and second derivative by beta."""
    sums = torch.zeros(3, dtype=torch.float64)
    chunk = max(1, _CHUNK_VALUES // logits.shape[1])
    for start in range(0, len(labels), chunk):
        # Less their largest: the likelihood depends on differences alone, and nothing overflows.
        z = logits[start : start + chunk].double()
        z = z - z.amax(dim=1, keepdim=True)
        true = z.gather(1, labels[start : start + chunk, None])[:, 0]
        scaled = beta * z
        normaliser = scaled.logsumexp(dim=1)
        p = (scaled - normaliser[:, None]).exp_()
        mean = (p * z).sum(dim=1)
        variance = (p * (z - mean[:, None]).square()).sum(dim=1)
        sums += torch.stack([(normaliser - beta * true).sum(), (mean - true).sum(), variance.sum()])
    nll, slope, curvature = (sums / len(labels)).tolist()
    return nll, slope, curvature


def three_parts(labels: Tensor, *, groups: Tensor | None = None, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Deal images into three parts of about one size, each class evenly, the same way for the same seed.

    Args:
        labels: int64 [N].
        groups: int64 [N], images of one group stay together. By default each image is its own.
        seed: Which goes where.

    Returns:
        Numbers of the images of each part, int64, rising.

    Raises:
        UsageError: There are fewer than three images or groups.
    """
    classes = labels.numpy()
    owners = np.arange(len(classes)) if groups is None else groups.numpy()
    if owners.shape != classes.shape:
        raise ValueError(f"groups of shape {list(owners.shape)} for labels of shape {list(classes.shape)}")
    names, first, inverse, sizes = np.unique(owners, return_index=True, return_inverse=True, return_counts=True)
    if len(names) < 3:
        what = f"{len(names)} {'images' if groups is None else 'groups of images'} cannot be cut into three parts"
        raise UsageError(what, "evaluate on more images")
    order = np.random.default_rng(seed).permutation(len(names))
    # A group counts for the class of its first image; larger groups are dealt first, where they even out best.
    order = order[np.lexsort((-sizes[order], classes[first[order]]))]
    part_of = np.empty(len(names), dtype=np.int64)
    total = np.zeros(3, dtype=np.int64)
    of_class = np.zeros(3, dtype=np.int64)
    last_class = -1
    for group in order:
        if classes[first[group]] != last_class:
            last_class = classes[first[group]]
            of_class[:] = 0
        part = int(np.lexsort((total, of_class))[0])
        part_of[group] = part
        of_class[part] += sizes[group]
        total[part] += sizes[group]
    one, two, three = (torch.from_numpy(np.flatnonzero(part_of[inverse] == part)) for part in range(3))
    return one, two, three


def _doubts(parts: Sequence[Tensor], labels: Tensor) -> tuple[str, ...]:
    doubts = []
    uses = ("temperatures were fitted", "thresholds were chosen", "figures of early exit were measured")
    fewest = min(range(3), key=lambda i: len(parts[i]))
    if len(parts[fewest]) < MIN_PART_IMAGES:
        error = 100 * standard_error(0.8, len(parts[fewest]))
        doubts.append(
            f"the {uses[fewest]} on {len(parts[fewest])} images only, where an accuracy of 80 % has a standard error "
            f"of {error:.1f} points: take these figures as rough"
        )
    there = len(np.unique(labels.numpy()))
    if any(len(np.unique(labels[part].numpy())) < there for part in parts):
        doubts.append("some classes have too few images to be in all three parts")
    return tuple(doubts)


def _held(point: OperatingPoint, least: float, basis: Scores, macs: Sequence[float]) -> OperatingPoint:
    """The point with no threshold below ``least`` but the last, and what it is worth on the same images."""
    *early, last = point.thresholds
    thresholds = (*(max(threshold, least) for threshold in early), last)
    taken = exits_taken(thresholds, basis.confidence.numpy())
    right = basis.top1.numpy()[taken, np.arange(len(taken))]
    return OperatingPoint(thresholds, float(np.asarray(macs, dtype=np.float64)[taken].mean()), float(right.mean()))


def _report(
    scores: Scores,
    latest: Scores,
    plan: Plan,
    point: OperatingPoint,
    points: Sequence[OperatingPoint],
    goal: tuple[Goal, float],
    step_s: Sequence[float] | None,
) -> EarlyExit:
    """What thresholds are worth on images that nothing was fitted to or chosen on."""
    macs, alone_macs = costs_of(plan, [step.macs for step in plan.steps])
    times = None if step_s is None else costs_of(plan, [1000 * s for s in step_s])
    right, confidence = scores.top1.numpy(), scores.confidence.numpy()
    images = right.shape[1]

    taken = exits_taken(point.thresholds, confidence)
    answers = right[taken, np.arange(images)]
    top1 = float(answers.mean())
    differences = right[-1].astype(np.float64) - answers
    mean_macs = float(np.asarray(macs, dtype=np.float64)[taken].mean())

    alone = latest.top1.double().mean(dim=1).tolist()
    statics = tuple(
        StaticNetwork(
            name=name,
            top1=alone[i],
            top1_error=standard_error(alone[i], images),
            macs=int(alone_macs[i]),
            ms=None if times is None else times[1][i],
        )
        for i, name in enumerate(plan.exit_names)
    )
    as_good = [i for i, static in enumerate(statics) if static.top1 >= top1]
    return EarlyExit(
        goal=goal[0],
        budget=goal[1],
        readout=scores.readout,
        thresholds=point.thresholds,
        top1=top1,
        top1_error=standard_error(top1, images),
        last_top1=float(right[-1].mean()),
        drop=100 * float(differences.mean()),
        drop_error=100 * float(differences.std()) / math.sqrt(images),
        cost=mean_macs / macs[-1],
        macs=mean_macs,
        ms=None if times is None else float(np.asarray(times[0])[taken].mean()),
        shares=tuple((np.bincount(taken, minlength=len(plan)) / images).tolist()),
        chosen_top1=point.accuracy,
        chosen_cost=point.cost / macs[-1],
        statics=statics,
        smallest_static=min(as_good, key=lambda i: statics[i].macs, default=None),
        curve=_curve(points, right, confidence, macs),
    )


def _curve(
    points: Sequence[OperatingPoint],
    right: NDArray[np.bool_],
    confidence: NDArray[np.float32],
    macs: Sequence[float],
) -> tuple[tuple[float, float], ...]:
    """Cost and accuracy of points of the frontier, evenly spread, on other images than they were found on."""
    spread = np.unique(np.linspace(0, len(points) - 1, _CURVE_POINTS).round().astype(int))
    images = np.arange(right.shape[1])
    found = []
    for index in spread:
        taken = exits_taken(points[index].thresholds, confidence)
        found.append((float(np.asarray(macs, dtype=np.float64)[taken].mean()), float(right[taken, images].mean())))
    return tuple(sorted(found))
