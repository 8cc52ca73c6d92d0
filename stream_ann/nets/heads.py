"""Exit heads: from the features at some depth of a trunk to the logits."""

from __future__ import annotations

from torch import Tensor, nn

from stream_ann.nets.layers import conv_norm, global_average

__all__ = ["ConvHead", "NormHead", "PooledHead", "StridedHead"]


class PooledHead(nn.Module):
    """The predictor of the anytime ResNets: ReLU, global average pooling, linear (arXiv 1708.06832v2).

    Costs next to nothing, so it can stand after every unit. The features must be normalised, as ResANN's are: the last
    layer of each of its units is a batch norm.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.linear = nn.Linear(channels, classes)

    def forward(self, features: Tensor) -> Tensor:
        """float [B, channels, H, W] to logits, float [B, classes]."""
        logits: Tensor = self.linear(global_average(self.act(features)))
        return logits


class NormHead(PooledHead):
    """:class:`PooledHead` behind a batch norm of its own, for features that are not normalised."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor) -> Tensor:
        """float [B, channels, H, W] to logits, float [B, classes]."""
        return super().forward(self.norm(features))


class ConvHead(nn.Module):
    """1x1 convolution, batch norm, ReLU6, global average pooling, dropout, linear.

    With 1,280 channels it is EfficientNet's classifier (Tan and Le, arXiv 1905.11946, table 1); narrower, it serves as
    an auxiliary head: MBConv features are linear bottlenecks, too thin for a linear classifier of their own.

    Args:
        channels: Channels of the features.
        width: Channels after the convolution.
        classes: Number of logits.
        dropout: Chance of dropping a pooled feature in training.
        shrink: Side of the squares of features that are averaged before the convolution, which costs its square times
            less then; 1 for none.
    """

    def __init__(self, channels: int, width: int, classes: int, *, dropout: float = 0.0, shrink: int = 1) -> None:
        super().__init__()
        self.shrink = nn.AvgPool2d(shrink, ceil_mode=True) if shrink > 1 else nn.Identity()
        self.expand = conv_norm(channels, width, 1, eps=1e-3, momentum=0.01, act=nn.ReLU6())
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        """float [B, channels, H, W] to logits, float [B, classes]."""
        logits: Tensor = self.linear(self.dropout(global_average(self.expand(self.shrink(features)))))
        return logits


class StridedHead(nn.Module):
    """MSDNet's classifier: two strided 3x3 convolutions with batch norm and ReLU, average pooling, linear.

    Source: Huang et al., arXiv 1703.09844. At shallow exits it is far better than pooling alone: the features there are
    local, and its convolutions look at a larger part of the image.

    Args:
        channels: Channels of the features.
        width: Channels of both convolutions.
        classes: Number of logits.
        act: Apply ReLU to the features first, which those of a residual trunk need.
    """

    def __init__(self, channels: int, width: int, classes: int, *, act: bool = False) -> None:
        super().__init__()
        self.act = nn.ReLU() if act else nn.Identity()
        self.first = conv_norm(channels, width, 3, stride=2, act=nn.ReLU())
        self.second = conv_norm(width, width, 3, stride=2, act=nn.ReLU())
        self.linear = nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        """float [B, channels, H, W] to logits, float [B, classes]."""
        logits: Tensor = self.linear(global_average(self.second(self.first(self.act(features)))))
        return logits
