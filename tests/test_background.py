"""Key frames refined behind the frames that come, on a fake clock."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ann.clock import FakeClock
from stream_ann.errors import UsageError
from stream_ann.frames import Frame, FrameResult, Prediction
from stream_ann.ingest import ScriptedSlot
from stream_ann.scheduler import Background, Scheduler, path_named
from stream_ann.scheduler.background import Deep
from stream_ann.scheduler.running import Runner
from tests.fakes import FakeLanes

NAMES = ["a", "b", "c", "d"]
ACCURACIES = [0.4, 0.6, 0.8, 0.9]


def picture(code: int, *, grey: int = 0) -> np.ndarray:
    """A picture of one grey that carries a code in its corner, too small to matter for the scene."""
    image = np.full((64, 64, 3), grey, dtype=np.uint8)
    image[0, 0] = code
    return image


def play(
    frames: Sequence[Frame],
    step_s: Sequence[float],
    *,
    concurrent: bool = False,
    background: Background | None = None,
    members: Sequence[int] | None = None,
) -> tuple[list[FrameResult], ScriptedSlot, FakeLanes, Background]:
    clock = FakeClock()
    slot = ScriptedSlot(frames, clock)
    engine = FakeLanes(clock, step_s, lanes=2, concurrent=concurrent, members=members)
    background = background or Background(ACCURACIES[: len(step_s)])
    scheduler = Scheduler(engine, slot, clock, classes=NAMES, background=background)
    results = list(scheduler.results())
    assert len(frames) == len(results) + slot.counts.replaced
    for result in results:
        done = [e.done_ms for e in result.exits]
        assert done == sorted(done)
        # whatever a frame lists as its own exit is of its own picture
        assert {e.class_id for e in result.exits} == {int(result.frame.image[0, 0, 0]) % 4}
    return results, slot, engine, background


def camera(gap_s: float, count: int, *, grey: int = 100, code: int = 1) -> list[Frame]:
    return [Frame(picture(code, grey=grey), "camera", i, i * gap_s, i * gap_s) for i in range(count)]


FAST = (0.002, 0.004, 0.007, 0.014)


class TestBetweenFrames:
    def test_every_frame_is_answered_and_key_frames_get_the_deepest_exit_there_is_time_for(self):
        # 120 fps: 8.3 ms; after the first exit, 7 ms leave the next frame time for its own, 14 would not
        results, slot, engine, background = play(camera(1 / 120, 120), FAST)
        assert slot.counts.replaced <= 6  # before the gaps were known
        later = results[20:-1]
        assert {e.exit for r in later for e in r.exits} == {0, 2}
        assert background.refined >= 100
        assert {call[1] for call in engine.calls if call[0] == "run" and call[2] == 1} == {2}
        for result in later:
            assert result.exits[0].done_ms < 1000 / 120

    def test_slow_frames_are_refined_as_ever(self):
        with_it, _, _, background = play(camera(0.1, 20), FAST)
        assert {len(r.exits) for r in with_it} == {4}
        assert background.refined == 0
        assert {r.key_frame for r in with_it} == {None}

    def test_a_member_of_several_steps_goes_on_from_frame_to_frame(self):
        # a deep network of 3 steps of 6 ms behind a small one of 2 ms: each gap of 9 ms has time for one
        results, slot, engine, background = play(camera(0.009, 120), (0.002, 0.006, 0.006, 0.006), members=[0, 1, 1, 1])
        deep = [call[1] for call in engine.calls if call[0] == "run" and call[2] == 1]
        assert deep[:6] == [1, 2, 3, 1, 2, 3]
        assert background.refined == pytest.approx(len(results) / 3, abs=12)
        joined = [r for r in results[30:] if r.key_frame is not None]
        assert joined
        assert {r.exit for r in joined} == {3}
        ages = {r.frame.index - r.key_frame for r in joined}
        assert {2, 3, 4} <= ages
        assert max(ages) <= 5
        assert slot.counts.replaced <= 6

    def test_a_planned_path_that_waits_leaves_its_time_to_the_key_frame(self):
        # a gap of 9 ms: 2 for the first exit, and none of the deep steps ends with the whole member behind it
        frames, step_s = camera(0.009, 80), (0.002, 0.006, 0.006, 0.006)
        clock = FakeClock()
        slot = ScriptedSlot(frames, clock)
        engine = FakeLanes(clock, step_s, lanes=2, members=[0, 1, 1, 1])
        background = Background([0.5, 0.3, 0.4, 0.9])
        path = path_named("planned", engine.plan, [0.5, 0.3, 0.4, 0.9])
        scheduler = Scheduler(engine, slot, clock, classes=NAMES, path=path, background=background)
        results = list(scheduler.results())
        assert background.refined >= 15
        assert {r.exit for r in results[30:-1]} == {3}

    def test_in_a_pause_the_frame_itself_goes_on(self):
        frames = camera(1 / 120, 60)
        last = frames[-1]
        frames.append(Frame(last.image, "camera", 60, 3.0, last.arrival_s + 2.0))
        results, _, _, _ = play(frames, FAST)
        assert results[-2].exits[-1].exit == 3


class TestBesideFrames:
    def test_lanes_that_run_at_once_reach_the_deepest_exit_without_delaying_anybody(self):
        results, slot, engine, background = play(camera(0.010, 100), (0.002, 0.004, 0.030, 0.050), concurrent=True)
        assert slot.counts.replaced <= 8
        assert {call[1] for call in engine.calls if call[0] == "submit"} == {3}
        assert background.refined >= 10
        for result in results[30:-1]:
            assert result.first_ms == pytest.approx(2, abs=0.01)
            assert result.key_frame is not None
            # a new key frame is begun with the frame after the one during which the last was done
            assert 5 <= result.frame.index - result.key_frame <= 13
            assert result.exit == 3

    def test_an_abandoned_key_frame_leaves_no_answer_behind(self):
        # the scene changes every 30 ms, and a key frame takes 50
        frames = [Frame(picture(i // 3, grey=200 * (i // 3 % 2)), "camera", i, i * 0.01, i * 0.01) for i in range(120)]
        results, _, _, background = play(frames, (0.002, 0.050), concurrent=True)
        assert background.refined <= 1  # that of the last frame
        assert {r.key_frame for r in results[:-1]} == {None}


class TestJoining:
    def deep(self, background: Background, frame: Frame, *, exit: int = 3) -> None:
        clock = FakeClock()
        background.attach(Runner(FakeLanes(clock, FAST, lanes=2), clock), clock)
        probabilities = np.array([0, 1, 0, 0], dtype=np.float32)
        background._deep = Deep(frame, Prediction(exit, probabilities, 0.0))

    @pytest.mark.parametrize(("age_s", "share"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.25), (60.0, 0.0)])
    def test_the_deep_answer_counts_less_as_it_ages(self, age_s, share):
        background = Background(ACCURACIES, half_life_s=0.5)
        self.deep(background, Frame(picture(0), "camera", 7, None, 1.0))
        own = Prediction(0, np.array([1, 0, 0, 0], dtype=np.float32), 1.5)
        answer, key, carried = background.joined(Frame(picture(0), "camera", 9, None, 1.0 + age_s), own)
        assert answer.probabilities == pytest.approx([1 - share, share, 0, 0])
        assert (answer.exit, answer.done_s, key) == (3, 1.5, 7)
        assert carried == pytest.approx(share)

    def test_an_answer_that_is_no_less_accurate_stays_as_it_is(self):
        background = Background(ACCURACIES)
        self.deep(background, Frame(picture(0), "camera", 7, None, 1.0), exit=1)
        own = Prediction(2, np.array([1, 0, 0, 0], dtype=np.float32), 1.5)
        assert background.joined(Frame(picture(0), "camera", 8, None, 1.0), own) == (own, None, 0.0)

    def test_a_change_of_scene_drops_it(self):
        background = Background(ACCURACIES)
        self.deep(background, Frame(picture(0, grey=100), "camera", 7, None, 1.0))
        own = Prediction(0, np.array([1, 0, 0, 0], dtype=np.float32), 1.5)
        # once dropped it does not come back
        random = np.random.default_rng(0)
        scenes = [np.kron(random.integers(0, 256, (9, 16, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))] * 2
        scenes += [255 - scenes[0], scenes[0]]
        for number, (image, key) in enumerate(zip(scenes, (7, 7, None, None), strict=True), start=8):
            frame = Frame(image, "camera", number, None, 1.0 + 0.2 * (number - 8))
            background.see(frame)
            assert background.joined(frame, own)[1] == key

    def test_events_name_the_key_frame(self):
        results, _, _, _ = play(camera(0.010, 60), (0.002, 0.050), concurrent=True)
        event = results[-2].as_event()
        assert event["key_frame"] == results[-2].key_frame
        assert "key_frame" not in results[0].as_event()

    def test_the_half_life_must_be_positive(self):
        with pytest.raises(UsageError, match="half-life must be more than 0 s, got 0"):
            Background(half_life_s=0)


@given(
    gaps_us=st.lists(st.integers(0, 30_000), min_size=1, max_size=60),
    steps_us=st.lists(st.integers(1, 30_000), min_size=2, max_size=4),
    one_member=st.booleans(),
    concurrent=st.booleans(),
    scenes=st.integers(1, 20),
)
@settings(max_examples=100, deadline=None)
def test_every_frame_is_answered_or_counted_whatever_happens(gaps_us, steps_us, one_member, concurrent, scenes):
    times_s = np.cumsum(gaps_us) / 1e6
    frames = [
        Frame(picture(i % 7, grey=200 * (i // scenes % 2)), "camera", i, t, t) for i, t in enumerate(times_s.tolist())
    ]
    members = [0] * len(steps_us) if one_member else None
    play(frames, [s / 1e6 for s in steps_us], concurrent=concurrent, members=members)
