"""A report as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from pipelines.benchmarking.results import BenchReport, Entry
from stream_ann.streaming import Mean
from stream_ann.text import clean

__all__ = ["in_words", "spread", "tables"]


def tables(report: BenchReport) -> Group:
    """The headline, then every run, then whatever else was found."""
    stream = report.about["stream"]
    heading = (
        f"{report.about['weights']['name']} on {stream['name']}: {stream['scenes']} scenes of {stream['dwell_s']:g} s, "
        f"labels {stream['labels']}"
    )
    parts: list[Any] = [f"[bold]{_safe(heading)}[/bold]"]
    if report.headlines:
        parts += ["\n[bold]streaming accuracy (eta = -1) against the best fixed network in hindsight[/bold]"]
        parts.append(_headline(report))
    parts += [f"\n[bold]every run, {report.main_clock} clock; first and final answer: p50/p99[/bold]", _runs(report)]
    parts += [f"\n{_safe(line)}" for line in in_words(report)]
    for multi in report.more.get("multi_stream", {}).get("results", ()):
        what = f"{multi['network']} to exit {multi['exit']}"
        interval = f"{report.more['multi_stream']['interval_ms']:g} ms"
        parts.append(f"streams at {interval}, {multi['clock']} clock, {_safe(what)}: [bold]{multi['streams']}[/bold]")
    if "streams" in report.more:
        count = report.more["streams"]["count"]
        parts += [f"\n[bold]{count} streams at once on one engine, simulated clock[/bold]", _streams(report)]
    if "advice" in report.more:
        parts.append(f"\n{_safe(report.more['advice']['sentence'])}")
    parts += [f"[yellow]warning:[/yellow] {_safe(line)}" for line in report.warnings]
    return Group(*parts)


def _headline(report: BenchReport) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("fps", "network", "accuracy %", "best fixed", "accuracy %", "ratio"):
        table.add_column(name, justify="left" if name in ("network", "best fixed") else "right", no_wrap=True)
    for line in report.headlines:
        if line.clock == report.main_clock:
            good = line.ratio.value >= 1
            table.add_row(
                f"{line.fps:g}",
                _safe(line.contender),
                f"{100 * line.ours:.1f}",
                _safe(line.best),
                f"{100 * line.theirs:.1f}",
                f"[{'green' if good else 'red'}]{_pm(line.ratio, 1, 3)}[/]",
            )
    return table


def in_words(report: BenchReport) -> list[str]:
    """What is to be said of the figures as a whole, each in a plain line."""
    return [line for line in (_exits(report), _agreement(report), _usage(report), _quiet(report)) if line]


def _exits(report: BenchReport) -> str:
    """How good each exit is with all the time that it needs."""
    exits = [f"{one['exit']} {_pm(_mean(one), 100, 1)}" for one in report.more["exit_accuracy"]]
    return f"accuracy of each exit without any clock, %: {', '.join(exits)}"


def _agreement(report: BenchReport) -> str:
    """How far the simulated clock is from the real one."""
    if not report.agreements:
        return ""
    worst = max(report.agreements, key=lambda one: abs(one.points))
    error = "" if worst.difference.error is None else f" ± {100 * worst.difference.error:.1f}"
    replayed = max(abs(one.replayed_points) for one in report.agreements)
    return (
        f"simulated against real clock: within {abs(worst.points):.1f} points (worst: {worst.contender} at "
        f"{worst.fps:g} fps, {worst.points:+.1f}{error}); replayed with each run's own times within {replayed:.1f}"
    )


def _usage(report: BenchReport) -> str:
    """What the network that is judged took of the machine, over all rates."""
    used = [e.usage for e in report.entries if e.kind == "anytime" and e.usage is not None]
    if not used:
        return ""
    gpu = [u.gpu for u in used if u.gpu is not None]
    joules = [u.joules_per_frame for u in used if u.joules_per_frame is not None]
    parts = [f"{sum(u.cpu_cores for u in used) / len(used):.2f} cores"]
    parts.append(f"GPU {100 * sum(gpu) / len(gpu):.0f} %" if gpu else "GPU: not told by the machine")
    parts.append(f"{min(joules):.3g} to {max(joules):.3g} J a frame" if joules else "energy: not told by the machine")
    return f"taken of the machine in real time: {', '.join(parts)}"


def _quiet(report: BenchReport) -> str:
    """Whether anything else was going on."""
    quiet = report.more.get("quiet")
    if quiet is None:
        return ""
    others = "not told by the machine" if quiet["other_cores"] is None else f"{quiet['other_cores']:.2f} cores"
    drift = quiet["step_times_end_over_start"].values()
    pace = f"; step times at the end {min(drift):.2f} to {max(drift):.2f} times those at the beginning" if drift else ""
    return f"other programs meanwhile: {others}{pace}"


def _streams(report: BenchReport) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("fps", "network", "in time %", "each", "eta -1 %", "each"):
        table.add_column(name, justify="left" if name == "network" else "right", no_wrap=True)
    for one in report.more["streams"]["results"]:
        table.add_row(
            f"{one['fps']:g}",
            _safe(one["contender"]),
            f"{100 * one['in_time']:.1f}",
            spread(one, "in_time"),
            _pm(_mean(one["accuracy"]), 100, 1),
            spread(one, "accuracy"),
        )
    return table


def spread(streams: Mapping[str, Any], key: str) -> str:
    """The least and the largest of a figure over the streams of a result, in percent."""
    values = [100 * stream[key] for stream in streams["each"]]
    return f"{min(values):.1f} to {max(values):.1f}"


def _runs(report: BenchReport) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("fps", justify="right", no_wrap=True)
    table.add_column("network", no_wrap=True)
    for name in ("eta -1 %", "eta 0 %", "oracle %", "missed %", "lag", "first ms", "final ms", "exit", "busy %"):
        table.add_column(name, justify="right", no_wrap=True)
    for fps in report.rates:
        chosen = [e for e in report.entries if e.fps == fps and e.clock == report.main_clock]
        for place, entry in enumerate(chosen):
            table.add_row(f"{fps:g}" if place == 0 else "", *_row(entry), end_section=place == len(chosen) - 1)
    return table


def _row(entry: Entry) -> list[str]:
    f = entry.figures
    return [
        _safe(entry.contender),
        _pm(f.accuracy, 100, 1),
        _pm(f.accuracy_at_arrival, 100, 1),
        f"{100 * f.oracle.value:.1f}",
        f"{100 * f.missed:.1f}",
        f"{f.lag_frames:.2f}",
        f"{f.first.p50_ms:.1f}/{f.first.p99_ms:.1f}",
        f"{f.final.p50_ms:.1f}/{f.final.p99_ms:.1f}",
        f"{f.mean_exit:.2f}",
        f"{100 * f.busy:.0f}",
    ]


def _mean(values: Mapping[str, Any]) -> Mean:
    return Mean(values["value"], values["error"])


def _pm(mean: Mean, scale: float, digits: int) -> str:
    error = "" if mean.error is None else f" ± {scale * mean.error:.{digits}f}"
    return f"{scale * mean.value:.{digits}f}{error}"


def _safe(text: str) -> str:
    """A name that may hold anything, as text for rich."""
    return escape(clean(text))
