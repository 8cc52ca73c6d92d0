"""Paths, arrivals and queues in the scheduler, on a fake clock."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ann.clock import FakeClock
from stream_ann.frames import Frame, FrameResult
from stream_ann.ingest import ScriptedSlot
from stream_ann.scheduler import (
    Arrivals,
    Confident,
    Deadline,
    InOrder,
    Outlook,
    Planned,
    Policy,
    Scheduler,
    StepTimes,
    UntilNextFrame,
    path_named,
)
from stream_ann.scheduler.paths import exit_values
from tests.fakes import FakeLanes, coded_image, plan_of_macs

NAMES = ["a", "b", "c", "d"]
ACCURACIES = [0.39, 0.58, 0.65, 0.77]
STEPS_S = (0.004, 0.008, 0.013, 0.025)


def run(
    arrivals_s: Sequence[float],
    step_s: Sequence[float] = STEPS_S,
    *,
    path: str = "planned",
    policy: Policy | None = None,
    accuracies: Sequence[float | None] = ACCURACIES,
    members: Sequence[int] | None = None,
    queue_depth: int = 1,
    concurrent: bool = False,
    scene_frames: int = 1 << 30,
) -> tuple[list[FrameResult], ScriptedSlot, FakeLanes]:
    clock = FakeClock()
    # four shades of grey are a scene, and so are four much lighter ones
    codes = [i % 4 + 128 * (i // scene_frames % 2) for i in range(len(arrivals_s))]
    frames = [
        Frame(coded_image(code), "camera", i, t, t) for i, (code, t) in enumerate(zip(codes, arrivals_s, strict=True))
    ]
    slot = ScriptedSlot(frames, clock)
    engine = FakeLanes(clock, step_s, lanes=1, members=members, concurrent=concurrent)
    way = path_named(path, engine.plan, accuracies)
    scheduler = Scheduler(engine, slot, clock, classes=NAMES, path=way, policy=policy, queue_depth=queue_depth)
    results = list(scheduler.results())
    assert len(frames) == len(results) + slot.counts.replaced
    for result in results:
        assert {e.class_id for e in result.exits} == {result.frame.index % 4}
        done = [e.done_ms for e in result.exits]
        assert done == sorted(done)
    return results, slot, engine


def regular(fps: float, count: int = 60, jitter_s: float = 0.0) -> list[float]:
    noise = np.random.default_rng(0).normal(0, 1, count) * jitter_s
    return np.maximum.accumulate(np.maximum(0, np.arange(count) / fps + noise)).tolist()


def exits(result: FrameResult) -> list[int]:
    return [e.exit for e in result.exits]


def deadline_accuracy(results: list[FrameResult], arrivals_s: Sequence[float], accuracies: Sequence[float]) -> float:
    """Mean accuracy of each frame's last own answer by the time that the next frame comes; none counts as 0."""
    ends_s = dict(enumerate(arrivals_s[1:]))
    total = 0.0
    for result in results:
        end_s = ends_s.get(result.frame.index)
        if end_s is not None:
            done = [e.exit for e in result.exits if result.frame.arrival_s + e.done_ms / 1e3 <= end_s + 1e-9]
            total += accuracies[done[-1]] if done else 0.0
    return total / len(ends_s)


