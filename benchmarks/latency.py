"""From the camera's glass to the label: how long it takes, whether it stays that way, and what an outage costs.

A camera in a process of its own (``benchmarks/camera.py``) sends H.264 over RTSP. Each picture carries its number, so
that every answer can be traced to the moment at which its frame was sent: that is the glass. Exposure and encoding,
which a real camera adds, are not in it; the network stack, receiving, decoding, waiting and classifying are. Measured,
in one run:

- **latency** at each rate: from the glass to the first and to the last label of stream_ann, beside the loop that most
  people write: ``cv2.VideoCapture.read()``, then the same network on the same engine and threads, run to its end on
  every frame. The two take turns, so that a drift of the machine's speed touches both;
- **flat**: the same over ``--minutes``, with the slopes of latency and of memory over time. The plain loop beside it
  runs for a minute at most: where the network is slower than the camera, its latency grows for as long as it runs;
- **outages**: over ``--minutes``, the camera is killed every 20 s for some seconds. From the moment it listens again to
  the first label, and the slope of memory.

Run: python -m benchmarks.latency --minutes 10 --out benchmarks/results/latency.json
(23 minutes; --quick takes about one.)
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import pipelines
from benchmarks import report
from benchmarks.camera import AccessUnit, RtspCamera, encode_pattern
from stream_ann import weights as weights_room
from stream_ann.engines import open_engine
from stream_ann.ingest.pattern import frame_number
from stream_ann.scheduler import DEFAULT_PATH

SIZE_PX = (640, 360)
LOOP_S = 20
"""Length of what the camera sends over and over, in seconds."""
RING = 2**17
"""For so many frames the camera remembers when it sent them."""
WARM_UP_S = 1.0
"""The beginning of each turn is left out, in seconds: connecting, and the pictures that came in meanwhile."""
LIFE_S = 20.0
DOWN_S = (1.0, 3.0, 0.2, 6.0)
"""How long the camera is away, in turn, in seconds."""
PLAIN_MINUTES = 1.0
WINDOW_S = 10.0


class CameraProcess:
    """A camera in a process of its own, that can be killed.

    Args:
        units: What it sends.
        fps: Frames a second.
    """

    def __init__(self, units: list[AccessUnit], fps: float) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._units, self._fps = units, fps
        self._sent_s: Any = self._context.Array("d", RING, lock=False)
        self._process: Any = None
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        """Its address; the same after each start."""
        return f"rtsp://127.0.0.1:{self._port}/live"

    def sent_s(self, number: int) -> float:
        """Monotonic time at which the latest connection's frame of this number was sent, in seconds."""
        return float(self._sent_s[number % RING])

    def start(self) -> float:
        """Start it, at the same port as before; the monotonic time at which it began to listen, in seconds."""
        ours, its = self._context.Pipe()
        self._process = self._context.Process(
            target=_serve, args=(self._units, self._fps, self._port, self._sent_s, its), daemon=True
        )
        self._process.start()
        if not ours.poll(60):
            raise RuntimeError("the camera does not start")
        self._port, listening_s = ours.recv()
        return float(listening_s)

    def kill(self) -> None:
        """Kill it: no word to anyone."""
        self._process.kill()
        self._process.join(10)


def _serve(units: list[AccessUnit], fps: float, port: int, sent_s: Any, to_parent: Connection) -> None:
    camera = RtspCamera(units, fps=fps, port=port)

    def note(number: int, time_s: float) -> None:
        sent_s[number % RING] = time_s

    camera.on_sent = note
    with camera:
        to_parent.send((camera.port, time.monotonic()))
        threading.Event().wait()


@contextmanager
def camera_at(fps: int) -> Iterator[CameraProcess]:
    """A camera of this rate while the context lasts."""
    camera = CameraProcess(encode_pattern(size_px=SIZE_PX, fps=fps, frames=LOOP_S * fps, gop=fps), fps)
    try:
        yield camera
    finally:
        camera.kill()


class Numbers:
    """Follows the numbers in pictures, which begin anew with each loop of the camera's.

    Args:
        loop: How many frames the loop has.
    """

    def __init__(self, loop: int) -> None:
        self._loop = loop
        self._last = 0

    def of(self, image: NDArray[np.uint8]) -> int:
        """The number of a frame in its connection. Each must be less than a loop behind the one before."""
        self._last += (frame_number(image) - self._last) % self._loop
        return self._last


