"""How long a frame may take, so that a budget is kept and a job ends in time; and how many frames there are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from pipelines.labelling.inputs import Video
from stream_ann.clock import Clock
from stream_ann.errors import SourceError
from stream_ann.ingest.spans import Selection, expected_frames

__all__ = ["Outlook", "Pacing"]

RESERVE = 0.07
"""Share of the time left that is kept for what was not foreseen."""


class Outlook:
    """How many frames a job will have: counted where it is done, else expected from the videos' headers.

    The headers are read in a thread of its own. Safe to use from any thread.

    Args:
        videos: The videos.
        selection: Which of their frames are wanted.
    """

    def __init__(self, videos: Sequence[Video], selection: Selection) -> None:
        self._videos = videos
        self._selection = selection
        self._expected: dict[int, int] = {}
        self._counted: dict[int, int] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream-ann outlook", daemon=True)

    def start(self) -> None:
        """Begin to read headers."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(2.0)

    def counted(self, video: int, frames: int) -> None:
        """A video is done and had so many wanted frames."""
        with self._lock:
            self._counted[video] = frames

    def total(self) -> float | None:
        """How many frames there are in all, as far as can be told; None while nothing is known."""
        with self._lock:
            known = {**self._expected, **self._counted}
        if not known:
            return None
        return sum(known.values()) / len(known) * len(self._videos)

    def _run(self) -> None:
        for number, video in enumerate(self._videos):
            if self._stop.is_set():
                return
            try:
                frames = expected_frames(video.path, video.name, self._selection)
            except SourceError:
                frames = 0
            with self._lock:
                self._expected[number] = frames


class Pacing:
    """The time that each frame may take on its way through the plan, planned anew all the time.

    Args:
        clock: Tells the time.
        budget_s: Mean time for a frame, in seconds, or None.
        finish_s: Time for the whole job from now, in seconds, or None.
        total: How many frames there are in all, or None.
        shares_cores: Whether decoding takes its time from the same cores.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        budget_s: float | None,
        finish_s: float | None,
        total: Callable[[], float | None],
        shares_cores: bool,
    ) -> None:
        self._clock = clock
        self._budget_s = budget_s
        self._end_s = None if finish_s is None else clock.now_s() + finish_s
        self._total = total
        self._shares_cores = shares_cores
        self._done = 0
        self._decode_s = 0.0
        self._decoded = 0
        self.lanes: Callable[[], int] = lambda: 1
        """How many frames run at a time, each on a core of its own or its share of the device."""

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return self._budget_s is not None or self._end_s is not None

    def done(self, frames: int) -> None:
        """So many frames have their labels."""
        self._done += frames

    def decoded(self, frames: int, seconds: float) -> None:
        """Decoding so many wanted frames has taken so many seconds of one core."""
        self._decoded += frames
        self._decode_s += seconds

    def pace_s(self) -> float | None:
        """How long a frame may take now, in seconds; None for as long as it takes."""
        found = [] if self._budget_s is None else [self._budget_s]
        if self._end_s is not None:
            total = self._total()
            if total is None:
                found.append(0.0)  # nothing is known yet: the first exit will do
            else:
                left_s = max(0.0, self._end_s - self._clock.now_s()) * (1 - RESERVE)
                each_s = left_s * self.lanes() / max(1.0, total - self._done)
                if self._shares_cores and self._decoded:
                    each_s -= self._decode_s / self._decoded
                found.append(max(0.0, each_s))
        return min(found) if found else None
