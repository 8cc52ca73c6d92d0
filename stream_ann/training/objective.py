"""What is minimised: a loss for each exit, against labels, soft targets, the last exit, or a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stream_ann.errors import UsageError

__all__ = ["Objective"]


@dataclass(frozen=True, slots=True)
class Objective:
    """The loss of an exit: ``(1 - s - d) * CE(targets) + s * match(last exit) + d * match(teacher)``.

    CE is the cross-entropy; ``match`` is the Kullback-Leibler divergence from softened probabilities, times the square
    of their temperature, so that its gradient keeps its size (Hinton et al., arXiv 1503.02531, section 2). The last
    exit has no ``s`` term, since it is what the others match, as a constant (Zhang et al., arXiv 1905.08094).
    """

    label_smoothing: float = 0.0
    """Share of a hard label's weight that is spread evenly over all classes, 0 up to but not 1."""
    self_distill: float = 0.0
    """Share s of an early exit's loss that makes it match the last exit, 0 to 1."""
    self_temperature: float = 2.0
    """Temperature of that match, positive."""
    distill: float = 0.0
    """Share d of every exit's loss that makes it match the teacher, 0 to 1."""
    temperature: float = 2.0
    """Temperature of that match, positive."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label-smoothing is {self.label_smoothing}", "it must be from 0 up to but not 1")
        for name, share in (("self-distill", self.self_distill), ("distill", self.distill)):
            if not 0 <= share <= 1:
                raise UsageError(f"{name} is {share}", "it must be from 0 to 1")
        if self.self_distill + self.distill > 1:
            total = self.self_distill + self.distill
            raise UsageError(f"self-distill and distill together are {total}", "they must be at most 1")
        for name, value in (("self-temperature", self.self_temperature), ("temperature", self.temperature)):
            if not 0 < value <= 100:
                raise UsageError(f"{name} is {value}", "it must be over 0 and at most 100")

    def losses(
        self,
        logits: Sequence[Tensor],
        targets: Tensor,
        *,
        final: Tensor | None = None,
        teacher: Tensor | None = None,
        last: bool = False,
    ) -> Tensor:
        """The loss of each exit, averaged over the images.

        All exits are computed at once: with small nets the launches, not the arithmetic, are what heads cost.

        Args:
            logits: Logits of each exit, float [B, C].
            targets: Class of each image, int64 [B], or probability of each class, float [B, C].
            final: Logits of the net's last exit, float [B, C], which early exits are to match. May be one of
                ``logits``: it is a constant here. Needed if ``self_distill`` is not 0, except by the last exit alone.
            teacher: Logits of the teacher, float [B, C]. Needed if ``distill`` is not 0.
            last: Whether the last of ``logits`` is the net's last exit.

        Returns:
            float32 [exits].
        """
        stacked = torch.stack([exit_logits.float() for exit_logits in logits])  # [E, B, C]
        losses = self._cross_entropy(stacked, targets)
        if not self.self_distill and not self.distill:
            return losses

        early = len(logits) - last
        total = losses * (1.0 - self.distill)
        if self.distill:
            assert teacher is not None, "distillation without a teacher's logits"
            total = total + self.distill * _match(stacked, teacher, self.temperature)
        if self.self_distill and early:
            assert final is not None, "self-distillation without the final logits"
            matched = _match(stacked[:early], final, self.self_temperature)
            total = total + self.self_distill * F.pad(matched - losses[:early], (0, int(last)))
        return total

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        exits, images, classes = logits.shape
        if targets.dtype.is_floating_point:
            smooth = self.label_smoothing
            targets = targets.float() * (1 - smooth) + smooth / classes
            return -(targets * F.log_softmax(logits, dim=-1)).sum(-1).mean(-1)
        each = F.cross_entropy(
            logits.reshape(exits * images, classes),
            targets.repeat(exits),
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        return each.view(exits, images).mean(-1)


def _match(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of each exit's softened probabilities from the wanted ones, times temperature².

    Args:
        logits: float32 [E, B, C].
        wanted: float [B, C], a constant.
        temperature: What both logits are divided by.

    Returns:
        float32 [E].
    """
    wanted_log = F.log_softmax(wanted.detach().float() / temperature, dim=-1)
    log = F.log_softmax(logits / temperature, dim=-1)
    return (wanted_log.exp() * (wanted_log - log)).sum(-1).mean(-1) * temperature**2
