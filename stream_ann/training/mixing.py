"""Weights of the readout ``average`` with which a later answer is never worse than an earlier one.

A product or average over exits makes an anytime answer nearly monotone (Jazbec et al., arXiv 2306.02652). How much each
exit is to count depends on how good it is, and on how much it knows that the ones before it do not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stream_ann.training.outputs import Outputs

__all__ = ["SHARES", "fit_mixing"]

SHARES = tuple(i / 40 for i in range(1, 40))
"""Shares of the answer that a new exit is tried with; the least leaves the answer before it nearly as it was."""


def fit_mixing(
    outputs: Outputs, temperatures: Sequence[float] | None = None, *, least: float | Sequence[float] = 0.0
) -> tuple[float, ...]:
    """The weight of each exit in the readout ``average``, the first one's being 1.

    Exit by exit, that share of the new exit is taken with which the mixture is least surprised by the labels (negative
    log-likelihood), among those with which it is right at least as often as without the exit. Where there is none, the
    exit counts as little as it can.

    Args:
        outputs: Of images that were not trained on.
        temperatures: What each exit's logits are divided by; 1 for each by default.
        least: The least share of the answer that a new exit gets, 0 to 0.9, or that of each exit. Half is for images
            that are smaller than those that will be asked about: the later members of an EANN, which see more pixels,
            gain nothing there, and must not be outvoted where they do.
    """
    exits = len(outputs.logits)
    leasts = [least] * exits if isinstance(least, int | float) else list(least)
    scale = torch.ones(exits) if temperatures is None else torch.tensor(list(temperatures))
    rows, labels = torch.arange(len(outputs)), outputs.labels
    mixed = (outputs.logits[0].float() / scale[0]).softmax(1)
    right = int((mixed.argmax(1) == labels).sum())
    weights, total = [1.0], 1.0
    for exit_ in range(1, exits):
        new = (outputs.logits[exit_].float() / scale[exit_]).softmax(1)
        shares = [share for share in SHARES if share >= leasts[exit_]]
        found: tuple[float, float, int] | None = None  # surprise, share, how many are right
        for share in shares:
            tried = torch.lerp(mixed, new, share)
            hits = int((tried.argmax(1) == labels).sum())
            surprise = float(-tried[rows, labels].clamp_min(1e-30).log().double().mean())
            if hits >= right and (found is None or surprise < found[0]):
                found = (surprise, share, hits)
        share = shares[0] if found is None else found[1]
        mixed = torch.lerp(mixed, new, share)
        right = int((mixed.argmax(1) == labels).sum())
        weights.append(total * share / (1 - share))
        total += weights[-1]
    return tuple(float(f"{weight:.4g}") for weight in weights)
