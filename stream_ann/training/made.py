"""A made-up data set that can be learnt: for tests, trying things out and timing, without a file."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stream_ann.errors import UsageError
from stream_ann.training.memory import MemorySplit, PixelStore
from stream_ann.training.randomness import generator
from stream_ann.training.split import Data

__all__ = ["synthetic"]

_CHUNK = 1024
"""Images made at a time, to bound the memory for their floating-point form."""


def synthetic(classes: int, images: int, resolution_px: int, seed: int) -> Data:
    """Coloured stripes under noise. A class is a direction of the stripes and a pair of colours.

    Phase, width of the stripes, brightness and noise vary from image to image. Half of what tells classes apart is
    coarse (the colours), half is fine (the direction), so that early exits have something to get wrong.

    Args:
        classes: Number of classes, 2 or more, named ``pattern-00`` and so on.
        images: Images to train on, as equally many of each class as possible. A quarter as many, and at least one of
            each class, are there to evaluate on.
        resolution_px: Side of the images, 4 or more.
        seed: The same seed makes the same images.

    Raises:
        UsageError: There are fewer than two classes, fewer images than classes, or the images are too small.
    """
    if classes < 2:
        raise UsageError(f"training needs two classes or more, got {classes}")
    if images < classes:
        raise UsageError(f"{images} images are too few for {classes} classes", "make at least one of each")
    if resolution_px < 4:
        raise UsageError(f"the images must be 4 pixels wide or more, got {resolution_px}")
    names = tuple(f"pattern-{number:02d}" for number in range(classes))
    splits = []
    for part, count in enumerate((images, max(classes, images // 4))):
        labels = torch.arange(count) % classes
        chunks = [
            _striped(chunk, classes, resolution_px, generator("made", seed, part, number))
            for number, chunk in enumerate(torch.split(labels, _CHUNK))
        ]
        splits.append(MemorySplit(PixelStore.of_batch(torch.cat(chunks)), labels, names))
    return Data(f"synthetic-{classes}", splits[0], splits[1], resolution_px=resolution_px)


def _striped(labels: Tensor, classes: int, resolution_px: int, random: torch.Generator) -> Tensor:
    """uint8 [B, R, R, 3]."""
    count = len(labels)
    # Neighbouring classes share their colours in pairs and differ in direction by a right angle.
    hue = (labels // 2).float() / math.ceil(classes / 2)
    angle = math.pi * (0.5 * (labels % 2) + hue / 2) + 0.15 * torch.randn(count, generator=random)
    phase, width, light = torch.rand(3, count, generator=random)
    stripes = 2 + 2 * width  # periods across the image
    grid = torch.linspace(0, 1, resolution_px)
    along = angle.cos()[:, None, None] * grid + angle.sin()[:, None, None] * grid[:, None]
    wave = torch.sin(2 * math.pi * (stripes[:, None, None] * along + phase[:, None, None]))
    third = torch.arange(3) / 3
    first = 0.5 + 0.5 * torch.cos(2 * math.pi * (hue[:, None] - third))
    second = 0.5 + 0.5 * torch.cos(2 * math.pi * (hue[:, None] + 0.35 - third))
    share = 0.5 + 0.5 * wave[..., None]
    values = share * first[:, None, None] + (1 - share) * second[:, None, None]
    values = values * (0.6 + 0.4 * light[:, None, None, None])
    values += 0.15 * torch.randn(values.shape, generator=random)
    striped: Tensor = (values * 255).round().clamp(0, 255).to(torch.uint8)
    return striped
