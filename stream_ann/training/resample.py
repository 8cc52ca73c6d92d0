"""Many boxes of many pictures resized to one size, antialiased: one by one on the CPU, all at once elsewhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stream_ann.preprocess import Interpolation

__all__ = ["resample_weights", "resize_batch", "resize_boxes", "resize_picture"]

_CUBIC_A = -0.5
"""Keys' cubic with this parameter is what Pillow uses, and torch where it antialiases."""


def resize_picture(picture: Tensor, height_px: int, width_px: int, interpolation: Interpolation) -> Tensor:
    """One picture, uint8 [H, W, 3] on the CPU, as [height_px, width_px, 3]: what Pillow gives, up to one grey level."""
    if picture.shape[:2] == (height_px, width_px):
        return picture
    planes = picture.permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last)
    resized = F.interpolate(planes, size=(height_px, width_px), mode=interpolation, antialias=True)
    return resized[0].permute(1, 2, 0)


def resize_boxes(pieces: list[Tensor], resolution_px: int, interpolation: Interpolation) -> Tensor:
    """Boxes that were cut out of pictures, each resized to a square.

    Args:
        pieces: The boxes, uint8 [h, w, 3] each, of any sizes, all on one device.
        resolution_px: Side R of the result.
        interpolation: How they are resized, always with antialiasing.

    Returns:
        uint8 [B, R, R, 3] on the same device. On the CPU exactly what ``preprocess`` makes of the same boxes before it
        normalises them; elsewhere within a grey level or two of that.
    """
    device = pieces[0].device
    if device.type == "cpu":
        out = torch.empty(len(pieces), resolution_px, resolution_px, 3, dtype=torch.uint8)
        for row, piece in zip(out, pieces, strict=True):
            row.copy_(resize_picture(piece, resolution_px, resolution_px, interpolation))
        return out
    sizes = torch.tensor([piece.shape[:2] for piece in pieces])
    height, width = sizes.amax(0).tolist()
    canvas = torch.zeros(len(pieces), height, width, 3, dtype=torch.uint8, device=device)
    for row, piece in zip(canvas, pieces, strict=True):
        row[: piece.shape[0], : piece.shape[1]] = piece
    return _resize_canvas(canvas, sizes, resolution_px, interpolation)


def resize_batch(images: Tensor, resolution_px: int, interpolation: Interpolation) -> Tensor:
    """Images of one size, uint8 [B, h, w, 3], resized as by ``resize_boxes``; as they are where they fit already."""
    size = (resolution_px, resolution_px)
    if images.shape[1:3] == size:
        return images.contiguous()
    if images.device.type == "cpu":
        planes = images.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        return F.interpolate(planes, size=size, mode=interpolation, antialias=True).permute(0, 2, 3, 1).contiguous()
    return _resize_canvas(images, torch.tensor([images.shape[1:3]]), resolution_px, interpolation)


def _resize_canvas(canvas: Tensor, sizes: Tensor, resolution_px: int, interpolation: Interpolation) -> Tensor:
    """Pictures in the top left corners of uint8 [B, H, W, 3], of their sizes (h, w) int64 [B or 1, 2], resized.

    Resizing is linear, and rows and columns apart: two matrix products a picture instead of hundreds of small kernels.
    """
    height, width = canvas.shape[1:3]
    sizes = sizes.to(canvas.device)  # the matrices are made there: on the host that took longer than all the rest
    down = resample_weights(sizes[:, 0], resolution_px, height, interpolation)
    across = resample_weights(sizes[:, 1], resolution_px, width, interpolation)
    planes = canvas.permute(0, 3, 1, 2).float()
    resized = torch.matmul(down[:, None], torch.matmul(planes, across[:, None].transpose(-1, -2)))
    return resized.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def resample_weights(lengths: Tensor, out: int, longest: int, interpolation: Interpolation) -> Tensor:
    """The matrices that resize rows of pixels.

    Args:
        lengths: How many pixels each row has, int64 [B].
        out: How many it is to have.
        longest: Columns of the matrices, at least the greatest length; those past a row's length are zero.
        interpolation: The filter, widened by the reduction where pixels get fewer, as Pillow does.

    Returns:
        float32 [B, out, longest], where ``lengths`` is; every row sums to 1.
    """
    scale = (lengths.double() / out)[:, None, None]
    where = lengths.device
    centre = (torch.arange(out, dtype=torch.float64, device=where)[None, :, None] + 0.5) * scale
    pixel = torch.arange(longest, dtype=torch.float64, device=where)[None, None, :]
    distance = ((pixel + 0.5 - centre) / scale.clamp(min=1)).abs()
    if interpolation == "bilinear":
        weights = (1 - distance).clamp(min=0)
    else:
        a = _CUBIC_A
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = a * (((distance - 5) * distance + 8) * distance - 4)
        weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    weights = weights * (pixel < lengths[:, None, None])
    return (weights / weights.sum(-1, keepdim=True)).float()
