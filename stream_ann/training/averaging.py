"""Averages of the weights over the iterations or epochs of a run, by torch's own means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from stream_ann.errors import TrainingError
from stream_ann.nets import AnytimeNet
from stream_ann.training.checkpoint import restore_net, tensors_of
from stream_ann.training.options import TrainOptions

__all__ = ["Averaging"]


class Averaging:
    """The averaged copy of a net that is trained, if there is one.

    Args:
        net: The net, as it is at the beginning.
        options: ``average``, ``ema_decay``, ``swa_start``, ``freeze_norms`` and ``epochs`` are used.
    """

    def __init__(self, net: AnytimeNet, options: TrainOptions) -> None:
        self._options = options
        self._average: AveragedModel | None = None
        if options.average == "ema":
            # Statistics are averaged like weights: they belong to weights of about the same age.
            self._average = AveragedModel(net, use_buffers=True)
        elif options.average == "swa":
            self._average = AveragedModel(net)
        if self._average is not None:
            self._average.requires_grad_(False)
        # at least the last epoch is averaged
        self._first_epoch = min(math.ceil(options.swa_start * options.epochs), options.epochs - 1)

    @property
    def count(self) -> int:
        """How many states of the net have gone into the average."""
        return 0 if self._average is None else int(self._average.n_averaged)

    def after_iteration(self, net: AnytimeNet, iteration: int) -> None:
        """Take the net into a moving average, after iteration number ``iteration`` from 0."""
        if self._average is not None and self._options.average == "ema":
            decay = min(self._options.ema_decay, (1 + iteration) / (10 + iteration))
            self._average.multi_avg_fn = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            self._average.update_parameters(net)

    def after_epoch(self, net: AnytimeNet, epoch: int) -> None:
        """Take the net into the mean of the last epochs, after epoch number ``epoch`` from 0."""
        if self._average is not None and self._options.average == "swa" and epoch >= self._first_epoch:
            self._average.update_parameters(net)

    def finish(self, images: Iterable[Tensor]) -> None:
        """Count the batch norm statistics of the mean of the last epochs anew.

        Args:
            images: Batches of training images as the net sees them, float [B, 3, R, R].
        """
        norms_differ = self._options.average == "swa" and not self._options.freeze_norms
        if self._average is not None and norms_differ:
            update_bn(images, self._average.module)

    def answering(self, net: AnytimeNet, *, finished: bool) -> AnytimeNet:
        """The net to validate: the moving average, or ``net`` until the mean of the last epochs is finished."""
        ready = self._options.average == "ema" or finished
        if self._average is None or not ready:
            return net
        averaged = self._average.module
        assert isinstance(averaged, AnytimeNet)
        return averaged

    def tensors(self) -> dict[str, Tensor]:
        """The averaged tensors by name; none without an average."""
        return {} if self._average is None else tensors_of(self._average.module)

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` needs besides the tensors, as plain JSON data."""
        return {"count": self.count}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, origin: str) -> None:
        """Go on from a checkpoint.

        Raises:
            TrainingError: It has another average than the options ask for.
        """
        if self._average is None:
            return
        count = state.get("count")
        if not isinstance(count, int):
            raise TrainingError(f"checkpoint '{origin}' has no averaged weights", "train anew into another folder")
        module: nn.Module = self._average.module
        restore_net(module, tensors, origin=origin)
        self._average.n_averaged.fill_(count)
