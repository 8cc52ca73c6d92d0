"""The CUDA engine against its goals: what cutting costs, how soon a new frame begins, and what it leaves of the host.

Measures, in one run on one GPU:

- all steps one by one, with one to three of them in the queue and with all, against one graph of the whole plan (frame
  by frame in turn, so that a drift of the machine's speed touches both), from the picture to the last answer;
- from a new frame's arrival to the start of its first step on the device: while the device is idle, while the step of
  an abandoned frame drains, and while another lane of low priority is kept busy besides;
- the host's processor time at 60 frames a second, refined to the end;
- the time to the first answer, alone and beside a decoder that never rests (OpenCV on the demo clip);
- each step for 2, 4 and 8 frames as one batch;
- how many streams of 30 frames a second get a first answer for every frame before the next one comes;
- how far the answers are from those in float32.

It needs no PyAV. Run: python -m benchmarks.engines_cuda --out benchmarks/results/engines_cuda.json
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks import report
from benchmarks.engines_cuda_parts import Bench, Opening, Settings, Whole
from stream_ann import weights
from stream_ann.engines import TorchEngine, device_named
from stream_ann.engines.cuda_device import CudaDevice, Event, Stream
from stream_ann.nets.contract import AnytimeNet
from stream_ann.preprocess import Preprocessing

__all__ = ["GOALS", "Settings", "goals_met", "measure", "summary"]

CLIP = Path(__file__).resolve().parent.parent / "stream_ann" / "assets" / "demo.mp4"
GOALS = {"stepped_over_whole": 1.03, "arrival_to_first_step_p99_ms": 0.3, "host_share_of_a_core_at_60_fps": 0.15}
"""At most so much."""


def measure(
    net: AnytimeNet,
    preprocessing: Preprocessing,
    device: torch.device,
    settings: Settings,
    layer: Opening | None = None,
) -> dict[str, Any]:
    """All figures, as plain JSON values.

    Args:
        net: The network.
        preprocessing: How a picture becomes its input.
        device: The GPU.
        settings: How much is measured.
        layer: What stands for the GPU in a rehearsal, whose figures mean nothing.
    """
    opening: Opening = (lambda: CudaDevice(device)) if layer is None else layer
    told = _Told()
    one = Bench(net, preprocessing, device, settings, opening, lanes=1)
    results: dict[str, Any] = {"engine": one.engine.description, "warning": one.engine.warning}
    results["opening_s"] = round(one.opening_s, 2)
    results["picture"] = [settings.height_px, settings.width_px]
    told.done("opened")
    results["precision"] = _precision(one)
    told.done("precision")
    results["stepped"] = _stepped(one)
    told.done("stepped")
    results["arrival_to_first_step"] = {
        "idle": _arrivals(one, busy=False),
        "while an abandoned step drains": _arrivals(one, busy=True),
    }
    told.done("arrivals")
    results["host_at_60_fps"] = _host(one, 60.0)
    results["first_answer"] = {"alone": _first_answers(one)}
    with _decoder() as decoded:
        results["first_answer"]["beside a busy decoder"] = _first_answers(one)
    results["first_answer"]["decoded_fps"] = round(decoded() / settings.seconds, 1)
    one.engine.close()
    told.done("first answers")
    two = Bench(net, preprocessing, device, settings, opening, lanes=2)
    key = "while an abandoned step drains and a low-priority lane is busy"
    results["arrival_to_first_step"][key] = _arrivals(two, busy=True, background=True)
    two.engine.close()
    told.done("arrivals beside another lane")
    eight = Bench(net, preprocessing, device, settings, opening, lanes=8)
    told.done("opened with 8 lanes")
    engine = eight.engine
    results["batches"] = [
        {
            "step": info.name,
            "alone_ms": round(engine.step_s[step] * 1e3, 4),
            **{
                f"{n}_ms": round(taken_s * 1e3, 4)
                for n in (2, 4, 8)
                if (taken_s := engine.together_s(step, n)) is not None
            },
        }
        for step, info in enumerate(engine.plan.steps)
    ]
    results["streams_of_30_fps"] = _streams(eight)
    engine.close()
    told.done("streams")
    return results


class _Told:
    """Tells on stderr how long each part took: a run that is cut off shows where."""

    def __init__(self) -> None:
        self._begun_s = time.monotonic()

    def done(self, part: str) -> None:
        print(f"{part}: done after {time.monotonic() - self._begun_s:.1f} s", file=sys.stderr, flush=True)


def goals_met(results: Any) -> dict[str, tuple[float, bool]]:
    """Each goal's figure, and whether it is met."""
    figures = {
        "stepped_over_whole": results["stepped"]["queue of 1"]["median_of_ratios"],
        "arrival_to_first_step_p99_ms": max(part["p99_ms"] for part in results["arrival_to_first_step"].values()),
        "host_share_of_a_core_at_60_fps": results["host_at_60_fps"]["share_of_a_core"],
    }
    return {name: (figure, figure <= GOALS[name]) for name, figure in figures.items()}


