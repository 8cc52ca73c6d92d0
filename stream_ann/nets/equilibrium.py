"""Gradient equilibrium: as much gradient for a shallow block as for a deep one (Li et al., arXiv 1908.06294)."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stream_ann.errors import UsageError
from stream_ann.nets.contract import AnytimeNet

__all__ = ["Equilibrium", "equilibrium"]

_balanced: WeakSet[nn.Module] = WeakSet()


class _Scaled(torch.autograd.Function):
    """The identity, whose gradient is scaled."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.scale, None


def _scaled(tensor: Tensor, scale: float) -> Tensor:
    if not tensor.requires_grad:
        return tensor
    out: Tensor = _Scaled.apply(tensor, scale)
    return out


class Equilibrium:
    """Gradient equilibrium in force on a net: a context manager, or something to call :meth:`remove` on."""

    def __init__(self, handles: list[RemovableHandle], steps: list[nn.Module]) -> None:
        self._handles = handles
        self._steps = steps

    def remove(self) -> None:
        """Leave the net as it was; no effect a second time."""
        for handle in self._handles:
            handle.remove()
        for step in self._steps:
            _balanced.discard(step)
        self._handles, self._steps = [], []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def equilibrium(net: AnytimeNet) -> Equilibrium:
    """Scale gradients within ``net`` so that every block's is the mean, not the sum, over the exits behind it.

    "Improved Techniques for Training Adaptive Deep Networks", ICCV 2019: where the features go both into exit i of K
    (from 0) and on into the next step, the gradient that comes back from the exit is scaled by 1 / (K - i), the one
    that comes back from the next step by (K - i - 1) / (K - i). Multiplied out, each exit behind a block reaches it
    with a weight of 1 / (number of exits behind it). The heads' own gradients are not scaled. All that a step hands on
    is scaled, at every scale of an MSDNet; the authors' code does so at the coarsest only.

    Takes effect in training mode, in the backward pass alone: the outputs stay the same, bit for bit::

        with equilibrium(net):
            train(net)

    Args:
        net: A net each of whose steps has its exit head as ``head``, as all nets here do. In an EANN every member is
            balanced by itself.

    Returns:
        What removes it again. Until then a copy of the net (``copy.deepcopy``) is balanced too.

    Raises:
        UsageError: It is in force on the net already, or a step has no ``head``.
    """
    places: dict[nn.Module, tuple[nn.Module, int]] = {}  # members may share steps, which then stand at the same place
    for member in net.members():
        for i, step in enumerate(member.steps):
            head = getattr(step, "head", None)
            if not isinstance(head, nn.Module):
                raise UsageError(
                    f"a {type(step).__name__} has no head", "keep the exit's module in its attribute 'head'"
                )
            if step in _balanced:
                raise UsageError("gradient equilibrium is in force on this net already", "remove it first")
            places[step] = (head, len(member.steps) - i)

    handles: list[RemovableHandle] = []
    for place, (head, left) in places.items():
        handles.append(head.register_forward_pre_hook(_into_head(1 / left)))
        handles.append(place.register_forward_hook(_onwards((left - 1) / left)))
        _balanced.add(place)
    return Equilibrium(handles, list(places))


def _into_head(scale: float) -> Callable[[nn.Module, tuple[Any, ...]], Any]:
    def hook(head: nn.Module, inputs: tuple[Any, ...]) -> Any:
        if not head.training:
            return None
        return tuple(_scaled(tensor, scale) for tensor in inputs)

    return hook


def _onwards(scale: float) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
    def hook(step: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> Any:
        if not step.training:
            return None
        state, logits = outputs
        return tuple(_scaled(tensor, scale) for tensor in state), logits

    return hook
