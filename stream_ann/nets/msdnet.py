"""MSDNet: a multi-scale dense network with classifiers of its own (Huang et al., ICLR 2018, arXiv 1703.09844)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from stream_ann.errors import UsageError
from stream_ann.nets.checks import MAX_CLASSES, choice, real, whole, wholes
from stream_ann.nets.contract import State
from stream_ann.nets.heads import StridedHead
from stream_ann.nets.layers import conv_norm, initialise
from stream_ann.nets.resann import Stem
from stream_ann.nets.trunk import Trunk, TrunkStep

__all__ = ["MSDNet", "Spacing"]

Spacing = Literal["even", "growing"]
"""Layers from one classifier to the next: always as many, or more and more (see :class:`MSDNet`)."""

_MAX_SCALES = 5
_MAX_LAYERS = 128


class MultiScaleStem(nn.Module):
    """The layer 0: from images to features at every scale, each made from the finer one by a strided 3x3 convolution.

    Args:
        kind: How the finest scale is made.
        channels: Channels of each scale, finest first.
    """

    def __init__(self, kind: Stem, channels: Sequence[int]) -> None:
        super().__init__()
        finest = channels[0]
        stride = 1 if kind == "3x3" else 2
        first: nn.Module = conv_norm(3, finest, 7 if kind == "7x7/4" else 3, stride=stride, act=nn.ReLU())
        if kind == "3x3/4":
            first = nn.Sequential(first, conv_norm(finest, finest, 3, stride=2, act=nn.ReLU()))
        elif kind == "7x7/4":
            first = nn.Sequential(first, nn.MaxPool2d(3, stride=2, padding=1))
        pairs = itertools.pairwise(channels)
        self.scales = nn.ModuleList([first, *(conv_norm(a, b, 3, stride=2, act=nn.ReLU()) for a, b in pairs)])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """float [B, 3, H, W] to one float [B, channels, H', W'] for each scale, finest first."""
        features = [images]
        for scale in self.scales:
            features.append(scale(features[-1]))
        return tuple(features[1:])


def _new_features(in_channels: int, out_channels: int, bottleneck: int, stride: int) -> nn.Sequential:
    """1x1 convolution to ``bottleneck * out_channels``, at most ``in_channels``, and 3x3 one; batch norms and ReLUs."""
    middle = min(in_channels, bottleneck * out_channels)
    first = conv_norm(in_channels, middle, 1, act=nn.ReLU())
    return nn.Sequential(*first, *conv_norm(middle, out_channels, 3, stride=stride, act=nn.ReLU()))


class Cell(nn.Module):
    """One layer at one scale: appends new features to the scale's own.

    Args:
        finer: Channels of the next finer scale and its bottleneck factor; None where the cell does not look at it.
        own: Channels of this scale and its bottleneck factor.
        growth: Channels that are added; half of them come from each side where there is a finer scale.
        reduce_to: Channels left by a 1x1 convolution, batch norm and ReLU at the end; None leaves them out.
    """

    def __init__(
        self, finer: tuple[int, int] | None, own: tuple[int, int], growth: int, reduce_to: int | None = None
    ) -> None:
        super().__init__()
        half = growth if finer is None else growth // 2
        self.from_finer = None if finer is None else _new_features(finer[0], half, finer[1], stride=2)
        self.from_own = _new_features(own[0], half, own[1], stride=1)
        out_channels = own[0] + growth
        self.reduce: nn.Module = nn.Identity()
        if reduce_to is not None:
            self.reduce = conv_norm(out_channels, reduce_to, 1, act=nn.ReLU())

    def forward(self, finer: Tensor | None, own: Tensor) -> Tensor:
        """float [B, own, H, W], with the finer scale [B, finer, 2 H, 2 W], to float [B, out, H, W]."""
        parts = [own]
        if self.from_finer is not None:
            parts.append(self.from_finer(finer))
        parts.append(self.from_own(own))
        out: Tensor = self.reduce(torch.cat(parts, 1))
        return out


class Wave(nn.Module):
    """Moves every scale that is ready one layer on, the finest first (see :class:`MSDNet` on lazy evaluation).

    Args:
        cells: The cell of each scale that moves, by its position among the scales that come in, finest first.
        drop: How many scales, from the finest, nothing needs behind this wave.
    """

    def __init__(self, cells: dict[int, Cell], drop: int) -> None:
        super().__init__()
        self.cells = nn.ModuleDict({str(position): cell for position, cell in cells.items()})
        self.drop = drop

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The features of the scales that come in to those of the scales that go out."""
        out: list[Tensor] = []
        for position, own in enumerate(features):
            key = str(position)
            finer = out[-1] if out else None
            out.append(self.cells[key](finer, own) if key in self.cells else own)
        return tuple(out[self.drop :])


