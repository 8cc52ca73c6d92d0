"""Labelling many frames at once in OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_ann.engines.batch import BatchEngine
from stream_ann.engines.devices import cpu_threads
from stream_ann.engines.opening import checked_temperatures, device_error
from stream_ann.engines.openvino_engine import openvino_description
from stream_ann.engines.openvino_precision import HINTS, checked_precision
from stream_ann.engines.openvino_runtime import openvino
from stream_ann.engines.openvino_steps import OpenVinoSteps
from stream_ann.nets.contract import AnytimeNet, State
from stream_ann.preprocess import Preprocessing, resized

__all__ = ["OpenVinoBatchEngine"]


class OpenVinoBatchEngine(BatchEngine):
    """Runs batches of any size through models that OpenVINO has compiled for any size.

    Args:
        net: The network whose plan is run. It is copied, not changed.
        preprocessing: How a picture becomes the network's input.
        precision: ``"auto"`` (float32), ``"float32"``, or what the processor computes with natively of ``"bfloat16"``
            and ``"float16"``.
        temperatures: What the logits of each exit are divided by; 1 for each by default.
        threads: Threads on the CPU; by default one core is left to the decoder.
        max_batch: Most frames of a batch.
        cached: Whether compiled models are kept in the user's cache folder.

    Raises:
        DeviceError: If a step cannot be compiled, or the processor does not have the precision.
        MissingExtraError: If OpenVINO is not installed.
    """

    def __init__(
        self,
        net: AnytimeNet,
        preprocessing: Preprocessing,
        *,
        precision: str = "auto",
        temperatures: Sequence[float] | None = None,
        threads: int | None = None,
        max_batch: int = 32,
        cached: bool = True,
    ) -> None:
        super().__init__(net.plan(), preprocessing, device=torch.device("cpu"), max_batch=max_batch)
        self._threads = cpu_threads(threads)
        torch.set_num_threads(self._threads)
        self._precision = checked_precision("float32" if precision == "auto" else precision)
        temperatures = checked_temperatures(temperatures, len(self._plan))
        try:
            steps = OpenVinoSteps(
                net, self._plan, preprocessing, temperatures=temperatures, threads=self._threads, cached=cached
            )
            self._shapes = steps.shapes
            self._requests = [
                steps.compile(step, precision=HINTS[self._precision], together=True).create_infer_request()
                for step in range(len(self._plan))
            ]
        except RuntimeError as error:
            raise device_error("cpu", error) from error
        self._warm_up()

    @property
    def description(self) -> str:
        """See :attr:`BatchEngine.description`."""
        return openvino_description(self._precision, self._threads)

    def close(self) -> None:
        """See :meth:`BatchEngine.close`."""
        self._requests = []

    def _first(self, step: int, squares: Tensor) -> tuple[NDArray[np.float32], State]:
        pixels = resized(squares, self._plan.steps[step].resolution_px, self._preprocessing)
        return self._run(step, (pixels.permute(0, 2, 3, 1),))

    def _next(self, step: int, state: State) -> tuple[NDArray[np.float32], State]:
        return self._run(step, state)

    def _run(self, step: int, inputs: Sequence[Tensor]) -> tuple[NDArray[np.float32], State]:
        request, count = self._requests[step], len(inputs[0])
        # New memory each time, that OpenVINO writes to directly: several batches may be in the works.
        outputs = [torch.empty(count, *shape) for shape in self._shapes[step].state_out_tokens]
        outputs.append(torch.empty(count, self._plan.classes))
        inputs = [tensor.contiguous() for tensor in inputs]  # OpenVINO does not keep them alive
        for i, tensor in enumerate(inputs):
            request.set_input_tensor(i, _shared(tensor))
        for i, tensor in enumerate(outputs):
            request.set_output_tensor(i, _shared(tensor))
        request.infer(share_outputs=True)
        *state, probabilities = outputs
        return probabilities.numpy(), tuple(state)


def _shared(tensor: Tensor) -> Any:
    """A tensor of torch as one of OpenVINO, in the same memory, which the caller keeps alive."""
    return openvino().Tensor(tensor.numpy(), shared_memory=True)
