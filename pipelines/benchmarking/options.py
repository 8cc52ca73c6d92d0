"""What a benchmark measures, and how."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal

from pipelines.benchmarking.streams import FilmOptions
from stream_ann.errors import UsageError, nearest
from stream_ann.scheduler import DEFAULT_PATH

__all__ = ["BACKGROUND", "DEFAULT_DURATION_S", "DEFAULT_FPS", "BenchOptions"]

DEFAULT_FPS = (2.0, 5.0, 15.0, 30.0, 60.0, 120.0, 240.0, 480.0)
"""Frame rates, from slower than any network to faster than all."""
BACKGROUND = "background"
"""The policy that takes steps in order and refines key frames behind the frames that come."""
MOST_STREAMS = 1024
DEFAULT_DURATION_S = 10.0
"""How long a run in real time lasts at each rate."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What is measured, and how."""

    fps: tuple[float, ...] = DEFAULT_FPS
    """Frame rates."""
    weights: str | os.PathLike[str] = "imagenet"
    """Name of bundled weights, or path."""
    device: str = "auto"
    """``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``."""
    engine: str = "auto"
    """``"auto"`` or the name of an engine."""
    threads: int | None = None
    """Threads on the CPU; by default one core is left to the decoder."""
    labels: str | None = None
    """A folder of labelled photographs, a sidecar of the source, or ``"agreement"``; by default the sidecar beside."""
    class_map: str | os.PathLike[str] | None = None
    """File that says which class a folder's name means."""
    film: FilmOptions = field(default_factory=FilmOptions)
    """How a film is made of photographs."""
    policies: tuple[str, ...] = (DEFAULT_PATH,)
    """Ways of scheduling the anytime network; the first is the one that is judged."""
    readout: str | None = None
    """Which answer a frame's exits give together, not for policy ``"scene"``, which joins all. None: the latest."""
    against: tuple[str, ...] = ("fixed",)
    """``"fixed"`` for every exit as a fixed network, names of torchvision networks, files of networks."""
    arrivals: str | os.PathLike[str] = "regular"
    """``"regular"``, ``"jittered"``, or a file with a recorded trace."""
    duration_s: float | None = None
    """How long each run lasts, in seconds of its own clock; by default 10 s, on paper alone the whole film."""
    simulate: bool = False
    """Whether to leave out the runs in real time."""
    times: str | os.PathLike[str] | None = None
    """On paper: an earlier report whose step times are taken; by default they are measured."""
    speed: float = 1.0
    """On paper: a machine so many times as fast."""
    streams: int | None = None
    """On paper: so many such streams on one engine are played as well; None: they are not."""
    accuracies: Literal["card", "measured"] = "card"
    """By which accuracy of each exit a policy plans: the card's, or that on the film itself."""
    interval_ms: float | None = None
    """How many streams can be served at this interval is found out as well; None: it is not."""
    target_accuracy: float | None = None
    """What it takes to reach this streaming accuracy is found out as well; None: it is not."""
    target_fps: float | None = None
    """At which rate; by default the first of ``fps``."""
    keep: str | os.PathLike[str] | None = None
    """Folder where the answers of each exit to each picture are kept for the next time; None: they are not."""
    timing_frames: int = 40
    """On how many frames each network's steps are timed."""
    seed: int = 0
    """Seed of everything that is drawn."""

    def __post_init__(self) -> None:
        if not self.fps or not all(0 < rate <= 10_000 for rate in self.fps):
            shown = ", ".join(f"{rate:g}" for rate in self.fps) or "none"
            raise UsageError(f"frame rates {shown}", "give one or more above 0 and up to 10,000, such as --fps 5,15,30")
        if len(set(self.fps)) != len(self.fps):
            raise UsageError("a frame rate is given twice", "give each once")
        if self.duration_s is not None and not 0 < self.duration_s <= 1e5:
            raise UsageError(f"a duration of {self.duration_s:g} s", "give one above 0 and up to 100,000")
        if not 0 < self.speed <= 1e4:
            raise UsageError(f"a speed of {self.speed:g}", "give how many times as fast: 0.5 for half")
        if (self.times is not None or self.speed != 1) and not self.simulate:
            raise UsageError("other step times hold on paper only", "add --simulate")
        if self.streams is not None and not (self.simulate and 1 <= self.streams <= MOST_STREAMS):
            what = f"{self.streams} streams" if self.simulate else "several streams are played on paper only"
            raise UsageError(what, f"give 1 to {MOST_STREAMS}, with --simulate")
        if not self.policies:
            raise UsageError("no policy is given", "give scene, in-order, planned, steady or background")
        if self.streams is not None and self.streams > 1 and BACKGROUND in self.policies:
            raise UsageError("refining in the background is for one stream", "leave --streams or background out")
        if self.interval_ms is not None and not 0 < self.interval_ms <= 60_000:
            raise UsageError(f"an interval of {self.interval_ms:g} ms", "give one above 0 and up to 60,000")
        if self.target_accuracy is not None and not 0 < self.target_accuracy <= 1:
            raise UsageError(f"a target accuracy of {self.target_accuracy:g}", "give one above 0 and up to 1")
        if self.target_fps is not None and (self.target_accuracy is None or not 0 < self.target_fps <= 10_000):
            raise UsageError(f"a target rate of {self.target_fps:g}", "give one up to 10,000, and --target-accuracy")
        if self.timing_frames < 2:
            raise UsageError(f"timing on {self.timing_frames} frames", "give 2 or more")
        if self.accuracies not in ("card", "measured"):
            raise UsageError(
                f"no accuracies are called '{self.accuracies}'", nearest(self.accuracies, ["card", "measured"])
            )
