"""Running a plan step by step on a device."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from stream_ann.engines.batch import Batch, BatchEngine, TorchBatchEngine
from stream_ann.engines.choice import EngineChoice, dtype_named, engine_choice
from stream_ann.engines.devices import device_named, devices
from stream_ann.engines.torch_engine import TorchEngine
from stream_ann.errors import UsageError

if TYPE_CHECKING:
    from stream_ann.lanes import LaneEngine
    from stream_ann.nets.contract import AnytimeNet
    from stream_ann.preprocess import Preprocessing

__all__ = [
    "Batch",
    "BatchEngine",
    "EngineChoice",
    "TorchBatchEngine",
    "TorchEngine",
    "device_named",
    "devices",
    "engine_choice",
    "open_batch_engine",
    "open_engine",
]


def open_engine(
    net: AnytimeNet,
    preprocessing: Preprocessing,
    *,
    device: str = "auto",
    engine: str = "auto",
    precision: str = "auto",
    temperatures: Sequence[float] | None = None,
    threads: int | None = None,
    lanes: int = 1,
    compile: bool = False,
) -> LaneEngine:
    """Open the best engine there is for a device; warms up and times each step, which takes a moment.

    Args:
        net: The network whose plan is run. It is copied, not changed.
        preprocessing: How a picture becomes the network's input.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        engine: ``"auto"`` or the name of one, see :func:`engine_choice`.
        precision: ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``: type of weights and features.
        temperatures: What the logits of each exit are divided by; 1 for each by default.
        threads: Threads on the CPU; by default one core is left to the decoder.
        lanes: How many frames may be in the works at once.
        compile: Whether the torch engine compiles each step by ``torch.compile``.

    Raises:
        DeviceError: If the device is not there or cannot be used.
        MissingExtraError: If the engine asked for is not installed.
        UsageError: If no engine or precision has that name.
    """
    choice = engine_choice(device, engine)
    dtype = dtype_named(precision)
    if compile and choice.name != "torch":
        raise UsageError(f"the {choice.name} engine has nothing to compile by torch.compile", "use --engine torch")
    if choice.name == "cuda":
        cuda = importlib.import_module("stream_ann.engines.cuda_engine")
        opened: LaneEngine = cuda.CudaEngine(
            net, preprocessing, device=choice.device, dtype=dtype, temperatures=temperatures, lanes=lanes
        )
        return opened
    if choice.name == "openvino":
        from stream_ann.engines.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(
            net, preprocessing, precision=precision, temperatures=temperatures, threads=threads, lanes=lanes
        )
    return TorchEngine(
        net,
        preprocessing,
        device=choice.device,
        dtype=dtype or torch.float32,
        temperatures=temperatures,
        threads=threads,
        lanes=lanes,
        compile=compile,
    )


def open_batch_engine(
    net: AnytimeNet,
    preprocessing: Preprocessing,
    *,
    device: str = "auto",
    engine: str = "auto",
    precision: str = "auto",
    temperatures: Sequence[float] | None = None,
    threads: int | None = None,
    max_batch: int = 32,
) -> BatchEngine:
    """Open the best engine for labelling many frames at once; runs each step once or twice, which takes a moment.

    Args:
        net: The network whose plan is run. It is copied, not changed.
        preprocessing: How a picture becomes the network's input.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        engine: ``"auto"`` or the name of one, see :func:`engine_choice`; the cuda engine's graphs are for single
            frames, so batches run in torch there.
        precision: ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``: type of weights and features.
        temperatures: What the logits of each exit are divided by; 1 for each by default.
        threads: Threads on the CPU; by default one core is left to the decoder.
        max_batch: Most frames of a batch.

    Raises:
        DeviceError: If the device is not there or cannot be used.
        MissingExtraError: If the engine asked for is not installed.
        UsageError: If no engine or precision has that name.
    """
    choice = engine_choice(device, engine)
    if choice.name == "openvino":
        from stream_ann.engines.openvino_batch import OpenVinoBatchEngine

        return OpenVinoBatchEngine(
            net, preprocessing, precision=precision, temperatures=temperatures, threads=threads, max_batch=max_batch
        )
    return TorchBatchEngine(
        net,
        preprocessing,
        device=choice.device,
        dtype=dtype_named(precision) or torch.float32,
        temperatures=temperatures,
        threads=threads,
        max_batch=max_batch,
    )
