"""ResANN: a residual network with a predictor every few units (Hu et al., arXiv 1708.06832v2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from stream_ann.errors import UsageError
from stream_ann.nets.checks import MAX_CLASSES, choice, whole, wholes
from stream_ann.nets.heads import PooledHead, StridedHead
from stream_ann.nets.layers import conv_norm, initialise
from stream_ann.nets.trunk import Trunk

__all__ = ["Head", "ResANN", "Stem", "bare_stem"]

Stem = Literal["3x3", "3x3/2", "3x3/4", "7x7/4"]
"""How images come in; the number behind the slash is by how much they shrink (see :class:`ResANN`)."""

Head = Literal["pooled", "strided"]
"""What stands behind the units that have a predictor (see :class:`ResANN`)."""

_STAGES = 3
"""Stages where ``n`` is one number: as many as the paper's networks for CIFAR have."""
_MOST_STAGES = 4
_MAX_UNITS = 64


class ResidualUnit(nn.Module):
    """A pre-activation basic block, as in the authors' code of arXiv 1708.06832.

    Batch norm, ReLU, 3x3 convolution, batch norm, ReLU, 3x3 convolution, batch norm, added to the input. Where the unit
    doubles the channels and halves the resolution, the input is average-pooled and its new channels are zero.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out: as many, or twice as many.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.shrinks = out_channels != in_channels
        self.residual = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            nn.Conv2d(in_channels, out_channels, 3, stride=2 if self.shrinks else 1, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        new = out_channels - in_channels
        self.new_channels = (new // 2, new - new // 2)

    def forward(self, features: Tensor) -> Tensor:
        """float [B, in, H, W] to float [B, out, H, W], or half of H and W, rounded up, where the channels double."""
        shortcut = features
        if self.shrinks:
            shortcut = F.pad(F.avg_pool2d(features, 2, ceil_mode=True), (0, 0, 0, 0, *self.new_channels))
        out: Tensor = self.residual(features)
        return shortcut + out


def bare_stem(kind: Stem, channels: int) -> nn.Module:
    """A stem of ``channels`` channels for pre-activation units, which bring the batch norm that it lacks."""
    if kind == "3x3":
        return nn.Conv2d(3, channels, 3, padding=1, bias=False)
    if kind == "3x3/2":
        return nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False)
    if kind == "3x3/4":
        second = nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False)
        return nn.Sequential(*conv_norm(3, channels, 3, stride=2, act=nn.ReLU()), second)
    return nn.Sequential(*conv_norm(3, channels, 7, stride=2, act=nn.ReLU()), nn.MaxPool2d(3, stride=2, padding=1))


def _units(n: int | Sequence[int]) -> tuple[int, ...]:
    """The units of each stage."""
    if not isinstance(n, list | tuple):
        return (whole("n", n, 1, _MAX_UNITS),) * _STAGES
    units = wholes("n", n, 1, _MAX_UNITS, most=_MOST_STAGES)
    if len(units) < _STAGES:
        remedy = f"give one whole number, or {_STAGES} or {_MOST_STAGES}: one for each stage"
        raise UsageError(f"n has {len(units)} values", remedy)
    return units


class ResANN(Trunk):
    """A pre-activation ResNet with a predictor every ``s`` units (arXiv 1708.06832v2, experiments on CIFAR).

    3 stages of ``n`` units; ``c`` channels in the first stage, doubled in each that follows. Predictors are counted
    from the end, so that the last unit always has one. The paper takes n from 7 to 25, c = 16 or 32, s = 3. Weights
    start out as :func:`stream_ann.nets.layers.initialise` says.

    Args:
        classes: Number of classes.
        n: Units in each stage, 1 to 64, or three or four of them, one for each stage. Few in the first stage let an
            answer that has seen coarse features come early; a fourth stage is for images of 64 px at full resolution.
        c: Channels in the first stage, 4 to 128.
        s: Units from one predictor to the next, at most as many as there are.
        first: The unit, from 1, before which there is no predictor: in a later member of an EANN those of the first
            units would only say again, at a cost, what the member before has said.
        resolution_px: Side of the input images.
        stem: ``"3x3"``: one convolution at full resolution, the paper's for 32 px. ``"3x3/2"``: the same with stride 2,
            for about 64 px. ``"3x3/4"``: two of them, for 96 to 160 px. ``"7x7/4"``: 7x7 with stride 2 and max pooling,
            the paper's for 224 px.
        head: ``"pooled"``: the paper's predictor, :class:`stream_ann.nets.heads.PooledHead`. ``"strided"``: MSDNet's,
            :class:`stream_ann.nets.heads.StridedHead`, everywhere but behind the last unit: it costs more and is better
            the shallower the exit.
        head_width: Channels of the convolutions in strided heads, 8 to 2,048; not used otherwise.

    Raises:
        UsageError: An argument is out of range.
    """

    def __init__(
        self,
        *,
        classes: int,
        n: int | Sequence[int] = 7,
        c: int = 16,
        s: int = 3,
        first: int = 1,
        resolution_px: int = 32,
        stem: Stem = "3x3",
        head: Head = "pooled",
        head_width: int = 128,
    ) -> None:
        classes = whole("classes", classes, 1, MAX_CLASSES)
        units = _units(n)
        c = whole("c", c, 4, 128)
        depth = sum(units)
        s = whole("s", s, 1, depth)
        first = whole("first", first, 1, depth)
        choice("stem", stem, get_args(Stem))
        choice("head", head, get_args(Head))
        head_width = whole("head_width", head_width, 8, 2048)

        blocks: list[nn.Module] = []
        heads: dict[int, nn.Module] = {}
        channels = c
        for stage, count in enumerate(units):
            for _ in range(count):
                blocks.append(ResidualUnit(channels, c * 2**stage))
                channels = c * 2**stage
                if len(blocks) < first or (depth - len(blocks)) % s:
                    continue
                if head == "strided" and len(blocks) < depth:
                    heads[len(blocks) - 1] = StridedHead(channels, head_width, classes, act=True)
                else:
                    heads[len(blocks) - 1] = PooledHead(channels, classes)
        super().__init__(
            "resann", classes=classes, resolution_px=resolution_px, stem=bare_stem(stem, c), blocks=blocks, heads=heads
        )
        self.n, self.c, self.s, self.first, self.stem_kind = n, c, s, first, stem
        self.head_kind, self.head_width = head, head_width
        initialise(self)

    @property
    def arch(self) -> dict[str, Any]:
        """See :attr:`Trunk.arch`."""
        return {
            "name": "resann",
            "classes": self.classes,
            "n": self.n if isinstance(self.n, int) else list(self.n),
            "c": self.c,
            "s": self.s,
            "first": self.first,
            "resolution_px": self.resolution_px,
            "stem": self.stem_kind,
            "head": self.head_kind,
            "head_width": self.head_width,
        }
