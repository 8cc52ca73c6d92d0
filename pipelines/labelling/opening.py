"""Opening what labels units: the engine and the worker around it, here or on another machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from pipelines.labelling.feed import Decoding
from pipelines.labelling.inputs import Video
from pipelines.labelling.settings import Settings
from pipelines.labelling.worker import Depth, UnitWorker
from stream_ann.batching import Pace
from stream_ann.engines import BatchEngine, open_batch_engine
from stream_ann.preprocess import centre_square
from stream_ann.readout import readout_named
from stream_ann.weights import Weights

__all__ = ["Opener", "cores"]


def cores() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


@dataclass(frozen=True, slots=True, eq=False)
class Opener:
    """All that a worker is made of."""

    settings: Settings
    loaded: Weights
    videos: Sequence[Video]
    pace: Pace
    threads: int
    """Threads of each decoder."""
    hwaccel: str | None
    """Kind of device to decode on."""

    def engine(self) -> BatchEngine:
        """An engine of its own. On the CPU it has one thread: lanes side by side waste less than threads that wait for
        each other, and one thread adds up in the same order on every machine.

        Raises:
            DeviceError: If the device fails.
        """
        settings, card = self.settings, self.loaded.card
        return open_batch_engine(
            self.loaded.net,
            card.preprocessing,
            device=settings.device,
            engine=settings.engine,
            precision=settings.precision,
            temperatures=card.temperatures,
            threads=1,
            max_batch=settings.batch,
        )

    def worker(self, engine: BatchEngine, lock: AbstractContextManager[object] | None = None) -> UnitWorker:
        """A worker with an engine of its own, or one that it shares under a lock."""
        settings, card = self.settings, self.loaded.card

        def cut(height_px: int, width_px: int) -> tuple[int, int, int]:
            return centre_square(height_px, width_px, card.preprocessing.crop)

        decoding = Decoding(
            side_px=max(step.resolution_px for step in self.loaded.plan.steps[: settings.last + 1]),
            cut=cut,
            selection=settings.selection,
            threads=self.threads,
            hwaccel=self.hwaccel,
            ahead=3 * settings.batch,
        )
        readout = readout_named(
            settings.readout,
            exits=len(self.loaded.plan),
            accuracies=card.accuracies,
            weights=card.readout_weights,
        )
        return UnitWorker(
            engine,
            self.videos,
            decoding,
            Depth(settings.thresholds, settings.last),
            readout,
            settings.labelling(card).group,
            batch=settings.batch,
            pace=self.pace,
            looks=settings.remembers,
            lock=lock,
        )
