"""Write the tables of the README from what the benchmarks measured and the cards say.

python -m scripts.update_readme           # write them
python -m scripts.update_readme --check   # fail if the README says anything else
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.readme_faults import faults_section, load_section
from scripts.readme_weights import weights_table
from scripts.results import RESULTS, result, table
from stream_ann.scheduler import DEFAULT_PATH

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
USUAL_FPS = 30.0


def measured_table() -> str:
    """What steps cost, and the demo clip live."""
    report = result("steps")
    threads = report["results"]["default_threads"]
    (steps,) = [s for s in report["results"]["steps"] if s["threads"] == threads]
    (live,) = [s for s in report["results"]["live"] if s["threads"] == threads]
    machine, versions = report["machine"], report["versions"]
    longest_ms = max(step["p50_ms"] for step in steps["steps"])
    wait, beyond = live["wait_for_first_step"], live["of_which_after_the_running_step"]
    first, taken = live["first_answer"], f"{live['frames_in']} / {live['answered']} / {live['replaced']}"
    share = ", ".join(f"{n} exits {count}" for n, count in live["frames_by_exits_reached"].items() if count)
    rows = [
        ["a whole plan step by step, p50", f"{steps['stepped']['p50_ms']:.1f} ms"],
        ["the same members in one uninterrupted run, p50", f"{steps['uninterrupted']['p50_ms']:.1f} ms"],
        ["step by step over uninterrupted (median of ratios)", f"{steps['median_of_ratios']:.3f}"],
        ["longest step, p50", f"{longest_ms:.1f} ms"],
        ["new frame's arrival to its first step, p50 / p99", f"{wait['p50_ms']:.1f} / {wait['p99_ms']:.1f} ms"],
        ["the same, after the end of the running step, p99", f"{beyond['p99_ms']:.2f} ms"],
        ["demo clip live: frames in / answered / replaced", taken],
        ["first answer, p50 / p99", f"{first['p50_ms']:.1f} / {first['p99_ms']:.1f} ms"],
        ["frames by exits reached", share],
    ]
    where = (
        f"On {machine['processor']}, {machine['cores']} cores, {threads} torch thread{'s' if threads > 1 else ''}, "
        f"torch {versions['torch'].split('+')[0]}, float32, `{report['command']}`:"
    )
    return f"{where}\n\n{table(['figure', 'measured'], rows)}"


def engines_table() -> str:
    """What running step by step costs against the best uninterrupted runs of the same networks."""
    report = result("engines")
    machine, versions, options = report["machine"], report["versions"], report["options"]
    rows = []
    for name, net in report["results"]["cpu"].items():
        stepped, live = net["stepped"], net["live"]["openvino"]
        whole = {runtime: f["p50_ms"] for runtime, f in stepped["uninterrupted"].items() if "all exits" in runtime}
        best = min(whole, key=lambda runtime: float(whole[runtime]))
        rows.append(
            [
                f"{name}, {sum(net['mmacs']):.0f} MMACs",
                f"{stepped['openvino']['p50_ms']:.1f} ms",
                f"{whole[best]:.1f} ms ({best.split(',')[0]})",
                f"{stepped['openvino']['over_best_with_all_exits']:.3f}",
                f"{stepped['torch']['p50_ms']:.1f} ms",
                f"{live['quiet']['first_answer']['p50_ms']:.1f} / {live['busy']['first_answer']['p50_ms']:.1f} ms",
            ]
        )
    header = ["network", "step by step", "fastest uninterrupted", "ratio", "torch step by step", "first answer, p50"]
    threads = options["threads"]
    return (
        f"On {machine['processor']}, {machine['cores']} cores, {threads} thread{'s' if threads > 1 else ''}, OpenVINO "
        f"{versions['openvino']}, ONNX Runtime {versions['onnxruntime']}, float32; the ratio is the frames' median; "
        f"first answers count from a frame's arrival, alone and beside a busy decoder. `{report['command']}`:\n\n"
        f"{table(header, rows)}"
    )


def training_section() -> str:
    """Fine-tuning, the speed of training, and the paper's comparison."""
    tuned, speed = result("finetune"), result("train_speed")
    t, s = tuned["results"], speed["results"]
    exits = ", ".join(f"{e['name']} {100 * e['top1']:.1f} %" for e in t["exits"])
    every, last, share = s["all heads"], s["last head only"], s["all_to_last"]["images_per_s"]
    points = [
        f"Fine-tuning to {t['data']} ({t['training']['images']:,} images to train on) took {t['elapsed_s'] / 60:.0f} "
        f"minutes on {tuned['machine']['cores']} cores. Top-1 on {t['images_validated']:,} other images: {exits} "
        f"(`{tuned['command']}`).",
        f"Training all {every['exits']} exits of a small anytime ResNet runs at {100 * share:.0f} % of the images/s of "
        f"the same trunk with its last exit alone ({every['macs'] / 1e6:.2f} and {last['macs'] / 1e6:.2f} MMACs; "
        f"`{speed['command']}`).",
        *(_comparison(name) for name in ("paper-cpu", "paper-tiny")),
    ]
    return "\n".join(f"- {point}" for point in points)


