"""Training an EANN: members of growing cost one after another, assembled into one net."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.architectures import PHOTOGRAPH_RESOLUTION_PX, resolution_named
from pipelines.assemble import save_assembled
from pipelines.train import TrainResult, checked_name, given_command, train, validated
from stream_ann import weights as weights_room
from stream_ann.card import Card
from stream_ann.errors import UsageError
from stream_ann.nets import build
from stream_ann.training.data import Data, open_data
from stream_ann.training.distributed import device_for
from stream_ann.training.evaluate import AnytimeCurve
from stream_ann.training.stepper import resolution_of

__all__ = ["MembersResult", "train_members"]


@dataclass(frozen=True, slots=True)
class MembersResult:
    """What came of training an EANN."""

    members: tuple[TrainResult, ...]
    """Each member's own run, as far as they have come."""
    card: Card | None
    """The card of the EANN; None if a run was interrupted."""
    path: Path | None
    """Where that card lies; None if a run was interrupted."""
    curve: AnytimeCurve | None
    """Every exit of the EANN on the validation images."""


def train_members(
    data: str | os.PathLike[str] | Data,
    archs: Mapping[str, str | Mapping[str, Any]],
    *,
    out: str | os.PathLike[str],
    name: str | None = None,
    val_fraction: float = 0.1,
    limit_per_class: int | None = None,
    download: bool = True,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    licence: str | None = None,
    console: Console | None = None,
    **options: Any,
) -> MembersResult:
    """Train members of growing cost, and assemble them (Hu et al., arXiv 1708.06832v2).

    Each should cost about twice as much as the one before. The first is trained with the weighting ``sieve``, the
    others with ``sieve-member``, which leaves out the exits whose budgets the member before covers.

    Args:
        data: A folder or the name of a data set, see :func:`stream_ann.training.data.open_data`; or opened data.
        archs: Architecture of each member by the name that it is to have, cheapest first, as :func:`pipelines.train`
            takes them.
        out: Folder for the EANN's weights and card, named like it, and a folder ``member-NAME`` for each member's run.
        name: Name of the weights; by default that of the folder.
        val_fraction: Share that is held out where the data has no part of its own to validate on.
        limit_per_class: At most so many images or clips of each class.
        download: Whether a data set with a name may be downloaded.
        seed: What every random choice follows from.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        resume: Go on where an earlier call was interrupted; members that are done are not trained again.
        licence: SPDX identifier for the cards.
        console: Where progress is shown; None for nowhere.
        options: As in :func:`pipelines.train`.

    Raises:
        StreamAnnError: As :func:`pipelines.train`, and if the members' costs do not grow.
    """
    if not archs:
        raise UsageError("an EANN of no members", "name at least one architecture")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            "several processes cannot train members", "train each with torchrun, then run `stream-ann weights assemble`"
        )
    folder = Path(out)
    name = checked_name(name, folder)
    if not isinstance(data, Data):
        data = _opened(data, list(archs.values()), val_fraction, limit_per_class, download, seed)
    weightings: Sequence[str] = ["sieve", *["sieve-member"] * (len(archs) - 1)]
    results = []
    for (member, arch), weighting in zip(archs.items(), weightings, strict=True):
        result = train(
            data,
            out=folder / f"member-{member}",
            name=member,
            arch=arch,
            val_fraction=val_fraction,
            seed=seed,
            device=device,
            resume=resume,
            licence=licence,
            console=console,
            **{"weighting": weighting, **options},
        )
        results.append(result)
        if result.path is None:
            return MembersResult(tuple(results), None, None, None)
    loaded = {
        name: weights_room.load(result.path)
        for name, result in zip(archs, results, strict=True)
        if result.path is not None
    }
    target = folder / name
    save_assembled(
        loaded,
        target,
        title=f"EANN of {len(loaded)} members trained on {data.name}",
        description=f"Members {', '.join(loaded)}, trained one by one on '{data.name}' and assembled.",
        facts={"command": given_command(), "data": data.name, "seed": seed, "val_fraction": val_fraction},
    )
    card, curve = validated(
        target,
        data,
        device=device_for(device),
        batch_size=64,
        command=shlex.join(["stream-ann", "evaluate", target.name, data.name]),
    )
    return MembersResult(tuple(results), card, target.with_name(target.name + ".json"), curve)


def _opened(
    spec: str | os.PathLike[str],
    archs: Sequence[str | Mapping[str, Any]],
    val_fraction: float,
    limit_per_class: int | None,
    download: bool,
    seed: int,
) -> Data:
    """The data, photographs no larger than the largest member will need them."""
    resolutions = [
        (resolution_named(arch) or PHOTOGRAPH_RESOLUTION_PX)
        if isinstance(arch, str)
        else resolution_of(build(arch, device="meta"))
        for arch in archs
    ]
    return open_data(
        spec,
        val_fraction=val_fraction,
        seed=seed,
        limit_per_class=limit_per_class,
        download=download,
        short_side_px=math.ceil(1.25 * max(resolutions)),
    )
