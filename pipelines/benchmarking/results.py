"""The results of a benchmark: plain data, with what follows from it."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.benchmarking.contenders import Kind
from stream_ann.errors import SourceNotFoundError, UsageError
from stream_ann.streaming import Mean, RunFigures, TimeTable, mean_of, mean_of_means, paired_ratio, ratios_to_best
from stream_ann.text import plain_json, safe_cell

__all__ = ["Agreement", "BenchReport", "ClockName", "Entry", "Headline", "Overall", "Usage", "read_times"]

FORMAT = 1
ClockName = Literal["real", "simulated", "replayed"]
"""``"simulated"`` by the times that the report tells, ``"replayed"`` by those of the very run in real time."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run in real time took of the machine."""

    cpu_cores: float
    """Processor time of this process over wall time, in cores."""
    other_cores: float | None
    """Processor time of everything else on the machine over wall time, in cores; None where nothing tells."""
    gpu: float | None
    """Share of the time in which the GPU worked, 0 to 1; None where nothing tells."""
    joules_per_frame: float | None
    """Energy of processors and GPUs over the frames that arrived, everything else on the machine included."""
    camera_late_ms: float
    """99th percentile of how late the camera's thread put a frame in, in milliseconds."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        joules = self.joules_per_frame
        return {
            "cpu_cores": round(self.cpu_cores, 3),
            "other_cores": None if self.other_cores is None else round(self.other_cores, 3),
            "gpu": None if self.gpu is None else round(self.gpu, 3),
            "joules_per_frame": None if joules is None else round(joules, 4),
            "camera_late_ms": round(self.camera_late_ms, 3),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One contender at one frame rate by one clock."""

    fps: float
    """Frames a second."""
    contender: str
    """Its name."""
    kind: Kind
    """What it is."""
    exit_names: tuple[str, ...]
    """Name of each of its exits."""
    clock: ClockName
    """Which clock."""
    figures: RunFigures
    """What came of it."""
    usage: Usage | None
    """What it took of the machine; None on paper."""
    right: NDArray[np.bool_]
    """For each frame, whether it counts as right at eta = -1, bool [N]."""
    scenes: NDArray[np.intp]
    """The scene of each frame, intp [N]."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "fps": self.fps,
            "contender": self.contender,
            "kind": self.kind,
            "clock": self.clock,
            "exits": list(self.exit_names),
            **self.figures.as_dict(),
            "usage": None if self.usage is None else self.usage.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class Headline:
    """The anytime network against the fixed network that turned out best at a frame rate."""

    fps: float
    clock: ClockName
    contender: str
    best: str
    """The fixed network of the highest streaming accuracy at this rate, picked in hindsight."""
    ours: float
    theirs: float
    ratio: Mean
    """Ratio of the two streaming accuracies at eta = -1, and its standard error by bootstrap over the same scenes."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "fps": self.fps,
            "clock": self.clock,
            "contender": self.contender,
            "best_fixed": self.best,
            "accuracy": round(self.ours, 5),
            "best_fixed_accuracy": round(self.theirs, 5),
            "ratio": round(self.ratio.value, 4) if np.isfinite(self.ratio.value) else None,
            "error": None if self.ratio.error is None else round(self.ratio.error, 4),
        }


@dataclass(frozen=True, slots=True)
class Overall:
    """The anytime network against the best fixed network over all rates."""

    clock: ClockName
    contender: str
    mean: Mean
    """Mean over the rates of the ratio to the fixed network that is best at that rate; its standard error by bootstrap
    over scenes, in each draw of which the best one is picked anew."""
    least: Mean
    """The least of these ratios, likewise. It is the least of noisy figures, and so too low on average."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "clock": self.clock,
            "contender": self.contender,
            "ratio_mean": self.mean.as_dict(),
            "ratio_least": self.least.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the simulated clock is from the real one, in streaming accuracy at eta = -1 on the same frames."""

    fps: float
    contender: str
    real: float
    """By the real clock."""
    simulated: float
    """On paper, by the times that the report tells."""
    difference: Mean
    """Simulated less real, and its standard error over the same scenes."""
    replayed: float
    """On paper, by the times that the steps took in the very run: what is left is not the machine's drift."""

    @property
    def points(self) -> float:
        """Simulated less real, in percentage points."""
        return 100 * self.difference.value

    @property
    def replayed_points(self) -> float:
        """Replayed less real, in percentage points."""
        return 100 * (self.replayed - self.real)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        error = self.difference.error
        return {
            "fps": self.fps,
            "contender": self.contender,
            "real": round(self.real, 5),
            "simulated": round(self.simulated, 5),
            "points": round(self.points, 2),
            "error": None if error is None else round(100 * error, 2),
            "replayed": round(self.replayed, 5),
            "replayed_points": round(self.replayed_points, 2),
        }


