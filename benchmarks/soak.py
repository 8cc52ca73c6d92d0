"""Hours with a camera that fails in every way, every output and a page that is watched: what grows, what is lost?

``stream-ann live`` runs as a process of its own on a camera (``benchmarks/faulty_camera.py``) that loses packets,
stalls, resets and closes connections, sends garbage, is switched off, changes the size of its pictures and its time,
and says nothing. It records in chunks of which some are kept, writes events and snapshots with clips, serves its
metrics and its page to five visitors (``benchmarks/web_clients.py``): one watches, one reads too slowly, one not at
all, one comes and goes, one asks for figures. At the end it is interrupted. What must hold:

- memory, threads, files, processes and the 99th percentile of latency stay flat: their slopes are printed with standard
  errors (``benchmarks/flatness.py``), the beginning left out;
- each frame is counted exactly once: ``frames in == answered + replaced + corrupt``, and line by line in the events;
- every file is valid, no line of the events is lost where another file of them begins, and there are never more
  recordings and snapshots than were to be kept, nor more on the disk than these can be;
- the process is gone within two seconds, with exit code 130.

Run: python -m benchmarks.soak --minutes 60 --out benchmarks/results/soak.json
(exit code 1 if anything of that does not hold)
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from benchmarks import report
from benchmarks.faulty_camera import FaultyCamera
from benchmarks.flatness import BLOCKS, Usage, slope, usage
from benchmarks.soak_files import EVENTS, Found, Held, check_files, held
from benchmarks.web_clients import Visitors

__all__ = ["Soak", "soak"]

ROOT = Path(__file__).resolve().parent.parent
VISITORS = ("watching", "crawling", "hanging", "flapping", "asking")
KEEP_CHUNKS, CHUNK_S = 3, 10
MOST_SNAPSHOTS = 20
EVENTS_MB = 4
WARM_UP = 0.25
"""This part of the run is left out of the slopes: caches fill, and libraries make their threads."""
START_TIMEOUT_S = 300.0
MOST_UNSEEN = 50
"""So many frames may have come after the last one that is in the events: two seconds, in which the run ends."""
ENDS_WITHIN_S = 2.0

ALLOWED: dict[str, tuple[float, float]] = {
    "memory_mib": (8.0, 24.0),
    "threads": (0.5, 1.0),
    "files": (0.5, 6.0),
    "children": (0.0, 0.0),
    "first_p99_ms": (10.0, 20.0),
    "final_p99_ms": (10.0, 40.0),
}
"""What counts as flat: so much may be gained each hour, and so much once, as things settle; where the 95 % interval of
the slope reaches down to that. A leak of a megabyte for each lost connection would gain 1,200 MiB an hour."""


@dataclass(slots=True)
class Soak:
    """What was seen of a run."""

    minutes: float
    times_s: list[float] = field(default_factory=list)
    usage: list[Usage] = field(default_factory=list)
    disk: Held = field(default_factory=Held)
    """What recordings and snapshots have taken at most."""
    latency: list[tuple[float, float, float]] = field(default_factory=list)
    """Time in seconds, first and final latency in milliseconds of each answer."""
    exit_code: int | None = None
    ended_s: float = 0.0
    """How long the process took to end."""
    said: str = ""
    """What it printed."""
    troubles: dict[str, int] = field(default_factory=dict)
    reconnects: int = 0
    """How many lost connections the metrics have counted, just before the end."""
    visits: int = 0
    visited_mib: float = 0.0
    files: Found = field(default_factory=Found)

    @property
    def counts(self) -> dict[str, int]:
        """Where the frames went, as the run's last words say it."""
        names = ("frames in", "answered", "replaced", "corrupt")
        found = {name: re.search(rf"{name}\s+(\d+)", self.said) for name in names}
        return {name: int(match[1]) for name, match in found.items() if match is not None}

    def series(self) -> dict[str, tuple[list[float], list[float]]]:
        """Times and values of everything that must stay flat, without the beginning."""
        begin = int(len(self.times_s) * WARM_UP)
        times_s = self.times_s[begin:]
        found: dict[str, tuple[list[float], list[float]]] = {
            name: (times_s, [float(getattr(u, name)) for u in self.usage[begin:]])
            for name in ("memory_mib", "threads", "files", "children")
        }
        late = self.latency[int(len(self.latency) * WARM_UP) :]
        parts = np.array_split(np.array(late).reshape(-1, 3), 3 * BLOCKS)
        parts = [part for part in parts if len(part)]
        for column, name in ((1, "first_p99_ms"), (2, "final_p99_ms")):
            p99 = [float(np.percentile(part[:, column], 99)) for part in parts]
            found[name] = ([float(part[:, 0].mean()) for part in parts], p99)
        return found

    def problems(self) -> list[str]:
        """What does not hold, in words; none where all is well."""
        wrong = [*self.files.problems, *self.disk.beyond(keep_chunks=KEEP_CHUNKS, most_snapshots=MOST_SNAPSHOTS)]
        counts = self.counts
        if len(counts) < 4:
            wrong.append("the run has not said at its end where the frames went")
        elif counts["frames in"] != counts["answered"] + counts["replaced"] + counts["corrupt"]:
            wrong.append(f"frames do not add up: {counts}")
        elif self.files.answered != counts["answered"]:
            wrong.append(f"{counts['answered']} frames were answered, {self.files.answered} are in the events")
        elif not 0 <= counts["frames in"] - self.files.accounted <= MOST_UNSEEN:
            wrong.append(f"the events account for {self.files.accounted} frames of {counts['frames in']}")
        lost = self.files.lost_connections
        if not 0 <= lost - self.reconnects <= 1:
            wrong.append(f"the metrics count {self.reconnects} lost connections, the events {lost}")
        if self.exit_code != 130 or self.ended_s > ENDS_WITHIN_S:
            wrong.append(f"interrupted, it ended after {self.ended_s:.2f} s with exit code {self.exit_code}")
        wrong += [
            f"it said: {line}" for line in self.said.splitlines() if re.search(r"Traceback| lost \d+ frames", line)
        ]
        for name, (times_s, values) in self.series().items():
            if len(values) < 2 * BLOCKS:
                wrong.append(f"{name}: too few samples to say anything")
                continue
            found = slope(times_s, values)
            per_hour, once = ALLOWED[name]
            if not found.is_flat(per_hour=per_hour, once=once):
                wrong.append(
                    f"{name} is not flat: {found.per_hour:.4g} ± {found.error:.2g} an hour, from {found.first:.4g} to "
                    f"{found.last:.4g}"
                )
        return wrong

    def results(self) -> dict[str, Any]:
        """For the report."""
        counts, problems = self.counts, self.problems()
        slopes = {name: slope(*taken).rounded() for name, taken in self.series().items() if len(taken[1]) >= 2 * BLOCKS}
        return {
            "minutes": self.minutes,
            "frames": counts,
            "lost_connections": self.files.lost_connections,
            "troubles": self.troubles,
            "visits": self.visits,
            "visited_mib": round(self.visited_mib, 1),
            "ended_s": round(self.ended_s, 3),
            "exit_code": self.exit_code,
            "files": self.files.report(),
            "disk_at_most": {name: round(value, 2) for name, value in asdict(self.disk).items()},
            "per_hour": slopes,
            "memory_mib_over_time": [round(float(part.mean()), 1) for part in self._memory_parts()],
            "allowed": {name: {"per_hour": a, "once": b} for name, (a, b) in ALLOWED.items()},
            "problems": problems,
            "rows": self._rows(counts),
        }

    def _memory_parts(self) -> list[np.ndarray]:
        """Memory in as many stretches as a slope is made from, the beginning included."""
        return np.array_split(np.array([u.memory_mib for u in self.usage]), BLOCKS)

    def _rows(self, counts: dict[str, int]) -> list[dict[str, Any]]:
        uncounted = counts.get("frames in", 0) - sum(counts.get(n, 0) for n in ("answered", "replaced", "corrupt"))
        memory = slope(*self.series()["memory_mib"])
        files = self.files
        return [
            {
                "tried": f"{self.minutes:g} minutes from a failing camera, all outputs, five visitors",
                "times": counts.get("frames in", 0),
                "lost": abs(uncounted),
                "note": f"frames over {files.lost_connections} lost connections, each counted once; "
                f"memory {memory.per_hour:+.1f} ± {memory.error:.1f} MiB an hour",
            },
            {
                "tried": "files of that run, at its end",
                "times": files.recordings + files.snapshots + files.clips + 1,
                "lost": len(files.problems),
                "note": f"events of {files.answered} frames, {files.recordings} recordings, {files.snapshots} "
                f"snapshots, {files.clips} clips: opened and decoded",
            },
        ]


