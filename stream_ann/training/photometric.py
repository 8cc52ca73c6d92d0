"""Colours and shapes of 8-bit images varied, each image by an amount of its own, without a loop over images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from stream_ann.training.moving import moved

__all__ = ["OPERATIONS", "jitter_colour", "trivial_augment"]

_LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in grey, as torchvision has them (ITU-R BT.601)."""


def jitter_colour(images: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast and saturation of each image times factors of its own, in this order.

    Args:
        images: uint8 [B, 3, H, W].
        factors: For each image the three factors, float [B, 3], 0 or more; 1 changes nothing.

    Returns:
        uint8 [B, 3, H, W].
    """
    brightness, contrast, saturation = moved(factors, images.device, torch.float32)[:, :, None, None, None].unbind(1)
    values = (images.float() * brightness).clamp_(0, 255)
    values = _blend(values, _grey(values).mean((2, 3), keepdim=True), contrast)
    return _to_uint8(_blend(values, _grey(values), saturation))


def trivial_augment(images: Tensor, drawn: Tensor) -> Tensor:
    """TrivialAugment Wide: one operation an image, all alike likely, of any of 31 strengths, in either direction.

    Args:
        images: uint8 [B, 3, H, W].
        drawn: Uniform numbers from 0 to 1, float [B, 3]: operation, strength and direction of each image.

    Returns:
        uint8 [B, 3, H, W].
    """
    names = list(OPERATIONS)
    which = (drawn[:, 0] * len(names)).long().clamp(max=len(names) - 1)
    strength = (drawn[:, 1] * 31).floor().clamp(max=30) / 30
    signed = torch.where(drawn[:, 2] < 0.5, -strength, strength)
    out = images.clone()
    for number, name in enumerate(names):
        rows = (which == number).nonzero()[:, 0]
        if len(rows) and name != "identity":
            on_device = moved(rows, images.device)
            amounts = moved(torch.stack([strength[rows], signed[rows]], 1), images.device)
            out[on_device] = OPERATIONS[name](images[on_device], amounts)
    return out


def _grey(values: Tensor) -> Tensor:
    red, green, blue = values.unbind(1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).unsqueeze(1)


def _blend(values: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (factor * values + (1 - factor) * other).clamp_(0, 255)


def _to_uint8(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


def _factor(amounts: Tensor) -> Tensor:
    """1 plus or minus up to 0.99, [B, 1, 1, 1]."""
    return (1 + 0.99 * amounts[:, 1])[:, None, None, None]


def _brightness(images: Tensor, amounts: Tensor) -> Tensor:
    return _to_uint8(images.float() * _factor(amounts))


def _colour(images: Tensor, amounts: Tensor) -> Tensor:
    values = images.float()
    return _to_uint8(_blend(values, _grey(values), _factor(amounts)))


def _contrast(images: Tensor, amounts: Tensor) -> Tensor:
    values = images.float()
    return _to_uint8(_blend(values, _grey(values).mean((2, 3), keepdim=True), _factor(amounts)))


def _sharpness(images: Tensor, amounts: Tensor) -> Tensor:
    values = images.float()
    if min(values.shape[-2:]) < 3:
        return images
    kernel = torch.ones(3, 3, device=values.device)
    kernel[1, 1] = 5
    blurred = values.clone()
    blurred[..., 1:-1, 1:-1] = F.conv2d(values, (kernel / kernel.sum()).expand(3, 1, 3, 3), groups=3)
    return _to_uint8(_blend(values, blurred, _factor(amounts)))


def _posterize(images: Tensor, amounts: Tensor) -> Tensor:
    dropped_bits = (6 * amounts[:, 0]).round().long()
    mask = (255 >> dropped_bits) << dropped_bits
    return images & mask.to(torch.uint8)[:, None, None, None]


def _solarize(images: Tensor, amounts: Tensor) -> Tensor:
    threshold = (255 * (1 - amounts[:, 0]))[:, None, None, None]
    return torch.where(images >= threshold, 255 - images, images)


def _warp(images: Tensor, matrix: Tensor) -> Tensor:
    """Each image seen through its matrix, float [B, 2, 3]: from places in the result to places in the image, in pixels
    from the centre. The nearest pixel is taken, and black outside, as torchvision does."""
    height, width = images.shape[-2:]
    y = torch.arange(height, device=images.device) - (height - 1) / 2
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    places = torch.stack(
        [x.expand(height, width), y[:, None].expand(height, width), torch.ones_like(x * y[:, None])], -1
    )
    seen = torch.einsum("hwk,bjk->bhwj", places, matrix)
    scale = torch.tensor([2 / width, 2 / height], device=images.device)
    return F.grid_sample(images.float(), seen * scale, mode="nearest", align_corners=False).to(torch.uint8)


def _matrix(rows: int, device: torch.device) -> Tensor:
    return torch.eye(2, 3, device=device).repeat(rows, 1, 1)


def _shear(axis: int) -> Callable[[Tensor, Tensor], Tensor]:
    def apply(images: Tensor, amounts: Tensor) -> Tensor:
        matrix = _matrix(len(images), images.device)
        shear = 0.99 * amounts[:, 1]
        matrix[:, axis, 1 - axis] = shear
        # Sheared about the top left corner, as in the reference.
        matrix[:, axis, 2] = shear * images.shape[2 + axis] / 2
        return _warp(images, matrix)

    return apply


def _translate(axis: int) -> Callable[[Tensor, Tensor], Tensor]:
    def apply(images: Tensor, amounts: Tensor) -> Tensor:
        matrix = _matrix(len(images), images.device)
        matrix[:, axis, 2] = -(32 * amounts[:, 1]).trunc()
        return _warp(images, matrix)

    return apply


def _rotate(images: Tensor, amounts: Tensor) -> Tensor:
    angle = amounts[:, 1] * math.radians(135)
    matrix = _matrix(len(images), images.device)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
    matrix[:, 0, 1], matrix[:, 1, 0] = -angle.sin(), angle.sin()
    return _warp(images, matrix)


def _autocontrast(images: Tensor, amounts: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional as V  # takes a second to import

    return cast(Tensor, V.autocontrast(images))


def _equalize(images: Tensor, amounts: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional as V

    return cast(Tensor, V.equalize(images))


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": lambda images, amounts: images,
    "shear-x": _shear(0),
    "shear-y": _shear(1),
    "translate-x": _translate(0),
    "translate-y": _translate(1),
    "rotate": _rotate,
    "brightness": _brightness,
    "colour": _colour,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
"""The operations of TrivialAugment Wide with torchvision's ranges. Each takes images uint8 [B, 3, H, W] and amounts
float [B, 2]: the strength from 0 to 1, and the same with its direction."""
