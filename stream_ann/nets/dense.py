"""DenseANN: a densely connected network with a predictor every few units (Hu et al., arXiv 1708.06832v2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from stream_ann.nets.checks import MAX_CLASSES, choice, real, whole, wholes
from stream_ann.nets.heads import NormHead
from stream_ann.nets.layers import initialise
from stream_ann.nets.resann import Stem, bare_stem
from stream_ann.nets.trunk import Trunk

__all__ = ["DenseANN"]


class DenseUnit(nn.Module):
    """A pre-activation dense layer (Huang et al., arXiv 1608.06993, section 3); a block's first one may shrink first.

    Batch norm, ReLU, 1x1 convolution to ``bottleneck * growth`` channels, batch norm, ReLU, 3x3 convolution to
    ``growth`` channels, which are appended to the input. Without a bottleneck only the last three.

    Args:
        in_channels: Channels that come in.
        growth: Channels that are added.
        bottleneck: Width of the 1x1 convolution as a multiple of ``growth``; 0 leaves it out.
        shrink_to: Where a block starts: the paper's transition layer stands before the unit (batch norm, ReLU, 1x1
            convolution, 2x2 average pooling) and gives this many channels at half the resolution.
    """

    def __init__(self, in_channels: int, growth: int, *, bottleneck: int, shrink_to: int | None = None) -> None:
        super().__init__()
        self.shrink: nn.Module = nn.Identity()
        if shrink_to is not None:
            self.shrink = nn.Sequential(
                nn.BatchNorm2d(in_channels),
                nn.ReLU(),
                nn.Conv2d(in_channels, shrink_to, 1, bias=False),
                nn.AvgPool2d(2, ceil_mode=True),
            )
            in_channels = shrink_to
        layers: list[nn.Module] = []
        middle = in_channels
        if bottleneck:
            middle = bottleneck * growth
            layers += [nn.BatchNorm2d(in_channels), nn.ReLU(), nn.Conv2d(in_channels, middle, 1, bias=False)]
        layers += [nn.BatchNorm2d(middle), nn.ReLU(), nn.Conv2d(middle, growth, 3, padding=1, bias=False)]
        self.new = nn.Sequential(*layers)
        self.out_channels = in_channels + growth

    def forward(self, features: Tensor) -> Tensor:
        """float [B, in, H, W] to float [B, out, H, W], or half of H and W, rounded up, where the unit shrinks first."""
        features = self.shrink(features)
        return torch.cat((features, self.new(features)), 1)


class DenseANN(Trunk):
    """A DenseNet-BC with a predictor every ``s`` units: the trunk of arXiv 1608.06993, the exits of arXiv 1708.06832v2.

    The stem has 2 ``growth`` channels. Each dense layer is a unit; the transition layer between two blocks belongs to
    the unit behind it, so that an exit at the end of a block does not pay for it. Predictors (batch norm, ReLU, global
    average pooling, linear) are counted from the end, so that the last unit always has one. The default is the paper's
    DenseNet-BC of 100 layers with growth 12. Weights start out as :func:`stream_ann.nets.layers.initialise` says.

    Args:
        classes: Number of classes.
        depths: Dense layers of each block, 1 to 6 blocks of 1 to 64.
        growth: Channels that a layer adds, 4 to 64.
        bottleneck: Width of a layer's 1x1 convolution as a multiple of ``growth``, 1 to 8; 0 is a DenseNet without "B".
        reduction: Share of the channels that a transition layer keeps (the paper's theta), above 0 to 1.
        s: Units from one predictor to the next, 1 to the number of all units.
        resolution_px: Side of the input images.
        stem: As for :class:`stream_ann.nets.resann.ResANN`.

    Raises:
        UsageError: An argument is out of range.
    """

    def __init__(
        self,
        *,
        classes: int,
        depths: Sequence[int] = (16, 16, 16),
        growth: int = 12,
        bottleneck: int = 4,
        reduction: float = 0.5,
        s: int = 8,
        resolution_px: int = 32,
        stem: Stem = "3x3",
    ) -> None:
        classes = whole("classes", classes, 1, MAX_CLASSES)
        depths = wholes("depths", depths, 1, 64, most=6)
        growth = whole("growth", growth, 4, 64)
        bottleneck = whole("bottleneck", bottleneck, 0, 8)
        reduction = real("reduction", reduction, 0.05, 1.0)
        units = sum(depths)
        s = whole("s", s, 1, units)
        choice("stem", stem, get_args(Stem))

        blocks: list[nn.Module] = []
        heads: dict[int, nn.Module] = {}
        channels = 2 * growth
        for depth in depths:
            for position in range(depth):
                shrink_to = max(1, int(channels * reduction)) if position == 0 and blocks else None
                unit = DenseUnit(channels, growth, bottleneck=bottleneck, shrink_to=shrink_to)
                blocks.append(unit)
                channels = unit.out_channels
                if (units - len(blocks)) % s == 0:
                    heads[len(blocks) - 1] = NormHead(channels, classes)
        super().__init__(
            "denseann",
            classes=classes,
            resolution_px=resolution_px,
            stem=bare_stem(stem, 2 * growth),
            blocks=blocks,
            heads=heads,
        )
        self.depths, self.growth, self.bottleneck, self.reduction = depths, growth, bottleneck, reduction
        self.s, self.stem_kind = s, stem
        initialise(self)

    @property
    def arch(self) -> dict[str, Any]:
        """See :attr:`Trunk.arch`."""
        return {
            "name": "denseann",
            "classes": self.classes,
            "depths": list(self.depths),
            "growth": self.growth,
            "bottleneck": self.bottleneck,
            "reduction": self.reduction,
            "s": self.s,
            "resolution_px": self.resolution_px,
            "stem": self.stem_kind,
        }