def _comparison(name: str) -> str:
    """What one of the comparisons of ways of training has shown."""
    paper = json.loads((RESULTS / name / "table.json").read_text())
    best, whole = paper["methods"][0], paper["cumulative_macs"][-1] / 1e6
    seeds = best["seeds"]  # the figures told are of this method
    increase = ", ".join(f"{100 * x:+.1f}" for x in best["relative_error_increase"])
    several = len(paper["methods"]) > 1
    method = f"Best on average over its exits is `{best['method']}`" if several else f"By `{best['method']}`"
    over, least = 100 * best["over_msdnet"], 100 * best["over_msdnet_least"]
    return (
        f"The paper's comparison in small ({paper['data']}, {paper['images']['train']:,} images, {paper['epochs']} "
        f"epochs, {seeds} {'seeds' if seeds > 1 else 'seed'}, nets of {whole:.0f} MMACs, far from convergence: "
        f"indicative only). {method}: {increase} % errors, compared with networks trained for one exit alone, at 1/4, "
        f"1/2, 3/4 and all of the cost; {over:+.1f} points over an MSDNet at the same cost on average over exits, "
        f"{least:+.1f} at the worst exit (`{paper['command']}`). Table and plot: [benchmarks/results/{name}]"
        f"(benchmarks/results/{name}/table.md)."
    )


def cameras_section() -> str:
    """From a camera's glass to the label, and how long after an outage."""
    report = result("latency")
    found, machine = report["results"], report["machine"]
    rows = []
    for part in found["latency"]:
        mine, plain = part["stream_ann"], part["plain_loop"]
        slope_s = min(plain["slope_ms_per_minute"]) / 1e3
        rows.append(
            [
                f"{part['fps']} fps",
                f"{mine['first_ms']['p50']:.0f} / {mine['first_ms']['p99']:.0f} ms",
                f"{mine['first_p99_frame_periods']:.1f}",
                f"{plain['first_ms']['p50'] / 1e3:.1f} s, and {slope_s:.0f} s more each minute",
            ]
        )
    header = ["camera", "first label, p50 / p99", "p99 in frame periods", "plain loop, p50"]
    flat, out = found["flat"], found["outages"]
    steady = flat["stream_ann"]
    drift = steady["slope_ms_per_minute"]
    return (
        f"From the moment at which a camera (H.264 over RTSP, on this machine) sends a frame to its label, beside the "
        f"usual loop of `cv2.VideoCapture` and the same network run to its end on every frame. {machine['processor']}, "
        f"{machine['cores']} cores, `{report['command']}`:\n\n{table(header, rows)}\n\n"
        f"Over {flat['minutes']:g} minutes at {flat['fps']} fps the first label's latency changes by {drift:+.1f} ms a "
        f"minute and memory by {steady['rss_slope_mib_per_minute']:+.1f} MiB a minute. The camera was killed "
        f"{out['outages']} times: back within 2 s of its return {out['back_within_2_s']} times, at the latest after "
        f"{out['back_s_max']:.1f} s."
    )


def streams_section() -> str:
    """How many cameras an engine serves, with each policy."""
    reports = [result("streams-in-order"), result("streams-planned")]
    rows = []
    for report in reports:
        for engine in report["results"]["engines"]:
            policy = report["results"]["policy"]
            for run in engine["runs"]:
                rows.append(
                    [
                        f"{engine['engine']}, `{policy}`",
                        str(run["streams"]),
                        f"{100 * run['share_answered']:.1f} %",
                        f"{run['first_p50_ms']:.0f} / {run['first_p99_ms']:.0f} ms",
                        f"{run['mean_exits']:.2f}",
                    ]
                )
    fps, machine = reports[0]["results"]["fps"], reports[0]["machine"]
    header = ["engine, policy", f"cameras of {fps:g} fps", "frames answered", "first answer, p50 / p99", "mean exits"]
    commands = " and ".join(f"`{report['command']}`" for report in reports)
    return (
        f"Several cameras on one engine, two seconds for each row (indicative only; a row that lost frames was tried "
        f"again). {machine['processor']}, {machine['cores']} cores, one thread, {commands}:\n\n{table(header, rows)}"
    )


