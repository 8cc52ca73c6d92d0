"""Smoothing over time, and the cuts that end it."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ann.frames import Frame, Prediction
from stream_ann.ingest import DEMO_CLIP, source_from
from stream_ann.labels import LabelOptions, labelling_from
from stream_ann.labels.smoothing import MOST_SOURCES, Smoothing
from stream_ann.scenes import Glimpse, is_cut

FPS = 25
GREY = np.full((36, 64, 3), 100, np.uint8)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    source = source_from("demo")
    source.open()
    try:
        return [picture.image for picture in iter(source.read, None)]
    finally:
        source.close()


@pytest.fixture(scope="module")
def cuts() -> list[int]:
    shots = json.loads(DEMO_CLIP.with_suffix(".json").read_text(encoding="utf-8"))["shots"]
    return [shot["first_frame"] for shot in shots[1:]]


def frame(index: int, *, time_s: float, image: np.ndarray = GREY, source: str = "cam", pts_s: float | None = None):
    return Frame(image, source, index, pts_s, time_s)


def answer(*probabilities: float, exit_: int = 0) -> Prediction:
    return Prediction(exit_, np.array(probabilities, np.float32), 0.0)


def shade(picture: np.ndarray) -> np.ndarray:
    return np.repeat(picture.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)


class TestCuts:
    @pytest.mark.parametrize("every", [1, 2, 3, 5, 10, 25])
    def test_all_of_the_clips_cuts_and_none_of_its_camera_motion(self, pictures, cuts, every):
        """Though only every so-manyth frame was looked at."""
        looked_at = range(0, len(pictures), every)
        glimpses = {i: Glimpse.of(pictures[i]) for i in looked_at}
        found = [b for a, b in pairwise(looked_at) if is_cut(glimpses[a], glimpses[b], every / FPS)]
        assert found == [next(i for i in looked_at if i >= cut) for cut in cuts]

    def test_without_colours_too(self, pictures, cuts):
        glimpses = [Glimpse.of(shade(picture)) for picture in pictures]
        assert [i + 1 for i, (a, b) in enumerate(pairwise(glimpses)) if is_cut(a, b, 1 / FPS)] == cuts

    def test_a_light_that_goes_on_is_no_cut(self, pictures):
        dark = (pictures[0] * 0.4).astype(np.uint8)
        assert not is_cut(Glimpse.of(dark), Glimpse.of(pictures[0]), 1 / FPS)

    def test_noise_in_the_dark_is_no_cut(self):
        random = np.random.default_rng(0)
        noisy = [random.integers(0, 24, (360, 640, 3), dtype=np.uint8) for _ in range(20)]
        assert not any(is_cut(Glimpse.of(a), Glimpse.of(b), 1 / FPS) for a, b in pairwise(noisy))

    def test_from_black_into_a_picture_is_one(self, pictures):
        assert is_cut(Glimpse.of(np.zeros_like(pictures[0])), Glimpse.of(pictures[0]), 1.0)

    def test_the_same_scene_at_another_size_is_none(self, pictures):
        assert not is_cut(Glimpse.of(pictures[0]), Glimpse.of(pictures[0][::2, ::2].copy()), 1 / FPS)

    @pytest.mark.parametrize("size", [(1, 1), (5, 7), (9, 16), (2160, 3840), (50, 1)])
    def test_pictures_of_any_size(self, size):
        image = np.full((*size, 3), 7, np.uint8)
        glimpse = Glimpse.of(image)
        assert glimpse.blocks == pytest.approx(7)
        assert glimpse.colours.sum() == pytest.approx(1)
        assert not is_cut(glimpse, Glimpse.of(image), 0.04)


class TestSmoothing:
    def test_a_frame_weighs_a_third_after_the_time_constant_at_any_rate(self):
        for steps in (1, 4, 50):
            smoothing = Smoothing(2.0)
            smoothing.of(frame(0, time_s=5.0), answer(1.0, 0.0), final=True)
            for i in range(1, steps + 1):
                result = smoothing.of(frame(i, time_s=5.0 + 2.0 * i / steps), answer(0.0, 1.0), final=True)
            assert result.probabilities[0] == pytest.approx(math.exp(-1), abs=1e-4)

    def test_exits_that_are_not_final_are_not_remembered(self):
        smoothing = Smoothing(1.0)
        smoothing.of(frame(0, time_s=0.0), answer(1.0, 0.0), final=True)
        second = frame(1, time_s=0.5)
        early = smoothing.of(second, answer(0.2, 0.8), final=False)
        again = smoothing.of(second, answer(0.2, 0.8, exit_=3), final=False)
        assert early.probabilities == pytest.approx(again.probabilities)
        assert (early.exit, again.exit) == (0, 3)
        assert early.probabilities[0] == pytest.approx(0.2 + 0.8 * math.exp(-0.5))

    def test_the_time_is_that_of_the_recording_where_it_runs_forward(self):
        def share(first_pts_s: float | None, second_pts_s: float | None) -> float:
            smoothing = Smoothing(1.0)
            smoothing.of(frame(0, time_s=0.0, pts_s=first_pts_s), answer(1.0, 0.0), final=True)
            done = smoothing.of(frame(1, time_s=0.25, pts_s=second_pts_s), answer(0.0, 1.0), final=True)
            return float(done.probabilities[0])

        assert share(10.0, 12.0) == pytest.approx(math.exp(-2))
        for pts_s in ((None, None), (10.0, None), (10.0, 3.0), (10.0, 10.0)):
            assert share(*pts_s) == pytest.approx(math.exp(-0.25))

    def test_sources_do_not_mix(self):
        smoothing = Smoothing(10.0)
        smoothing.of(frame(0, time_s=0.0, source="a"), answer(1.0, 0.0), final=True)
        result = smoothing.of(frame(0, time_s=0.1, source="b"), answer(0.0, 1.0), final=True)
        assert result.probabilities == pytest.approx([0.0, 1.0])

    def test_memory_is_bounded(self):
        smoothing = Smoothing(10.0)
        for i in range(MOST_SOURCES + 1):
            smoothing.of(frame(0, time_s=0.0, source=str(i)), answer(1.0, 0.0), final=True)
        forgotten = smoothing.of(frame(1, time_s=0.1, source="0"), answer(0.0, 1.0), final=False)
        kept = smoothing.of(frame(1, time_s=0.1, source="1"), answer(0.0, 1.0), final=False)
        assert forgotten.probabilities[0] == 0.0
        assert kept.probabilities[0] > 0.9

    def test_a_cut_forgets_everything_within_the_frame(self, pictures, cuts):
        labelling = labelling_from(["a", "b"], LabelOptions(smooth_s=100.0))
        shot = -1
        for i, picture in enumerate(pictures):
            shot += i in (0, *cuts)
            said = answer(0.9, 0.1) if shot % 2 else answer(0.1, 0.9)
            for final in (False, True):
                settled = labelling.settle(frame(i, time_s=i / FPS, image=picture), said, final=final)
                assert settled.label == ("a" if shot % 2 else "b"), f"frame {i}"
                assert settled.confidence == pytest.approx(0.9, abs=1e-4)

    @given(
        st.lists(st.tuples(st.floats(0, 1, width=32), st.floats(0, 5)), min_size=1, max_size=12),
        st.floats(0.01, 10),
    )
    def test_smoothed_answers_are_probabilities_between_those_seen(self, seen, smooth_s):
        smoothing = Smoothing(smooth_s)
        time_s, low, high = 0.0, 1.0, 0.0
        for i, (p, gap_s) in enumerate(seen):
            time_s += gap_s
            low, high = min(low, p), max(high, p)
            result = smoothing.of(frame(i, time_s=time_s), answer(p, 1 - p), final=True).probabilities
            assert result.dtype == np.float32
            assert result.sum() == pytest.approx(1, abs=1e-5)
            assert low - 1e-5 <= result[0] <= high + 1e-5

    def test_an_outlier_does_not_change_the_label(self):
        """What smoothing is for: one frame that the network gets wrong."""
        labelling = labelling_from(["cat", "dog"], LabelOptions(smooth_s=0.5))
        said = [answer(0.7, 0.3), answer(0.7, 0.3), answer(0.4, 0.6), answer(0.7, 0.3)]
        shown = [labelling.settle(frame(i, time_s=i / FPS), a, final=True).label for i, a in enumerate(said)]
        assert shown == ["cat"] * 4
