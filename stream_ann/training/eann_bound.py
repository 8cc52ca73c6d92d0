"""How near an EANN comes to knowing the budget beforehand (arXiv 1708.06832v2).

OPT is the oracle: for every budget the network that is best at that cost, trained for that cost alone. An anytime
answer at budget B is C-competitive if it is as good as OPT at budget B / C. For members of cost 1, b, b², ... that run
one after another, each near-optimal for the budgets from 1 / b of its cost to its cost, the paper bounds C::

    sup C = 2 + 1 / (b - 1)        mean C <= 1 - 1 / (2 b) + (1 + ln b) / (b - 1)

Why: when the member of cost L = b^n starts, S = (L - 1) / (b - 1) has been spent. After x more the answer is that of
OPT at x, if x > L / b, else still that of OPT at L / b, the member before. So C = (S + x) / max(x, L / b): largest at
x = L / b, where it is b S / L + 1; its mean over x from 0 to L is the other formula as S / L goes to 1 / (b - 1).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stream_ann.errors import UsageError

__all__ = ["Competitive", "measured_competitive_ratio", "paper_bound", "simulate"]


@dataclass(frozen=True, slots=True)
class Competitive:
    """A competitive ratio C, 1 for the oracle itself."""

    sup: float
    """The worst over all budgets."""
    mean: float
    """The mean over budgets, each as likely as any other."""


def paper_bound(b: float) -> Competitive:
    """The paper's bound for members whose costs grow by a factor of ``b`` > 1. b = 2: 3 and 2.44; b = 4: 2.33, 1.67."""
    if not b > 1:
        raise UsageError(f"members whose costs grow by a factor of {b}", "it must be more than 1")
    return Competitive(2 + 1 / (b - 1), 1 - 1 / (2 * b) + (1 + math.log(b)) / (b - 1))


def measured_competitive_ratio(
    costs: Sequence[float],
    accuracies: Sequence[float],
    opt_costs: Sequence[float],
    opt_accuracies: Sequence[float],
    *,
    up_to: float | None = None,
) -> Competitive:
    """The competitive ratio of a plan that was validated, against networks trained for one cost each.

    The plan's answer at a budget is the best-validated one of the exits done by then; OPT's is that of the best network
    that is not more expensive. The answer is as good as OPT at every budget below the cost of the cheapest network that
    is better than it, or, if none is, at every budget up to that of the most accurate network known: this budget
    divides B. Budgets below the first exit, at which there is no answer, are left out.

    Args:
        costs: Cumulative cost of each exit of the plan, rising, in the unit of ``opt_costs``.
        accuracies: Validated accuracy of each exit.
        opt_costs: Cost of each network trained for that cost alone.
        opt_accuracies: Validated accuracy of each of these.
        up_to: Largest budget; by default the cost of the last exit, which then counts in ``sup`` alone.

    Raises:
        UsageError: The numbers do not go together.
    """
    if not costs or len(costs) != len(accuracies) or any(a >= b for a, b in itertools.pairwise(costs)) or costs[0] <= 0:
        raise UsageError(
            f"a plan of {len(costs)} costs and {len(accuracies)} accuracies", "costs must rise from over 0"
        )
    if not opt_costs or len(opt_costs) != len(opt_accuracies) or min(opt_costs) <= 0:
        given = f"{len(opt_costs)} costs and {len(opt_accuracies)} accuracies"
        raise UsageError(f"an oracle of {given}", "give at least one network, with a positive cost")
    end = costs[-1] if up_to is None else up_to
    if end < costs[-1]:
        raise UsageError(f"budgets up to {end} for a plan of cost {costs[-1]}", "go at least to its cost")

    # The networks that are better than every cheaper one, cheapest first.
    staircase: list[tuple[float, float]] = []
    for cost, accuracy in sorted(zip(opt_costs, opt_accuracies, strict=True), key=lambda pair: (pair[0], -pair[1])):
        if not staircase or accuracy > staircase[-1][1]:
            staircase.append((cost, accuracy))

    sup, area, best, better = 0.0, 0.0, -math.inf, 0
    for (start, accuracy), stop in zip(zip(costs, accuracies, strict=True), (*costs[1:], end), strict=True):
        best = max(best, accuracy)
        while better < len(staircase) and staircase[better][1] <= best:
            better += 1
        equal = staircase[min(better, len(staircase) - 1)][0]
        sup = max(sup, stop / equal)
        area += (stop**2 - start**2) / (2 * equal)
    span = end - costs[0]
    return Competitive(sup, area / span if span else sup)


def simulate(
    b: float, *, members: int, exits: int = 1000, accuracy_at: Callable[[float], float] | None = None
) -> Competitive:
    """Run an ideal EANN through all budgets of its last member, and measure its competitive ratio.

    Every member is near-optimal from 1 / b of its cost on, and no better than chance before; the members before it
    have run. The result approaches :func:`paper_bound` as members and exits grow in number.

    Args:
        b: Factor by which the members' costs grow, more than 1; the first costs 1.
        members: How many there are, at least 2.
        exits: Exits of each member, evenly spaced in cost.
        accuracy_at: Accuracy of OPT at a cost, strictly rising; by default 1 - 1 / (1 + cost).
    """
    paper_bound(b)
    if members < 2 or exits < 2:
        raise UsageError(f"{members} members of {exits} exits", "simulate at least 2 of each")
    accuracy_of = accuracy_at or (lambda cost: 1 - 1 / (1 + cost))
    spent = sum(b**n for n in range(members - 1))
    last = b ** (members - 1)
    marks = [last * i / exits for i in range(1, exits + 1)]
    # When the last member starts, the one before it is done, and answers.
    costs = [spent, *(spent + mark for mark in marks)]
    accuracies = [accuracy_of(last / b), *(accuracy_of(mark) if mark > last / b else 0.0 for mark in marks)]
    # OPT for every cost that an answer can be worth, and one beyond, on a grid as fine as the exits'.
    opt_costs = [last / b * (1 + i * (b - 1) / (2 * exits)) for i in range(2 * exits + 1)]
    return measured_competitive_ratio(costs, accuracies, opt_costs, [accuracy_of(cost) for cost in opt_costs])
