"""A report as plots: accuracy against frame rate, exits reached, latency against budget, and where the time went."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import numpy as np

from pipelines.benchmarking.results import BenchReport, Entry
from stream_ann.text import clean
from stream_ann.training.plots import COLOURS, GREY, MARKERS, finish, new_figure, plain_log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["accuracy_figure", "exits_figure", "latency_figure", "png_of", "svg_of", "time_figure"]

BESIDE = 1.03
FIXED_SHADES = (0.35, 0.9)
"""Part of a colour map that fixed networks are drawn in, from the cheapest to the most expensive."""


def accuracy_figure(report: BenchReport) -> Figure:
    """Streaming accuracy against frame rate: each policy of the anytime network against each fixed network.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = new_figure()
    import matplotlib as mpl

    clock = report.main_clock
    kinds = {entry.contender: entry.kind for entry in report.entries}
    fixed = [name for name in report.contenders if kinds[name] == "fixed"]
    shades = mpl.colormaps["Greys"](np.linspace(*FIXED_SHADES, max(1, len(fixed))))
    others = 0
    for name in report.contenders:
        entries = report.of(contender=name, clock=clock)
        rates = [e.fps for e in entries]
        means = [100 * e.figures.accuracy.value for e in entries]
        if kinds[name] == "fixed":
            place = fixed.index(name)
            marker = MARKERS[place % len(MARKERS)]
            axes.plot(rates, means, "--", color=shades[place], marker=marker, markersize=4, lw=1.2, label=clean(name))
            continue
        strong = kinds[name] == "anytime"
        axes.errorbar(
            [rate * BESIDE**others for rate in rates],  # so that no bar covers another
            means,
            yerr=[100 * (e.figures.accuracy.error or 0.0) for e in entries],
            color=COLOURS[others % len(COLOURS)],
            marker=MARKERS[others % len(MARKERS)],
            markersize=6.5 if strong else 5,
            linewidth=2.4 if strong else 1.4,
            linestyle="-" if strong else "-.",
            capsize=2.5,
            elinewidth=1.0,
            label=clean(name),
            zorder=4,
        )
        others += 1
    _rate_axis(axes, report)
    axes.set_ylabel("streaming accuracy, eta = -1 (%)")
    axes.set_ylim(max(0, axes.get_ylim()[0]), min(102, axes.get_ylim()[1]))
    finish(figure, axes, "What accuracy a frame rate leaves", _subtitle(report))
    _legend_beside(axes, stacked=False)
    return figure


def exits_figure(report: BenchReport) -> Figure:
    """Share of the answered frames that ended at each exit, at each rate, under the first policy."""
    figure, axes = new_figure()
    entries = _first(report)
    names = entries[0].exit_names
    places = np.arange(len(entries))
    bottom = np.zeros(len(entries))
    for exit_, name in enumerate(names):
        shares = np.array([100 * e.figures.exit_shares[exit_] for e in entries])
        axes.bar(places, shares, bottom=bottom, color=_shade(exit_, len(names)), width=0.75, label=clean(name))
        bottom += shares
    for place, entry in zip(places, entries, strict=True):
        share = 100 * entry.figures.answered / entry.figures.frames
        axes.annotate(f"{share:.0f} %", (place, 101), ha="center", fontsize=8, color=GREY)
    axes.set_xticks(places, [f"{e.fps:g}" for e in entries])
    axes.set_xlabel("frames a second (above each bar: share of the frames that were answered)")
    axes.set_ylabel("answered frames that end at the exit (%)")
    axes.set_ylim(0, 108)
    finish(figure, axes, "Which exit is reached", clean(entries[0].contender))
    _legend_beside(axes)
    return figure


