"""What a run takes of the machine that it is measured on."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from pipelines.benchmarking.results import Usage

__all__ = ["Meter", "busy_s"]

POWERCAP = Path("/sys/class/powercap")
STAT = Path("/proc/stat")
SAMPLE_S = 0.1
"""How often the GPU is asked what it does."""


class Meter:
    """Measures, while in its block, processor time, also of all other programs, the GPU's work, and energy where the
    machine tells.

    Energy of processors comes from Linux's powercap counters (RAPL), which only root may read on most systems; that of
    NVIDIA GPUs from NVML, where the package nvidia-ml-py is installed.
    """

    def __init__(self) -> None:
        self._gpus = _Gpus()
        self._stop = threading.Event()
        self._samples: list[float] = []
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._gpus.handles:
            self._thread = threading.Thread(target=self._watch, name="stream-ann bench meter", daemon=True)
            self._thread.start()
        self._joules = _joules(), self._gpus.joules()
        self._busy_s = busy_s()
        self._cpu_s, self._wall_s = time.process_time(), time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._cpu_s = time.process_time() - self._cpu_s
        self._wall_s = max(1e-9, time.monotonic() - self._wall_s)
        self._busy_s = _less(busy_s(), self._busy_s)
        self._spent = _less(_joules(), self._joules[0]), _less(self._gpus.joules(), self._joules[1])
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)
        self._gpus.close()

    @property
    def other_cores(self) -> float | None:
        """What everything else on the machine took, after the block, in cores; None where nothing tells."""
        return None if self._busy_s is None else max(0.0, self._busy_s - self._cpu_s) / self._wall_s

    def usage(self, frames: int, late_s: Sequence[float]) -> Usage:
        """What was taken, after the block.

        Args:
            frames: How many frames arrived.
            late_s: How late each was put in, in seconds.
        """
        told = [joules for joules in self._spent if joules is not None]
        return Usage(
            cpu_cores=self._cpu_s / self._wall_s,
            other_cores=self.other_cores,
            gpu=float(np.mean(self._samples)) if self._samples else None,
            joules_per_frame=sum(told) / frames if told else None,
            camera_late_ms=1e3 * float(np.percentile(late_s, 99)) if len(late_s) else 0.0,
        )

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self._samples.append(self._gpus.busy())


class _Gpus:
    """NVIDIA's management library, where there is one."""

    def __init__(self) -> None:
        self.handles: list[Any] = []
        self._nvml: Any = None
        try:
            import pynvml

            pynvml.nvmlInit()
        except Exception:  # not installed, or no driver: nothing tells
            return
        self._nvml = pynvml
        self.handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]

    def busy(self) -> float:
        """Share of the last moments in which the busiest GPU worked, 0 to 1."""
        return max((self._nvml.nvmlDeviceGetUtilizationRates(h).gpu / 100 for h in self.handles), default=0.0)

    def joules(self) -> float | None:
        """Energy since the driver was loaded."""
        try:
            told = [self._nvml.nvmlDeviceGetTotalEnergyConsumption(h) / 1e3 for h in self.handles]
        except Exception:  # older cards do not count
            return None
        return sum(told) if told else None

    def close(self) -> None:
        if self._nvml is not None:
            self._nvml.nvmlShutdown()


def _joules(root: Path = POWERCAP) -> float | None:
    """Energy that the processor packages' counters say, in joules; None where they are missing or closed."""
    total, found = 0, False
    try:
        for zone in sorted(root.glob("intel-rapl:*")):
            if zone.name.count(":") == 1:  # a package; what is inside it has two
                total += int((zone / "energy_uj").read_text())
                found = True
    except (OSError, ValueError):
        return None
    return total / 1e6 if found else None


def busy_s(file: Path = STAT) -> float | None:
    """Processor time that all programs took since the machine was started, and that other guests of the same host kept
    it waiting, in seconds; None where nothing tells."""
    try:
        ticks = [int(number) for number in file.read_text().split("\n", 1)[0].split()[1:9]]
        user, nice, system, _, _, hard, soft, stolen = ticks
    except (OSError, ValueError):
        return None
    return (user + nice + system + hard + soft + stolen) / os.sysconf("SC_CLK_TCK")


def _less(after: float | None, before: float | None) -> float | None:
    """The difference; None where nothing tells, or the counter began anew in between."""
    if after is None or before is None or after < before:
        return None
    return after - before
