"""A labelling job: units come back from the workers, are named, written, committed, and handed on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from pipelines.labelling.ledger import Ledger, VideoReport
from pipelines.labelling.outputs import Outputs
from pipelines.labelling.pacing import Outlook, Pacing
from pipelines.labelling.settings import Settings
from pipelines.labelling.work import Block, Event, PieceEnd, Unit
from stream_ann.card import Card
from stream_ann.clock import Clock
from stream_ann.errors import SourceError
from stream_ann.frames import Frame, Prediction
from stream_ann.labelled import LabelledFrame, StepAnswer
from stream_ann.labels import Labelling

__all__ = ["Executor", "LabelRun", "LabelStatus"]

_NOTHING = np.zeros((1, 1, 3), dtype=np.uint8)
USUAL_FRAME_S = 0.04


class Executor(Protocol):
    """Labels units somewhere."""

    def start(self) -> None:
        """Begin."""
        ...

    def results(self) -> Iterator[tuple[Unit, Iterator[Event]]]:
        """Each unit in order with its events; all of them are taken before the next unit. Ends early when stopped."""
        ...

    def stop(self) -> None:
        """Ask to end. Safe to call from any thread and from a signal handler."""
        ...

    def close(self) -> None:
        """End, within bounds."""
        ...


@dataclass(frozen=True, slots=True)
class LabelStatus:
    """How far a job is, or how it ended."""

    videos: tuple[VideoReport, ...]
    """What has become of each video."""
    left_at: tuple[int, ...]
    """How many frames left at each exit, those of earlier runs of the job included."""
    new_frames: int
    """Frames that were labelled in this run."""
    expected_frames: float | None
    """About how many frames there are in all; None while that is not known."""
    elapsed_s: float
    """How long this run has taken."""
    complete: bool
    """Whether every video is finished."""

    @property
    def frames(self) -> int:
        """Frames that have labels, those of earlier runs of the job included."""
        return sum(self.left_at)

    @property
    def damaged(self) -> int:
        """Frames that could not be decoded."""
        return sum(video.damaged for video in self.videos)

    @property
    def done(self) -> int:
        """Videos that are finished, for better or worse."""
        return sum(video.done for video in self.videos)

    @property
    def failed(self) -> tuple[VideoReport, ...]:
        """Videos that could not be read to their end."""
        return tuple(video for video in self.videos if video.error is not None)

    @property
    def frames_per_s(self) -> float:
        """Frames a second, in this run."""
        return self.new_frames / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def mean_exit(self) -> float | None:
        """Number of the exit at which frames left, on average; None before the first one."""
        return sum(i * n for i, n in enumerate(self.left_at)) / self.frames if self.frames else None

    @property
    def left_s(self) -> float | None:
        """About how long the rest will take, in seconds; None while that is not known."""
        if self.expected_frames is None or self.frames_per_s <= 0:
            return None
        return max(0.0, self.expected_frames - self.frames) / self.frames_per_s

    def as_json(self, exit_names: Sequence[str]) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "complete": self.complete,
            "videos": [
                {"source": v.name, "frames": v.frames, "damaged": v.damaged, "done": v.done, "error": v.error}
                for v in self.videos
            ],
            "done": self.done,
            "failed": len(self.failed),
            "frames": self.frames,
            "damaged": self.damaged,
            "new_frames": self.new_frames,
            "elapsed_s": round(self.elapsed_s, 3),
            "frames_per_s": round(self.frames_per_s, 3),
            "mean_exit": None if self.mean_exit is None else round(self.mean_exit, 4),
            "left_at": dict(zip(exit_names, self.left_at, strict=True)),
        }


class LabelRun(Iterator[LabelledFrame]):
    """A labelling job: iterate over it for the label of each frame, in order. Made by :func:`pipelines.label`.

    Frames are labelled ahead of the iteration, by a bounded number. Leaving the loop through ``close()``, a ``with``
    block or the end of the iterator's life stops all threads. What was written and committed by then stays, and a later
    run with ``resume`` goes on from there.
    """

    def __init__(
        self,
        settings: Settings,
        card: Card,
        ledger: Ledger,
        executor: Executor,
        *,
        outputs: Outputs | None,
        pacing: Pacing,
        outlook: Outlook,
        clock: Clock,
        stopped: threading.Event,
        strict: bool,
        on_warning: Callable[[str], None] | None,
    ) -> None:
        self.exit_names: tuple[str, ...] = tuple(step.name for step in card.steps)
        """Name of each exit."""
        self._settings = settings
        self._labelling: Labelling = settings.labelling(card)
        self._ledger = ledger
        self._executor = executor
        self._outputs = outputs
        self._pacing = pacing
        self._outlook = outlook
        self._clock = clock
        self._strict = strict
        self._on_warning = on_warning
        self._begun_s = clock.now_s()
        self._ended_s: float | None = None
        self._new = 0
        self._stopped = stopped
        self._closed = False
        self._frames = self._work()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> LabelledFrame:
        if self._closed:
            raise StopIteration
        try:
            return next(self._frames)
        except BaseException:  # the end, an error, Ctrl-C: in each case nothing may be left running
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_frames"):
            self.close()

    def status(self) -> LabelStatus:
        """How far the job is. Safe to call from any thread."""
        now_s = self._clock.now_s() if self._ended_s is None else self._ended_s
        return LabelStatus(
            videos=tuple(self._ledger.reports),
            left_at=tuple(self._ledger.left_at),
            new_frames=self._new,
            expected_frames=self._outlook.total(),
            elapsed_s=now_s - self._begun_s,
            complete=self._ledger.complete,
        )

    def stop(self) -> None:
        """Ask the job to end soon. Safe to call from any thread and from a signal handler."""
        self._stopped.set()
        self._executor.stop()

    def close(self) -> None:
        """Stop all threads and let go of all files. May be called more than once."""
        if self._closed:
            return
        self._closed = True
        self.stop()
        self._executor.close()
        self._outlook.close()
        if self._outputs is not None:
            self._outputs.close()
        self._ledger.close()
        self._ended_s = self._clock.now_s()

    def _work(self) -> Iterator[LabelledFrame]:
        outputs, ledger = self._outputs, self._ledger
        if outputs is not None:
            outputs.publish()
        if self._stopped.is_set():
            return
        if not ledger.complete:
            self._outlook.start()
            self._executor.start()
            for unit, events in self._executor.results():
                failure: str | None = None
                for event in events:
                    if isinstance(event, PieceEnd):
                        failure = self._ended(event) or failure
                        continue
                    frames = self._settle(event)
                    if outputs is not None:
                        outputs.add(event.video, frames)
                    ledger.labelled(event.video, ((event.class_ids >= 0).sum(axis=1) - 1).tolist())
                    self._new += len(frames)
                    self._pacing.done(len(frames))
                    yield from frames
                if self._stopped.is_set():
                    return
                self._commit(unit)
                if self._stopped.is_set():
                    return
                if failure is not None and self._strict:
                    raise SourceError(failure)
            if self._stopped.is_set():
                return
        if outputs is not None and not ledger.complete:
            outputs.finish()
        ledger.finish()
        if outputs is not None:
            outputs.tidy()

    def _settle(self, block: Block) -> list[LabelledFrame]:
        """The labels of a block's frames."""
        names, source = self._labelling.names, self._ledger.videos[block.video].name
        found = []
        for row in range(len(block.index)):
            index, pts = int(block.index[row]), float(block.pts_s[row])
            pts_s = None if np.isnan(pts) else pts
            image = _NOTHING if block.looks is None else block.looks[row]
            arrival_s = index * USUAL_FRAME_S if pts_s is None else pts_s
            frame = Frame(image, source, index, pts_s, arrival_s)
            answer = Prediction(int(block.exit[row]), block.answer[row], arrival_s)
            settled = self._labelling.settle(frame, answer, final=True)
            reached = np.flatnonzero(block.class_ids[row] >= 0).tolist()
            found.append(
                LabelledFrame(
                    source=source,
                    index=index,
                    pts_s=pts_s,
                    label=settled.label,
                    class_id=settled.answer.class_id,
                    confidence=settled.confidence,
                    top=tuple((names[c], p) for c, p in settled.answer.top(self._settings.top_k)),
                    exit=settled.answer.exit,
                    exits=tuple(
                        StepAnswer(e, int(block.class_ids[row, e]), float(block.confidences[row, e])) for e in reached
                    ),
                )
            )
        return found

    def _ended(self, end: PieceEnd) -> str | None:
        """Note the end of a piece; gives what was wrong with it."""
        number, video = end.piece.video, self._ledger.videos[end.piece.video]
        self._ledger.ended(number, damaged=end.damaged, error=end.error, last=end.piece.last)
        wanted = max(1, end.piece.span.frames or end.decoded)
        self._pacing.decoded(wanted, end.decode_s)
        if end.error is not None and self._on_warning is not None:
            self._on_warning(f"{end.error} ({self._ledger.reports[number].frames} frames of it have labels)")
        elif end.damaged and self._on_warning is not None:
            self._on_warning(f"{end.damaged} frames of '{video.name}' are damaged")
        if end.piece.last:
            self._outlook.counted(number, self._ledger.reports[number].frames)
            if self._outputs is not None:
                self._outputs.end(number)
        return end.error

    def _commit(self, unit: Unit) -> None:
        if self._outputs is None:
            return
        if self._settings.remembers and unit.next[1] != 0:
            return  # in the middle of a video, what is remembered of its earlier frames would be lost
        self._ledger.commit(unit.number, unit.next, self._outputs.commit())
        self._outputs.publish()
