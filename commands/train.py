"""``stream-ann train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from commands.shared import reported, say_data

__all__ = ["train"]


@reported
def train(
    data: Annotated[str, typer.Argument(help="Folder in ImageFolder layout or of clips, or the name of a public set.")],
    out: Annotated[Path, typer.Option(help="Folder for weights, card, history, plots, checkpoints.", file_okay=False)],
    arch: Annotated[
        str | None,
        typer.Option(
            help="Train this from scratch: resann, denseann, msdnet, lite0@128, resnet18@224, ...; several, "
            "cheapest first and separated by commas, are trained one by one and assembled into an EANN."
        ),
    ] = None,
    init: Annotated[str | None, typer.Option(help="Fine-tune these weights, such as imagenet.")] = None,
    weighting: Annotated[
        str | None, typer.Option(help="Exit weights: const, linear, half-end, sieve, sieve-member, adaloss, opt:N.")
    ] = None,
    alternate: Annotated[
        bool, typer.Option("--alternate", help="Give one exit, drawn in each iteration, extra weight.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Instead of epochs: as many as fit into this time, all included.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Images in each iteration.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adamw.")] = None,
    schedule: Annotated[str | None, typer.Option(help="How the learning rate falls: cosine, steps, constant.")] = None,
    weight_decay: Annotated[float | None, typer.Option()] = None,
    label_smoothing: Annotated[float | None, typer.Option()] = None,
    boost: Annotated[bool, typer.Option("--boost", help="Each exit corrects the ones before it.")] = False,
    equilibrium: Annotated[
        bool, typer.Option("--equilibrium", help="Scale the gradients that exits send into the trunk.")
    ] = False,
    final_first: Annotated[
        float | None, typer.Option(help="Fraction of the epochs in which the last exit is trained alone.")
    ] = None,
    self_distill: Annotated[
        float | None, typer.Option(help="Share of an early exit's loss that matches the last exit.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="Weights to distil from.")] = None,
    distill: Annotated[float | None, typer.Option(help="Share of every exit's loss that matches the teacher.")] = None,
    mixup: Annotated[float | None, typer.Option()] = None,
    cutmix: Annotated[float | None, typer.Option()] = None,
    average: Annotated[str | None, typer.Option(help="Average the weights: none, ema or swa.")] = None,
    amp: Annotated[str | None, typer.Option(help="auto, bfloat16 or float32.")] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Compile by torch.compile.")] = False,
    val_fraction: Annotated[float, typer.Option(help="Share held out where the data has no val folder.")] = 0.1,
    limit_per_class: Annotated[int | None, typer.Option(min=1, help="At most so many images of each class.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the weights; by default the folder's.")] = None,
    licence: Annotated[str | None, typer.Option(help="SPDX identifier for the card.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's last checkpoint.")] = False,
    plots: Annotated[bool, typer.Option(help="Draw the curves (extra 'plots').")] = True,
) -> None:
    """Train on your own classes; ends with weights and a card that live, evaluate and verify take at once.

    Example: stream-ann train flowers --init imagenet --out flowers-weights
    """
    from rich.console import Console

    from stream_ann.errors import UsageError

    options: dict[str, Any] = {
        "weighting": weighting,
        "alternate": alternate or None,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "optimizer": optimizer,
        "schedule": schedule,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "equilibrium": equilibrium or None,
        "final_first": final_first,
        "self_distill": self_distill,
        "distill": distill,
        "mixup": mixup,
        "cutmix": cutmix,
        "average": average,
        "amp": amp,
        "compile": compile or None,
    }
    shared: dict[str, Any] = {
        "out": out,
        "name": name,
        "resume": resume,
        "val_fraction": val_fraction,
        "limit_per_class": limit_per_class,
        "seed": seed,
        "device": device,
        "plots": plots,
        "licence": licence,
        "console": Console(stderr=True),
        "teacher": teacher,
        **options,
    }
    if arch is not None and "," in arch and not arch.lstrip().startswith("{"):
        if init is not None or boost:
            raise UsageError(
                "members of an EANN are trained from scratch and unboosted", "leave out --init and --boost"
            )
        if minutes is not None:
            raise UsageError("members of an EANN are trained for a number of epochs each", "give --epochs")
        from pipelines.train_members import train_members

        members = [part.strip() for part in arch.split(",")]
        if weighting is None:
            del shared["weighting"]  # each member's own default
        trained = train_members(data, {part.replace("@", "-"): part for part in members}, **shared)
        interrupted, path = trained.members[-1].history.interrupted, trained.path
    else:
        from pipelines.train import train as run

        result = run(data, arch=arch, init=init, boost=boost, minutes=minutes, **shared)
        interrupted, path = result.history.interrupted, result.path
    if interrupted:
        raise typer.Exit(130)
    if path is not None:  # it is, in the process that leads
        say_data(str(path))
