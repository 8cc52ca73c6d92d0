"""What every engine does while it is opened: check, warm up, and time each step."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from stream_ann.engines.times import BatchTimes
from stream_ann.errors import DeviceError
from stream_ann.lanes import LaneEngine

__all__ = ["checked_temperatures", "device_error", "time_steps", "time_together"]

WARM_UP_PX = (360, 640)
"""Height and width of the picture that the steps are timed on."""

TIMED_TOGETHER = (2, 4, 8)
"""The numbers of lanes that are timed together; more would take long, and are estimated from these."""


def checked_temperatures(temperatures: Sequence[float] | None, exits: int) -> list[float]:
    """A temperature for each exit, 1 by default.

    Raises:
        ValueError: If there are not as many as exits, or one is not positive.
    """
    checked = [1.0] * exits if temperatures is None else list(temperatures)
    if len(checked) != exits or not all(t > 0 for t in checked):
        raise ValueError(f"temperatures must be {exits} positive numbers, got {checked}")
    return checked


def device_error(device: object, error: RuntimeError) -> DeviceError:
    """What torch or another runtime says of its device, in one line."""
    lines = str(error).strip().split("\n")
    # OpenVINO begins with where in its own code it was
    said = next((line for line in lines if not line.startswith(("Exception from ", "Check '"))), lines[0])
    if isinstance(error, torch.OutOfMemoryError):
        return DeviceError(f"device '{device}' is out of memory", "free some, or use --device cpu")
    return DeviceError(f"device '{device}' failed: {said}", "try --device cpu, or see: stream-ann doctor")


def time_steps(engine: LaneEngine, runs: int) -> tuple[float, ...]:
    """Median time of each step in lane 0, in seconds, with its share of the preprocessing.

    Args:
        engine: The engine; what its lane 0 holds afterwards is of no use.
        runs: How often each step is timed, after one more run that warms up.
    """
    noise = np.random.default_rng(0).integers(0, 256, (*WARM_UP_PX, 3), dtype=np.uint8)
    times_s = np.zeros((runs + 1, len(engine.plan)))
    for run in range(runs + 1):
        engine.start(noise)
        for step in range(len(engine.plan)):
            begun_s = time.perf_counter()
            engine.run(step)
            times_s[run, step] = time.perf_counter() - begun_s
    return tuple(np.median(times_s[1:], axis=0).tolist())


def time_together(engine: LaneEngine, times: BatchTimes, step_s: Sequence[float]) -> None:
    """Time each step for several lanes together: as many as ``TIMED_TOGETHER`` says, as far as there are lanes.

    Args:
        engine: The engine, whose ``run_together`` adds to ``times``; what its lanes hold afterwards is of no use.
        times: Where the times go.
        step_s: Time of each step for one frame, in seconds.
    """
    noise = np.random.default_rng(0).integers(0, 256, (*WARM_UP_PX, 3), dtype=np.uint8)
    counts = [count for count in TIMED_TOGETHER if count <= engine.lanes]

    def all_counts() -> None:
        for count in counts:
            for lane in range(count):
                engine.start(noise, lane=lane)
            for step in range(len(engine.plan)):
                engine.run_together(step, range(count))

    all_counts()  # warms up
    times.forget()
    for step, seconds in enumerate(step_s):
        times.add(step, 1, seconds)
    all_counts()
