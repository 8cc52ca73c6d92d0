"""The reference engine: eager PyTorch on the CPU or a GPU."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_ann.engines.devices import cpu_threads
from stream_ann.engines.folding import fold_batch_norms
from stream_ann.errors import DeviceError
from stream_ann.nets.contract import AnytimeNet, Plan, State
from stream_ann.preprocess import Preprocessing, preprocess

__all__ = ["TorchEngine"]

WARM_UP_PX = (360, 640)
"""Height and width of the picture that the steps are timed on at opening."""


class TorchEngine:
    """Runs a plan step by step in eager PyTorch: batch norm folded, channels last, no gradients.

    Not for use from several threads at once. On the CPU it sets the process's number of torch threads.

    Args:
        net: The network whose plan is run. It is copied, not changed.
        preprocessing: How a picture becomes the network's input.
        device: Where it runs.
        temperatures: What the logits of each exit are divided by, so that its probabilities are calibrated (Guo et al.,
            ICML 2017); 1 for each by default.
        threads: Torch threads on the CPU; by default one core is left to the decoder.
        timing_runs: How often each step is timed at opening.

    Raises:
        DeviceError: If the device fails, e.g. for want of memory.
    """

    def __init__(
        self,
        net: AnytimeNet,
        preprocessing: Preprocessing,
        *,
        device: torch.device,
        temperatures: Sequence[float] | None = None,
        threads: int | None = None,
        timing_runs: int = 3,
    ) -> None:
        self._device = device
        self._preprocessing = preprocessing
        self._plan = net.plan()
        self._temperatures = [1.0] * len(self._plan) if temperatures is None else list(temperatures)
        if len(self._temperatures) != len(self._plan) or min(self._temperatures) <= 0:
            raise ValueError(f"temperatures must be {len(self._plan)} positive numbers, got {self._temperatures}")
        if device.type == "cpu":
            torch.set_num_threads(threads if threads is not None else cpu_threads())
        try:
            folded = fold_batch_norms(copy.deepcopy(net).eval().float().requires_grad_(False))
            folded = folded.to(device).to(memory_format=torch.channels_last)
            self._steps = folded.steps
            self._answers = torch.empty(
                len(self._plan), self._plan.classes, dtype=torch.float32, pin_memory=device.type == "cuda"
            )
            # A blocking event lets the waiting thread sleep instead of burning a core.
            self._done = torch.cuda.Event(blocking=True) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
            self._inputs: dict[int, Tensor] = {}
            self._state: State = ()
            self._last_step: int | None = None
            self._picture: NDArray[np.uint8] | Tensor | None = None
            self._step_s = self._time_steps(timing_runs)
        except RuntimeError as error:
            raise _device_error(device, error) from error

    @property
    def plan(self) -> Plan:
        """The steps that it runs."""
        return self._plan

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._device

    @property
    def step_s(self) -> Sequence[float]:
        """Median time of each step at opening, in seconds, with its share of the preprocessing."""
        return self._step_s

    def start(self, image: NDArray[np.uint8]) -> None:
        """Take in a new picture, uint8 [H, W, 3] RGB, and forget the one before.

        The picture must not change until the next call.
        """
        # Copied on the way to a GPU, since torch warns of sharing memory with a read-only array.
        self._picture = image if self._device.type == "cpu" else torch.from_numpy(image.copy()).to(self._device)
        self._inputs.clear()
        self._state = ()
        self._last_step = None

    def run(self, step: int) -> NDArray[np.float32]:
        """Run one step and wait for its answer.

        Args:
            step: The first step of a member, or the step after the one that ran last.

        Returns:
            The exit's probabilities, float32 [classes].

        Raises:
            ValueError: If the step cannot be run now.
            DeviceError: If the device fails.
        """
        info = self._plan.steps[step]
        if not info.first and self._last_step != step - 1:
            raise ValueError(f"step {step} needs the state of step {step - 1}, the last one run was {self._last_step}")
        try:
            with torch.inference_mode():
                state = () if info.first else self._state
                self._state, logits = self._steps[step](self._input(info.resolution_px), state)
                probabilities = torch.softmax(logits[0].float() / self._temperatures[step], dim=0)
                self._last_step = step
                return self._to_host(step, probabilities)
        except RuntimeError as error:
            raise _device_error(self._device, error) from error

    def close(self) -> None:
        """Let go of the device's memory. The engine cannot be used afterwards; may be called more than once."""
        self._steps = ()
        self._inputs.clear()
        self._state = ()
        self._picture = None

    def _input(self, resolution_px: int) -> Tensor:
        """The picture as the input of a resolution, made once per picture: members may share one."""
        if resolution_px not in self._inputs:
            if self._picture is None:
                raise ValueError("no picture yet: call start() first")
            self._inputs[resolution_px] = preprocess(self._picture, resolution_px, self._preprocessing)
        return self._inputs[resolution_px]

    def _to_host(self, step: int, probabilities: Tensor) -> NDArray[np.float32]:
        if self._done is None:
            return probabilities.numpy()
        row = self._answers[step]
        row.copy_(probabilities, non_blocking=True)
        self._done.record()
        self._done.synchronize()
        return row.numpy().copy()  # the row is written again for the next frame

    def _time_steps(self, runs: int) -> tuple[float, ...]:
        noise = np.random.default_rng(0).integers(0, 256, (*WARM_UP_PX, 3), dtype=np.uint8)
        times_s = np.zeros((runs + 1, len(self._plan)))
        for run in range(runs + 1):
            self.start(noise)
            for step in range(len(self._plan)):
                begun_s = time.perf_counter()
                self.run(step)
                times_s[run, step] = time.perf_counter() - begun_s
        return tuple(np.median(times_s[1:], axis=0).tolist())  # the first run warms up


def _device_error(device: torch.device, error: RuntimeError) -> DeviceError:
    first_line = str(error).strip().split("\n")[0]
    if isinstance(error, torch.OutOfMemoryError):
        return DeviceError(f"device '{device}' is out of memory", "free some, or use --device cpu")
    return DeviceError(f"device '{device}' failed: {first_line}", "try --device cpu, or see: stream-ann doctor")
