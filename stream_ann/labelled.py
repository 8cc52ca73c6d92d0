"""What offline labelling gives: a label for each frame, and runs of one label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["LabelledFrame", "Runs", "Segment", "StepAnswer"]

USUAL_FRAME_S = 0.04
"""How long a lone frame of unknown rate is shown."""


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """What one exit said."""

    exit: int
    """Which exit of the plan, from 0."""
    class_id: int
    """The most probable class."""
    confidence: float
    """Its probability, 0 to 1."""


@dataclass(frozen=True, slots=True)
class LabelledFrame:
    """The label of one frame of a video."""

    source: str
    """Name of the video, fit to be shown."""
    index: int
    """Number of the frame in the video, from 0, damaged ones counted."""
    pts_s: float | None
    """Presentation time in seconds, or None where the video does not say."""
    label: str
    """What is seen."""
    class_id: int
    """Number of the most probable class."""
    confidence: float
    """Probability of what the label says, 0 to 1."""
    top: tuple[tuple[str, float], ...]
    """The most probable classes by name, most probable first."""
    exit: int
    """The exit that the answer comes from."""
    exits: tuple[StepAnswer, ...]
    """Every exit reached, in order."""

    def as_event(self) -> dict[str, Any]:
        """One line of JSON: the keys of ``live --events``, less those that say when something was done."""
        return {
            "source": self.source,
            "frame": self.index,
            "pts_s": None if self.pts_s is None else round(self.pts_s, 6),
            "label": self.label,
            "class_id": self.class_id,
            "confidence": round(self.confidence, 6),
            "top": [[name, round(p, 6)] for name, p in self.top],
            "exit": self.exit,
            "exits": [
                {"exit": e.exit, "class_id": e.class_id, "confidence": round(e.confidence, 6)} for e in self.exits
            ],
        }


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of frames with one label."""

    source: str
    """Name of the video, fit to be shown."""
    start_s: float
    """When its first frame is shown, in seconds."""
    end_s: float
    """When the next one begins, in seconds; at the end of a video, one frame's time after its last frame."""
    label: str
    """What is seen."""
    class_id: int
    """Number of the most probable class of its first frame."""
    confidence: float
    """Mean confidence of its frames, 0 to 1."""
    frames: int
    """How many frames were labelled in it."""
    first_frame: int
    """Number of its first frame."""
    last_frame: int
    """Number of its last frame."""

    def as_event(self) -> dict[str, Any]:
        """One line of JSON."""
        return {
            "source": self.source,
            "start_s": round(self.start_s, 6),
            "end_s": round(self.end_s, 6),
            "label": self.label,
            "class_id": self.class_id,
            "confidence": round(self.confidence, 6),
            "frames": self.frames,
            "first_frame": self.first_frame,
            "last_frame": self.last_frame,
        }


class Runs:
    """Joins the frames of a video that have one label and follow each other. Frames without a time get one from the
    frames before them.

    Args:
        state: What :meth:`state` gave, to go on from there.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self._open: dict[str, Any] | None = None
        self._step_s = USUAL_FRAME_S
        if state is not None:
            self._open = None if state["open"] is None else dict(state["open"])
            self._step_s = float(state["step_s"])

    def state(self) -> dict[str, Any]:
        """All that must be known to go on later, as plain JSON values."""
        return {"open": None if self._open is None else dict(self._open), "step_s": self._step_s}

    def add(self, frame: LabelledFrame) -> Iterator[Segment]:
        """Take in a frame; gives the run that ends with it, if one does."""
        run = self._open
        if run is None:
            self._open = self._begin(frame, frame.pts_s or 0.0)
            return
        now_s = run["last_s"] + self._step_s if frame.pts_s is None else frame.pts_s
        if now_s > run["last_s"]:
            self._step_s = now_s - run["last_s"]
        now_s = max(now_s, run["last_s"])
        if run["label"] == frame.label:
            run["sum"] += frame.confidence
            run["frames"] += 1
            run["last_s"], run["last_frame"] = now_s, frame.index
        else:
            self._open = self._begin(frame, now_s)
            yield self._segment(run, now_s)

    def end(self) -> Iterator[Segment]:
        """The video ends; gives the run that was open, if any."""
        run, self._open = self._open, None
        if run is not None:
            yield self._segment(run, run["last_s"] + self._step_s)
        self._step_s = USUAL_FRAME_S

    def _begin(self, frame: LabelledFrame, now_s: float) -> dict[str, Any]:
        return {
            "source": frame.source,
            "label": frame.label,
            "class_id": frame.class_id,
            "start_s": now_s,
            "last_s": now_s,
            "sum": frame.confidence,
            "frames": 1,
            "first_frame": frame.index,
            "last_frame": frame.index,
        }

    def _segment(self, run: Mapping[str, Any], end_s: float) -> Segment:
        return Segment(
            source=run["source"],
            start_s=run["start_s"],
            end_s=end_s,
            label=run["label"],
            class_id=run["class_id"],
            confidence=run["sum"] / run["frames"],
            frames=run["frames"],
            first_frame=run["first_frame"],
            last_frame=run["last_frame"],
        )
