"""What accuracy a frame rate leaves on this machine: every policy against the best fixed network, in time and on paper.

First in real time at a few rates, beside the simulated clock, which also measures how long each step takes. Then on
paper with these times, at all rates, with regular and with jittered arrivals and those of ``--arrivals``: there
hundreds of scenes make the figures surer than a run in real time of reasonable length can. Each exit's answer to each
picture is computed once. At last a run on paper is repeated, and the two reports compared byte by byte.

Run: python -m benchmarks.frame_rates DATA --policies scene,in-order,planned --out benchmarks/results/frame_rates.json

DATA is a folder of labelled photographs in ImageFolder layout (by default the demo clip), whose class folders are named
by class; what is named otherwise is left out, unless ``--class-map`` says what it means. The runs in real time take
``--duration-s`` for each of ``--real-fps`` and of the policies and exits: 7 minutes with three policies and four exits,
and those on paper as long again. On a machine where anything else runs the figures are worth little, and the report
says so. Beside the JSON lies a picture of the accuracies, ``NAME.png``. ``--quick`` is a small form for trying it out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import report
from pipelines.bench import BenchOptions, bench
from pipelines.benchmarking.options import DEFAULT_FPS
from pipelines.benchmarking.plots import accuracy_figure, png_of
from pipelines.benchmarking.results import BenchReport
from pipelines.benchmarking.streams import FilmOptions
from stream_ann.streaming import Mean
from stream_ann.whole_files import whole_file

QUICK_FPS = (5.0, 30.0, 240.0)
REAL_FPS = (15.0, 30.0, 60.0, 120.0)
"""The rates in real time: from where every exit is reached to where the first one is hardly done in time."""
MOTION_FPS = 2.0
AGAIN_S = 10.0
"""So long is the run on paper that is repeated."""


def told(name: str, found: BenchReport) -> None:
    """Print the headline, and what is to be said against it."""
    for line in found.headlines:
        if line.clock == found.main_clock:
            error = "" if line.ratio.error is None else f" ± {line.ratio.error:.3f}"
            print(
                f"{name}: {line.fps:g} fps, {line.contender}: {100 * line.ours:.1f} %, "
                f"{line.ratio.value:.3f}{error} of {line.best}",
                flush=True,
            )
    for whole in found.overall:
        if whole.clock == found.main_clock:
            ratios = ", ".join(
                f"{what} {of.value:.3f}{'' if of.error is None else f' ± {of.error:.3f}'}"
                for what, of in (("mean", whole.mean), ("least", whole.least))
            )
            print(f"{name}: {whole.contender} over all rates: {ratios}", flush=True)
    for one in found.agreements:
        if abs(one.points) > 2:
            print(
                f"{name}: {one.contender} at {one.fps:g} fps differs by {one.points:+.1f} points on paper, "
                f"{one.replayed_points:+.1f} with its own times",
                flush=True,
            )
    for warning in found.warnings:
        print(f"{name}: {warning}", flush=True)


def summary(found: BenchReport, policies: Sequence[str]) -> dict[str, Any]:
    """What the README tells: at each rate the best fixed network and every policy, and how the two clocks agree."""
    by_name = {line: line.rsplit(", ", 1)[-1] for line in found.contenders}
    lines = [line for line in found.headlines if line.clock == found.main_clock]
    rates: list[dict[str, Any]] = []
    for fps in found.rates:
        here = {by_name[line.contender]: line for line in lines if line.fps == fps}
        missed = {
            by_name[e.contender]: e.figures.missed
            for e in found.entries
            if e.fps == fps and e.clock == found.main_clock and e.kind == "anytime"
        }
        latency = {
            by_name[e.contender]: {"first_p50_ms": e.figures.first.p50_ms, "first_p99_ms": e.figures.first.p99_ms}
            for e in found.entries
            if e.fps == fps and e.clock == found.main_clock and e.kind == "anytime"
        }
        oracle = max(
            (e.figures.oracle.value for e in found.entries if e.fps == fps and e.kind == "anytime"), default=0.0
        )
        first = here[policies[0]]
        each = {}
        for name in policies:
            told_of = here[name].as_dict()
            each[name] = {key: told_of[key] for key in ("accuracy", "ratio", "error")}
            each[name]["in_time"] = round(1 - missed[name], 5)
            each[name] |= latency[name]
        rates.append(
            {
                "fps": fps,
                "best_fixed": first.best,
                "best_fixed_accuracy": round(first.theirs, 5),
                "oracle": round(oracle, 5),
                "policies": each,
            }
        )
    overall = {by_name[one.contender]: one for one in found.overall if one.clock == found.main_clock}
    return {
        "rates": rates,
        "ratio_mean": {name: round(overall[name].mean.value, 4) for name in policies},
        "ratio_mean_error": {name: overall[name].mean.error for name in policies},
        "ratio_least": {name: round(overall[name].least.value, 4) for name in policies},
        "ratio_least_error": {name: overall[name].least.error for name in policies},
        "simulated": None if not found.agreements else worst(found) | {"mean_points": points(found.mean_agreement)},
        "quiet": found.more.get("quiet"),
    }


def worst(found: BenchReport) -> dict[str, Any]:
    """Where the simulated clock is farthest from the real one."""
    agreements = found.agreements
    farthest = max(agreements, key=lambda one: abs(one.points))
    return {
        "runs": len(agreements),
        "scenes": found.about["stream"]["scenes"],
        "beyond_2_points": sum(abs(one.points) > 2 for one in agreements),
        "surely_beyond_2_points": sum(
            abs(one.points) > 2 + 2 * 100 * (one.difference.error or 0.0) for one in agreements
        ),
        "worst": farthest.as_dict(),
        "replayed_worst_points": round(max(abs(one.replayed_points) for one in agreements), 2),
    }


def points(mean: Mean | None) -> dict[str, float | None] | None:
    """A difference of accuracies in percentage points."""
    if mean is None:
        return None
    return Mean(100 * mean.value, None if mean.error is None else 100 * mean.error).as_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="folder of labelled photographs")
    parser.add_argument("--data-name", help="what reports call it; by default the folder's name")
    parser.add_argument("--class-map", type=Path)
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--policies", default="scene,in-order,planned,steady")
    parser.add_argument("--accuracies", choices=("card", "measured"), default="card", help="by which policies plan")
    parser.add_argument("--readout", help="for policies other than scene, which joins all exits")
    parser.add_argument("--duration-s", type=float, default=15.0, help="of each run in real time")
    parser.add_argument("--real-fps", default=",".join(f"{fps:g}" for fps in REAL_FPS), help="rates in real time")
    parser.add_argument("--real-dwell-s", type=float, default=0.25, help="how long a photograph is there in real time")
    parser.add_argument("--dwell-s", type=float, default=1.0, help="the same on paper")
    parser.add_argument("--scenes", type=int, default=400, help="how many photographs on paper, as far as there are")
    parser.add_argument("--arrivals", help="a file of recorded arrivals, to play on paper as well")
    parser.add_argument("--keep", type=Path, help="folder to keep answers to pictures in for the next time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    begun_s = time.monotonic()
    policies = tuple(args.policies.split(","))
    real = BenchOptions(
        fps=QUICK_FPS if args.quick else tuple(float(fps) for fps in args.real_fps.split(",")),
        weights=args.weights,
        device=args.device,
        engine=args.engine,
        policies=policies,
        accuracies=args.accuracies,
        readout=args.readout,
        labels=None if args.data is None else str(args.data),
        class_map=args.class_map,
        film=FilmOptions(args.real_dwell_s, MOTION_FPS, args.scenes, args.seed),
        duration_s=1.0 if args.quick else args.duration_s,
        timing_frames=12 if args.quick else 60,
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
            fps=QUICK_FPS if args.quick else DEFAULT_FPS,
            keep=args.keep or folder,
            film=FilmOptions(args.dwell_s, MOTION_FPS, 6 if args.quick else args.scenes, args.seed),
            duration_s=None,
            interval_ms=None,
            simulate=True,
            times=times,
        )
        recorded = {} if args.arrivals is None else {"recorded": args.arrivals}
        for name, arrivals in ({"regular": "regular", "jittered": "jittered"} | recorded).items():
            found = bench(None, replace(paper, arrivals=arrivals))
            reports[f"paper, {name}"] = found
            told(f"on paper, {name}", found)
        short = replace(paper, arrivals="jittered", duration_s=1.0 if args.quick else AGAIN_S)
        one, two = (bench(None, short).to_json().encode() for _ in range(2))
    results: dict[str, Any] = {
        "data": args.data_name or (args.data.resolve().name if args.data is not None else "the demo clip"),
        "elapsed_s": round(time.monotonic() - begun_s, 1),
        "two_runs_of_a_seed": {"duration_s": short.duration_s, "bytes": len(one), "identical": one == two},
    }
    print(f"two runs on paper of one seed: {'identical bytes' if one == two else 'they DIFFER'}", flush=True)
    for name, found in reports.items():
        results[name] = {"summary": summary(found, policies), **found.as_dict()}
    report.write(args.out, "frame_rates", results, vars(args))
    with whole_file(args.out.with_suffix(".png")) as file:
        file.write(png_of(accuracy_figure(reports["paper, regular"])))


if __name__ == "__main__":
    main()
