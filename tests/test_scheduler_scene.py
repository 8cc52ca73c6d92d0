"""The scene path and what it remembers, on a fake clock."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from pipelines import live
from pipelines.benchmarking.play import Manner, simulate
from stream_ann.clock import FakeClock
from stream_ann.errors import UsageError
from stream_ann.frames import Frame, FrameResult, Prediction
from stream_ann.ingest import ScriptedSlot
from stream_ann.scheduler import Deadline, Policy, Scheduler, UntilNextFrame, path_named
from stream_ann.scheduler.memory import SceneMemory, SceneWatch
from stream_ann.streaming import AnswerTable, Film, TimeTable, arrivals_at, figures_of
from tests.fakes import FakeLanes, plan_of_macs

NAMES = ["a", "b", "c", "d"]
ACCURACIES = [0.45, 0.6, 0.7, 0.8]
STEPS_S = (0.004, 0.008, 0.013, 0.025)
LATE = 0.2  # of frames, at most, are without an answer of their own once scenes and gaps are known


def picture(code: int, scene: int) -> np.ndarray:
    """A scene of its own colours and layout, with a code in the corner that is too small to matter."""
    blocks = np.random.default_rng(scene).integers(0, 256, (9, 16, 3), dtype=np.uint8)
    image = np.kron(blocks, np.ones((8, 8, 1), dtype=np.uint8))
    image[0, 0] = code % 256
    return image


def film(fps: float, count: int, *, scene_s: float = 1.0) -> list[Frame]:
    times = [i / fps for i in range(count)]
    return [Frame(picture(i, int(t / scene_s + 1e-9)), "camera", i, t, t) for i, t in enumerate(times)]


def run(
    frames: Sequence[Frame],
    step_s: Sequence[float] = STEPS_S,
    *,
    accuracies: Sequence[float] = ACCURACIES,
    members: Sequence[int] | None = None,
    policy: Policy | None = None,
) -> tuple[list[FrameResult], ScriptedSlot]:
    clock = FakeClock()
    slot = ScriptedSlot(frames, clock)
    engine = FakeLanes(clock, step_s, lanes=1, members=members)
    path = path_named("scene", engine.plan, accuracies)
    scheduler = Scheduler(engine, slot, clock, classes=NAMES, path=path, policy=policy)
    results = list(scheduler.results())
    assert len(frames) == len(results) + slot.counts.replaced
    return results, slot


def exits(result: FrameResult) -> list[int]:
    return [e.exit for e in result.exits]


class TestPath:
    def test_after_a_cut_the_crude_answer_comes_first_and_then_the_best_though_newer_frames_come(self):
        results, _ = run(film(60, 300))
        seen = 0
        for before, after in pairwise(results):
            if after.frame.index > 30 and int(before.frame.pts_s or 0) != int(after.frame.pts_s or 0):
                assert exits(after) == [0, 3]
                assert after.first_ms < 40
                seen += 1
        assert seen == 4

    def test_soon_after_a_cut_each_good_member_has_had_its_say_and_first_the_crude_one(self):
        step_s = (0.003, 0.012, 0.02)  # of a frame's 8.3 ms
        results, _ = run(film(120, 600), step_s, accuracies=[0.79, 0.8, 0.81])
        for scene in (2, 3, 4):
            begun = [exits(r) for r in results if scene <= (r.frame.pts_s or 0) < scene + 0.1]
            assert {e for each in begun for e in each} == {0, 1, 2}
            assert {each[0] for each in begun} == {0}

    @pytest.mark.parametrize("fps", [15, 30, 60, 120])
    def test_nearly_every_frame_has_an_answer_of_its_own_in_time(self, fps):
        frames = film(fps, 6 * fps)
        results, _ = run(frames)
        timely = sum(r.first_ms <= 1000 / fps + 1e-6 for r in results if r.frame.index > 20)
        assert timely >= (1 - LATE) * (len(frames) - 21)
        if fps <= 30:
            assert timely >= 0.95 * (len(frames) - 21)

    def test_frames_of_a_scene_go_through_different_members(self):
        results, _ = run(film(60, 300))
        second = {e for r in results if 2.2 < (r.frame.pts_s or 0) < 2.95 for e in exits(r)}
        assert {0, 1, 2} <= second

    def test_a_member_much_slower_than_scenes_last_is_left_alone(self):
        results, _ = run(film(60, 360), (0.004, 0.9), accuracies=[0.6, 0.9])
        late = [r for r in results if r.frame.index > 120 and r.ended != "complete"]
        assert {tuple(exits(r)) for r in late} == {(0,)}

    @pytest.mark.parametrize("steps", [1, 10])
    def test_one_member_of_many_exits(self, steps):
        step_s = [0.003] * steps
        accuracies = [0.4 + 0.04 * i for i in range(steps)]
        results, _ = run(film(60, 180), step_s, accuracies=accuracies, members=[0] * steps)
        # 5 exits of 3 ms are done in 16.7; right after a cut all are wanted
        assert max(len(exits(r)) for r in results[20:-1]) == steps
        assert {exits(r)[0] for r in results} == {0}

    def test_a_deadline_is_kept(self):
        results, _ = run(film(60, 180), policy=UntilNextFrame() & Deadline(14))
        assert max(r.final_ms for r in results[10:-1]) <= 14 + 1e-6

    def test_a_pause_of_the_camera_is_used(self):
        frames = film(60, 60, scene_s=100)
        frames.append(Frame(picture(1, 0), "camera", 60, 3.0, 3.0))
        results, _ = run(frames)
        assert 3 in exits(results[-2])


class TestMemory:
    def predictions(self, *answers: tuple[int, Sequence[float]]) -> list[Prediction]:
        return [Prediction(exit_, np.array(p, dtype=np.float32), 0.0) for exit_, p in answers]

    def frame(self, index: int, at_s: float, scene: int = 0) -> Frame:
        return Frame(picture(index, scene), "camera", index, at_s, at_s)

    def test_a_deep_answer_holds_for_the_scene_and_says_whence_it_comes(self):
        memory = SceneMemory([0.5, 0.5])
        memory.see(self.frame(0, 0.0))
        memory.add(self.frame(0, 0.0), self.predictions((1, [0.0, 1.0])))
        joined = memory.joined(self.frame(1, 0.0), self.predictions((0, [1.0, 0.0])))
        # the exit's confidence has raised its value: (4 * 0.5 + 1) / 5 to 0.5
        assert joined.answer.probabilities == pytest.approx([5 / 11, 6 / 11], abs=0.02)
        assert joined.carried == pytest.approx(6 / 11, abs=0.02)
        assert (joined.answer.exit, joined.key_frame) == (0, 0)

    def test_fades_and_is_at_last_forgotten(self):
        memory = SceneMemory([0.5, 0.5])
        memory.add(self.frame(0, 0.0), self.predictions((1, [0.0, 1.0])))
        own = self.predictions((0, [1.0, 0.0]))
        shares = [memory.joined(self.frame(1, at_s), own).carried for at_s in (0.0, 2.0, 4.0, 9.0)]
        assert shares == sorted(shares, reverse=True)
        assert shares[-1] == 0.0

    def test_an_exit_that_sees_something_else_outdates_what_others_said_of_it(self):
        """Without any cut: the crude exit goes over from class 0 to class 1, and the deep one has seen the former."""
        memory = SceneMemory([0.5, 0.5])
        memory.add(self.frame(0, 0.0), self.predictions((0, [0.99, 0.01]), (1, [1.0, 0.0])))
        for at_s, own in ((0.1, [0.8, 0.2]), (0.2, [0.6, 0.4]), (0.3, [0.5, 0.5])):
            (new,) = self.predictions((0, own))
            memory.doubt(new)
            memory.add(self.frame(1, at_s), [new])
            assert len(memory) == 2
        (new,) = self.predictions((0, [0.005, 0.995]))
        memory.doubt(new)
        assert memory.age_s(1, 0.4) is None
        joined = memory.joined(self.frame(4, 0.4), [new])
        assert joined.key_frame is None

    def test_exits_that_disagree_about_one_frame_outdate_nothing(self):
        memory = SceneMemory([0.5, 0.5])
        crude, deep = self.predictions((0, [0.99, 0.01]), (1, [0.01, 0.99]))
        for i in range(3):
            for new in (crude, deep):
                memory.doubt(new)
            memory.add(self.frame(i, i / 10), [crude, deep])
        assert len(memory) == 2
        assert memory.cuts == 0

    def test_what_was_forgotten_outdates_nothing_later_on(self):
        """The deep exit's answer about the former picture says nothing about an answer that was made after it."""
        memory = SceneMemory([0.5, 0.5, 0.5])
        memory.add(self.frame(0, 0.0), self.predictions((0, [1.0, 0.0]), (1, [1.0, 0.0])))
        for new in self.predictions((0, [0.0, 1.0]), (2, [0.0, 1.0])):
            memory.doubt(new)
        assert (len(memory), memory.cuts) == (0, 1)
        memory.add(self.frame(1, 0.1), self.predictions((0, [0.0, 1.0]), (2, [0.0, 1.0])))
        (new,) = self.predictions((1, [0.0, 1.0]))
        memory.doubt(new)
        assert len(memory) == 2

    def test_a_cut_forgets_everything(self):
        memory = SceneMemory([0.5, 0.5])
        memory.see(self.frame(0, 0.0))
        memory.add(self.frame(0, 0.0), self.predictions((1, [0.0, 1.0])))
        assert memory.see(self.frame(1, 0.03, scene=1))
        joined = memory.joined(self.frame(1, 0.03, scene=1), self.predictions((0, [1.0, 0.0])))
        assert joined.carried == 0
        assert joined.answer.probabilities == pytest.approx([1, 0])

    def test_a_label_that_changes_without_a_cut_is_soon_believed(self):
        memory = SceneMemory([0.5])
        for i in range(100):
            memory.add(self.frame(i, i / 30), self.predictions((0, [1.0, 0.0])))
        for i in range(100, 106):
            own = self.predictions((0, [0.0, 1.0]))
            answer = memory.joined(self.frame(i, i / 30), own).answer
            memory.add(self.frame(i, i / 30), own)
        assert answer.class_id == 1

    def test_confidence_tells_which_exit_to_trust(self):
        memory = SceneMemory([0.4, 1.0])
        for i in range(50):
            memory.add(self.frame(i, i / 30), self.predictions((0, [0.9, 0.1]), (1, [0.45, 0.55])))
        assert memory.values[0] > memory.values[1]

    def test_learns_how_long_scenes_last(self):
        watch = SceneWatch()
        for frame in film(20, 400, scene_s=0.5):
            watch.see(frame)
        assert watch.dwell_s == pytest.approx(0.5, rel=0.1)
        assert watch.cuts == 39