def soak(
    minutes: float,
    folder: Path,
    *,
    seed: int = 0,
    weights: str = "imagenet",
    fps: float = 25,
    options: Sequence[str] = (),
) -> Soak:
    """Run it.

    Args:
        minutes: How long.
        folder: Where the run writes; should be empty.
        seed: Where chance begins, for the camera and the visitors.
        weights: What ``--weights`` gets.
        fps: The camera's rate.
        options: More options of ``stream-ann live``.

    Raises:
        RuntimeError: If the run does not begin, or ends by itself.
    """
    seen = Soak(minutes)
    log = folder / "said.txt"
    with FaultyCamera(fps=fps, seed=seed) as camera, log.open("wb") as said:
        command = [sys.executable, "-m", "cli", "live", camera.url, "--weights", weights, "--view", "web"]
        command += [
            "--web-port",
            "0",
            "--metrics-port",
            "0",
            "--events",
            str(folder / EVENTS),
            "--events-mb",
            str(EVENTS_MB),
        ]
        command += ["--record", str(folder / "video.mp4"), "--record-chunk-s", str(CHUNK_S)]
        command += ["--record-keep", str(KEEP_CHUNKS), "--snapshot", str(folder / "snapshots")]
        command += ["--snapshot-before-s", "2", "--snapshot-after-s", "2", "--snapshot-max", str(MOST_SNAPSHOTS)]
        command += ["--connect-timeout-s", "2", "--read-timeout-s", "2", *options]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, env={**os.environ, "COLUMNS": "200"}
        )
        try:
            page, metrics = _ports(process, log)
            with Visitors(page, VISITORS, seed=seed, metrics_port=metrics) as visitors:
                _look(seen, process, folder, minutes * 60)
                counted = re.search(rb"^stream_ann_reconnects_total\{.*\} ([\d.]+)", visitors.whole("/metrics"), re.M)
                seen.reconnects = 0 if counted is None else round(float(counted[1]))
                begun_s = time.monotonic()
                process.send_signal(signal.SIGINT)
                seen.exit_code = process.wait(30)
                seen.ended_s = time.monotonic() - begun_s
            seen.visits, seen.visited_mib = visitors.visits, visitors.bytes / 2**20
        finally:
            process.kill()
            process.wait()
        seen.troubles = camera.times
    seen.said = log.read_text()
    seen.files = check_files(folder, keep_chunks=KEEP_CHUNKS, most_snapshots=MOST_SNAPSHOTS)
    return seen


