"""The scheduler: refine each frame exit by exit until its time is up, then hand out one result for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stream_ann.clock import Clock
from stream_ann.frames import Ended, ExitAnswer, Frame, FrameResult, Prediction
from stream_ann.labels import Labelling, Plain
from stream_ann.readout import Latest, Readout
from stream_ann.scheduler.arrivals import Arrivals
from stream_ann.scheduler.paths import Outlook, Path
from stream_ann.scheduler.planned import DEFAULT_PATH, path_named
from stream_ann.scheduler.policies import Moment, Policy, UntilNextFrame
from stream_ann.scheduler.protocols import Engine, FrameSlot
from stream_ann.scheduler.times import StepTimes

__all__ = ["Partial", "Scheduler"]

POLL_S = 0.1
"""How long one wait for a frame lasts at most, in seconds: the bound on how late a stop is noticed."""


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
        classes: Name of each class of the plan.
        policy: When to stop refining a frame.
        path: Which steps a frame goes through; by default :data:`~stream_ann.scheduler.planned.DEFAULT_PATH`.
        readout: Which answer the exits reached give together.
        labelling: What an answer is called; by default each class by its own name.
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
        path: Path | None = None,
        readout: Readout | None = None,
        labelling: Labelling | None = None,
        top_k: int = 5,
    ) -> None:
        if len(classes) != engine.plan.classes:
            raise ValueError(f"the plan answers with {engine.plan.classes} classes, got {len(classes)} names")
        self._engine = engine
        self._slot = slot
        self._clock = clock
        self._policy = policy if policy is not None else UntilNextFrame()
        self._path = path if path is not None else path_named(DEFAULT_PATH, engine.plan)
        self._labelling = labelling if labelling is not None else Plain(classes)
        self._readout = readout if readout is not None else Latest()
        self._top_k = top_k
        self._stop = threading.Event()
        self._arrivals = Arrivals()
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
        engine, clock, labelling = self._engine, self._clock, self._labelling
        predictions: list[Prediction] = []
        exits: tuple[ExitAnswer, ...] = ()
        answer: Prediction | None = None
        ended: Ended = "complete"
        engine.start(frame.image)
        while (step := self._next_step(frame, predictions)) is not None:
            verdict = self._verdict(frame, step, answer) if answer is not None else None
            if verdict is not None:
                ended = verdict
                break
            begun_s = clock.now_s()
            probabilities = engine.run(step)
            done_s = clock.now_s()
            self.step_times.add(step, done_s - begun_s)
            prediction = Prediction(step, labelling.group(probabilities), done_s)
            predictions.append(prediction)
            answer = self._readout.answer(predictions)
            done_ms = (done_s - frame.arrival_s) * 1e3
            exits += (ExitAnswer(step, prediction.class_id, prediction.confidence, done_ms),)
            settled = labelling.settle(frame, answer, final=False)
            self.partial = Partial(frame, settled.label, settled.confidence, exits)
        assert answer is not None  # the first step always runs, and a plan has at least one
        settled = labelling.settle(frame, answer, final=True)
        return FrameResult(
            frame=frame,
            label=settled.label,
            class_id=settled.answer.class_id,
            confidence=settled.confidence,
            top=tuple((labelling.names[c], p) for c, p in settled.answer.top(self._top_k)),
            exit=answer.exit,
            exits=exits,
            budget_ms=self._budget_ms(frame, ended),
            replaced_before=replaced_before,
            ended=ended,
        )

    def _next_step(self, frame: Frame, predictions: Sequence[Prediction]) -> int | None:
        outlook = Outlook(
            last=predictions[-1].exit if predictions else None,
            elapsed_s=self._clock.now_s() - frame.arrival_s,
            times=self.step_times,
            arrivals=self._arrivals,
            deadline_s=self._policy.deadline_s,
        )
        return self._path.choose(outlook).step

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
