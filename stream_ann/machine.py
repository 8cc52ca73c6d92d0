"""The machine that figures are measured on, and the versions that they were measured with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from stream_ann import __version__

__all__ = ["about_machine", "machine", "versions"]

PACKAGES = ("torch", "torchvision", "numpy", "av", "openvino", "onnxruntime", "opencv-python", "opencv-python-headless")


def machine() -> dict[str, Any]:
    """Processor, cores, memory and GPUs of this machine."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": None if memory is None else round(memory / 2**30, 1),
        "system": platform.system(),
        "gpus": gpus,
    }


def versions() -> dict[str, str]:
    """Versions of everything that a figure may depend on."""
    found = {"stream-ann": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def about_machine() -> dict[str, Any]:
    """The machine and the versions, as a report says them."""
    return machine() | {"versions": versions()}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