class MSDStep(TrunkStep):
    """Some waves and the classifier behind them. Its state is the features of every live scale, finest first."""

    def forward(self, images: Tensor, state: State) -> tuple[State, Tensor]:
        """See :meth:`Step.forward`. The state returned is a float [B, channels, H', W'] for each live scale."""
        features = self.body(state or images)
        return features, self.head(features[-1])

    def advance(self, images: Tensor, state: State) -> State:
        """See :meth:`Step.advance`: the waves without the classifier."""
        features: State = self.body(state or images)
        return features


class MSDNet(Trunk):
    """A network of dense layers at several scales, with classifiers on the coarsest (arXiv 1703.09844).

    Layer l at scale s appends new features to its input: half of them by a strided convolution of layer l - 1 at the
    next finer scale, half of layer l - 1 at its own (all of them at the finest). Along its depth the network is cut
    into as many parts as there are scales ("Network reduction"): the i-th part has lost the i finest scales, and each
    part after the first begins with a layer whose output a 1x1 convolution reduces.

    A classifier behind layer l needs the coarsest scale at layer l, the next finer one at layer l - 1, and so on
    ("Lazy evaluation"). So one block of this trunk is not one layer, but one such diagonal: the finer scales lag
    behind, no step computes what its exit does not need, and what no exit needs does not exist. The cost of the whole
    is that of the published code, early exits are cheaper. For CIFAR-100 the paper's network, ``MSDNet(classes=100)``,
    costs 13.3, 23.3, 35.2, 50.6, 60.5, 72.2, 85.7, 99.5, 109.5 and 121.1 million multiply-accumulates; layer after
    layer, as the published code counts, it would be 15.0, 25.3, 37.5, 51.7, 61.7, 73.6, 87.2, 99.5, 109.5 and 121.1.

    Weights start out as :func:`stream_ann.nets.layers.initialise` says.

    Args:
        classes: Number of classes.
        exits: Number of classifiers (the paper's blocks), 1 to 32.
        base: Layers before the first classifier, 1 to 32.
        step: Layers from one classifier to the next, 1 to 16.
        spacing: ``"even"``: ``step`` of them, the paper's choice for anytime prediction. ``"growing"``: i * ``step``
            + 1 before the i-th classifier after the first, its choice for one budget for many images.
        c: Channels of the stem at the finest scale, for a factor of 1; 4 to 128. 16 for CIFAR, 32 or 64 for ImageNet.
        growth: Channels that a layer adds, for a factor of 1; even, 2 to 64. 6 for CIFAR, 16 for ImageNet.
        factors: Of each scale, finest first, 1 to 5 of them: its channels and growth as a multiple of ``c`` and
            ``growth``. (1, 2, 4) for CIFAR, (1, 2, 4, 4) for ImageNet.
        bottlenecks: Of each scale: the width of a 1x1 convolution of its features as a multiple of the channels that
            are made of them. As ``factors`` by default, which is the paper's choice.
        reduction: Share of the channels kept where a scale is dropped, above 0 to 1; 0 leaves the reduction out.
        head_width: Channels in the classifiers; 128 for CIFAR. None: as many as the coarsest scale has, for ImageNet.
        resolution_px: Side of the input images.
        stem: As for :class:`stream_ann.nets.resann.ResANN`; here its convolutions all have batch norm and ReLU.

    Raises:
        UsageError: An argument is out of range, or there are more than 128 layers.
    """

    def __init__(
        self,
        *,
        classes: int,
        exits: int = 10,
        base: int = 4,
        step: int = 2,
        spacing: Spacing = "even",
        c: int = 16,
        growth: int = 6,
        factors: Sequence[int] = (1, 2, 4),
        bottlenecks: Sequence[int] | None = None,
        reduction: float = 0.5,
        head_width: int | None = 128,
        resolution_px: int = 32,
        stem: Stem = "3x3",
    ) -> None:
        classes = whole("classes", classes, 1, MAX_CLASSES)
        exits = whole("exits", exits, 1, 32)
        base = whole("base", base, 1, 32)
        step = whole("step", step, 1, 16)
        choice("spacing", spacing, get_args(Spacing))
        c = whole("c", c, 4, 128)
        growth = whole("growth", growth, 2, 64)
        if growth % 2:
            raise UsageError(f"growth is {growth}", "it must be even: half of it comes from the finer scale")
        factors = wholes("factors", factors, 1, 8, most=_MAX_SCALES)
        bottlenecks = factors if bottlenecks is None else wholes("bottlenecks", bottlenecks, 1, 8, most=_MAX_SCALES)
        if len(bottlenecks) != len(factors):
            what = f"bottlenecks has {len(bottlenecks)} values, factors has {len(factors)}"
            raise UsageError(what, "give one of each for every scale")
        reduction = real("reduction", reduction, 0.0, 1.0)
        if head_width is not None:
            head_width = whole("head_width", head_width, 8, 2048)
        choice("stem", stem, get_args(Stem))
        layers = [base, *(step if spacing == "even" else i * step + 1 for i in range(1, exits))]
        if sum(layers) > _MAX_LAYERS:
            what = f"exits {exits}, base {base} and step {step} make {sum(layers)} layers"
            raise UsageError(what, f"at most {_MAX_LAYERS} are allowed")

        widths = _widths(sum(layers), len(factors), c=c, growth=growth, reduction=reduction)
        blocks = _waves(widths, growth, factors, bottlenecks, reduces=reduction > 0)
        heads: dict[int, nn.Module] = {}
        for layer in itertools.accumulate(layers):
            channels = widths[layer] * factors[-1]
            heads[layer - 1] = StridedHead(channels, head_width or channels, classes)
        super().__init__(
            "msdnet",
            classes=classes,
            resolution_px=resolution_px,
            stem=MultiScaleStem(stem, [c * factor for factor in factors]),
            blocks=blocks,
            heads=heads,
        )
        self._steps = tuple(MSDStep([*s.body], s.head) for s in self._steps if isinstance(s, TrunkStep))
        self.exits, self.base, self.step, self.spacing = exits, base, step, spacing
        self.c, self.growth, self.factors, self.bottlenecks = c, growth, factors, bottlenecks
        self.reduction, self.head_width, self.stem_kind = reduction, head_width, stem
        initialise(self)

    @property
    def arch(self) -> dict[str, Any]:
        """See :attr:`Trunk.arch`."""
        return {
            "name": "msdnet",
            "classes": self.classes,
            "exits": self.exits,
            "base": self.base,
            "step": self.step,
            "spacing": self.spacing,
            "c": self.c,
            "growth": self.growth,
            "factors": list(self.factors),
            "bottlenecks": list(self.bottlenecks),
            "reduction": self.reduction,
            "head_width": self.head_width,
            "resolution_px": self.resolution_px,
            "stem": self.stem_kind,
        }


