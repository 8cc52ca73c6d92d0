"""Fakes for time and devices, so that scheduling can be tested to the microsecond."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stream_ann.clock import FakeClock
from stream_ann.nets.contract import Plan, StepInfo


def plan_of_macs(macs: Sequence[int], *, classes: int = 4, members: Sequence[int] | None = None) -> Plan:
    """A plan with the given costs; ``members`` gives each step's member, by default a member of its own each."""
    owners = list(range(len(macs))) if members is None else list(members)
    steps = [
        StepInfo(
            name=f"step{i}",
            member=owners[i],
            resolution_px=32,
            first=i == 0 or owners[i] != owners[i - 1],
            macs=m,
        )
        for i, m in enumerate(macs)
    ]
    return Plan(tuple(steps), classes)


class FakeEngine:
    """Takes ``step_s`` of a fake clock's time for each step, and answers with a code read from the picture.

    The class is ``image[0, 0, 0]`` modulo the number of classes, the confidence grows with the exit, so that an answer
    can be traced to the frame and the step that it came from.
    """

    def __init__(self, clock: FakeClock, step_s: Sequence[float], *, classes: int = 4) -> None:
        self._clock = clock
        self.step_s = tuple(step_s)
        self.plan = plan_of_macs([1] * len(self.step_s), classes=classes)
        self.calls: list[tuple[str, int]] = []
        self._code = -1

    def start(self, image: np.ndarray) -> None:
        self._code = int(image[0, 0, 0])
        self.calls.append(("start", self._code))

    def run(self, step: int) -> np.ndarray:
        self._clock.advance(self.step_s[step])
        self.calls.append(("run", step))
        confidence = 0.5 + 0.5 * (step + 1) / (len(self.step_s) + 1)
        classes = self.plan.classes
        probabilities = np.full(classes, (1 - confidence) / (classes - 1), dtype=np.float32)
        probabilities[self._code % classes] = confidence
        return probabilities


def coded_image(code: int) -> np.ndarray:
    """A small picture that carries a number that :class:`FakeEngine` answers with."""
    return np.full((2, 2, 3), code % 256, dtype=np.uint8)
