"""How many cameras one engine serves: the number of 30 fps streams at which every frame still gets an answer.

Cameras here are pictures that were decoded beforehand, put into slots on a real clock by one thread, each camera at a
phase of its own: what is measured is the scheduler and the engine, not the decoder, which a real camera needs beside.
The number of streams is doubled until a frame is lost, and then narrowed down. A frame is lost when a newer one of its
camera has replaced it before its first exit began.

Run: python -m benchmarks.streams --out benchmarks/results/streams.json
"""

from __future__ import annotations

import argparse
import statistics
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import report
from stream_ann import weights
from stream_ann.clock import MonotonicClock
from stream_ann.engines import open_engine
from stream_ann.ingest import Inbox, Slot, source_from
from stream_ann.lanes import LaneEngine
from stream_ann.scheduler import Scheduler, path_named

FPS = 30.0
MOST = 64
PICTURES = 48
WARM_UP_S = 1.0
"""Frames of the first second don't count: the scheduler has yet to see how often frames come."""
ATTEMPTS, CLEARLY_BAD = 2, 0.98
"""A few frames lost may be the doing of something else on the machine: then the same number is tried once more. All
runs are in the results."""


class Cameras:
    """Puts pictures into slots at their times, from a thread of its own.

    Args:
        images: The pictures, uint8 [H, W, 3], over and over again.
        slots: One for each camera.
        clock: The clock.
        fps: Frames a second of each camera.
        frames: How many frames each camera gives.
    """

    def __init__(
        self,
        images: Sequence[NDArray[np.uint8]],
        slots: Sequence[Slot],
        clock: MonotonicClock,
        fps: float,
        frames: int,
    ) -> None:
        self._images, self._slots, self._clock = images, slots, clock
        self._fps, self._frames = fps, frames
        self.late_s: list[float] = []
        """How long after its time each frame came: the benchmark's own fault."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream-ann benchmark cameras", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for the thread."""
        self._stop.set()
        for slot in self._slots:
            slot.close()
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        begun_s = self._clock.now_s()
        count = len(self._slots)
        try:
            for tick in range(self._frames * count):
                index, camera = divmod(tick, count)
                due_s = begun_s + tick / (self._fps * count)
                while (left_s := due_s - self._clock.now_s()) > 0:
                    if self._stop.wait(min(left_s, 0.1)):
                        return
                image = self._images[(index + camera) % len(self._images)]
                self._slots[camera].put(image, source=f"camera {camera}", index=index, pts_s=index / self._fps)
                self.late_s.append(-left_s)
        finally:
            for slot in self._slots:
                slot.finish()


def serve(
    engine: LaneEngine,
    loaded: weights.Weights,
    images: Sequence[NDArray[np.uint8]],
    streams: int,
    *,
    path: str,
    fps: float,
    seconds: float,
) -> dict[str, Any]:
    """Serve so many cameras for some seconds.

    Args:
        engine: With a lane for each camera.
        loaded: The weights.
        images: What the cameras see.
        streams: How many there are.
        path: Name of the path.
        fps: Frames a second of each.
        seconds: How long, after the warm-up.
    """
    clock, inbox = MonotonicClock(), Inbox()
    slots = [Slot(clock, inbox=inbox) for _ in range(streams)]
    scheduler = Scheduler(
        engine,
        slots,
        clock,
        classes=loaded.card.classes,
        path=path_named(path, engine.plan, loaded.card.planning_accuracies),
        waiter=inbox,
        top_k=1,
    )
    frames = round((WARM_UP_S + seconds) * fps)
    cameras = Cameras(images, slots, clock, fps, frames)
    cameras.start()
    try:
        results = list(scheduler.results())
    finally:
        cameras.stop()
    counted = [r for r in results if r.frame.index >= WARM_UP_S * fps]
    lost = sum(r.replaced_before for r in counted)
    first_ms = [r.first_ms for r in counted]
    return {
        "streams": streams,
        "answered": len(counted),
        "lost": lost,
        "share_answered": round(len(counted) / max(1, len(counted) + lost), 4),
        "least_answered_of_a_stream": min(
            sum(r.frame.source == f"camera {camera}" for r in counted) for camera in range(streams)
        ),
        "first_p50_ms": round(float(np.percentile(first_ms, 50)), 2),
        "first_p99_ms": round(float(np.percentile(first_ms, 99)), 2),
        "mean_exits": round(statistics.mean(len(r.exits) for r in counted), 3),
        "frames_by_deepest_exit": [
            sum(max(e.exit for e in r.exits) == exit for r in counted) for exit in range(len(engine.plan))
        ],
        "camera_late_p99_ms": round(float(np.percentile(cameras.late_s, 99)) * 1e3, 2),
    }


def knee(
    engine: LaneEngine, loaded: weights.Weights, images: Sequence[NDArray[np.uint8]], args: argparse.Namespace
) -> tuple[int, list[dict[str, Any]]]:
    """The largest number of streams without a lost frame, and what was measured to find it."""
    runs: list[dict[str, Any]] = []

    def good(streams: int) -> bool:
        for _ in range(ATTEMPTS):
            run = serve(engine, loaded, images, streams, path=args.policy, fps=args.fps, seconds=args.seconds)
            runs.append(run)
            print(
                f"  {streams:>3} streams: {run['share_answered']:>7.2%} answered, {run['lost']:>4} lost,"
                f" first answer {run['first_p50_ms']:>6.1f} / {run['first_p99_ms']:>6.1f} ms p50 / p99,"
                f" {run['mean_exits']:.2f} exits",
                flush=True,
            )
            if run["lost"] == 0:
                return True
            if run["share_answered"] < CLEARLY_BAD:
                break
        return False

    best, bad = 0, args.most + 1
    streams = 1
    while streams < bad and good(streams):
        best, streams = streams, min(2 * streams, args.most) if streams < args.most else bad
    bad = min(streams, bad)
    while bad - best > 1 and not args.quick:
        middle = (best + bad) // 2
        if good(middle):
            best = middle
        else:
            bad = middle
    return best, sorted(runs, key=lambda run: int(run["streams"]))


def pictures(count: int) -> list[NDArray[np.uint8]]:
    """The first frames of the demo clip, decoded."""
    source = source_from("demo")
    source.open()
    try:
        read = (source.read() for _ in range(count))
        return [picture.image for picture in read if picture is not None]
    finally:
        source.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--engines", default="auto", help="Names, separated by commas.")
    parser.add_argument("--policy", default="in-order")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--fps", type=float, default=FPS)
    parser.add_argument("--most", type=int, default=MOST)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--quick", action="store_true", help="2 seconds each, and doubling alone.")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.quick:
        args.seconds = min(args.seconds, 2.0)

    loaded = weights.load(args.weights)
    images = pictures(PICTURES)
    engines: list[dict[str, Any]] = []
    for name in args.engines.split(","):
        engine = open_engine(
            loaded.net,
            loaded.card.preprocessing,
            device=args.device,
            engine=name,
            temperatures=loaded.card.temperatures,
            threads=args.threads,
            lanes=args.most,
        )
        print(f"{engine.description}, {args.policy}, {args.fps:g} fps", flush=True)
        try:
            found, runs = knee(engine, loaded, images, args)
        finally:
            engine.close()
        print(f"  every frame is answered up to {found} streams", flush=True)
        engines.append({"engine": engine.name, "description": engine.description, "knee": found, "runs": runs})
    results = {"weights_sha256": loaded.card.file.sha256, "policy": args.policy, "fps": args.fps, "engines": engines}
    report.write(args.out, "streams", results, vars(args))


if __name__ == "__main__":
    main()
