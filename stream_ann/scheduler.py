"""The scheduler: refine each frame exit by exit until its time is up, then hand out one result for it.

Pure logic over an engine, a slot and a clock, so that the very same code runs on a camera, on a fake clock in the
tests, and in simulations.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stream_ann.clock import Clock
from stream_ann.errors import UsageError
from stream_ann.frames import Ended, ExitAnswer, Frame, FrameResult, Prediction
from stream_ann.nets.contract import Plan
from stream_ann.readout import Latest, Readout

__all__ = [
    "Confident",
    "Deadline",
    "Engine",
    "FrameSlot",
    "Moment",
    "Partial",
    "Policy",
    "Scheduler",
    "StepTimes",
    "UntilNextFrame",
]

POLL_S = 0.1
"""How long one wait for a frame lasts at most, in seconds: the bound on how late a stop is noticed."""


class Engine(Protocol):
    """Runs a plan step by step on a device. A frame is abandoned by starting the next one."""

    @property
    def plan(self) -> Plan:
        """The steps that it runs."""
        ...

    @property
    def step_s(self) -> Sequence[float]:
        """Time of each step as measured when the engine was opened, in seconds."""
        ...

    def start(self, image: NDArray[np.uint8]) -> None:
        """Take in a new picture, uint8 [H, W, 3] RGB, and forget the one before."""
        ...

    def run(self, step: int) -> NDArray[np.float32]:
        """Run one step and wait for its exit's probabilities, float32 [classes]; the caller owns the array.

        Either the first step of a member, or the step after the one that ran last.
        """
        ...


class FrameSlot(Protocol):
    """Where frames wait, at most one at a time."""

    @property
    def ended(self) -> bool:
        """Whether no frame will ever come again."""
        ...

    @property
    def next_arrival_s(self) -> float | None:
        """Arrival of the first frame since the last one taken, though others may have replaced it; None without one."""
        ...

    def take(self, timeout_s: float) -> tuple[Frame, int] | None:
        """The next frame and how many were replaced since the last one taken; None when the time is up."""
        ...

    def newer_waiting(self) -> bool:
        """Whether a newer frame wants the engine."""
        ...


@dataclass(frozen=True, slots=True)
class Moment:
    """What a policy may look at between two steps."""

    now_s: float
    """Monotonic time, in seconds."""
    arrival_s: float
    """Monotonic time at which the frame arrived, in seconds."""
    next_step_s: float
    """How long the next step will take in all likelihood (95th percentile of its latest runs), in seconds."""
    newer_waiting: bool
    """Whether a newer frame waits."""
    confidence: float
    """Probability of the answer so far, 0 to 1."""


class Policy(ABC):
    """Decides after each step whether the next one runs. ``a & b`` goes on only while both would."""

    @abstractmethod
    def verdict(self, moment: Moment) -> Ended | None:
        """None to go on, else why the frame's refinement ends here."""

    @property
    def deadline_s(self) -> float | None:
        """The fixed time that a frame has from its arrival, in seconds, or None where there is none."""
        return None

    def __and__(self, other: Policy) -> Policy:
        return _Both(self, other)


class _Both(Policy):
    def __init__(self, one: Policy, other: Policy) -> None:
        self._one, self._other = one, other

    def verdict(self, moment: Moment) -> Ended | None:
        return self._one.verdict(moment) or self._other.verdict(moment)

    @property
    def deadline_s(self) -> float | None:
        known = [d for d in (self._one.deadline_s, self._other.deadline_s) if d is not None]
        return min(known, default=None)


class UntilNextFrame(Policy):
    """Refine until a newer frame waits."""

    def verdict(self, moment: Moment) -> Ended | None:
        """``"newer-frame"`` as soon as one waits."""
        return "newer-frame" if moment.newer_waiting else None


class Deadline(Policy):
    """Refine as long as the next step can be done within a fixed time from the frame's arrival.

    Args:
        deadline_ms: That time, in milliseconds.

    Raises:
        UsageError: If it is not positive.
    """

    def __init__(self, deadline_ms: float) -> None:
        if not deadline_ms > 0:
            raise UsageError(f"the deadline must be more than 0 ms, got {deadline_ms:g}")
        self._deadline_s = deadline_ms / 1e3

    def verdict(self, moment: Moment) -> Ended | None:
        """``"deadline"`` when the next step would in all likelihood end too late."""
        end_s = moment.now_s + moment.next_step_s
        return "deadline" if end_s > moment.arrival_s + self._deadline_s else None

    @property
    def deadline_s(self) -> float | None:
        """The deadline, in seconds from arrival."""
        return self._deadline_s


class Confident(Policy):
    """Refine until the answer is sure enough.

    Args:
        confidence: The probability that is enough, above 0 and up to 1.

    Raises:
        UsageError: If it is outside that range.
    """

    def __init__(self, confidence: float) -> None:
        if not 0 < confidence <= 1:
            raise UsageError(f"the confidence must be above 0 and at most 1, got {confidence:g}")
        self._confidence = confidence

    def verdict(self, moment: Moment) -> Ended | None:
        """``"confident"`` once the answer's probability has reached the threshold."""
        return "confident" if moment.confidence >= self._confidence else None


