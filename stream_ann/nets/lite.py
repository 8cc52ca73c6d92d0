"""EfficientNet-Lite, cut into steps at block boundaries.

EfficientNet (Tan and Le, arXiv 1905.11946) as its authors simplified it for phones ("Higher accuracy on vision models
with EfficientNet-Lite", TensorFlow blog, March 2020): no squeeze-and-excitation, ReLU6 for swish, and the stem, the
head and the depth of the first and last stage fixed while the rest is scaled.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from stream_ann.errors import UsageError
from stream_ann.nets.checks import MAX_CLASSES, real, resolution, rising, whole
from stream_ann.nets.heads import ConvHead
from stream_ann.nets.layers import conv_norm, initialise
from stream_ann.nets.trunk import Trunk

__all__ = ["NATIVE_RESOLUTION_PX", "Lite"]

NATIVE_RESOLUTION_PX = (224, 240, 260, 280, 300)
"""The resolution that each variant was designed for."""

_SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))  # (width, depth) of each variant

# (expansion, channels, blocks, stride of the first block, kernel_px): EfficientNet-B0, arXiv 1905.11946, table 1.
_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280
_REDUCTION = 32
"""What the side of the image is divided by in the last features."""
# TensorFlow's momentum of 0.99 is torch's 0.01.
_conv_norm = functools.partial(conv_norm, eps=1e-3, momentum=0.01)


def _scaled_channels(channels: int, width: float) -> int:
    """``channels`` times ``width``, to the nearest multiple of 8 that is not more than a tenth below."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


class MBConv(nn.Module):
    """Inverted residual bottleneck: expand by 1x1, filter each channel, project by 1x1 (arXiv 1801.04381, section 3.3).

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        expansion: Width of the middle, as a multiple of ``in_channels``; 1 leaves the first convolution out.
        stride: 1 or 2.
        kernel_px: Side of the depthwise kernel.
    """

    def __init__(self, in_channels: int, out_channels: int, *, expansion: int, stride: int, kernel_px: int) -> None:
        super().__init__()
        middle = in_channels * expansion
        self.expand = _conv_norm(in_channels, middle, 1, act=nn.ReLU6()) if expansion != 1 else nn.Identity()
        self.depthwise = _conv_norm(middle, middle, kernel_px, stride=stride, groups=middle, same=True, act=nn.ReLU6())
        self.project = _conv_norm(middle, out_channels, 1)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, features: Tensor) -> Tensor:
        """float [B, in, H, W] to float [B, out, ceil(H / stride), ceil(W / stride)]."""
        out: Tensor = self.project(self.depthwise(self.expand(features)))
        return features + out if self.residual else out


class Lite(Trunk):
    """EfficientNet-Lite with exits.

    Any resolution can be had; every strided convolution pads like TensorFlow ('same'), which the published weights were
    trained with. Weights start out as :func:`stream_ann.nets.layers.initialise` says.

    Args:
        variant: 0 to 4.
        classes: Number of classes.
        resolution_px: Side of the input images; by default what the variant was designed for (224 to 300).
        exits: Numbers of the blocks, from 0 and rising, that an auxiliary head stands behind. The variant's own
            classifier behind the last block is always the last exit, and is not listed. :meth:`block_count` says how
            many blocks there are.
        head_width: Hidden channels of each auxiliary head.
        dropout: Chance of dropping a pooled feature in training, in every head.
        one_classifier: Whether all heads end in one and the same classifier, the last one's, so that an auxiliary head
            only has to bring its features to where the last one's are. They are then 1,280 wide, whatever
            ``head_width`` says, and shrunk to a 32nd of the image's side before, as the last one's are.

    Raises:
        UsageError: An argument is out of range.
    """

    def __init__(
        self,
        variant: int,
        *,
        classes: int = 1000,
        resolution_px: int | None = None,
        exits: Sequence[int] = (),
        head_width: int = 256,
        dropout: float = 0.0,
        one_classifier: bool = False,
    ) -> None:
        last = self.block_count(variant) - 1
        classes = whole("classes", classes, 1, MAX_CLASSES)
        resolution_px = NATIVE_RESOLUTION_PX[variant] if resolution_px is None else resolution(resolution_px)
        exits = rising("exits", exits, 0, last - 1)
        head_width = whole("head_width", head_width, 8, 2048)
        dropout = real("dropout", dropout, 0.0, 0.9)
        if not isinstance(one_classifier, bool):
            raise UsageError(f"one_classifier is {one_classifier!r}", "it must be true or false")
        width = _HEAD_CHANNELS if one_classifier else head_width

        stem = _conv_norm(3, _STEM_CHANNELS, 3, stride=2, same=True, act=nn.ReLU6())
        blocks: list[nn.Module] = []
        heads: dict[int, nn.Module] = {}
        channels, reduction = _STEM_CHANNELS, 2
        for (expansion, base, _, stage_stride, kernel_px), count in zip(_STAGES, _depths(variant), strict=True):
            out_channels = _scaled_channels(base, _SCALES[variant][0])
            for position in range(count):
                stride = stage_stride if position == 0 else 1
                blocks.append(MBConv(channels, out_channels, expansion=expansion, stride=stride, kernel_px=kernel_px))
                channels, reduction = out_channels, reduction * stride
                if len(blocks) - 1 in exits:
                    shrink = _REDUCTION // reduction if one_classifier else 1
                    heads[len(blocks) - 1] = ConvHead(channels, width, classes, dropout=dropout, shrink=shrink)
        heads[last] = ConvHead(channels, _HEAD_CHANNELS, classes, dropout=dropout)
        if one_classifier:
            for head in heads.values():
                head.linear = heads[last].linear
        super().__init__(
            f"lite{variant}",
            classes=classes,
            resolution_px=resolution_px,
            stem=stem,
            blocks=blocks,
            heads=heads,
        )
        self.variant = variant
        self.exits = exits
        self.head_width = head_width
        self.dropout = dropout
        self.one_classifier = one_classifier
        initialise(self)

    @staticmethod
    def block_count(variant: int) -> int:
        """Number of blocks of a variant (0 to 4): 16, 21, 21, 24 or 30. Raises UsageError for another variant."""
        return sum(_depths(whole("variant", variant, 0, len(_SCALES) - 1)))

    @property
    def arch(self) -> dict[str, Any]:
        """See :attr:`Trunk.arch`."""
        arch: dict[str, Any] = {
            "name": f"efficientnet-lite{self.variant}",
            "classes": self.classes,
            "resolution_px": self.resolution_px,
            "exits": list(self.exits),
            "head_width": self.head_width,
            "dropout": self.dropout,
        }
        # left out where it is false, so that a net like that of an older card has the same description
        return arch | ({"one_classifier": True} if self.one_classifier else {})


def _depths(variant: int) -> tuple[int, ...]:
    """Number of blocks in each stage: scaled and rounded up, except in the first and the last stage."""
    depth = _SCALES[variant][1]
    inner = (math.ceil(stage[2] * depth) for stage in _STAGES[1:-1])
    return (_STAGES[0][2], *inner, _STAGES[-1][2])
