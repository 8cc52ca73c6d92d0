"""Streams on paper: scoring, arrivals, films, and the engine on a fake clock."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ann.clock import FakeClock
from stream_ann.errors import SourceNotFoundError, UsageError
from stream_ann.streaming import (
    AnswerTable,
    Film,
    Shot,
    Shown,
    SimulatedEngine,
    TimeTable,
    arrivals_at,
    film_photograph,
    gaps_from,
    jittered_gaps,
    mean_of,
    ratio_of,
    read_trace,
    streaming_correct,
)
from stream_ann.streaming.accuracy import moments
from tests.fakes import plan_of_macs


def film_of(truths, scenes, shown_s) -> Film:
    pictures = [np.full((4, 4, 3), i, dtype=np.uint8) for i in range(len(truths))]
    return Film(
        "film", pictures.__getitem__, tuple(map(frozenset, truths)), np.array(scenes), np.array(shown_s, dtype=float)
    )


class TestStreamingAccuracy:
    def test_scores_what_is_shown_at_each_frames_moment(self):
        arrivals_s = np.array([0.0, 1.0, 2.0, 3.0])
        truths = [frozenset({c}) for c in (0, 1, 1, 2)]
        shown = [Shown(0.9, 0, 0, 0), Shown(2.0, 1, 1, 0), Shown(3.5, 2, 2, 0)]
        # at the ends 1, 2, 3, 4: 0, 1 (just there), 1, 2
        assert streaming_correct(shown, arrivals_s, truths, eta=-1).tolist() == [True, True, True, True]
        # at the arrivals 0, 1, 2, 3: nothing, 0, 1, 1
        assert streaming_correct(shown, arrivals_s, truths, eta=0).tolist() == [False, False, True, False]

    def test_an_answer_a_microsecond_late_does_not_count(self):
        late = [Shown(1.000001, 0, 0, 0)]
        assert not streaming_correct(late, np.array([0.0, 1.0]), [frozenset({0})] * 2, eta=-1)[0]

    def test_nothing_shown_is_wrong(self):
        assert not streaming_correct([], np.array([0.0, 1.0]), [frozenset({0})] * 2, eta=-1).any()

    def test_moments_lie_between_uneven_arrivals(self):
        arrivals_s = np.array([0.0, 1.0, 4.0])
        assert moments(arrivals_s, 0).tolist() == [0, 1, 4]
        assert moments(arrivals_s, -1).tolist() == [1, 4, 6]  # the last one has the mean interval of 2
        assert moments(arrivals_s, -0.5).tolist() == [0.5, 2.5, 5]
        assert moments(arrivals_s, 1).tolist() == [-2, 0, 1]

    @settings(max_examples=200, deadline=None)
    @given(st.data())
    def test_is_what_going_through_all_answers_gives(self, data):
        times = st.integers(0, 50).map(lambda t: t / 10)
        arrivals_s = np.array(sorted(data.draw(st.lists(times, min_size=1, max_size=12))))
        done_s = sorted(data.draw(st.lists(times, max_size=15)))
        shown = [Shown(t, 0, data.draw(st.integers(0, 2)), 0) for t in done_s]
        truths = [frozenset(data.draw(st.sets(st.integers(0, 2), max_size=2))) for _ in arrivals_s]
        eta = data.draw(st.sampled_from([0, -1]))
        found = streaming_correct(shown, arrivals_s, truths, eta=eta)
        for moment, truth, right in zip(moments(arrivals_s, eta), truths, found, strict=True):
            last = None
            for answer in shown:
                if answer.time_s <= moment:
                    last = answer
            assert right == (last is not None and last.class_id in truth)


class TestErrors:
    def test_frames_of_one_scene_count_as_one(self):
        scenes = np.repeat(np.arange(4), 100)
        values = np.repeat([1.0, 1.0, 0.0, 0.0], 100)
        mean = mean_of(values, scenes)
        assert mean.value == 0.5
        assert mean.error == pytest.approx(math.sqrt(4 / 3 * 4 * 50**2) / 400)  # four deviations of 50 frames each
        each = mean_of(values, np.arange(400))
        assert each.error == pytest.approx(0.5 / math.sqrt(399))

    def test_one_scene_leaves_no_way_of_telling(self):
        assert mean_of(np.array([True, False]), np.array([3, 3])).error is None

    def test_what_two_have_in_common_is_no_error_of_their_ratio(self):
        random = np.random.default_rng(0)
        below = random.integers(0, 2, 500).astype(float)
        assert ratio_of(below, below, np.arange(500)).error == pytest.approx(0, abs=1e-12)
        assert ratio_of(2 * below, below, np.arange(500)).value == pytest.approx(2)

    def test_the_error_of_a_ratio_is_how_much_it_varies(self):
        random = np.random.default_rng(1)
        ratios, errors = [], []
        for _ in range(300):
            right = random.random((100, 1)) < 0.6
            above = (right & (random.random((100, 5)) < 0.9)).astype(float).ravel()
            below = np.repeat(right, 5, axis=1).astype(float).ravel()
            ratio = ratio_of(above, below, np.repeat(np.arange(100), 5))
            ratios.append(ratio.value)
            errors.append(ratio.error)
        assert np.mean(errors) == pytest.approx(np.std(ratios), rel=0.15)

    def test_nothing_over_nothing_is_one(self):
        nothing = np.zeros(3)
        assert ratio_of(nothing, nothing, np.arange(3)).value == 1
        assert ratio_of(np.ones(3), nothing, np.arange(3)).value == math.inf


class TestArrivals:
    def test_regular_ones_do_not_drift(self):
        arrivals_s = arrivals_at(30, 100)
        assert len(arrivals_s) == 3000
        assert arrivals_s[2999] == pytest.approx(2999 / 30, abs=1e-12)

    def test_a_trace_keeps_its_pattern_at_another_rate(self):
        gaps = gaps_from([0.0, 1.0, 4.0])
        assert gaps.tolist() == [0.5, 1.5]
        assert arrivals_at(10, 0.5, gaps).tolist() == pytest.approx([0, 0.05, 0.2, 0.25, 0.4])

    @pytest.mark.parametrize("fps", [0, -1, math.nan, math.inf])
    def test_a_rate_must_be_positive(self, fps):
        with pytest.raises(UsageError, match="frames a second makes no sense"):
            arrivals_at(fps, 1)

    def test_jitter_delays_and_never_reorders(self):
        gaps = jittered_gaps(2000, 0)
        assert gaps.min() >= 0
        assert gaps.mean() == pytest.approx(1)
        assert gaps.max() > 2  # a key frame keeps the others waiting
        assert (jittered_gaps(2000, 0) == gaps).all()
        assert (jittered_gaps(2000, 1) != gaps).any()
        assert jittered_gaps(50, 0, jitter=0)[:20].tolist() == pytest.approx([gaps_from(range(2))[0]] * 20, rel=0.1)

    def test_reads_times_and_events(self, tmp_path):
        trace = tmp_path / "trace.txt"
        events = [json.dumps({"frame": i, "arrival_s": t}) for i, t in enumerate((5.0, 6.0, 9.0))]
        for lines in (["# seconds", "5", "", "6.0", "9e0"], events):
            trace.write_text("\n".join(lines))
            assert read_trace(trace).tolist() == [0.5, 1.5]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("1\nsoon\n", "line 2 of .* is no arrival: 'soon'"),
            ('1\n{"frame": 3}\n', "line 2"),
            ("1\nNaN\n", "line 2"),
            ("1\ntrue\n", "line 2"),
            ("3\n1\n", "in order"),
            ("1\n", "1 arrivals says nothing"),
            ("", "0 arrivals says nothing"),
            ("2\n2\n", "same time"),
        ],
    )
    def test_says_what_is_wrong_with_a_trace(self, tmp_path, content, message):
        trace = tmp_path / "trace.txt"
        trace.write_text(content)
        with pytest.raises(UsageError, match=message):
            read_trace(trace)

    def test_says_that_there_is_no_trace(self, tmp_path):
        with pytest.raises(SourceNotFoundError, match="there is no file"):
            read_trace(tmp_path / "no.txt")


class TestFilm:
    def test_shows_each_picture_for_its_time_and_begins_again(self):
        film = film_of([{0}, {1}, {2}], [0, 0, 1], [0.5, 0.25, 0.25])
        times_s = [0, 0.49, 0.5, 0.74, 0.75, 0.99, 1.0, 1.6, 100.75]
        assert film.seen_at(times_s).tolist() == [0, 0, 1, 1, 2, 2, 0, 1, 2]
        assert (film.duration_s, film.scene_count, film.dwell_s) == (1.0, 2, 0.5)

    def test_a_rate_that_fits_meets_each_picture_equally_often(self):
        film = film_of([{i} for i in range(30)], range(30), [1 / 30] * 30)
        seen = film.seen_at(arrivals_at(60, 10))
        assert (np.bincount(seen) == 20).all()

    def test_a_shot_moves_and_is_the_same_every_time(self):
        photograph = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
        shot = Shot((1, 2), 5)
        first, last = film_photograph(photograph, shot, 0, (64, 48)), film_photograph(photograph, shot, 4, (64, 48))
        assert first.shape == (48, 64, 3)
        assert (film_photograph(photograph, shot, 0, (64, 48)) == first).all()
        assert np.abs(first.astype(int) - last).mean() > 1


def engine_of(times: TimeTable, seed: int = 0) -> tuple[SimulatedEngine, FakeClock, AnswerTable]:
    random = np.random.default_rng(0)
    steps = len(times.steps_s)
    table = AnswerTable(
        random.random((3, steps, 4), dtype=np.float32), tuple(np.zeros((2, 2, 3), np.uint8) for _ in range(3))
    )
    clock = FakeClock()
    return SimulatedEngine(plan_of_macs([1] * steps), table, times, clock, seed=seed), clock, table


class TestSimulatedEngine:
    def test_answers_from_the_table_in_the_times_of_the_table(self):
        times = TimeTable((0.001,), ((0.010,), (0.020,)), (0.0005,))
        engine, clock, table = engine_of(times)
        engine.start(table.images[2])
        assert (engine.run(0) == table.probabilities[2, 0]).all()
        engine.between()
        assert (engine.run(1) == table.probabilities[2, 1]).all()
        assert clock.now_s() == pytest.approx(0.0315)
        assert [step for step, _, _ in engine.spans] == [-1, 0, 1]

    def test_draws_times_that_are_distributed_as_measured(self):
        measured = np.random.default_rng(0).gamma(4.0, 0.002, 2000)
        engine, _, table = engine_of(TimeTable.measured([0.0], [measured], [0.0]))
        for _ in range(2000):
            engine.start(table.images[0])
            engine.run(0)
        drawn = [end - begin for step, begin, end in engine.spans if step == 0]
        shares = [10, 50, 90, 99]
        assert np.percentile(drawn, shares) == pytest.approx(np.percentile(measured, shares), rel=0.15)
        again, _, _ = engine_of(TimeTable.measured([0.0], [measured], [0.0]))
        again.start(again._answers.images[0])
        again.run(0)
        assert again.spans[:2] == engine.spans[:2]

    def test_each_lane_holds_a_picture_and_a_state_of_its_own(self):
        plan = plan_of_macs([1, 1], members=[0, 0], classes=2)
        images = tuple(np.full((2, 2, 3), i, np.uint8) for i in range(2))
        table = np.array([[[0.9, 0.1], [0.8, 0.2]], [[0.3, 0.7], [0.4, 0.6]]], dtype=np.float32)
        engine = SimulatedEngine(plan, AnswerTable(table, images), TimeTable.constant([1, 2]), FakeClock(), lanes=2)
        engine.start(images[0], lane=0)
        first = engine.run(0, lane=0)
        engine.start(images[1], lane=1)
        with pytest.raises(ValueError, match="needs the state of step 0"):
            engine.run(1, lane=1)
        # what happens in one lane leaves the other as it was
        assert engine.run(0, lane=1).tolist() == table[1, 0].tolist()
        assert engine.run(1, lane=0).tolist() == table[0, 1].tolist()
        assert engine.run(1, lane=1).tolist() == table[1, 1].tolist()
        assert first.tolist() == table[0, 0].tolist()

    def test_a_step_of_a_member_needs_the_one_before(self):
        clock = FakeClock()
        table = AnswerTable(np.zeros((1, 2, 4), np.float32), (np.zeros((2, 2, 3), np.uint8),))
        plan = plan_of_macs([1, 1], members=[0, 0])
        engine = SimulatedEngine(plan, table, TimeTable.constant([0.1, 0.1]), clock)
        engine.start(table.images[0])
        with pytest.raises(ValueError, match="needs the state of step 0"):
            engine.run(1)

    def test_times_survive_being_written(self):
        times = TimeTable.measured([1e-4] * 5, [[0.01, 0.02, 0.011], [0.0123456]], [0.0])
        assert TimeTable.from_dict(json.loads(json.dumps(times.as_dict()))) == times
        assert times.at_speed(2).steps_s[0][-1] == pytest.approx(0.01)

    @pytest.mark.parametrize(
        "values",
        [
            {},
            {"start_ms": [0], "steps_ms": [["x"]], "between_ms": [0]},
            {"start_ms": [0], "steps_ms": [[2, 1]], "between_ms": [0]},
            {"start_ms": [0], "steps_ms": [[-1]], "between_ms": [0]},
            {"start_ms": [0], "steps_ms": [[]], "between_ms": [0]},
            {"start_ms": [0], "steps_ms": 3, "between_ms": [0]},
        ],
    )
    def test_says_that_times_are_none(self, values):
        with pytest.raises(UsageError, match="step times"):
            TimeTable.from_dict(values)
