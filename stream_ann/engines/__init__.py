"""Running a plan step by step on a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stream_ann.engines.devices import device_named, devices
from stream_ann.engines.torch_engine import TorchEngine

if TYPE_CHECKING:
    from stream_ann.nets.contract import AnytimeNet
    from stream_ann.preprocess import Preprocessing

__all__ = ["TorchEngine", "device_named", "devices", "open_engine"]


def open_engine(
    net: AnytimeNet,
    preprocessing: Preprocessing,
    *,
    device: str = "auto",
    temperatures: Sequence[float] | None = None,
    threads: int | None = None,
) -> TorchEngine:
    """Open the best engine there is for a device; warms up and times each step, which takes a moment.

    Args:
        net: The network whose plan is run. It is copied, not changed.
        preprocessing: How a picture becomes the network's input.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        temperatures: What the logits of each exit are divided by; 1 for each by default.
        threads: Torch threads on the CPU; by default one core is left to the decoder.

    Raises:
        DeviceError: If the device is not there or cannot be used.
    """
    return TorchEngine(net, preprocessing, device=device_named(device), temperatures=temperatures, threads=threads)
