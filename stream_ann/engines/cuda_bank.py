"""One frame's place on the CUDA engine's device: all buffers that it needs, and a launch for each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from stream_ann.engines.cuda_device import Device, Event, HostBuffer, Stream, Work
from stream_ann.engines.cuda_intake import Intake, Launcher, Uploads
from stream_ann.lanes import Answer
from stream_ann.nets.contract import Plan, State, Step
from stream_ann.preprocess import Preprocessing

__all__ = ["WARM_UPS", "Bank", "Program", "zeroing"]

WARM_UPS = 3
"""How often each step runs before it is captured: libraries choose their kernels and allocate meanwhile."""


@dataclass(frozen=True)
class Program:
    """What all banks run."""

    plan: Plan
    steps: Sequence[Step]
    """On the device, ready for inference."""
    dtype: torch.dtype
    temperatures: Sequence[float]
    preprocessing: Preprocessing


@dataclass(frozen=True)
class _Exit:
    """What is kept of a step between its launch and the reading of its answer."""

    row: HostBuffer
    begun: Event
    done: Event


class Bank:
    """Buffers for one frame, and the launches of all steps on them, which run on one stream.

    Several banks may share a stream and the way to the device. Steps follow each other in the order of the plan, from
    the first step of any member on.

    Args:
        device: The device.
        stream: Where the steps run.
        uploads: The way to the device.
        program: What runs.
        launcher: Makes launches.
    """

    def __init__(self, device: Device, stream: Stream, uploads: Uploads, program: Program, launcher: Launcher) -> None:
        plan, dtype = program.plan, program.dtype
        self.stream = stream
        # its own: banks of one stream take turns step by step, and what one has left must outlast the others' steps
        self._pool = stream.pool()
        self._program, self._launcher = program, launcher
        self._inputs = {px: stream.empty((1, 3, px, px), dtype) for px in {s.resolution_px for s in plan.steps}}
        self._states: list[State] = [()] * len(plan)
        """What each step left behind. Graphs read it where it lies, so each is kept."""
        self._exits = [
            _Exit(device.host_buffer(plan.classes, torch.float32), device.event("begun"), device.event("done"))
            for _ in plan.steps
        ]
        self._intake = Intake(device, stream, self._pool, uploads, self._inputs, program.preprocessing, launcher)
        self.lent_event = device.event("lent")
        """Past once what was lent can be read."""
        self._launches: list[Work] = []
        self._last_step: int | None = None
        self._started = False

    def open(self, *, warm_up: bool) -> None:
        """Warm up and capture; must come before anything else. One bank of each stream must warm up, the first one."""
        works = [self._work(step) for step in range(len(self._exits))]
        for images in self._inputs.values():
            self.stream.run(zeroing(images))
        for _ in range(WARM_UPS if warm_up else 0):
            for work in works:
                self.stream.run(work)
        done = self._exits[-1].done
        self.stream.record(done)
        done.wait()  # whatever fails should do so here rather than in a capture
        self._launches = [self._launcher.launch(self.stream, work, self._pool) for work in works]

    def relaunch(self) -> None:
        """Launch kernel by kernel from here on, because a capture failed: the launcher makes nothing else by now."""
        self._launches = [
            self._launcher.launch(self.stream, self._work(step), self._pool) for step in range(len(self._exits))
        ]

    def start(self, square: NDArray[np.uint8]) -> None:
        """Take in a picture, the centre square uint8 [S, S, 3]; it may change as soon as this returns."""
        self._last_step = None
        self._started = True
        self._intake.start(square)

    def forget(self) -> None:
        """Hold no picture any more."""
        self._started = False

    def check(self, step: int) -> None:
        """Make sure that a step can be run now.

        Raises:
            ValueError: If it cannot.
        """
        if not self._started:
            raise ValueError("no picture yet: call start() first")
        if not self._program.plan.steps[step].first and self._last_step != step - 1:
            raise ValueError(f"step {step} needs the state of step {step - 1}, the last one run was {self._last_step}")

    def launch(self, step: int) -> None:
        """Enqueue a step.

        Raises:
            ValueError: If the step cannot be run now.
        """
        self.check(step)
        info = self._program.plan.steps[step]
        at = self._exits[step]
        if info.first:
            self._intake.arrive()
        self.stream.record(at.begun)
        if info.first:
            self._intake.make(info.resolution_px)
        self._launches[step]()
        self.stream.record(at.done)
        self._last_step = step

    def answer(self, step: int, timeout_s: float | None) -> Answer | None:
        """The answer of a step that was launched for this picture, or None if it is not there in time."""
        at = self._exits[step]
        if not at.done.wait(timeout_s):
            return None
        return Answer(at.row.read(), at.done.seconds_since(at.begun))

    def lend(self, step: int) -> State:
        """What a step reads, to be read on another stream behind ``lent_event``; see :meth:`give_back`."""
        info = self._program.plan.steps[step]
        if info.first:
            self._intake.arrive()
            self._intake.make(info.resolution_px)
        self.stream.record(self.lent_event)
        return (self._inputs[info.resolution_px],) if info.first else self._states[step - 1]

    def state(self, step: int) -> State:
        """Where a step leaves what the next one reads."""
        return self._states[step]

    def give_back(self, step: int, done: Event) -> None:
        """Go on behind ``done``, by which a step was run on what was lent."""
        self.stream.wait(done)
        self._last_step = step

    def begun(self, step: int) -> Event:
        """Past once the device has begun with a step that was launched."""
        return self._exits[step].begun

    def _work(self, step: int) -> Work:
        program, states = self._program, self._states
        info = program.plan.steps[step]
        images, module, temperature = self._inputs[info.resolution_px], program.steps[step], program.temperatures[step]
        row = self._exits[step].row.tensor

        def work() -> None:
            with torch.inference_mode():
                states[step], logits = module(images, () if info.first else states[step - 1])
                row.copy_(torch.softmax(logits[0].float() / temperature, dim=0), non_blocking=True)

        return work


def zeroing(images: torch.Tensor) -> Work:
    """Work that fills a static input with zeros."""

    def work() -> None:
        images.zero_()

    return work
