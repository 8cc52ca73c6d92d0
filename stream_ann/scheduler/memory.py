"""What is known of the scene that a camera shows: when it began, and what its frames so far have said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_ann.frames import Frame, Prediction
from stream_ann.scenes import Glimpse, is_cut

__all__ = ["Joined", "SceneMemory", "SceneWatch"]

GUESS_S = 1.0
"""How long a scene is taken to last before anything has been seen; counts as one scene that has been watched."""
MEAN_HALF_LIFE_S, MEAN_MOST = 0.5, 3.0
"""An exit's answer about an earlier frame counts half after this time beside its answer about a later one, and all
earlier ones together count as many at most: the picture may change without a cut."""
STANDING_HALF_LIFE_S, STANDING_LONGEST_S = 2.0, 8.0
"""An exit that has not seen the newest frame counts half after this time beside those that have; at last nothing."""
CHANGED = 0.35
"""An exit that says so different things about two frames (Bhattacharyya coefficient: 1 where both say the same, 0 where
they have no class in common) has seen something else. Of two views of one photograph, by a moving camera, the exits of
``imagenet`` fall short of that for at most 0.5 %, of two photographs for 96 to 99 %."""
PRIOR, REMEMBERED = 4.0, 200.0
"""So many answers count what was known of an exit beforehand, and what its latest answers have shown at most."""


class SceneWatch:
    """Notices cuts between the frames that are taken, and learns how long scenes last."""

    def __init__(self) -> None:
        self._frame: Frame | None = None
        self._glimpse: Glimpse | None = None
        self._watched_s = 0.0
        self.cuts = 0
        """How many cuts there were."""

    def see(self, frame: Frame) -> bool:
        """Look at a frame that has just been taken; whether it shows another scene than the one before."""
        before, seen = self._frame, self._glimpse
        self._frame, self._glimpse = frame, Glimpse.of(frame.image)
        if before is None or seen is None:
            return False
        gap_s = max(0.0, frame.arrival_s - before.arrival_s)
        self._watched_s += gap_s
        cut = is_cut(seen, self._glimpse, gap_s)
        self.cuts += cut
        return cut

    @property
    def dwell_s(self) -> float:
        """How long a scene lasts on average, in seconds."""
        return (self._watched_s + GUESS_S) / (self.cuts + 1)


@dataclass(slots=True, eq=False)
class _Said:
    """What one exit has said about the frames of the scene."""

    mean: NDArray[np.float32]
    """Its mean answer, float32 [classes], recent frames counting more."""
    weight: float
    """How many answers about the newest frame that mean is worth."""
    at_s: float
    """Arrival of the newest frame that it saw, in seconds."""
    frame: int
    """Number of that frame."""
    beside: Mapping[int, NDArray[np.float32]]
    """What each other exit had said last by then, float32 [classes], by its number."""

    def kept(self, now_s: float) -> float:
        """How many answers about a frame of now it is worth."""
        return min(MEAN_MOST, self.weight * float(0.5 ** (max(0.0, now_s - self.at_s) / MEAN_HALF_LIFE_S)))


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """A frame's own answers joined with those about earlier frames of its scene."""

    answer: Prediction
    """The joint answer; its exit is the deepest of the frame's own."""
    carried: float
    """Which part of it comes from earlier frames, 0 to 1."""
    key_frame: int | None
    """The earlier frame whose deeper exit is part of it; None where none is deeper than the frame's own."""