class StepTimes:
    """Running estimate of how long each step takes.

    Args:
        initial_s: First guess for each step, in seconds; replaced by measurements as they come.
        window: How many of the latest runs of a step count.
    """

    def __init__(self, initial_s: Sequence[float], *, window: int = 64) -> None:
        self._initial_s = tuple(initial_s)
        self._runs_s: list[deque[float]] = [deque(maxlen=window) for _ in initial_s]

    def add(self, step: int, seconds: float) -> None:
        """Take in one more run of a step."""
        self._runs_s[step].append(seconds)

    def p95_s(self, step: int) -> float:
        """95th percentile (nearest rank) over the latest runs, in seconds."""
        runs = sorted(self._runs_s[step])
        if not runs:
            return self._initial_s[step]
        return runs[min(len(runs) - 1, int(0.95 * len(runs)))]


@dataclass(frozen=True, slots=True)
class Partial:
    """How far the present frame has come, for views that show it while it happens."""

    frame: Frame
    label: str
    confidence: float
    exits: tuple[ExitAnswer, ...]


class Scheduler:
    """Takes frames from a slot and refines each until its policy ends it.

    The first step of a frame always runs, so that every frame taken has an answer; from then on the policy decides
    before each step. Runs in the thread that iterates over :meth:`results`.

    Args:
        engine: Runs the steps.
        slot: Gives the frames.
        clock: Tells the time; the one that stamped the frames' arrivals.
        classes: Name of each class.
        policy: When to stop refining a frame.
        readout: Which answer the exits reached give together.
        top_k: How many classes a result lists.
    """

    def __init__(
        self,
        engine: Engine,
        slot: FrameSlot,
        clock: Clock,
        *,
        classes: Sequence[str],
        policy: Policy | None = None,
        readout: Readout | None = None,
        top_k: int = 5,
    ) -> None:
        if len(classes) != engine.plan.classes:
            raise ValueError(f"the plan answers with {engine.plan.classes} classes, got {len(classes)} names")
        self._engine = engine
        self._slot = slot
        self._clock = clock
        self._classes = classes
        self._policy = policy if policy is not None else UntilNextFrame()
        self._readout = readout if readout is not None else Latest()
        self._top_k = top_k
        self._stop = threading.Event()
        self.step_times = StepTimes(engine.step_s)
        """Running time of each step."""
        self.partial: Partial | None = None
        """The present frame's answer so far; replaced as a whole, so that other threads can read it at any time."""

    def stop(self) -> None:
        """End the results: the present frame is handed out with the exits that it has. Safe from any thread."""
        self._stop.set()

    def results(self) -> Iterator[FrameResult]:
        """One result for each frame taken, until the slot has ended or :meth:`stop` was called.

        Raises:
            SourceError: What ended the source, after the last frame's result.
            DeviceError: If the device failed.
        """
        while not self._stop.is_set():
            taken = self._slot.take(POLL_S)
            if taken is not None:
                yield self._refine(*taken)
            elif self._slot.ended:
                return

    def _refine(self, frame: Frame, replaced_before: int) -> FrameResult:
        engine, clock = self._engine, self._clock
        predictions: list[Prediction] = []
        exits: tuple[ExitAnswer, ...] = ()
        answer: Prediction | None = None
        ended: Ended = "complete"
        engine.start(frame.image)
        for step in range(len(engine.plan)):
            verdict = self._verdict(frame, step, answer) if answer is not None else None
            if verdict is not None:
                ended = verdict
                break
            begun_s = clock.now_s()
            probabilities = engine.run(step)
            done_s = clock.now_s()
            self.step_times.add(step, done_s - begun_s)
            prediction = Prediction(step, probabilities, done_s)
            predictions.append(prediction)
            answer = self._readout.answer(predictions)
            done_ms = (done_s - frame.arrival_s) * 1e3
            exits += (ExitAnswer(step, prediction.class_id, prediction.confidence, done_ms),)
            self.partial = Partial(frame, self._classes[answer.class_id], answer.confidence, exits)
        assert answer is not None  # the first step always runs, and a plan has at least one
        return FrameResult(
            frame=frame,
            label=self._classes[answer.class_id],
            class_id=answer.class_id,
            confidence=answer.confidence,
            top=tuple((self._classes[c], p) for c, p in answer.top(self._top_k)),
            exit=answer.exit,
            exits=exits,
            budget_ms=self._budget_ms(frame, ended),
            replaced_before=replaced_before,
            ended=ended,
        )

    def _verdict(self, frame: Frame, step: int, answer: Prediction) -> Ended | None:
        if self._stop.is_set():
            return "stopped"
        return self._policy.verdict(
            Moment(
                now_s=self._clock.now_s(),
                arrival_s=frame.arrival_s,
                next_step_s=self.step_times.p95_s(step),
                newer_waiting=self._slot.newer_waiting(),
                confidence=answer.confidence,
            )
        )

    def _budget_ms(self, frame: Frame, ended: Ended) -> float | None:
        """The deadline, or the gap to the newer frame that ended this one, whichever is shorter."""
        known = [] if self._policy.deadline_s is None else [self._policy.deadline_s]
        newer_s = self._slot.next_arrival_s if ended == "newer-frame" else None
        if newer_s is not None:
            known.append(newer_s - frame.arrival_s)
        return min(known) * 1e3 if known else None
