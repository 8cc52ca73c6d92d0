"""The figures of one run: accuracy, latency, depth, and where the time went."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_ann.frames import FrameResult
from stream_ann.nets.contract import Plan
from stream_ann.streaming.accuracy import Mean, Shown, last_shown, mean_of, moments, streaming_correct

__all__ = ["Latencies", "RunFigures", "RunLog", "figures_of", "in_time"]


@dataclass(frozen=True, slots=True, eq=False)
class RunLog:
    """All that happened in a run."""

    arrivals_s: NDArray[np.float64]
    """When each frame arrived, float64 [N], in seconds."""
    truths: tuple[frozenset[int], ...]
    """For each frame the classes that count as right."""
    scenes: NDArray[np.intp]
    """For each frame the scene that it shows, intp [N]."""
    shown: tuple[Shown, ...]
    """The answers in the order in which they came up."""
    results: tuple[FrameResult, ...]
    """The results in the order in which they came."""
    spans: tuple[tuple[int, float, float], ...]
    """What the engine did when: (step, or -1 for taking in a frame; beginning; end), in seconds."""
    waits_s: tuple[float, ...] = ()
    """When the scheduler began to wait for something, in seconds; empty where nobody noted it."""


@dataclass(frozen=True, slots=True)
class Latencies:
    """Percentiles of a time, in milliseconds."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float

    def as_dict(self) -> dict[str, float]:
        """Plain JSON values, to the microsecond."""
        return {name: round(getattr(self, name), 3) for name in ("p50_ms", "p90_ms", "p99_ms", "max_ms")}


@dataclass(frozen=True, slots=True)
class RunFigures:
    """What a run comes to."""

    frames: int
    """Frames that arrived."""
    answered: int
    """Frames that were taken and so have an answer."""
    replaced: int
    """Frames that were never looked at."""
    missed: float
    """Share of the frames that had no answer of their own before the next one arrived, 0 to 1."""
    accuracy: Mean
    """Streaming accuracy at eta = -1: at the end of each frame's own interval."""
    accuracy_at_arrival: Mean
    """Streaming accuracy at eta = 0: at each frame's arrival."""
    oracle: Mean
    """Accuracy at eta = -1 if of the answers that the frame shown had by then the right one were picked, if any is."""
    final_accuracy: Mean
    """How often the last answer about a frame is right for that frame, over the answered ones."""
    lag_ms: float
    """How old the frame is that the answer shown is about, at the end of each frame's interval, on average."""
    lag_frames: float
    """The same in frames: 0 where each frame's own answer is there."""
    first: Latencies
    """From arrival to the first answer."""
    final: Latencies
    """From arrival to the last answer."""
    exit_shares: tuple[float, ...]
    """Share of the answered frames whose deepest answer is from each exit."""
    mean_exit: float
    """Mean of that exit, counted from 1."""
    macs: float
    """Multiply-accumulates spent on an answered frame, on average."""
    cost: float
    """The same as a share of the whole plan's."""
    busy: float
    """Share of the time that the engine worked."""
    wait_ms: float
    """A frame's mean time from arrival until the engine takes it in."""
    start_ms: float
    """Mean time to take it in."""
    step_ms: tuple[float, ...]
    """Mean time that each step takes of a frame's; a step that did not run counts as 0."""
    between_ms: float
    """Mean time between steps: readout, policy, bookkeeping."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, rounded to what they are good for."""
        return {
            "frames": self.frames,
            "answered": self.answered,
            "replaced": self.replaced,
            "missed": round(self.missed, 5),
            "accuracy": self.accuracy.as_dict(),
            "accuracy_eta_0": self.accuracy_at_arrival.as_dict(),
            "oracle": self.oracle.as_dict(),
            "final_accuracy": self.final_accuracy.as_dict(),
            "lag_ms": round(self.lag_ms, 3),
            "lag_frames": round(self.lag_frames, 3),
            "first": self.first.as_dict(),
            "final": self.final.as_dict(),
            "exit_shares": [round(share, 5) for share in self.exit_shares],
            "mean_exit": round(self.mean_exit, 4),
            "mmacs": round(self.macs / 1e6, 2),
            "cost": round(self.cost, 5),
            "busy": round(self.busy, 4),
            "wait_ms": round(self.wait_ms, 3),
            "start_ms": round(self.start_ms, 3),
            "step_ms": [round(ms, 3) for ms in self.step_ms],
            "between_ms": round(self.between_ms, 3),
        }


