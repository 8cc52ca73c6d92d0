"""What a scheduler knows of each source, and of the frame of it that is in the works."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from stream_ann.frames import ExitAnswer, Frame, Prediction
from stream_ann.scheduler.arrivals import Arrivals
from stream_ann.scheduler.memory import SceneMemory, SceneWatch
from stream_ann.scheduler.paths import Choice, Outlook, Path
from stream_ann.scheduler.protocols import FrameSlot
from stream_ann.scheduler.times import StepTimes

__all__ = ["Job", "Partial", "SourceWork"]

UNKNOWN_GAP_S = 0.1
"""The gap that is reckoned with where none is known, in seconds."""
GONE = 10.0
"""After so many gaps without a frame, no other is reckoned with."""


@dataclass(frozen=True, slots=True, eq=False)
class Partial:
    """How far the present frame has come, for views that show it while it happens."""

    frame: Frame
    label: str
    confidence: float
    exits: tuple[ExitAnswer, ...]
    answer: Prediction
    """The answer that the label was chosen by."""
    names: Sequence[str]
    """Name of each of its classes."""
    top_k: int
    """How many classes :attr:`top` lists."""
    carried: float = 0.0
    """Which part of the answer comes from earlier frames."""
    key_frame: int | None = None
    """The frame whose deep answer was joined to this one's."""

    @property
    def top(self) -> tuple[tuple[str, float], ...]:
        """The most probable classes by name, most probable first.

        Sorted when a view asks, some times a second, and not by the scheduler after every step.
        """
        return tuple((self.names[c], p) for c, p in self.answer.top(self.top_k))


@dataclass(slots=True, eq=False)
class Job:
    """A frame in the works. It has run its first step, or is just about to."""

    frame: Frame
    replaced_before: int
    lane: int
    last: int | None = None
    """The step that was done last in its lane."""
    predictions: list[Prediction] = field(default_factory=list)
    exits: tuple[ExitAnswer, ...] = ()
    answer: Prediction | None = None
    """The readout's answer so far; None before the first exit."""
    carried: float = 0.0
    """Which part of the answer comes from earlier frames."""
    key_frame: int | None = None
    """The frame whose deep answer was joined to this one's."""
    queue: deque[int] = field(default_factory=deque)
    """Steps that the engine has been given but whose answers are not there yet."""
    choice: Choice = field(default_factory=lambda: Choice(None))
    """What to do next."""


class SourceWork:
    """One source: its slot, the rhythm of its frames, their path, and the frame in the works.

    Args:
        slot: Where its frames wait.
        path: Which steps they go through; for this source alone.
    """

    def __init__(self, slot: FrameSlot, path: Path) -> None:
        self.slot = slot
        self.path = path
        # where all frames wait for their turn each has all the time that it needs, and what comes out must not depend
        # on how long that took
        wanted = None if slot.lossless else path.scenes
        self.memory = SceneMemory(path.accuracies) if wanted == "remembered" else None
        """What the frames of the scene have said; None where that is not remembered."""
        self.watch = SceneWatch() if wanted == "watched" else self.memory
        """Looks at the frames for cuts; None where the path does not go by scenes."""
        self.arrivals = Arrivals()
        self.job: Job | None = None
        self.partial: Partial | None = None
        self.over = False
        """Whether it will give no frame any more."""
        self.error: Exception | None = None
        """What ended it, if it did not end well."""
        self._served_s = 0.0

    def take(self, lane: int, now_s: float) -> Job | None:
        """Take the frame that waits into a lane; None where there is none after all.

        Args:
            lane: The lane.
            now_s: The time, in seconds.
        """
        first_s = self.slot.next_arrival_s
        try:
            taken = self.slot.take(0.0)
        except Exception as error:
            self.over, self.error = True, error
            return None
        if taken is None:
            return None
        frame, replaced = taken
        if not self.slot.lossless:
            self.arrivals.took(frame.arrival_s, replaced=replaced, first_s=first_s)
        self._served_s = now_s
        self.job = Job(frame, replaced, lane)
        return self.job

    def look(self, now_s: float) -> bool:
        """Whether a frame wants to be taken. Notes the end of the source, and what ended it."""
        if self.over or self.job is not None:
            return False
        if self.slot.waiting:
            return True
        if self.slot.ended:
            self.take(0, now_s)  # raises what ended the source, which is noted there
            self.over = self.job is None
        return False

    def urgency(self, now_s: float, deadline_s: float | None) -> tuple[bool, float]:
        """What the sources with a waiting frame are sorted by: the nearest due time first.

        Where there is no time for all, and some are overdue, those come first and in turn: whoever was served the
        longest time ago. So nobody waits for ever.

        Args:
            now_s: The time, in seconds.
            deadline_s: The fixed time that each frame has, in seconds; None where there is none.
        """
        due_s = self.due_s(deadline_s)
        return (False, self._served_s) if due_s <= now_s else (True, due_s)

    def due_s(self, deadline_s: float | None) -> float:
        """By when the source's waiting frame should have its first answer, in seconds of the clock.

        That is when the frame's successor is to be expected, or its deadline. It counts from the first frame since the
        last one taken, not from those that replaced it.
        """
        first_s = self.slot.next_arrival_s
        if first_s is None:
            return self._served_s + UNKNOWN_GAP_S
        return first_s + self._room_s(deadline_s)

    def expected(self, now_s: float, deadline_s: float | None) -> tuple[float, float] | None:
        """When the source's next frame is to be expected, and when it should have its first answer, in seconds.

        None where no frame is to be expected: none came for long, or all wait for their turn.
        """
        last_s, gap_s = self.arrivals.last_s, self.arrivals.mean_s
        if last_s is None or gap_s is None or now_s > last_s + GONE * gap_s or self.slot.ended:
            return None
        next_s = max(now_s, last_s + gap_s)
        return next_s, next_s + self._room_s(deadline_s)

    def _room_s(self, deadline_s: float | None) -> float:
        gap_s = self.arrivals.mean_s or UNKNOWN_GAP_S
        return gap_s if deadline_s is None else min(gap_s, deadline_s)

    def waited_s(self, now_s: float) -> float:
        """How long the frame that waits has been there, in seconds, as far as can be told without taking it."""
        first_s = self.slot.next_arrival_s
        if first_s is None:
            return 0.0
        # newer ones have replaced the first, one each gap
        return (now_s - first_s) % (self.arrivals.mean_s or UNKNOWN_GAP_S)

    def outlook(
        self,
        now_s: float,
        elapsed_s: float,
        times: StepTimes,
        *,
        last: int | None,
        deadline_s: float | None,
        sharers: int,
        exits: tuple[int, ...] = (),
    ) -> Outlook:
        """What the path may look at. Where no frame will come or all wait, there are no arrivals to mind."""
        calm = self.slot.lossless or self.slot.ended
        return Outlook(
            last, elapsed_s, times, None if calm else self.arrivals, deadline_s, sharers, now_s, exits, self.watch
        )
