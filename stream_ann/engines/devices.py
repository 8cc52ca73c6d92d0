"""Which devices there are."""

from __future__ import annotations

import os
import re

import torch

from stream_ann.errors import DeviceError, UsageError, nearest

__all__ = ["cpu_threads", "device_named", "devices"]

MOST_THREADS = 1024
"""Where threads cannot be made, the libraries below torch end the process, and none is of use beyond the cores."""


def devices() -> list[str]:
    """Names of the devices that can be asked for, the best first."""
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] + ["cpu"]


def device_named(name: str) -> torch.device:
    """The device that a user asked for.

    Args:
        name: ``"auto"`` (the first GPU where there is one, else the CPU), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Raises:
        DeviceError: If it does not exist here.
    """
    there = devices()
    if name == "auto":
        return torch.device(there[0])
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise DeviceError(f"no device is called '{name}'", nearest(name, ["auto", *there]))
    full = "cuda:0" if name == "cuda" else name
    if full not in there:
        why = "torch sees no CUDA GPU here" if there == ["cpu"] else f"torch sees {len(there) - 1} CUDA GPU(s) here"
        raise DeviceError(f"device '{name}' is not available: {why}", "use --device auto, or see: stream-ann doctor")
    return torch.device(full)


def cpu_threads(asked: int | None = None) -> int:
    """How many threads a network should use on this machine's CPU, so that decoding is not starved.

    By default one core is left to the reader thread. Threads that wait for each other in turn collapse as soon as
    another thread wants one of their cores: see ``benchmarks/steps.py``, which measures it.

    Args:
        asked: How many they are to be instead.

    Raises:
        UsageError: If it is not from 1 to 1024.
    """
    if asked is not None:
        if not 1 <= asked <= MOST_THREADS:
            raise UsageError(f"threads must be from 1 to {MOST_THREADS}, got {asked}")
        return asked
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    return max(1, cores - 1)
