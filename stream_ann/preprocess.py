"""From a picture to a network's input: the centre square, resized and normalised, the same way on every device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Interpolation", "Preprocessing", "centre_square", "normalised", "preprocess", "resized"]

Interpolation = Literal["bicubic", "bilinear"]
"""How pixels are resampled, always with antialiasing."""

_MAX_REDUCTION = 16
"""How far a picture is reduced by one resampling off the CPU: torch's antialiasing kernels keep their filter in the
shared memory of a block (48 KiB on CUDA) and refuse to run where it does not fit, at about three times this."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What a network expects its images to have been through."""

    mean: tuple[float, float, float]
    """Mean of each channel (R, G, B), subtracted from values that were scaled to 0..1."""
    std: tuple[float, float, float]
    """Standard deviation of each channel, divided by after that."""
    crop: float = 0.875
    """Side of the centre square that is looked at, as a fraction of the picture's shorter side, over 0 and up to 1."""
    interpolation: Interpolation = "bicubic"
    """How the square is resized."""

    def __post_init__(self) -> None:
        for field, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(math.isfinite(v) for v in values):
                raise ValueError(f"{field} must be three finite numbers, got {values!r}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std!r}")
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop must be over 0 and at most 1, got {self.crop!r}")
        if self.interpolation not in get_args(Interpolation):
            allowed = ", ".join(get_args(Interpolation))
            raise ValueError(f"invalid interpolation {self.interpolation!r}, allowed are {allowed}")

    @property
    def scales_and_shifts(self) -> tuple[list[float], list[float]]:
        """What values 0 to 255 of each channel are multiplied by, and what is then added, to normalise them."""
        scales = [1 / (255 * std) for std in self.std]
        shifts = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        return scales, shifts

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {
            "mean": list(self.mean),
            "std": list(self.std),
            "crop": self.crop,
            "interpolation": self.interpolation,
        }


def centre_square(height_px: int, width_px: int, crop: float) -> tuple[int, int, int]:
    """Top, left and side in pixels of the centre square that spans ``crop`` of the shorter side, at least a pixel."""
    side = max(1, round(crop * min(height_px, width_px)))
    return (height_px - side) // 2, (width_px - side) // 2, side


def preprocess(
    image: Tensor | NDArray[np.uint8],
    resolution_px: int,
    preprocessing: Preprocessing,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Make a network's input from a picture.

    The centre square is cut out first and then resized. The classic order of ImageNet evaluation, resizing the whole
    picture to ``resolution / crop`` and then cutting, resamples pixels that it throws away: 2.3 times as many on a 16:9
    frame with the usual crop of 0.875. Both orders look at the same region up to a shift of less than one pixel of the
    result, since each rounds its box to whole pixels on a grid of its own: where both boxes are whole, the results
    differ by 0.02 grey levels on average.

    On the CPU the picture stays 8-bit and channels-last while it is resized, for which torch has a vectorised path that
    gives what Pillow gives, up to one grey level. Elsewhere it is resized as float32 and rounded, which differs by 0.2
    grey levels on average: the 8-bit path also rounds and clips between its horizontal and its vertical pass.

    Args:
        image: The picture, uint8 [H, W, 3] RGB, or several of one size, uint8 [B, H, W, 3]. An array may be read-only
            or have any strides; neither it nor a tensor is written to. A tensor is worked on where it lies.
        resolution_px: Side R of the result in pixels. Smaller pictures are enlarged.
        preprocessing: What the network expects.
        dtype: Floating-point type of the result.

    Returns:
        ``dtype`` [1, 3, R, R] or [B, 3, R, R], channels-last in memory, on the device of the picture (arrays: CPU).

    Raises:
        ValueError: The picture has another type or shape or no pixels, or the resolution is not positive.
    """
    return normalised(resized(image, resolution_px, preprocessing), preprocessing, dtype)


def resized(image: Tensor | NDArray[np.uint8], resolution_px: int, preprocessing: Preprocessing) -> Tensor:
    """The first half of :func:`preprocess`: the centre square at the network's resolution, not normalised.

    Args:
        image, resolution_px, preprocessing: As in :func:`preprocess`.

    Returns:
        [B, 3, R, R] with whole values 0 to 255, channels-last in memory: uint8 on the CPU, float32 elsewhere.

    Raises:
        ValueError: As :func:`preprocess` does.
    """
    if image.dtype not in (torch.uint8, np.uint8) or image.ndim not in (3, 4) or image.shape[-1] != 3:
        raise ValueError(f"image must be uint8 [H, W, 3] or [B, H, W, 3], got {image.dtype} {list(image.shape)}")
    height, width = image.shape[-3:-1]
    if 0 in image.shape:
        raise ValueError(f"image has no pixels, its shape is {list(image.shape)}")
    if resolution_px < 1:
        raise ValueError(f"resolution_px must be positive, got {resolution_px}")

    top, left, side = centre_square(height, width, preprocessing.crop)
    square = image[..., top : top + side, left : left + side, :]
    if isinstance(square, np.ndarray):
        # A copy of the square alone: contiguous, and torch cannot warn that it might write to a read-only frame.
        square = torch.from_numpy(np.array(square, order="C"))
    if square.ndim == 3:
        square = square[None]
    # [B, 3, side, side] whose memory is still [B, side, side, 3]: what torch calls channels-last.
    square = square.permute(0, 3, 1, 2)
    return _resize(square, resolution_px, preprocessing.interpolation)


def _resize(square: Tensor, resolution_px: int, interpolation: Interpolation) -> Tensor:
    """``square`` uint8 [B, 3, S, S] as [B, 3, R, R] with values 0 to 255: uint8 on the CPU, float32 elsewhere."""
    size = (resolution_px, resolution_px)
    square = square.contiguous(memory_format=torch.channels_last)
    if square.shape[-2:] == size:
        return square
    if square.device.type == "cpu":
        return F.interpolate(square, size=size, mode=interpolation, antialias=True)
    return _resize_float(square.float(), resolution_px, interpolation)


def _resize_float(values: Tensor, resolution_px: int, interpolation: Interpolation) -> Tensor:
    """``values`` float32 [B, 3, S, S] from 0 to 255 as [B, 3, R, R], rounded to what 8 bits can hold."""
    block = math.ceil(values.shape[-1] / resolution_px / _MAX_REDUCTION)
    if block > 1:
        # Averages whole blocks first, which are narrower than the filter that follows. Blocks that stick out at the
        # edge average the pixels that they have.
        values = F.avg_pool2d(values, block, ceil_mode=True, count_include_pad=False)
    values = F.interpolate(values, size=(resolution_px, resolution_px), mode=interpolation, antialias=True)
    return values.round_().clamp_(0, 255)  # bicubic overshoots at edges


def normalised(values: Tensor, preprocessing: Preprocessing, dtype: torch.dtype = torch.float32) -> Tensor:
    """``values`` [B, 3, R, R] from 0 to 255, scaled to 0..1, less the mean, divided by the standard deviation."""
    scales, shifts = preprocessing.scales_and_shifts
    images = values.to(torch.float32, memory_format=torch.channels_last)
    if len(set(scales)) == len(set(shifts)) == 1:
        # Numbers instead of [1, 3, 1, 1] tensors: three times as fast on the CPU, and nothing to copy to a device.
        images = images.mul_(scales[0]).add_(shifts[0])
    else:
        for channel, (scale, shift) in enumerate(zip(scales, shifts, strict=True)):
            images[:, channel].mul_(scale).add_(shift)
    # Last, so that half-precision results are rounded once.
    return images.to(dtype, memory_format=torch.channels_last)
