"""An engine on a fake clock: answers that were computed before, in the time that steps were measured to take."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_ann.clock import FakeClock
from stream_ann.errors import UsageError
from stream_ann.nets.contract import Plan

__all__ = ["BETWEEN", "QUANTILES", "AnswerTable", "Recording", "SimulatedEngine", "TimeTable"]

BETWEEN = -2
"""What stands in a recording for the time between two steps."""
QUANTILES = 21
"""So many evenly spaced quantiles describe how long something takes, the shortest and the longest among them."""


@dataclass(frozen=True, slots=True)
class TimeTable:
    """How long the work on a frame takes, as distributions: each a list of evenly spaced quantiles in seconds."""

    start_s: tuple[float, ...]
    """Taking in a frame."""
    steps_s: tuple[tuple[float, ...], ...]
    """Each step, its share of the preprocessing included."""
    between_s: tuple[float, ...]
    """Between a step's end and the next step's beginning: readout, policy, bookkeeping."""

    def __post_init__(self) -> None:
        for quantiles in (self.start_s, *self.steps_s, self.between_s):
            good = len(quantiles) > 0 and all(math.isfinite(q) and q >= 0 for q in quantiles)
            if not good or list(quantiles) != sorted(quantiles):
                raise UsageError("step times must be rising quantiles in seconds, 0 or more", "measure them again")

    @classmethod
    def measured(
        cls, start_s: Sequence[float], steps_s: Sequence[Sequence[float]], between_s: Sequence[float]
    ) -> TimeTable:
        """The table of measurements, each in any order."""
        return cls(_quantiles(start_s), tuple(_quantiles(step) for step in steps_s), _quantiles(between_s))

    @classmethod
    def constant(cls, steps_s: Sequence[float]) -> TimeTable:
        """Steps that always take the same time, and nothing else that takes any."""
        return cls((0.0,), tuple((float(step),) for step in steps_s), (0.0,))

    @property
    def medians_s(self) -> tuple[float, ...]:
        """Median time of each step, in seconds."""
        return tuple(step[len(step) // 2] for step in self.steps_s)

    def at_speed(self, speed: float) -> TimeTable:
        """The same on a machine that is so many times as fast."""
        scaled = [tuple(q / speed for q in step) for step in (self.start_s, *self.steps_s, self.between_s)]
        return TimeTable(scaled[0], tuple(scaled[1:-1]), scaled[-1])

    def alone(self, steps: Sequence[int]) -> TimeTable:
        """These steps as a network of one step, which takes as long as they do together.

        What is slow at some moment is slow for all of them, so that quantiles add up.
        """
        length = max(len(self.steps_s[step]) for step in steps)
        places = np.linspace(0, 1, length)
        each = [np.interp(places, np.linspace(0, 1, len(q)), q) for q in (self.steps_s[step] for step in steps)]
        return TimeTable(self.start_s, (tuple(np.sum(each, axis=0).tolist()),), self.between_s)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values, in milliseconds to the tenth of a microsecond."""
        return {
            "start_ms": _ms(self.start_s),
            "steps_ms": [_ms(step) for step in self.steps_s],
            "between_ms": _ms(self.between_s),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TimeTable:
        """What :meth:`as_dict` gave.

        Raises:
            UsageError: If it is something else.
        """
        try:
            steps = tuple(_seconds(step) for step in values["steps_ms"])
            return cls(_seconds(values["start_ms"]), steps, _seconds(values["between_ms"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UsageError("step times are not as 'stream-ann bench' writes them", "measure them again") from error


def _quantiles(values_s: Sequence[float]) -> tuple[float, ...]:
    """Rounded as in JSON, so that a table that was written and read again is the same."""
    quantiles = np.quantile(np.asarray(values_s, dtype=np.float64), np.linspace(0, 1, QUANTILES))
    return _seconds(_ms(quantiles.tolist()))


def _ms(seconds: Sequence[float]) -> list[float]:
    return [round(1e3 * s, 4) for s in seconds]


def _seconds(milliseconds: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(ms) / 1e3 for ms in milliseconds)


class Recording:
    """How long everything took in a run, and when: what happens at some time takes as long as it took about then.

    Unlike draws from a distribution this keeps what hangs together: a machine that was slow for a while.

    Args:
        spans: What ran when: (step, or -1 for taking in a frame, or -2 for the time between two of them; beginning;
            end), in seconds from the beginning of the run, in order.
        arrivals_s: When the frames came, float64 [N], in seconds from the beginning of the run.
    """

    def __init__(self, spans: Iterable[tuple[int, float, float]], arrivals_s: NDArray[np.float64]) -> None:
        self.arrivals_s = arrivals_s
        """When the frames came, float64 [N], in seconds."""
        self._begun_s: dict[int, list[float]] = {}
        self._took_s: dict[int, list[float]] = {}
        for kind, begin_s, end_s in spans:
            self._begun_s.setdefault(kind, []).append(begin_s)
            self._took_s.setdefault(kind, []).append(end_s - begin_s)

    def took_s(self, kind: int, time_s: float) -> float | None:
        """How long it took about then, in seconds; None where it never happened."""
        begun_s = self._begun_s.get(kind)
        if begun_s is None:
            return None
        after = bisect_left(begun_s, time_s)
        nearest = min(range(max(0, after - 1), min(len(begun_s), after + 1)), key=lambda i: abs(begun_s[i] - time_s))
        return self._took_s[kind][nearest]


@dataclass(frozen=True, slots=True, eq=False)
class AnswerTable:
    """What each exit says about each picture."""

    probabilities: NDArray[np.float32]
    """float32 [pictures, exits, classes]."""
    images: tuple[NDArray[np.uint8], ...]
    """What stands for each picture in a simulation: a small copy, uint8 [h, w, 3], an array of its own for each."""

    def only(self, exits: Sequence[int]) -> AnswerTable:
        """The table of a network with these exits alone."""
        return AnswerTable(self.probabilities[:, list(exits)], self.images)


class SimulatedEngine:
    """Runs a plan on paper: every call moves the clock on by a time drawn from those measured, one after another.

    Args:
        plan: The plan.
        answers: What each exit says about each picture. Frames must carry its very images.
        times: How long everything takes.
        clock: The clock, which slot and scheduler share.
        lanes: How many frames it holds at once.
        seed: Seed of the draws.
        recording: What times are taken from before they are drawn.
    """

    concurrent = False

    def __init__(
        self,
        plan: Plan,
        answers: AnswerTable,
        times: TimeTable,
        clock: FakeClock,
        *,
        lanes: int = 1,
        seed: int | Sequence[int] = 0,
        recording: Recording | None = None,
    ) -> None:
        exits = answers.probabilities.shape[1]
        if not len(plan) == exits == len(times.steps_s):
            raise ValueError(f"a plan of {len(plan)} steps, answers of {exits} exits, {len(times.steps_s)} step times")
        self._plan = plan
        self._answers = answers
        self._numbers = {id(image): number for number, image in enumerate(answers.images)}
        self._times = times
        self._recording = recording
        self._clock = clock
        self._random = np.random.default_rng(seed)
        self.lanes = lanes
        """How many frames may be in the works at once."""
        self._pictures = [-1] * lanes
        self._last_steps: list[int | None] = [None] * lanes
        self.spans: list[tuple[int, float, float]] = []
        """What ran when: (step, or -1 for taking in a frame; beginning; end), in seconds of the clock."""

    @property
    def plan(self) -> Plan:
        """The steps that it runs."""
        return self._plan

    @property
    def step_s(self) -> Sequence[float]:
        """Median time of each step, in seconds."""
        return self._times.medians_s

    def start(self, image: NDArray[np.uint8], *, lane: int = 0) -> None:
        """Take in a new picture, one of the answer table's."""
        self._pictures[lane] = self._numbers[id(image)]
        self._last_steps[lane] = None
        self._spend(-1, self._times.start_s)

    def run(self, step: int, *, lane: int = 0) -> NDArray[np.float32]:
        """Run one step: probabilities float32 [classes]."""
        last = self._last_steps[lane]
        if not self._plan.steps[step].first and last != step - 1:
            raise ValueError(f"step {step} needs the state of step {step - 1}, the last one run was {last}")
        self._last_steps[lane] = step
        self._spend(step, self._times.steps_s[step])
        return np.asarray(self._answers.probabilities[self._pictures[lane], step])

    def between(self) -> None:
        """Let the time pass that lies between two steps."""
        self._clock.advance(self._time_s(BETWEEN, self._times.between_s))

    def close(self) -> None:
        """Nothing is held."""

    def _spend(self, step: int, quantiles_s: Sequence[float]) -> None:
        begun_s = self._clock.now_s()
        self._clock.advance(self._time_s(step, quantiles_s))
        self.spans.append((step, begun_s, self._clock.now_s()))

    def _time_s(self, kind: int, quantiles_s: Sequence[float]) -> float:
        recorded_s = None if self._recording is None else self._recording.took_s(kind, self._clock.now_s())
        return self._draw(quantiles_s) if recorded_s is None else recorded_s

    def _draw(self, quantiles_s: Sequence[float]) -> float:
        """A time whose distribution has these quantiles: the inverse of the distribution at a random share."""
        if len(quantiles_s) == 1:
            return quantiles_s[0]
        place = float(self._random.random()) * (len(quantiles_s) - 1)
        low = int(place)
        return quantiles_s[low] + (place - low) * (quantiles_s[min(low + 1, len(quantiles_s) - 1)] - quantiles_s[low])
