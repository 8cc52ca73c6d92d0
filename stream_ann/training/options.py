"""Every option of a training run, checked."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from stream_ann.errors import UsageError, nearest
from stream_ann.training.objective import Objective
from stream_ann.training.schedule import Schedule

__all__ = ["Amp", "Average", "Optimizer", "TrainOptions"]

Optimizer = Literal["sgd", "adamw"]
Average = Literal["none", "ema", "swa"]
Amp = Literal["auto", "bfloat16", "float32"]

_INDIFFERENT = ("device", "compile")
"""Options that a resumed run may have otherwise: they change by whom it is computed, not what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How a net is trained. The defaults are those of arXiv 1708.06832 for CIFAR, with its weighting.

    Raises:
        UsageError: A value makes no sense.
    """

    epochs: int = 300
    """How many times every training image is seen."""
    batch_size: int = 64
    """Images in each iteration, over all processes together; at least 2."""
    seed: int = 0
    """What every random choice is derived from, 0 or more."""
    device: str = "auto"
    """``"auto"`` (the first GPU where there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``."""

    optimizer: Optimizer = "sgd"
    """``"sgd"``: with Nesterov momentum. ``"adamw"``: Adam with decoupled weight decay."""
    lr: float = 0.1
    """Learning rate at its highest."""
    momentum: float = 0.9
    """Momentum of SGD, from 0 up to but not 1."""
    weight_decay: float = 2e-4
    """Weight decay of convolutions and matrices; norms and biases have none."""
    schedule: Schedule = "cosine"
    """How the learning rate falls, see :data:`stream_ann.training.schedule.Schedule`."""
    warmup: float = 0.0
    """Fraction of the run in which the learning rate rises, from 0 to 0.5."""
    clip: float | None = None
    """Largest norm of the gradient of all parameters together; None for any."""

    weighting: str = "sieve"
    """Name of the exit weighting, see :func:`stream_ann.training.weightings.weighting_named`."""
    alternate: bool = False
    """Give one exit, drawn in each iteration, extra weight."""
    final_first: float = 0.0
    """Fraction of the epochs, from 0 up to but not 1, in which the last exit is trained alone, before all are."""
    label_smoothing: float = 0.0
    """Share of a label's weight that is spread over all classes."""
    self_distill: float = 0.0
    """Share of an early exit's loss that makes it match the last exit."""
    self_temperature: float = 2.0
    """Temperature of that match."""
    distill: float = 0.0
    """Share of every exit's loss that makes it match the teacher."""
    temperature: float = 2.0
    """Temperature of that match."""
    equilibrium: bool = False
    """Scale the gradients that exits send into the trunk (gradient equilibrium, IMTA, ICCV 2019)."""

    mixup: float = 0.0
    """Parameter of mixup's beta distribution; 0 for none."""
    cutmix: float = 0.0
    """Parameter of cutmix's beta distribution; 0 for none. With both, one is drawn for each batch."""

    average: Average = "none"
    """``"ema"``: exponential moving average of weights and batch norm statistics. ``"swa"``: mean of the weights after
    each of the last epochs, batch norm statistics counted anew at the end (Izmailov et al., arXiv 1803.05407)."""
    ema_decay: float = 0.999
    """Decay of the moving average in each iteration; early on it is less, (1 + n) / (10 + n) in iteration n."""
    swa_start: float = 0.75
    """Fraction of the epochs after which the mean begins."""

    freeze_norms: bool = False
    """Keep the statistics of batch norms as they are and use them; their scales and shifts still learn."""
    trunk_lr_factor: float = 1.0
    """What the learning rate of everything but new heads is multiplied by, over 0 and at most 1."""

    amp: Amp = "auto"
    """Type that convolutions and matrix products compute in. ``"auto"``: bfloat16 on GPUs, float32 on CPUs, where it
    depends on the processor and the net which is faster."""
    compile: bool = False
    """Compile each member by torch.compile: slower to start, faster afterwards."""

    def __post_init__(self) -> None:
        self._whole("epochs", 1, 1_000_000)
        self._whole("batch_size", 2, 1_000_000)
        self._whole("seed", 0, 2**63 - 1)
        self._choice("optimizer", get_args(Optimizer))
        self._choice("schedule", get_args(Schedule))
        self._choice("average", get_args(Average))
        self._choice("amp", get_args(Amp))
        self._real("lr", 0.0, 1e3, above=True)
        self._real("momentum", 0.0, 0.9999)
        self._real("weight_decay", 0.0, 1e3)
        self._real("warmup", 0.0, 0.5)
        if self.clip is not None:
            self._real("clip", 0.0, 1e6, above=True)
        self._real("final_first", 0.0, 0.99)
        self._real("mixup", 0.0, 100.0)
        self._real("cutmix", 0.0, 100.0)
        self._real("ema_decay", 0.0, 0.999999)
        self._real("swa_start", 0.0, 0.99)
        self._real("trunk_lr_factor", 0.0, 1.0, above=True)
        self.objective()

    def objective(self) -> Objective:
        """The loss that these options ask for."""
        return Objective(
            label_smoothing=self.label_smoothing,
            self_distill=self.self_distill,
            self_temperature=self.self_temperature,
            distill=self.distill,
            temperature=self.temperature,
        )

    def as_dict(self) -> dict[str, Any]:
        """All options as plain JSON data."""
        return dataclasses.asdict(self)

    def decisive(self) -> dict[str, Any]:
        """Those that must be the same when a run is resumed, as plain JSON data."""
        return {key: value for key, value in self.as_dict().items() if key not in _INDIFFERENT}

    def _whole(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise UsageError(f"{_spoken(name)} is {value!r}", f"it must be a whole number from {low} to {high}")

    def _real(self, name: str, low: float, high: float, *, above: bool = False) -> None:
        value = getattr(self, name)
        good = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
        if not good or not low <= value <= high or (above and value == low):
            span = f"over {low:g} and at most {high:g}" if above else f"from {low:g} to {high:g}"
            raise UsageError(f"{_spoken(name)} is {value!r}", f"it must be a number {span}")

    def _choice(self, name: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in allowed:
            raise UsageError(f"{_spoken(name)} is {value!r}", nearest(str(value), allowed))


def _spoken(name: str) -> str:
    return name.replace("_", "-")
