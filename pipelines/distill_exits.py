"""New exits inside the members of an EANN, whose networks stay as they are."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from pipelines.distilled import check_request, names_of, options_of, save_changed, teaching_weights
from pipelines.signals import stop_on_signals
from pipelines.teaching import CropSource
from pipelines.train import checked_name, given_command, make_folder
from pipelines.train_start import Notes
from pipelines.train_view import TrainView, duration
from stream_ann import weights as weights_room
from stream_ann.card import Card
from stream_ann.errors import UsageError
from stream_ann.nets import EANN, AnytimeNet, Member
from stream_ann.nets.trunk import Trunk
from stream_ann.training.blending import with_trunks
from stream_ann.training.distributed import device_for
from stream_ann.training.options import TrainOptions
from stream_ann.training.own_trunk import own_trunk
from stream_ann.training.stagewise import (
    Agreement,
    MemberAnswers,
    agreement,
    answers_of,
    fit_exit,
    head_of,
    mixed_with,
    mixing_weights,
)
from stream_ann.training.stepper import resolution_of
from stream_ann.training.taught import TaughtCrops

__all__ = ["NewExit", "NewExits", "distill_exits"]

_RECIPE: dict[str, Any] = {
    "epochs": 6,
    "batch_size": 128,
    "optimizer": "adamw",
    "lr": 2e-3,
    "weight_decay": 0.0,
    "warmup": 0.05,
    "clip": 1.0,
}


@dataclasses.dataclass(frozen=True, slots=True)
class NewExit:
    """What an exit that was added is worth, on images held out."""

    name: str
    """The exit."""
    share: float
    """Its share of the answer when it is the newest."""
    before: Agreement
    """The answer without it against the teacher's."""
    after: Agreement
    """The answer with it."""


@dataclasses.dataclass(frozen=True, slots=True)
class NewExits:
    """What came of a run."""

    exits: tuple[NewExit, ...]
    """Every exit that was added, in the order of the plan."""
    card: Card | None
    """The card of the weights; None if the run was interrupted."""
    path: Path | None
    """Where that card lies, the weights beside it; None if the run was interrupted."""
    notes: tuple[str, ...]
    """What there was to say, a line each."""


