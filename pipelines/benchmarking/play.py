"""Playing a film to a contender: in real time with a thread for the camera, or on a fake clock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from stream_ann.clock import Clock, FakeClock, MonotonicClock
from stream_ann.frames import Frame, FrameResult, Prediction
from stream_ann.ingest import ScriptedInbox, ScriptedSlot, Slot
from stream_ann.labels import Plain, Settled
from stream_ann.lanes import LaneEngine
from stream_ann.nets.contract import Plan
from stream_ann.readout import Latest, Readout
from stream_ann.scheduler import Background, Engine, FrameSlot, InOrder, Path, Policy, Scheduler, UntilNextFrame, Waiter
from stream_ann.streaming import AnswerTable, Film, Recording, RunLog, Shown, SimulatedEngine, TimeTable

__all__ = ["Camera", "Manner", "WatchedEngine", "play", "run_queue", "simulate", "simulate_streams"]

SOURCE = "bench"
NAP_S = 0.1
"""How long the camera's thread sleeps at most before it looks whether it is to stop."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How frames are refined. By default in order until a newer frame waits, the newest exit being the answer."""

    path: Callable[[Plan], Path] = InOrder
    """Makes the path through a plan; called for each run, as a path may learn."""
    policy: Policy = field(default_factory=UntilNextFrame)
    """When to stop refining a frame."""
    readout: Readout = field(default_factory=Latest)
    """Which answer the exits give together."""
    background: Callable[[], Background] | None = None
    """Makes what refines key frames behind the frames that come; None: nothing does."""

    @property
    def lanes(self) -> int:
        """How many frames are in the works at once."""
        return 1 if self.background is None else 2


class WatchedEngine:
    """An engine that notes what it did when. Everything else is the engine's own."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine, self._clock = engine, clock
        self.spans: list[tuple[int, float, float]] = []
        """(step, or -1 for taking in a frame; beginning; end), in seconds of the clock."""

    @property
    def plan(self) -> Plan:
        """The steps that it runs."""
        return self._engine.plan

    @property
    def step_s(self) -> Sequence[float]:
        """Time of each step at opening, in seconds."""
        return self._engine.step_s

    def start(self, image: NDArray[np.uint8], *, lane: int = 0) -> None:
        """Take in a new picture."""
        begun_s = self._clock.now_s()
        if lane:
            cast(LaneEngine, self._engine).start(image, lane=lane)
        else:
            self._engine.start(image)
        self.spans.append((-1, begun_s, self._clock.now_s()))

    def run(self, step: int, *, lane: int = 0) -> NDArray[np.float32]:
        """Run one step."""
        begun_s = self._clock.now_s()
        probabilities = cast(LaneEngine, self._engine).run(step, lane=lane) if lane else self._engine.run(step)
        self.spans.append((step, begun_s, self._clock.now_s()))
        return probabilities

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


class _Watched(Plain):
    """A labelling that notes every answer, and lets the time between steps pass where the clock is a fake one."""

    def __init__(self, names: Sequence[str], clock: Clock, engine: WatchedEngine | SimulatedEngine) -> None:
        super().__init__(names)
        self._clock, self._engine = clock, engine
        self.shown: dict[str, list[Shown]] = {}
        """The answers about each source's frames, in the order in which they came up."""

    def settle(self, frame: Frame, answer: Prediction, *, final: bool) -> Settled:
        settled = super().settle(frame, answer, final=final)
        if not final:
            new = Shown(self._clock.now_s(), frame.index, answer.class_id, answer.exit)
            self.shown.setdefault(frame.source, []).append(new)
            if isinstance(self._engine, SimulatedEngine):
                self._engine.between()
        return settled


