"""How long an epoch takes, found out by a rehearsal, and how many fit into a time."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from stream_ann.nets import AnytimeNet
from stream_ann.preprocess import Preprocessing
from stream_ann.training.augment import Augment
from stream_ann.training.distributed import device_for
from stream_ann.training.history import EpochRecord
from stream_ann.training.options import TrainOptions
from stream_ann.training.split import Data, Split
from stream_ann.training.trainer import Trainer

__all__ = ["Pace", "rehearse"]

_BATCHES = {"cpu": 8, "cuda": 40}
"""Batches of a rehearsed epoch: about a second of work each way, where images are small."""
_TIMES = 3
"""Rehearsed epochs that are timed, behind one in which kernels are chosen and memory is found."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a run goes."""

    train_s: float
    """Time to train on all images once, in seconds."""
    validation_s: float
    """Time to validate, in seconds."""

    def epochs_within(self, seconds: float) -> int:
        """How many epochs fit, at least 1, with another validation of what is written at the end.

        A thirtieth is kept back: a run that is cut off before its learning rate has fallen is worth little.
        """
        return max(1, int((seconds * 29 / 30 - self.validation_s) / (self.train_s + self.validation_s)))


def rehearse(
    net: AnytimeNet,
    data: Data,
    preprocessing: Preprocessing,
    options: TrainOptions,
    *,
    augment: Augment,
    teacher: AnytimeNet | Tensor | None = None,
    full_rate: Collection[str] = (),
    limit_s: float = math.inf,
) -> Pace:
    """Train a copy of ``net`` on a few batches, some times over, and throw it away.

    Args:
        net, data, preprocessing, options, augment, teacher, full_rate: As for :class:`Trainer`; nothing of them is
            changed, and the run that follows is the same as without a rehearsal.
        limit_s: Time after which one timed epoch has to do, in seconds.

    Raises:
        UsageError, TrainingError, DeviceError: As a run with these arguments does.
    """
    device = device_for(options.device)
    images = min(len(data.train), _BATCHES[device.type] * options.batch_size)
    part = images // options.batch_size * options.batch_size / len(data.train)
    few = Data(
        name=data.name,
        train=_first(data.train, images),
        val=_first(data.val, max(1, round(part * len(data.val)))),
        resolution_px=data.resolution_px,
    )
    if isinstance(teacher, Tensor):
        teacher = teacher[:images]
    ends: list[float] = []
    trained: list[float] = []

    def note(record: EpochRecord) -> None:
        ends.append(time.monotonic())
        trained.append(record.train_s)
        if len(ends) > 1 and ends[-1] - begun_s > limit_s:
            trainer.stop()

    begun_s = time.monotonic()
    trainer = Trainer(
        copy.deepcopy(net),
        few,
        preprocessing,
        dataclasses.replace(
            options,
            epochs=1 + _TIMES,
            lr=1e-9,  # how fast it is does not depend on it, and so little cannot diverge
            final_first=0.0,
            average="none" if options.average == "swa" else options.average,  # its last step is as long as many epochs
        ),
        augment=augment,
        teacher=teacher,
        full_rate=full_rate,
        on_epoch=note,
    )
    trainer.run()
    each_s = statistics.median(b - a for a, b in itertools.pairwise(ends))
    train_s = min(statistics.median(trained[1:]), each_s)
    return Pace(train_s / part, (each_s - train_s) / (len(few.val) / len(data.val)))


def _first(split: Split, count: int) -> Split:
    return split.subset(range(count))
