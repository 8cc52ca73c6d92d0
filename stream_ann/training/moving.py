"""Small tensors on their way to a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["moved"]


def moved(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """``tensor`` on ``device``, without waiting for what the device still has to do.

    From ordinary memory a copy waits until the GPU has done everything before it, so that numbers of rows and labels of
    a batch would leave it idle while the next batch is prepared; from pinned memory it queues like everything else.

    Args:
        tensor: A tensor on the CPU, or one that is on the device already.
        device: Where it is wanted.
        dtype: Type it is wanted in; None for its own.
    """
    dtype = dtype or tensor.dtype
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.to(dtype).pin_memory().to(device, non_blocking=True)
    return tensor.to(device, dtype)
