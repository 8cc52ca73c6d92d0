"""Policies: when the refinement of a frame ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from stream_ann.errors import UsageError
from stream_ann.frames import Ended

__all__ = ["Confident", "Deadline", "Moment", "Policy", "UntilNextFrame"]


@dataclass(frozen=True, slots=True)
class Moment:
    """What a policy may look at between two steps."""

    now_s: float
    """Monotonic time, in seconds."""
    arrival_s: float
    """Monotonic time at which the frame arrived, in seconds."""
    next_step_s: float
    """How long the next step will take in all likelihood (95th percentile of its latest runs), in seconds."""
    newer_waiting: bool
    """Whether a newer frame waits."""
    confidence: float
    """Probability of the answer so far, 0 to 1."""


class Policy(ABC):
    """Decides after each step whether the next one runs. ``a & b`` goes on only while both would."""

    @abstractmethod
    def verdict(self, moment: Moment) -> Ended | None:
        """None to go on, else why the frame's refinement ends here."""

    @property
    def deadline_s(self) -> float | None:
        """The fixed time that a frame has from its arrival, in seconds, or None where there is none."""
        return None

    def __and__(self, other: Policy) -> Policy:
        return _Both(self, other)


class _Both(Policy):
    def __init__(self, one: Policy, other: Policy) -> None:
        self._one, self._other = one, other

    def verdict(self, moment: Moment) -> Ended | None:
        return self._one.verdict(moment) or self._other.verdict(moment)

    @property
    def deadline_s(self) -> float | None:
        known = [d for d in (self._one.deadline_s, self._other.deadline_s) if d is not None]
        return min(known, default=None)


class UntilNextFrame(Policy):
    """Refine until a newer frame waits."""

    def verdict(self, moment: Moment) -> Ended | None:
        """``"newer-frame"`` as soon as one waits."""
        return "newer-frame" if moment.newer_waiting else None


class Deadline(Policy):
    """Refine as long as the next step can be done within a fixed time from the frame's arrival.

    Args:
        deadline_ms: That time, in milliseconds.

    Raises:
        UsageError: If it is not positive.
    """

    def __init__(self, deadline_ms: float) -> None:
        if not deadline_ms > 0:
            raise UsageError(f"the deadline must be more than 0 ms, got {deadline_ms:g}")
        self._deadline_s = deadline_ms / 1e3

    def verdict(self, moment: Moment) -> Ended | None:
        """``"deadline"`` when the next step would in all likelihood end too late."""
        end_s = moment.now_s + moment.next_step_s
        return "deadline" if end_s > moment.arrival_s + self._deadline_s else None

    @property
    def deadline_s(self) -> float | None:
        """The deadline, in seconds from arrival."""
        return self._deadline_s


class Confident(Policy):
    """Refine until the answer is sure enough.

    Args:
        confidence: The probability that is enough, above 0 and up to 1.

    Raises:
        UsageError: If it is outside that range.
    """

    def __init__(self, confidence: float) -> None:
        if not 0 < confidence <= 1:
            raise UsageError(f"the confidence must be above 0 and at most 1, got {confidence:g}")
        self._confidence = confidence

    def verdict(self, moment: Moment) -> Ended | None:
        """``"confident"`` once the answer's probability has reached the threshold."""
        return "confident" if moment.confidence >= self._confidence else None
