"""The result of an evaluation: as tables for a terminal, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from stream_ann.machine import machine, versions
from stream_ann.text import clean, plain_json, safe_cell
from stream_ann.training.calibrate import Calibration
from stream_ann.training.early_exit import NEVER
from stream_ann.training.evaluate import AnytimeCurve, ExitFigures

__all__ = ["Evaluation", "SplitName"]

SplitName = Literal["train", "val"]
"""Which images: those to evaluate on, or those to train on, which shows how far a net has learnt them by heart."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What weights are worth on a data set."""

    weights: str
    """Name of the weights."""
    data: str
    """Name of the data set."""
    split: SplitName
    """Which part of it."""
    device: str
    """Where the steps were timed."""
    curve: AnytimeCurve
    """The figures of every exit under every readout, at temperature 1, on all images."""
    calibration: Calibration | None
    """Temperatures and early exit; None where there are too few images."""
    warnings: tuple[str, ...]
    """What makes the figures doubtful, a line each; empty if nothing does."""

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {
            "weights": self.weights,
            "data": self.data,
            "split": self.split,
            "device": self.device,
            "machine": machine(),
            "versions": versions(),
            **self.curve.as_dict(),
            "calibration": None if self.calibration is None else self.calibration.as_dict(),
            "warnings": list(self.warnings),
        }

    def to_json(self) -> str:
        """The same as JSON text, ending in a line break."""
        return plain_json(json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)) + "\n"

    def to_csv(self) -> str:
        """One line for each readout and exit, with a heading, as CSV text (RFC 4180, but lines end in LF)."""
        rows = [
            {key: safe_cell(value) if isinstance(value, str) else value for key, value in figure.as_dict().items()}
            for figure in self.curve.figures
        ]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def __rich__(self) -> Group:
        heading = f"[bold]{escape(self.weights)} on {escape(clean(self.data))}, {self.curve.images:,} images[/bold]"
        parts: list[Any] = [heading, _curve_table(self), "", _cost_table(self)]
        if self.calibration is not None:
            fitted, chosen, reported = self.calibration.images
            early = self.calibration.early_exit
            goal = (
                f"at most {early.budget:g} points below the last exit"
                if early.goal == "max-drop"
                else f"at most {early.budget:.0%} of the plan's cost"
            )
            parts += [
                f"\n[bold]calibration: fitted on {fitted:,} images, measured on {reported:,} others[/bold]",
                _calibration_table(self.calibration),
                f"\n[bold]early exit, {goal}: chosen on {chosen:,} images, measured on {reported:,} others[/bold]",
                _early_exit_table(self.calibration),
                _verdict(self.calibration),
            ]
        parts += [f"[yellow]warning:[/yellow] {escape(clean(line))}" for line in self.warnings]
        return Group(*parts)


def _curve_table(result: Evaluation) -> Table:
    curve = result.curve
    table = Table(box=None, pad_edge=False)
    five = curve.classes > 5
    table.add_column("readout", no_wrap=True)
    table.add_column("exit", no_wrap=True)
    for heading in ("top-1 %", *(["top-5 %"] if five else []), "ECE %", "NLL"):
        table.add_column(heading, justify="right", no_wrap=True)
    for readout in curve.readouts:
        for i, f in enumerate(curve.of(readout)):
            row = [readout if i == 0 else "", escape(f.name), _percent(f.top1, f.top1_error)]
            row += [f"{100 * f.top5:.2f}"] if five else []
            row += [f"{100 * f.ece:.2f}", f"{f.nll:.4f}"]
            table.add_row(*row, end_section=i == len(curve.of(readout)) - 1)
    return table


def _cost_table(result: Evaluation) -> Table:
    """What each exit costs: the same under every readout, and side by side with accuracies too wide for 80 columns."""
    figures = result.curve.of(result.curve.readouts[0])
    table = Table(box=None, pad_edge=False)
    table.add_column("exit", no_wrap=True)
    timed = figures[0].ms is not None
    for heading in ("MMACs", "MMACs alone", *([f"ms ({result.device})", "ms alone"] if timed else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for f in figures:
        table.add_row(escape(f.name), _mmacs(f.macs), _mmacs(f.alone_macs), *(_times(f) if timed else []))
    return table


def _times(figures: ExitFigures) -> list[str]:
    assert figures.ms is not None
    assert figures.alone_ms is not None
    return [f"{figures.ms:.2f}", f"{figures.alone_ms:.2f}"]


def _calibration_table(calibration: Calibration) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("exit", no_wrap=True)
    for heading in ("temperature", "ECE %", "calibrated", "NLL", "calibrated"):
        table.add_column(heading, justify="right", no_wrap=True)
    weights = calibration.readout_weights
    if weights is not None:
        table.add_column("weight in the average", justify="right")
    for i, e in enumerate(calibration.exits):
        errors = (f"{100 * e.ece:.2f}", f"{100 * e.calibrated_ece:.2f}")
        row = [escape(e.name), f"{e.temperature:.3f}", *errors, f"{e.nll:.4f}", f"{e.calibrated_nll:.4f}"]
        table.add_row(*row, *([] if weights is None else [f"{weights[i]:.4g}"]))
    return table


def _early_exit_table(calibration: Calibration) -> Table:
    """Early exit among the networks of a fixed cost, on the same images."""
    early = calibration.early_exit
    table = Table(box=None, pad_edge=False)
    timed = early.ms is not None
    table.add_column("network", no_wrap=True)
    for heading in ("threshold", "answers %", "top-1 %", "MMACs", *(["ms"] if timed else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for i, static in enumerate(early.statics):
        threshold = "never" if early.thresholds[i] == NEVER else f"{early.thresholds[i]:.4f}"
        row = [f"{escape(static.name)} alone", threshold, f"{100 * early.shares[i]:.1f}"]
        row += [_percent(static.top1, static.top1_error), _mmacs(static.macs)]
        row += [f"{static.ms:.2f}"] if static.ms is not None else []
        best = i == early.smallest_static
        table.add_row(*row, style="cyan" if best else None, end_section=i == len(early.statics) - 1)
    row = ["early exit", "", "", _percent(early.top1, early.top1_error), _mmacs(early.macs)]
    row += [f"{early.ms:.2f}"] if early.ms is not None else []
    table.add_row(*row, style="bold")
    return table


def _verdict(calibration: Calibration) -> str:
    early = calibration.early_exit
    lines = [
        f"early exit: {early.drop:+.2f} ± {early.drop_error:.2f} points lost against the last exit, "
        f"at {early.cost:.1%} of the plan's MACs"
    ]
    if early.smallest_static is None:
        lines.append("no network of a fixed cost among the exits is as accurate")
    else:
        static = early.statics[early.smallest_static]
        lines.append(
            f"the smallest exit that is as accurate alone: {escape(static.name)}, "
            f"{static.macs / early.macs:.2f} times the MACs"
        )
    return "\n".join(lines)


def _percent(accuracy: float, error: float) -> str:
    return f"{100 * accuracy:.2f} ± {100 * error:.2f}"


def _mmacs(macs: float) -> str:
    return f"{macs / 1e6:,.1f}"
