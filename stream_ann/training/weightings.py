"""Exit weightings: how much the loss of each exit counts (Hu et al., arXiv 1708.06832, v2 section 3 and v3 section 3).

The loss of an iteration is ``sum_i w_i * loss_i`` over the exits, last = deepest. A weighting gives the ``w_i``. They
depend on the iteration's number and on the losses that it was told, never on a hidden random state, so that a run that
is resumed goes on exactly as it would have.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from stream_ann.errors import TrainingError, UsageError, nearest

__all__ = [
    "WEIGHTINGS",
    "AdaLoss",
    "Alternating",
    "FinalFirst",
    "Fixed",
    "Weighting",
    "const",
    "half_end",
    "linear",
    "opt",
    "sieve",
    "sieve_member",
    "weighting_named",
]


class Weighting(Protocol):
    """Gives the weight of each exit's loss in each iteration."""

    def weights(self, iteration: int) -> tuple[float, ...]:
        """The weight of each exit, first to last, in this iteration (from 0). Not negative; not all of them zero."""
        ...

    def observe(self, losses: Sequence[float]) -> None:
        """Take note of an iteration's losses, one for each exit, NaN for an exit whose loss was not computed.

        Called for every iteration in order, perhaps several iterations late, but before the weights of an iteration
        whose number is a multiple of 10 are asked for.
        """
        ...

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` needs, as plain JSON data."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            TrainingError: The state is not one of this weighting.
        """
        ...


def const(exits: int) -> tuple[float, ...]:
    """1 for every exit."""
    return (1.0,) * exits


def linear(exits: int) -> tuple[float, ...]:
    """0.25 at the first exit, rising evenly to 1 at the last."""
    return (1.0,) if exits == 1 else tuple(0.25 + 0.75 * i / (exits - 1) for i in range(exits))


def half_end(exits: int) -> tuple[float, ...]:
    """1 for every exit but the last, which has as much as all others together: half of the total."""
    return (1.0,) * (exits - 1) + (max(1.0, exits - 1.0),)


def opt(exits: int, exit_number: int) -> tuple[float, ...]:
    """1 at one exit, numbered from 1, and 0 elsewhere: a network trained for that depth only."""
    return tuple(1.0 if i == exit_number else 0.0 for i in range(1, exits + 1))


def sieve(exits: int) -> tuple[float, ...]:
    """The paper's weighting: half of the total at the last exit, and much at exits that halve, quarter, ... the depth.

    Counted from the end, every 1st, every 2nd, every 4th, ... exit gains 1, as long as the step is below the number of
    exits; then the last is set to the sum of all others, and all are divided by it. 4 exits: 0.25, 0.5, 0.25, 1.
    """
    if exits == 1:
        return (1.0,)
    from_end = [0.0] * exits
    step = 1
    while step < exits:
        for i in range(0, exits, step):
            from_end[i] += 1.0
        step *= 2
    last = sum(from_end[1:])
    return (*(w / last for w in reversed(from_end[1:])), 1.0)


def sieve_member(exits: int) -> tuple[float, ...]:
    """:func:`sieve` for a member of an EANN but the first: 0 at the first half of the exits.

    The member before covers the budgets at which they would answer (arXiv 1708.06832v2).
    """
    weights = sieve(exits)
    return (0.0,) * (exits // 2) + weights[exits // 2 :]


WEIGHTINGS: Mapping[str, Callable[[int], tuple[float, ...]]] = {
    "const": const,
    "half-end": half_end,
    "linear": linear,
    "sieve": sieve,
    "sieve-member": sieve_member,
}
"""The fixed weightings by name; ``"opt:i"`` and ``"adaloss"`` come on top, see :func:`weighting_named`."""


class Fixed:
    """The same weights in every iteration.

    Args:
        weights: Weight of each exit, not negative, at least one positive.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = _checked(weights)

    def weights(self, iteration: int) -> tuple[float, ...]:
        """The weights."""
        return self._weights

    def observe(self, losses: Sequence[float]) -> None:
        """Nothing to learn from losses."""

    def state(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""


class AdaLoss:
    """Weights inversely proportional to each exit's mean loss, so that all exits matter alike (arXiv 1708.06832v3).

    A running mean of each exit's loss is kept, with momentum 0.99, starting at its first loss. Every 100 iterations
    w = 1 / mean, divided by the largest; 1 is added to the last, and all are divided by the largest again; then
    w = 0.93 w + 0.07, which keeps every exit alive. Until the first 100 iterations are over, the weights are those of
    equal losses.

    Args:
        exits: Number of exits.
    """

    MOMENTUM = 0.99
    EVERY = 100
    FLOOR = 0.07

    def __init__(self, exits: int) -> None:
        self._means: list[float | None] = [None] * exits
        self._weights = self._from_means()
        self._period = 0

    def weights(self, iteration: int) -> tuple[float, ...]:
        """The weights that the running means had at the last multiple of 100 iterations."""
        if iteration // self.EVERY > self._period:
            self._period = iteration // self.EVERY
            self._weights = self._from_means()
        return self._weights

    def observe(self, losses: Sequence[float]) -> None:
        """Update the running means; an exit whose loss is NaN keeps its own."""
        for i, (mean, loss) in enumerate(zip(self._means, losses, strict=True)):
            if not math.isnan(loss):
                self._means[i] = loss if mean is None else self.MOMENTUM * mean + (1 - self.MOMENTUM) * loss

    def state(self) -> dict[str, Any]:
        """The running means, the weights and when they were set."""
        return {"means": list(self._means), "weights": list(self._weights), "period": self._period}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        try:
            means = [None if mean is None else float(mean) for mean in state["means"]]
            weights = _checked([float(weight) for weight in state["weights"]])
            period = int(state["period"])
        except (KeyError, TypeError, ValueError) as error:
            raise TrainingError(f"the state of the weighting adaloss cannot be read: {error}") from error
        if not len(means) == len(weights) == len(self._means):
            raise TrainingError(f"the state of the weighting adaloss is for {len(means)} exits, not {len(self._means)}")
        self._means, self._weights, self._period = means, weights, period

    def _from_means(self) -> tuple[float, ...]:
        known = [mean for mean in self._means if mean is not None]
        typical = sum(known) / len(known) if known else 1.0
        # A loss of zero would have an infinite weight: an exit that is perfect counts as a thousandth of the typical.
        lowest = max(typical * 1e-3, 1e-9)
        inverse = [1.0 / max(typical if mean is None else mean, lowest) for mean in self._means]
        relative = [w / max(inverse) for w in inverse]
        relative[-1] += 1.0
        return tuple((1 - self.FLOOR) * w / max(relative) + self.FLOOR for w in relative)


class Alternating:
    """Another weighting, and in each iteration an extra weight on one exit drawn anew (arXiv 1708.06832v2).

    Exit k is drawn with probability w_k / W, W being the sum of the weights, and gets W / 2 more. On average every
    weight is 1.5 times itself: only the variance is new.

    Args:
        inner: The other weighting.
        seed: What the draws depend on, besides the iteration's number.
    """

    def __init__(self, inner: Weighting, *, seed: int) -> None:
        self._inner = inner
        self._seed = seed

    def weights(self, iteration: int) -> tuple[float, ...]:
        """The inner weights, one of them raised."""
        weights = list(self._inner.weights(iteration))
        total = sum(weights)
        word = int(np.random.SeedSequence((self._seed, iteration, _ALTERNATION)).generate_state(1)[0])
        drawn = word / 2**32 * total
        sums = list(itertools.accumulate(weights))
        # Rounding could leave the draw at the very end; an exit without weight must never be drawn.
        k = next((i for i, end in enumerate(sums) if drawn < end), max(i for i, w in enumerate(weights) if w > 0))
        weights[k] += total / 2
        return tuple(weights)

    def observe(self, losses: Sequence[float]) -> None:
        """The inner weighting's part."""
        self._inner.observe(losses)

    def state(self) -> dict[str, Any]:
        """The inner weighting's state."""
        return self._inner.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the inner weighting."""
        self._inner.restore(state)


class FinalFirst:
    """The last exit alone for some iterations, then another weighting (Kubaty et al., ICML 2025).

    Args:
        inner: The other weighting.
        iterations: How many iterations the last exit is trained alone.
    """

    def __init__(self, inner: Weighting, *, iterations: int) -> None:
        self._inner = inner
        self._iterations = iterations

    def weights(self, iteration: int) -> tuple[float, ...]:
        """1 for the last exit alone, or the inner weights."""
        weights = self._inner.weights(iteration)
        return opt(len(weights), len(weights)) if iteration < self._iterations else weights

    def observe(self, losses: Sequence[float]) -> None:
        """The inner weighting's part."""
        self._inner.observe(losses)

    def state(self) -> dict[str, Any]:
        """The inner weighting's state."""
        return self._inner.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the inner weighting."""
        self._inner.restore(state)


def weighting_named(name: str, exits: int, *, alternate: bool = False, seed: int = 0) -> Weighting:
    """The weighting that a user asked for.

    Args:
        name: ``"const"``, ``"linear"``, ``"half-end"``, ``"sieve"``, ``"sieve-member"``, ``"adaloss"``, or ``"opt:i"``
            with the number i of an exit, from 1; ``"opt:last"`` is the last.
        exits: Number of exits.
        alternate: Whether one exit, drawn in each iteration, gets extra weight; see :class:`Alternating`.
        seed: What the draws depend on.

    Raises:
        UsageError: There is no such weighting, or no such exit.
    """
    if exits < 1:
        raise UsageError(f"a weighting of {exits} exits", "a net has at least one")
    weighting: Weighting
    if name == "adaloss":
        weighting = AdaLoss(exits)
    elif name.startswith("opt:"):
        number = str(exits) if name == "opt:last" else name.removeprefix("opt:")
        if not number.isascii() or not number.isdigit() or not 1 <= int(number) <= exits:
            raise UsageError(f"weighting '{name}' names no exit", f"its number must be from 1 to {exits}, or 'last'")
        weighting = Fixed(opt(exits, int(number)))
    elif name in WEIGHTINGS:
        weighting = Fixed(WEIGHTINGS[name](exits))
    else:
        raise UsageError(f"no weighting is called '{name}'", nearest(name, [*WEIGHTINGS, "adaloss", "opt:1"]))
    return Alternating(weighting, seed=seed) if alternate else weighting


_ALTERNATION = 0xA17
"""Sets these draws apart from others that are derived from the same seed and number."""


def _checked(weights: Sequence[float]) -> tuple[float, ...]:
    if not weights or not all(math.isfinite(w) and w >= 0 for w in weights) or not any(weights):
        raise ValueError(f"weights must be finite, not negative, and not all zero, got {list(weights)}")
    return tuple(weights)
