"""New exits for networks that stay as they are, each trained to improve on the answer that is there without it.

An exit in the middle of a network is worse alone than the member before it, which was made to answer. What it knows
that the others do not can still be had: the answer of a frame is the mixture of all exits so far (readout ``average``),
and an exit trained to make that mixture good, with what is there already held constant, is a stage of an additive model
(Friedman, "Greedy function approximation", 2001; for the exits of one network Yu et al., arXiv 2211.16726).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stream_ann.errors import UsageError
from stream_ann.nets import AnytimeNet, State, Step
from stream_ann.nets.heads import ConvHead
from stream_ann.preprocess import Preprocessing
from stream_ann.training.options import TrainOptions
from stream_ann.training.randomness import generator
from stream_ann.training.schedule import lr_factor
from stream_ann.training.stepper import autocast, normalised, sized

__all__ = [
    "LEAST_SHARE",
    "Agreement",
    "MemberAnswers",
    "agreement",
    "answers_of",
    "fit_exit",
    "mixed_with",
    "mixing_weights",
]

LEAST_SHARE = 0.025
"""Least share of the answer that an exit has: weights of a readout are positive."""
_SHARE_RATE = 10.0
"""The share is one number and learns so many times as fast as the head."""
_TINY = 1e-9
"""Less than any probability that matters: what keeps logarithms finite."""


@dataclass(frozen=True, slots=True, eq=False)
class MemberAnswers:
    """What comes out of a member for many pictures."""

    features: dict[int, Tensor]
    """By the number of the member's step, what its exit head convolves: float16 [N, channels, H, W]."""
    probabilities: dict[int, Tensor]
    """By the number of each other step, what its exit says: float16 [N, classes]."""


def answers_of(
    trunk: AnytimeNet,
    new: Collection[int],
    pixels: Tensor,
    preprocessing: Preprocessing,
    options: TrainOptions,
    *,
    resolution_px: int,
    temperatures: Sequence[float],
    stopping: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int, int], None] | None = None,
) -> MemberAnswers | None:
    """Run a member over pictures once, and keep what its new exits will be trained on.

    Args:
        trunk: The member's network, in evaluation mode.
        new: Numbers of the steps whose features are kept; of the others it is what the exit says.
        pixels: Square pictures, uint8 [N, R, R, 3] RGB.
        preprocessing: How they are normalised and resized.
        options: Batch size and type that is computed in.
        resolution_px: The member's resolution.
        temperatures: What the logits of each step are divided by.
        stopping: Asked after each batch.
        on_progress: Called with the number of pictures done and their total.

    Returns:
        On the CPU; None if ``stopping`` has said so.
    """
    device = next(trunk.parameters()).device
    steps = trunk.members()[0].steps
    features: dict[int, list[Tensor]] = {i: [] for i in range(len(steps)) if i in new}
    probabilities: dict[int, list[Tensor]] = {i: [] for i in range(len(steps)) if i not in new}
    for start in range(0, len(pixels), options.batch_size):
        batch = pixels[start : start + options.batch_size].to(device).permute(0, 3, 1, 2)
        images = sized(normalised(batch, preprocessing), resolution_px, preprocessing)
        state: State = ()
        with torch.no_grad(), autocast(device, options.amp):
            for i, step in enumerate(steps):
                if i in new:
                    state = step.advance(images, state)
                    features[i].append(head_of(step).shrink(state[0].float()).half().cpu())
                else:
                    state, logits = step(images, state)
                    probabilities[i].append((logits.float() / temperatures[i]).softmax(-1).half().cpu())
        if stopping():
            return None
        if on_progress is not None:
            on_progress(min(start + options.batch_size, len(pixels)), len(pixels))
    return MemberAnswers(
        {i: torch.cat(parts) for i, parts in features.items()},
        {i: torch.cat(parts) for i, parts in probabilities.items()},
    )


def head_of(step: Step) -> ConvHead:
    """The exit head of a step; raises UsageError if it is none that can be trained here."""
    head = step.head
    if not isinstance(head, ConvHead):
        raise UsageError(f"a {type(head).__name__} cannot be trained alone", "take members of an EfficientNet-Lite")
    return head


