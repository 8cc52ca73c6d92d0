"""More cameras than an engine can refine: what gives way first?

Sixty-four simulated cameras (threads that hand over ready-made pictures at their times) share one engine, with and
without a hundred visitors of the web page, who are a process of their own. The rates are shares of what the engine can
do at most: the frames a second whose first exit it reaches, alone or in batches. Below that, depth may give way, but
not coverage; above it, frames must be replaced. Measured for each rate:

- coverage: answered frames of all, of all cameras together and of the one that fares worst;
- depth: mean exits of an answered frame;
- the readers: how late they hand a picture over, behind its time;
- memory of its own, first and last, and what the visitors were sent.

Then the same with some real cameras over RTSP, each a process.

Run: python -m benchmarks.load --out benchmarks/results/load.json
(four minutes; --quick takes half a one. Exit code 1 if coverage, memory or readers gave way before depth)
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pipelines
from benchmarks import report
from benchmarks.flatness import own_mib
from benchmarks.latency import camera_at
from benchmarks.web_clients import Visitors
from pipelines.live import LiveRun
from stream_ann.ingest import Picture, source_from
from stream_ann.sinks.web import Access, WebView

__all__ = ["ReadyCamera", "Stretch", "measure", "pictures", "problems", "simulated", "visited"]

CAMERAS, VISITORS = 64, 100
SHARES = (0.25, 0.5, 0.8, 2.0)
"""Rates as shares of the most that the engine can do."""
REAL_CAMERAS, REAL_FPS, REAL_VISITORS = 4, 5, 20
WARM_UP_S = 3.0
COVERED = 0.97
"""So much of all frames must be answered as long as the engine can reach every first exit."""
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

    seconds: float
    answered: Counter[str] = field(default_factory=Counter)
    offered: Counter[str] = field(default_factory=Counter)
    """Frames that were answered or replaced, by camera."""
    exits: list[int] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    memory_mib: tuple[float, float] = (0.0, 0.0)

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
            "least_coverage": round(self.least_coverage, 4),
            "mean_exits": round(float(np.mean(self.exits)), 3) if self.exits else 0.0,
            "first_p99_ms": round(float(np.percentile(self.first_ms, 99)), 1) if self.first_ms else None,
            "memory_mib": [round(value, 1) for value in self.memory_mib],
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


def _visit(port: int, count: int, sources: int, to_parent: Connection) -> None:
    with Visitors(port, ("watching",) * count, sources=sources) as visitors:
        to_parent.recv()
    to_parent.send((visitors.messages, visitors.bytes, visitors.refused))


@contextmanager
def visited(port: int, count: int, sources: int) -> Iterator[dict[str, int]]:
    """Visitors from another process, while the context lasts; then what they have received is in the dictionary."""
    found: dict[str, int] = {}
    ours, its = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_visit, args=(port, count, sources, its), daemon=True)
    process.start()
    try:
        yield found
        with contextlib.suppress(OSError, EOFError):
            ours.send(None)
            if ours.poll(60):
                found["messages"], found["bytes"], found["refused"] = ours.recv()
    finally:
        process.kill()
        process.join(10)


def most_per_s(run: LiveRun, lanes: int) -> float:
    """The frames a second whose first exit an engine reaches, alone or in batches."""
    engine = run.engine
    alone_s = min(s for s, info in zip(engine.step_s, engine.plan.steps, strict=True) if info.first)
    together = [engine.together_s(0, count) for count in (2, 4, 8, 16, 32, lanes)]
    counts = (2, 4, 8, 16, 32, lanes)
    each = [all_s / count for all_s, count in zip(together, counts, strict=True) if all_s is not None]
    return 1 / min([alone_s, *each])


def pictures() -> list[NDArray[np.uint8]]:
    """Some of the demo clip, uint8 [H, W, 3] RGB each."""
    source = source_from("demo")
    source.open()
    found = [picture.image for i in range(300) if (picture := source.read()) is not None and i % 30 == 0]
    source.close()
    return found


def simulated(
    share: float,
    visitors: int,
    seconds: float,
    images: Sequence[NDArray[np.uint8]],
    *,
    weights: str,
    cameras: int,
    most_fps: float = float("inf"),
) -> dict[str, Any]:
    """Many simulated cameras at one rate, that of each limited to ``most_fps``."""
    with pipelines.live(["pattern:64x36@1"] * cameras, weights=weights) as run:
        most = most_per_s(run, cameras)
    fps = min(most_fps, share * most / cameras)
    sources = [ReadyCamera(i, images, fps, i / cameras) for i in range(cameras)]
    with ExitStack() as stack:
        run = stack.enter_context(pipelines.live(sources, weights=weights))
        web = stack.enter_context(WebView(run.statuses, run.plan.exit_names, access=Access(port=0)))
        received = stack.enter_context(visited(web.port, visitors, cameras)) if visitors else {}
        stretch = measure(run, web, seconds)
    late_s = [late for source in sources for late in source.late_s]
    counts = run.counts
    found = {
        "cameras": cameras,
        "visitors": visitors,
        "share_of_most": share,
        "fps": round(fps, 3),
        "most_per_s": round(most, 1),
        **stretch.figures(),
        "reader_late_p99_s": round(float(np.percentile(late_s, 99)), 4),
        "reader_late_max_s": round(max(late_s), 4),
        "uncounted": counts.frames_in - counts.results - counts.replaced - counts.corrupt,
        **{f"visitors_{key}": value for key, value in received.items()},
    }
    _show(found)
    return found


def real(visitors: int, seconds: float, *, weights: str) -> dict[str, Any]:
    """Some cameras over RTSP."""
    with ExitStack() as stack:
        cameras = [stack.enter_context(camera_at(REAL_FPS)) for _ in range(REAL_CAMERAS)]
        run = stack.enter_context(pipelines.live([camera.url for camera in cameras], weights=weights))
        web = stack.enter_context(WebView(run.statuses, run.plan.exit_names, access=Access(port=0)))
        received = stack.enter_context(visited(web.port, visitors, REAL_CAMERAS))
        stretch = measure(run, web, seconds)
    counts = run.counts
    found = {
        "cameras": REAL_CAMERAS,
        "visitors": visitors,
        "fps": REAL_FPS,
        **stretch.figures(),
        "uncounted": counts.frames_in - counts.results - counts.replaced - counts.corrupt,
        **{f"visitors_{key}": value for key, value in received.items()},
    }
    _show(found)
    return found


def _show(found: dict[str, Any]) -> None:
    print(", ".join(f"{key} {value}" for key, value in found.items()), flush=True)


def problems(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Where something gave way before depth did; none where all is well."""
    wrong = []
    deepest = max(found["mean_exits"] for found in runs)
    for found in runs:
        where = f"{found['cameras']} cameras at {found['fps']} fps, {found['visitors']} visitors"
        if found.get("share_of_most", 0.0) < 1 and found["coverage"] < COVERED and found["mean_exits"] > 1.05:
            wrong.append(f"{where}: {found['coverage']:.1%} answered at a depth of {found['mean_exits']:.2f} exits")
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
    parser.add_argument("--seconds", type=float, default=15.0, help="for each rate")
    parser.add_argument("--quick", action="store_true", help="two rates, for 3 s each")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    args = parser.parse_args()
    images = pictures()
    shares, seconds = ((0.5,), 3.0) if args.quick else (SHARES, args.seconds)
    runs = []
    for share in shares:
        for visitors in (0, VISITORS):
            runs.append(simulated(share, visitors, seconds, images, weights=args.weights, cameras=CAMERAS))
    over_rtsp = real(REAL_VISITORS, seconds, weights=args.weights)
    wrong = problems(runs)
    results = {"simulated": runs, "real": over_rtsp, "problems": wrong}
    if args.out is not None:
        report.write(args.out, "load", results, {**vars(args), "seed": None, "data": "the demo clip"})
    for problem in wrong:
        print(f"NOT AS IT MUST BE: {problem}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
