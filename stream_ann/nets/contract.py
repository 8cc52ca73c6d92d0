"""The step contract: how a network is cut so that it can be run exit by exit, and stopped between any two.

A *step* is some trunk blocks and one exit head. It takes the images and the state that the previous step of the same
member left behind, and gives the next state and the logits of its exit. A *member* is one network with an input
resolution of its own; a member's first step starts from the empty state. A net has one member, an EANN several, which
run one after another (Hu et al., arXiv 1708.06832v2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["AnytimeNet", "Member", "Plan", "State", "Step", "StepInfo", "at_resolution"]

State = tuple[Tensor, ...]
"""What one step hands to the next one of its member; empty at a member's first step."""


class Step(nn.Module):
    """Some trunk blocks and one exit head."""

    def forward(self, images: Tensor, state: State) -> tuple[State, Tensor]:
        """Run the step.

        Args:
            images: float [B, 3, H, W], preprocessed, H = W = the member's resolution. Used by a member's first step.
            state: What the member's previous step returned; the empty tuple at its first step.

        Returns:
            The state for the member's next step, and the logits of this step's exit, float [B, classes].
        """
        raise NotImplementedError

    def advance(self, images: Tensor, state: State) -> State:
        """The state alone, as :meth:`forward` gives it, for whoever has no use for this exit's logits."""
        return self.forward(images, state)[0]


@dataclass(frozen=True, slots=True)
class Member:
    """One network of a net: a name, its input resolution in pixels, and its steps in order."""

    name: str
    resolution_px: int
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What is known of a step without running it."""

    name: str
    """Unique within the plan, e.g. ``"lite0@96"`` or ``"resann@32 3"``."""
    member: int
    """Number of the member that it belongs to, from 0."""
    resolution_px: int
    """Side of the square images that it takes, in pixels."""
    first: bool
    """Whether it is its member's first step, which starts from the empty state."""
    macs: int
    """Multiply-accumulates of its convolutions and matrix products for one image, head included."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of all members, in the order in which they run."""

    steps: tuple[StepInfo, ...]
    classes: int

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def exit_names(self) -> tuple[str, ...]:
        """Name of each exit, in order."""
        return tuple(step.name for step in self.steps)

    @property
    def cumulative_macs(self) -> tuple[int, ...]:
        """Multiply-accumulates spent when each exit is reached in order."""
        total, sums = 0, []
        for step in self.steps:
            total += step.macs
            sums.append(total)
        return tuple(sums)


class AnytimeNet(nn.Module):
    """A network that answers several times, each time better and later.

    Subclasses set ``classes`` and implement :meth:`members`. Everything else follows from the steps, so that running a
    plan step by step and calling :meth:`forward` cannot differ.
    """

    classes: int

    def members(self) -> Sequence[Member]:
        """The members in the order in which they run. Cheap: called often, allocates no tensors."""
        raise NotImplementedError

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps in the order in which they run; one step object may occur more than once (shared trunks)."""
        return tuple(step for member in self.members() for step in member.steps)

    def plan(self) -> Plan:
        """The plan of this net, multiply-accumulates counted by torch's flop counter on the meta device."""
        from stream_ann.nets.costs import plan_of  # costs imports this module

        return plan_of(self)

    def walk(self, images: Tensor) -> Iterator[Tensor]:
        """Run the plan exit by exit; stop iterating to abandon the rest.

        Args:
            images: float [B, 3, H, W], preprocessed. A member with another resolution gets them resized.

        Yields:
            The logits of each exit, float [B, classes].
        """
        for member in self.members():
            sized = at_resolution(images, member.resolution_px)
            state: State = ()
            for step in member.steps:
                state, logits = step(sized, state)
                yield logits

    def forward(self, images: Tensor) -> list[Tensor]:
        """The logits of every exit, each float [B, classes], for ``images`` float [B, 3, H, W]."""
        return list(self.walk(images))


def at_resolution(images: Tensor, resolution_px: int) -> Tensor:
    """``images`` [B, 3, H, W] as squares of ``resolution_px``: as they are, or resized with antialiasing."""
    if images.shape[-2:] == (resolution_px, resolution_px):
        return images
    if images.is_meta:  # shape inference only: the antialiasing kernel has no meta implementation on every release
        return torch.empty(*images.shape[:2], resolution_px, resolution_px, device="meta", dtype=images.dtype)
    return F.interpolate(images, size=(resolution_px, resolution_px), mode="bilinear", antialias=True)
