"""When a live source that has failed is tried again."""

from __future__ import annotations

import random
from dataclasses import dataclass

from stream_ann.errors import AccessDeniedError, SourceError, SourceNotFoundError, UnsupportedSourceError, UsageError

__all__ = ["REFUSALS", "Retries", "retry_delay_s"]

REFUSALS = (AccessDeniedError, SourceNotFoundError, UnsupportedSourceError)
"""Errors by which the other side says no, and most likely will the next time."""

_SHARE = 0.1
_JITTER = 0.2
_USUAL_S = (0.25, 10.0)
_REFUSED_S = (5.0, 60.0)
_DENIED_S = (30.0, 300.0)
"""Cameras lock an account for half an hour after a handful of wrong passwords."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a live source is tried again.

    Raises:
        UsageError: If the number of attempts is negative.
    """

    attempts: int | None = None
    """How many attempts may fail in a row, after a failed one or a lost connection; None for any number. The count
    begins anew with each picture."""
    from_the_start: bool = True
    """Whether to go on even though the very first attempt failed. If not, that one ends the run, for then it is more
    likely that the name is wrong than that the source will come."""

    def __post_init__(self) -> None:
        if self.attempts is not None and self.attempts < 0:
            raise UsageError(f"reconnect-attempts must be 0 or more, got {self.attempts}", "leave it out for no end")


def retry_delay_s(error: SourceError, away_s: float, chance: random.Random) -> float:
    """How long to wait before the next attempt.

    A tenth of the time that the source has been away, so that waiting never costs more than a tenth of the outage: soon
    after a short one, and seldom during a long one. Refusals are tried slowly, wrong passwords slowest of all. Chance
    adds or takes away up to a fifth, so that many readers do not come back to one camera in step.

    Args:
        error: What the last attempt, or the connection, failed with.
        away_s: How long the source has been away, in seconds.
        chance: Where chance comes from.

    Returns:
        Seconds from now.
    """
    if isinstance(error, AccessDeniedError):
        least_s, most_s = _DENIED_S
    elif isinstance(error, REFUSALS):
        least_s, most_s = _REFUSED_S
    else:
        least_s, most_s = _USUAL_S
    delay_s = min(most_s, max(least_s, _SHARE * away_s))
    return delay_s * chance.uniform(1 - _JITTER, 1 + _JITTER)