def distill_exits(
    images: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str],
    members: Mapping[str, Sequence[int] | None],
    weights: str | os.PathLike[str] = "imagenet",
    teacher: str | os.PathLike[str] | None = None,
    teacher_members: Sequence[str] = (),
    crops: int = 2,
    limit_per_class: int | None = None,
    crop_px: int | None = None,
    taught: str | os.PathLike[str] | None = None,
    val_fraction: float = 0.05,
    name: str | None = None,
    data_name: str | None = None,
    seed: int = 0,
    device: str = "auto",
    console: Console | None = None,
    **options: Any,
) -> NewExits:
    """Add exits to members of an EANN, whose networks and last exits stay as they are.

    Each member runs once over each crop; its new exits are then trained on what it left behind, one after another, to
    make the frame's answer (readout ``average``) like the teacher's: see :mod:`stream_ann.training.stagewise`. That is
    cheap, and what an exit cannot do is spoil another one. All new heads end in the classifier of their network.

    Args:
        images: As :func:`pipelines.distill.distill` takes them. What comes out of one member for all crops must fit
            into memory.
        out: Folder for the new weights and their card, and for the crops.
        members: The blocks behind which each member has exits then, by the member's name.
        weights: Name or path of the weights that they belong to.
        teacher: Name or path of the weights that teach; by default the same.
        teacher_members: The members of those that teach, as ``TRUNK@PIXELS``; by default the last one.
        crops: Crops of each image.
        limit_per_class: At most so many images of each class, in folders without a count of their own.
        crop_px: Side at which crops are kept; by default the greatest resolution of the members.
        taught: Folder where crops and answers are kept for this run and others; by default in ``out``.
        val_fraction: Share of the images that is held out.
        name: Name of the new weights; by default that of the folder.
        data_name: What the card calls the images; by default the names of the folders.
        seed: What every random choice follows from.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        console: Where progress is shown; None for nowhere.
        options: Fields of :class:`stream_ann.training.options.TrainOptions`.

    Returns:
        The new exits and where the weights are. Their card has readout weights with which each new exit has the share
        that it was trained with, and each old one the share that it had.

    Raises:
        UsageError: An argument makes no sense, or a member can have no exits there.
        SourceError: A folder cannot be used.
        WeightsError: Weights cannot be used.
        TrainingError: Crops that are there already were made otherwise.
        DeviceError: The device cannot be used.
        OutputError: Something cannot be written.
    """
    check_request(images, 1.0)
    folder = Path(out)
    name = checked_name(name, folder)
    base = weights_room.load(weights)
    whole = base.net
    if not isinstance(whole, EANN):
        raise UsageError(f"the weights '{base.card.name}' have no members", "take an EANN, such as imagenet")
    path = folder / f"{name}.json"
    if path.resolve() == base.path.resolve():
        raise UsageError(f"'{path}' is the weights that are changed", "choose another name or folder")
    teaching = base if teacher is None else teaching_weights(teacher, base)
    chosen = options_of(_RECIPE, options, seed, device)
    where = device_for(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        own = {member: _Member.with_exits(whole, member, blocks) for member, blocks in members.items()}

    stop = threading.Event()
    with TrainView(console) as view:
        notes = Notes(view)
        source = CropSource(
            teaching,
            teacher_members,
            crops=crops,
            crop_px=crop_px or resolution_of(whole),
            val_fraction=val_fraction,
            seed=seed,
            folder=folder / "crops" if taught is None else Path(taught),
            device=device,
        )
        train, val = source.crops(images, limit_per_class, view)
        notes.add(f"{len(train):,} crops to train exits of {', '.join(own)} on, {len(val):,} held out, on {where}")
        began_s = time.monotonic()
        stages = _Stages(base, own, (train, val), chosen, where, stop, view, notes.add)
        with stop_on_signals(stop.set):
            done = stages.run()
        found = tuple(stages.found)
        if not done:
            notes.add("interrupted; the crops are kept, and the exits begin anew next time")
            return NewExits(found, None, None, tuple(notes.lines))

        net = with_trunks(whole, {member: part.trunk for member, part in own.items()})
        told = [
            {
                "exit": new.name,
                "share": round(new.share, 4),
                "agreement_held_out": [round(new.before.same, 4), round(new.after.same, 4)],
                "loss_held_out": [round(new.before.loss, 4), round(new.after.loss, 4)],
            }
            for new in found
        ]
        about = {
            "kind": "trained",
            "method": "exits distilled",
            "command": given_command("pipelines.distill_exits"),
            "data": data_name or names_of(images),
            "crops": len(train),
            "members": list(own),
            "teacher": {"name": teaching.card.name, "exit": source.teachers},
            "new_exits": told,
            "seed": seed,
            "options": {key: value for key, value in chosen.decisive().items() if key in {*_RECIPE, "amp", "schedule"}},
            "init": {"name": base.card.name, "sha256": base.card.file.sha256, **dict(base.card.training)},
            "torch": torch.__version__,
        }
        make_folder(folder)
        names = ", ".join(own)
        card = save_changed(
            net,
            base,
            folder / name,
            about,
            title=f"{base.card.name} with exits inside {names} ({', '.join(m.name for m in net.members())})",
            description=(
                f"The weights '{base.card.name}', of which {names} got exits inside, trained to improve on the answer "
                f"before them as {source.teachers} of '{teaching.card.name}' sees it. {base.card.description}"
            ),
            mixing=stages.mixing,
        )
        seconds = time.monotonic() - began_s
        notes.add(f"trained for {duration(seconds)}; weights and card are '{folder / name}.safetensors' and '.json'")
        return NewExits(found, card, path, tuple(notes.lines))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Member:
    """A member, and which of its exits are new."""

    trunk: AnytimeNet
    new: frozenset[int] = frozenset()
    """Numbers of its steps, from 0."""

    @classmethod
    def with_exits(cls, net: EANN, member: str, blocks: Sequence[int] | None) -> _Member:
        """A copy of its network that has exits behind these blocks; only the new heads need gradients."""
        trunk, fresh = own_trunk(net, member, exits=blocks, one_classifier=True)
        assert isinstance(trunk, Trunk)
        new = frozenset(i for i, head in enumerate(trunk.heads) if any(k.startswith(f"heads.{head}.") for k in fresh))
        if not new:
            raise UsageError(f"nothing is new in member {member}", "name blocks that it gets exits behind")
        trunk.requires_grad_(False)
        for i in new:
            head_of(trunk.steps[i]).expand.requires_grad_(True)
        return cls(trunk.eval(), new)


class _Stages:
    """One member after another: what it says, and its new exits.

    Args:
        base: The weights.
        own: The members that get exits.
        crops: Those to train on, and those held out.
        options: How the exits are trained.
        where: On what.
        stop: Set when it is to end.
        view: Where progress is shown.
        tell: Takes a line for the user.
    """

    def __init__(
        self,
        base: weights_room.Weights,
        own: Mapping[str, _Member],
        crops: tuple[TaughtCrops, TaughtCrops],
        options: TrainOptions,
        where: torch.device,
        stop: threading.Event,
        view: TrainView,
        tell: Callable[[str], None],
    ) -> None:
        assert isinstance(base.net, EANN)
        self._net, self._card = base.net, base.card
        self._parts = [
            own.get(member.name) or _Member(_trunk(base.net, i)) for i, member in enumerate(base.net.members())
        ]
        self._crops, self._options, self._where = crops, options, where
        self._stop, self._view, self._tell = stop, view, tell
        self._old = list(self._card.readout_weights or [2.0**i for i in range(len(self._card.steps))])
        self._shares: list[float] = []
        self.found: list[NewExit] = []
        """The new exits that are trained."""

    @property
    def mixing(self) -> tuple[float, ...]:
        """The readout weights of all exits."""
        return mixing_weights(self._shares)

    def run(self) -> bool:
        """Train all new exits; False if it was stopped."""
        # what the frame's answer is so far, for the crops of each kind
        so_far: list[Tensor | None] = [None, None]
        last = max(i for i, part in enumerate(self._parts) if part.new)
        done = 0  # of the exits that there were
        for number, (part, member) in enumerate(zip(self._parts, self._net.members(), strict=True)):
            answers = self._answers(part, member, done) if number <= last else None
            if number <= last and answers is None:
                return False
            for i in range(len(part.trunk.steps)):
                if i in part.new:
                    assert answers is not None
                    if not self._fit(part, member.name, i, answers, so_far):
                        return False
                    continue
                # of a first answer that was the first before as well, everything
                share = min(0.9, self._old[done] / sum(self._old[: done + 1])) if self._shares else 1.0
                self._shares.append(share)
                done += 1
                if answers is not None:
                    for which, answer in enumerate(answers):
                        known, said = so_far[which], answer.probabilities[i]
                        so_far[which] = said if known is None else torch.lerp(known.float(), said.float(), share).half()
            part.trunk.cpu()
        return True

    def _answers(self, part: _Member, member: Member, done: int) -> list[MemberAnswers] | None:
        """What a member says about the crops of each kind."""
        temperatures, of_old = [], iter(self._card.steps[done:])
        for i in range(len(part.trunk.steps)):
            temperatures.append(1.0 if i in part.new else next(of_old).temperature or 1.0)
        found = []
        part.trunk.to(self._where)
        for crops in self._crops:
            answers = answers_of(
                part.trunk,
                part.new,
                crops.pixels,
                dataclasses.replace(self._card.preprocessing, crop=1.0),
                self._options,
                resolution_px=member.resolution_px,
                temperatures=temperatures,
                stopping=self._stop.is_set,
                on_progress=self._view.stage(f"running {member.name}"),
            )
            if answers is None:
                return None
            found.append(answers)
        return found

    def _fit(
        self, part: _Member, member: str, step: int, answers: list[MemberAnswers], so_far: list[Tensor | None]
    ) -> bool:
        """Train one new exit; False if that was stopped."""
        head = head_of(part.trunk.steps[step])
        train, val = self._crops
        share = fit_exit(
            head,
            answers[0].features[step],
            so_far[0],
            train.answers,
            self._options,
            number=len(self._shares),
            stopping=self._stop.is_set,
            on_progress=self._view.stage(f"exit {step + 1} of {member}"),
        )
        if share is None:
            return False
        self._shares.append(share)
        before = so_far[1]
        for which in (0, 1):
            so_far[which] = mixed_with(head, answers[which].features.pop(step), so_far[which], share)
        after = so_far[1]
        assert after is not None
        now = agreement(after, val.answers)
        then = now if before is None else agreement(before, val.answers)
        name = f"{member} {step + 1}"
        self.found.append(NewExit(name, share, then, now))
        self._tell(
            f"{name}: {share:.0%} of the answer; agreement with the teacher {then.same:.1%} -> {now.same:.1%}, "
            f"loss {then.loss:.3f} -> {now.loss:.3f}"
        )
        return True


def _trunk(net: EANN, number: int) -> AnytimeNet:
    """The network of a member, to be run as it is."""
    trunk = net.trunks[net.arch["members"][number][0]]
    assert isinstance(trunk, AnytimeNet)
    return trunk
