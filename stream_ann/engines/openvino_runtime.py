"""OpenVINO as this package uses it: only where it is installed, and without its telemetry."""

from __future__ import annotations

import functools
import importlib.util
import sys
from typing import Any

from stream_ann.errors import MissingExtraError

__all__ = ["capabilities", "core", "is_installed", "openvino", "version"]


def is_installed() -> bool:
    """Whether the extra is there. Imports nothing."""
    return importlib.util.find_spec("openvino") is not None


@functools.cache
def openvino() -> Any:
    """The module ``openvino``.

    Importing it reports to its makers over the network, unless the package ``openvino_telemetry`` cannot be imported,
    for which case it has a stand-in that does nothing. So it cannot be, in this process.

    Raises:
        MissingExtraError: If it is not installed.
    """
    if not is_installed():
        raise MissingExtraError("openvino", "openvino")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@functools.cache
def core() -> Any:
    """OpenVINO's ``Core``, one for the process."""
    return openvino().Core()


def version() -> str:
    """OpenVINO's version, e.g. ``"2026.4.1"``."""
    return str(openvino().__version__).split("-")[0]


def capabilities() -> frozenset[str]:
    """What the processor computes with natively, e.g. ``{"FP32", "INT8", "BF16"}``."""
    return frozenset(core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
