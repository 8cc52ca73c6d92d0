"""``stream-ann distill``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from commands.shared import reported, say_data

__all__ = ["distill"]


@reported
def distill(
    images: Annotated[
        list[str],
        typer.Argument(help="Folders of folders of images: FOLDER, or FOLDER:COUNT for so many of each folder in it."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for weights, card, crops, checkpoints.", file_okay=False)],
    member: Annotated[
        list[str] | None,
        typer.Option(
            help="The member to train, by default lite0@96. Given more than once, as NAME or NAME:BLOCKS (the last "
            "member only with blocks), they are trained together, on fresh crops: for GPUs."
        ),
    ] = None,
    weights: Annotated[str, typer.Option(help="The weights that it belongs to.")] = "imagenet",
    teacher: Annotated[
        str | None, typer.Option(help="Weights that teach; by default the same. Several members need --crops then.")
    ] = None,
    teach: Annotated[
        list[str] | None,
        typer.Option(help="A member of those that teaches, TRUNK@PIXELS; several answer with their mean."),
    ] = None,
    exits: Annotated[
        str | None,
        typer.Option(help="Blocks behind which the member has exits, such as 7,10."),
    ] = None,
    called: Annotated[str | None, typer.Option(help="Name of the member's own trunk.")] = None,
    keep_blocks: Annotated[int, typer.Option(min=0, help="So many of the first blocks stay as they are.")] = 0,
    crops: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Crops of each image, about which the teacher is asked once; by default 2. Of several members by "
            "default drawn anew every time, with the last member as the teacher: for GPUs.",
        ),
    ] = None,
    crop_px: Annotated[
        int | None, typer.Option(min=8, help="Side at which crops are kept; by default the member's resolution.")
    ] = None,
    taught: Annotated[
        Path | None, typer.Option(help="Folder of crops and answers, for several runs.", file_okay=False)
    ] = None,
    exits_only: Annotated[
        bool,
        typer.Option("--exits-only", help="Train new exits alone, each to improve on the answer before it."),
    ] = False,
    share: Annotated[float, typer.Option(help="How much of the change to the weights is kept in the end.")] = 1.0,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Crops in each iteration.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate of new heads; the rest has a tenth.")] = None,
    temperature: Annotated[float | None, typer.Option(help="What softens the answers that are matched.")] = None,
    mixup: Annotated[float | None, typer.Option(help="Parameter of mixup; of several members only.")] = None,
    cutmix: Annotated[float | None, typer.Option(help="Parameter of CutMix; of several members only.")] = None,
    amp: Annotated[
        str | None, typer.Option(help="bfloat16, float32, or auto: bfloat16 on a GPU. CPUs of late have it too.")
    ] = None,
    val_fraction: Annotated[float, typer.Option(help="Share of the images that is held out.")] = 0.05,
    name: Annotated[str | None, typer.Option(help="Name of the weights; by default the folder's.")] = None,
    data_name: Annotated[str | None, typer.Option(help="What the card calls the images.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's last checkpoint.")] = False,
) -> None:
    """Train one member at its resolution to say what a better network says about the same pictures; no labels needed.

    Example: stream-ann distill frames --member lite0@96 --exits 10 --out better-imagenet
    """
    from rich.console import Console

    from pipelines.distill import distill as one
    from pipelines.distill_together import distill_together
    from stream_ann.errors import UsageError

    names = {part.partition(":")[0]: part.partition(":")[2] for part in member or ["lite0@96"]}
    if len(names) < len(member or ()):
        raise UsageError("a member is named twice", "name each once, as NAME or NAME:BLOCKS")
    shared: dict[str, Any] = {
        "out": out,
        "weights": weights,
        "teacher": teacher,
        "teacher_members": teach or (),
        "crop_px": crop_px,
        "taught": taught,
        "keep_blocks": keep_blocks,
        "share": share,
        "val_fraction": val_fraction,
        "name": name,
        "data_name": data_name,
        "seed": seed,
        "device": device,
        "resume": resume,
        "console": Console(stderr=True),
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "amp": amp,
    }
    if exits_only:
        unused = {"--called": called, "--mixup": mixup, "--cutmix": cutmix, "--temperature": temperature}
        path = _exits_only(images, names, exits, unused, shared, crops)
        if path is None:
            raise typer.Exit(130)
        say_data(str(path))
        return
    if len(member or ()) > 1:
        for given, option in ((exits, "--exits"), (called, "--called")):
            if given is not None:
                raise UsageError(f"{option} for several members", "write --member NAME:BLOCKS for exits; leave it out")
        blocks = {part: _blocks(text) if text else None for part, text in names.items()}
        softened = {"temperature" if crops else "self_temperature": temperature}
        own: dict[str, Any] = {**softened, "crops": crops, "mixup": mixup, "cutmix": cutmix}
        result = distill_together(images, members=blocks, **shared, **own)
    else:
        ((which, behind),) = names.items()
        text = exits if exits is not None else behind
        result = one(
            images,
            member=which,
            exits=_blocks(text) if text else None,
            called=called,
            crops=crops or 2,
            temperature=temperature,
            mixup=mixup,
            cutmix=cutmix,
            **shared,
        )
    if result.path is None:
        raise typer.Exit(130)
    say_data(str(result.path))


def _exits_only(
    images: list[str],
    names: dict[str, str],
    exits: str | None,
    unused: Mapping[str, object],
    shared: dict[str, Any],
    crops: int | None,
) -> Path | None:
    """Train new exits of members; the card's path, or None if that was interrupted."""
    from pipelines.distill_exits import distill_exits
    from stream_ann.errors import UsageError

    share, keep_blocks, resume = (shared.pop(key) for key in ("share", "keep_blocks", "resume"))
    unused = {
        **unused,
        "--share": None if share == 1 else share,
        "--keep-blocks": keep_blocks or None,
        "--resume": resume or None,
    }
    for option, given in unused.items():
        if given is not None:
            raise UsageError(
                f"{option} with --exits-only", "leave it out: networks stay as they are, and it takes minutes"
            )
    if exits is not None:
        if len(names) > 1:
            raise UsageError("--exits for several members", "write --member NAME:BLOCKS")
        names = dict.fromkeys(names, exits)
    blocks = {part: _blocks(text) if text else None for part, text in names.items()}
    return distill_exits(images, members=blocks, crops=crops or 2, **shared).path


def _blocks(text: str) -> list[int]:
    """The numbers in ``"7,10"``."""
    from stream_ann.errors import UsageError

    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() for word in words):
        raise UsageError(f"'{text}' are not numbers of blocks", "write such as 7,10")
    return [int(word) for word in words]