def latency_figure(report: BenchReport) -> Figure:
    """Time to the first and the final answer against the time that a frame has."""
    figure, axes = new_figure()
    entries = _first(report)
    rates = [e.fps for e in entries]
    axes.plot(rates, [1e3 / rate for rate in rates], color=GREY, linestyle=":", label="budget: until the next frame")
    lines = (
        ("first answer, p50", [e.figures.first.p50_ms for e in entries], COLOURS[0], "-"),
        ("first answer, p99", [e.figures.first.p99_ms for e in entries], COLOURS[0], "--"),
        ("final answer, p50", [e.figures.final.p50_ms for e in entries], COLOURS[1], "-"),
        ("final answer, p99", [e.figures.final.p99_ms for e in entries], COLOURS[1], "--"),
    )
    for label, values, colour, line in lines:
        axes.plot(rates, values, color=colour, linestyle=line, marker="o", markersize=4.5, label=label)
    _rate_axis(axes, report)
    axes.set_yscale("log")
    plain_log_ticks(axes.yaxis)
    axes.set_ylabel("milliseconds after arrival (logarithmic)")
    finish(figure, axes, "Latency against budget", clean(entries[0].contender))
    _legend_beside(axes, stacked=False)
    return figure


def time_figure(report: BenchReport) -> Figure:
    """Where an answered frame's milliseconds went, at each rate."""
    figure, axes = new_figure()
    entries = _first(report)
    names = entries[0].exit_names
    places = np.arange(len(entries))
    bottom = np.zeros(len(entries))
    parts: list[tuple[str, list[float], object]] = [
        ("waiting in the slot", [e.figures.wait_ms for e in entries], "#BDC1C6"),
        ("taking in", [e.figures.start_ms for e in entries], COLOURS[4]),
        *((clean(n), [e.figures.step_ms[i] for e in entries], _shade(i, len(names))) for i, n in enumerate(names)),
        ("scheduling", [e.figures.between_ms for e in entries], COLOURS[1]),
    ]
    for label, values, colour in parts:
        axes.bar(places, values, bottom=bottom, color=colour, width=0.75, label=label)
        bottom += np.array(values)
    axes.set_xticks(places, [f"{e.fps:g}" for e in entries])
    axes.set_xlabel("frames a second")
    axes.set_ylabel("milliseconds of an answered frame, mean")
    finish(figure, axes, "Where the time went", clean(entries[0].contender))
    _legend_beside(axes)
    return figure


def svg_of(figure: Figure, name: str) -> str:
    """A plot as an SVG element to put into a page; the same figure and name give the same text.

    Args:
        figure: The plot.
        name: What its inner references are told apart by from those of other plots on the page.
    """
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    opening, rest = text.split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", opening) + ">" + rest  # the page says how large it is


def png_of(figure: Figure) -> bytes:
    """A plot as a PNG file; the same figure gives the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=160, metadata={"Software": None})
    return file.getvalue()


def _first(report: BenchReport) -> list[Entry]:
    """The runs of the anytime network under its first policy."""
    name = next(entry.contender for entry in report.entries if entry.kind == "anytime")
    return report.of(contender=name, clock=report.main_clock)


def _shade(exit_: int, exits: int) -> tuple[float, float, float, float]:
    import matplotlib as mpl

    red, green, blue, alpha = mpl.colormaps["viridis_r"](0.1 + 0.85 * exit_ / max(1, exits - 1))
    return float(red), float(green), float(blue), float(alpha)


def _legend_beside(axes: Axes, *, stacked: bool = True) -> None:
    """Put the legend where it covers nothing; of a stack the top first."""
    handles, labels = axes.get_legend_handles_labels()
    order = -1 if stacked else 1
    beside = (1.0, 0.5)
    legend = axes.legend(
        handles[::order], labels[::order], loc="center left", bbox_to_anchor=beside, frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # names may hold a dollar sign


def _rate_axis(axes: Axes, report: BenchReport) -> None:
    axes.set_xscale("log")
    plain_log_ticks(axes.xaxis)
    axes.set_xticks(report.rates, [f"{rate:g}" for rate in report.rates])
    axes.minorticks_off()
    axes.set_xlabel("frames a second (logarithmic)")


def _subtitle(report: BenchReport) -> str:
    stream = report.about["stream"]
    of = "labelled" if stream["labels"] == "given" else "truth: the whole plan's answers"
    return clean(
        f"{stream['name']}: {stream['scenes']} scenes of {stream['dwell_s']:g} s, {of}; {report.main_clock} clock; "
        "bars: one standard error"
    )
