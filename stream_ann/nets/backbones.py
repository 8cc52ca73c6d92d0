"""torchvision's classification networks, cut into steps at their stage or block boundaries."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stream_ann.errors import UsageError, nearest
from stream_ann.nets.checks import MAX_CLASSES, MAX_RESOLUTION_PX, choice, whole
from stream_ann.nets.heads import ConvHead, NormHead
from stream_ann.nets.layers import initialise
from stream_ann.nets.trunk import Trunk

__all__ = ["Backbone", "Cut", "HeadKind", "backbones"]

Cut = Literal["stage", "block"]
"""Where a backbone has its exits (see :class:`Backbone`)."""

HeadKind = Literal["conv", "pooled"]
"""What an auxiliary exit is made of (see :class:`Backbone`)."""

_MIN_RESOLUTION_PX = 32  # the least that every family can halve as often as it does


@dataclass(frozen=True, slots=True)
class _Parts:
    """A torchvision network taken apart."""

    stem: nn.Module
    stages: list[list[nn.Module]]
    tail: nn.Module  # from the features of the last block to the logits


class Backbone(Trunk):
    """A torchvision classification network with exits.

    Its own classifier is the last exit, and gives the same logits as the untouched network with the same weights. The
    others are auxiliary heads. Known are the families resnet, resnext, wide_resnet, convnext, efficientnet (v1 and v2),
    mobilenet_v2, mobilenet_v3, regnet and vit; :func:`backbones` lists their networks.

    Weights start out as torchvision's own do, in auxiliary heads as :func:`stream_ann.nets.layers.initialise` says;
    nothing is downloaded unless :meth:`load_torchvision` is asked to. A vision transformer runs at any resolution: its
    positional embeddings are interpolated where it is not ``resolution_px``, and pixels beyond the last whole patch are
    left out.

    Args:
        network: Name of the network, e.g. ``"resnet50"``.
        classes: Number of classes.
        resolution_px: Side of the input images, at least 32; of a vision transformer, a multiple of its patch size.
        cut: ``"stage"``: an exit behind each stage. Where a network has no named stages, one ends before each halving
            of the resolution (mobilenet), or is a quarter of the layers (vit). ``"block"``: behind each block.
        head: ``"conv"``: auxiliary exits are 1x1 convolution, batch norm, ReLU6, average pooling, linear; at a high
            resolution that is not cheap. ``"pooled"``: batch norm, ReLU, average pooling, linear, next to nothing. A
            vision transformer's exits always are layer norm and linear on the class token.
        head_width: Channels of the convolution in ``"conv"`` heads, 8 to 2048.

    Raises:
        UsageError: The network is unknown, or another argument is out of range.
    """

    def __init__(
        self,
        network: str,
        *,
        classes: int = 1000,
        resolution_px: int = 224,
        cut: Cut = "stage",
        head: HeadKind = "conv",
        head_width: int = 256,
    ) -> None:
        take_apart = _family(network)
        classes = whole("classes", classes, 1, MAX_CLASSES)
        resolution_px = whole("resolution_px", resolution_px, _MIN_RESOLUTION_PX, MAX_RESOLUTION_PX)
        choice("cut", cut, get_args(Cut))
        choice("head", head, get_args(HeadKind))
        head_width = whole("head_width", head_width, 8, 2048)

        source = _make(network, classes, resolution_px)
        theirs = {id(tensor): name for name, tensor in source.state_dict(keep_vars=True).items()}
        parts = take_apart(source)
        blocks = [block for stage in parts.stages for block in stage]
        heads: dict[int, nn.Module] = {}
        end = -1
        for stage in parts.stages:
            end += len(stage)
            for i in range(end - len(stage) + 1, end + 1) if cut == "block" else (end,):
                heads[i] = _auxiliary(head, blocks[i], classes, head_width, tokens=isinstance(parts.tail, TokenHead))
        heads[len(blocks) - 1] = parts.tail
        super().__init__(
            network, classes=classes, resolution_px=resolution_px, stem=parts.stem, blocks=blocks, heads=heads
        )
        self.network, self.cut, self.head, self.head_width = network, cut, head, head_width
        ours = self.state_dict(keep_vars=True).items()
        self._names = {name: theirs[id(tensor)] for name, tensor in ours if id(tensor) in theirs}
        assert len(self._names) == len(theirs), "a part of the network was lost"

    @property
    def arch(self) -> dict[str, Any]:
        """See :attr:`Trunk.arch`."""
        return {
            "name": "torchvision",
            "network": self.network,
            "classes": self.classes,
            "resolution_px": self.resolution_px,
            "cut": self.cut,
            "head": self.head,
            "head_width": self.head_width,
        }

    @property
    def torchvision_names(self) -> dict[str, str]:
        """What torchvision calls each tensor of this net's state dict; those of auxiliary heads are not in it."""
        return dict(self._names)

    @torch.no_grad()
    def load_torchvision(self, weights: nn.Module | Mapping[str, Tensor] | str) -> tuple[str, ...]:
        """Copy the weights of a torchvision network of the same name into this one.

        Positional embeddings of another resolution are interpolated. A classifier for another number of classes is left
        out; auxiliary heads have no counterpart.

        Args:
            weights: The network, or its state dict, or the name of published weights, e.g. ``"DEFAULT"`` or
                ``"IMAGENET1K_V2"``, which torchvision then downloads.

        Returns:
            torchvision's names of the tensors that were left out: none, or the classifier's weight and bias.

        Raises:
            UsageError: No published weights of that name, the weights are those of another network, or no weights.
        """
        if isinstance(weights, str):
            weights = _published(self.network, weights)
        given = weights.state_dict() if isinstance(weights, nn.Module) else weights
        remedy = f"give the weights of torchvision's {self.network}"
        own = self.state_dict()
        for name in self._names.values():
            if name not in given:
                raise UsageError(f"the weights have no '{name}'", remedy)
        unknown = sorted(set(given) - set(self._names.values()))
        if unknown:
            raise UsageError(f"the weights have a '{unknown[0]}' that {self.network} has not", remedy)

        classifier = self._classifier_names()
        taken: dict[str, Tensor] = {}
        left_out: list[str] = []
        for name, theirs in self._names.items():
            tensor = given[theirs]
            if tensor.shape != own[name].shape and name == "stem.positions" and tensor.ndim == 3:
                tensor = resized_positions(tensor, math.isqrt(own[name].shape[1] - 1))
            if tensor.shape == own[name].shape:
                taken[name] = tensor
            elif name in classifier and tensor.shape[1:] == own[name].shape[1:]:
                left_out.append(theirs)
            else:
                what = f"'{theirs}' has shape {list(tensor.shape)}, not {list(own[name].shape)}"
                raise UsageError(what, remedy)
        for name, tensor in taken.items():
            own[name].copy_(tensor)
        return tuple(left_out)

    def _classifier_names(self) -> set[str]:
        """This net's names of the weight and the bias of the last linear layer."""
        last = [name for name, layer in self.named_modules() if isinstance(layer, nn.Linear)][-1]
        assert last.startswith(f"heads.{len(self.blocks) - 1}.")
        return {f"{last}.weight", f"{last}.bias"}


