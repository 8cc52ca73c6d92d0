"""A network from an ONNX or OpenVINO file as a plan of one step, run by OpenVINO."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_ann.errors import DeviceError, UsageError
from stream_ann.nets.contract import Plan, StepInfo
from stream_ann.preprocess import Preprocessing, preprocess

__all__ = ["FileEngine"]

TIMING_RUNS = 3


class FileEngine:
    """Runs the whole network of a file on each picture.

    Args:
        path: The file: .onnx, or .xml with its .bin beside it.
        preprocessing: What its input has been through.
        classes: How many classes it must know.
        threads: How many threads it may use; None for one, which is what the engines leave to the decoder's side.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        UsageError: The file is not such a network.
    """

    def __init__(self, path: Path, preprocessing: Preprocessing, *, classes: int, threads: int | None) -> None:
        from stream_ann.engines.devices import cpu_threads
        from stream_ann.engines.openvino_runtime import core as openvino_core
        from stream_ann.engines.openvino_runtime import openvino

        openvino()  # said to be missing before anything else is wrong

        if not path.is_file():
            raise UsageError(f"there is no file '{path}'", "check the path")
        core = openvino_core()
        options = {"INFERENCE_NUM_THREADS": cpu_threads(threads), "PERFORMANCE_HINT": "LATENCY"}
        options["INFERENCE_PRECISION_HINT"] = "f32"
        try:
            model = core.read_model(path)
            height_px = _side(model, path)
            model.reshape([1, 3, height_px, height_px])
            compiled = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            reason = str(error).strip().split("\n")[-1][:160]
            raise UsageError(f"'{path}' cannot be run by OpenVINO: {reason}", "give one that it can read") from error
        shape = list(compiled.output(0).shape)
        if shape != [1, classes]:
            raise UsageError(f"'{path}' answers with {shape}, not [1, {classes}]", "give one for the card's classes")
        self._request: Any = compiled.create_infer_request()
        self._preprocessing = preprocessing
        self._resolution_px = height_px
        self._plan = Plan((StepInfo(path.name, 0, height_px, True, 0),), classes)
        self._image: NDArray[np.uint8] | None = None
        noise = np.random.default_rng(0).integers(0, 256, (360, 640, 3), dtype=np.uint8)
        self._step_s = sorted(self._timed(noise) for _ in range(TIMING_RUNS + 1))[TIMING_RUNS // 2]

    @property
    def plan(self) -> Plan:
        """One step. Its multiply-accumulates are not counted, and stand as 0."""
        return self._plan

    @property
    def step_s(self) -> Sequence[float]:
        """Its time at opening, in seconds."""
        return (self._step_s,)

    def start(self, image: NDArray[np.uint8]) -> None:
        """Take in a new picture, uint8 [H, W, 3] RGB."""
        self._image = image

    def run(self, step: int) -> NDArray[np.float32]:
        """Run the network: probabilities float32 [classes]."""
        assert self._image is not None, "call start() first"
        images = preprocess(self._image, self._resolution_px, self._preprocessing)
        try:
            self._request.infer([images.contiguous().numpy()])
        except RuntimeError as error:
            raise DeviceError(f"OpenVINO failed: {str(error).strip().splitlines()[-1][:160]}") from error
        answers = np.array(self._request.get_output_tensor(0).data[0], dtype=np.float32)
        if answers.min() >= 0 and abs(float(answers.sum()) - 1) < 1e-3:
            return answers  # probabilities already
        exponents = np.exp(answers - answers.max())
        return np.asarray(exponents / exponents.sum(), dtype=np.float32)

    def close(self) -> None:
        """Let go of the network."""
        self._request = None

    def _timed(self, image: NDArray[np.uint8]) -> float:
        self.start(image)
        begun_s = time.perf_counter()
        self.run(0)
        return time.perf_counter() - begun_s


def _side(model: Any, path: Path) -> int:
    """Side of the square input in pixels."""
    shape = model.input(0).partial_shape
    wanted = "float [1, 3, H, H] with a fixed H"
    if len(model.inputs) != 1 or shape.rank.is_dynamic or len(shape) != 4:
        raise UsageError(f"'{path}' does not take {wanted}", "export it for one picture at a time")
    sides = [shape[i] for i in (2, 3)]
    if any(side.is_dynamic for side in sides) or int(sides[0].get_length()) != int(sides[1].get_length()):
        raise UsageError(f"'{path}' takes pictures of {shape}, not {wanted}", "export it with a fixed size")
    return int(sides[0].get_length())
