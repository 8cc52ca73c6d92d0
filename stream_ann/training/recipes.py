"""Defaults of a training run that depend on the data, the net and the device: where none is asked for, what to take."""

from __future__ import annotations

from typing import Any, Literal

from stream_ann.errors import UsageError

__all__ = ["Task", "fitting_batch_size", "recipe"]

Task = Literal["scratch", "finetune"]
"""Whether all weights start anew, or most of them are pretrained."""

_ITERATIONS = {("scratch", "cpu"): 8_000, ("scratch", "cuda"): 60_000}
_IMAGES_SEEN = {("finetune", "cpu"): 4_000, ("finetune", "cuda"): 100_000}


def recipe(
    task: Task, *, images: int, exits: int, members: int, device_type: str, batch_size: int | None = None
) -> dict[str, Any]:
    """Options for :class:`stream_ann.training.options.TrainOptions`.

    From scratch: SGD as in arXiv 1708.06832v2, with its learning rate scaled to the batch, label smoothing, and as many
    epochs as make 8,000 iterations on a CPU (60,000 on a GPU), 10 to 300 of them. Fine-tuning: AdamW, the trunk at a
    tenth of the learning rate of the new heads, batch norm statistics frozen (on few images, or at low resolutions,
    counting them anew does harm), 2 to 30 epochs.

    Args:
        task: What is to be done.
        images: Training images.
        exits: Exits of the net.
        members: Members of the net.
        device_type: ``"cpu"`` or ``"cuda"``.
        batch_size: The batch size, if that is chosen already.
    """
    kind = "cuda" if device_type == "cuda" else "cpu"
    # In an EANN whose members have one exit each, every exit is the answer at its resolution: none may be neglected.
    weighting = "const" if exits == members else "sieve"
    if task == "finetune":
        # On a CPU small batches are as fast, and at 260 px each image takes 0.2 GB until its gradient is known.
        size = batch_size or fitting_batch_size(32 if kind == "cuda" and images >= 200 else 16, images)
        epochs = min(30, max(2, round(_IMAGES_SEEN["finetune", kind] / max(1, images))))
        return {
            "epochs": epochs,
            "batch_size": size,
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.01,
            "warmup": 0.1,
            "clip": 1.0,
            "label_smoothing": 0.1,
            "weighting": weighting,
            "freeze_norms": True,
            "trunk_lr_factor": 0.1,
        }
    size = batch_size or fitting_batch_size(64 if images >= 2_000 else 32, images)
    epochs = min(300, max(10, round(_ITERATIONS["scratch", kind] * size / max(1, images))))
    return {
        "epochs": epochs,
        "batch_size": size,
        "optimizer": "sgd",
        "lr": 0.1 * size / 64,
        "weight_decay": 5e-4 if images < 20_000 else 2e-4,
        "warmup": 0.05,
        "label_smoothing": 0.1 if images >= 2_000 else 0.05,
        "weighting": weighting,
    }


def fitting_batch_size(wanted: int, images: int) -> int:
    """``wanted``, or less where there are not as many images.

    Raises:
        UsageError: There are fewer than two images: a batch needs two.
    """
    if images < 2:
        raise UsageError(f"there are {images} images to train on", "add images: a batch needs at least 2")
    return min(wanted, images)