@dataclass(frozen=True, slots=True)
class Sample:
    """One frame that was answered."""

    number: int
    sent_s: float
    first_s: float
    """From the glass to the first label, in seconds."""
    final_s: float
    """From the glass to the last label, in seconds."""

    @property
    def done_s(self) -> float:
        """Monotonic time of the last label, in seconds."""
        return self.sent_s + self.final_s


@dataclass(frozen=True, slots=True)
class Options:
    """What is the same for both ways."""

    weights: str
    device: str
    threads: int | None
    policy: str = DEFAULT_PATH
    """How stream_ann schedules; the plain loop has no choice."""

    def live(self, url: str) -> pipelines.LiveRun:
        """A live run on a camera."""
        return pipelines.live(url, weights=self.weights, device=self.device, threads=self.threads, path=self.policy)


def ours(camera: CameraProcess, fps: int, seconds: float, options: Options) -> list[Sample]:
    """stream_ann on the camera, for so long from the first label on."""
    samples: list[Sample] = []
    numbers = Numbers(LOOP_S * fps)
    with options.live(camera.url) as run:
        for result in run:
            number = numbers.of(result.frame.image)
            sent_s = camera.sent_s(number)
            arrival_s = result.frame.arrival_s
            first_s, final_s = arrival_s + result.first_ms / 1e3, arrival_s + result.final_ms / 1e3
            samples.append(Sample(number, sent_s, first_s - sent_s, final_s - sent_s))
            if samples[-1].done_s - samples[0].done_s >= seconds:
                break
    return samples


def plain(camera: CameraProcess, fps: int, seconds: float, options: Options) -> list[Sample]:
    """The loop that most people write, for so long from the first label on: read, classify, read."""
    loaded = weights_room.load(options.weights)
    engine = open_engine(
        loaded.net,
        loaded.card.preprocessing,
        device=options.device,
        temperatures=loaded.card.temperatures,
        threads=options.threads,
    )
    samples: list[Sample] = []
    numbers = Numbers(LOOP_S * fps)
    capture = cv2.VideoCapture(camera.url, cv2.CAP_FFMPEG)
    try:
        while True:
            there, bgr = capture.read()
            if not there:
                raise RuntimeError("OpenCV lost the camera")
            image = np.ascontiguousarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
            engine.start(image)
            for step in range(len(engine.plan)):
                engine.run(step)
            done_s = time.monotonic()
            number = numbers.of(image)
            sent_s = camera.sent_s(number)
            samples.append(Sample(number, sent_s, done_s - sent_s, done_s - sent_s))
            if done_s - samples[0].done_s >= seconds:
                return samples
    finally:
        capture.release()
        engine.close()


def steady(samples: Sequence[Sample]) -> list[Sample]:
    """Without the beginning."""
    return [sample for sample in samples if sample.done_s - samples[0].done_s >= WARM_UP_S] or list(samples[-1:])


