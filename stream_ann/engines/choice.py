"""Which engine runs where, and why."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch

from stream_ann.engines.devices import device_named
from stream_ann.engines.openvino_runtime import is_installed
from stream_ann.errors import DeviceError, MissingExtraError, UsageError, nearest

__all__ = ["EngineChoice", "EngineName", "Precision", "dtype_named", "engine_choice"]

EngineName = Literal["torch", "openvino", "cuda"]
"""What can be asked for, besides ``"auto"``."""

Precision = Literal["auto", "float32", "bfloat16", "float16"]
"""Type of weights and features; ``"auto"`` is what the engine runs best with."""


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """Which engine it will be."""

    name: EngineName
    """The engine."""
    device: torch.device
    """Where it will run."""
    reason: str
    """Why it and no other one, in a few words."""


def engine_choice(device: str = "auto", engine: str = "auto") -> EngineChoice:
    """Which engine :func:`stream_ann.engines.open_engine` will open, and why. Opens nothing.

    Args:
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        engine: ``"auto"``, ``"torch"``, ``"openvino"`` or ``"cuda"``.

    Raises:
        DeviceError: If the device is not there, or the engine cannot run on it.
        MissingExtraError: If the engine is not installed.
        UsageError: If no engine has that name.
    """
    names = get_args(EngineName)
    if engine != "auto" and engine not in names:
        raise UsageError(f"no engine is called '{engine}'", nearest(engine, ["auto", *names]))
    native = {"cuda": "cuda", "openvino": "cpu"}.get(engine)
    where = device_named(native if native is not None and device == "auto" else device)
    if engine != "auto":
        if native is not None and where.type != native:
            raise DeviceError(f"the {engine} engine cannot run on '{device}'", "leave --device out, or --engine")
        if engine == "openvino" and not is_installed():
            raise MissingExtraError("openvino", "openvino")
        return EngineChoice(cast(EngineName, engine), where, "it was asked for")
    if where.type == "cuda":
        if importlib.util.find_spec("stream_ann.engines.cuda_engine") is None:
            return EngineChoice("torch", where, "there is a GPU, but no engine of its own for it")
        return EngineChoice("cuda", where, "there is a GPU")
    if is_installed():
        return EngineChoice("openvino", where, "it is the fastest on a CPU")
    return EngineChoice("torch", where, "the extra 'openvino', which would be faster, is not installed")


def dtype_named(precision: str) -> torch.dtype | None:
    """The type that a precision stands for; None for ``"auto"``.

    Raises:
        UsageError: If there is no such precision.
    """
    known = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if precision not in known:
        raise UsageError(f"no precision is called '{precision}'", nearest(precision, known))
    return known[precision]