def label_section() -> str:
    """Offline labelling against decoding alone and against other ways."""
    report = result("label")
    found, machine = report["results"], report["machine"]
    form = ", a short form" if report["options"]["quick"] else ""
    spans = list(found["memory"])
    demo, seen = found["early_exit_demo"], [("the demo clip", found["early_exit_demo"])]
    if found["early_exit_photographs"] is not None:
        seen.append(("a film of photographs of Caltech-101", found["early_exit_photographs"]))
    early = " and ".join(
        f"{what} goes {one['speed_up']:.1f} times as fast as with every exit, {100 * one['early_accuracy']:.1f} "
        f"instead of {100 * one['full_accuracy']:.1f} % of {one['labelled']} right (lost: {one['drop_points']:.1f} ± "
        f"{one['drop_error_points']:.1f} points)"
        for what, one in seen
    )
    return (
        f"Offline, on {machine['processor']}, {machine['cores']} cores (`{report['command']}`{form}): the first exit "
        f"labels {100 * found['first_exit_over_decode']:.0f} % as many 1080p frames a second as decoding alone. With "
        f"`--max-drop {demo['max_drop']:g}`, {early}; the clip goes {found['over_plain_loop']:.1f} times as fast as by "
        f"OpenCV and torchvision's {report['options']['network']} in eager batches, and "
        f"{found['over_onnx_runtime']:.1f} times as fast as by ONNX Runtime on the largest member. Peak memory over "
        f"{spans[-1]} and over {spans[0]}: a ratio of {found['memory_peak_long_over_short']:.3f}. Two Ray workers "
        f"wrote {'the same lines as' if found['same_on_ray'] else 'other lines than'} one process."
    )


def frame_rates_section() -> str:
    """What each policy makes of each frame rate, against the best fixed network."""
    report = result("frame_rates")
    found, machine = report["results"], report["machine"]
    paper, real = (found[name]["summary"] for name in ("paper, regular", "real"))
    others = {
        name: found[f"paper, {name}"]["summary"] for name in ("jittered", "recorded") if f"paper, {name}" in found
    }
    rates, policies = paper["rates"], list(paper["ratio_mean"])
    stream, exits = found["paper, regular"]["stream"], found["paper, regular"]["exit_accuracy"]
    rows = [
        [
            f"{rate['fps']:g}",
            f"{rate['best_fixed'].removeprefix('fixed ')}: {100 * rate['best_fixed_accuracy']:.1f} %",
            *(_policy_cell(rate["policies"][name]) for name in policies),
        ]
        for rate in rates
    ]
    header = ["frames/s", "best fixed network, picked in hindsight", *(f"`{name}`" for name in policies)]
    each = ", ".join(f"{one['exit']} {100 * one['value']:.1f} ± {100 * one['error']:.1f} %" for one in exits)
    picture = f"benchmarks/results/{Path(report['options']['out']).with_suffix('.png').name}"
    return (
        f"Streaming accuracy at eta = -1 and its ratio to the best fixed network (± one standard error, over scenes), "
        f"then the share of frames with an answer of their own before the next one. {stream['scenes']} photographs "
        f"({found['data']}), each there for {stream['dwell_s']:g} s, filmed by a moving camera, regular arrivals, on "
        f"paper with step times of {machine['processor']}, {machine['cores']} cores. Without any clock: {each}. "
        f"`{report['command']}`:\n\n{table(header, rows)}\n\n"
        f"![Streaming accuracy against frame rate, each policy and each fixed network]({picture})\n\n"
        + "\n".join(f"- {point}" for point in _finding(rates, paper, others))
        + f"\n- `live` runs `{DEFAULT_PATH}` unless told otherwise, for one source."
        + f"\n- {_clocks(real, found['two_runs_of_a_seed'])}"
    )


def _policy_cell(one: dict[str, Any]) -> str:
    error = "" if one["error"] is None else f" ± {one['error']:.3f}"
    return f"{100 * one['accuracy']:.1f} %, {one['ratio']:.3f}{error}; {100 * one['in_time']:.0f} %"


