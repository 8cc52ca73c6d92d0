"""Variations of training images, drawn per image and applied to whole batches on their device."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stream_ann.errors import UsageError
from stream_ann.preprocess import Interpolation, centre_square
from stream_ann.training.moving import moved
from stream_ann.training.photometric import jitter_colour, trivial_augment
from stream_ann.training.randomness import JointBatch

__all__ = ["Augment", "Variation", "default_augment", "mix"]

_TRIES = 10
"""Boxes tried for a random resized crop before the largest allowed one in the middle is taken."""


@dataclass(frozen=True, slots=True)
class Augment:
    """How training images are varied. The defaults vary nothing: the centre square, as it is.

    Raises:
        UsageError: A value makes no sense, or two of them exclude each other.
    """

    flip: float = 0.0
    """Probability that an image is mirrored left to right, 0 to 1. Not for text, digits or gestures with a side."""
    crop_padding_px: int = 0
    """For small images: the square is framed by this many black pixels, and one of its own size is cut out anywhere."""
    crop_scale: tuple[float, float] | None = None
    """For photographs: a box with between these shares of the picture's area is cut out anywhere and resized to the
    square (Szegedy et al., arXiv 1409.4842, section 6). None: no such crop."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and greatest ratio of that box's width to its height."""
    colour: float = 0.0
    """Colour jitter: brightness, contrast and saturation each times a factor from 1 - colour to 1 + colour. 0: none."""
    trivial: bool = False
    """One random operation of random strength an image, TrivialAugment Wide (Müller and Hutter, arXiv 2103.10158)."""
    interpolation: Interpolation = "bilinear"
    """How boxes are resized, always with antialiasing."""

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1:
            raise UsageError(f"flip must be a probability from 0 to 1, got {self.flip}")
        if self.crop_padding_px < 0:
            raise UsageError(f"crop_padding_px must be 0 or more, got {self.crop_padding_px}")
        if self.crop_scale is not None and not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise UsageError(f"crop_scale must be two rising shares over 0 and up to 1, got {self.crop_scale}")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1] < math.inf:
            raise UsageError(f"crop_ratio must be two rising positive numbers, got {self.crop_ratio}")
        if self.crop_scale is not None and self.crop_padding_px:
            raise UsageError("crop_scale and crop_padding_px exclude each other", "set one of them")
        if not 0 <= self.colour <= 1:
            raise UsageError(f"colour must be from 0 to 1, got {self.colour}")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise UsageError(f"invalid interpolation {self.interpolation!r}, allowed are bicubic, bilinear")

    def draw(self, batch: JointBatch) -> Variation:
        """What happens to each of this process's images of a batch."""
        return Variation(self, batch)


def default_augment(data_resolution_px: int, resolution_px: int) -> Augment:
    """The usual variation: mirrored, with padded crops for small images and resized crops for photographs.

    Args:
        data_resolution_px: ``Data.resolution_px``.
        resolution_px: Side of the images that are trained on.
    """
    if 0 < data_resolution_px <= 64 and resolution_px <= 64:
        return Augment(flip=0.5, crop_padding_px=max(1, round(resolution_px / 8)))
    return Augment(flip=0.5, crop_scale=(0.35, 1.0), interpolation="bicubic")


