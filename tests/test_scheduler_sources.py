"""Several sources on one engine, on a fake clock: who runs when, and that nobody starves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ann.clock import FakeClock
from stream_ann.errors import SourceError
from stream_ann.frames import Frame, FrameResult
from stream_ann.ingest import ScriptedInbox, ScriptedSlot
from stream_ann.scheduler import Confident, Deadline, Policy, Scheduler, UntilNextFrame, path_named
from stream_ann.scheduler.grouping import best_count
from tests.fakes import FakeLanes, coded_image

NAMES = ["a", "b", "c", "d"]


@dataclass
class Played:
    results: list[FrameResult]
    slots: list[ScriptedSlot]
    engine: FakeLanes
    scheduler: Scheduler
    clock: FakeClock

    def of(self, source: int) -> list[FrameResult]:
        return [r for r in self.results if r.frame.source == f"camera {source}"]

    def exits(self, source: int) -> list[int]:
        return [len(r.exits) for r in self.of(source)]


def play(
    arrivals_s: Sequence[Sequence[float]],
    step_s: Sequence[float],
    *,
    lanes: int | None = None,
    more: float | None = None,
    policy: Policy | None = None,
    path: str = "in-order",
    errors: Sequence[BaseException | None] = (),
    accuracies: Sequence[float] = (),
    members: Sequence[int] | None = None,
    queue_depth: int = 1,
    concurrent: bool = False,
) -> Played:
    """Frame ``i`` of source ``s`` is black but for the code ``s``, so that an answer tells which source it is of."""
    clock = FakeClock()
    slots = [
        ScriptedSlot(
            [Frame(coded_image(number), f"camera {number}", i, t, t) for i, t in enumerate(times)],
            clock,
            error=errors[number] if errors else None,
        )
        for number, times in enumerate(arrivals_s)
    ]
    engine = FakeLanes(
        clock,
        step_s,
        lanes=len(slots) if lanes is None else lanes,
        more=more,
        members=members,
        concurrent=concurrent,
    )
    scheduler = Scheduler(
        engine,
        slots,
        clock,
        classes=NAMES,
        policy=policy,
        path=path_named(path, engine.plan, accuracies),
        waiter=ScriptedInbox(slots, clock),
        queue_depth=queue_depth,
    )
    return Played(list(scheduler.results()), slots, engine, scheduler, clock)


def every(gap_s: float, count: int, start_s: float = 0.0) -> list[float]:
    return [start_s + gap_s * i for i in range(count)]


def assert_invariants(played: Played, arrivals: Sequence[Sequence[float]]) -> None:
    for number, (times, slot) in enumerate(zip(arrivals, played.slots, strict=True)):
        results = played.of(number)
        assert len(times) == len(results) + slot.counts.replaced
        assert sum(r.replaced_before for r in results) == slot.counts.replaced
        indices = [r.frame.index for r in results]
        assert indices == sorted(set(indices))
        if times:
            assert indices[-1] == len(times) - 1  # the newest frame always wins
        for result in results:
            assert {e.class_id for e in result.exits} == {number % 4}  # no answer of another lane's frame
            done = [e.done_ms for e in result.exits]
            assert done == sorted(done)
            assert done[0] > 0
            exits = [e.exit for e in result.exits]
            assert exits == sorted(set(exits))


class TestOrder:
    def test_first_exits_come_before_anyones_deep_ones(self):
        played = play([[0.0], [0.0], [0.0]], [0.010, 0.020])
        assert [call for call in played.engine.calls if call[0] == "run"] == [
            *[("run", 0, 0), ("run", 0, 1), ("run", 0, 2)],
            *[("run", 1, 0), ("run", 1, 1), ("run", 1, 2)],
        ]
        assert [r.first_ms for r in played.results] == pytest.approx([10, 20, 30])

    def test_a_frame_that_comes_while_others_are_deep_goes_first(self):
        played = play([[0.0], [0.015]], [0.010, 0.010, 0.010])
        runs = [call[1:] for call in played.engine.calls if call[0] == "run"]
        assert runs[:3] == [(0, 0), (1, 0), (0, 1)]
        assert played.of(1)[0].first_ms == pytest.approx(15)

    def test_the_nearest_deadline_goes_first(self):
        # camera 1 is four times as fast: its next frame is nearer
        slow, fast = every(0.4, 12), every(0.1, 45)
        played = play([slow, fast], [0.010])
        meeting = [r for r in played.results if 3.99 < r.frame.arrival_s < 4.01]
        assert [r.frame.source for r in meeting] == ["camera 1", "camera 0"]

    def test_then_the_step_that_gains_most_a_millisecond(self):
        # each 96 ms both have a frame after its first exit; camera 0 came first, but has no time left for the second
        arrivals = [every(0.016, 120), every(0.096, 20, start_s=0.0005)]
        played = play(arrivals, [0.001, 0.0145])
        assert_invariants(played, arrivals)
        for result in played.of(1)[2:]:
            assert [e.done_ms for e in result.exits] == pytest.approx([1.5, 16.0])

    def test_a_step_that_would_cost_another_source_its_answer_is_not_run(self):
        # 40 ms for a deep step are there, but not while camera 1 wants 4 ms in every 20
        arrivals = [every(0.100, 20), every(0.020, 100)]
        played = play(arrivals, [0.004, 0.040])
        assert played.slots[1].counts.replaced <= 5  # before the gaps are known
        assert set(played.exits(0)[4:-1]) == {1}
        assert {len(r.exits) for r in play([every(0.100, 20)], [0.004, 0.040]).results} == {2}

    def test_a_deadline_holds_for_each_frame_by_itself(self):
        played = play([[0.0], [0.0]], [0.010, 0.010], policy=UntilNextFrame() & Deadline(35))
        assert [(r.frame.source, len(r.exits), r.ended) for r in played.results] == [
            ("camera 0", 2, "complete"),
            ("camera 1", 1, "deadline"),
        ]

    def test_an_answer_that_is_sure_enough_leaves_the_engine_to_others(self):
        played = play([[0.0], [0.0]], [0.010, 0.010], policy=Confident(0.6))
        assert [len(r.exits) for r in played.results] == [1, 1]


class TestTogether:
    def test_frames_that_want_the_same_step_run_it_together_where_that_is_faster(self):
        played = play([[0.0]] * 4, [0.010, 0.010], more=0.1)
        assert [call for call in played.engine.calls if call[0] in ("run", "together")] == [
            ("together", 0, 0, 1, 2, 3),
            ("together", 1, 0, 1, 2, 3),
        ]
        assert_invariants(played, [[0.0]] * 4)

    @pytest.mark.parametrize("more", [None, 1.0, 1.2])
    def test_and_one_by_one_where_it_is_not(self, more):
        played = play([[0.0]] * 3, [0.010, 0.010], more=more)
        assert {call[0] for call in played.engine.calls} == {"start", "run"}

    def test_no_more_than_leaves_the_most_urgent_its_time(self):
        def takes_s(count: int) -> float:
            return 0.010 * (1 + (count - 1) * 0.5)

        assert best_count(takes_s, 8, left_s=1.0) == 8
        assert best_count(takes_s, 8, left_s=0.030) == 4
        assert best_count(takes_s, 8, left_s=0.012) == 1
        assert best_count(takes_s, 8, left_s=0.009) == 8  # too late in any case
        assert best_count(takes_s, 5, left_s=1.0) == 5

    def test_what_lanes_there_are_is_the_most(self):
        played = play([[0.0]] * 4, [0.010, 0.010], more=0.1, lanes=2)
        assert {len(call) - 2 for call in played.engine.calls if call[0] == "together"} == {2}
        assert_invariants(played, [[0.0]] * 4)


class TestLanes:
    def test_with_one_lane_a_deep_frame_makes_room_for_another_source(self):
        played = play([[0.0], [0.015]], [0.010] * 3, lanes=1)
        assert [(r.frame.source, len(r.exits), r.ended) for r in played.results] == [
            ("camera 0", 2, "newer-frame"),
            ("camera 1", 3, "complete"),
        ]

    def test_slots_lanes_and_waiter_must_fit(self):
        clock = FakeClock()
        slots = [ScriptedSlot([], clock), ScriptedSlot([], clock)]
        engine = FakeLanes(clock, [0.01], lanes=2)
        with pytest.raises(ValueError, match="several with a waiter"):
            Scheduler(engine, slots, clock, classes=NAMES)


class TestFailing:
    def test_one_dead_camera_does_not_slow_the_others(self):
        alone = play([every(0.03, 30)], [0.005, 0.010])
        beside = play([every(0.03, 30), []], [0.005, 0.010], errors=[None, SourceError("cable pulled")])
        assert [r.final_ms for r in beside.of(0)] == pytest.approx([r.final_ms for r in alone.of(0)])
        assert [str(e) if e else None for e in beside.scheduler.errors] == [None, "cable pulled"]

    def test_a_camera_that_dies_midway_gives_what_it_gave_and_the_others_go_on(self):
        arrivals = [every(0.03, 30), every(0.03, 5)]
        played = play(arrivals, [0.005], errors=[None, SourceError("cable pulled")])
        assert len(played.of(0)) == 30
        assert len(played.of(1)) == 5
        assert_invariants(played, arrivals)

    def test_the_others_failing_is_told_at_once(self):
        clock = FakeClock()
        slots = [ScriptedSlot([0.0, 1.0], clock), ScriptedSlot([0.5], clock, error=SourceError("no route"))]
        told: list[tuple[int, str, float]] = []
        scheduler = Scheduler(
            FakeLanes(clock, [0.01], lanes=2),
            slots,
            clock,
            classes=NAMES,
            waiter=ScriptedInbox(slots, clock),
            on_error=lambda number, error: told.append((number, str(error), clock.now_s())),
        )
        assert len(list(scheduler.results())) == 3
        assert told == [(1, "no route", pytest.approx(0.51))]

    def test_when_all_have_failed_the_first_error_is_raised(self):
        with pytest.raises(SourceError, match="first"):
            play([[0.0], [0.0]], [0.01], errors=[SourceError("first"), SourceError("second")])


@given(
    gaps_us=st.lists(st.lists(st.integers(0, 40_000), max_size=25), min_size=1, max_size=5),
    steps_us=st.lists(st.integers(1, 20_000), min_size=1, max_size=4),
    lanes=st.integers(1, 5),
    more=st.none() | st.floats(0.05, 1.5),
    deadline_ms=st.none() | st.floats(0.1, 100),
    path=st.sampled_from(["in-order", "planned"]),
    one_member=st.booleans(),
    queue_depth=st.integers(1, 3),
    concurrent=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_every_frame_of_every_source_is_answered_or_counted(
    gaps_us, steps_us, lanes, more, deadline_ms, path, one_member, queue_depth, concurrent
):
    arrivals = [(np.cumsum(gaps) / 1e6).tolist() for gaps in gaps_us]
    policy = UntilNextFrame() if deadline_ms is None else UntilNextFrame() & Deadline(deadline_ms)
    played = play(
        arrivals,
        [s / 1e6 for s in steps_us],
        lanes=lanes,
        more=more,
        policy=policy,
        path=path,
        members=[0] * len(steps_us) if one_member else None,
        queue_depth=queue_depth,
        concurrent=concurrent,
    )
    assert_invariants(played, arrivals)


@given(
    gaps_ms=st.lists(st.integers(2, 200), min_size=2, max_size=5),
    first_ms=st.integers(1, 20),
    deep_ms=st.integers(1, 60),
    lanes=st.integers(1, 5),
)
@settings(max_examples=40, deadline=None)
def test_nobody_starves_however_overloaded_the_engine_is(gaps_ms, first_ms, deep_ms, lanes):
    span_ms = 25 * min(gaps_ms) + 3 * max(gaps_ms)
    arrivals = [every(gap / 1e3, span_ms // gap) for gap in gaps_ms]
    played = play(arrivals, [first_ms / 1e3, deep_ms / 1e3], lanes=lanes)
    assert_invariants(played, arrivals)
    for number, gap in enumerate(gaps_ms):
        starts_s = [r.frame.arrival_s + r.first_ms / 1e3 for r in played.of(number)]
        longest_s = np.diff(starts_s).max() if len(starts_s) > 1 else 0.0
        # until a frame comes, until it is overdue (100 ms where the gap is not known), the step that runs then, and
        # twice a first step of everybody
        assert longest_s <= (gap + max(gap, 100) + deep_ms + 2 * len(gaps_ms) * first_ms) / 1e3 + 1e-6


def test_an_overloaded_engine_serves_all_sources_alike():
    arrivals = [every(1 / 30, 150) for _ in range(8)]
    played = play(arrivals, [0.010, 0.030])  # 100 first exits a second for 240 frames
    served = Counter(r.frame.source for r in played.results)
    assert max(served.values()) - min(served.values()) <= 3
    assert sum(served.values()) == pytest.approx(500, abs=12)
    assert {len(r.exits) for r in played.results[:-8]} == {1}  # nothing is left for deep steps


def test_enough_time_for_all_and_nobody_loses_a_frame():
    arrivals = [every(1 / 30, 60, start_s=i / 240) for i in range(8)]
    played = play(arrivals, [0.004, 0.030], more=0.3)
    assert sum(slot.counts.replaced for slot in played.slots) == 0
    assert {len(r.exits) for r in played.results} >= {1}


@pytest.mark.parametrize("path", ["in-order", "planned"])
def test_the_same_play_ends_the_same_way_twice(path):
    rng = np.random.default_rng(3)
    arrivals = [np.cumsum(rng.uniform(0.01, 0.06, 40)).tolist() for _ in range(4)]
    one, two = (play(arrivals, [0.004, 0.006, 0.012], more=0.4, path=path) for _ in range(2))
    assert [r.as_event() for r in one.results] == [r.as_event() for r in two.results]
