"""What a net's steps cost, without running them on data."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stream_ann.errors import UsageError
from stream_ann.nets.contract import AnytimeNet, Member, Plan, State, StepInfo

__all__ = ["plan_of"]

_UNCOUNTED = (nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Dropout)
"""Layers that keep the shape and cost no multiply-accumulates: left out, as each takes milliseconds on meta."""

_plans: WeakKeyDictionary[AnytimeNet, tuple[Any, Plan]] = WeakKeyDictionary()


def plan_of(net: AnytimeNet) -> Plan:
    """The plan of ``net``: its steps in order, each with its multiply-accumulates for one image.

    A copy of the net without data (on torch's meta device, in evaluation mode) runs every step at its member's
    resolution under torch's flop counter, which counts convolutions and matrix products as two operations for each
    multiply-accumulate. The net itself is not touched. A step of a member with one step is named after the member
    (``"lite0@96"``), others are numbered from 1 (``"resann@32 3"``).

    The plan is kept, and counted anew only once the members or the shape of a parameter have changed.

    Raises:
        UsageError: Two steps would have the same name, or a step's logits do not have the shape [B, classes].
    """
    signature = _signature(net)
    known = _plans.get(net)
    if known is not None and known[0] == signature:
        return known[1]

    shell = _without_data(net)
    dtype = next((p.dtype for p in shell.parameters() if p.is_floating_point()), torch.float32)
    infos: list[StepInfo] = []
    for number, member in enumerate(shell.members()):
        images = torch.empty(1, 3, member.resolution_px, member.resolution_px, dtype=dtype, device="meta")
        state: State = ()
        for index, name in enumerate(_step_names(member)):
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                state, logits = member.steps[index](images, state)
            if logits.shape != (1, net.classes):
                what = f"step '{name}' gives logits of shape {list(logits.shape)}"
                raise UsageError(what, f"for one image of a net of {net.classes} classes it must be [1, {net.classes}]")
            macs = counter.get_total_flops() // 2
            infos.append(StepInfo(name, number, member.resolution_px, index == 0, macs))
    twice = [name for name, count in Counter(info.name for info in infos).items() if count > 1]
    if twice:
        raise UsageError(f"two steps are named '{twice[0]}'", "give the net's members names that differ")

    plan = Plan(tuple(infos), net.classes)
    _plans[net] = (signature, plan)
    return plan


def _step_names(member: Member) -> Sequence[str]:
    if len(member.steps) == 1:
        return (member.name,)
    return tuple(f"{member.name} {i}" for i in range(1, len(member.steps) + 1))


def _signature(net: AnytimeNet) -> Any:
    members = tuple((m.name, m.resolution_px, tuple(id(step) for step in m.steps)) for m in net.members())
    return members, tuple((name, parameter.shape) for name, parameter in net.named_parameters())


def _without_data(net: AnytimeNet) -> AnytimeNet:
    """A copy of ``net`` in evaluation mode whose tensors have no data; none of the original's is copied on the way."""
    memo: dict[int, Any] = {}
    for tensor in itertools.chain(net.parameters(), net.buffers()):
        empty: Tensor = torch.empty_like(tensor, device="meta", requires_grad=False)
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
    shell = copy.deepcopy(net, memo).eval()
    for module in shell.modules():
        if isinstance(module, _UNCOUNTED):
            setattr(module, "forward", _unchanged)  # noqa: B010 (mypy refuses the assignment)
    return shell


def _unchanged(values: Tensor) -> Tensor:
    return values