def _finding(rates: list[dict[str, Any]], paper: dict[str, Any], others: dict[str, dict[str, Any]]) -> list[str]:
    """What the figures say of each policy, by regular arrivals and by others."""
    points = []
    for name, mean in paper["ratio_mean"].items():
        each = [rate["policies"][name] for rate in rates]
        good = sum(one["ratio"] >= 1 for one in each)
        worse = [
            f"{rate['fps']:g}"
            for rate, one in zip(rates, each, strict=True)
            if one["ratio"] < 1 and (one["error"] is None or 1 - one["ratio"] > 2 * one["error"])
        ]
        told = f"; worse by more than two standard errors at {', '.join(worse)} frames/s" if worse else ""
        prompt = [rate["fps"] for rate, one in zip(rates, each, strict=True) if one["in_time"] >= 0.9995]
        timely = f"every frame in time at {', '.join(f'{fps:g}' for fps in prompt)} frames/s" if prompt else ""
        errors = [paper.get(f"ratio_{which}_error", {}).get(name) for which in ("mean", "least")]
        of_mean, of_least = ("" if error is None else f" ± {error:.3f}" for error in errors)
        points.append(
            f"`{name}`: {mean:.3f}{of_mean} times the best fixed network on average, "
            f"{paper['ratio_least'][name]:.3f}{of_least} at the worst rate, at least as good at {good} of "
            f"{len(each)} rates{told}; "
            + ", ".join(
                f"with {which} arrivals {other['ratio_mean'][name]:.3f} and {other['ratio_least'][name]:.3f}"
                for which, other in others.items()
            )
            + f"{f'; {timely}' if timely else '; at no rate every frame in time'}{_promptness(rates, name)}."
        )
    return points


def _promptness(rates: list[dict[str, Any]], name: str) -> str:
    """When the first answers of a policy come, where frames come about as fast as from most cameras."""
    told = {rate["fps"]: rate["policies"][name] for rate in rates if "first_p50_ms" in rate["policies"][name]}
    if not told:
        return ""
    usual = min(told, key=lambda fps: abs(fps - USUAL_FPS))
    one = told[usual]
    first = f"{one['first_p50_ms']:.0f} / {one['first_p99_ms']:.0f} ms"
    return f"; first answers at {usual:g} frames/s after {first} (p50 / p99)"


def _clocks(real: dict[str, Any], twice: dict[str, Any]) -> str:
    """How far paper is to be trusted."""
    clocks, quiet = real["simulated"], real["quiet"]
    farthest = clocks["worst"]
    error = "" if farthest["error"] is None else f" ± {farthest['error']:.1f}"
    drift = quiet["step_times_end_over_start"].values()
    mean = clocks.get("mean_points")
    average = "" if mean is None else f" (on average by {mean['value']:+.2f} ± {mean['error']:.2f})"
    others = "" if quiet["other_cores"] is None else f"other programs took {quiet['other_cores']:.2f} cores, and "
    return (
        f"Of {clocks['runs']} runs in real time {clocks['beyond_2_points']} differ by more than 2 points from the "
        f"simulated clock{average}; the farthest, {farthest['contender']} at {farthest['fps']:g} frames/s, by "
        f"{farthest['points']:+.1f}{error} (replayed with each run's own times the worst is "
        f"{clocks['replayed_worst_points']:.1f}). Meanwhile {others}step times at the end were {min(drift):.2f} to "
        f"{max(drift):.2f} times those at the beginning. Two runs on paper of one seed gave "
        f"{'identical bytes' if twice['identical'] else 'different bytes'}."
    )


SECTIONS: dict[str, Callable[[], str]] = {
    "weights": weights_table,
    "training": training_section,
    "measured": measured_table,
    "engines": engines_table,
    "cameras": cameras_section,
    "streams": streams_section,
    "label": label_section,
    "frame_rates": frame_rates_section,
    "faults": faults_section,
    "load": load_section,
}


def updated(text: str) -> str:
    """The README's text with every section between its two marks written anew."""
    for name, make in SECTIONS.items():
        try:
            section = f"{make()}\n"
        except FileNotFoundError:  # not measured so far: there is nothing to say
            section = ""
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text, count = re.subn(pattern, lambda m, section=section: f"{m[1]}{section}{m[2]}", text, flags=re.DOTALL)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"the README has {count} sections '{name}', it must have one")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    before = README.read_text()
    after = updated(before)
    if args.check:
        sys.exit("README.md is out of date: run python -m scripts.update_readme" if before != after else 0)
    README.write_text(after)


if __name__ == "__main__":
    main()