def summary(results: Any) -> str:
    """The figures that matter, as lines to read."""
    lines = [results["engine"]]
    for name, part in results["stepped"].items():
        if isinstance(part, dict):
            lines.append(f"stepped, {name}: {part['median_of_ratios']:.3f} of one graph, {part['p50_ms']:.3f} ms")
    for name, part in results["arrival_to_first_step"].items():
        lines.append(f"arrival to first step, {name}: p50 {part['p50_ms']:.3f}, p99 {part['p99_ms']:.3f} ms")
    lines.append(f"host at 60 fps: {results['host_at_60_fps']['share_of_a_core']:.1%} of a core")
    for name in ("alone", "beside a busy decoder"):
        part = results["first_answer"][name]
        lines.append(f"first answer, {name}: p50 {part['p50_ms']:.2f}, p99 {part['p99_ms']:.2f} ms")
    lines.append(f"streams of 30 fps: {results['streams_of_30_fps']['knee']}")
    for name, (figure, met) in goals_met(results).items():
        lines.append(f"{'met   ' if met else 'MISSED'} {name}: {figure} (goal: at most {GOALS[name]})")
    return "\n".join(lines)


def _stepped(bench: Bench) -> dict[str, Any]:
    """Each way to run the plan step by step, and the whole, frame by frame in turn."""
    whole = Whole(bench)
    depths = {f"queue of {depth}": depth for depth in (1, 2, 3)} | {"all at once": len(bench.engine.plan)}
    ways: dict[str, Callable[[], object]] = {"whole": lambda: whole.run(bench.picture())}
    for name, depth in depths.items():
        ways[name] = lambda depth=depth: bench.refine(depth=depth)  # type: ignore[misc]
    times_s: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for frame in range(bench.settings.frames + 10):
        for place in range(len(names)):
            name = names[(place + frame) % len(names)]
            begun_s = time.perf_counter()
            ways[name]()
            if frame >= 10:
                times_s[name].append(time.perf_counter() - begun_s)
    whole.close()
    results: dict[str, Any] = {"frames": bench.settings.frames, "whole_failure": whole.failure}
    for name, taken_s in times_s.items():
        ratios = [one / other for one, other in zip(taken_s, times_s["whole"], strict=True)]
        results[name] = _percentiles(taken_s) | {"median_of_ratios": round(statistics.median(ratios), 4)}
    return results


def _arrivals(bench: Bench, *, busy: bool, background: bool = False) -> dict[str, Any]:
    """From the arrival of a frame on the host to the start of its first step on the device, by one clock."""
    engine, random = bench.engine, np.random.default_rng(bench.settings.seed)
    steps, whole_s = len(engine.plan), sum(engine.step_s)
    reference, stream = bench.layer.event("reference"), bench.layer.stream("reference", urgent=True)
    waits_s: list[float] = []
    for frame in range(bench.settings.frames + 10):
        if frame % 20 == 0:
            reference_s = _host_time_of(reference, stream)
        if background:
            with contextlib.suppress(ValueError):
                while True:
                    engine.collect(1, timeout_s=None)
            engine.start(bench.picture(), lane=1)
            for step in range(steps):
                engine.submit(step, lane=1)
        if busy:
            engine.start(bench.picture())
            until_s = time.perf_counter() + random.random() * whole_s
            for step in range(steps):
                engine.submit(step)
                while engine.collect(timeout_s=0) is None and time.perf_counter() < until_s:
                    time.sleep(2e-5)
                if time.perf_counter() >= until_s:
                    break
        else:
            time.sleep(2e-3)
        picture = bench.picture()
        arrival_s = time.perf_counter()
        engine.start(picture)
        engine.submit(0)
        engine.collect()
        if frame >= 10:
            begun_s = reference_s + engine.begun(0).seconds_since(reference)
            waits_s.append(begun_s - arrival_s)
    return _percentiles(waits_s) | {"frames": len(waits_s)}


def _host_time_of(event: Event, stream: Stream) -> float:
    """Record an event on an idle stream, and say when that was by the host's clock, to some 25 microseconds."""
    begun_s = ended_s = 0.0
    for _ in range(10):
        begun_s = time.perf_counter()
        stream.record(event)
        while not event.wait(0):
            pass
        ended_s = time.perf_counter()
        if ended_s - begun_s < 5e-5:
            break
    return (begun_s + ended_s) / 2


def _host(bench: Bench, fps: float) -> dict[str, Any]:
    """Processor time of the whole process while frames come at a rate, each refined until the next one comes."""
    frames = max(2, round(bench.settings.seconds * fps))
    steps = len(bench.engine.plan)
    begun_s, used_s, reached = time.perf_counter(), time.process_time(), 0
    for frame in range(frames):
        time.sleep(max(0.0, begun_s + frame / fps - time.perf_counter()))
        bench.engine.start(bench.picture())
        for step in range(steps):
            bench.engine.run(step)
            reached += 1
            if time.perf_counter() >= begun_s + (frame + 1) / fps:
                break
    used_s, taken_s = time.process_time() - used_s, time.perf_counter() - begun_s
    return {
        "fps": fps,
        "frames": frames,
        "mean_exits": round(reached / frames, 2),
        "host_ms_per_frame": round(used_s / frames * 1e3, 3),
        "share_of_a_core": round(used_s / taken_s, 4),
    }


