"""The benchmark on paper: any contender at any rate on a machine of any speed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.benchmarking.contenders import Network
from pipelines.benchmarking.play import Manner, simulate
from stream_ann.streaming import AnswerTable, Film, Recording, RunLog, TimeTable, arrivals_at

__all__ = ["Line", "Paper"]


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A network under a way of running it: one line of the plot."""

    name: str
    """What it is called in tables."""
    network: Network
    """The network."""
    manner: Manner
    """How frames are refined."""


@dataclass(frozen=True, slots=True, eq=False)
class Paper:
    """All that is needed to say what a run would come to."""

    film: Film
    """What the camera sees."""
    answers: Mapping[str, AnswerTable]
    """What each exit says about each picture, by the name of the network."""
    times: Mapping[str, TimeTable]
    """How long the work on a frame takes, by the name of the network."""
    classes: Sequence[str]
    """Name of each class."""
    gaps: NDArray[np.float64] | None
    """Gaps between arrivals, of mean 1; None: regular."""
    seed: int
    """Seed of the step times drawn."""

    def log(
        self, line: Line, fps: float, duration_s: float, *, speed: float = 1.0, recording: Recording | None = None
    ) -> RunLog:
        """What would happen.

        Args:
            line: The contender.
            fps: Frames a second.
            duration_s: For how long, in seconds.
            speed: On a machine so many times as fast.
            recording: A run whose times are taken as they came, in place of drawing them.
        """
        times = self.times[line.network.name]
        return simulate(
            line.network.plan,
            self.answers[line.network.name],
            times if speed == 1 else times.at_speed(speed),
            self.film,
            arrivals_at(fps, duration_s, self.gaps),
            classes=self.classes,
            manner=line.manner,
            # by name and rate, so that a run is the same whatever others take part
            seed=(self.seed, zlib.crc32(line.name.encode()), round(1e3 * fps)),
            recording=recording,
        )
