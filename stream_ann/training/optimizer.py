"""From options to torch's optimizers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from stream_ann.errors import UsageError
from stream_ann.nets import AnytimeNet
from stream_ann.training.options import TrainOptions

__all__ = ["optimizer_for"]


def optimizer_for(net: AnytimeNet, options: TrainOptions, full_rate: Collection[str]) -> torch.optim.Optimizer:
    """The optimizer, with a group of parameters for each combination of weight decay and learning rate factor.

    Vectors (biases, scales and shifts of norms) have no weight decay.

    Args:
        net: The net, on its device.
        options: What is wanted.
        full_rate: Names of the parameters that ``options.trunk_lr_factor`` spares.

    Raises:
        UsageError: The net has no parameter to train.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            decay = options.weight_decay if parameter.ndim >= 2 else 0.0
            factor = 1.0 if name in full_rate else options.trunk_lr_factor
            groups.setdefault((decay, factor), []).append(parameter)
    if not groups:
        raise UsageError("the net has no parameter to train", "set requires_grad on some")
    described: Sequence[dict[str, Any]] = [
        {"params": parameters, "weight_decay": decay, "factor": factor}
        for (decay, factor), parameters in groups.items()
    ]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(described, lr=options.lr, fused=True)
    momentum = options.momentum
    optimizer = torch.optim.SGD(described, lr=options.lr, momentum=momentum, nesterov=momentum > 0, fused=True)
    if momentum:
        # torch's fused step fails where some parameters get their first gradient later than others, as heads may do;
        # starting from zero comes to the same as starting from the first gradient.
        for parameter in (p for parameters in groups.values() for p in parameters):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
