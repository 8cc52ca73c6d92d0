"""What every benchmark's JSON says besides its figures: machine, versions, command, seed, data."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stream_ann import __version__
from stream_ann.whole_files import whole_file

__all__ = ["machine", "versions", "write"]


def machine() -> dict[str, Any]:
    """Processor, cores, memory and GPUs of this machine."""
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
    packages = (
        "torch",
        "torchvision",
        "numpy",
        "openvino",
        "onnxruntime",
        "av",
        "opencv-python",
        "opencv-python-headless",
    )
    found = {"stream-ann": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write(path: Path, name: str, results: Any, args: Mapping[str, Any]) -> None:
    """Write a benchmark's JSON, whole or not at all.

    Args:
        path: The file.
        name: The benchmark's module name, e.g. ``"steps"``.
        results: Its figures, as plain JSON values.
        args: Its options, seed and data among them.
    """
    options = {key: str(value) if isinstance(value, Path) else value for key, value in args.items()}
    # the folder of a data set says nothing that another machine could use: its name does
    command = shlex.join(["python", "-m", f"benchmarks.{name}", *(_portable(a) for a in sys.argv[1:])])
    report = {
        "benchmark": name,
        "command": command,
        "options": {key: _portable(value) if isinstance(value, str) else value for key, value in options.items()},
        "machine": machine(),
        "versions": versions(),
        "results": results,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write((json.dumps(report, indent=2, allow_nan=False) + "\n").encode())


def _portable(value: str) -> str:
    """An absolute path without the folders of this machine."""
    return Path(value).name if os.path.isabs(value) else value


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
