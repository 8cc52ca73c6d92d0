"""What an engine of lanes must get right, on whatever device: driven at random, each answer checked."""

from __future__ import annotations

import random
import threading
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stream_ann.lanes import LaneEngine
from stream_ann.nets.contract import AnytimeNet, Member, State, Step
from stream_ann.preprocess import Preprocessing, preprocess

CODES = 27
_seeding = threading.Lock()
PLAIN = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop=1.0)
CLASSES = 5
CODE_ATOL = 5e-3
"""How far a 16-bit answer may be off; the answers of two codes are five times as far apart at least."""


class CodeStep(Step):
    """Answers with a function of the picture's colour and of what all steps before it made of it."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 3)
        self.head = nn.Linear(3, CLASSES)
        nn.init.orthogonal_(self.mix.weight)
        nn.init.uniform_(self.mix.bias, -0.2, 0.2)
        nn.init.eye_(self.head.weight)
        self.head.weight.data.mul_(2)
        self.first = first

    def forward(self, images: Tensor, state: State) -> tuple[State, Tensor]:
        features = self.mix(images.mean((2, 3)) - 0.5 if self.first else state[0])
        return (features,), self.head(features)


class CodeNet(AnytimeNet):
    """Three members of 2, 1 and 3 steps at two resolutions, whose answers tell which frame and step they belong to."""

    classes = CLASSES

    def __init__(self) -> None:
        super().__init__()
        with _seeding:  # the generator belongs to the whole process, and some tests have two threads
            torch.manual_seed(1)
            self.parts = nn.ModuleList(CodeStep(first) for first in (True, False, True, True, False, False))

    def members(self):
        steps = tuple(self.parts)
        return [Member("a", 8, steps[:2]), Member("b", 12, steps[2:3]), Member("c", 8, steps[3:])]


def coded(code: int, side_px: int = 8) -> NDArray[np.uint8]:
    """A picture of one of 27 colours."""
    colour = np.array([code % 3, code // 3 % 3, code // 9 % 3], dtype=np.uint8) * 127
    return np.broadcast_to(colour, (side_px, side_px, 3)).copy()


def answers_of(net: AnytimeNet, image: NDArray[np.uint8], preprocessing: Preprocessing) -> list[NDArray[np.float32]]:
    """The probabilities of every exit, from the network's own definition, in float32 on the CPU."""
    answers = []
    with torch.inference_mode():
        for member in net.members():
            images, state = preprocess(image, member.resolution_px, preprocessing), ()
            for step in member.steps:
                state, logits = step(images, state)
                answers.append(torch.softmax(logits[0], 0).numpy())
    return answers


@dataclass
class _Lane:
    code: int | None = None
    last: int | None = None
    submitted: deque[int] = field(default_factory=deque)


class Driver:
    """Drives an engine on a :class:`CodeNet` as no sane scheduler would, and checks every answer that comes out.

    Frames go to random lanes, are abandoned at any step with any number of steps in the queue, skip members, change
    their size, are overwritten by the caller as soon as the engine has taken them in, and run a step as a batch now and
    then.
    """

    def __init__(
        self,
        engine: LaneEngine,
        seed: int,
        *,
        atol: float,
        sides_px: tuple[int, ...] = (8, 8, 8, 9, 13),
        batches: float = 0.15,
    ) -> None:
        self.engine, self.random, self.atol = engine, random.Random(seed), atol
        self.sides_px, self.batches = sides_px, batches
        net = CodeNet()
        self.expected = [answers_of(net, coded(code), PLAIN) for code in range(CODES)]
        self.lanes = [_Lane() for _ in range(engine.lanes)]
        self.frames = self.collected = 0

    def drive(self, frames: int, *, depth: int) -> None:
        """Start so many frames, with at most ``depth`` steps of a lane in the queue."""
        for _ in range(frames):
            lane = self.random.randrange(len(self.lanes))
            self.start(lane, code=self.random.randrange(CODES))
            for _ in range(self.random.randrange(8)):
                self.act(self.random.choice((lane, lane, self.random.randrange(len(self.lanes)))), depth)

    def start(self, lane: int, code: int) -> None:
        image = coded(code, self.random.choice(self.sides_px))
        self.engine.start(image, lane=lane)
        image[:] = 200
        self.lanes[lane] = _Lane(code)
        self.frames += 1

    def act(self, lane: int, depth: int) -> None:
        at = self.lanes[lane]
        step = self._next_step(at)
        if at.code is None:
            return
        if step is not None and len(self.lanes) > 1 and self.random.random() < self.batches:
            self.together(step)
            return
        if step is not None and len(at.submitted) < depth and self.random.random() < 0.6:
            if not at.submitted and self.random.random() < 0.3:
                self._check(at.code, step, self.engine.run(step, lane=lane))
            else:
                self.engine.submit(step, lane=lane)
                at.submitted.append(step)
            at.last = step
        elif at.submitted:
            self.collect(lane, timeout_s=self.random.choice((0.0, 1e-3, None)))

    def together(self, step: int) -> None:
        """Run a step of all lanes that could run it next as one batch."""
        alike = [n for n, at in enumerate(self.lanes) if at.code is not None and step in self._possible(at)]
        self.random.shuffle(alike)
        answers = self.engine.run_together(step, alike)
        for lane, probabilities in zip(alike, answers, strict=True):
            at = self.lanes[lane]
            assert at.code is not None
            self._check(at.code, step, probabilities)
            at.last = step

    def collect(self, lane: int, timeout_s: float | None = None) -> None:
        at = self.lanes[lane]
        answer = self.engine.collect(lane, timeout_s=timeout_s)
        if answer is None:
            assert timeout_s is not None
            return
        assert at.code is not None
        assert answer.device_s is None or answer.device_s >= 0
        self._check(at.code, at.submitted.popleft(), answer.probabilities)

    def _next_step(self, at: _Lane) -> int | None:
        possible = self._possible(at)
        return self.random.choice(possible[:2]) if possible else None

    def _possible(self, at: _Lane) -> list[int]:
        steps = self.engine.plan.steps
        later = [i for i in range(len(steps)) if i > (-1 if at.last is None else at.last)]
        return [i for i in later if steps[i].first or i - 1 == at.last]

    def _check(self, code: int, step: int, probabilities: NDArray[np.float32]) -> None:
        self.collected += 1
        expected = self.expected[code][step]
        if not np.abs(probabilities - expected).max() <= self.atol:  # nor what is not a number
            near = [
                f"step {s} of a frame of code {c}"
                for c, answers in enumerate(self.expected)
                for s, other in enumerate(answers)
                if np.abs(probabilities - other).max() <= self.atol
            ]
            raise AssertionError(
                f"frame {self.frames}: step {step} of code {code} answered as {near or 'nothing known'}"
            )


def worst_confusion() -> float:
    """The smallest difference between answers of different codes at one step: tolerances must be well below half."""
    net = CodeNet()
    table = np.array([answers_of(net, coded(code), PLAIN) for code in range(CODES)])
    gaps = np.abs(table[:, None] - table[None]).max(-1)
    gaps[np.arange(CODES), np.arange(CODES)] = 1
    return float(gaps.min())
