"""When each frame of a recording is shown."""

from __future__ import annotations

import math

__all__ = ["Timeline"]

DUPLICATE_S = 0.0005
"""Times nearer to each other than this are the same moment: no container used here tells them apart."""
LONGEST_GAP_S = 3600.0
"""A longer step forward is no pause but another origin; containers have no room for it either."""
USUAL_STEP_S = 0.04
"""The time between two frames, as long as nothing is known about it."""


class Timeline:
    """Maps a source's times to those of a recording, which start at 0 and always increase.

    Differences between the source's times are kept exactly. Where they cannot be kept, the recording goes on from where
    it is: after a jump back (a source that loops), a jump of more than an hour, or a change between the source's own
    times and arrival times, the next frame comes one usual step later. Of two frames at the same time, the second comes
    one tick later and the times after it stay true; where the time then stands still, it counts as a jump.

    Args:
        tick_s: The shortest time between two frames, in seconds.
    """

    def __init__(self, tick_s: float) -> None:
        self._tick_s = tick_s
        self._offset_s = 0.0  # recording time = source time + offset
        self._last_in_s: float | None = None
        self._last_out_s = -math.inf
        self._last_arrival_s = 0.0
        self._from_source = False
        self._nudged = False
        self._step_s: float | None = None

    @property
    def step_s(self) -> float:
        """The usual time between two frames: the latest one that was not a jump, in seconds."""
        return USUAL_STEP_S if self._step_s is None else self._step_s

    def next_s(self, pts_s: float | None, arrival_s: float) -> float:
        """Time of the next frame in the recording, in seconds.

        Args:
            pts_s: The frame's time in its source, in seconds; None where the source does not say.
            arrival_s: The frame's monotonic arrival time, in seconds, used instead.
        """
        from_source = pts_s is not None and math.isfinite(pts_s)
        now_s = pts_s if pts_s is not None and from_source else arrival_s
        if self._last_in_s is None:
            self._offset_s = -now_s
            out_s = 0.0
        else:
            gap_s = now_s - self._last_in_s
            duplicate = abs(gap_s) < DUPLICATE_S
            if from_source is self._from_source and DUPLICATE_S <= gap_s <= LONGEST_GAP_S:
                out_s = max(now_s + self._offset_s, self._last_out_s + self._tick_s)
                self._step_s, self._nudged = gap_s, False
            elif from_source is self._from_source and duplicate and not self._nudged:
                out_s = self._last_out_s + self._tick_s
                self._nudged = True
            else:
                out_s = self._last_out_s + max(self._tick_s, self._jump_s(arrival_s))
                self._offset_s = out_s - now_s
                self._nudged = False
        self._last_in_s, self._last_out_s = now_s, out_s
        self._last_arrival_s, self._from_source = arrival_s, from_source
        return out_s

    def _jump_s(self, arrival_s: float) -> float:
        if self._step_s is not None:
            return self._step_s
        passed_s = arrival_s - self._last_arrival_s
        return passed_s if DUPLICATE_S <= passed_s <= 1.0 else USUAL_STEP_S