def _ports(process: subprocess.Popen[bytes], log: Path) -> tuple[int, int]:
    """Where the page and the metrics are, once the run has said so."""
    until_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until_s and process.poll() is None:
        found = [re.search(rf"{what}: http://127\.0\.0\.1:(\d+)/", log.read_text()) for what in ("web page", "metrics")]
        if found[0] is not None and found[1] is not None:
            return int(found[0][1]), int(found[1][1])
        time.sleep(0.1)
    raise RuntimeError(f"the run does not begin: {log.read_text()[-500:]}")


def _look(seen: Soak, process: subprocess.Popen[bytes], folder: Path, seconds: float) -> None:
    """Sample the process until the time is up, and follow what it writes."""
    every_s = min(5.0, seconds / (6 * BLOCKS))
    begun_s = time.monotonic()
    with _Follower(folder / EVENTS) as follower:
        while (at_s := time.monotonic() - begun_s) < seconds:
            if process.poll() is not None:
                raise RuntimeError(f"the run ended by itself after {at_s:.0f} s with exit code {process.returncode}")
            seen.times_s.append(at_s)
            seen.usage.append(usage(process.pid))
            seen.disk = seen.disk.or_more(held(folder))
            for line in follower.lines():
                event = json.loads(line)
                if "frame" in event:
                    seen.latency.append((at_s, event["first_ms"], event["final_ms"]))
            time.sleep(every_s)


class _Follower:
    """Reads what is added to a file, as ``tail -F`` does: where another one has come under its name, that one next."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def lines(self) -> list[bytes]:
        """The whole lines that have come since the last call."""
        data = self._rest
        if self._file is None and self._path.exists():
            self._file = self._path.open("rb")
        while self._file is not None:
            data += self._file.read()
            if not self._path.exists() or self._path.stat().st_ino == os.fstat(self._file.fileno()).st_ino:
                break
            data += self._file.read()  # what came until it was given another name
            self._file.close()
            self._file = self._path.open("rb")
        *lines, self._rest = data.split(b"\n")
        return lines


def main() -> None:
    """Parse the command line, measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--fps", type=float, default=25.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the run writes, to be kept; by default a temporary one")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as kept:
        folder = args.folder or Path(kept)
        folder.mkdir(parents=True, exist_ok=True)
        seen = soak(args.minutes, folder, seed=args.seed, weights=args.weights, fps=args.fps)
    results = seen.results()
    print(seen.said)
    for name, found in results["per_hour"].items():
        print(f"{name}: {found['per_hour']:+.4g} ± {found['error']:.2g} an hour, {found['first']} to {found['last']}")
    for row in results["rows"]:
        print(f"{row['tried']}: {row['times']}, lost {row['lost']}; {row['note']}")
    if args.out is not None:
        report.write(args.out, "soak", results, {**vars(args), "data": "the demo clip"})
    for problem in results["problems"]:
        print(f"NOT AS IT MUST BE: {problem}")
    sys.exit(1 if results["problems"] else 0)


if __name__ == "__main__":
    main()
