"""Fakes for time and devices, so that scheduling can be tested to the microsecond."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stream_ann.clock import FakeClock
from stream_ann.lanes import Answer
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
        return answer_of(self._code, step, len(self.step_s), self.plan.classes)


class FakeLanes:
    """A :class:`FakeEngine` that holds a frame in each of several lanes.

    A step for ``n`` frames at once takes ``1 + (n - 1) * more`` times as long as for one. A submitted step takes effect
    when it is done: concurrently the lanes run side by side on the fake clock, else submitting takes its time.
    """

    name = description = "fake"

    def __init__(
        self,
        clock: FakeClock,
        step_s: Sequence[float],
        *,
        lanes: int,
        classes: int = 4,
        members: Sequence[int] | None = None,
        more: float | None = None,
        concurrent: bool = False,
    ) -> None:
        self._clock = clock
        self._more = more
        self.step_s = tuple(step_s)
        self.plan = plan_of_macs([1] * len(self.step_s), classes=classes, members=members)
        self.lanes = lanes
        self.concurrent = concurrent
        self.calls: list[tuple[object, ...]] = []
        self._codes = [-1] * lanes
        self._last: list[int | None] = [None] * lanes
        self._done: list[set[int]] = [set() for _ in range(lanes)]
        self._queues: list[list[tuple[float, int, int]]] = [[] for _ in range(lanes)]

    def start(self, image: np.ndarray, *, lane: int = 0) -> None:
        self._codes[lane] = int(image[0, 0, 0])
        self._last[lane] = None
        self._done[lane].clear()
        self._queues[lane].clear()
        self.calls.append(("start", self._codes[lane], lane))

    def run(self, step: int, *, lane: int = 0) -> np.ndarray:
        assert not self._queues[lane], "run() among submitted steps"
        self._follow(step, lane)
        self._clock.advance(self.step_s[step])
        self.calls.append(("run", step, lane))
        return self._answer(step, self._codes[lane])

    def run_together(self, step: int, lanes: Sequence[int]) -> np.ndarray:
        assert self._more is not None
        assert len(set(lanes)) == len(lanes)
        for lane in lanes:
            self._follow(step, lane)
        seconds = self.together_s(step, len(lanes))
        assert seconds is not None
        self._clock.advance(seconds)
        self.calls.append(("together", step, *lanes))
        return np.stack([self._answer(step, self._codes[lane]) for lane in lanes])

    def together_s(self, step: int, count: int) -> float | None:
        return None if self._more is None else self.step_s[step] * (1 + (count - 1) * self._more)

    def submit(self, step: int, *, lane: int = 0) -> None:
        self._follow(step, lane)
        queue = self._queues[lane]
        begun_s = max(self._clock.now_s(), queue[-1][0] if queue else 0.0)
        queue.append((begun_s + self.step_s[step], step, self._codes[lane]))
        self.calls.append(("submit", step, lane))
        if not self.concurrent:
            self._clock.advance_to(queue[-1][0])

    def collect(self, lane: int = 0, *, timeout_s: float | None = None) -> Answer | None:
        if not self._queues[lane]:
            raise ValueError("nothing submitted")
        done_s, step, code = self._queues[lane][0]
        if timeout_s is not None and done_s > self._clock.now_s() + timeout_s:
            self._clock.advance(timeout_s)
            return None
        self._clock.advance_to(done_s)
        del self._queues[lane][0]
        return Answer(self._answer(step, code), self.step_s[step])

    def close(self) -> None:
        pass

    def _follow(self, step: int, lane: int) -> None:
        """Hold whoever uses the engine to the order of steps."""
        assert self._codes[lane] >= 0, "no picture yet"
        last = self._last[lane]
        assert self.plan.steps[step].first or last == step - 1, f"step {step} after {last}"
        assert step not in self._done[lane], f"step {step} again"
        self._last[lane] = step
        self._done[lane].add(step)

    def _answer(self, step: int, code: int) -> np.ndarray:
        return answer_of(code, step, len(self.step_s), self.plan.classes)


def answer_of(code: int, step: int, steps: int, classes: int) -> np.ndarray:
    """Probabilities that say which picture and which step they come from."""
    confidence = 0.5 + 0.5 * (step + 1) / (steps + 1)
    probabilities = np.full(classes, (1 - confidence) / (classes - 1), dtype=np.float32)
    probabilities[code % classes] = confidence
    return probabilities


def coded_image(code: int) -> np.ndarray:
    """A small picture that carries a number that :class:`FakeEngine` answers with."""
    return np.full((2, 2, 3), code % 256, dtype=np.uint8)
