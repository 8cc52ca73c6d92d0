"""Whether the machine was quiet while it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.benchmarking.timing import Timings

__all__ = ["MOST_DRIFT", "MOST_OTHERS", "quiet_of"]

MOST_DRIFT = 0.1
"""By so much may the steps of a network change from the first to the last measurement, as a share."""
MOST_OTHERS = 0.1
"""So many cores may everything else on the machine take on average."""


def quiet_of(
    before: Mapping[str, Timings], after: Mapping[str, Timings], other_cores: Sequence[float | None]
) -> tuple[dict[str, Any], list[str]]:
    """What can be told of it.

    Args:
        before: Times measured before all else, by the name of the network.
        after: The same measured again at the end; empty where there was no need to.
        other_cores: What everything else on the machine took in each measurement, None where nothing tells.

    Returns:
        Plain JSON values, and a warning for each reason to doubt the figures.
    """
    drift = {name: sum(one.medians_s) / sum(before[name].medians_s) for name, one in after.items()}
    told = [cores for cores in other_cores if cores is not None]
    others = float(np.mean(told)) if told else None
    found: dict[str, Any] = {
        "step_times_end_over_start": {name: round(ratio, 3) for name, ratio in drift.items()},
        "other_cores": None if others is None else round(others, 3),
        "other_cores_max": None if others is None else round(max(told), 3),
    }
    warnings = []
    if others is not None and others > MOST_OTHERS:
        warnings.append(
            f"the machine was not quiet: other programs took {others:.2f} cores on average, {max(told):.2f} at most"
        )
    if drift:
        name = max(drift, key=lambda name: abs(np.log(drift[name])))
        if not 1 / (1 + MOST_DRIFT) <= drift[name] <= 1 + MOST_DRIFT:
            warnings.append(
                f"the machine's pace has changed: at the end the steps of {name} took {drift[name]:.2f} times as long"
            )
    # of a machine that tells nothing of other programs the drift alone says it
    found["quiet"] = None if not drift and others is None else not warnings
    return found, warnings
