"""A training run: what is trained on what, how, and what comes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from stream_ann.errors import UsageError
from stream_ann.nets import AnytimeNet, arch_of, build
from stream_ann.nets.equilibrium import equilibrium
from stream_ann.preprocess import Preprocessing
from stream_ann.training.augment import Augment
from stream_ann.training.checkpoint import (
    restore_net,
    tensors_of,
)
from stream_ann.training.distributed import device_for, joined
from stream_ann.training.history import EpochRecord, History, Progress
from stream_ann.training.loop import Run
from stream_ann.training.options import TrainOptions
from stream_ann.training.split import Data
from stream_ann.training.weightings import weighting_named

__all__ = ["Trainer"]


class Trainer:
    """Trains a net, epoch by epoch, with a checkpoint after each.

    Every random choice follows from the seed and the number of the epoch, batch or iteration, so that a resumed run
    goes on as it would have: on the CPU bit for bit, with the same number of threads.

    Args:
        net: The net. It is trained in place, on the device that ``options`` name.
        data: What it is trained and validated on.
        preprocessing: How images are normalised, and cut for validation.
        options: Everything else that can be chosen.
        folder: Where checkpoints are kept, ``last.safetensors`` and ``best.safetensors``; None for none at all.
        augment: How training images are varied; by default not at all.
        teacher: What to distil from if ``options.distill`` is not 0: a net, whose last exit is used, or the logits of
            the training images by number, float [N, classes].
        full_rate: Names of the parameters, the new heads', that ``options.trunk_lr_factor`` spares.
        on_epoch: Called after each epoch that is done, in the process that leads.
        on_progress: Called every few iterations, in the process that leads.

    Raises:
        UsageError: The parts do not go together.
    """

    def __init__(
        self,
        net: AnytimeNet,
        data: Data,
        preprocessing: Preprocessing,
        options: TrainOptions,
        *,
        folder: Path | None = None,
        augment: Augment | None = None,
        teacher: AnytimeNet | Tensor | None = None,
        full_rate: Collection[str] = (),
        on_epoch: Callable[[EpochRecord], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.net = net
        self.data = data
        self.preprocessing = preprocessing
        self.options = options
        self.folder = folder
        self.augment = Augment() if augment is None else augment
        self.full_rate = frozenset(full_rate)
        self.teacher = teacher
        self.on_epoch = on_epoch
        self.on_progress = on_progress
        self._stop = threading.Event()
        self._answering: AnytimeNet = net
        self._check()

    def stop(self) -> None:
        """Ask the run to end after the present iteration, with a checkpoint. Safe in a signal handler."""
        self._stop.set()

    def run(self, *, resume: bool = False) -> History:
        """Train until the end, or until :meth:`stop` is called.

        Args:
            resume: Go on from the folder's last checkpoint, if there is one.

        Returns:
            The history, also of what was done before an interruption.

        Raises:
            TrainingError: A loss or weight is not finite, or the checkpoint is of another net, other data or options.
            OutputError: A checkpoint cannot be written.
            UsageError: There are fewer images than a batch, or the folder holds a run already and ``resume`` is off.
            DeviceError: The device does not exist.
        """
        device = device_for(self.options.device)
        with ExitStack() as stack:
            # what dropout draws from is set anew in each iteration; a program's own sequence must not notice
            stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
            group = stack.enter_context(joined(device))
            if self.options.equilibrium:
                stack.enter_context(equilibrium(self.net))
            return Run(self, device, group).go(resume=resume)

    def trained(self) -> AnytimeNet:
        """The net to use: a new one on the CPU in evaluation mode, with the averaged weights if there are any."""
        net = build(arch_of(self.net))
        restore_net(net, {name: t.detach().cpu() for name, t in tensors_of(self._answering).items()}, origin="the run")
        return net.eval()

    @property
    def stopping(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stop.is_set()

    def answer_with(self, net: AnytimeNet) -> None:
        """Take note of the net whose weights :meth:`trained` gives."""
        self._answering = net

    def _check(self) -> None:
        options = self.options
        classes = self.net.plan().classes
        if len(self.data.classes) != classes:
            what = f"data of {len(self.data.classes)} classes for a net of {classes} classes"
            raise UsageError(what, "build the net for the classes of the data")
        base = weighting_named(options.weighting, len(self.net.plan())).weights(0)
        if options.self_distill and base[-1] == 0:
            what = f"self-distillation from the last exit, which weighting '{options.weighting}' does not train"
            raise UsageError(what, "use another weighting, or no self-distillation")
        if options.distill and self.teacher is None:
            raise UsageError("distillation without a teacher", "name a teacher, or leave distill at 0")
        if isinstance(self.teacher, AnytimeNet) and self.teacher.plan().classes != classes:
            given = self.teacher.plan().classes
            raise UsageError(f"a teacher of {given} classes for a net of {classes} classes", "they must be the same")
        if isinstance(self.teacher, Tensor):
            wanted = [len(self.data.train), classes]
            if list(self.teacher.shape) != wanted:
                raise UsageError(f"teacher's logits of shape {list(self.teacher.shape)}", f"it must be {wanted}")
            if options.distill and (options.mixup or options.cutmix):
                what = "stored teacher's logits know nothing of mixed images"
                raise UsageError(what, "give the teacher as a net, or leave mixup and cutmix at 0")
        unknown = self.full_rate - {name for name, _ in self.net.named_parameters()}
        if unknown:
            raise UsageError(f"the net has no parameter '{min(unknown)}'", "name parameters of the net in full_rate")
