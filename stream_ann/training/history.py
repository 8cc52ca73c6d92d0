"""What a run has to tell: while it goes on, after each epoch, and at the end."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from stream_ann.errors import TrainingError

__all__ = ["EpochRecord", "History", "Progress", "record_from"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come, several times in each epoch."""

    epoch: int
    """Number of the epoch, from 0."""
    epochs: int
    """How many there are."""
    batch: int
    """Batches done in this epoch."""
    batches: int
    """Batches in an epoch."""
    images_per_s: float
    """Training images in each second, over all processes, since this epoch began."""
    eta_s: float
    """Seconds until the end of the run, validation included, estimated."""
    lr: float
    """Learning rate of the last iteration."""
    losses: tuple[float | None, ...]
    """Mean loss of each exit in this epoch so far; None if it was not trained."""


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch."""

    epoch: int
    """Its number, from 0."""
    iteration: int
    """Iterations done at its end, since the beginning of the run."""
    lr: float
    """Learning rate of its last iteration."""
    train_s: float
    """Seconds spent training; the part before an interruption is not counted."""
    images_per_s: float
    """Training images in each second."""
    train_loss: tuple[float | None, ...]
    """Mean loss of each exit, as it was minimised; None if it was not trained."""
    val_loss: tuple[float, ...]
    """Mean cross-entropy of each exit on the validation images, in nats."""
    val_accuracy: tuple[float, ...]
    """Accuracy of each exit on the validation images, 0 to 1."""
    score: float
    """Mean of that over the exits that are trained: what the best epoch is chosen by."""


@dataclass(frozen=True, slots=True)
class History:
    """A run, as far as it has come."""

    exit_names: tuple[str, ...]
    """Name of each exit."""
    records: tuple[EpochRecord, ...]
    """Each epoch that is done."""
    interrupted: bool = False
    """Whether the run was stopped before its end; its checkpoint is written."""

    @property
    def best(self) -> EpochRecord | None:
        """The epoch with the highest score; of equals, the later one. None before the first epoch is done."""
        return max(self.records, key=lambda record: (record.score, record.epoch), default=None)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        records = [asdict(record) for record in self.records]
        return {"exits": list(self.exit_names), "interrupted": self.interrupted, "epochs": records}

    def to_csv(self) -> str:
        """One line for each epoch, with a column for each exit's losses and accuracy."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        per_exit = ("train_loss", "val_loss", "val_accuracy")
        plain = ("epoch", "iteration", "lr", "train_s", "images_per_s", "score")
        writer.writerow([*plain, *(f"{key} {name}" for key in per_exit for name in self.exit_names)])
        for record in self.records:
            writer.writerow(
                [getattr(record, key) for key in plain] + [v for key in per_exit for v in getattr(record, key)]
            )
        return out.getvalue()


def record_from(values: Mapping[str, Any]) -> EpochRecord:
    """An epoch from what ``asdict`` and JSON made of it.

    Raises:
        TrainingError: It is something else.
    """
    try:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return EpochRecord(**fields)
    except TypeError as error:
        raise TrainingError(f"the history in the checkpoint cannot be read: {error}", "train anew") from error