class TestPlanned:
    def test_runs_in_order_until_the_gaps_are_known_and_then_skips_what_is_superseded(self):
        # 4 + 25 ms end before the next frame comes after 31, another 8 would be too many
        results, _, _ = run(regular(32))
        assert {tuple(exits(r)) for r in results[:6]} == {(0, 1, 2), (0, 1, 2, 3)}
        assert {tuple(exits(r)) for r in results[12:-1]} == {(0, 3)}

    def test_the_last_frame_of_a_file_goes_on_to_the_end(self):
        results, _, _ = run(regular(60))
        assert results[-1].ended == "complete"
        assert exits(results[-1])[-1] == 3

    def test_a_pause_is_used_for_what_there_is_no_time_for_otherwise(self):
        arrivals_s = [*regular(60, 40), 2.0, *(2.0 + t for t in regular(60, 10)[1:])]
        results, _, _ = run(arrivals_s)
        before = next(r for r in results if r.frame.index == 39)
        assert exits(before)[-1] == 3
        # before that it waited: at the usual time of the next frame nothing was running
        late = [e for e in before.exits if e.exit == 3]
        assert late[0].done_ms > 1000 / 60 + 25

    def test_answers_by_the_next_frame_are_better_than_in_order(self):
        for fps, least in ((5, 0.0), (15, 0.0), (25, 0.1), (30, 0.1), (60, 0.05), (100, 0.0)):
            arrivals_s = regular(fps, 200, jitter_s=0.001)
            accuracy = {}
            for path in ("in-order", "planned"):
                results, _, _ = run(arrivals_s, path=path)
                accuracy[path] = deadline_accuracy(results, arrivals_s, ACCURACIES)
            assert accuracy["planned"] >= accuracy["in-order"] + least, f"{fps} fps: {accuracy}"

    def test_a_deadline_is_planned_for(self):
        # 4 + 25 ms end after 28, 4 + 13 before
        results, _, _ = run(regular(10), policy=UntilNextFrame() & Deadline(28))
        assert {tuple(exits(r)) for r in results[12:-1]} <= {(0, 2), (3,), (0, 1, 2), (1, 2)}
        assert {r.ended for r in results[12:-1]} == {"deadline"} or {exits(r)[-1] for r in results[12:-1]} == {3}
        assert max(r.final_ms for r in results[12:-1]) <= 28

    def test_confidence_ends_a_planned_frame_too(self):
        results, _, _ = run(regular(25), policy=UntilNextFrame() & Confident(0.55))
        assert {len(r.exits) for r in results} == {1}
        assert {r.ended for r in results} == {"confident"}

    def test_steps_of_a_member_stay_in_order(self):
        # FakeLanes fails where a step is run without the one before
        results, _, _ = run(regular(40), (0.002, 0.004, 0.005, 0.006, 0.007), members=[0, 1, 1, 2, 2], accuracies=[])
        assert results[20].exits

    def test_steps_that_have_become_slower_are_planned_with(self):
        clock = FakeClock()
        slot = ScriptedSlot([Frame(coded_image(i), "camera", i, t, t) for i, t in enumerate(regular(30, 300))], clock)
        engine = FakeLanes(clock, STEPS_S, lanes=1)
        scheduler = Scheduler(engine, slot, clock, classes=NAMES, path=path_named("planned", engine.plan, ACCURACIES))
        results = []
        for result in scheduler.results():
            results.append(result)
            if len(results) == 100:
                engine.step_s = tuple(2 * s for s in STEPS_S)
        assert exits(results[90])[-1] == 3
        assert {exits(r)[-1] for r in results[250:-1]} == {2}

    def test_each_source_has_plans_of_its_own(self):
        planned = Planned(plan_of_macs([1, 1]), [0.4, 0.6])
        assert planned.for_source() is not planned
        in_order = InOrder(plan_of_macs([1, 1]))
        assert in_order.for_source() is in_order

    def test_sharing_the_engine_makes_steps_longer(self):
        arrivals = Arrivals()
        for _ in range(20):
            arrivals.add(0.035)
        planned = Planned(plan_of_macs([1] * 4), ACCURACIES)
        times = StepTimes(STEPS_S)
        alone, shared = (planned.choose(Outlook(0, 0.004, times, arrivals, sharers=sharers)).step for sharers in (1, 2))
        assert (alone, shared) == (3, 2)


class TestExitValues:
    def test_the_cards_accuracies_where_all_are_known(self):
        assert exit_values(plan_of_macs([1, 1]), [0.3, 0.2]) == (0.3, 0.2)

    @pytest.mark.parametrize("accuracies", [(), (None, None), (0.9, None)])
    def test_else_each_is_better_than_the_one_before(self, accuracies):
        assert exit_values(plan_of_macs([1, 1]), accuracies) == (0.5, 1.0)


@given(
    gaps_us=st.lists(st.integers(0, 80_000), min_size=1, max_size=80),
    steps_us=st.lists(st.integers(1, 40_000), min_size=1, max_size=5),
    members=st.lists(st.integers(0, 1), min_size=5, max_size=5),
    deadline_ms=st.none() | st.floats(0.1, 100),
    queue_depth=st.integers(1, 3),
    concurrent=st.booleans(),
    path=st.sampled_from(["in-order", "planned"]),
)
@settings(max_examples=150, deadline=None)
def test_every_frame_is_answered_or_counted_whatever_happens(
    gaps_us, steps_us, members, deadline_ms, queue_depth, concurrent, path
):
    arrivals_s = (np.cumsum(gaps_us) / 1e6).tolist()
    owners = np.cumsum([0, *members[: len(steps_us) - 1]]).tolist()
    results, slot, _ = run(
        arrivals_s,
        [s / 1e6 for s in steps_us],
        path=path,
        policy=None if deadline_ms is None else UntilNextFrame() & Deadline(deadline_ms),
        accuracies=[],
        members=owners,
        queue_depth=queue_depth,
        concurrent=concurrent,
    )
    assert sum(r.replaced_before for r in results) == slot.counts.replaced
    assert results[-1].frame.index == len(gaps_us) - 1
    ends_s = [r.frame.arrival_s + r.final_ms / 1e3 for r in results]
    assert ends_s == sorted(ends_s)


