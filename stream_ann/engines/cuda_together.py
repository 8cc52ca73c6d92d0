"""One step of several frames as one batch, on the CUDA engine's device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_ann.engines.cuda_bank import WARM_UPS, Bank, Program, zeroing
from stream_ann.engines.cuda_device import Device, HostBuffer, Work
from stream_ann.engines.cuda_intake import Launcher
from stream_ann.nets.contract import State

__all__ = ["COUNTS", "Together"]

COUNTS = (2, 4, 8)
"""Numbers of frames that graphs are captured for. What lies between takes the next larger one."""


@dataclass
class _Size:
    """Buffers for a number of frames, and a launch for each step."""

    count: int
    images: dict[int, Tensor]
    """By resolution R: [count, 3, R, R]."""
    rows: list[HostBuffer]
    """Of each step: float32 [count * classes]."""
    states: list[State]
    launches: list[Work] = field(default_factory=list)


class Together:
    """Graphs of each step for several frames at once, on a stream of their own.

    What the frames' banks hold for the step is copied together, and what the step leaves for the next one is copied
    back, so that any frames may be run together, and each may go on by itself.

    Args:
        device: The device.
        program: What runs.
        most: The most frames that there are.
        launcher: Makes launches.
    """

    def __init__(self, device: Device, program: Program, most: int, launcher: Launcher) -> None:
        self._program = program
        self._stream = device.stream("together", urgent=True)
        self._pool = self._stream.pool()
        self._done = device.event("together")
        self._sizes = [self._opened(device, count, launcher) for count in COUNTS if count <= most]

    def run(self, step: int, banks: Sequence[Bank]) -> NDArray[np.float32]:
        """Run a step for frames in different banks and wait: float32 [len(banks), classes], in their order.

        Raises:
            ValueError: If the step cannot be run now in one of them; then it is run in none.
        """
        for bank in banks:
            bank.check(step)
        largest = self._sizes[-1].count
        return np.concatenate([self._run(step, banks[i : i + largest]) for i in range(0, len(banks), largest)])

    def _run(self, step: int, banks: Sequence[Bank]) -> NDArray[np.float32]:
        steps, stream = self._program.plan.steps, self._stream
        size = next(size for size in self._sizes if size.count >= len(banks))
        info = steps[step]
        lent = [bank.lend(step) for bank in banks]
        for bank in banks:
            stream.wait(bank.lent_event)
        into = (size.images[info.resolution_px],) if info.first else size.states[step - 1]
        stream.run(lambda: _gather(lent, into))
        size.launches[step]()
        if step + 1 < len(steps) and not steps[step + 1].first:
            places = [bank.state(step) for bank in banks]
            stream.run(lambda: _scatter(size.states[step], places))
        stream.record(self._done)
        for bank in banks:
            bank.give_back(step, self._done)
        self._done.wait()
        rows: NDArray[np.float32] = size.rows[step].read()
        return rows.reshape(size.count, -1)[: len(banks)]

    def _opened(self, device: Device, count: int, launcher: Launcher) -> _Size:
        plan, dtype, stream = self._program.plan, self._program.dtype, self._stream
        size = _Size(
            count,
            {px: stream.empty((count, 3, px, px), dtype) for px in {step.resolution_px for step in plan.steps}},
            [device.host_buffer(count * plan.classes, torch.float32) for _ in plan.steps],
            [()] * len(plan),
        )
        works = [self._work(size, step) for step in range(len(plan))]
        for images in size.images.values():
            stream.run(zeroing(images))
        for _ in range(WARM_UPS):
            for work in works:
                stream.run(work)
        stream.record(self._done)
        self._done.wait()
        size.launches = [launcher.launch(stream, work, self._pool) for work in works]
        return size

    def _work(self, size: _Size, step: int) -> Work:
        program, states = self._program, size.states
        info = program.plan.steps[step]
        images, module, temperature = size.images[info.resolution_px], program.steps[step], program.temperatures[step]
        rows = size.rows[step].tensor.view(size.count, -1)

        def work() -> None:
            with torch.inference_mode():
                states[step], logits = module(images, () if info.first else states[step - 1])
                rows.copy_(torch.softmax(logits.float() / temperature, dim=1), non_blocking=True)

        return work


def _gather(frames: Sequence[State], into: State) -> None:
    """Copy tensors [1, ...] of each frame into those of the batch, [count, ...]."""
    with torch.inference_mode():
        for number, tensors in enumerate(frames):
            for one, batch in zip(tensors, into, strict=True):
                batch[number].copy_(one[0])


def _scatter(batch: State, places: Sequence[State]) -> None:
    """Copy the batch's tensors [count, ...] into those of each frame, [1, ...]."""
    with torch.inference_mode():
        for number, tensors in enumerate(places):
            for one, many in zip(tensors, batch, strict=True):
                one[0].copy_(many[number])
