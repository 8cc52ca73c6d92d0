"""Learning rate schedules, as plain functions of how far a run has come: there is no state to keep or restore."""

from __future__ import annotations

import math
from typing import Literal, get_args

from stream_ann.errors import UsageError, nearest

__all__ = ["Schedule", "lr_factor"]

Schedule = Literal["cosine", "steps", "constant"]
"""``"cosine"``: half a cosine from 1 to 0 (Loshchilov and Hutter, arXiv 1608.03983, equation 5, without restarts).
``"steps"``: divided by 10 after 140/300, 210/300 and 250/300 of the run, the CIFAR schedule of arXiv 1708.06832v2.
``"constant"``: 1."""

_DROPS = (140 / 300, 210 / 300, 250 / 300)


def lr_factor(iteration: int, iterations: int, *, schedule: Schedule, warmup: float = 0.0) -> float:
    """What the learning rate is multiplied by in an iteration.

    Args:
        iteration: Its number, from 0.
        iterations: How many the run has.
        schedule: How it falls.
        warmup: Fraction of the run, from 0 up to but not 1, in which it rises from 0 evenly; the schedule covers the
            rest.

    Returns:
        From 0 to 1.

    Raises:
        UsageError: There is no such schedule.
    """
    if schedule not in get_args(Schedule):
        raise UsageError(f"no schedule is called '{schedule}'", nearest(schedule, get_args(Schedule)))
    rising = round(warmup * iterations)
    if iteration < rising:
        return (iteration + 1) / (rising + 1)
    if schedule == "constant":
        return 1.0
    if schedule == "steps":
        # The paper's drops are parts of the whole run, warm-up or not.
        return float(0.1 ** sum(iteration >= drop * iterations for drop in _DROPS))
    done = (iteration - rising) / max(1, iterations - rising)
    return 0.5 * (1 + math.cos(math.pi * done))
