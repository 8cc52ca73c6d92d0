"""The scheduler on a fake clock: what runs when, to the microsecond."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ann.clock import FakeClock
from stream_ann.errors import UsageError
from stream_ann.frames import Frame, FrameResult
from stream_ann.ingest import ScriptedSlot
from stream_ann.labels import Settled
from stream_ann.readout import Best
from stream_ann.scheduler import (
    Choice,
    Confident,
    Deadline,
    Path,
    Policy,
    Scheduler,
    StepTimes,
    UntilNextFrame,
    path_named,
)
from tests.fakes import FakeEngine, coded_image, plan_of_macs

NAMES = ["a", "b", "c", "d"]


def frames_at(arrivals_s: Sequence[float]) -> list[Frame]:
    return [Frame(coded_image(i), "fake", i, t, t) for i, t in enumerate(arrivals_s)]


def run(
    arrivals_s: Sequence[float], step_s: Sequence[float], policy: Policy | None = None
) -> tuple[list[FrameResult], ScriptedSlot, FakeEngine]:
    clock = FakeClock()
    slot = ScriptedSlot(frames_at(arrivals_s), clock)
    engine = FakeEngine(clock, step_s)
    scheduler = Scheduler(engine, slot, clock, classes=NAMES, policy=policy)
    return list(scheduler.results()), slot, engine


class TestUntilNextFrame:
    def test_refines_until_the_newer_frame_waits_and_no_longer(self):
        results, _, _ = run([0.0, 0.025, 0.200], [0.010, 0.010, 0.010, 0.010])
        first, second, third = results
        # at 10 and 20 ms nothing newer waits; at 30 ms the frame of 25 ms does
        assert [e.done_ms for e in first.exits] == pytest.approx([10, 20, 30])
        assert first.ended == "newer-frame"
        assert first.budget_ms == pytest.approx(25)
        # the second frame waited 5 ms for the step that was running
        assert [e.done_ms for e in second.exits] == pytest.approx([15, 25, 35, 45])
        assert second.ended == "complete"
        assert second.budget_ms is None
        assert third.ended == "complete"

    def test_a_frame_that_is_late_already_still_gets_its_first_answer(self):
        results, slot, _ = run([0.0, 0.001, 0.002, 0.003], [0.010, 0.010])
        assert [r.frame.index for r in results] == [0, 3]
        assert [len(r.exits) for r in results] == [1, 2]
        assert results[1].replaced_before == 2
        assert results[0].budget_ms == pytest.approx(1)  # the first that came, not the last
        assert slot.counts.replaced == 2

    def test_the_answer_is_that_of_its_own_frame_at_every_depth(self):
        arrivals_s = np.cumsum([0.0] + [0.003, 0.011, 0.027, 0.039] * 25)
        results, _, _ = run(arrivals_s.tolist(), [0.004, 0.008, 0.016])
        assert {len(r.exits) for r in results} == {1, 2, 3}
        for result in results:
            assert {e.class_id for e in result.exits} == {result.frame.index % 4}
            assert result.label == NAMES[result.frame.index % 4]

    def test_engine_is_started_once_a_frame_and_runs_nothing_twice(self):
        _, _, engine = run([0.0, 0.015, 0.100], [0.010, 0.010])
        assert engine.calls == [
            *[("start", 0), ("run", 0), ("run", 1)],
            *[("start", 1), ("run", 0), ("run", 1)],
            *[("start", 2), ("run", 0), ("run", 1)],
        ]


class TestDeadline:
    def test_a_step_that_cannot_finish_in_time_is_not_started(self):
        results, _, _ = run([0.0], [0.010, 0.010, 0.010], Deadline(25))
        assert [e.done_ms for e in results[0].exits] == pytest.approx([10, 20])
        assert results[0].ended == "deadline"
        assert results[0].budget_ms == pytest.approx(25)

    def test_the_first_step_runs_even_when_it_ends_too_late(self):
        results, _, _ = run([0.0], [0.010, 0.010], Deadline(1))
        assert len(results[0].exits) == 1
        assert results[0].final_ms > results[0].budget_ms

    @pytest.mark.parametrize("deadline_ms", [0, -1, float("nan")])
    def test_a_deadline_must_be_positive(self, deadline_ms):
        with pytest.raises(UsageError, match="deadline must be more than 0 ms"):
            Deadline(deadline_ms)

    def test_what_a_step_took_decides_not_what_it_was_thought_to_take(self):
        clock = FakeClock()
        slot = ScriptedSlot(frames_at([0.0, 1.0]), clock)
        engine = FakeEngine(clock, [0.010, 0.010])
        scheduler = Scheduler(engine, slot, clock, classes=NAMES, policy=Deadline(25))
        engine.step_s = (0.010, 0.020)  # the second step has become slower since it was timed
        first, second = scheduler.results()
        assert [e.done_ms for e in first.exits] == pytest.approx([10, 30])  # too late, as nobody could know
        assert [e.done_ms for e in second.exits] == pytest.approx([10])


class TestConfident:
    def test_stops_once_the_answer_is_sure_enough(self):
        # FakeEngine's confidences with three steps: 0.625, 0.75, 0.875
        results, _, _ = run([0.0], [0.010, 0.010, 0.010], Confident(0.75))
        assert len(results[0].exits) == 2
        assert results[0].ended == "confident"

    @pytest.mark.parametrize("confidence", [0, -0.1, 1.1, float("nan")])
    def test_a_confidence_must_be_a_probability(self, confidence):
        with pytest.raises(UsageError, match="confidence must be above 0"):
            Confident(confidence)


class TestBoth:
    def test_ends_as_soon_as_either_would(self):
        policy = UntilNextFrame() & Deadline(25) & Confident(0.9)
        results, _, _ = run([0.0, 0.011, 0.100], [0.010, 0.010, 0.010], policy)
        # the second frame starts at 20 ms with 16 ms of its 25 left: one step, not two
        assert [(len(r.exits), r.ended) for r in results] == [(2, "newer-frame"), (1, "deadline"), (2, "deadline")]

    def test_budget_is_the_shorter_of_deadline_and_gap(self):
        results, _, _ = run([0.0, 0.011, 0.100], [0.010] * 3, UntilNextFrame() & Deadline(25))
        assert results[0].budget_ms == pytest.approx(11)
        assert results[2].budget_ms == pytest.approx(25)


@given(
    gaps_us=st.lists(st.integers(0, 50_000), min_size=1, max_size=60),
    steps_us=st.lists(st.integers(1, 30_000), min_size=1, max_size=6),
    deadline_ms=st.none() | st.floats(0.1, 100),
    confidence=st.none() | st.floats(0.1, 1),
)
@settings(max_examples=150, deadline=None)
def test_every_frame_is_answered_or_counted_whatever_happens(gaps_us, steps_us, deadline_ms, confidence):
    policy: Policy = UntilNextFrame()
    if deadline_ms is not None:
        policy &= Deadline(deadline_ms)
    if confidence is not None:
        policy &= Confident(confidence)
    arrivals_s = np.cumsum(gaps_us) / 1e6
    results, slot, _ = run(arrivals_s.tolist(), [s / 1e6 for s in steps_us], policy)

    assert len(gaps_us) == len(results) + slot.counts.replaced
    assert sum(r.replaced_before for r in results) == slot.counts.replaced
    indices = [r.frame.index for r in results]
    assert indices == sorted(set(indices))
    assert indices[-1] == len(gaps_us) - 1  # the newest frame always wins
    ends_s = [r.frame.arrival_s + r.final_ms / 1e3 for r in results]
    assert ends_s == sorted(ends_s)
    for result in results:
        assert result.exits
        done = [e.done_ms for e in result.exits]
        assert done == sorted(done)
        assert [e.exit for e in result.exits] == list(range(len(done)))
        if result.ended == "complete":
            assert len(result.exits) == len(steps_us)


def test_stop_hands_out_the_present_frame_and_ends():
    clock = FakeClock()
    slot = ScriptedSlot(frames_at([0.0, 1.0, 2.0]), clock)

    class StoppingEngine(FakeEngine):
        def run(self, step):
            if step == 1:
                scheduler.stop()
            return super().run(step)

    scheduler = Scheduler(StoppingEngine(clock, [0.01] * 4), slot, clock, classes=NAMES)
    results = list(scheduler.results())
    assert [(len(r.exits), r.ended) for r in results] == [(2, "stopped")]


def test_partial_shows_the_exits_while_they_come():
    clock = FakeClock()
    slot = ScriptedSlot(frames_at([0.0]), clock)
    seen: list[int] = []

    class WatchedEngine(FakeEngine):
        def run(self, step):
            seen.append(len(scheduler.partial.exits) if scheduler.partial else 0)
            if scheduler.partial:
                (label, confidence), *others = scheduler.partial.top
                assert (label, confidence) == (scheduler.partial.label, scheduler.partial.confidence)
                assert len(others) == 1
            return super().run(step)

    scheduler = Scheduler(WatchedEngine(clock, [0.01] * 3), slot, clock, classes=NAMES, top_k=2)
    (result,) = scheduler.results()
    assert seen == [0, 1, 2]
    assert scheduler.partial is not None
    assert scheduler.partial.top == result.top
    assert len(scheduler.partial.exits) == 3


def test_the_readout_decides_the_label_and_names_its_exit():
    clock = FakeClock()
    slot = ScriptedSlot(frames_at([0.0]), clock)
    scheduler = Scheduler(FakeEngine(clock, [0.01] * 3), slot, clock, classes=NAMES, readout=Best([0.2, 0.9, 0.5]))
    (result,) = scheduler.results()
    assert result.exit == 1
    assert len(result.exits) == 3


def test_class_names_must_fit_the_plan():
    clock = FakeClock()
    with pytest.raises(ValueError, match="4 classes, got 2 names"):
        Scheduler(FakeEngine(clock, [0.01]), ScriptedSlot([], clock), clock, classes=["a", "b"])


class TestStepTimes:
    def test_starts_from_the_first_guess_and_follows_the_measurements(self):
        times = StepTimes([0.5, 0.1])
        assert times.p95_s(0) == 0.5
        for i in range(100):
            times.add(0, i / 1000)
        # the latest 64 runs are 36 to 99 ms; 95 % of them lie below the 61st
        assert times.p95_s(0) == pytest.approx(0.096)
        assert times.p95_s(1) == 0.1

    def test_a_single_slow_run_is_believed_until_there_are_more(self):
        times = StepTimes([0.1])
        times.add(0, 0.7)
        assert times.p95_s(0) == 0.7


class TestLabelling:
    class Pairs:
        """Groups the classes two by two, and calls final answers in capitals."""

        names = ("low", "high")

        def __init__(self) -> None:
            self.asked: list[tuple[int, int, bool]] = []

        def group(self, probabilities):
            return probabilities.reshape(2, 2).sum(axis=1)

        def settle(self, frame, answer, *, final):
            self.asked.append((frame.index, answer.exit, final))
            label = self.names[answer.class_id]
            return Settled(answer, label.upper() if final else label, answer.confidence / 2)

    def test_a_labelling_groups_every_exit_and_settles_every_answer(self):
        clock = FakeClock()
        slot = ScriptedSlot(frames_at([0.0, 1.0, 2.0]), clock)
        pairs = self.Pairs()
        scheduler = Scheduler(FakeEngine(clock, [0.01, 0.01]), slot, clock, classes=NAMES, labelling=pairs)
        results = list(scheduler.results())
        assert [r.label for r in results] == ["LOW", "LOW", "HIGH"]
        assert [[e.class_id for e in r.exits] for r in results] == [[0, 0], [0, 0], [1, 1]]
        # FakeEngine's confidences with two steps: 2/3, 5/6; a third of the rest falls to the other class of the pair
        assert [e.confidence for e in results[0].exits] == pytest.approx([2 / 3 + 1 / 9, 5 / 6 + 1 / 18])
        assert results[0].confidence == pytest.approx((5 / 6 + 1 / 18) / 2)
        assert [name for name, _ in results[2].top] == ["high", "low"]
        assert pairs.asked[:3] == [(0, 0, False), (0, 1, False), (0, 1, True)]
        assert scheduler.partial is not None
        assert scheduler.partial.label == "high"


class TestPath:
    def test_a_path_may_leave_out_steps_and_end_early(self):
        class FirstAndThird(Path):
            def choose(self, outlook):
                return Choice({None: 0, 0: 2}.get(outlook.last))

        clock = FakeClock()
        slot = ScriptedSlot(frames_at([0.0]), clock)
        engine = FakeEngine(clock, [0.01] * 4)
        scheduler = Scheduler(engine, slot, clock, classes=NAMES, path=FirstAndThird(engine.plan))
        (result,) = scheduler.results()
        assert [e.exit for e in result.exits] == [0, 2]
        assert result.ended == "complete"

    def test_an_unknown_name_is_met_with_the_known_ones(self):
        with pytest.raises(UsageError, match="no policy is called 'in-odrer'; did you mean 'in-order'"):
            path_named("in-odrer", plan_of_macs([1]))

    def test_what_is_typical_follows_a_change_of_pace_soon(self):
        times = StepTimes([0.1])
        for _ in range(60):
            times.add(0, 0.1)
        for _ in range(8):
            times.add(0, 0.2)
        assert times.typical_s(0) == 0.2
        assert times.p95_s(0) == 0.2
        assert times.careful_s(0) == 0.2
