"""The table and the plot of ``benchmarks.paper_table``, from the JSON that its runs left."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stream_ann.errors import MissingExtraError
from stream_ann.whole_files import whole_file

__all__ = ["summarise", "write_report"]

QUARTERS = ("1/4", "1/2", "3/4", "1")


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean over seeds of every method's errors, against OPT and against MSDNet.

    The relative increase at a cost is error / OPT's error - 1, with the exit whose cumulative cost is nearest to that
    part of the whole, and both errors averaged over the seeds first. MSDNet's exits lie elsewhere: at each exit of the
    net it is asked for its best answer at no more than that cost.

    Args:
        runs: The ``results`` of each run.
    """
    by_method: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        by_method[run["method"]].append(run)
    opts = {int(m.removeprefix("opt:")) - 1: rs for m, rs in by_method.items() if m.startswith("opt:")}
    costs = next(rs[0]["cumulative_macs"] for m, rs in by_method.items() if m != "msdnet")
    whole = costs[-1]
    opt_error = {exit_: 1 - statistics.mean(r["accuracy"][exit_] for r in rs) for exit_, rs in sorted(opts.items())}
    at_quarter = [min(range(len(costs)), key=lambda i: abs(costs[i] - q / 4 * whole)) for q in range(1, 5)]
    peer = _mean_curve(by_method["msdnet"]) if "msdnet" in by_method else None

    rows = []
    for method, found in by_method.items():
        if method.startswith("opt:") or method == "msdnet":
            continue
        accuracy = _mean_curve(found)[1]
        finals = [r["accuracy"][-1] for r in found]
        over = [] if peer is None else _over_peer(costs, accuracy, peer)
        told = [gap for gap in over if gap is not None]
        increase = [
            (1 - accuracy[i]) / opt_error[i] - 1 if i in opt_error and opt_error[i] > 0 else None for i in at_quarter
        ]
        rows.append(
            {
                "method": method,
                "seeds": len(found),
                "relative_error_increase": increase,
                "mean_accuracy": statistics.mean(accuracy),
                "final_accuracy": statistics.mean(finals),
                "final_accuracy_std": statistics.stdev(finals) if len(finals) > 1 else None,
                "accuracy": accuracy,
                "over_msdnet": statistics.mean(told) if told else None,
                "over_msdnet_least": min(told, default=None),
                "over_msdnet_each": over,
            }
        )
    rows.sort(key=lambda row: -row["mean_accuracy"])
    return {
        "cumulative_macs": costs,
        "quarters": [{"part": part, "exit": i, "macs": costs[i]} for part, i in zip(QUARTERS, at_quarter, strict=True)],
        "opt": [{"exit": i, "macs": costs[i], "accuracy": 1 - e} for i, e in opt_error.items()],
        "methods": rows,
        "msdnet": None if peer is None else {"cumulative_macs": peer[0], "accuracy": peer[1]},
        "data": runs[0].get("data"),
        "images": runs[0]["images"],
        "epochs": runs[0]["options"]["epochs"],
    }


def write_report(folder: Path) -> str:
    """Write ``table.json``, ``table.md`` and, with matplotlib, ``curve.png``, from all runs in a folder.

    Returns:
        The table, as Markdown.
    """
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob("*-seed*.json"))]
    if not reports:
        return "no runs yet"
    summary = summarise([report["results"] for report in reports])
    for key in ("command", "machine", "versions"):
        summary[key] = reports[0][key]
    text = _markdown(summary)
    for name, content in (("table.json", json.dumps(summary, indent=2, allow_nan=False)), ("table.md", text)):
        with whole_file(folder / name) as file:
            file.write(f"{content}\n".encode())
    try:
        _plot(summary, folder / "curve.png")
    except MissingExtraError as error:
        print(f"no plot: {error}")
    return text


def _mean_curve(runs: Sequence[dict[str, Any]]) -> tuple[list[int], list[float]]:
    columns = zip(*(run["accuracy"] for run in runs), strict=True)
    return runs[0]["cumulative_macs"], [statistics.mean(column) for column in columns]


def _over_peer(
    costs: Sequence[int], accuracy: Sequence[float], peer: tuple[list[int], list[float]]
) -> list[float | None]:
    """Difference to the peer's best answer at no more than the cost of each exit; None where it can afford none."""
    gaps: list[float | None] = []
    for cost, own in zip(costs, accuracy, strict=True):
        within = [a for c, a in zip(*peer, strict=True) if c <= cost]
        gaps.append(own - max(within) if within else None)
    return gaps


def _markdown(summary: dict[str, Any]) -> str:
    def percent(value: float | None, sign: bool = False) -> str:
        return "-" if value is None else f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"

    parts = [f"at {part}" for part in QUARTERS]
    header = ["method", "seeds", *parts, "mean over exits", "final", "over MSDNet", "least"]
    lines = [header, ["---"] * len(header)]
    for row in summary["methods"]:
        spread = "" if row["final_accuracy_std"] is None else f" ± {100 * row['final_accuracy_std']:.1f}"
        lines.append(
            [
                row["method"],
                str(row["seeds"]),
                *(percent(x, sign=True) for x in row["relative_error_increase"]),
                percent(row["mean_accuracy"]),
                percent(row["final_accuracy"]) + spread,
                percent(row["over_msdnet"], sign=True),
                percent(row["over_msdnet_least"], sign=True),
            ]
        )
    images = summary["images"]
    caption = (
        f"{summary['data']}: {images['train']:,} images to train on, {images['val']:,} to validate, "
        f"{summary['epochs']} epochs. Relative increase of the error over OPT in %, at a part of the whole cost; "
        "accuracies in %; the last columns in points, over MSDNet's best answer at no more than an exit's cost, the "
        "mean and the least of all exits."
    )
    return "\n".join([caption, "", *("| " + " | ".join(line) + " |" for line in lines)])


def _plot(summary: dict[str, Any], path: Path) -> None:
    from stream_ann.training.plots import Series, accuracy_plot, save

    series = [Series(r["method"], summary["cumulative_macs"], r["accuracy"]) for r in summary["methods"]]
    if summary["opt"]:
        opt = summary["opt"]
        series.append(Series("OPT", [o["macs"] for o in opt], [o["accuracy"] for o in opt], kind="star"))
    if summary["msdnet"] is not None:
        peer = summary["msdnet"]
        series.append(Series("MSDNet", peer["cumulative_macs"], peer["accuracy"]))
    save(accuracy_plot(series, title="Accuracy of each exit", subtitle=str(summary["data"])), path)
