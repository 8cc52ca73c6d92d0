"""Several processes that train one net together, as ``torchrun`` starts them.

Each process runs every ``world``-th row of the joint batch, and gradients are averaged before each step, so that the
run is the one that a single process would make with the joint batch. Gradients are reduced here rather than by
``DistributedDataParallel``: a net of several members goes backward once for each member, and which exits take part
changes from iteration to iteration, neither of which its hooks allow without a search for unused parameters.

On GPUs batch norms see the joint batch (``SyncBatchNorm``). On CPUs, for which torch has none, each process uses the
statistics of its own rows, and the running statistics are averaged; only with ``freeze_norms`` or a net without batch
norms is the run then the same as with one process. Mixup and cutmix mix the images of one process with each other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stream_ann.errors import DeviceError, UsageError, nearest

__all__ = ["Group", "device_for", "joined"]

_BUCKET_BYTES = 25 << 20
"""Gradients are reduced together up to this size, as torch does by default."""
_TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others: one may be decoding a data set."""


@dataclass(frozen=True, slots=True)
class Group:
    """The processes that train together; alone, nothing is communicated."""

    rank: int = 0
    """Number of this process."""
    world: int = 1
    """How many there are."""

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over all processes.

        All must have gradients for the same parameters, which they do: they train the same exits.
        """
        if self.world == 1:
            return
        bucket: list[Tensor] = []
        size = 0
        for parameter in parameters:
            if parameter.grad is None:
                continue
            bytes_ = parameter.grad.numel() * parameter.grad.element_size()
            if bucket and (size + bytes_ > _BUCKET_BYTES or bucket[0].dtype != parameter.grad.dtype):
                self._average(bucket)
                bucket, size = [], 0
            bucket.append(parameter.grad)
            size += bytes_
        self._average(bucket)

    def average_buffers(self, net: nn.Module) -> None:
        """Replace each floating-point buffer (running statistics) by its mean over all processes."""
        if self.world > 1:
            self._average([buffer for buffer in net.buffers() if buffer.is_floating_point()])

    def mean(self, values: Tensor) -> Tensor:
        """The mean of ``values`` over all processes."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.world
        return values

    def total(self, values: Tensor) -> Tensor:
        """The sum of ``values`` over all processes."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether ``flag`` is true in any process."""
        if self.world == 1:
            return flag
        return bool(self.total(torch.tensor(float(flag), device=device)) > 0)

    def align(self, net: nn.Module) -> None:
        """Give every process the parameters and buffers of the first."""
        if self.world > 1:
            for tensor in (*net.parameters(), *net.buffers()):
                dist.broadcast(tensor.data, src=0)

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.world > 1:
            dist.barrier()

    def _average(self, tensors: list[Tensor]) -> None:
        if not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.world
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view(tensor.shape))
            start += tensor.numel()


@contextmanager
def joined(device: torch.device) -> Iterator[Group]:
    """The group that ``torchrun`` put this process into; a group of one if it did not.

    What a program has joined already is used as it is, and not left.

    Args:
        device: Where the net is: GPUs talk through NCCL, CPUs through Gloo.

    Raises:
        UsageError: The environment that torchrun sets is incomplete.
    """
    if dist.is_available() and dist.is_initialized():
        yield Group(dist.get_rank(), dist.get_world_size())
        return
    world = _from_environment("WORLD_SIZE", 1)
    if world == 1:
        yield Group()
        return
    rank = _from_environment("RANK", None)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=world, timeout=_TIMEOUT)
    try:
        yield Group(rank, world)
    finally:
        dist.destroy_process_group()


def device_for(name: str) -> torch.device:
    """The device that a user asked for; one of several processes gets the GPU of its local rank for ``"auto"``.

    Args:
        name: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Raises:
        DeviceError: If it does not exist here.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    local = _from_environment("LOCAL_RANK", 0)
    if name == "cpu" or (name == "auto" and gpus == 0):
        return torch.device("cpu")
    if name in ("auto", "cuda"):
        name = f"cuda:{local}"
    there = ["auto", "cpu", *(f"cuda:{i}" for i in range(gpus))]
    if name not in there:
        known = name.startswith("cuda:") and name.removeprefix("cuda:").isdigit()
        if known:
            raise DeviceError(f"device '{name}' is not available: torch sees {gpus} CUDA GPU(s) here", "use cpu")
        raise DeviceError(f"no device is called '{name}'", nearest(name, there))
    return torch.device(name)


def _from_environment(name: str, default: int | None) -> int:
    value = os.environ.get(name, "" if default is None else str(default))
    if not value.isdigit():
        raise UsageError(f"the environment variable {name} is {value!r}", "start several processes by torchrun")
    return int(value)
