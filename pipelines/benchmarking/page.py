"""A report as one web page that needs no other file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from pipelines.benchmarking.results import BenchReport
from pipelines.benchmarking.tables import in_words, spread
from stream_ann.streaming import Mean
from stream_ann.text import clean

__all__ = ["page"]

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif;
  --text: #202124; --page: #fff; --soft: #5f6368; --box: #f1f3f4; --line: #9aa0a6; --thin: #e3e5e8;
  --good: #137333; --bad: #b3261e; --warning: #fef7e0; }
@media (prefers-color-scheme: dark) { :root {
  --text: #e8eaed; --page: #1b1c1f; --soft: #a8adb3; --box: #2a2c30; --line: #6f757c; --thin: #36393e;
  --good: #6dd58c; --bad: #f2b8b5; --warning: #3d3420; } }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem; background: var(--page); color: var(--text); }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
p { margin: .4rem 0; } .small { color: var(--soft); font-size: .9rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.2rem 0; }
.figures div { background: var(--box); border-radius: .5rem; padding: .8rem 1.1rem; min-width: 9rem; flex: 1; }
.figures b { display: block; font-size: 1.6rem; } .good { color: var(--good); } .bad { color: var(--bad); }
.warning { background: var(--warning); border-left: .3rem solid #e69f00; padding: .4rem .8rem; }
.wide { overflow-x: auto; } .plot { background: #fff; border-radius: .5rem; padding: .5rem; margin: 1rem 0; }
svg { display: block; width: 100%; min-width: 32rem; height: auto; max-width: 56rem; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .25rem .7rem .25rem 0; text-align: right; } th { border-bottom: 1px solid var(--line); }
th:nth-child(2), td:nth-child(2), .names td, .names th { text-align: left; }
.names td + td { white-space: normal; overflow-wrap: anywhere; } .names td { vertical-align: top; }
tr.group td { border-top: 1px solid var(--thin); }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Nothing in the page may run or be fetched, whatever a name in it says."""


def page(report: BenchReport, svgs: Sequence[str], *, without: str = "") -> str:
    """The page.

    Args:
        report: The report.
        svgs: The plots as SVG elements, made by this program.
        without: Why there are no plots; empty where there are.
    """
    stream, weights = report.about["stream"], report.about["weights"]
    title = f"Frame-rate budgets of {weights['name']}"
    body = [f"<h1>{_text(title)}</h1>"]
    labels = "labelled" if stream["labels"] == "given" else "not labelled: the whole plan's answers are the truth"
    body.append(
        f'<p class="small">{_text(stream["name"])}: {stream["scenes"]} scenes of {stream["dwell_s"]:g} s, '
        f"{labels}; arrivals {_text(stream['arrivals'])}; {report.main_clock} clock; "
        f"{_text(_machine(report.about['machine']))}</p>"
    )
    body.append(_figures(report))
    body += [f'<p class="small">{_text(line)}</p>' for line in in_words(report)]
    body += [f'<p class="warning">{_text(line)}</p>' for line in report.warnings]
    body += [f'<div class="wide plot">{svg}</div>' for svg in svgs]
    if without:
        body.append(f'<p class="warning">No plots: {_text(without)}</p>')
    body += [_headline(report), *_more(report), _runs(report), _about(report)]
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{STYLE}</style>"
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _figures(report: BenchReport) -> str:
    """The few numbers that matter."""
    lines = [line for line in report.headlines if line.clock == report.main_clock]
    ratios = [line.ratio.value for line in lines if line.contender == lines[0].contender]
    boxes = []
    if ratios:
        least, mean = min(ratios), sum(ratios) / len(ratios)
        boxes.append((f"{mean:.3f}", "times the best fixed network's accuracy, mean over the rates", mean >= 1))
        boxes.append((f"{least:.3f}", "at the worst rate", least >= 1))
    if report.agreements:
        worst = max(abs(one.points) for one in report.agreements)
        boxes.append((f"{worst:.1f}", "points between simulated and real clock, at worst", worst <= 2))
    shown = [
        f'<div><b class="{"good" if good else "bad"}">{number}</b>{_text(what)}</div>' for number, what, good in boxes
    ]
    return f'<div class="figures">{"".join(shown)}</div>' if shown else ""


def _headline(report: BenchReport) -> str:
    rows = []
    for line in report.headlines:
        if line.clock == report.main_clock:
            error = "" if line.ratio.error is None else f" ± {line.ratio.error:.3f}"
            colour = "good" if line.ratio.value >= 1 else "bad"
            ratio = f'<span class="{colour}">{line.ratio.value:.3f}{error}</span>'
            values = [f"{line.fps:g}", _text(line.contender), f"{100 * line.ours:.1f}"]
            rows.append([*values, _text(line.best), f"{100 * line.theirs:.1f}", ratio])
    if not rows:
        return ""
    intro = (
        "<h2>Against the best fixed network at each rate, picked in hindsight</h2>"
        "<p>A frame is scored at the moment when the next one arrives (eta = -1), by the last answer that was there by "
        "then, about whichever frame; no answer is wrong.</p>"
    )
    return intro + _table(("fps", "network", "accuracy %", "best fixed", "accuracy %", "ratio"), rows)