class SceneMemory(SceneWatch):
    """Remembers what each exit said about the frames of the scene, and forgets everything at a cut.

    Each exit's answers are averaged over the frames, and the means of all exits are averaged by how good they are.
    Frames of one scene look much alike, so that many answers of a poor exit do not make up for one of a good one: that
    is why they count as one. A picture may also change without a cut: therefore answers fade, and where an exit says of
    a frame something else altogether than of the frames that another answer is about, that answer is forgotten.

    How good an exit is on what the camera shows, its own confidence tells, which is calibrated: on average it is the
    share of right answers. What the weights card says counts as :data:`PRIOR` answers beside those that were seen.

    Args:
        accuracies: Accuracy of each exit as known beforehand.
    """

    def __init__(self, accuracies: Sequence[float]) -> None:
        super().__init__()
        self._values = [max(accuracy, 1e-6) for accuracy in accuracies]
        self._counts = [PRIOR] * len(self._values)
        self._said: dict[int, _Said] = {}
        self._latest: dict[int, NDArray[np.float32]] = {}

    def see(self, frame: Frame) -> bool:
        """Look at a frame that has just been taken, and forget everything where it shows another scene."""
        cut = super().see(frame)
        if cut:
            self._said.clear()
            self._latest.clear()
        return cut

    def doubt(self, new: Prediction) -> None:
        """Compare an exit's answer about a frame with what it said of the frames that the others have seen, and forget
        what was said of something else."""
        for exit_, said in list(self._said.items()):
            before = said.mean if exit_ == new.exit else said.beside.get(new.exit)
            if before is not None and float(np.sqrt(before * new.probabilities).sum()) < CHANGED:
                del self._said[exit_]
                self._latest.pop(exit_, None)  # it is no answer about what is seen now
                self.cuts += not self._said

    def __len__(self) -> int:
        """How many exits have said something about the scene."""
        return len(self._said)

    @property
    def values(self) -> Sequence[float]:
        """How good each exit is, by what was known beforehand and its confidence since."""
        return self._values

    def age_s(self, exit_: int, now_s: float) -> float | None:
        """How old the newest frame is by its arrival that an exit has seen of the scene, in seconds; None without."""
        said = self._said.get(exit_)
        return None if said is None else max(0.0, now_s - said.at_s)

    def looks(self, exit_: int, now_s: float) -> float:
        """How many answers of an exit about the present picture are remembered, older ones counting less."""
        said = self._said.get(exit_)
        return 0.0 if said is None else said.kept(now_s)

    def joined(self, frame: Frame, predictions: Sequence[Prediction]) -> Joined:
        """A frame's answer so far, joined with what is remembered.

        Args:
            frame: The frame.
            predictions: Its own predictions, at least one.
        """
        own = {prediction.exit: prediction.probabilities for prediction in predictions}
        deepest, key_frame = max(own), None
        total: NDArray[np.float32] = np.zeros_like(predictions[-1].probabilities)
        whole = carried = 0.0
        for exit_, weight in enumerate(self._values):
            mine, said = own.get(exit_), self._said.get(exit_)
            kept = 0.0 if said is None else said.kept(frame.arrival_s)
            if mine is not None:
                total += np.float32(weight / (1 + kept)) * mine
                if said is not None:
                    total += np.float32(weight * kept / (1 + kept)) * said.mean
                carried += weight * kept / (1 + kept)
            elif said is not None:
                age_s = max(0.0, frame.arrival_s - said.at_s)
                if age_s > STANDING_LONGEST_S:
                    continue
                weight *= 0.5 ** (age_s / STANDING_HALF_LIFE_S)
                total += np.float32(weight) * said.mean
                carried += weight
                if exit_ > deepest:
                    key_frame = said.frame
            else:
                continue
            whole += weight
        total /= np.float32(whole)
        return Joined(Prediction(deepest, total, predictions[-1].done_s), carried / whole, key_frame)

    def add(self, frame: Frame, predictions: Sequence[Prediction]) -> None:
        """Remember what was said about a frame of the scene."""
        self._latest |= {prediction.exit: prediction.probabilities for prediction in predictions}
        for prediction in predictions:
            beside = {exit_: latest for exit_, latest in self._latest.items() if exit_ != prediction.exit}
            count = self._counts[prediction.exit] = min(REMEMBERED, self._counts[prediction.exit] + 1)
            value = self._values[prediction.exit]
            self._values[prediction.exit] = value + (prediction.confidence - value) / count
            said = self._said.get(prediction.exit)
            if said is None:
                mean = prediction.probabilities.copy()
                self._said[prediction.exit] = _Said(mean, 1.0, frame.arrival_s, frame.index, beside)
                continue
            kept = said.kept(frame.arrival_s)
            mean = (np.float32(kept) * said.mean + prediction.probabilities) / np.float32(1 + kept)
            self._said[prediction.exit] = _Said(mean, 1 + kept, frame.arrival_s, frame.index, beside)