def test_results_say_what_was_carried_over():
    results, _ = run(film(60, 120, scene_s=100))
    assert results[0].carried == 0
    assert "carried" not in results[0].as_event()
    assert 0 < results[60].carried < 1
    assert results[60].as_event()["carried"] == round(results[60].carried, 3)
    assert results[60].exit == max(exits(results[60]))


def test_remembers_deep_answers_itself():
    with pytest.raises(UsageError, match="refines none in the background"):
        live("demo", path="scene", background_refine=True)


def test_frames_that_wait_for_their_turn_are_answered_by_themselves():
    class Lossless(ScriptedSlot):
        lossless = True  # type: ignore[assignment]

    clock = FakeClock()
    engine = FakeLanes(clock, STEPS_S, lanes=1)
    path = path_named("scene", engine.plan, ACCURACIES)
    results = list(Scheduler(engine, Lossless(film(2, 20), clock), clock, classes=NAMES, path=path).results())
    assert {tuple(exits(r)) for r in results} == {(0, 1, 2, 3)}
    assert {r.carried for r in results} == {0.0}


def test_beats_the_best_fixed_network_where_labels_dwell():
    """Exits that err independently: what single answers cannot know, together they do."""
    random = np.random.default_rng(1)
    scenes, per_scene = 30, 6
    table = np.zeros((scenes * per_scene, 4, 4), dtype=np.float32)
    for i in range(len(table)):
        for exit_, accuracy in enumerate(ACCURACIES):
            right = random.random() < accuracy
            wrong = int(random.integers(1, 4))
            table[i, exit_] = (1 - accuracy) / 3
            table[i, exit_, (i // per_scene) % 4 if right else (i // per_scene + wrong) % 4] = accuracy
    images = tuple(picture(0, i // per_scene) for i in range(len(table)))
    truths = tuple(frozenset({(i // per_scene) % 4}) for i in range(len(table)))
    shown_s = np.full(len(table), 1 / per_scene)
    show = Film("film", images.__getitem__, truths, np.arange(len(table)) // per_scene, shown_s)
    answers = AnswerTable(table, images)
    for fps, more in ((5, 1.03), (60, 1.0)):
        arrivals_s = arrivals_at(fps, scenes)

        def accuracy_of(plan, answers, step_s, manner, arrivals_s=arrivals_s) -> float:
            times = TimeTable.constant(step_s)
            log = simulate(plan, answers, times, show, arrivals_s, classes=NAMES, manner=manner)
            return figures_of(log, plan).accuracy.value

        fixed = [accuracy_of(plan_of_macs([1]), answers.only([i]), [STEPS_S[i]], Manner()) for i in range(4)]
        manner = Manner(path=lambda plan: path_named("scene", plan, ACCURACIES))
        assert accuracy_of(plan_of_macs([1] * 4), answers, list(STEPS_S), manner) >= more * max(fixed), fps
