"""What a simulated camera sees: pictures, how long each is there, and what counts as right for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Film"]


@dataclass(frozen=True, slots=True, eq=False)
class Film:
    """Pictures that follow each other, from the first again after the last, whatever rate a camera looks at them."""

    name: str
    """What it is, fit to be shown."""
    picture: Callable[[int], NDArray[np.uint8]]
    """Gives each picture by its number, uint8 [H, W, 3] RGB; may make it anew at every call."""
    truths: tuple[frozenset[int], ...]
    """For each picture the classes that count as right."""
    scenes: NDArray[np.intp]
    """For each picture the scene that it belongs to, intp [P]: between scenes there is a hard cut."""
    shown_s: NDArray[np.float64]
    """How long each picture is there, float64 [P], in seconds."""

    def __post_init__(self) -> None:
        sizes = {len(self.truths), len(self.scenes), len(self.shown_s)}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(f"a film needs a truth, a scene and a duration for each picture, got {sorted(sizes)}")
        if not np.isfinite(self.shown_s).all() or self.shown_s.min() <= 0:
            raise ValueError(f"every picture must be there for some time, got {self.shown_s.min()} s")

    def __len__(self) -> int:
        return len(self.truths)

    @property
    def duration_s(self) -> float:
        """How long it is until it begins again, in seconds."""
        return float(self.shown_s.sum())

    @property
    def scene_count(self) -> int:
        """How many scenes there are."""
        return len(np.unique(self.scenes))

    @property
    def dwell_s(self) -> float:
        """How long a scene lasts on average, in seconds."""
        return self.duration_s / (1 + int(np.count_nonzero(np.diff(self.scenes))))

    def seen_at(self, times_s: NDArray[np.float64] | Sequence[float]) -> NDArray[np.intp]:
        """Number of the picture that is there at each time, intp [N].

        Args:
            times_s: Times from the beginning, in seconds; the film goes on from its beginning when it is over.
        """
        ends_s = np.cumsum(self.shown_s)
        # a time that a frame rate hits exactly must not fall to the picture before for a rounding error
        times = np.mod(np.asarray(times_s, dtype=np.float64) + 1e-9, ends_s[-1])
        numbers = np.minimum(np.searchsorted(ends_s, times, side="right"), len(self) - 1)
        return np.asarray(numbers, dtype=np.intp)
