"""The reference engine: eager PyTorch on the CPU or a GPU."""

from __future__ import annotations

import copy
import importlib
import os
import shutil
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_ann.engines.devices import cpu_threads
from stream_ann.engines.folding import fold_batch_norms
from stream_ann.engines.laned import Lane, LanedEngine
from stream_ann.engines.opening import checked_temperatures, device_error
from stream_ann.errors import DeviceError
from stream_ann.nets.contract import AnytimeNet, Step
from stream_ann.preprocess import Preprocessing, preprocess

__all__ = ["TorchEngine", "compiled_steps", "inference_steps", "torch_description"]


class TorchEngine(LanedEngine):
    """Runs a plan step by step in eager PyTorch: batch norm folded, channels last, no gradients.

    Not for use from several threads at once. On the CPU it sets the process's number of torch threads.

    Args:
        net: The network whose plan is run. It is copied, not changed.
        preprocessing: How a picture becomes the network's input.
        device: Where it runs.
        dtype: Type of weights and features; the probabilities are float32 in any case.
        temperatures: What the logits of each exit are divided by, so that its probabilities are calibrated (Guo et al.,
            ICML 2017); 1 for each by default.
        threads: Torch threads on the CPU; by default one core is left to the decoder.
        lanes: How many frames may be in the works at once. Their steps run one after another.
        compile: Whether each step is compiled by ``torch.compile``, which takes long and needs a C++ compiler.
        timing_runs: How often each step is timed at opening.

    Raises:
        DeviceError: If the device fails, e.g. for want of memory.
    """

    name = "torch"

    def __init__(
        self,
        net: AnytimeNet,
        preprocessing: Preprocessing,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        temperatures: Sequence[float] | None = None,
        threads: int | None = None,
        lanes: int = 1,
        compile: bool = False,
        timing_runs: int = 3,
    ) -> None:
        super().__init__(net.plan(), lanes)
        self._device = device
        self._dtype = dtype
        self._preprocessing = preprocessing
        self._temperatures = checked_temperatures(temperatures, len(self._plan))
        self._threads = cpu_threads(threads)
        if device.type == "cpu":
            torch.set_num_threads(self._threads)
        try:
            self._steps: tuple[Step, ...] = inference_steps(net, device, dtype)
            self._compiled = compile
            if compile:
                self._steps = compiled_steps(self._steps)
            self._answers = torch.empty(
                len(self._plan), lanes, self._plan.classes, dtype=torch.float32, pin_memory=device.type == "cuda"
            )
            # A blocking event lets the waiting thread sleep instead of burning a core.
            self._done = torch.cuda.Event(blocking=True) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise device_error(device, error) from error
        self._time(timing_runs)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._device

    @property
    def description(self) -> str:
        """See :attr:`LaneEngine.description <stream_ann.lanes.LaneEngine.description>`."""
        described = torch_description(self._device, self._dtype, self._threads)
        return f"{described}, compiled" if self._compiled else described

    def close(self) -> None:
        """Let go of the device's memory. The engine cannot be used afterwards; may be called more than once."""
        self._steps = ()
        super().close()

    def _taken_in(self, image: NDArray[np.uint8]) -> NDArray[np.uint8] | Tensor:
        # Copied on the way to a GPU, since torch warns of sharing memory with a read-only array.
        return image if self._device.type == "cpu" else torch.from_numpy(image.copy()).to(self._device)

    def _run(self, step: int, lanes: Sequence[int]) -> NDArray[np.float32]:
        if self._compiled and len(lanes) > 1:  # compiled for one frame, since each number would be compiled anew
            return np.concatenate([self._run(step, (lane,)) for lane in lanes])
        info = self._plan.steps[step]
        held = [self._lanes[lane] for lane in lanes]
        try:
            with torch.inference_mode():
                # Only a member's first step looks at the images, and what a lane has run before does not matter to it.
                images, state = torch.empty(0), tuple[Tensor, ...]()
                if info.first:
                    images = _joined([self._input(lane, info.resolution_px) for lane in held])
                else:
                    state = tuple(map(_joined, zip(*(lane.state for lane in held), strict=True)))
                after, logits = self._steps[step](images, state)
                probabilities = torch.softmax(logits.float() / self._temperatures[step], dim=1)
                for row, lane in enumerate(held):
                    lane.state = tuple(tensor[row : row + 1] for tensor in after)
                return self._to_host(step, probabilities)
        except RuntimeError as error:
            raise device_error(self._device, error) from error

    def _input(self, lane: Lane, resolution_px: int) -> Tensor:
        """The picture as the input of a resolution, made once per picture: members may share one."""
        if resolution_px not in lane.inputs:
            assert lane.picture is not None
            lane.inputs[resolution_px] = preprocess(lane.picture, resolution_px, self._preprocessing, dtype=self._dtype)
        return lane.inputs[resolution_px]

    def _to_host(self, step: int, probabilities: Tensor) -> NDArray[np.float32]:
        if self._done is None:
            return probabilities.numpy()
        rows = self._answers[step, : len(probabilities)]
        rows.copy_(probabilities, non_blocking=True)
        self._done.record()
        self._done.synchronize()
        return rows.numpy().copy()  # the rows are written again for the next frame


def inference_steps(net: AnytimeNet, device: torch.device, dtype: torch.dtype) -> tuple[Step, ...]:
    """The steps of a copy of ``net``, made ready for nothing but inference."""
    folded = fold_batch_norms(copy.deepcopy(net).eval().float().requires_grad_(False))
    return folded.to(device, dtype).to(memory_format=torch.channels_last).steps


def compiled_steps(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Each step compiled by ``torch.compile`` when it first runs; in its default mode, with weights as constants.

    Not the mode ``reduce-overhead``: it refuses to run in another thread, and one step would overwrite the answers of
    another.

    Raises:
        DeviceError: If there is no C++ compiler.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise DeviceError(
            f"compiling steps needs '{compiler}', which is not installed", "install g++, or don't compile"
        )
    # All steps of a net may share the code of one forward method, which torch would compile only a few times.
    dynamo: Any = importlib.import_module("torch._dynamo.config")
    dynamo.recompile_limit = max(dynamo.recompile_limit, 4 * len(steps))
    dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, 16 * len(steps))
    compiled = (torch.compile(step, dynamic=False, options={"freezing": True}) for step in steps)
    return tuple(cast(Step, step) for step in compiled)


def torch_description(device: torch.device, dtype: torch.dtype, threads: int) -> str:
    """How torch runs there, fit to be shown: ``"torch on cpu, float32, 1 thread"``."""
    words = ["torch on " + str(device), str(dtype).removeprefix("torch.")]
    if device.type == "cpu":
        words.append(f"{threads} thread{'s' if threads > 1 else ''}")
    return ", ".join(words)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one frame each as one batch; a single one as it is."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