def fit_exit(
    head: ConvHead,
    features: Tensor,
    before: Tensor | None,
    wanted: Tensor,
    options: TrainOptions,
    *,
    number: int,
    stopping: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int, int], None] | None = None,
) -> float | None:
    """Train a head, and how much of the answer it gets, so that the mixture is near what a teacher says.

    What is minimised is the cross-entropy between the teacher's probabilities q and the mixture
    (1 - s) * p_before + s * softmax(head), over the head and s together, p_before being constant. The last layer of the
    head stays as it is if its parameters need no gradient.

    Args:
        head: The head, on the device that it is trained on; changed in place, in evaluation mode afterwards. The
            statistics of its batch norm are counted over all features at the end.
        features: What it convolves, float16 [N, channels, H, W].
        before: Probabilities of the answer without it, float16 [N, classes]; None if it is the first exit.
        wanted: The teacher's logits, float [N, classes].
        options: Epochs, batch size, learning rate, schedule, weight decay, clipping, seed.
        number: Number of the exit in its plan, which random choices follow from, besides the seed.
        stopping: Asked after each batch.
        on_progress: Called with the number of batches done and their total.

    Returns:
        The share s; None if ``stopping`` has said so.
    """
    device = next(head.parameters()).device
    free = nn.Parameter(torch.tensor(math.log(0.25 / 0.75), device=device))  # it begins with a quarter
    own = [parameter for parameter in head.parameters() if parameter.requires_grad]
    groups = [{"params": own, "lr": options.lr}, {"params": [free], "lr": _SHARE_RATE * options.lr, "weight_decay": 0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, weight_decay=options.weight_decay)
    rates = [group["lr"] for group in optimizer.param_groups]
    size = min(options.batch_size, len(features))
    batches = len(features) // size
    head.train()
    for iteration in range(options.epochs * batches):
        epoch, batch = divmod(iteration, batches)
        if batch == 0:
            order = torch.randperm(len(features), generator=generator("order", options.seed, number, epoch))
        rows = order[batch * size : (batch + 1) * size]
        factor = lr_factor(iteration, options.epochs * batches, schedule=options.schedule, warmup=options.warmup)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        with autocast(device, options.amp):
            logits = _logits(head, features[rows].to(device).float())
        mixed = logits.float().softmax(-1)
        if before is not None:
            mixed = torch.lerp(before[rows].to(device).float(), mixed, free.sigmoid())
        target = wanted[rows].to(device).float().softmax(-1)
        loss = -(target * mixed.clamp_min(_TINY).log()).sum(-1).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        if options.clip is not None:
            nn.utils.clip_grad_norm_(own, options.clip)
        optimizer.step()
        if stopping():
            return None
        if on_progress is not None:
            on_progress(iteration + 1, options.epochs * batches)
    _count(head, features, device, size)
    return 1.0 if before is None else max(LEAST_SHARE, float(free.detach().sigmoid()))


def mixed_with(
    head: ConvHead, features: Tensor, before: Tensor | None, share: float, *, batch_size: int = 256
) -> Tensor:
    """The answer with a new exit: its ``share``, and the answer before it; float16 [N, classes] on the CPU."""
    device = next(head.parameters()).device
    parts = []
    with torch.no_grad():
        for start in range(0, len(features), batch_size):
            rows = slice(start, start + batch_size)
            own = _logits(head, features[rows].to(device).float()).softmax(-1).cpu()
            parts.append((own if before is None else torch.lerp(before[rows].float(), own, share)).half())
    return torch.cat(parts)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near an answer is to the teacher's."""

    same: float
    """Share of the pictures of which both think the same class most likely, 0 to 1."""
    loss: float
    """Cross-entropy with the teacher's probabilities, mean over the pictures, in nats."""


def agreement(answer: Tensor, wanted: Tensor) -> Agreement:
    """Compare probabilities, float [N, classes], with a teacher's logits, float [N, classes]."""
    logs = answer.float().clamp_min(_TINY).log()
    loss = -(wanted.float().softmax(-1) * logs).sum(-1).mean()
    return Agreement(float((answer.argmax(-1) == wanted.argmax(-1)).float().mean()), float(loss))


def mixing_weights(shares: Sequence[float]) -> tuple[float, ...]:
    """Weights of the readout ``average`` with which each exit, when it is done, has its share of the answer.

    Args:
        shares: Of each exit of the plan, above 0 and below 1; the first one's counts for nothing.

    Returns:
        The weight of each, the first one's being 1.
    """
    weights = [1.0]
    for share in shares[1:]:
        weights.append(sum(weights) * share / (1 - share))
    return tuple(float(f"{weight:.4g}") for weight in weights)


def _logits(head: ConvHead, features: Tensor) -> Tensor:
    """The head behind its shrinking."""
    logits: Tensor = head.linear(head.dropout(head.expand(features).mean((2, 3))))
    return logits


def _count(head: ConvHead, features: Tensor, device: torch.device, size: int) -> None:
    """Let the head's batch norm see all features once, and go into evaluation mode."""
    norms = [module for module in head.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    with torch.no_grad():
        for start in range(0, len(features) - size + 1, size):
            head.expand(features[start : start + size].to(device).float())
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    head.eval()
