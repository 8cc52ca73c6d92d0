"""Plots: accuracy against cost, and accuracy against epochs. Needs matplotlib, which the extra ``plots`` brings.

Colours are those of Okabe and Ito, which people with any common colour blindness can tell apart; every series has a
marker and a line style of its own as well.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from stream_ann.errors import MissingExtraError, OutputError, UsageError, nearest
from stream_ann.whole_files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from stream_ann.training.calibrate import EarlyExit
    from stream_ann.training.evaluate import AnytimeCurve

__all__ = [
    "COLOURS",
    "FORMATS",
    "GREY",
    "MARKERS",
    "Series",
    "SeriesKind",
    "accuracy_plot",
    "check_plot",
    "evaluation_plot",
    "finish",
    "learning_plot",
    "new_figure",
    "plain_log_ticks",
    "save",
]

FORMATS = ("pdf", "png", "svg")
"""What plots are written as, by the ending of their file."""

SeriesKind = Literal["anytime", "line", "points", "star"]
"""``"anytime"`` is a staircase: between two exits the answer is the earlier one's. ``"line"`` joins operating points,
``"points"`` leaves them alone, ``"star"`` marks what was chosen."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), "-")
GREY = "#5F6368"
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_MOST_NAMES = 12
_MOST_INSIDE = 8
"""A longer legend stands beside the plot, where it covers nothing."""


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one kind in a plot of accuracy against cost."""

    label: str
    """What the legend says."""
    costs: Sequence[float]
    """Cost of each point, in multiply-accumulates or milliseconds, positive and not falling."""
    accuracies: Sequence[float]
    """Accuracy of each point, 0 to 1."""
    errors: Sequence[float] | None = None
    """Standard error of each accuracy."""
    kind: SeriesKind = "anytime"
    """How the points are drawn."""
    names: Sequence[str] | None = None
    """A name to write at each point."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(SeriesKind):
            raise ValueError(f"invalid kind {self.kind!r}, allowed are {', '.join(get_args(SeriesKind))}")
        sizes = [len(self.costs), *(len(v) for v in (self.accuracies, self.errors, self.names) if v is not None)]
        if len(set(sizes)) != 1 or not self.costs:
            raise ValueError(f"a series must have as many accuracies, errors and names as costs, got {sizes}")
        if self.costs[0] <= 0 or any(b < a for a, b in itertools.pairwise(self.costs)):
            raise ValueError(f"costs must be positive and not fall, got {list(self.costs)}")


def check_plot(path: str | os.PathLike[str]) -> None:
    """Make sure, before any long work, that a plot can be made and written as ``path`` asks.

    Raises:
        MissingExtraError: matplotlib is not installed.
        UsageError: Plots are not written in the format that the file's ending says.
    """
    _format_of(Path(path))
    new_figure()


def accuracy_plot(
    series: Sequence[Series], *, title: str = "", unit: Literal["MACs", "ms"] = "MACs", subtitle: str = ""
) -> Figure:
    """Top-1 accuracy against the logarithm of the cost.

    Args:
        series: What to draw, in the order of the legend.
        title: What it is about, in one line.
        unit: What the costs are: multiply-accumulates of an image, or milliseconds.
        subtitle: A second, smaller line.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ValueError: There is nothing to draw.
    """
    if not series:
        raise ValueError("there is no series to draw")
    from_label = {"MACs": "cost of an image", "ms": "time of an image"}[unit]
    least = min(min(s.costs) for s in series)
    scale, prefix = next((f, p) for f, p in _UNITS if least >= f or f == 1.0) if unit == "MACs" else (1.0, "")
    figure, axes = new_figure()
    for i, one in enumerate(series):
        xs = [cost / scale for cost in one.costs]
        ys = [100 * a for a in one.accuracies]
        errors = None if one.errors is None else [100 * e for e in one.errors]
        _draw(axes, one, i, xs, ys, errors)
        if one.names is not None and len(one.names) <= _MOST_NAMES:
            for x, y, name in zip(xs, ys, one.names, strict=True):
                axes.annotate(
                    name, (x, y), (6, -12), textcoords="offset points", fontsize=8, color=GREY, parse_math=False
                )
    axes.set_xscale("log")
    plain_log_ticks(axes.xaxis)
    axes.margins(x=0.1, y=0.12)
    axes.set_xlabel(f"{from_label} ({prefix}{unit}, logarithmic)")
    axes.set_ylabel("top-1 accuracy (%)")
    axes.set_ylim(max(axes.get_ylim()[0], -2), min(axes.get_ylim()[1], 102))
    finish(figure, axes, title, subtitle)
    return figure