def _part(layer: int, layers: int, scales: int) -> int:
    """In which part of the depth ``layer`` (from 1) is, from 0: so many of the finest scales are not computed there."""
    return (layer - 1) // math.ceil(layers / scales)


def _loses_scale(layer: int, layers: int, scales: int) -> bool:
    """Whether ``layer`` is the first one that is not computed at a scale that the layer before it is computed at."""
    return layer > 1 and _part(layer, layers, scales) > _part(layer - 1, layers, scales)


def _widths(layers: int, scales: int, *, c: int, growth: int, reduction: float) -> list[int]:
    """Channels behind each layer, the stem first, for a factor of 1."""
    widths = [c]
    for layer in range(1, layers + 1):
        width = widths[-1] + growth
        if reduction and _loses_scale(layer, layers, scales):
            width = max(1, math.floor(reduction * width))
        widths.append(width)
    return widths


def _waves(
    widths: Sequence[int], growth: int, factors: Sequence[int], bottlenecks: Sequence[int], *, reduces: bool
) -> list[nn.Module]:
    """The diagonals of the grid of layers and scales: number w (from 1) has layer w - (S - 1 - s) of each scale s."""
    layers, scales = len(widths) - 1, len(factors)

    def sides(layer: int, scale: int) -> tuple[int, int]:
        return widths[layer] * factors[scale], bottlenecks[scale]

    waves: list[nn.Module] = []
    live = 0  # the finest scale that something still needs
    for wave in range(1, layers + 1):
        cells: dict[int, Cell] = {}
        drop = 0
        for scale in range(live, scales):
            layer = wave - (scales - 1 - scale)
            if layer < 1:
                continue
            loses = _loses_scale(layer, layers, scales)
            # The first layer of a part still looks at the scale that the part has lost.
            alone = scale == _part(layer, layers, scales) and not loses
            finer = None if alone else sides(layer - 1, scale - 1)
            reduce_to = widths[layer] * factors[scale] if loses and reduces else None
            cells[scale - live] = Cell(finer, sides(layer - 1, scale), growth * factors[scale], reduce_to)
            drop += layer < layers and _part(layer + 1, layers, scales) > scale
        waves.append(Wave(cells, drop))
        live += drop
    return waves