@dataclass(frozen=True, slots=True, eq=False)
class BenchReport:
    """All that a benchmark found."""

    about: dict[str, Any]
    """Command, seed, weights, machine, versions, stream, as plain JSON values."""
    times: dict[str, TimeTable]
    """How long the work on a frame takes, of each network by name."""
    entries: tuple[Entry, ...]
    """Every run."""
    warnings: tuple[str, ...] = ()
    """What makes the figures doubtful, a line each."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further figures as plain JSON values: latency of single frames, streams at an interval, advice."""

    @property
    def rates(self) -> tuple[float, ...]:
        """The frame rates, rising."""
        return tuple(sorted({entry.fps for entry in self.entries}))

    @property
    def contenders(self) -> tuple[str, ...]:
        """Names of all contenders, in the order in which they ran."""
        return tuple(dict.fromkeys(entry.contender for entry in self.entries))

    @property
    def main_clock(self) -> ClockName:
        """The real clock where there is a run by it."""
        return "real" if any(entry.clock == "real" for entry in self.entries) else "simulated"

    def of(self, *, contender: str, clock: ClockName) -> list[Entry]:
        """The runs of a contender by a clock, by rising rate."""
        found = [e for e in self.entries if e.contender == contender and e.clock == clock]
        return sorted(found, key=lambda e: e.fps)

    @property
    def headlines(self) -> tuple[Headline, ...]:
        """Each anytime contender against the best fixed network at each rate, by each clock."""
        lines = []
        for entry in self.entries:
            if entry.kind != "anytime":
                continue
            fixed = [e for e in self.entries if e.kind == "fixed" and e.fps == entry.fps and e.clock == entry.clock]
            if not fixed:
                continue
            best = max(fixed, key=lambda e: e.figures.accuracy.value)
            lines.append(
                Headline(
                    fps=entry.fps,
                    clock=entry.clock,
                    contender=entry.contender,
                    best=best.contender,
                    ours=entry.figures.accuracy.value,
                    theirs=best.figures.accuracy.value,
                    ratio=_ratio(entry, best),
                )
            )
        return tuple(lines)

    @property
    def overall(self) -> tuple[Overall, ...]:
        """Each anytime contender against the best fixed networks over all rates, by each clock."""
        found = []
        ours = {(e.clock, e.contender): None for e in self.entries if e.kind == "anytime"}
        for clock, contender in ours:
            mine = self.of(contender=contender, clock=clock)
            fixed = [[e for e in self.entries if (e.kind, e.fps, e.clock) == ("fixed", m.fps, clock)] for m in mine]
            if not all(fixed):
                continue
            counts = [min(len(e.right) for e in (m, *rivals)) for m, rivals in zip(mine, fixed, strict=True)]
            ratios = ratios_to_best(
                [m.right[:n] for m, n in zip(mine, counts, strict=True)],
                [[e.right[:n] for e in rivals] for rivals, n in zip(fixed, counts, strict=True)],
                [m.scenes[:n] for m, n in zip(mine, counts, strict=True)],
            )
            if ratios is not None:
                found.append(Overall(clock, contender, *ratios))
        return tuple(found)

    @property
    def mean_agreement(self) -> Mean | None:
        """Simulated less real streaming accuracy, the mean over all runs by both clocks; None where there is none."""
        pairs = self._pairs()
        if not pairs:
            return None
        counts = [min(len(real.right), len(simulated.right)) for real, simulated, _ in pairs]
        differences = [
            simulated.right[:n].astype(float) - real.right[:n]
            for (real, simulated, _), n in zip(pairs, counts, strict=True)
        ]
        return mean_of_means(differences, [real.scenes[:n] for (real, _, _), n in zip(pairs, counts, strict=True)])

    def _pairs(self) -> list[tuple[Entry, Entry, Entry]]:
        """The runs by the real, the simulated and the replayed clock of the same contender at the same rate."""
        by_clock = {(e.fps, e.contender, e.clock): e for e in self.entries}
        found = []
        for real in self.entries:
            simulated, replayed = (by_clock.get((real.fps, real.contender, c)) for c in ("simulated", "replayed"))
            if real.clock == "real" and simulated is not None and replayed is not None:
                found.append((real, simulated, replayed))
        return found

    @property
    def agreements(self) -> tuple[Agreement, ...]:
        """Real against simulated clock, where a contender ran by both at a rate."""
        return tuple(
            Agreement(
                fps=real.fps,
                contender=real.contender,
                real=real.figures.accuracy.value,
                simulated=simulated.figures.accuracy.value,
                difference=_difference(simulated, real),
                replayed=replayed.figures.accuracy.value,
            )
            for real, simulated, replayed in self._pairs()
        )

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {
            "benchmark": "stream-ann bench",
            "format": FORMAT,
            **self.about,
            "headline": [line.as_dict() for line in self.headlines],
            "overall": [one.as_dict() for one in self.overall],
            "agreement": [one.as_dict() for one in self.agreements],
            "mean_agreement": None if (mean := self.mean_agreement) is None else mean.as_dict(),
            **self.more,
            "runs": [entry.as_dict() for entry in self.entries],
            "times": {name: table.as_dict() for name, table in self.times.items()},
            "warnings": list(self.warnings),
        }

    def to_json(self) -> str:
        """The same as JSON text, ending in a line break."""
        return plain_json(json.dumps(self.as_dict(), indent=1, ensure_ascii=False, allow_nan=False)) + "\n"

    def to_csv(self) -> str:
        """One line for each run, with a heading, as CSV text (RFC 4180, but lines end in LF)."""
        rows = [_flat(entry) for entry in self.entries]
        keys = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def read_times(path: str | os.PathLike[str]) -> dict[str, TimeTable]:
    """The step times of an earlier report, or a file with its ``times`` alone, by the name of the network.

    Raises:
        SourceNotFoundError: There is no such file.
        UsageError: It is no report of this benchmark.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if "times" not in content:  # what benchmarks.frame_rates writes holds several reports
            content = content["results"]["real"]
        times = content["times"].items()
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"there is no file '{file}'", "check the path") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"'{file}' is no report of 'stream-ann bench'"
        raise UsageError(what, "give a report.json that it has written") from error
    return {name: TimeTable.from_dict(table) for name, table in times}


def _ratio(ours: Entry, theirs: Entry) -> Mean:
    """Over the frames that both were shown; a run that was cut short has fewer."""
    count = min(len(ours.right), len(theirs.right))
    return paired_ratio(ours.right[:count], theirs.right[:count], ours.scenes[:count])


def _difference(one: Entry, other: Entry) -> Mean:
    """Over the frames that both were shown."""
    count = min(len(one.right), len(other.right))
    return mean_of(one.right[:count].astype(float) - other.right[:count], one.scenes[:count])


def _flat(entry: Entry) -> dict[str, Any]:
    """A run in one row: nested values by joined names, lists that differ in length from run to run left out."""
    row: dict[str, Any] = {}
    for key, value in entry.as_dict().items():
        if isinstance(value, dict):
            row |= {f"{key}_{inner}" if inner != "value" else key: one for inner, one in value.items()}
        elif isinstance(value, str):
            row[key] = safe_cell(value)
        elif not isinstance(value, Sequence):
            row[key] = value
    return row
