"""How sure comparisons over the same scenes are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stream_ann.streaming import mean_of_means, paired_ratio, ratio_of, ratios_to_best

SCENES = np.repeat(np.arange(100), 5)


def right(random: np.random.Generator, share: float) -> np.ndarray:
    """Whether frames are right: five of each of 100 scenes, alike in four fifths of the scenes."""
    return np.repeat(random.random(100) < share, 5) & (random.random(500) < 0.95)


class TestPairedRatio:
    def test_is_as_sure_as_it_varies(self):
        random = np.random.default_rng(0)
        ratios, errors = [], []
        for _ in range(100):
            theirs = right(random, 0.6)
            ours = theirs & (random.random(500) < 0.9)
            ratio = paired_ratio(ours, theirs, SCENES)
            assert ratio.value == pytest.approx(ours.sum() / theirs.sum())
            ratios.append(ratio.value)
            errors.append(ratio.error)
        assert np.mean(errors) == pytest.approx(np.std(ratios), rel=0.25)

    def test_agrees_with_the_delta_method(self):
        random = np.random.default_rng(1)
        ours, theirs = right(random, 0.6), right(random, 0.6)
        delta = ratio_of(ours.astype(float), theirs.astype(float), SCENES)
        assert paired_ratio(ours, theirs, SCENES).error == pytest.approx(delta.error, rel=0.1)

    def test_what_two_have_in_common_is_no_error(self):
        same = right(np.random.default_rng(2), 0.6)
        assert paired_ratio(same, same, SCENES).error == pytest.approx(0, abs=1e-12)

    def test_is_the_same_again(self):
        random = np.random.default_rng(3)
        ours, theirs = right(random, 0.6), right(random, 0.6)
        assert paired_ratio(ours, theirs, SCENES) == paired_ratio(ours, theirs, SCENES)

    def test_the_ends(self):
        none, all_ = np.zeros(4, dtype=bool), np.ones(4, dtype=bool)
        assert paired_ratio(none, none, np.arange(4)).value == 1
        assert paired_ratio(all_, none, np.arange(4)).value == math.inf
        assert paired_ratio(all_, all_, np.full(4, 7)).error is None, "one scene leaves no way of telling"
        with pytest.raises(ValueError, match="4 and 4 values for 3 frames' scenes"):
            paired_ratio(all_, all_, np.arange(3))


class TestRatiosToBest:
    def test_the_best_rival_at_each_rate(self):
        ours = np.array([True, True, True, False])
        rivals = [[np.array([True, False, False, False]), np.array([True, True, False, False])], [ours]]
        found = ratios_to_best([ours, ours], rivals, [np.arange(4), np.arange(4)])
        assert found is not None
        mean, least = found
        assert (mean.value, least.value) == (1.25, 1.0)

    def test_rates_share_their_scenes(self):
        """The same answers at two rates are no surer than at one."""
        random = np.random.default_rng(4)
        ours, theirs = right(random, 0.6), right(random, 0.6)
        one = ratios_to_best([ours], [[theirs]], [SCENES])
        two = ratios_to_best([ours, ours], [[theirs], [theirs]], [SCENES, SCENES])
        assert one is not None
        assert two is not None
        assert two[0].error == pytest.approx(one[0].error, rel=1e-9)
        assert one[0].error == pytest.approx(paired_ratio(ours, theirs, SCENES).error, rel=1e-9)

    def test_the_best_is_picked_anew_in_each_draw(self):
        """Of two rivals of which either is as good, the luckier one is always the best: that varies less."""
        random = np.random.default_rng(5)
        ours, one, other = (right(random, 0.6) for _ in range(3))
        of_one, of_both = (ratios_to_best([ours], [rivals], [SCENES]) for rivals in ([one], [one, other]))
        assert of_one is not None
        assert of_both is not None
        assert of_both[0].error < of_one[0].error

    def test_nothing_over_nothing(self):
        nothing = np.zeros(4, dtype=bool)
        assert ratios_to_best([nothing], [[nothing]], [np.arange(4)]) is None


class TestMeanOfMeans:
    def test_each_run_counts_alike_and_scenes_are_shared(self):
        random = np.random.default_rng(6)
        values = random.normal(0.5, 1, 100)
        short, long = (values, np.arange(100)), (np.repeat(values, 9), np.repeat(np.arange(100), 9))
        runs = [short, long]
        mean = mean_of_means([v for v, _ in runs], [s for _, s in runs])
        assert mean.value == pytest.approx(values.mean())
        assert mean.error == pytest.approx(values.std(ddof=1) / 10, rel=0.1)
        other = mean_of_means([values, np.full(900, -1.0)], [np.arange(100), long[1]])
        assert other.value == pytest.approx((values.mean() - 1) / 2)

    def test_one_scene_leaves_no_way_of_telling(self):
        assert mean_of_means([np.ones(3)], [np.zeros(3, dtype=np.intp)]).error is None