def figures_of(log: RunLog, plan: Plan) -> RunFigures:
    """What a run comes to.

    Args:
        log: All that happened in it. Frames are numbered as they arrived.
        plan: The plan that was run.

    Raises:
        ValueError: If there are no frames or no results.
    """
    if not log.results:
        raise ValueError("a run without results has no figures")
    frames = len(log.arrivals_s)
    ends_s = moments(log.arrivals_s, -1)
    right = streaming_correct(log.shown, log.arrivals_s, log.truths, eta=-1)
    at_arrival = streaming_correct(log.shown, log.arrivals_s, log.truths, eta=0)
    rows = last_shown(log.shown, ends_s)
    about = np.array([log.shown[row].frame if row >= 0 else -1 for row in rows.tolist()])
    seen = about >= 0
    number = np.arange(frames)
    lag_ms = 1e3 * float((ends_s[seen] - log.arrivals_s[about[seen]]).mean()) if seen.any() else 0.0
    lag_frames = float(np.maximum(number - about, 0)[seen].mean()) if seen.any() else 0.0

    answered = np.array([result.frame.index for result in log.results])
    final_right = [r.class_id in log.truths[r.frame.index] for r in log.results]
    deepest = np.array([max(e.exit for e in r.exits) for r in log.results])
    macs = [step.macs for step in plan.steps]
    spent = float(np.mean([sum(macs[e.exit] for e in r.exits) for r in log.results]))
    shares = np.bincount(deepest, minlength=len(plan)) / len(deepest)
    times = _times_of(log, len(plan))
    span_s = max(ends_s[-1], log.spans[-1][2] if log.spans else 0.0) - log.arrivals_s[0]
    return RunFigures(
        frames=frames,
        answered=len(log.results),
        replaced=frames - len(log.results),
        missed=float((~in_time(log)).mean()),
        accuracy=mean_of(right, log.scenes),
        accuracy_at_arrival=mean_of(at_arrival, log.scenes),
        oracle=mean_of(_oracle(log, rows, ends_s), log.scenes),
        final_accuracy=mean_of(np.array(final_right), log.scenes[answered]),
        lag_ms=lag_ms,
        lag_frames=lag_frames,
        first=_latencies([r.first_ms for r in log.results]),
        final=_latencies([r.final_ms for r in log.results]),
        exit_shares=tuple(shares.tolist()),
        mean_exit=float(deepest.mean()) + 1,
        macs=spent,
        cost=spent / max(1, sum(macs)),
        busy=min(1.0, sum(end - begin for _, begin, end in log.spans) / span_s),
        wait_ms=times[0],
        start_ms=times[1],
        step_ms=tuple(times[2:-1]),
        between_ms=times[-1],
    )


def in_time(log: RunLog) -> NDArray[np.bool_]:
    """Whether each frame had an answer of its own when the next one arrived, bool [N]."""
    first_s = np.full(len(log.arrivals_s), np.inf)
    for result in log.results:
        first_s[result.frame.index] = result.frame.arrival_s + result.first_ms / 1e3
    return np.asarray(first_s <= moments(log.arrivals_s, -1), dtype=np.bool_)


def _oracle(log: RunLog, rows: NDArray[np.intp], ends_s: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether any of the answers about the frame shown is right for the frame that is scored."""
    of_frame: dict[int, list[Shown]] = {}
    for answer in log.shown:
        of_frame.setdefault(answer.frame, []).append(answer)
    found = []
    for row, end_s, truth in zip(rows.tolist(), ends_s.tolist(), log.truths, strict=True):
        there = [a for a in of_frame[log.shown[row].frame] if a.time_s <= end_s] if row >= 0 else []
        found.append(any(answer.class_id in truth for answer in there))
    return np.array(found, dtype=np.bool_)


def _times_of(log: RunLog, steps: int) -> list[float]:
    """Of an answered frame's mean time in milliseconds: waiting, taking in, each step, between the steps."""
    spent_s = np.zeros(steps + 3)
    begun_s = sorted(begin for step, begin, _ in log.spans if step == -1)
    for result in log.results:  # taken in at the first chance: what was taken in later was a key frame, or another's
        arrival_s = result.frame.arrival_s
        place = bisect_left(begun_s, arrival_s - 1e-9)
        spent_s[0] += max(0.0, begun_s[place] - arrival_s) if place < len(begun_s) else 0.0
    for step, begin_s, end_s in log.spans:
        spent_s[1 if step == -1 else 2 + step] += end_s - begin_s
    whole_s = sum(r.final_ms for r in log.results) / 1e3
    spent_s[-1] = max(0.0, whole_s - spent_s[:-1].sum())
    return [float(ms) for ms in 1e3 * spent_s / len(log.results)]


def _latencies(values_ms: Sequence[float]) -> Latencies:
    return Latencies(*(float(q) for q in np.percentile(values_ms, [50, 90, 99, 100])))
