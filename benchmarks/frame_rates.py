"""What accuracy a frame rate leaves on this machine: every policy against the best fixed network, twice.

First in real time on the demo clip, beside the simulated clock, which also measures how long each step takes. Then on
paper with these times, on a longer stream (the photographs of DATA, or the demo clip), with regular and with jittered
arrivals, where more scenes make the figures surer than a run in real time of reasonable length can.

Run: python -m benchmarks.frame_rates [DATA] --out benchmarks/results/frame_rates.json

DATA is a folder of labelled photographs in ImageFolder layout; ``--class-map`` as in ``stream-ann bench``. Beside the
JSON lies a picture of the accuracies, ``NAME.png``. ``--quick`` is a small form for trying it out.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import report
from pipelines.bench import BenchOptions, bench
from pipelines.benchmarking.options import DEFAULT_FPS
from pipelines.benchmarking.plots import accuracy_figure, png_of
from pipelines.benchmarking.results import BenchReport
from pipelines.benchmarking.streams import FilmOptions
from stream_ann.whole_files import whole_file

QUICK_FPS = (5.0, 30.0, 240.0)


def told(name: str, found: BenchReport) -> None:
    """Print the headline."""
    for line in found.headlines:
        if line.clock == found.main_clock:
            error = "" if line.ratio.error is None else f" ± {line.ratio.error:.3f}"
            print(
                f"{name}: {line.fps:g} fps, {line.contender}: {100 * line.ours:.1f} %, "
                f"{line.ratio.value:.3f}{error} of {line.best}",
                flush=True,
            )
    for one in found.agreements:
        if abs(one.points) > 2:
            print(
                f"{name}: {one.contender} at {one.fps:g} fps differs by {one.points:+.1f} points on paper", flush=True
            )


def summary(found: BenchReport) -> dict[str, Any]:
    """What the README tells."""
    by_policy: dict[str, list[float]] = {}
    for line in found.headlines:
        if line.clock == found.main_clock:
            by_policy.setdefault(line.contender, []).append(line.ratio.value)
    points = [abs(one.points) for one in found.agreements]
    return {
        "ratio_mean": {name: round(sum(values) / len(values), 4) for name, values in by_policy.items()},
        "ratio_least": {name: round(min(values), 4) for name, values in by_policy.items()},
        "simulated_within_points": round(max(points), 2) if points else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="folder of labelled photographs")
    parser.add_argument("--class-map", type=Path)
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--policies", default="in-order,planned")
    parser.add_argument("--readout", default="latest")
    parser.add_argument("--duration-s", type=float, default=5.0, help="of each run in real time")
    parser.add_argument("--dwell-s", type=float, default=1.0)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    real = BenchOptions(
        fps=QUICK_FPS if args.quick else DEFAULT_FPS,
        weights=args.weights,
        device=args.device,
        engine=args.engine,
        policies=tuple(args.policies.split(",")),
        readout=args.readout,
        duration_s=1.0 if args.quick else args.duration_s,
        timing_frames=10 if args.quick else 100,
        interval_ms=None if args.quick else 100.0,
        seed=args.seed,
    )
    reports = {"real": bench(None, real)}
    told("real time", reports["real"])
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder) / "times.json"
        times.write_text(reports["real"].to_json(), encoding="utf-8")
        paper = replace(
            real,
            labels=None if args.data is None else str(args.data),
            class_map=args.class_map,
            film=FilmOptions(args.dwell_s, 4.0, 6 if args.quick else args.scenes, args.seed),
            duration_s=1.0 if args.quick else None,
            interval_ms=None,
            simulate=True,
            times=times,
        )
        for arrivals in ("regular", "jittered"):
            found = bench(None, replace(paper, arrivals=arrivals))
            reports[f"paper, {arrivals}"] = found
            told(f"on paper, {arrivals}", found)
    results = {name: {"summary": summary(found), **found.as_dict()} for name, found in reports.items()}
    report.write(args.out, "frame_rates", results, vars(args))
    with whole_file(args.out.with_suffix(".png")) as file:
        file.write(png_of(accuracy_figure(reports["paper, regular"])))


if __name__ == "__main__":
    main()
