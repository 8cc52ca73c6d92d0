"""One batch through a net: forward and backward, member by member."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stream_ann.nets import AnytimeNet, Member, State, Step
from stream_ann.preprocess import Preprocessing, preprocess
from stream_ann.training.objective import Objective
from stream_ann.training.options import Amp

__all__ = ["Stepper", "autocast", "exits_of", "final_logits", "normalised", "resolution_of", "sized", "train_mode"]


def resolution_of(net: AnytimeNet) -> int:
    """Side in pixels at which images are needed: that of the largest member, from which the others are resized."""
    return max(member.resolution_px for member in net.members())


def normalised(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Images that are cut and resized already, uint8 [B, 3, R, R], as a net sees them: float32, channels-last."""
    whole = replace(preprocessing, crop=1.0)
    return preprocess(images.permute(0, 2, 3, 1), images.shape[-1], whole)


def sized(images: Tensor, resolution_px: int, preprocessing: Preprocessing) -> Tensor:
    """Normalised images, float [B, 3, R, R], for a member of another resolution, resized as a live frame would be."""
    if images.shape[-1] == resolution_px:
        return images
    size = (resolution_px, resolution_px)
    return F.interpolate(images, size=size, mode=preprocessing.interpolation, antialias=True)


def autocast(device: torch.device, amp: Amp) -> AbstractContextManager[object]:
    """Compute in bfloat16 where that is asked for. Unlike float16 it needs no scaling of the loss."""
    wanted = amp == "bfloat16" or (amp == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16) if wanted else nullcontext()


def train_mode(net: AnytimeNet, *, freeze_norms: bool) -> None:
    """Training mode; frozen batch norms use their statistics and do not change them."""
    net.train()
    if freeze_norms:
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def exits_of(net: AnytimeNet, images: Tensor, preprocessing: Preprocessing) -> Iterator[Tensor]:
    """The logits of each exit, float [B, classes], for normalised images at the resolution of the largest member."""
    for member in net.members():
        yield from _walk(member.steps, sized(images, member.resolution_px, preprocessing))


def final_logits(net: AnytimeNet, images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """The logits of the last exit alone, float [B, classes]: earlier members do not run."""
    member = net.members()[-1]
    *_, logits = _walk(member.steps, sized(images, member.resolution_px, preprocessing))
    return logits


def _walk(steps: Sequence[Step], images: Tensor) -> Iterator[Tensor]:
    state: State = ()
    for step in steps:
        state, logits = step(images, state)
        yield logits


class _MemberRun(nn.Module):
    """The first steps of a member, as one function of the images: what is compiled."""

    def __init__(self, member: Member, depth: int) -> None:
        super().__init__()
        self._steps = member.steps[:depth]  # a tuple: the net owns them

    def forward(self, images: Tensor) -> list[Tensor]:
        """The logits of each of the steps."""
        return list(_walk(self._steps, images))


class Stepper:
    """Computes the gradient of the weighted loss for one batch after another.

    The members of an EANN go forward and backward one after another: the loss is a sum, so that only one member's
    activations are alive at a time. Members without weight are left out, and a member's steps behind its last exit with
    a weight as well.

    Args:
        net: The net, on its device.
        preprocessing: How members of other resolutions get their images resized.
        objective: The loss of an exit.
        amp: Type that is computed in.
        compile: Whether to compile each member.
    """

    def __init__(
        self, net: AnytimeNet, preprocessing: Preprocessing, objective: Objective, *, amp: Amp, compile: bool
    ) -> None:
        self._net = net
        self._preprocessing = preprocessing
        self._objective = objective
        self._amp = amp
        self._compile = compile
        self._runs: dict[tuple[int, int], Callable[[Tensor], list[Tensor]]] = {}
        self._vectors: dict[tuple[float, ...], Tensor] = {}

    def backward(
        self, images: Tensor, targets: Tensor, weights: Sequence[float], *, teacher: Tensor | None = None
    ) -> Tensor:
        """Add the gradient of ``sum_i w_i * loss_i`` to the parameters' gradients.

        Args:
            images: Normalised images at the resolution of the largest member, float32 [B, 3, R, R].
            targets: As :meth:`Objective.losses` takes them.
            weights: Weight of each exit.
            teacher: Logits of the teacher, float [B, C].

        Returns:
            Loss of each exit, float32 [exits], on the device, without a gradient; NaN where it has no weight.
        """
        members = self._net.members()
        starts = [0]
        for member in members:
            starts.append(starts[-1] + len(member.steps))
        losses = torch.full((starts[-1],), torch.nan, device=images.device)
        final: Tensor | None = None
        # The last member first where the others must match its answer.
        numbers = list(range(len(members)))
        for number in [numbers[-1], *numbers[:-1]] if self._objective.self_distill else numbers:
            own = weights[starts[number] : starts[number + 1]]
            depth = max((i + 1 for i, weight in enumerate(own) if weight > 0), default=0)
            if depth == 0:
                continue
            inputs = sized(images, members[number].resolution_px, self._preprocessing)
            with autocast(images.device, self._amp):
                logits = self._run(number, members[number], depth)(inputs)
            if number == numbers[-1] and depth == len(own):
                final = logits[-1].detach()
            counted = [i for i, weight in enumerate(own) if weight > 0]
            found = self._objective.losses(
                [logits[i] for i in counted],
                targets,
                final=final,
                teacher=teacher,
                last=number == numbers[-1] and depth == len(own),
            )
            weighted = found * self._vector(tuple(own[i] for i in counted), images.device)
            if weighted.requires_grad:  # a member that stays as it is may be there to teach the others
                torch.autograd.backward(weighted.sum())
            where = slice(starts[number] + counted[0], starts[number] + counted[-1] + 1)
            if len(counted) == where.stop - where.start:
                losses[where] = found.detach()
            else:
                losses[torch.tensor(counted, device=images.device) + starts[number]] = found.detach()
        return losses

    def _run(self, number: int, member: Member, depth: int) -> Callable[[Tensor], list[Tensor]]:
        key = (number, depth)
        if key not in self._runs:
            run: Callable[[Tensor], list[Tensor]] = _MemberRun(member, depth)
            self._runs[key] = torch.compile(run) if self._compile else run
        return self._runs[key]

    def _vector(self, weights: tuple[float, ...], device: torch.device) -> Tensor:
        """``weights`` on the device; kept, since copying them there every time would stall it."""
        if weights not in self._vectors:
            if len(self._vectors) >= 256:
                self._vectors.clear()
            self._vectors[weights] = torch.tensor(weights, device=device)
        return self._vectors[weights]
