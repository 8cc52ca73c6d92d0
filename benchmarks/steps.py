"""What cutting a network into steps costs, and how soon a newer frame gets the engine.

Measures, in one run on this machine:

- each step's time, and the sum over the plan against one uninterrupted forward of the same members (frame by frame in
  turn, so that a drift of the machine's speed touches both), preprocessing and softmax included in both;
- live on the demo clip with its real decoder beside: how long a new frame waits for its first step to begin, and how
  long after the end of the step that was running when it arrived;
- the same for each number of torch threads, which is where the engine's default comes from.

Run: python -m benchmarks.steps --out benchmarks/results/steps.json
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import report
from stream_ann import weights
from stream_ann.clock import MonotonicClock
from stream_ann.engines import TorchEngine, device_named
from stream_ann.engines.devices import cpu_threads
from stream_ann.engines.folding import fold_batch_norms
from stream_ann.ingest import Reader, Slot, source_from
from stream_ann.lanes import LaneEngine
from stream_ann.nets.contract import Plan
from stream_ann.preprocess import preprocess
from stream_ann.scheduler import Scheduler


class WatchedEngine:
    """An engine that notes when it was called and when it was done, by the clock that stamps arrivals."""

    def __init__(self, engine: LaneEngine, clock: MonotonicClock) -> None:
        self._engine, self._clock = engine, clock
        self.started_s: list[float] = []
        self.steps_s: list[tuple[int, float, float]] = []

    @property
    def plan(self) -> Plan:
        return self._engine.plan

    @property
    def step_s(self) -> Sequence[float]:
        return self._engine.step_s

    def start(self, image: NDArray[np.uint8]) -> None:
        self.started_s.append(self._clock.now_s())
        self._engine.start(image)

    def run(self, step: int) -> NDArray[np.float32]:
        begun_s = self._clock.now_s()
        probabilities = self._engine.run(step)
        self.steps_s.append((step, begun_s, self._clock.now_s()))
        return probabilities


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p99 and maximum in milliseconds."""
    p50, p99, top = np.percentile(seconds, [50, 99, 100]) * 1e3
    return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3), "max_ms": round(float(top), 3)}


def compare_steps(
    loaded: weights.Weights, device: torch.device, threads: int, frames: int, seed: int
) -> dict[str, Any]:
    """Each step's time, and all of them against one uninterrupted forward."""
    preprocessing = loaded.card.preprocessing
    engine = TorchEngine(loaded.net, preprocessing, device=device, threads=threads)
    whole = fold_batch_norms(copy.deepcopy(loaded.net).eval().requires_grad_(False))
    whole = whole.to(device).to(memory_format=torch.channels_last)
    members = whole.members()
    random = np.random.default_rng(seed)
    steps_s: list[list[float]] = [[] for _ in engine.plan.steps]
    stepped_s, uninterrupted_s = [], []

    def uninterrupted(image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        with torch.inference_mode():
            picture = torch.from_numpy(image.copy()).to(device) if device.type == "cuda" else image
            answers = []
            for member in members:
                images, state = preprocess(picture, member.resolution_px, preprocessing), ()
                for step in member.steps:
                    state, logits = step(images, state)
                    answers.append(torch.softmax(logits[0].float(), dim=0))
            return [answer.cpu().numpy() for answer in answers]

    for number in range(frames + 3):
        image = random.integers(0, 256, (360, 640, 3), dtype=np.uint8)
        for which in (0, 1) if number % 2 else (1, 0):
            begun_s = time.perf_counter()
            if which == 0:
                uninterrupted(image)
                if number >= 3:
                    uninterrupted_s.append(time.perf_counter() - begun_s)
                continue
            engine.start(image)
            for step in range(len(engine.plan)):
                step_begun_s = time.perf_counter()
                engine.run(step)
                if number >= 3:
                    steps_s[step].append(time.perf_counter() - step_begun_s)
            if number >= 3:
                stepped_s.append(time.perf_counter() - begun_s)
    engine.close()
    return {
        "threads": threads,
        "frames": frames,
        "steps": [
            {"name": info.name, "mmacs": round(info.macs / 1e6, 1), **percentiles_ms(times_s)}
            for info, times_s in zip(engine.plan.steps, steps_s, strict=True)
        ],
        "stepped": percentiles_ms(stepped_s),
        "uninterrupted": percentiles_ms(uninterrupted_s),
        "ratio_of_medians": round(statistics.median(stepped_s) / statistics.median(uninterrupted_s), 4),
        "median_of_ratios": round(statistics.median(a / b for a, b in zip(stepped_s, uninterrupted_s, strict=True)), 4),
    }


def live_waits(loaded: weights.Weights, device: torch.device, threads: int, source: str) -> dict[str, Any]:
    """How long new frames wait for their first step, live, with the decoder beside."""
    clock = MonotonicClock()
    engine = WatchedEngine(TorchEngine(loaded.net, loaded.card.preprocessing, device=device, threads=threads), clock)
    slot = Slot(clock)
    reader = Reader(source_from(source), slot, clock)
    scheduler = Scheduler(engine, slot, clock, classes=loaded.card.classes)
    reader.start()
    results = list(scheduler.results())
    reader.stop()
    wait_s, beyond_s, running_s = [], [], []
    for result, started_s in zip(results, engine.started_s, strict=True):
        arrival_s = result.frame.arrival_s
        wait_s.append(started_s - arrival_s)
        ends_s = [end for _, begun, end in engine.steps_s if begun <= arrival_s < end]
        beyond_s.append(started_s - max([arrival_s, *ends_s]))
        running_s += [end - arrival_s for end in ends_s]
    exits = [len(result.exits) for result in results]
    return {
        "threads": threads,
        "source": source,
        "frames_in": reader.counts.frames_in,
        "answered": len(results),
        "replaced": slot.counts.replaced,
        "wait_for_first_step": percentiles_ms(wait_s),
        "of_which_after_the_running_step": percentiles_ms(beyond_s),
        "frames_that_met_a_running_step": len(running_s),
        "first_answer": percentiles_ms([result.first_ms / 1e3 for result in results]),
        "final_answer": percentiles_ms([result.final_ms / 1e3 for result in results]),
        "mean_exits": round(statistics.mean(exits), 3),
        "frames_by_exits_reached": {str(n): exits.count(n) for n in range(1, len(engine.plan) + 1)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--source", default="demo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    loaded = weights.load(args.weights)
    device = device_named(args.device)
    cores = report.machine()["cores"]
    counts = sorted({1, max(1, cores - 1), cores}) if device.type == "cpu" else [1]
    results: dict[str, Any] = {
        "device": str(device),
        "weights_sha256": loaded.card.file.sha256,
        "default_threads": cpu_threads(),
        "steps": [],
        "live": [],
    }
    for threads in counts:
        results["steps"].append(compare_steps(loaded, device, threads, args.frames, args.seed))
        results["live"].append(live_waits(loaded, device, threads, args.source))
        print(f"{threads} threads: stepped / uninterrupted {results['steps'][-1]['ratio_of_medians']:.3f},", end=" ")
        print(f"wait for first step p99 {results['live'][-1]['wait_for_first_step']['p99_ms']:.1f} ms,", end=" ")
        print(f"mean exits {results['live'][-1]['mean_exits']:.2f}", flush=True)
    report.write(args.out, "steps", results, vars(args))


if __name__ == "__main__":
    main()