def evaluation_plot(
    curve: AnytimeCurve, early_exit: EarlyExit | None = None, *, title: str = "", subtitle: str = ""
) -> Figure:
    """The anytime curve of every readout, and early exit beside it.

    Args:
        curve: The curve.
        early_exit: Early exit on a part of the same images; None to leave it out.
        title: What it is about, in one line.
        subtitle: A second, smaller line.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    series = []
    for i, readout in enumerate(curve.readouts):
        figures = curve.of(readout)
        values = [f.top1 for f in figures]
        if i and values == [f.top1 for f in curve.of(curve.readouts[0])]:
            continue  # it would hide the first
        series.append(
            Series(
                f"anytime, {readout} exit" if readout != "average" else "anytime, average of exits",
                [f.macs for f in figures],
                values,
                [f.top1_error for f in figures] if i == 0 else None,
                names=[f.name for f in figures] if i == 0 else None,
            )
        )
    if early_exit is not None:
        costs, accuracies = zip(*early_exit.curve, strict=True)
        series.append(Series("early exit by confidence", costs, accuracies, kind="line"))
        lost = f"at most {early_exit.budget:g} points lost"
        goal = lost if early_exit.goal == "max-drop" else f"at most {early_exit.budget:.0%} of the cost"
        chosen = ([early_exit.macs], [early_exit.top1], [early_exit.top1_error])
        series.append(Series(f"early exit, {goal}", *chosen, kind="star"))
    return accuracy_plot(series, title=title, subtitle=subtitle)


def learning_plot(
    epochs: Sequence[int], accuracies: Sequence[Sequence[float]], exit_names: Sequence[str], *, title: str = ""
) -> Figure:
    """Validated accuracy of every exit against epochs, from pale (first exit) to dark (last exit).

    Args:
        epochs: Number of each epoch that was validated.
        accuracies: For each of these epochs the accuracy of every exit, 0 to 1.
        exit_names: Name of each exit.
        title: What it is about, in one line.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ValueError: There are no epochs, or not one accuracy for each epoch and exit.
    """
    if not epochs or len(accuracies) != len(epochs) or any(len(row) != len(exit_names) for row in accuracies):
        raise ValueError(f"{len(accuracies)} rows of accuracies for {len(epochs)} epochs, {len(exit_names)} exits each")
    figure, axes = new_figure()
    import matplotlib as mpl
    from matplotlib.ticker import MaxNLocator

    shades = mpl.colormaps["viridis_r"]
    exits = len(exit_names)
    for i, name in enumerate(exit_names):
        colour = shades(0.15 + 0.85 * i / max(1, exits - 1))
        labelled = name if exits <= _MOST_NAMES or i in (0, exits - 1) else "_nolegend_"
        axes.plot(
            epochs,
            [100 * row[i] for row in accuracies],
            color=colour,
            marker="o" if len(epochs) <= 30 else None,
            markersize=3.5,
            linewidth=2.4 if i == exits - 1 else 1.4,
            label=labelled,
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel("top-1 accuracy (%)")
    axes.margins(y=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    finish(figure, axes, title, "")
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a plot, whole or not at all. The same figure gives the same file.

    Raises:
        UsageError: Plots are not written in the format that the file's ending says.
        OutputError: The file cannot be written.
    """
    target = Path(path)
    ending = _format_of(target)
    dated = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[ending]
    try:
        with whole_file(target) as file:
            figure.savefig(file, format=ending, dpi=160, metadata=dated)
    except OSError as error:
        what = f"cannot write '{target}': {error.strerror or error}"
        raise OutputError(what, "choose a folder that can be written to and has room") from error


def _format_of(path: Path) -> str:
    ending = path.suffix.lstrip(".").lower()
    if ending not in FORMATS:
        raise UsageError(f"cannot write a plot as '{path.name}'", nearest(ending, FORMATS) if ending else "add .png")
    return ending


def new_figure() -> tuple[Figure, Axes]:
    """An empty plot in the style of all plots here.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        # The figure alone, not pyplot: no backend is chosen for the whole process, and no window can open.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("plots", "matplotlib") from error
    figure = Figure(figsize=(8.0, 5.0), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(visible=True, which="major", color="#E3E5E8", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#9AA0A6")
    axes.tick_params(colors=GREY, which="both", labelsize=9)
    return figure, axes


def _draw(
    axes: Axes, series: Series, number: int, xs: list[float], ys: list[float], errors: list[float] | None
) -> None:
    # Colours come again after seven; marker and line are then others, so that no two series look alike.
    again, kind = divmod(number, len(COLOURS))
    colour, marker = COLOURS[kind], MARKERS[(kind + again) % len(MARKERS)]
    if series.kind == "star":
        axes.errorbar(
            xs,
            ys,
            yerr=errors,
            fmt="*",
            markersize=17,
            markeredgecolor="white",
            color=colour,
            ecolor=colour,
            capsize=3,
            label=series.label,
            zorder=5,
        )
        return
    line = {"anytime": _LINES[(kind + 2 * again) % len(_LINES)], "line": "-", "points": "none"}[series.kind]
    style = "steps-post" if series.kind == "anytime" else "default"
    axes.plot(xs, ys, color=colour, linestyle=line, drawstyle=style, linewidth=1.8, zorder=3)
    if errors is not None:
        axes.errorbar(xs, ys, yerr=errors, fmt="none", ecolor=colour, elinewidth=1.0, capsize=2.5, zorder=3)
    size = 3.0 if series.kind == "line" else 6.5
    edge = 0.0 if series.kind == "line" else 0.6
    axes.plot(xs, ys, marker, color=colour, markersize=size, markeredgecolor="white", markeredgewidth=edge, zorder=4)
    # The legend shows line and marker together.
    axes.plot([], [], color=colour, linestyle=line, marker=marker, markersize=size, linewidth=1.8, label=series.label)


def plain_log_ticks(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 of each decade, written out: 50, 100, 200."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def finish(figure: Figure, axes: Axes, title: str, subtitle: str) -> None:
    """Give a plot its title, the style of its labels, and its legend."""
    axes.xaxis.label.set_color("#3C4043")
    axes.yaxis.label.set_color("#3C4043")
    if title:
        figure.suptitle(title, x=0.02, ha="left", fontsize=13, fontweight="bold", parse_math=False)
    if subtitle:
        axes.set_title(subtitle, loc="left", fontsize=9.5, color=GREY, parse_math=False)
    where: dict[str, Any] = {"loc": "lower right"}
    if len(axes.get_legend_handles_labels()[1]) > _MOST_INSIDE:
        where = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    legend = axes.legend(**where, frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)  # names may hold a dollar sign
