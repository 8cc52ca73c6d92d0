"""Two reports side by side: two machines, two versions, two sets of weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from stream_ann.errors import SourceNotFoundError, UsageError
from stream_ann.text import clean

__all__ = ["compare"]


def compare(first: Path, second: Path) -> Group:
    """What differs between two reports, as tables for a terminal.

    Each contender that both have is compared at each rate that both have, by the real clock where both have it. The
    difference of two accuracies is marked where it is more than twice its standard error.

    Raises:
        SourceNotFoundError: There is no such file.
        UsageError: It is no report of this benchmark, or the two have nothing in common.
    """
    reports = _read(first), _read(second)
    runs = tuple(_runs(report) for report in reports)
    common = [key for key in runs[0] if key in runs[1]]
    if not common:
        raise UsageError(f"'{first}' and '{second}' have no contender at a common rate", "compare the same --fps")
    clock = "real" if any(key[2] == "real" for key in common) else "simulated"
    parts: list[Any] = [f"[bold]A {_safe(str(first))}   B {_safe(str(second))}, {clock} clock[/bold]"]
    differing = _differing(*reports)
    if differing:
        parts.append(differing)
    shown = [(f"{key[0]:g}", _safe(key[1]), runs[0][key], runs[1][key]) for key in common if key[2] == clock]
    accuracy, answers = _table("A %", "B %", "B - A"), _table("first p99 ms, A", "B", "final, A", "B", "exit, A", "B")
    for fps, network, a, b in shown:
        accuracy.add_row(fps, network, *_accuracies(a, b))
        answers.add_row(fps, network, *_answers(a, b))
    parts += [accuracy, "", answers]  # in two, since one would be too wide for 80 columns
    parts += _only("A", runs[0], runs[1], clock) + _only("B", runs[1], runs[0], clock)
    return Group(*parts)


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("fps", justify="right", no_wrap=True)
    table.add_column("network", overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _accuracies(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    ours, theirs = a["accuracy"], b["accuracy"]
    points = 100 * (theirs["value"] - ours["value"])
    text = f"{points:+.1f}"
    if ours["error"] is not None and theirs["error"] is not None:
        error = 100 * math.hypot(ours["error"], theirs["error"])
        text += f" ± {error:.1f}"
        if abs(points) > 2 * error:
            text = f"[{'green' if points > 0 else 'red'}]{text}[/]"
    return [f"{100 * ours['value']:.1f}", f"{100 * theirs['value']:.1f}", text]


def _answers(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """When the first and the last answer of a frame come, and how far the network gets."""
    return [
        *(f"{one['first']['p99_ms']:.1f}" for one in (a, b)),
        *(f"{one['final']['p99_ms']:.1f}" for one in (a, b)),
        *(f"{one['mean_exit']:.2f}" for one in (a, b)),
    ]


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> Table | None:
    """What was not the same: machine, versions, weights, stream, options."""
    flat = tuple(_flat({k: r.get(k) for k in ("weights", "machine", "stream", "options", "seed")}) for r in (a, b))
    keys = [key for key in dict.fromkeys((*flat[0], *flat[1])) if flat[0].get(key) != flat[1].get(key)]
    if not keys:
        return None
    table = Table("differs", "A", "B", box=None, pad_edge=False)
    for key in keys:
        table.add_row(_safe(key), *(_safe(str(one.get(key, "")))[:60] for one in flat))
    return table


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{before}{key}"
        if isinstance(value, dict):
            found |= _flat(value, f"{name} ")
        else:
            found[name] = value
    return found


def _only(name: str, here: Mapping[Any, Any], there: Mapping[Any, Any], clock: str) -> list[str]:
    names = {key[1] for key in there}
    alone = list(dict.fromkeys(key[1] for key in here if key[1] not in names and key[2] == clock))
    return [f"only in {name}: {_safe(', '.join(alone))}"] if alone else []


def _runs(report: Mapping[str, Any]) -> dict[tuple[float, str, str], Mapping[str, Any]]:
    return {(float(run["fps"]), str(run["contender"]), str(run["clock"])): run for run in report["runs"]}


def _read(path: Path) -> dict[str, Any]:
    remedy = "give a report.json that 'stream-ann bench' has written"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        for run in _runs(report).values():
            _accuracies(run, run)
            _answers(run, run)
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"there is no file '{path}'", "check the path") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"'{path}' is no report of this benchmark", remedy) from error
    found: dict[str, Any] = report
    return found


def _safe(text: str) -> str:
    return escape(clean(text))