class TestQueue:
    def test_the_engine_has_the_next_step_before_the_last_answer_is_there(self):
        results, _, engine = run([0.0, 1.0], path="in-order", queue_depth=2, concurrent=True)
        assert engine.calls[:5] == [
            ("start", 0, 0),
            ("run", 0, 0),
            ("submit", 1, 0),
            ("submit", 2, 0),
            ("submit", 3, 0),
        ]
        assert [e.done_ms for e in results[0].exits] == pytest.approx([4, 12, 25, 50])

    def test_a_newer_frame_abandons_what_is_queued(self):
        results, _, _ = run([0.0, 0.006, 0.5], path="in-order", queue_depth=3, concurrent=True)
        assert [e.done_ms for e in results[0].exits] == pytest.approx([4, 12])
        assert [e.done_ms for e in results[1].exits] == pytest.approx([10, 18, 31, 56])

    def test_one_step_at_a_time_by_default(self):
        _, _, engine = run([0.0], path="in-order", concurrent=True)
        assert {call[0] for call in engine.calls} == {"start", "run"}


class TestArrivals:
    def filled(self, *gaps_s: float) -> Arrivals:
        arrivals = Arrivals()
        for gap_s in gaps_s:
            arrivals.add(gap_s)
        return arrivals

    def test_nothing_is_known_before_the_first_gap(self):
        arrivals = Arrivals()
        assert not arrivals.known
        assert arrivals.mean_s is None
        assert arrivals.quantile_s(0.5) == 0.0
        assert arrivals.chance(0.0, 10.0) == 1.0

    def test_gaps_follow_from_the_frames_taken(self):
        arrivals = Arrivals()
        for arrival_s, replaced, first_s in ((0.0, 0, None), (0.03, 0, None), (0.15, 3, 0.07), (0.25, 1, None)):
            arrivals.took(arrival_s, replaced=replaced, first_s=first_s)
        # to the next frame; to the first of four; and, of two of which the first is not known, the mean
        assert arrivals.gaps_s == pytest.approx([0.03, 0.04, 0.05])
        assert arrivals.mean_s == pytest.approx(0.25 / 7)  # counted over the span, replaced frames included
        assert arrivals.last_s == 0.25

    def test_a_pause_is_part_of_the_distribution_but_not_of_the_rate(self):
        arrivals = self.filled(*[0.04] * 19, 5.0)
        assert arrivals.mean_s == pytest.approx(0.04)
        assert arrivals.quantile_s(1.0) == 5.0
        assert arrivals.chance(0.0, 0.1) == pytest.approx(2 / 21)
        assert arrivals.chance(0.05, 0.1) == 1.0

    def test_the_chance_is_the_share_of_gaps_that_are_long_enough(self):
        arrivals = self.filled(0.01, 0.02, 0.03, 0.04)
        assert arrivals.chance(0.0, 0.025) == pytest.approx(3 / 5)
        assert arrivals.chance(0.015, 0.01) == pytest.approx(3 / 4)

    def test_only_the_latest_gaps_count(self):
        arrivals = Arrivals(window=4)
        for gap_s in (1.0, 1.0, 0.1, 0.1, 0.1, 0.1):
            arrivals.add(gap_s)
        assert arrivals.gaps_s == [0.1] * 4
        assert arrivals.mean_s == pytest.approx(0.1)
        assert arrivals.seen == 6

    @given(
        period_ms=st.integers(5, 200),
        jitter=st.floats(0, 0.3),
        lost=st.floats(0, 0.8),
        seed=st.integers(0, 99),
    )
    @settings(max_examples=50, deadline=None)
    def test_the_rate_is_right_whatever_is_replaced(self, period_ms, jitter, lost, seed):
        random = np.random.default_rng(seed)
        period_s = period_ms / 1e3
        times_s = np.sort(np.arange(300) * period_s + random.uniform(-jitter, jitter, 300) * period_s)
        arrivals, replaced, first_s = Arrivals(), 0, None
        for time_s in times_s:
            if random.random() < lost:
                replaced, first_s = replaced + 1, first_s if replaced else float(time_s)
                continue
            arrivals.took(float(time_s), replaced=replaced, first_s=first_s if replaced else None)
            replaced, first_s = 0, None
        if arrivals.known:
            assert arrivals.mean_s == pytest.approx(period_s, rel=0.1)
            assert arrivals.quantile_s(0.5) == pytest.approx(period_s, rel=0.7)
