"""From nets that were trained one by one to an EANN."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping

from stream_ann.errors import UsageError
from stream_ann.nets import EANN, AnytimeNet

__all__ = ["assemble"]


def assemble(members: Mapping[str, AnytimeNet], *, least_growth: float = 1.2) -> EANN:
    """An EANN of nets that were trained for the same classes (arXiv 1708.06832v2).

    The first is trained with the weighting ``sieve``, the others with ``sieve-member``, each about twice as expensive
    as the one before: see :mod:`stream_ann.training.eann_bound` for why twice.

    Args:
        members: The nets by name, cheapest first, each of one member. They are copied; the copies hold their weights.
        least_growth: By what factor each member must at least cost more than the one before.

    Raises:
        UsageError: There are none, one has several members, their classes differ, or their costs do not grow.
    """
    if not members:
        raise UsageError("an EANN of no members", "give at least one net")
    for name, net in members.items():
        if len(net.members()) != 1:
            raise UsageError(f"'{name}' has {len(net.members())} members", "assemble nets of one member")
    costs = {name: sum(step.macs for step in net.plan().steps) for name, net in members.items()}
    for (before, low), (after, high) in itertools.pairwise(costs.items()):
        if high < least_growth * low:
            what = f"member '{after}' costs {high / 1e6:.1f} million multiply-accumulates, '{before}' {low / 1e6:.1f}"
            remedy = f"put the cheaper first, and let each cost at least {least_growth:g} times the one before"
            raise UsageError(what, remedy)
    trunks = {name: copy.deepcopy(net).cpu() for name, net in members.items()}
    return EANN(trunks, [(name, net.members()[0].resolution_px) for name, net in members.items()]).eval()
