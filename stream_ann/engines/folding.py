"""Folding batch norms into the convolutions before them: the same function with a fifth of the kernels less."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from stream_ann.nets.contract import AnytimeNet

__all__ = ["fold_batch_norms"]


def fold_batch_norms(net: AnytimeNet) -> AnytimeNet:
    """Fold every batch norm that stands right behind a convolution in an ``nn.Sequential`` into it, in place.

    By the nets' convention (see :mod:`stream_ann.nets.layers`) that is every batch norm that follows a convolution.
    Batch norms that come first, as in pre-activation units, stay.

    Args:
        net: A net in evaluation mode, that will only be used for inference.

    Returns:
        The same net.
    """
    assert not net.training, "only running statistics can be folded"
    for sequence in net.modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        for i in range(len(sequence) - 1):
            conv, norm = sequence[i], sequence[i + 1]
            if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
                continue
            assert norm.running_mean is not None
            assert norm.running_var is not None
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            sequence[i + 1] = nn.Identity()
    return net