def figures(samples: Sequence[Sample], fps: int) -> dict[str, Any]:
    """Percentiles in milliseconds, how much of the stream was answered, and how latency changes over time."""
    first_ms = [sample.first_s * 1e3 for sample in samples]
    final_ms = [sample.final_s * 1e3 for sample in samples]
    sent = samples[-1].number - samples[0].number + 1
    return {
        "frames_sent": sent,
        "frames_answered": len(samples),
        "first_ms": percentiles(first_ms),
        "final_ms": percentiles(final_ms),
        "first_p99_frame_periods": round(float(np.percentile(first_ms, 99)) * fps / 1e3, 2),
        "slope_ms_per_minute": round(slope([s.done_s for s in samples], first_ms) * 60, 3),
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum."""
    p50, p99, top = np.percentile(values, [50, 99, 100])
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2), "max": round(float(top), 2)}


def slope(times_s: Sequence[float], values: Sequence[float]) -> float:
    """Rise of a straight line through the values, a second; 0 for fewer than two."""
    if len(times_s) < 2:
        return 0.0
    return float(np.polyfit(np.array(times_s) - times_s[0], values, 1)[0])


class Memory:
    """Notes this process's memory, threads and open files, now and then."""

    def __init__(self) -> None:
        self._times_s: list[float] = []
        self._mib: list[float] = []
        self._first = self._counts()

    def look(self) -> None:
        """Note it, if it is time for it."""
        now_s = time.monotonic()
        if not self._times_s or now_s - self._times_s[-1] >= WINDOW_S / 2:
            self._times_s.append(now_s)
            self._mib.append(_resident_mib())

    def figures(self) -> dict[str, Any]:
        """The first quarter is left out of the slope: caches fill, and libraries make their threads."""
        begin = len(self._mib) // 4
        return {
            "rss_mib_first": round(self._mib[0], 1),
            "rss_mib_last": round(self._mib[-1], 1),
            "rss_mib_max": round(max(self._mib), 1),
            "rss_slope_mib_per_minute": round(slope(self._times_s[begin:], self._mib[begin:]) * 60, 3),
            "threads_and_files_first": self._first,
            "threads_and_files_last": self._counts(),
        }

    @staticmethod
    def _counts() -> list[int]:
        return [threading.active_count(), len(os.listdir("/proc/self/fd"))]


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def latency(fps: int, seconds: float, turns: int, options: Options) -> dict[str, Any]:
    """Both ways at one rate, in turns."""
    mine: list[Sample] = []
    theirs: list[Sample] = []
    with camera_at(fps) as camera:
        parts = []
        for _ in range(turns):
            mine = steady(ours(camera, fps, seconds / turns, options))
            theirs = steady(plain(camera, fps, seconds / turns, options))
            parts.append((figures(mine, fps), figures(theirs, fps), mine, theirs))
    both = {
        "fps": fps,
        "frame_period_ms": round(1e3 / fps, 2),
        "stream_ann": _over_turns([part[0] for part in parts], [part[2] for part in parts], fps),
        "plain_loop": _over_turns([part[1] for part in parts], [part[3] for part in parts], fps),
    }
    _show(f"{fps} fps", both)
    return both


def _over_turns(each: list[dict[str, Any]], samples: list[list[Sample]], fps: int) -> dict[str, Any]:
    """Percentiles over all turns; what is counted is summed, and slopes stay apart, as each turn begins anew."""
    first_ms = [sample.first_s * 1e3 for turn in samples for sample in turn]
    return {
        "frames_sent": sum(turn["frames_sent"] for turn in each),
        "frames_answered": sum(turn["frames_answered"] for turn in each),
        "first_ms": percentiles(first_ms),
        "final_ms": percentiles([sample.final_s * 1e3 for turn in samples for sample in turn]),
        "first_p99_frame_periods": round(float(np.percentile(first_ms, 99)) * fps / 1e3, 2),
        "slope_ms_per_minute": [turn["slope_ms_per_minute"] for turn in each],
    }


def flat(fps: int, minutes: float, options: Options) -> dict[str, Any]:
    """Both ways for minutes: latency and memory over time."""
    memory = Memory()
    with camera_at(fps) as camera:
        watching = threading.Event()

        def look() -> None:
            memory.look()
            while not watching.wait(1.0):
                memory.look()

        looker = threading.Thread(target=look, daemon=True)
        looker.start()
        mine = steady(ours(camera, fps, minutes * 60, options))
        watching.set()
        looker.join()
        theirs = steady(plain(camera, fps, min(minutes, PLAIN_MINUTES) * 60, options))
    both = {
        "fps": fps,
        "frame_period_ms": round(1e3 / fps, 2),
        "minutes": minutes,
        "plain_minutes": min(minutes, PLAIN_MINUTES),
        "stream_ann": {**figures(mine, fps), **memory.figures(), "windows": windows(mine)},
        "plain_loop": {**figures(theirs, fps), "windows": windows(theirs)},
    }
    _show(f"{fps} fps for {minutes:g} minutes", both)
    return both


def windows(samples: Sequence[Sample]) -> list[list[float]]:
    """For each ten seconds: their beginning in seconds, p50 and p99 of the first label in milliseconds."""
    rows: list[list[float]] = []
    begin_s = samples[0].done_s
    for index in range(int((samples[-1].done_s - begin_s) // WINDOW_S) + 1):
        inside = [s.first_s * 1e3 for s in samples if index <= (s.done_s - begin_s) / WINDOW_S < index + 1]
        if inside:
            found = percentiles(inside)
            rows.append([index * WINDOW_S, found["p50"], found["p99"]])
    return rows


def outages(fps: int, minutes: float, life_s: float, options: Options) -> dict[str, Any]:
    """Kill the camera again and again; how long after its return the first label is there."""
    memory = Memory()
    returns_s: list[float] = []
    downs_s: list[float] = []
    over = threading.Event()
    with camera_at(fps) as camera:

        def kill_and_return() -> None:
            while not over.wait(life_s):
                camera.kill()
                killed_s = time.monotonic()
                if over.wait(DOWN_S[len(returns_s) % len(DOWN_S)]):
                    return
                returns_s.append(camera.start())
                downs_s.append(returns_s[-1] - killed_s)

        killer = threading.Thread(target=kill_and_return, daemon=True)
        labels_s: list[float] = []
        states: list[str] = []
        with options.live(camera.url) as run:
            run.on_state(lambda change: states.append(change.state))
            begun_s = time.monotonic()
            killer.start()
            for result in run:
                labels_s.append(result.frame.arrival_s + result.first_ms / 1e3)
                memory.look()
                if labels_s[-1] - begun_s >= minutes * 60 and (not returns_s or labels_s[-1] > returns_s[-1]):
                    over.set()
                    break
        over.set()
        killer.join(60)
        back_s = [
            min((label_s for label_s in labels_s if label_s > return_s), default=float("nan")) - return_s
            for return_s in returns_s
        ]
        back_s = [value for value in back_s if np.isfinite(value)]
    found = {
        "fps": fps,
        "minutes": minutes,
        "outages": len(back_s),
        "down_s": [round(value, 2) for value in downs_s],
        "back_s": [round(value, 3) for value in back_s],
        "back_s_max": round(max(back_s, default=0.0), 3),
        "back_within_2_s": sum(value <= 2.0 for value in back_s),
        "times_live": states.count("live"),
        **memory.figures(),
    }
    print(
        f"outages: {len(back_s)}, back within 2 s {found['back_within_2_s']} times, at the latest after "
        f"{found['back_s_max']} s; memory {found['rss_slope_mib_per_minute']} MiB/min"
    )
    return found


def _show(title: str, both: dict[str, Any]) -> None:
    for name in ("stream_ann", "plain_loop"):
        one = both[name]
        print(
            f"{title}: {name}: first label p50 {one['first_ms']['p50']} p99 {one['first_ms']['p99']} ms "
            f"({one['first_p99_frame_periods']} frame periods), last p50 {one['final_ms']['p50']} ms, "
            f"slope {one['slope_ms_per_minute']} ms/min, {one['frames_answered']} of {one['frames_sent']} frames"
            + (f", memory {one['rss_slope_mib_per_minute']} MiB/min" if "rss_slope_mib_per_minute" in one else "")
        )


def main() -> None:
    """Parse the command line, measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="file for the JSON")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="threads on the CPU; by default one core is left to the decoder")
    parser.add_argument("--policy", default=DEFAULT_PATH, help="how stream_ann schedules")
    parser.add_argument("--fps", type=int, nargs="+", default=[25, 60])
    parser.add_argument("--seconds", type=float, default=30.0, help="for each way and rate")
    parser.add_argument("--turns", type=int, default=3, help="how often the two ways take turns at each rate")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the flat run, and of the one with outages")
    parser.add_argument("--life-s", type=float, default=LIFE_S, help="how long the camera lives between outages")
    parser.add_argument("--quick", action="store_true", help="everything in about a minute")
    args = parser.parse_args()
    if args.quick:
        args.seconds, args.turns, args.minutes, args.life_s = 4.0, 1, 0.15, 4.0
    options = Options(args.weights, args.device, args.threads, args.policy)
    results = {
        "latency": [latency(fps, args.seconds, args.turns, options) for fps in args.fps],
        "flat": flat(args.fps[0], args.minutes, options),
        "outages": outages(args.fps[0], args.minutes, args.life_s, options),
    }
    if args.out is not None:
        report.write(args.out, "latency", results, {**vars(args), "seed": None, "data": "the pattern of pattern:"})


if __name__ == "__main__":
    main()