def _first_answers(bench: Bench, fps: float = 30.0) -> dict[str, Any]:
    """From a frame's arrival to its first answer on the host."""
    frames = max(2, round(bench.settings.seconds * fps))
    begun_s, taken_s = time.perf_counter(), []
    for frame in range(frames):
        time.sleep(max(0.0, begun_s + frame / fps - time.perf_counter()))
        arrival_s = time.perf_counter()
        bench.engine.start(bench.picture())
        bench.engine.run(0)
        taken_s.append(time.perf_counter() - arrival_s)
        for step in range(1, len(bench.engine.plan)):
            bench.engine.run(step)
    return _percentiles(taken_s) | {"frames": frames}


def _streams(bench: Bench, fps: float = 30.0) -> dict[str, Any]:
    """Streams whose frames all get their first answer before the next one comes; deeper steps run in what time is left.

    Frames that wait together run as a batch. This is the engine's own limit: no slots and no scheduler.
    """
    engine, rows, knee = bench.engine, [], 0
    for streams in bench.settings.streams:
        frames = max(2, round(bench.settings.seconds / 2 * fps))
        begun_s = time.perf_counter() + 0.01
        arrivals_s = sorted(begun_s + (k + s / streams) / fps for s in range(streams) for k in range(frames))
        taken, lost, deeper, answers_s = 0, 0, 0, []
        while taken < len(arrivals_s):
            time.sleep(max(0.0, arrivals_s[taken] - time.perf_counter()))
            now_s = time.perf_counter()
            due_s = [arrival_s for arrival_s in arrivals_s[taken : taken + engine.lanes] if arrival_s <= now_s]
            for lane in range(len(due_s)):
                engine.start(bench.picture(), lane=lane)
            if len(due_s) > 1:
                engine.run_together(0, range(len(due_s)))
            else:
                engine.run(0)
            taken += len(due_s)
            now_s = time.perf_counter()
            answers_s += [now_s - arrival_s for arrival_s in due_s]
            lost += sum(now_s > arrival_s + 1 / fps for arrival_s in due_s)
            next_s = arrivals_s[taken] if taken < len(arrivals_s) else now_s
            for step in range(1, len(engine.plan)):
                if time.perf_counter() + engine.step_s[step] > next_s:
                    break
                engine.run(step)
                deeper += 1
        mean_exits = round(1 + deeper / len(arrivals_s), 2)
        rows.append({"streams": streams, "lost": lost, "mean_exits": mean_exits, **_percentiles(answers_s)})
        if lost:
            break
        knee = streams
    return {"knee": knee, "rows": rows}


def _precision(bench: Bench) -> dict[str, Any]:
    """How far the engine's probabilities are from the torch engine's in float32, on random pictures."""
    exact = TorchEngine(bench.net, bench.preprocessing, device=bench.device, timing_runs=1)
    worst, same, count = 0.0, 0, 0
    for _ in range(min(20, bench.settings.frames)):
        picture = bench.picture()
        exact.start(picture)
        bench.engine.start(picture)
        for step in range(len(bench.engine.plan)):
            one, other = bench.engine.run(step), exact.run(step)
            worst = max(worst, float(np.abs(one - other).max()))
            same += int(one.argmax() == other.argmax())
            count += 1
    exact.close()
    return {"largest_difference_of_a_probability": round(worst, 5), "same_class": round(same / count, 4)}


@contextlib.contextmanager
def _decoder() -> Iterator[Callable[[], int]]:
    """Decode the demo clip over and over in a thread; gives the number of frames decoded so far."""
    stop, decoded = threading.Event(), 0

    def decode() -> None:
        nonlocal decoded
        while not stop.is_set():
            capture = cv2.VideoCapture(str(CLIP))
            while not stop.is_set() and capture.read()[0]:
                decoded += 1
            capture.release()

    thread = threading.Thread(target=decode, name="stream-ann bench decoder", daemon=True)
    thread.start()
    try:
        yield lambda: decoded
    finally:
        stop.set()
        thread.join(10)


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    p50, p99, top = np.percentile(seconds, [50, 99, 100]) * 1e3
    return {"p50_ms": round(float(p50), 4), "p99_ms": round(float(p99), 4), "max_ms": round(float(top), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--frames", type=int, default=Settings.frames)
    parser.add_argument("--seconds", type=float, default=Settings.seconds)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    loaded = weights.load(args.weights)
    settings = Settings(frames=args.frames, seconds=args.seconds, seed=args.seed)
    results = measure(loaded.net, loaded.card.preprocessing, device_named(args.device), settings)
    results["weights_sha256"] = loaded.card.file.sha256
    report.write(args.out, "engines_cuda", results, vars(args))
    print(summary(results))


if __name__ == "__main__":
    main()
