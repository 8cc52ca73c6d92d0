"""What holds for every policy, whatever comes: no frame is lost, no answer is late and counted as in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ann.clock import FakeClock
from stream_ann.frames import Frame, FrameResult
from stream_ann.ingest import ScriptedSlot
from stream_ann.scheduler import Background, Confident, Deadline, Policy, Scheduler, UntilNextFrame, path_named
from stream_ann.streaming import RunLog, Shown
from stream_ann.streaming.accuracy import moments
from stream_ann.streaming.figures import in_time
from tests.fakes import FakeLanes

POLICIES = ("in-order", "planned", "steady", "scene", "background")
EPSILON_S = 1e-9


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    steps = draw(st.integers(1, 6))
    kind = draw(st.sampled_from(["regular", "jittered", "any", "bursts"]))
    count = draw(st.integers(1, 90))
    gap_us = draw(st.integers(300, 60_000))
    if kind == "regular":
        gaps_us = [gap_us] * count
    elif kind == "bursts":
        gaps_us = [0 if i % 3 else 3 * gap_us for i in range(count)]
    else:
        most = 2 * gap_us if kind == "jittered" else 200_000
        gaps_us = draw(st.lists(st.integers(0, most), min_size=count, max_size=count))
    return {
        "arrivals_s": (np.cumsum(gaps_us) / 1e6).tolist(),
        "step_s": [s / 1e6 for s in draw(st.lists(st.integers(1, 60_000), min_size=steps, max_size=steps))],
        "members": np.cumsum([0, *draw(st.lists(st.integers(0, 1), min_size=steps - 1, max_size=steps - 1))]).tolist(),
        "accuracies": draw(st.lists(st.floats(0, 1), min_size=steps, max_size=steps)),
        "scene_frames": draw(st.integers(1, 40)),
        "deadline_ms": draw(st.none() | st.floats(0.1, 100)),
        "confidence": draw(st.none() | st.floats(0.3, 1)),
        "concurrent": draw(st.booleans()),
        "queue_depth": draw(st.integers(1, 3)),
    }


SCENES = np.random.default_rng(0).integers(0, 256, (4, 9, 16, 3), dtype=np.uint8)


def picture(number: int, scene: int) -> np.ndarray:
    image = SCENES[scene % len(SCENES)].copy()
    image[0, 0] = number % 256
    return image


def play(name: str, case: dict[str, Any]) -> tuple[list[Frame], list[FrameResult], ScriptedSlot]:
    clock = FakeClock()
    frames = [Frame(picture(i, i // case["scene_frames"]), "camera", i, t, t) for i, t in enumerate(case["arrivals_s"])]
    slot = ScriptedSlot(frames, clock)
    behind = name == "background"
    engine = FakeLanes(
        clock, case["step_s"], lanes=2 if behind else 1, members=case["members"], concurrent=case["concurrent"]
    )
    policy: Policy = UntilNextFrame()
    if case["deadline_ms"] is not None:
        policy = policy & Deadline(case["deadline_ms"])
    if case["confidence"] is not None:
        policy = policy & Confident(case["confidence"])
    scheduler = Scheduler(
        engine,
        slot,
        clock,
        classes=["a", "b", "c", "d"],
        policy=policy,
        path=path_named("in-order" if behind else name, engine.plan, case["accuracies"]),
        queue_depth=1 if behind else case["queue_depth"],
        background=Background(case["accuracies"]) if behind else None,
    )
    return frames, list(scheduler.results()), slot


def check(name: str, case: dict[str, Any]) -> None:
    frames, results, slot = play(name, case)
    # no frame is lost, and each that was taken has one result, in order
    assert len(frames) == len(results) + slot.counts.replaced
    assert sum(r.replaced_before for r in results) == slot.counts.replaced
    indices = [r.frame.index for r in results]
    assert indices == sorted(set(indices))
    assert indices[-1] == len(frames) - 1  # the newest is never left out
    behind_s = -1.0
    for result in results:
        # answers come one after another, about the frame's own picture, and none before there was time for it
        done_s = [result.frame.arrival_s + e.done_ms / 1e3 for e in result.exits]
        assert done_s == sorted(done_s)
        assert done_s[0] >= behind_s - EPSILON_S
        behind_s = done_s[-1]
        assert len({e.exit for e in result.exits}) == len(result.exits)
        assert {e.class_id for e in result.exits} == {result.frame.index % 256 % 4}
        assert min(e.done_ms for e in result.exits) / 1e3 >= min(case["step_s"]) - EPSILON_S
        assert 0 <= result.carried <= 1
        assert 0 <= result.confidence <= 1 + 1e-5
        if name in ("in-order", "planned", "steady"):
            assert result.carried == 0
    counted_in_time(frames, results)


def counted_in_time(frames: Sequence[Frame], results: Sequence[FrameResult]) -> None:
    """An answer that is there after the next frame has come is not in time; nobody else's answer makes up for it."""
    arrivals_s = np.array([frame.arrival_s for frame in frames])
    shown = tuple(
        Shown(r.frame.arrival_s + e.done_ms / 1e3, r.frame.index, e.class_id, e.exit) for r in results for e in r.exits
    )
    log = RunLog(arrivals_s, (frozenset({0}),) * len(frames), np.zeros(len(frames), np.intp), shown, tuple(results), ())
    first_s = {r.frame.index: r.frame.arrival_s + r.first_ms / 1e3 for r in results}
    ends_s = moments(arrivals_s, -1)
    for frame, timely in zip(frames, in_time(log).tolist(), strict=True):
        assert timely == (first_s.get(frame.index, np.inf) <= ends_s[frame.index])


@pytest.mark.parametrize("name", POLICIES)
@given(case=cases())
@settings(max_examples=25, deadline=None)
def test_holds_for_every_policy(name, case):
    check(name, case)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", POLICIES)
@given(case=cases())
@settings(max_examples=600, deadline=None)
def test_holds_for_every_policy_long(name, case):
    check(name, case)
