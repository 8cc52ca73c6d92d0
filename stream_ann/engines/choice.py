"""Which engine runs where, and why."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from stream_ann.engines.devices import device_named
from stream_ann.errors import DeviceError, UsageError, nearest

__all__ = ["EngineChoice", "EngineName", "Precision", "dtype_named", "engine_choice"]

EngineName = Literal["torch", "cuda"]
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
        engine: ``"auto"``, ``"torch"`` or ``"cuda"``.

    Raises:
        DeviceError: If the device is not there, or the engine cannot run on it.
        UsageError: If no engine has that name.
    """
    names = get_args(EngineName)
    if engine != "auto" and engine not in names:
        raise UsageError(f"no engine is called '{engine}'", nearest(engine, ["auto", *names]))
    where = device_named("cuda" if engine == "cuda" and device == "auto" else device)
    if engine == "torch":
        return EngineChoice("torch", where, "asked for")
    if engine == "cuda":
        if where.type != "cuda":
            raise DeviceError(f"the cuda engine cannot run on '{device}'", "leave --device out, or use --engine auto")
        return EngineChoice("cuda", where, "asked for")
    if where.type == "cuda" and importlib.util.find_spec("stream_ann.engines.cuda_engine") is not None:
        return EngineChoice("cuda", where, "there is a GPU")
    return EngineChoice("torch", where, "it runs everywhere")


def dtype_named(precision: str) -> torch.dtype | None:
    """The type that a precision stands for; None for ``"auto"``.

    Raises:
        UsageError: If there is no such precision.
    """
    known = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if precision not in known:
        raise UsageError(f"no precision is called '{precision}'", nearest(precision, known))
    return known[precision]