def backbones() -> tuple[str, ...]:
    """The names that :class:`Backbone` knows, sorted."""
    from torchvision import models  # takes half a second

    return tuple(name for name in sorted(models.list_models(module=models)) if _matching(name))


def _make(network: str, classes: int, resolution_px: int) -> Any:
    from torchvision import models

    options = {}
    if network.startswith("vit_"):
        patch_px = int(network.rsplit("_", 1)[1])
        if resolution_px % patch_px:
            raise UsageError(f"resolution_px is {resolution_px}", f"for {network} it must be a multiple of {patch_px}")
        options["image_size"] = resolution_px
    with _NumbersOnCPU():
        return models.get_model(network, weights=None, num_classes=classes, **options)


class _NumbersOnCPU(TorchFunctionMode):
    """Keeps the tensors on the CPU that regnet reckons its widths and depths with, also where weights have no data."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.arange, torch.tensor):
            kwargs = {"device": "cpu", **kwargs}
        return func(*args, **kwargs)


def _published(network: str, name: str) -> Mapping[str, Tensor]:
    from torchvision import models

    known = models.get_model_weights(network).__members__
    if name not in known:
        raise UsageError(f"torchvision has no weights '{name}' for {network}", nearest(name, known))
    try:
        # The hash is checked of what is downloaded, and it is short; a file that is there already is read as it is.
        return cast(Mapping[str, Tensor], known[name].get_state_dict(check_hash=True, weights_only=True))
    except (pickle.UnpicklingError, EOFError) as error:
        remedy = "delete it from torchvision's folder of checkpoints, to have it downloaded again"
        raise UsageError(f"the file of the weights '{name}' for {network} holds more than tensors", remedy) from error


def _auxiliary(kind: HeadKind, block: nn.Module, classes: int, width: int, *, tokens: bool) -> nn.Module:
    # Every block ends with a convolution or linear layer, or a shortcut with one, which has the block's channels.
    last = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d | nn.Linear)][-1]
    channels = last.out_channels if isinstance(last, nn.Conv2d) else last.out_features
    made: nn.Module
    if tokens:
        made = TokenHead(nn.LayerNorm(channels, eps=1e-6), nn.Linear(channels, classes))
    else:
        made = ConvHead(channels, width, classes) if kind == "conv" else NormHead(channels, classes)
    initialise(made)
    return made


class TokenStem(nn.Module):
    """What a vision transformer does before its first layer (arXiv 2010.11929, equation 1).

    Args:
        source: torchvision's VisionTransformer.
    """

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.project: nn.Module = source.conv_proj
        self.class_token: nn.Parameter = source.class_token
        self.positions: nn.Parameter = source.encoder.pos_embedding
        self.dropout: nn.Module = source.encoder.dropout

    def forward(self, images: Tensor) -> Tensor:
        """float [B, 3, H, W] to tokens, float [B, 1 + patches, channels], the class token first."""
        patches = self.project(images)
        positions: Tensor = self.positions
        if patches.shape[-1] * patches.shape[-2] + 1 != positions.shape[1]:
            positions = resized_positions(positions, patches.shape[-1])
        tokens = torch.cat((self.class_token.expand(images.shape[0], -1, -1), patches.flatten(2).transpose(1, 2)), 1)
        out: Tensor = self.dropout(tokens + positions)
        return out


class TokenHead(nn.Module):
    """Layer norm and a classifier on the class token.

    Args:
        norm: From float [B, channels] to the same.
        classifier: From float [B, channels] to logits.
    """

    def __init__(self, norm: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.classifier = classifier

    def forward(self, tokens: Tensor) -> Tensor:
        """float [B, 1 + patches, channels] to logits, float [B, classes]."""
        logits: Tensor = self.classifier(self.norm(tokens[:, 0]))
        return logits


def resized_positions(positions: Tensor, side: int) -> Tensor:
    """Positional embeddings float [1, 1 + n * n, channels], the class token's first, for ``side`` * ``side`` patches.

    Bicubic interpolation, as torchvision does when it takes weights over to another resolution.
    """
    count, channels = positions.shape[1] - 1, positions.shape[2]
    old = math.isqrt(count)
    if old * old != count:
        raise UsageError(f"positional embeddings of {count} patches", "they must be of a square")
    grid = positions[:, 1:].transpose(1, 2).reshape(1, channels, old, old)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=True)
    return torch.cat((positions[:, :1], grid.flatten(2).transpose(1, 2)), 1)


def _resnet(source: Any) -> _Parts:
    stages = [[*layer] for layer in (source.layer1, source.layer2, source.layer3, source.layer4)]
    # A block calls its convolution and then its batch norm. Both in the place of the first, in one Sequential, are the
    # same function, and an engine can fold them (see :mod:`stream_ann.nets.layers`).
    for block in (block for stage in stages for block in stage):
        for i in ("1", "2", "3"):
            if hasattr(block, f"conv{i}"):
                pair = nn.Sequential(getattr(block, f"conv{i}"), getattr(block, f"bn{i}"))
                setattr(block, f"conv{i}", pair)
                setattr(block, f"bn{i}", nn.Identity())
    stem = nn.Sequential(source.conv1, source.bn1, source.relu, source.maxpool)
    return _Parts(stem, stages, nn.Sequential(source.avgpool, nn.Flatten(1), source.fc))


def _regnet(source: Any) -> _Parts:
    stages = [[*stage] for stage in source.trunk_output]
    return _Parts(source.stem, stages, nn.Sequential(source.avgpool, nn.Flatten(1), source.fc))


def _convnext(source: Any) -> _Parts:
    stem, *rest = source.features
    stages = [[*stage] for stage in rest[::2]]
    for stage, shrink in zip(stages[1:], rest[1::2], strict=True):
        stage[0] = nn.Sequential(shrink, stage[0])
    return _Parts(stem, stages, nn.Sequential(source.avgpool, source.classifier))


def _efficientnet(source: Any) -> _Parts:
    stem, *stages, last = source.features
    tail = nn.Sequential(last, source.avgpool, nn.Flatten(1), source.classifier)
    return _Parts(stem, [[*stage] for stage in stages], tail)


def _mobilenet(source: Any) -> _Parts:
    stem, *blocks, last = source.features
    stages: list[list[nn.Module]] = []
    for block in blocks:
        halves = any(isinstance(layer, nn.Conv2d) and layer.stride[0] > 1 for layer in block.modules())
        if halves or not stages:
            stages.append([])
        stages[-1].append(block)
    return _Parts(stem, stages, nn.Sequential(last, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), source.classifier))


def _vit(source: Any) -> _Parts:
    layers = [*source.encoder.layers]
    quarter = len(layers) // 4
    stages = [layers[i : i + quarter] for i in range(0, len(layers), quarter)]
    return _Parts(TokenStem(source), stages, TokenHead(source.encoder.ln, source.heads))


_FAMILIES: Mapping[str, Callable[[Any], _Parts]] = {
    r"resnet\d+|resnext\d+_\w+|wide_resnet\d+_\d+": _resnet,
    r"convnext_\w+": _convnext,
    r"efficientnet_\w+": _efficientnet,
    r"mobilenet_v[23]\w*": _mobilenet,
    r"regnet_\w+": _regnet,
    r"vit_\w+": _vit,
}


def _matching(network: str) -> Callable[[Any], _Parts] | None:
    return next((take_apart for names, take_apart in _FAMILIES.items() if re.fullmatch(names, network)), None)


def _family(network: Any) -> Callable[[Any], _Parts]:
    known = backbones()
    take_apart = _matching(network) if isinstance(network, str) and network in known else None
    if take_apart is None:
        raise UsageError(f"there is no backbone {str(network)[:64]!r}", nearest(str(network)[:64], known))
    return take_apart
