"""``stream-ann sources`` and ``stream-ann doctor``: what is there, and what works."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from commands.shared import reported, say_data, table

__all__ = ["doctor", "sources"]


@reported
def sources(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """List the webcams that are here, and what else can be a source.

    Example: stream-ann sources
    """
    from dataclasses import asdict

    from stream_ann.ingest import list_sources

    listed = list_sources()
    if as_json:
        say_data(json.dumps([asdict(entry) for entry in listed], indent=2))
        return
    table(("source", "what it is"), [(entry.spec, entry.description) for entry in listed])


@reported
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """Say what works on this machine, and what to install for the rest. Exit code 1 if something is broken.

    Example: stream-ann doctor
    """
    from dataclasses import asdict

    from pipelines.doctor import examine

    findings = examine()
    if as_json:
        say_data(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        marks = {"ok": "ok", "note": "-", "problem": "PROBLEM"}
        rows = [(marks[f.state], f.name, f"{f.detail}; {f.remedy}" if f.remedy else f.detail) for f in findings]
        table(("", "what", "found"), rows)
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)
