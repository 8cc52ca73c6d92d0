"""What travels from the camera to the screen: frames, predictions and results. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Counts", "Ended", "ExitAnswer", "Frame", "FrameResult", "Prediction"]

Ended = Literal["complete", "newer-frame", "deadline", "confident", "stopped"]
"""Why the refinement of a frame ended: every step done, a newer frame waiting, the deadline too near for another
step, the answer sure enough, or the run stopped."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture of a source, as it arrived."""

    image: NDArray[np.uint8]
    """The picture, uint8 [H, W, 3], RGB, upright. Not to be written to."""
    source: str
    """Name of the source, fit to be shown (passwords redacted)."""
    index: int
    """Number of the frame in its source, from 0, counting every frame that was read, damaged ones too."""
    pts_s: float | None
    """Presentation time in the source, in seconds, or None where the source does not say. Only labels output."""
    arrival_s: float
    """Monotonic time at which the frame was ready to be classified, in seconds."""
    suspect: bool = False
    """Whether parts of the picture may be wrong: data of it, or of a frame that it builds on, were lost on the way."""

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(f"image must be uint8 [H, W, 3], got {self.image.dtype} {list(self.image.shape)}")

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        return f"Frame({self.source!r}, index={self.index}, {width}x{height}, pts_s={self.pts_s})"


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The answer of one exit."""

    exit: int
    """Which exit of the plan, from 0."""
    probabilities: NDArray[np.float32]
    """Probability of each class, float32 [classes]."""
    done_s: float
    """Monotonic time at which the answer was there, in seconds."""

    @property
    def class_id(self) -> int:
        """The most probable class."""
        return int(self.probabilities.argmax())

    @property
    def confidence(self) -> float:
        """Probability of the most probable class, 0 to 1."""
        return float(self.probabilities.max())

    def top(self, k: int) -> tuple[tuple[int, float], ...]:
        """The ``k`` most probable classes as (class, probability), most probable first; ties by class number."""
        k = min(k, len(self.probabilities))
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return tuple((int(c), float(self.probabilities[c])) for c in order)


@dataclass(frozen=True, slots=True)
class ExitAnswer:
    """What one exit said about a frame, and when."""

    exit: int
    """Which exit of the plan, from 0."""
    class_id: int
    """The most probable class."""
    confidence: float
    """Its probability, 0 to 1."""
    done_ms: float
    """When the answer was there, in milliseconds after the frame's arrival."""
    label: str | None = None
    """What the frame was shown as from then on, where labels are hedged; else None."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameResult:
    """All that was found out about one frame. Every frame taken from the slot ends in exactly one of these."""

    frame: Frame
    """The frame."""
    label: str
    """Name of the class that the readout settled on, or of a wider concept where labels are hedged."""
    class_id: int
    """Number of the most probable class."""
    confidence: float
    """Probability of what the label says, 0 to 1."""
    top: tuple[tuple[str, float], ...]
    """The most probable classes by name, most probable first."""
    exit: int
    """The exit that the answer comes from; for an average, the deepest that it includes."""
    exits: tuple[ExitAnswer, ...]
    """Every exit reached, in the order in which they were done. Never empty."""
    budget_ms: float | None
    """The time that the frame had, in milliseconds from its arrival: its deadline, or until the newer frame that ended
    it arrived; None where neither is known."""
    replaced_before: int
    """How many frames were replaced in the slot since the last frame that was taken."""
    ended: Ended
    """Why its refinement ended."""
    key_frame: int | None = None
    """Number of the earlier frame whose deep answer was joined to this one's; None where there is none."""
    carried: float = 0.0
    """Which part of the answer comes from earlier frames of the scene, 0 to 1: what remains is what this frame itself
    has said."""

    @property
    def first_ms(self) -> float:
        """When the first answer was there, in milliseconds after the frame's arrival."""
        return self.exits[0].done_ms

    @property
    def final_ms(self) -> float:
        """When the last answer was there, in milliseconds after the frame's arrival."""
        return self.exits[-1].done_ms

    def as_event(self) -> dict[str, Any]:
        """The result as one line of ``--events``: plain numbers, strings and lists, times rounded to microseconds."""
        return {
            "source": self.frame.source,
            "frame": self.frame.index,
            "pts_s": None if self.frame.pts_s is None else round(self.frame.pts_s, 6),
            "arrival_s": round(self.frame.arrival_s, 6),
            "label": self.label,
            "class_id": self.class_id,
            "confidence": round(self.confidence, 6),
            "top": [[name, round(p, 6)] for name, p in self.top],
            "exit": self.exit,
            "exits": [
                {
                    "exit": e.exit,
                    "class_id": e.class_id,
                    "confidence": round(e.confidence, 6),
                    "done_ms": round(e.done_ms, 3),
                    **({} if e.label is None else {"label": e.label}),
                }
                for e in self.exits
            ],
            "first_ms": round(self.first_ms, 3),
            "final_ms": round(self.final_ms, 3),
            "budget_ms": None if self.budget_ms is None else round(self.budget_ms, 3),
            "replaced_before": self.replaced_before,
            "ended": self.ended,
            **({"suspect": True} if self.frame.suspect else {}),
            **({} if self.key_frame is None else {"key_frame": self.key_frame}),
            **({"carried": round(self.carried, 3)} if self.carried else {}),
        }


@dataclass(frozen=True, slots=True)
class Counts:
    """Where the frames of a source went. Once a run is over, ``frames_in == results + replaced + corrupt``."""

    frames_in: int = 0
    """Frames that the source gave, damaged ones included. A frame comes in when it is taken to be answered or a newer
    one takes its place: one that still waits when the run ends was read ahead and is not among them."""
    results: int = 0
    """Frames that were answered."""
    replaced: int = 0
    """Frames that were never looked at, because a newer one took their place; and those whose refinement was cut short
    by an error, an interruption, or the end of a run of several sources after so many frames."""
    corrupt: int = 0
    """Frames that could not be decoded."""
