"""Layers that the nets share, and how their weights start out.

A batch norm that follows a convolution stands right behind it in one ``nn.Sequential``, always. An engine can therefore
fold batch norms with one rule for every net: in each Sequential, merge each (Conv2d, BatchNorm2d) pair.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SameConv2d", "conv_norm", "global_average", "initialise"]


def _convolved(conv: nn.Conv2d, input: Tensor, padding: Any) -> Tensor:
    """What a convolution makes of its input with this padding: in float32 where it is depthwise and trained on a CPU.

    Of depthwise convolutions in bfloat16, CPUs compute the gradients 5 to 15 times as slowly as in float32 (torch 2.14
    with oneDNN, 3x3 of stride 2 and 5x5), which costs more than all other layers gain by bfloat16.
    """
    if conv.groups > 1 and input.device.type == "cpu" and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(
                input.float(), conv.weight, conv.bias, conv.stride, padding, conv.dilation, groups=conv.groups
            )
    return F.conv2d(input, conv.weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups)


class _GroupedConv2d(nn.Conv2d):
    """A convolution in groups, see :func:`_convolved`."""

    def forward(self, input: Tensor) -> Tensor:
        """float [B, in, H, W] to float [B, out, H', W']."""
        return _convolved(self, input, self.padding)


class SameConv2d(nn.Conv2d):
    """A convolution of stride 2 with TensorFlow's 'same' padding, at any input size.

    'Same' padding gives ceil(size / 2) outputs. On an odd size the padding is the usual kernel // 2 on both sides; on
    an even size it is one less before than after. Padding in a layer of its own would copy the input, which costs as
    much as the convolution itself where that is depthwise. So an even size is padded by one more than needed on both
    sides, which shifts the windows to where they belong, and the superfluous first row and column of the output are cut
    off: a view, without a copy.

    Args:
        in_channels, out_channels, groups: As in Conv2d.
        kernel_px: Side of the kernel, odd.
        bias: Whether there is a bias.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_px: int, *, groups: int = 1, bias: bool = False
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_px, stride=2, groups=groups, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """float [B, in, H, W] to float [B, out, ceil(H / 2), ceil(W / 2)]."""
        even_h, even_w = 1 - input.shape[-2] % 2, 1 - input.shape[-1] % 2
        half = self.kernel_size[0] // 2
        padding = (half + even_h, half + even_w)
        out = _convolved(self, input, padding)
        return out[:, :, even_h:, even_w:] if even_h or even_w else out


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_px: int,
    *,
    stride: int = 1,
    groups: int = 1,
    same: bool = False,
    eps: float = 1e-5,
    momentum: float = 0.1,
    act: nn.Module | None = None,
) -> nn.Sequential:
    """A convolution without bias, its batch norm, and perhaps an activation, named ``conv``, ``norm`` and ``act``.

    Args:
        in_channels, out_channels, stride, groups: As in Conv2d.
        kernel_px: Side of the kernel, odd.
        same: Pad like TensorFlow where the stride is 2, instead of by kernel_px // 2 on every side.
        eps, momentum: As in BatchNorm2d.
        act: What follows the batch norm.
    """
    conv: nn.Conv2d
    if same and stride == 2:
        conv = SameConv2d(in_channels, out_channels, kernel_px, groups=groups)
    else:
        padding = kernel_px // 2
        made = nn.Conv2d if groups == 1 else _GroupedConv2d
        conv = made(in_channels, out_channels, kernel_px, stride, padding, groups=groups, bias=False)
    layers = OrderedDict[str, nn.Module](conv=conv, norm=nn.BatchNorm2d(out_channels, eps=eps, momentum=momentum))
    if act is not None:
        layers["act"] = act
    return nn.Sequential(layers)


class _GlobalAverage(torch.autograd.Function):
    """The mean over H and W, whose gradient is a tensor of its own, laid out in memory as the features are."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.shape = features.shape
        ctx.channels_last = features.is_contiguous(memory_format=torch.channels_last)
        return features.mean((2, 3))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        each: Tensor = gradients[0] / (ctx.shape[2] * ctx.shape[3])
        layout = torch.channels_last if ctx.channels_last else torch.contiguous_format
        return each[:, :, None, None].expand(ctx.shape).contiguous(memory_format=layout)


def global_average(features: Tensor) -> Tensor:
    """The mean of features float [B, channels, H, W] over H and W, float [B, channels].

    Plain ``mean`` hands back a gradient that is one value expanded, without a layout in memory. What comes before it
    then gives the whole trunk gradients in another layout than its own, and every exit costs ten times as much.
    """
    if features.requires_grad and torch.is_grad_enabled():
        out: Tensor = _GlobalAverage.apply(features)
        return out
    return features.mean((2, 3))


def initialise(net: nn.Module) -> None:
    """Give every layer of ``net`` its starting weights, from torch's global random generator.

    Convolutions: normal with variance 2 / fan_out (He et al., arXiv 1502.01852, section 2.2, backward case), where the
    fan-out counts one group only. Linear layers: normal with standard deviation 0.01. Biases: zero. Batch norms: the
    identity. A net on the meta device is left alone.
    """
    if any(parameter.is_meta for parameter in net.parameters()):
        return  # no values to set, and torch's shape-only versions of the random functions are slow
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / fan_out))
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.01)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
            continue
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