class Variation:
    """What an Augment drew for one batch: the same, whichever process asks for its rows.

    All numbers are drawn for the joint batch, whether they are used or not, so that one option does not change what the
    others draw.

    Args:
        augment: The options.
        batch: The batch.
    """

    def __init__(self, augment: Augment, batch: JointBatch) -> None:
        self._augment = augment
        random = batch.generator()
        size = batch.size
        self.crops: NDArray[np.float64] = batch.mine(
            torch.rand(size, _TRIES, 4, dtype=torch.float64, generator=random)
        ).numpy()
        """Uniform numbers from which ``box`` makes a box, float64 [B, tries, 4]."""
        shifts = torch.rand(size, 2, generator=random)
        self._shifts = batch.mine((shifts * (2 * augment.crop_padding_px + 1)).long())
        self._flips = batch.mine(torch.rand(size, generator=random) < augment.flip)
        self._factors = batch.mine(1 + augment.colour * (2 * torch.rand(size, 3, generator=random) - 1))
        self._trivial = batch.mine(torch.rand(size, 3, generator=random))

    def boxes(self, sizes_px: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each image is cut: top, left, height and width in pixels, int64 [B, 4], for sizes (h, w) [B, 2]."""
        augment = self._augment
        if augment.crop_scale is None:
            return centre_boxes(sizes_px, 1.0)
        return random_boxes(sizes_px, self.crops, augment.crop_scale, augment.crop_ratio)

    def apply(self, images: Tensor) -> Tensor:
        """Everything that comes after the resizing, on the images' device.

        Args:
            images: uint8 [B, R, R, 3]; may be overwritten.

        Returns:
            uint8 [B, 3, R, R], channels-last in memory.
        """
        augment, device = self._augment, images.device
        if augment.crop_padding_px:
            images = _shifted(images, self._shifts, augment.crop_padding_px)
        if augment.flip:
            chosen = moved(self._flips.nonzero()[:, 0], device)
            images[chosen] = images[chosen].flip(2)
        planes = images.permute(0, 3, 1, 2)
        if augment.trivial:
            planes = trivial_augment(planes, self._trivial)
        if augment.colour:
            planes = jitter_colour(planes, self._factors)
        return planes.contiguous(memory_format=torch.channels_last)


def centre_boxes(sizes_px: NDArray[np.int64], crop: float) -> NDArray[np.int64]:
    """The centre squares of pictures: top, left, height, width in pixels, int64 [B, 4], for sizes (h, w) [B, 2]."""
    if len(sizes_px) and (sizes_px == sizes_px[0]).all():
        top, left, side = centre_square(int(sizes_px[0, 0]), int(sizes_px[0, 1]), crop)
        return np.tile(np.array([top, left, side, side]), (len(sizes_px), 1))
    squares = (centre_square(int(h), int(w), crop) for h, w in sizes_px)
    return np.array([(top, left, side, side) for top, left, side in squares], np.int64).reshape(-1, 4)


def random_boxes(
    sizes_px: NDArray[np.int64],
    drawn: NDArray[np.float64],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> NDArray[np.int64]:
    """Random boxes inside pictures, uniform in area, in the logarithm of their ratio and in place.

    Args:
        sizes_px: Height and width of each picture, int64 [B, 2].
        drawn: Uniform numbers, float64 [B, tries, 4]. The first try whose box fits into the picture counts; where none
            does, the largest middle box of an allowed ratio is taken.
        scale: Least and greatest share of the picture's area.
        ratio: Least and greatest width to height.

    Returns:
        Top, left, height and width in pixels, int64 [B, 4].
    """
    height, width = sizes_px[:, 0], sizes_px[:, 1]
    area = (height * width)[:, None] * (scale[0] + (scale[1] - scale[0]) * drawn[..., 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = np.exp(low + (high - low) * drawn[..., 1])
    w = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    h = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (w >= 1) & (h >= 1) & (w <= width[:, None]) & (h <= height[:, None])
    rows, first = np.arange(len(sizes_px)), fits.argmax(1)
    w, h, drawn = w[rows, first], h[rows, first], drawn[rows, first]
    top = (drawn[:, 2] * (height - h + 1)).astype(np.int64)
    left = (drawn[:, 3] * (width - w + 1)).astype(np.int64)
    for row in np.flatnonzero(~fits.any(1)):
        full_h, full_w = int(height[row]), int(width[row])
        h[row] = min(full_h, max(1, round(full_w / ratio[0])))
        w[row] = min(full_w, max(1, round(full_h * ratio[1])))
        top[row], left[row] = (full_h - h[row]) // 2, (full_w - w[row]) // 2
    return np.stack([top, left, h, w], 1)


def mix(
    images: Tensor, labels: Tensor, classes: int, *, mixup: float, cutmix: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Blend each image with its neighbour in the batch by torchvision's MixUp or CutMix, and their labels with them.

    With both, each batch is given one of them at even chance. Rows are paired inside the batch that is handed in: with
    several processes, each pairs its own.

    Args:
        images: Floating point [B, 3, R, R].
        labels: Class numbers, int64 [B].
        classes: Number of classes C.
        mixup: Parameter of the Beta distribution of MixUp (Zhang et al., arXiv 1710.09412); 0 for none.
        cutmix: Likewise of CutMix (Yun et al., arXiv 1905.04899); 0 for none.
        generator: Where the random numbers come from, on the CPU.

    Returns:
        The images, and target probabilities float32 [B, C]; without either the images as they are and one-hot targets.

    Raises:
        UsageError: A parameter is negative.
    """
    for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
        if not 0 <= alpha < math.inf:
            raise UsageError(f"{name} must be 0 or more, got {alpha}")
    if not (mixup or cutmix):
        return images, F.one_hot(labels, classes).float()
    from torchvision.transforms import v2  # takes a second to import, and labelling needs other parts of this room

    chosen = [v2.MixUp(alpha=mixup, num_classes=classes)] if mixup else []
    chosen += [v2.CutMix(alpha=cutmix, num_classes=classes)] if cutmix else []
    which = int(torch.randint(len(chosen), (), generator=generator))
    seed = int(torch.randint(2**62, (), generator=generator))
    # torchvision draws from the global generator of the CPU. It is lent a seed and put back; those of other devices
    # are left alone.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        mixed, targets = chosen[which](images, labels)
    return mixed, targets.float()


def _shifted(images: Tensor, shifts: Tensor, padding_px: int) -> Tensor:
    """Each image of uint8 [B, R, R, 3] padded with black and cut at its shift, int64 [B, 2] from 0 to 2 padding_px."""
    count, side = images.shape[:2]
    padded = F.pad(images, (0, 0, padding_px, padding_px, padding_px, padding_px))
    full, places = side + 2 * padding_px, 2 * padding_px + 1
    # Every possible cut as a view of the padded images; the indexing copies the wanted ones in one go.
    row = full * 3
    cuts = padded.as_strided((count, places, places, side, side, 3), (full * row, row, 3, row, 3, 1))
    shifts = moved(shifts, images.device)
    return cuts[torch.arange(count, device=images.device), shifts[:, 0], shifts[:, 1]]
