"""The steady path: the best member to its end, where labels dwell and frames come faster than it is done."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.benchmarking.play import Manner, simulate
from stream_ann.scheduler import Deadline, path_named
from stream_ann.streaming import AnswerTable, Film, TimeTable, arrivals_at, figures_of
from tests.fakes import plan_of_macs
from tests.test_scheduler_paths import STEPS_S, exits, regular, run


def settled(results):
    """Once the gaps are known."""
    return results[len(results) // 2 :]


class TestSteady:
    @pytest.mark.parametrize("fps", [5, 15, 25])
    def test_is_the_plan_where_the_best_member_is_done_in_time(self, fps):
        planned, _, _ = run(regular(fps), path="planned")
        steady, _, _ = run(regular(fps), path="steady")
        assert [exits(r) for r in steady] == [exits(r) for r in planned]

    @pytest.mark.parametrize("fps", [100, 240, 480])
    def test_runs_the_best_member_alone_where_frames_come_faster(self, fps):
        results, slot, _ = run(regular(fps, 300), path="steady")
        assert {tuple(exits(r)) for r in settled(results)[:-1]} == {(3,)}
        assert slot.counts.replaced > 100

    def test_goes_through_all_steps_of_the_member_whatever_comes(self):
        # two steps of one member, the second of which makes it worth while
        results, _, _ = run(
            regular(200, 300),
            (0.004, 0.008, 0.012),
            path="steady",
            accuracies=[0.3, 0.35, 0.8],
            members=[0, 1, 1],
        )
        assert {tuple(exits(r)) for r in settled(results)[:-1]} == {(1, 2)}
        newer, _, _ = run(
            regular(200, 300),
            (0.004, 0.008, 0.012),
            path="planned",
            accuracies=[0.3, 0.35, 0.8],
            members=[0, 1, 1],
        )
        assert (1, 2) not in {tuple(exits(r)) for r in settled(newer)[:-1]}

    def test_a_member_that_takes_longer_than_labels_last_is_not_worth_it(self):
        results, _, _ = run(regular(60, 1200), (0.005, 0.7), path="steady", accuracies=[0.6, 0.9], scene_frames=30)
        assert {tuple(exits(r)) for r in settled(results)[:-1]} == {(0,)}

    def test_where_nothing_ever_changes_a_member_may_take_long(self):
        results, _, _ = run(regular(60, 1200), (0.005, 0.7), path="steady", accuracies=[0.6, 0.9])
        assert exits(results[-2]) == [1]

    def test_a_deadline_wants_answers_of_ones_own(self):
        results, _, _ = run(regular(100, 200), path="steady", policy=Deadline(9))
        assert all(r.final_ms < 60 for r in results)
        assert 3 not in {e for r in settled(results)[:-1] for e in exits(r)}

    def test_keeps_up_with_the_best_fixed_network_at_every_rate(self):
        """What it is for: labels that dwell for a second, and right answers that are those of the accuracies."""
        right = np.random.default_rng(0).random((24, 1)) < np.array([[0.46, 0.64, 0.75, 0.78]])
        table = np.zeros((24, 4, 4), np.float32)
        table[..., 0], table[..., 1] = ~right, 0.5
        for scene in range(24):
            truth = 2 + scene % 2
            table[scene, :, truth] = right[scene]
        images = tuple(np.full((4, 4, 3), i, np.uint8) for i in range(24))
        truths = tuple(frozenset({2 + i % 2}) for i in range(24))
        film = Film("film", images.__getitem__, truths, np.arange(24), np.ones(24))
        answers, accuracies = AnswerTable(table, images), right.mean(axis=0).tolist()
        plan = plan_of_macs([1] * 4)
        for fps in (60, 240):
            arrivals_s = arrivals_at(fps, 24)

            def accuracy(plan, answers, step_s, manner, arrivals_s=arrivals_s) -> float:
                times = TimeTable.constant(step_s)
                log = simulate(plan, answers, times, film, arrivals_s, classes=["a", "b", "c", "d"], manner=manner)
                return figures_of(log, plan).accuracy.value

            fixed = [
                accuracy(plan_of_macs([1]), answers.only([i]), [STEPS_S[i]], Manner()) for i in range(len(STEPS_S))
            ]
            manner = Manner(path=lambda plan: path_named("steady", plan, accuracies))
            assert accuracy(plan, answers, list(STEPS_S), manner) >= 0.995 * max(fixed), fps