def _runs(report: BenchReport) -> str:
    header: tuple[str, ...] = (
        "fps",
        "network",
        "clock",
        "eta -1 %",
        "eta 0 %",
        "oracle %",
        "missed %",
        "replaced %",
        "lag, frames",
    )
    header += ("first p50", "p90", "p99", "max", "final p50", "p90", "p99", "max", "mean exit", "cost %", "cores", "J")
    rows = []
    for entry in sorted(report.entries, key=lambda e: e.fps):
        f, usage = entry.figures, entry.usage
        shares = (_percent(mean) for mean in (f.accuracy, f.accuracy_at_arrival))
        times = (f"{ms:.1f}" for one in (f.first, f.final) for ms in (one.p50_ms, one.p90_ms, one.p99_ms, one.max_ms))
        joules = "" if usage is None or usage.joules_per_frame is None else f"{usage.joules_per_frame:.2f}"
        rows.append(
            [
                f"{entry.fps:g}",
                _text(entry.contender),
                entry.clock,
                *shares,
                f"{100 * f.oracle.value:.1f}",
                f"{100 * f.missed:.1f}",
                f"{100 * f.replaced / f.frames:.1f}",
                f"{f.lag_frames:.2f}",
                *times,
                f"{f.mean_exit:.2f}",
                f"{100 * f.cost:.0f}",
                "" if usage is None else f"{usage.cpu_cores:.2f}",
                joules,
            ]
        )
    intro = (
        '<h2>Every run</h2><p class="small">Latencies in milliseconds after arrival; cores: processor time of this '
        "process; J: energy of a frame, empty where the machine does not tell it."
    )
    if report.agreements:
        intro += " Simulated: with the step times of this report; replayed: with those of the very run in real time."
    return f"{intro}</p>{_table(header, rows)}"


def _more(report: BenchReport) -> list[str]:
    parts = []
    advice = report.more.get("advice")
    if advice:
        parts.append(f"<h2>What it takes</h2><p>{_text(advice['sentence'])}</p>")
    single = report.more.get("single_stream")
    if single:
        keys = ("p50_ms", "p90_ms", "p99_ms")
        rows = [[_text(s["network"]), _text(s["exit"]), *(f"{s[k]:.2f}" for k in keys)] for s in single]
        header = ("network", "to exit", "p50 ms", "p90 ms", "p99 ms")
        parts.append("<h2>One frame at a time (MLPerf single stream)</h2>" + _table(header, rows, "names"))
    multi = report.more.get("multi_stream")
    if multi:
        rows = [[_text(m["network"]), _text(m["exit"]), str(m["streams"]), m["clock"]] for m in multi["results"]]
        parts.append(
            f"<h2>Most streams at {multi['interval_ms']:g} ms (MLPerf multi-stream as of v0.5)</h2>"
            "<p>At each interval a frame of each stream comes; in 99 % of the intervals all of them must be answered "
            "before the next.</p>" + _table(("network", "to exit", "streams", "clock"), rows, "names")
        )
    streams = report.more.get("streams")
    if streams:
        rows = [
            [
                f"{one['fps']:g}",
                _text(one["contender"]),
                f"{100 * one['in_time']:.1f}",
                spread(one, "in_time"),
                _percent(Mean(**one["accuracy"])),
                spread(one, "accuracy"),
            ]
            for one in streams["results"]
        ]
        names = ("fps", "network", "in time %", "each stream", "accuracy %", "each stream")
        parts.append(f"<h2>{streams['count']} streams at once on one engine</h2>" + _table(names, rows))
    return parts


def _about(report: BenchReport) -> str:
    about, rows = report.about, []
    for key, value in (*about["weights"].items(), *about["machine"].items(), *about["options"].items()):
        if isinstance(value, dict):
            value = ", ".join(f"{name} {version}" for name, version in value.items())
        elif isinstance(value, list):
            value = ", ".join(str(v) for v in value)
        rows.append([_text(key), "" if value is None else _text(str(value))])
    rows.append(["seed", _text(str(about["seed"]))])
    return "<h2>How it was measured</h2>" + _table(("", ""), rows, "names")


def _machine(machine: dict[str, Any]) -> str:
    gpus = "".join(f", {gpu}" for gpu in machine["gpus"])
    return f"{machine['processor']}, {machine['cores']} cores{gpus}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "runs") -> str:
    """Rows of cells that are HTML already; a new value in the first column begins a group."""
    lines = []
    before: str | None = None
    for row in rows:
        group = ' class="group"' if row[0] != before else ""
        before = row[0]
        lines.append(f"<tr{group}>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>")
    top = "".join(f"<th>{_text(name)}</th>" for name in header)
    return f'<div class="wide"><table class="{kind}"><tr>{top}</tr>{"".join(lines)}</table></div>'


def _percent(mean: Mean) -> str:
    return f"{100 * mean.value:.1f}" + ("" if mean.error is None else f" ± {100 * mean.error:.1f}")


def _text(text: str) -> str:
    """A name that may hold anything, as text for HTML."""
    return escape(clean(text))