class Camera:
    """Puts preloaded frames into a slot at their times, from a thread of its own.

    Args:
        images: The frame of each arrival, uint8 [H, W, 3].
        arrivals_s: When each is due, float64 [N], in seconds from the start.
        slot: Where they go.
        clock: The clock.
    """

    def __init__(
        self, images: Sequence[NDArray[np.uint8]], arrivals_s: NDArray[np.float64], slot: Slot, clock: Clock
    ) -> None:
        self._images, self._due_s, self._slot, self._clock = images, arrivals_s, slot, clock
        self._stop = threading.Event()
        self.came_s: list[float] = []
        """When each frame really came."""
        self._thread = threading.Thread(target=self._run, name="stream-ann bench camera", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._begun_s = self._clock.now_s() + 0.05
        self._thread.start()

    def stop(self) -> None:
        """End, whatever is left, and wait for the thread."""
        self._stop.set()
        self._slot.close()
        self._thread.join(timeout=2.0)

    @property
    def late_s(self) -> list[float]:
        """How long after its time each frame came."""
        return [came - self._begun_s - due for came, due in zip(self.came_s, self._due_s.tolist(), strict=False)]

    def _run(self) -> None:
        try:
            for number, (image, due_s) in enumerate(zip(self._images, self._due_s.tolist(), strict=True)):
                while (left_s := self._begun_s + due_s - self._clock.now_s()) > 0:
                    if self._stop.wait(min(left_s, NAP_S)):
                        return
                self.came_s.append(self._clock.now_s())
                self._slot.put(image, source=SOURCE, index=number, pts_s=due_s)
        finally:
            self._slot.finish()


def play(
    engine: Engine,
    film: Film,
    images: Sequence[NDArray[np.uint8]],
    arrivals_s: NDArray[np.float64],
    *,
    classes: Sequence[str],
    manner: Manner,
) -> tuple[RunLog, list[float]]:
    """Play a film in real time.

    Args:
        engine: Runs the network; opened and warm.
        film: The film.
        images: Its pictures, preloaded.
        arrivals_s: When frames come, float64 [N], in seconds from the beginning.
        classes: Name of each class.
        manner: How frames are refined.

    Returns:
        What happened, and how late each frame was put in, in seconds.
    """
    clock = MonotonicClock()
    pictures = film.seen_at(arrivals_s)
    slot = Slot(clock)
    watched = WatchedEngine(engine, clock)
    waiter = _WatchedSlot(slot, clock)
    camera = Camera([images[i] for i in pictures.tolist()], arrivals_s, slot, clock)
    camera.start()
    try:
        results, shown = _drive(watched, slot, clock, classes, manner, waiter=waiter)
    finally:
        camera.stop()
    came_s = np.asarray(camera.came_s)
    log = _log(film, pictures, came_s, results, shown.get(SOURCE, ()), watched.spans)
    return replace(log, waits_s=tuple(waiter.waits_s)), camera.late_s


def simulate(
    plan: Plan,
    answers: AnswerTable,
    times: TimeTable,
    film: Film,
    arrivals_s: NDArray[np.float64],
    *,
    classes: Sequence[str],
    manner: Manner,
    seed: int | Sequence[int] = 0,
    recording: Recording | None = None,
) -> RunLog:
    """Play a film on a fake clock: the same scheduler, the same slot's rules, and answers and times from tables.

    Args:
        plan: The network's steps.
        answers: What each exit says about each picture of the film.
        times: How long the steps take.
        film: The film.
        arrivals_s: When frames come, float64 [N], in seconds from the beginning.
        classes: Name of each class.
        manner: How frames are refined.
        seed: Seed of the step times drawn.
        recording: A run whose times are taken as they came, in place of drawing them.
    """
    (log,) = simulate_streams(
        plan, answers, times, film, [(arrivals_s, 0.0)], classes=classes, manner=manner, seed=seed, recording=recording
    )
    return log


def simulate_streams(
    plan: Plan,
    answers: AnswerTable,
    times: TimeTable,
    film: Film,
    streams: Sequence[tuple[NDArray[np.float64], float]],
    *,
    classes: Sequence[str],
    manner: Manner,
    seed: int | Sequence[int] = 0,
    recording: Recording | None = None,
) -> list[RunLog]:
    """Play a film on a fake clock to several streams that share one engine, which runs one step at a time.

    Args:
        plan: The network's steps.
        answers: What each exit says about each picture of the film.
        times: How long the steps take.
        film: The film.
        streams: For each stream when its frames come, float64 [N], in seconds from the beginning, and where in the
            film it begins, in seconds.
        classes: Name of each class.
        manner: How frames are refined.
        seed: Seed of the step times drawn.
        recording: A run whose times are taken as they came, in place of drawing them.

    Returns:
        What happened to each stream; what the engine did is in all of them.
    """
    clock = FakeClock()
    slots, seen = [], []
    for place, (arrivals_s, begin_s) in enumerate(streams):
        pictures = film.seen_at(arrivals_s + begin_s)
        if recording is not None:  # a camera may be late, and what it saw was seen when it was due
            arrivals_s = recording.arrivals_s
        pairs = zip(pictures[: len(arrivals_s)].tolist(), arrivals_s.tolist(), strict=True)
        name = f"{SOURCE} {place}"
        frames = [Frame(answers.images[picture], name, n, at_s, at_s) for n, (picture, at_s) in enumerate(pairs)]
        slots.append(ScriptedSlot(frames, clock))
        seen.append((name, pictures, arrivals_s))
    lanes = max(len(streams), manner.lanes)
    engine = SimulatedEngine(plan, answers, times, clock, lanes=lanes, seed=seed, recording=recording)
    waiter = ScriptedInbox(slots, clock) if len(slots) > 1 else None
    results, shown = _drive(engine, slots, clock, classes, manner, waiter=waiter)
    by_source: dict[str, list[FrameResult]] = {}
    for result in results:
        by_source.setdefault(result.frame.source, []).append(result)
    return [
        _log(film, pictures, arrivals_s, by_source.get(name, ()), shown.get(name, ()), engine.spans)
        for name, pictures, arrivals_s in seen
    ]


def run_queue(
    engine: Engine, images: Sequence[NDArray[np.uint8]], *, classes: Sequence[str], frames: int
) -> list[tuple[int, float, float]]:
    """Run the whole plan on frames that wait for their turn; what the engine did when, as in :class:`RunLog`.

    Args:
        engine: Runs the network; opened and warm.
        images: Pictures, which follow each other again and again.
        classes: Name of each class.
        frames: On how many frames.
    """
    clock = MonotonicClock()
    watched = WatchedEngine(engine, clock)
    slot = _Queue([Frame(images[i % len(images)], SOURCE, i, None, 0.0) for i in range(frames)])
    _drive(watched, slot, clock, classes, Manner(path=InOrder))
    return watched.spans


class _WatchedSlot:
    """Waits for a slot, and notes when."""

    def __init__(self, slot: Slot, clock: Clock) -> None:
        self._slot, self._clock = slot, clock
        self.waits_s: list[float] = []
        """When each wait began, in seconds of the clock."""

    def wait(self, timeout_s: float) -> bool:
        self.waits_s.append(self._clock.now_s())
        return self._slot.wait(timeout_s)


class _Queue:
    """Frames that are all there and wait for their turn."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = list(reversed(frames))

    @property
    def ended(self) -> bool:
        return not self._frames

    @property
    def waiting(self) -> bool:
        return bool(self._frames)

    lossless = True
    next_arrival_s = None

    def wait(self, timeout_s: float) -> bool:
        return self.waiting

    def take(self, timeout_s: float) -> tuple[Frame, int] | None:
        return (self._frames.pop(), 0) if self._frames else None

    def newer_waiting(self) -> bool:
        return False


def _drive(
    engine: WatchedEngine | SimulatedEngine,
    slots: FrameSlot | Sequence[FrameSlot],
    clock: Clock,
    classes: Sequence[str],
    manner: Manner,
    *,
    waiter: Waiter | None = None,
) -> tuple[list[FrameResult], dict[str, list[Shown]]]:
    """The results, and by source what was shown."""
    watched = _Watched(classes, clock, engine)
    scheduler = Scheduler(
        engine,
        slots,
        clock,
        classes=classes,
        waiter=waiter,
        policy=manner.policy,
        path=manner.path(engine.plan),
        readout=manner.readout,
        labelling=watched,
        top_k=1,
        background=None if manner.background is None else manner.background(),
    )
    return list(scheduler.results()), watched.shown


def _log(
    film: Film,
    pictures: NDArray[np.intp],
    came_s: NDArray[np.float64],
    results: Sequence[FrameResult],
    shown: Sequence[Shown],
    spans: Sequence[tuple[int, float, float]],
) -> RunLog:
    seen = pictures[: len(came_s)].tolist()
    truths = tuple(film.truths[i] for i in seen)
    return RunLog(came_s, truths, film.scenes[seen], tuple(shown), tuple(results), tuple(spans))
