"""The engine for CPUs: every step a model that OpenVINO has compiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stream_ann.engines.devices import cpu_threads
from stream_ann.engines.laned import Lane, LanedEngine
from stream_ann.engines.opening import checked_temperatures, device_error
from stream_ann.engines.openvino_precision import HINTS, chosen_precision
from stream_ann.engines.openvino_runtime import openvino, version
from stream_ann.engines.openvino_steps import OpenVinoSteps
from stream_ann.nets.contract import AnytimeNet
from stream_ann.preprocess import Preprocessing, resized

__all__ = ["OpenVinoEngine", "openvino_description"]


class OpenVinoEngine(LanedEngine):
    """Runs a plan step by step in OpenVINO on the CPU.

    Every lane has a request of its own for every step. What a step leaves is the very memory that the next one starts
    from, so nothing is copied between them; pixels go in as they are after resizing, and what comes out are
    probabilities.

    Not for use from several threads at once. It sets the process's number of torch threads, which resize the pictures.

    Args:
        net: The network whose plan is run. It is copied, not changed.
        preprocessing: How a picture becomes the network's input.
        precision: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"``: see
            :func:`stream_ann.engines.openvino_precision.chosen_precision`.
        temperatures: What the logits of each exit are divided by; 1 for each by default.
        threads: Threads on the CPU; by default one core is left to the decoder.
        lanes: How many frames may be in the works at once. Their steps run one after another.
        cached: Whether compiled models are kept in the user's cache folder.
        timing_runs: How often each step is timed at opening.

    Raises:
        DeviceError: If a step cannot be compiled, or the processor does not have the precision.
        MissingExtraError: If OpenVINO is not installed.
    """

    name = "openvino"

    def __init__(
        self,
        net: AnytimeNet,
        preprocessing: Preprocessing,
        *,
        precision: str = "auto",
        temperatures: Sequence[float] | None = None,
        threads: int | None = None,
        lanes: int = 1,
        cached: bool = True,
        timing_runs: int = 3,
    ) -> None:
        super().__init__(net.plan(), lanes)
        self._preprocessing = preprocessing
        self._threads = cpu_threads(threads)
        torch.set_num_threads(self._threads)
        self._tensor = openvino().Tensor
        temperatures = checked_temperatures(temperatures, len(self._plan))
        try:
            steps = OpenVinoSteps(
                net, self._plan, preprocessing, temperatures=temperatures, threads=self._threads, cached=cached
            )
            self._precision, compiled = chosen_precision(steps, self._plan, precision)
            self._requests = [self._chained(compiled) for _ in range(lanes)]
            # On one thread, frames that run together take as long as one after another: that was measured.
            together = range(len(self._plan)) if lanes > 1 and self._threads > 1 else ()
            self._together = [
                steps.compile(step, precision=HINTS[self._precision], together=True).create_infer_request()
                for step in together
            ]
        except RuntimeError as error:
            raise device_error("cpu", error) from error
        self._time(timing_runs)

    @property
    def description(self) -> str:
        """See :attr:`LaneEngine.description <stream_ann.lanes.LaneEngine.description>`."""
        return openvino_description(self._precision, self._threads)

    def close(self) -> None:
        """Let go of the memory. The engine cannot be used afterwards; may be called more than once."""
        self._requests, self._together = [], []
        super().close()

    def _chained(self, compiled: Sequence[Any]) -> list[_Request]:
        """A request for each step; the state that one leaves is what the next one starts from."""
        requests: list[_Request] = []
        for info, model in zip(self._plan.steps, compiled, strict=True):
            request = model.create_infer_request()
            if not info.first:
                for i, tensor in enumerate(requests[-1].outputs[:-1]):
                    request.set_input_tensor(i, tensor)
            # Memory of our own, since a request may take other memory when it first runs.
            outputs = [self._tensor(port.get_element_type(), port.get_shape()) for port in model.outputs]
            for i, tensor in enumerate(outputs):
                request.set_output_tensor(i, tensor)
            *state, probabilities = [tensor.data for tensor in outputs]
            requests.append(_Request(request, outputs, state, probabilities))
        return requests

    def _run(self, step: int, lanes: Sequence[int]) -> NDArray[np.float32]:
        try:
            if len(lanes) > 1 and self._together:
                return self._run_several(step, lanes)
            # Copies, since the requests' own memory is written again for the next frame.
            return np.concatenate([self._run_one(step, lane) for lane in lanes])
        except RuntimeError as error:
            raise device_error("cpu", error) from error

    def _run_one(self, step: int, lane: int) -> NDArray[np.float32]:
        info, own = self._plan.steps[step], self._requests[lane][step]
        if info.first:
            pixels = self._pixels(self._lanes[lane], info.resolution_px)
            own.request.set_input_tensor(0, self._tensor(pixels, shared_memory=True))
        own.request.infer(share_outputs=True)
        return own.probabilities

    def _run_several(self, step: int, lanes: Sequence[int]) -> NDArray[np.float32]:
        info, together = self._plan.steps[step], self._together[step]
        parts: list[list[NDArray[Any]]]
        if info.first:
            parts = [[self._pixels(self._lanes[lane], info.resolution_px)] for lane in lanes]
        else:
            parts = [list[NDArray[Any]](self._requests[lane][step - 1].state) for lane in lanes]
        inputs = [np.concatenate(tensors) for tensors in zip(*parts, strict=True)]  # OpenVINO does not keep them alive
        for i, tensor in enumerate(inputs):
            together.set_input_tensor(i, self._tensor(tensor, shared_memory=True))
        together.infer(share_outputs=True)
        for i, _ in enumerate(self._requests[lanes[0]][step].state):
            left = together.get_output_tensor(i).data
            for row, lane in enumerate(lanes):
                self._requests[lane][step].state[i][0] = left[row]
        probabilities: NDArray[np.float32] = together.get_output_tensor(len(together.model_outputs) - 1).data
        return probabilities.copy()

    def _pixels(self, lane: Lane, resolution_px: int) -> NDArray[np.uint8]:
        """The picture at a resolution, uint8 [1, R, R, 3], made once per picture: members may share one."""
        if resolution_px not in lane.inputs:
            assert lane.picture is not None
            lane.inputs[resolution_px] = resized(lane.picture, resolution_px, self._preprocessing)
        pixels: NDArray[np.uint8] = lane.inputs[resolution_px].permute(0, 2, 3, 1).numpy()
        return pixels


@dataclass(frozen=True, slots=True)
class _Request:
    """One step of one lane."""

    request: Any
    """OpenVINO's request."""
    outputs: list[Any]
    """The tensors that it writes to: what the step leaves, and last its answer."""
    state: list[NDArray[np.float32]]
    """Views of what the step leaves, each [1, ...]."""
    probabilities: NDArray[np.float32]
    """View of its answer, [1, classes]."""


def openvino_description(precision: str, threads: int) -> str:
    """How OpenVINO runs, fit to be shown: ``"openvino 2026.4.1 on cpu, float32, 1 thread"``."""
    return f"openvino {version()} on cpu, {precision}, {threads} thread{'s' if threads > 1 else ''}"
