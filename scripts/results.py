"""What the benchmarks measured, and tables of it in Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "result", "table"]

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


def result(name: str) -> dict[str, Any]:
    """One benchmark's JSON."""
    report: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return report


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
