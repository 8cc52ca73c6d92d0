"""More cameras than an engine can refine: what gives way first?

Sixty-four simulated cameras (threads that hand over ready-made pictures at their times) share one engine. The rates are
shares of what the engine can do at most: the frames a second whose first exit it reaches, alone or in batches. Below
that, depth may give way, but not coverage; above it, frames must be replaced. A run at one rate goes through three
things in turn, several times, as machines are never quite the same for long:

- nobody watches;
- a hundred visitors have the web page open, in one process that takes as little as it can
  (``benchmarks/page_visitors.py``);
- nobody watches, and another process burns as much as the visitors took, which on other machines would not be missing.

Measured of each:

- coverage: answered frames of all, of all cameras together and of the one that fares worst;
- depth: mean exits of an answered frame;
- the readers: how late they hand a picture over, behind its time;
- memory of its own, first and last, and what the visitors were sent;
- the cores that each kind of thread took, the visitors, and whatever else ran on the machine.

Then the same with some real cameras over RTSP, each a process.

Run: python -m benchmarks.load --out benchmarks/results/load.json
(five minutes; --quick takes half a one. Exit code 1 if coverage, memory or readers gave way before depth)
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pipelines
from benchmarks import report
from benchmarks.cpu_shares import Beside, Taken
from benchmarks.flatness import own_mib
from benchmarks.latency import camera_at
from pipelines.live import LiveRun
from stream_ann.ingest import Picture, source_from
from stream_ann.sinks.web import Access, WebView

__all__ = ["ReadyCamera", "Stretch", "measure", "most_per_s", "pictures", "problems", "simulated"]

CAMERAS, VISITORS = 64, 100
SHARES = (0.25, 0.5, 0.8, 2.0)
"""Rates as shares of the most that the engine can do."""
REAL_CAMERAS, REAL_FPS, REAL_VISITORS = 4, 5, 20
WARM_UP_S = 3.0
SETTLED_S = 1.0
ROUNDS = 4
"""How often each of the three things takes its turn."""
READY_WITHIN_S = 60.0
OPENINGS = 3
COVERED = 0.97
"""So much of all frames must be answered as long as the engine can reach every first exit."""
COSTS = 0.02
"""And visitors may cost so much of all frames, compared with a run beside which as much is burnt as they take."""
LATEST_S = 1.0
"""No reader may be later than this with a picture."""
GROWN_MIB = 100.0


class ReadyCamera:
    """A live source whose pictures are there already, and come at their times, whoever takes them.

    Args:
        number: Which camera it is.
        images: Its pictures, uint8 [H, W, 3] RGB, over and over.
        fps: Pictures a second.
        phase: When the first one comes, as a share of the time between two.
    """

    live = True

    def __init__(self, number: int, images: Sequence[NDArray[np.uint8]], fps: float, phase: float) -> None:
        self.name = f"camera {number}"
        self._images, self._fps, self._phase = images, fps, phase
        self._cancelled = threading.Event()
        self._begun_s = 0.0
        self._given = number
        self._count = 0
        self.late_s: deque[float] = deque(maxlen=100_000)
        """How late each picture was handed over, in seconds."""

    def open(self) -> None:
        """Begin."""
        self._begun_s = time.monotonic()

    def read(self) -> Picture | None:
        """The next picture, when its time has come."""
        due_s = self._begun_s + (self._count + self._phase) / self._fps
        if self._cancelled.wait(max(0.0, due_s - time.monotonic())):
            return None
        self.late_s.append(time.monotonic() - due_s)
        self._count += 1
        self._given += 1
        return Picture(self._images[self._given % len(self._images)], self._count / self._fps)

    def close(self) -> None:
        """Nothing to let go of."""

    def cancel(self) -> None:
        """End."""
        self._cancelled.set()


@dataclass(slots=True)
class Stretch:
    """What was seen in some seconds of a run."""

    seconds: float = 0.0
    answered: Counter[str] = field(default_factory=Counter)
    offered: Counter[str] = field(default_factory=Counter)
    """Frames that were answered or replaced, by camera."""
    exits: list[int] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    memory_mib: tuple[float, float] = (0.0, 0.0)
    parts: list[float] = field(default_factory=list)
    """Coverage of each of the stretches that this one was put together from."""
    cores: Counter[str] = field(default_factory=Counter)
    """Seconds of a core that each has taken."""
    sent: Counter[str] = field(default_factory=Counter)
    """What visitors were sent."""

    def add(self, part: Stretch) -> None:
        """Put another stretch behind this one."""
        self.seconds += part.seconds
        self.answered += part.answered
        self.offered += part.offered
        self.exits += part.exits
        self.first_ms += part.first_ms
        self.memory_mib = self.memory_mib[0] or part.memory_mib[0], part.memory_mib[1]
        self.parts.append(round(part.coverage, 4))
        self.cores.update(part.cores)
        self.sent.update(part.sent)  # not by +, which forgets what is 0

    @property
    def coverage(self) -> float:
        """Answered frames of all."""
        return self.answered.total() / max(1, self.offered.total())

    @property
    def least_coverage(self) -> float:
        """That of the camera that fares worst."""
        return min((self.answered[name] / n for name, n in self.offered.items()), default=0.0)

    def figures(self) -> dict[str, Any]:
        """For a report."""
        return {
            "seconds": round(self.seconds, 1),
            "offered": self.offered.total(),
            "answered": self.answered.total(),
            "coverage": round(self.coverage, 4),
            "coverage_in_turn": self.parts,
            "least_coverage": round(self.least_coverage, 4),
            "mean_exits": round(float(np.mean(self.exits)), 3) if self.exits else 0.0,
            "first_p99_ms": round(float(np.percentile(self.first_ms, 99)), 1) if self.first_ms else None,
            "memory_mib": [round(value, 1) for value in self.memory_mib],
            "cores": {name: round(taken / self.seconds, 3) for name, taken in self.cores.items()},
            **{f"visitors_{name}": count for name, count in self.sent.items()},
        }


def measure(run: LiveRun, web: WebView | None, seconds: float, *, warm_up_s: float = WARM_UP_S) -> Stretch:
    """Follow a run for some seconds, the beginning left out.

    Args:
        run: The run; not closed.
        web: Where results are shown, too.
        seconds: How long.
        warm_up_s: How long before that.
    """
    stretch = Stretch(seconds)
    begun_s = time.monotonic() + warm_up_s
    first_mib = 0.0
    for result in run:
        if web is not None:
            web.put(result)
        now_s = time.monotonic()
        if now_s < begun_s:
            continue
        if now_s > begun_s + seconds:
            break
        first_mib = first_mib or own_mib(os.getpid())
        stretch.answered[result.frame.source] += 1
        stretch.offered[result.frame.source] += 1 + result.replaced_before
        stretch.exits.append(len(result.exits))
        stretch.first_ms.append(result.first_ms)
    stretch.memory_mib = first_mib, own_mib(os.getpid())
    return stretch


def most_per_s(weights: str, cameras: int) -> float:
    """The frames a second whose first exit an engine reaches, alone or in batches; the median of some openings."""
    found = []
    for _ in range(OPENINGS):
        with pipelines.live(["pattern:64x36@1"] * cameras, weights=weights) as run:
            engine = run.engine
        each_s = [min(s for s, info in zip(engine.step_s, engine.plan.steps, strict=True) if info.first)]
        for count in (2, 4, 8, 16, 32, cameras):
            all_s = engine.together_s(0, count)
            each_s += [] if all_s is None else [all_s / count]
        found.append(1 / min(each_s))
    return statistics.median(found)


def pictures() -> list[NDArray[np.uint8]]:
    """Some of the demo clip, uint8 [H, W, 3] RGB each."""
    source = source_from("demo")
    source.open()
    found = [picture.image for i in range(300) if (picture := source.read()) is not None and i % 30 == 0]
    source.close()
    return found


def simulated(
    fps: float,
    visitors: int,
    seconds: float,
    images: Sequence[NDArray[np.uint8]],
    *,
    weights: str,
    cameras: int,
    rounds: int = ROUNDS,
) -> list[dict[str, Any]]:
    """Many simulated cameras at one rate: without visitors, with them, and while as much is burnt as they took.

    Args:
        fps: Pictures a second of each camera.
        visitors: How many have the page open.
        seconds: How long for each of the three, all rounds together.
        images: What the cameras see, uint8 [H, W, 3] RGB each.
        weights: The network.
        cameras: How many.
        rounds: How often each of the three takes its turn.
    """
    sources = [ReadyCamera(i, images, fps, i / cameras) for i in range(cameras)]
    alone, watched, burning = Stretch(), Stretch(), Stretch()
    with ExitStack() as stack:
        run = stack.enter_context(pipelines.live(sources, weights=weights))
        web = stack.enter_context(WebView(run.statuses, run.plan.exit_names, access=Access(port=0)))
        measure(run, web, 0.0)
        for _ in range(rounds):
            follow(run, web, alone, seconds / rounds)
            with Beside(web.port, visitors, cameras) as beside:
                follow(run, web, watched, seconds / rounds, beside)
            with Beside("--burn", watched.cores["beside"] / watched.seconds) as beside:
                follow(run, web, burning, seconds / rounds, beside)
    counts = run.counts
    late_s = [late for source in sources for late in source.late_s]
    whole = {
        "reader_late_p99_s": round(float(np.percentile(late_s, 99)), 4),
        "reader_late_max_s": round(max(late_s), 4),
        "uncounted": counts.frames_in - counts.results - counts.replaced - counts.corrupt,
    }
    found = []
    for stretch, watching in ((alone, 0), (watched, visitors), (burning, 0)):
        given = {"cameras": cameras, "visitors": watching, "burning": stretch is burning, "fps": round(fps, 3)}
        found.append({**given, **stretch.figures(), **whole})
        _show(found[-1])
    return found


def follow(run: LiveRun, web: WebView, stretch: Stretch, seconds: float, beside: Beside | None = None) -> None:
    """Follow a run for some seconds more, once the process beside it is ready and both have settled."""
    until_s = time.monotonic() + READY_WITHIN_S
    while beside is not None and not beside.ready():
        if time.monotonic() > until_s:
            raise RuntimeError(f"not all visitors have seen anything after {READY_WITHIN_S:g} s")
        measure(run, web, 0.1, warm_up_s=0.0)
    measure(run, web, 0.0, warm_up_s=SETTLED_S)
    before = beside.ask() if beside is not None else {}
    taken = Taken(beside)
    part = measure(run, web, seconds, warm_up_s=0.0)
    part.cores.update({name: cores * part.seconds for name, cores in taken.cores().items()})
    if beside is not None:
        after = beside.ask()
        part.sent.update({name: after[name] - before[name] for name in before if name != "cpu_s"})
    stretch.add(part)


def real(visitors: int, seconds: float, *, weights: str) -> dict[str, Any]:
    """Some cameras over RTSP, and visitors."""
    stretch = Stretch()
    with ExitStack() as stack:
        cameras = [stack.enter_context(camera_at(REAL_FPS)) for _ in range(REAL_CAMERAS)]
        run = stack.enter_context(pipelines.live([camera.url for camera in cameras], weights=weights))
        web = stack.enter_context(WebView(run.statuses, run.plan.exit_names, access=Access(port=0)))
        measure(run, web, 0.0)
        with Beside(web.port, visitors, REAL_CAMERAS) as beside:
            follow(run, web, stretch, seconds, beside)
    counts = run.counts
    found = {"cameras": REAL_CAMERAS, "visitors": visitors, "fps": REAL_FPS, **stretch.figures()}
    found["uncounted"] = counts.frames_in - counts.results - counts.replaced - counts.corrupt
    _show(found)
    return found


def _show(found: dict[str, Any]) -> None:
    print(", ".join(f"{key} {value}" for key, value in found.items()), flush=True)


def problems(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Where something gave way before depth did; none where all is well."""
    wrong = []
    deepest = max(found["mean_exits"] for found in runs)
    burning = {found["fps"]: found["coverage"] for found in runs if found["burning"]}
    for found in runs:
        where = f"{found['cameras']} cameras at {found['fps']} fps, {found['visitors']} visitors"
        coverage, alike = found["coverage"], burning.get(found["fps"])
        if found.get("share_of_most", 0.0) < 1 and coverage < COVERED and found["mean_exits"] > 1.05:
            wrong.append(f"{where}: {coverage:.1%} answered at a depth of {found['mean_exits']:.2f} exits")
        if found["visitors"] and alike is not None and coverage < alike - COSTS:
            wrong.append(f"{where}: {coverage:.1%} answered, {alike:.1%} where nobody watches")
        if found.get("share_of_most", 0.0) > 1 and found["mean_exits"] > deepest - 0.5:
            wrong.append(f"{where}: beyond what the engine can do, depth is still {found['mean_exits']:.2f} exits")
        if found.get("reader_late_max_s", 0.0) > LATEST_S:
            wrong.append(f"{where}: a reader was {found['reader_late_max_s']:.2f} s late")
        if found["memory_mib"][1] - found["memory_mib"][0] > GROWN_MIB:
            wrong.append(f"{where}: memory grew from {found['memory_mib'][0]} to {found['memory_mib'][1]} MiB")
        if found["uncounted"]:
            wrong.append(f"{where}: {found['uncounted']} frames were not counted exactly once")
    return wrong


def main() -> None:
    """Parse the command line, measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--seconds", type=float, default=16.0, help="for each of three things at each rate")
    parser.add_argument("--quick", action="store_true", help="two rates, for 3 s each")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    args = parser.parse_args()
    images = pictures()
    shares, seconds = ((0.5,), 3.0) if args.quick else (SHARES, args.seconds)
    most = most_per_s(args.weights, CAMERAS)
    print(f"the engine reaches at most {most:.1f} first exits a second", flush=True)
    runs: list[dict[str, Any]] = []
    for share in shares:
        fps = share * most / CAMERAS
        found = simulated(fps, VISITORS, seconds, images, weights=args.weights, cameras=CAMERAS)
        runs += [{"share_of_most": share, **each} for each in found]
    over_rtsp = real(REAL_VISITORS, seconds, weights=args.weights)
    wrong = problems(runs)
    results = {"most_per_s": round(most, 1), "simulated": runs, "real": over_rtsp, "problems": wrong}
    if args.out is not None:
        report.write(args.out, "load", results, {**vars(args), "seed": None, "data": "the demo clip"})
    for problem in wrong:
        print(f"NOT AS IT MUST BE: {problem}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
