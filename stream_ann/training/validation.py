"""Loss and accuracy of every exit, as they are measured after each epoch."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, nullcontext

import torch
import torch.nn.functional as F

from stream_ann.errors import TrainingError
from stream_ann.nets import AnytimeNet
from stream_ann.preprocess import Preprocessing
from stream_ann.training.distributed import Group
from stream_ann.training.options import Amp
from stream_ann.training.split import Batch, Split
from stream_ann.training.stepper import autocast, exits_of, normalised, resolution_of

__all__ = ["closed", "validate"]


def closed(batches: Iterator[Batch]) -> AbstractContextManager[object]:
    """A block after which a generator of batches, and its worker processes, are done for, however the block ends."""
    return closing(batches) if isinstance(batches, Generator) else nullcontext()


def validate(
    net: AnytimeNet,
    split: Split,
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    batch_size: int,
    amp: Amp,
    group: Group,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean cross-entropy, in nats, and accuracy, 0 to 1, of each exit; the images are shared out among the processes.

    Args:
        net: The net, on ``device``; it is left in evaluation mode.
        split: The images.
        preprocessing: What they go through.
        device: Where the net runs.
        batch_size: Images in a batch.
        amp: Type that is computed in.
        group: The processes that do this together.

    Raises:
        TrainingError: There is no image.
    """
    if group.world > 1:
        split = split.subset(range(group.rank, len(split), group.world))
    exits = len(net.plan())
    totals = torch.zeros(2 * exits + 1, dtype=torch.float64, device=device)
    net.eval()
    batches = split.eval_batches(
        batch_size=batch_size,
        resolution_px=resolution_of(net),
        device=device,
        crop=preprocessing.crop,
        interpolation=preprocessing.interpolation,
    )
    with torch.no_grad(), closed(batches):
        for batch in batches:
            images = normalised(batch.images, preprocessing)
            with autocast(device, amp):
                logits = torch.stack([found.float() for found in exits_of(net, images, preprocessing)])
            labels = batch.labels.expand(exits, -1)
            losses = F.cross_entropy(logits.movedim(2, 1), labels, reduction="none").sum(1)
            correct = (logits.argmax(2) == labels).sum(1)
            seen = torch.full((1,), len(batch.labels), device=device)
            totals += torch.cat([losses, correct, seen])
    *values, images_seen = group.total(totals).tolist()
    if images_seen == 0:
        raise TrainingError("there is no image to validate on", "hold some out, or fill the folder val")
    means = [value / images_seen for value in values]
    return tuple(means[:exits]), tuple(means[exits:])
