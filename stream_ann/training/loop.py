"""The training loop: batches, looks at the losses, epochs, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from stream_ann.errors import TrainingError, UsageError
from stream_ann.nets import AnytimeNet, arch_of
from stream_ann.training.augment import mix
from stream_ann.training.averaging import Averaging
from stream_ann.training.checkpoint import (
    BEST,
    LAST,
    Checkpoint,
    difference,
    keep_checkpoint,
    optimizer_tensors,
    read_checkpoint,
    restore_net,
    restore_optimizer,
    tensors_of,
    write_checkpoint,
)
from stream_ann.training.distributed import Group
from stream_ann.training.history import EpochRecord, History, Progress, record_from
from stream_ann.training.optimizer import optimizer_for
from stream_ann.training.schedule import lr_factor
from stream_ann.training.split import Batch
from stream_ann.training.stepper import Stepper, autocast, final_logits, normalised, resolution_of, train_mode
from stream_ann.training.validation import closed, validate
from stream_ann.training.weightings import FinalFirst, weighting_named

if TYPE_CHECKING:
    from stream_ann.training.trainer import Trainer

__all__ = ["Run"]

LOOK_EVERY = 10
"""Losses are fetched from the device every so many iterations: fetching them every time would stall a GPU."""
SAVE_EVERY_S = 300.0
"""Within an epoch a checkpoint is written so often, so that a kill costs minutes where an epoch takes hours."""
_MOST_NORM_BATCHES = 200
"""Batches that batch norm statistics are counted anew from: more would change them by less than they vary."""


@dataclass(slots=True)
class _Position:
    """Where a run is."""

    epoch: int = 0
    batch: int = 0
    iteration: int = 0


class Run:
    """One call of :meth:`Trainer.run`: everything that changes while it goes on.

    Args:
        trainer: What is wanted.
        device: Where.
        group: The processes that do it together.
    """

    def __init__(self, trainer: Trainer, device: torch.device, group: Group) -> None:
        self.trainer = trainer
        self.options = options = trainer.options
        self.device = device
        self.group = group
        self.names = trainer.net.plan().exit_names
        self.resolution_px = resolution_of(trainer.net)

        net = trainer.net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if group.world > 1 and device.type == "cuda" and not options.freeze_norms:
            nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]
        self.net: AnytimeNet = net
        group.align(net)
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        self.optimizer = optimizer_for(net, options, trainer.full_rate)
        self.averaging = Averaging(net, options)
        self.stepper = Stepper(
            net, trainer.preprocessing, options.objective(), amp=options.amp, compile=options.compile
        )
        self.teacher = trainer.teacher
        if self.teacher is not None and options.distill:
            self.teacher = self.teacher.to(device)
            if isinstance(self.teacher, AnytimeNet):
                self.teacher.eval()

        # a split says itself what is wrong with fewer images than a batch
        self.batches = len(trainer.data.train) // options.batch_size
        self.iterations = self.batches * options.epochs
        exits = len(self.names)
        self.trained_exits = [
            i for i, weight in enumerate(weighting_named(options.weighting, exits).weights(0)) if weight > 0
        ]
        self.weighting = FinalFirst(
            weighting_named(options.weighting, exits, alternate=options.alternate, seed=options.seed),
            iterations=round(options.final_first * options.epochs) * self.batches,
        )

        self.at = _Position()
        self.records: list[EpochRecord] = []
        self.sums = [0.0] * exits
        self.counts = [0] * exits
        self.pending: list[tuple[Tensor, tuple[float, ...]]] = []
        self.validation_s = 0.0
        self.saved_s = time.monotonic()

    # The course of a run

    def go(self, *, resume: bool) -> History:
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True  # every batch has the same shape: trying the algorithms pays
        try:
            return self._go(resume=resume)
        finally:
            torch.backends.cudnn.benchmark = before

    def _go(self, *, resume: bool) -> History:
        self._begin(resume)
        while self.at.epoch < self.options.epochs:
            if not self._train_epoch():
                self._save(LAST)
                return self._history(interrupted=True)
            record = self._end_epoch()
            if self.group.leads and self.trainer.on_epoch is not None:
                self.trainer.on_epoch(record)
        finished = self.at.epoch == self.options.epochs
        self.trainer.answer_with(self.averaging.answering(self.net, finished=finished))
        return self._history(interrupted=False)

    def _begin(self, resume: bool) -> None:
        folder = self.trainer.folder
        self.trainer.answer_with(self.averaging.answering(self.net, finished=False))
        if folder is None:
            return
        if (folder / LAST).exists():
            if not resume:
                raise UsageError(f"there is a training run in '{folder}' already", "resume it, or give another folder")
            self._restore(folder / LAST)
        self.group.wait()  # nobody may write before everybody has read

    def _train_epoch(self) -> bool:
        """Train what is left of the epoch. Returns False if asked to stop."""
        options = self.options
        train_mode(self.net, freeze_norms=options.freeze_norms)
        begun_s, begun_batch = time.monotonic(), self.at.batch
        batches = self.trainer.data.train.train_batches(
            self.at.epoch,
            batch_size=options.batch_size,
            resolution_px=self.resolution_px,
            seed=options.seed,
            device=self.device,
            augment=self.trainer.augment,
            start_batch=self.at.batch,
            rank=self.group.rank,
            world=self.group.world,
        )
        with closed(batches):
            for batch in batches:
                self._train_batch(batch)
                self.at.batch += 1
                self.at.iteration += 1
                looking = self.at.iteration % LOOK_EVERY == 0
                if looking:
                    self._look()
                    self._report(time.monotonic() - begun_s, self.at.batch - begun_batch)
                    if self.group.world == 1 and time.monotonic() - self.saved_s >= SAVE_EVERY_S:
                        self._save(LAST)
                # Several processes must stop at the same batch: they agree where they communicate anyway.
                stop = self.trainer.stopping
                if stop if self.group.world == 1 else looking and self.group.any(stop, self.device):
                    self._look()
                    return False
        self._look()
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        self.train_s = time.monotonic() - begun_s
        self.images_per_s = (self.at.batch - begun_batch) * options.batch_size / max(self.train_s, 1e-9)
        return True

    def _train_batch(self, batch: Batch) -> None:
        options, iteration = self.options, self.at.iteration
        state = np.random.SeedSequence((options.seed, iteration, self.group.rank)).generate_state(2, np.uint64)
        torch.manual_seed(int(state[0]) >> 1)  # for dropout
        images = normalised(batch.images, self.trainer.preprocessing)
        targets = batch.labels
        if options.mixup or options.cutmix:
            images, targets = mix(
                images,
                batch.labels,
                len(self.trainer.data.classes),
                mixup=options.mixup,
                cutmix=options.cutmix,
                generator=torch.Generator().manual_seed(int(state[1]) >> 1),
            )
        for param_group in self.optimizer.param_groups:
            param_group["lr"] = self._lr(iteration) * param_group["factor"]

        weights = self.weighting.weights(iteration)
        losses = self.stepper.backward(images, targets, weights, teacher=self._teacher_logits(images, batch))
        self.group.average_gradients(self.parameters)
        if options.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, options.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.averaging.after_iteration(self.net, iteration)
        self.pending.append((losses, weights))

    def _lr(self, iteration: int) -> float:
        """Learning rate of the new heads, where the trunk has a lower one."""
        schedule, warmup = self.options.schedule, self.options.warmup
        return self.options.lr * lr_factor(iteration, self.iterations, schedule=schedule, warmup=warmup)

    def _teacher_logits(self, images: Tensor, batch: Batch) -> Tensor | None:
        if not self.options.distill or self.teacher is None:
            return None
        if isinstance(self.teacher, Tensor):
            return self.teacher[batch.indices]
        with torch.no_grad(), autocast(self.device, self.options.amp):
            return final_logits(self.teacher, images, self.trainer.preprocessing)

    def _end_epoch(self) -> EpochRecord:
        epoch, options = self.at.epoch, self.options
        self.group.average_buffers(self.net)
        self.averaging.after_epoch(self.net, epoch)
        finished = epoch + 1 == options.epochs
        if finished:
            self.averaging.finish(self._some_images())
        answering = self.averaging.answering(self.net, finished=finished)
        self.trainer.answer_with(answering)
        begun_s = time.monotonic()
        val_loss, val_accuracy = validate(
            answering,
            self.trainer.data.val,
            self.trainer.preprocessing,
            device=self.device,
            batch_size=options.batch_size,
            amp=options.amp,
            group=self.group,
        )
        self.validation_s = time.monotonic() - begun_s
        record = EpochRecord(
            epoch=epoch,
            iteration=self.at.iteration,
            lr=self._lr(self.at.iteration - 1),
            train_s=self.train_s,
            images_per_s=self.images_per_s,
            train_loss=self._mean_losses(),
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            score=sum(val_accuracy[i] for i in self.trained_exits) / len(self.trained_exits),
        )
        self.records.append(record)
        self.sums, self.counts = [0.0] * len(self.names), [0] * len(self.names)
        self.at = _Position(epoch + 1, 0, self.at.iteration)
        self._save(LAST)
        if self._history(interrupted=False).best is record:
            self._keep_best()
        return record

    # Looking at losses

    def _look(self) -> None:
        """Fetch the losses since the last look, check them, and tell the weighting about them."""
        if not self.pending:
            return
        stacked = self.group.mean(torch.stack([losses for losses, _ in self.pending])).tolist()
        first = self.at.iteration - len(self.pending)
        for number, (losses, (_, weights)) in enumerate(zip(stacked, self.pending, strict=True), start=first):
            for i, (loss, weight) in enumerate(zip(losses, weights, strict=True)):
                if weight > 0:
                    if not math.isfinite(loss):
                        self._fail(f"the loss of exit '{self.names[i]}' is {loss} in iteration {number}")
                    self.sums[i] += loss
                    self.counts[i] += 1
            self.weighting.observe(losses)
        self.pending.clear()

    def _fail(self, what: str) -> None:
        path = None if self.trainer.folder is None else self.trainer.folder / LAST
        good = f"the last good checkpoint is '{path}'" if path is not None and path.exists() else "no checkpoint yet"
        remedy = "train with a lower learning rate, or with gradient clipping"
        raise TrainingError(f"{what} (epoch {self.at.epoch + 1}); {good}", remedy)

    def _mean_losses(self) -> tuple[float | None, ...]:
        return tuple(s / n if n else None for s, n in zip(self.sums, self.counts, strict=True))

    def _report(self, elapsed_s: float, batches: int) -> None:
        if not self.group.leads or self.trainer.on_progress is None:
            return
        each_s = elapsed_s / batches
        left_s = (self.iterations - self.at.iteration) * each_s
        left_s += (self.options.epochs - self.at.epoch) * self.validation_s
        self.trainer.on_progress(
            Progress(
                epoch=self.at.epoch,
                epochs=self.options.epochs,
                batch=self.at.batch,
                batches=self.batches,
                images_per_s=self.options.batch_size / max(each_s, 1e-9),
                eta_s=left_s,
                lr=self._lr(self.at.iteration - 1),
                losses=self._mean_losses(),
            )
        )

    def _some_images(self) -> Iterator[Tensor]:
        batches = self.trainer.data.train.train_batches(
            self.at.epoch,
            batch_size=self.options.batch_size,
            resolution_px=self.resolution_px,
            seed=self.options.seed,
            device=self.device,
            augment=self.trainer.augment,
            rank=self.group.rank,
            world=self.group.world,
        )
        with closed(batches):
            for batch, _ in zip(batches, range(_MOST_NORM_BATCHES), strict=False):
                yield normalised(batch.images, self.trainer.preprocessing)

    # Checkpoints

    def _history(self, *, interrupted: bool) -> History:
        return History(self.names, tuple(self.records), interrupted)

    def _identity(self) -> dict[str, Any]:
        """What must be the same when the run is resumed."""
        data = self.trainer.data
        return {
            "arch": arch_of(self.trainer.net),
            "options": {**self.options.decisive(), "augment": asdict(self.trainer.augment)},
            "preprocessing": self.trainer.preprocessing.as_dict(),
            "data": {"classes": list(data.classes), "train": len(data.train), "val": len(data.val)},
        }

    def _save(self, name: str) -> None:
        folder = self.trainer.folder
        if folder is None:
            return
        tensors = tensors_of(self.net)
        norms = torch.stack([t.detach().float().abs().amax() for t in tensors.values() if t.is_floating_point()])
        if not bool(norms.isfinite().all()):
            self._fail(f"the weights are not finite after iteration {self.at.iteration - 1}")
        if self.group.leads:
            parts = {"net": tensors, "optimizer": optimizer_tensors(self.optimizer, self.net)}
            parts["average"] = self.averaging.tensors()
            about = {
                **self._identity(),
                "at": asdict(self.at),
                "sums": self.sums,
                "counts": self.counts,
                "weighting": self.weighting.state(),
                "average": self.averaging.state(),
                "history": [asdict(record) for record in self.records],
                "torch": torch.__version__,
            }
            named = {f"{part}.{key}": t for part, values in parts.items() for key, t in values.items()}
            write_checkpoint(Checkpoint(named, about), folder / name)
        self.saved_s = time.monotonic()

    def _keep_best(self) -> None:
        """What was just saved is the best so far."""
        folder = self.trainer.folder
        if folder is not None and self.group.leads:
            keep_checkpoint(folder / LAST, folder / BEST)

    def _restore(self, path: Path) -> None:
        checkpoint = read_checkpoint(path)
        about, origin = checkpoint.about, str(path)
        for part, mine in self._identity().items():
            if (found := difference(about.get(part), mine)) is not None:
                what = f"checkpoint '{path}' is of another run: its {part}{found}"
                raise TrainingError(what, "give the same arguments, or another folder")
        restore_net(self.net, checkpoint.part("net"), origin=origin)
        restore_optimizer(self.optimizer, self.net, checkpoint.part("optimizer"), origin=origin)
        self.averaging.restore(checkpoint.part("average"), about["average"], origin=origin)
        try:
            self.at = _Position(**about["at"])
            self.sums, self.counts = list(about["sums"]), list(about["counts"])
            self.weighting.restore(about["weighting"])
            self.records = [record_from(record) for record in about["history"]]
        except (KeyError, TypeError) as error:
            raise TrainingError(f"checkpoint '{path}' cannot be read: {error}", "train anew") from error
