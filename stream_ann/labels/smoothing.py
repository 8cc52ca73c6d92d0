"""Smoothing of the answers over time, within a scene."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_ann.frames import Frame, Prediction
from stream_ann.scenes import Glimpse, is_cut

__all__ = ["Smoothing"]

MOST_SOURCES = 1_000
"""Sources whose answers are remembered: of more, those that were heard of last."""


@dataclass(slots=True)
class _Memory:
    """What is known of a source from its earlier frames, and of its present frame."""

    answer: NDArray[np.float32]
    pts_s: float | None
    arrival_s: float
    glimpse: Glimpse
    keep: float = 0.0
    """What the memory weighs in the answer of the present frame, 0 to 1."""
    present: Frame | None = None
    present_glimpse: Glimpse | None = None


class Smoothing:
    """Exponential smoothing of a source's answers in time, which forgets everything at a cut.

    Each frame's answer is mixed with the smoothed answer of the frame before, which weighs ``exp(-gap / smooth_s)``: a
    frame counts for about a third after ``smooth_s``, whatever the rate of frames. The time is the presentation time
    where it runs forward, else the time of arrival.

    Args:
        smooth_s: The time constant, in seconds, positive.
    """

    def __init__(self, smooth_s: float) -> None:
        self._smooth_s = smooth_s
        self._memories: OrderedDict[str, _Memory] = OrderedDict()

    def of(self, frame: Frame, answer: Prediction, *, final: bool) -> Prediction:
        """The answer smoothed with those of the source's earlier frames.

        Args:
            frame: The frame.
            answer: Its answer so far.
            final: Whether to remember it: its last answer.
        """
        memory = self._memories.get(frame.source)
        if memory is None:
            if final:
                self._remember(frame, answer.probabilities, Glimpse.of(frame.image))
            return answer
        if memory.present is not frame:  # its first exit: the later ones need not look again
            glimpse, gap_s = Glimpse.of(frame.image), _gap_s(memory, frame)
            cut = is_cut(memory.glimpse, glimpse, gap_s)
            memory.keep = 0.0 if cut else math.exp(-gap_s / self._smooth_s)
            memory.present, memory.present_glimpse = frame, glimpse
        keep = np.float32(memory.keep)
        mixed = keep * memory.answer + (1 - keep) * answer.probabilities
        if final:
            assert memory.present_glimpse is not None
            self._remember(frame, mixed, memory.present_glimpse)
        return Prediction(answer.exit, mixed, answer.done_s)

    def _remember(self, frame: Frame, answer: NDArray[np.float32], glimpse: Glimpse) -> None:
        self._memories[frame.source] = _Memory(answer, frame.pts_s, frame.arrival_s, glimpse)
        self._memories.move_to_end(frame.source)
        if len(self._memories) > MOST_SOURCES:
            self._memories.popitem(last=False)


def _gap_s(before: _Memory, after: Frame) -> float:
    """The time since the frame before, in seconds, not negative."""
    if before.pts_s is not None and after.pts_s is not None and after.pts_s > before.pts_s:
        return after.pts_s - before.pts_s
    return max(0.0, after.arrival_s - before.arrival_s)
