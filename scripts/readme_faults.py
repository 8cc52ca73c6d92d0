"""What the README says of faults, damaged input, long runs and load."""

from __future__ import annotations

import re
from typing import Any

from scripts import results
from scripts.results import result, table

__all__ = ["faults_section", "gathered", "load_section"]


def gathered(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of the table of faults: one for what was tried with several commands, but for kills, and one for all of
    damaged input."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        name: str = row["tried"]
        if not name.startswith("kill"):
            name = re.split(r": | (?:under|during|while) `", name)[0]
        groups.setdefault(name, []).append(row)
    found = []
    for name, group in groups.items():
        pieces = dict.fromkeys(piece for row in group for piece in row["note"].split("; "))
        note, shown = "; ".join(pieces), name
        if len(group) > 1 and name == "damaged input":
            taken, refused = (sum(_number(row["note"], word) for row in group) for word in ("taken", "refused"))
            note = f"{taken:,} taken, {refused:,} refused with an error of the project's"
            shown = f"{name} of {len(group)} kinds"
        elif not name.startswith("kill") and (
            commands := sorted(set(re.findall("`.+?`", str([r["tried"] for r in group]))))
        ):
            shown = f"{name}: {', '.join(commands)}"
        times, lost = (sum(row[key] for row in group) for key in ("times", "lost"))
        found.append([shown, f"{times:,}", f"{lost:,}" if lost else "nothing", note])
    return found


def _number(note: str, word: str) -> int:
    """The number before a word."""
    number = re.search(rf"([\d,]+) {word}", note)
    return int(number[1].replace(",", "")) if number else 0


def faults_section() -> str:
    """What was tried to break it, how often, and what was lost."""
    reports = [result(name) for name in ("faults", "fuzz", "soak") if (results.RESULTS / f"{name}.json").exists()]
    rows = gathered([row for report in reports for row in report["results"]["rows"]])
    if not rows:
        raise FileNotFoundError("neither faults nor a soak have been measured")
    commands = ", ".join(f"`{report['command']}`" for report in reports)
    header = ["what was tried", "how often", "what was lost", "what holds"]
    return f"{table(header, rows)}\n\nMeasured by {commands}."


def load_section() -> str:
    """What gives way first where more cameras come than can be refined."""
    report = result("load")
    runs = [run for run in report["results"]["simulated"] if not run["burning"]]
    rows = []
    for share in dict.fromkeys(run["share_of_most"] for run in runs):
        alone, watched = (
            next(run for run in runs if run["share_of_most"] == share and bool(run["visitors"]) is seen)
            for seen in (False, True)
        )
        cells = [f"{share:g}", f"{alone['cameras'] * alone['fps']:.0f}"]
        cells += [f"{100 * run['coverage']:.1f} %, {run['mean_exits']:.1f} exits" for run in (alone, watched)]
        rows.append(cells)
    first = runs[0]
    machine, cores = report["machine"]["processor"], report["machine"]["cores"]
    visitors = max(run["visitors"] for run in runs)
    header = [
        "share of the most",
        "frames a second",
        "answered, how deep",
        f"the same, {visitors} visitors of the page",
    ]
    before = (
        f"More cameras than can be refined ({first['cameras']}, simulated, one engine on {machine}, {cores} cores): "
        "depth gives way before coverage. Rates are given as a share of the first exits that the engine can "
        "reach in a second."
    )
    return f"{before}\n\n{table(header, rows)}\n\nMeasured by `{report['command']}`."
