"""Labelling one unit: its frames go through the plan in batches, and leave when they are sure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.labelling.feed import Decoding, Fed, Feed
from pipelines.labelling.inputs import Video
from pipelines.labelling.work import Block, Event, PieceEnd, Unit
from stream_ann.batching import Allowance, InOrder, Pace, Stations, Together
from stream_ann.engines import BatchEngine
from stream_ann.frames import Prediction
from stream_ann.readout import Readout

__all__ = ["Depth", "UnitWorker"]

BLOCK_FRAMES = 64
"""How many answers are handed on at once."""

LOOK_PX = 64
"""About how wide a picture is that only serves to notice cuts."""

Group = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Depth:
    """How far frames are refined."""

    thresholds: tuple[float, ...]
    """Of each exit: an answer at least this probable is final. Infinite for an exit that ends no frame."""
    last: int
    """The deepest exit that is used."""


@dataclass(slots=True, eq=False)
class _Frame:
    """A frame on its way through the plan."""

    number: int
    video: int
    index: int
    pts_s: float | None
    image: NDArray[np.uint8]
    predictions: list[Prediction] = field(default_factory=list)
    said: list[tuple[int, float]] = field(default_factory=list)
    answer: Prediction | None = None
    look: NDArray[np.uint8] | None = None


class UnitWorker:
    """Labels units with one engine.

    Args:
        engine: The engine.
        videos: All videos of the job.
        decoding: How frames become squares.
        depth: How far frames are refined.
        readout: Which answer the exits reached give together.
        group: Turns the plan's probabilities into those of the classes asked for.
        batch: Frames that run together.
        pace: How long a frame may take now.
        looks: Whether somebody looks at the frames for cuts.
        lock: Held while the engine is used, where several workers share it.
    """

    def __init__(
        self,
        engine: BatchEngine,
        videos: Sequence[Video],
        decoding: Decoding,
        depth: Depth,
        readout: Readout,
        group: Group,
        *,
        batch: int,
        pace: Pace,
        looks: bool = False,
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        self._engine = engine
        self._steps = engine.plan.steps
        self._videos = videos
        self._decoding = decoding
        self._depth = depth
        self._readout = readout
        self._group = group
        self._batch = batch
        self._pace = pace
        self._looks = looks
        self._lock = nullcontext() if lock is None else lock
        self._firsts = [i for i, step in enumerate(self._steps) if step.first]

    def run(self, unit: Unit, stop: threading.Event) -> Iterator[Event]:
        """Label a unit; gives the answers in the order of the frames, and the end of each piece behind its last frame.

        Ends early, without the rest, when ``stop`` is set.
        """
        stations: Stations[_Frame] = Stations(len(self._firsts), self._batch)
        order: InOrder[_Frame | PieceEnd] = InOrder()
        steps = range(self._depth.last + 1)
        most_s = sum(self._engine.step_s(step, self._batch) for step in steps)
        allowance = Allowance(self._pace, most_s)
        ready: list[_Frame] = []
        number = 0

        def release(given: int, item: _Frame | PieceEnd) -> Iterator[Event]:
            for done in order.put(given, item):
                if isinstance(done, PieceEnd):
                    yield from self._blocks(ready)
                    yield done
                    continue
                if ready and ready[-1].video != done.video:
                    yield from self._blocks(ready)
                ready.append(done)
                if len(ready) >= BLOCK_FRAMES:
                    yield from self._blocks(ready)

        def work(together: Together[_Frame] | None) -> Iterator[Event]:
            if together is not None:
                for frame in self._run(together, stations, allowance):
                    yield from release(frame.number, frame)

        with Feed(unit, self._videos, self._decoding, stop) as feed:
            for item in feed:
                if isinstance(item, PieceEnd):
                    yield from release(number, item)
                else:
                    stations.add(_begin(number, item, self._looks))
                    while (together := stations.full()) is not None and not stop.is_set():
                        yield from work(together)
                number += 1
        while (together := stations.rest()) is not None and not stop.is_set():
            yield from work(together)

    def _run(self, together: Together[_Frame], stations: Stations[_Frame], allowance: Allowance) -> list[_Frame]:
        """Run a batch through its member; gives the frames that leave, and queues those that go on to the next."""
        frames, left = list(together.items), []
        first = self._firsts[together.station]
        if first == 0:
            allowance.came(len(frames))
        with self._lock:
            batch = self._engine.open(np.stack([frame.image for frame in frames]))
        for step in range(first, len(self._steps)):
            with self._lock:
                probabilities = self._engine.run(step, batch)
            sure = self._answers(step, frames, probabilities)
            allowance.spent(self._engine.step_s(step, len(frames)))
            going = self._going(step, sure, allowance)
            staying = set(going.tolist())
            left += [_done(frame) for i, frame in enumerate(frames) if i not in staying]
            frames = [frames[i] for i in going]
            if not frames:
                break
            if self._steps[step + 1].first:
                stations.go_on(together.station + 1, frames)
                break
            with self._lock:
                batch = self._engine.keep(batch, going)
        return left

    def _answers(self, step: int, frames: Sequence[_Frame], probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
        """Note what an exit said of each frame; gives how sure the readout's answers are, float64 [B]."""
        grouped = self._group(probabilities)
        classes = grouped.argmax(axis=1).tolist()
        highest = grouped.max(axis=1).tolist()
        sure = np.empty(len(frames))
        for i, frame in enumerate(frames):
            # a copy, lest one row keep the whole batch's alive
            frame.predictions.append(Prediction(step, grouped[i].copy(), 0.0))
            frame.said.append((classes[i], highest[i]))
            frame.answer = self._readout.answer(frame.predictions)
            sure[i] = frame.answer.confidence
        return sure

    def _going(self, step: int, sure: NDArray[np.float64], allowance: Allowance) -> NDArray[np.intp]:
        """Which frames go on to the next step, as rising numbers: the least sure ones where not all can."""
        if step >= self._depth.last:
            return np.empty(0, dtype=np.intp)
        going = np.flatnonzero(~(sure >= self._depth.thresholds[step]))
        if len(going):
            each_s = self._engine.step_s(step + 1, self._batch) / self._batch
            room = allowance.affordable(len(going), each_s)
            if room < len(going):
                going = np.sort(going[np.argsort(sure[going], kind="stable")[:room]])
        return going

    def _blocks(self, ready: list[_Frame]) -> Iterator[Block]:
        if not ready:
            return
        exits = len(self._steps)
        class_ids = np.full((len(ready), exits), -1, dtype=np.int32)
        confidences = np.zeros((len(ready), exits), dtype=np.float32)
        for row, frame in enumerate(ready):
            for step, (class_id, confidence) in enumerate(frame.said):
                class_ids[row, step], confidences[row, step] = class_id, confidence
        answers = [frame.answer for frame in ready if frame.answer is not None]
        yield Block(
            video=ready[0].video,
            index=np.array([frame.index for frame in ready], dtype=np.int64),
            pts_s=np.array([np.nan if f.pts_s is None else f.pts_s for f in ready], dtype=np.float64),
            answer=np.stack([answer.probabilities for answer in answers]),
            exit=np.array([answer.exit for answer in answers], dtype=np.int32),
            class_ids=class_ids,
            confidences=confidences,
            looks=np.stack([frame.look for frame in ready if frame.look is not None]) if self._looks else None,
        )
        ready.clear()


def _begin(number: int, fed: Fed, look: bool) -> _Frame:
    frame = _Frame(number, fed.video, fed.square.index, fed.square.pts_s, fed.square.image)
    if look:
        step = max(1, len(frame.image) // LOOK_PX)
        frame.look = frame.image[::step, ::step].copy()
    return frame


def _done(frame: _Frame) -> _Frame:
    """A frame that leaves: its picture and what its exits said in full are needed no more."""
    frame.predictions = []
    frame.image = _NOTHING
    return frame


_NOTHING = np.empty((0, 0, 3), dtype=np.uint8)
