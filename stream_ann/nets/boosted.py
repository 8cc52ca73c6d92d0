"""Residual-logit boosting: every exit corrects the one before it (Yu et al., arXiv 2211.16726)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor, nn

from stream_ann.errors import UsageError
from stream_ann.nets.checks import real
from stream_ann.nets.contract import AnytimeNet, Member, State, Step

__all__ = ["Boosted", "BoostedStep"]


class BoostedStep(Step):
    """A step that adds its logits to ``shrink`` times those of the step before it.

    Its state is that of the step inside, and behind it the logits of this exit, float [B, classes].

    Args:
        inner: The step that gives the correction.
        shrink: Weight of the logits so far.
    """

    def __init__(self, inner: Step, shrink: float) -> None:
        super().__init__()
        self.inner = inner
        self.shrink = shrink

    @property
    def head(self) -> nn.Module:
        """The exit head of the step inside."""
        head = self.inner.head
        assert isinstance(head, nn.Module)
        return head

    def forward(self, images: Tensor, state: State) -> tuple[State, Tensor]:
        """See :meth:`Step.forward`."""
        inner_state, logits = self.inner(images, state[:-1])
        if state:
            so_far = state[-1].detach() if self.training else state[-1]
            logits = logits + self.shrink * so_far
        return (*inner_state, logits), logits


class Boosted(AnytimeNet):
    """A net whose exits are trained as an additive model ("Boosted Dynamic Neural Networks", AAAI 2023).

    The logits of exit t are F_t = f_t + ``shrink`` * F_{t-1}, where f_t are those of the net inside. In training
    F_{t-1} is held constant, so that a later exit learns what the earlier ones leave over and does not disturb them.
    The authors' code for CIFAR-100 takes a ``shrink`` of 0.5 for every exit (the paper's "prediction reweighting"),
    together with gradient equilibrium (:func:`stream_ann.nets.equilibrium`). The cost stays the same.

    The names in the state dict are those of the net inside, so weights can be moved between the two; but weights only
    give good answers in the form in which they were trained.

    Args:
        net: The net inside, of one member. To boost the members of an EANN, boost its trunks.
        shrink: Weight of the logits so far, 0 to 1; 0 changes nothing.

    Raises:
        UsageError: The net has more than one member or is boosted already, or ``shrink`` is out of range.
    """

    def __init__(self, net: AnytimeNet, *, shrink: float = 0.5) -> None:
        super().__init__()
        shrink = real("shrink", shrink, 0.0, 1.0)
        if isinstance(net, Boosted):
            raise UsageError("the net is boosted already", "boost it once")
        if len(net.members()) != 1:
            raise UsageError(f"boosting a net of {len(net.members())} members", "boost the trunk of each instead")
        own = [name for name, _ in (*net.named_parameters(recurse=False), *net.named_buffers(recurse=False))]
        if own:
            raise UsageError(f"a {type(net).__name__} has tensors of its own: {own[0]}", "put them into a module of it")
        self.classes = net.classes
        self.shrink = shrink
        # The parts of the net inside are this net's parts; the net itself and the steps, in tuples, are not registered.
        self._net = (net,)
        for name, part in net.named_children():
            self.add_module(name, part)
        self._steps = tuple(BoostedStep(step, shrink) for step in net.steps)

    @property
    def net(self) -> AnytimeNet:
        """The net inside; it shares every tensor with this one."""
        return self._net[0]

    @property
    def arch(self) -> dict[str, Any]:
        """What :func:`stream_ann.nets.build` makes this net from, as plain JSON data."""
        from stream_ann.nets.registry import arch_of  # the registry imports this module

        return {"name": "boosted", "net": arch_of(self.net), "shrink": self.shrink}

    def members(self) -> Sequence[Member]:
        """The one member, named as that of the net inside."""
        (member,) = self.net.members()
        return (Member(member.name, member.resolution_px, self._steps),)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, of the net inside and of the steps as well."""
        super().train(mode)
        self.net.train(mode)
        for step in self._steps:
            step.train(mode)
        return self
