from __future__ import annotations

import json
import math

import pytest

from stream_ann.errors import TrainingError, UsageError
from stream_ann.training.weightings import AdaLoss, Alternating, FinalFirst, Fixed, sieve, weighting_named

APPROX = {"abs": 1e-12}


def weights_of(name, exits):
    return weighting_named(name, exits).weights(0)


class TestFixedWeightings:
    """Values from the tables of arXiv 1708.06832."""

    @pytest.mark.parametrize(
        ("exits", "expected"),
        [
            (1, [1]),
            (2, [1, 1]),
            (4, [0.25, 0.5, 0.25, 1]),
            (8, [1 / 11, 2 / 11, 1 / 11, 3 / 11, 1 / 11, 2 / 11, 1 / 11, 1]),
            (10, [0.0625, 0.25, 0.0625, 0.125, 0.0625, 0.1875, 0.0625, 0.125, 0.0625, 1]),
        ],
    )
    def test_sieve(self, exits, expected):
        assert weights_of("sieve", exits) == pytest.approx(expected, **APPROX)

    @pytest.mark.parametrize("exits", range(2, 40))
    def test_sieve_gives_half_of_the_total_to_the_last(self, exits):
        weights = sieve(exits)
        assert weights[-1] == 1
        assert sum(weights[:-1]) == pytest.approx(1)

    def test_sieve_member_is_zero_at_the_first_half(self):
        assert weights_of("sieve-member", 4) == pytest.approx([0, 0, 0.25, 1], **APPROX)
        assert weights_of("sieve-member", 5) == (0, 0, *sieve(5)[2:])
        assert weights_of("sieve-member", 10) == (0,) * 5 + sieve(10)[5:]
        assert weights_of("sieve-member", 1) == (1,)

    def test_const(self):
        assert weights_of("const", 3) == (1, 1, 1)

    def test_linear_rises_evenly_from_a_quarter_to_one(self):
        assert weights_of("linear", 4) == pytest.approx([0.25, 0.5, 0.75, 1], **APPROX)
        assert weights_of("linear", 1) == (1,)

    def test_half_end(self):
        assert weights_of("half-end", 5) == (1, 1, 1, 1, 4)
        assert weights_of("half-end", 1) == (1,)

    def test_opt_counts_from_one(self):
        assert weights_of("opt:1", 3) == (1, 0, 0)
        assert weights_of("opt:3", 3) == (0, 0, 1)
        assert weights_of("opt:last", 3) == (0, 0, 1)

    @pytest.mark.parametrize("name", ["opt:0", "opt:4", "opt:", "opt:x", "opt:-1", "opt:²"])
    def test_opt_refuses_an_exit_that_is_not_there(self, name):
        with pytest.raises(UsageError, match=r"names no exit; its number must be from 1 to 3, or 'last'"):
            weighting_named(name, 3)

    def test_unknown_name_gets_the_nearest(self):
        with pytest.raises(UsageError, match=r"no weighting is called 'seive'; did you mean 'sieve'\?"):
            weighting_named("seive", 3)

    @pytest.mark.parametrize("weights", [[], [0, 0], [1, -1], [math.nan]])
    def test_weights_that_are_none_are_refused(self, weights):
        with pytest.raises(ValueError, match="finite, not negative, and not all zero"):
            Fixed(weights)


class TestAdaLoss:
    def feed(self, weighting, losses, iterations, start=0):
        for iteration in range(start, start + iterations):
            weighting.weights(iteration)
            weighting.observe(losses)

    def test_equal_losses_until_it_has_seen_a_hundred(self):
        weighting = AdaLoss(3)
        self.feed(weighting, [4.0, 2.0, 1.0], 99)
        # 1/mean all equal: 1, 1, 2 after the last has gained 1; halved; 0.93 w + 0.07
        assert weighting.weights(99) == pytest.approx([0.535, 0.535, 1.0])

    def test_inverse_of_the_running_means_every_hundred(self):
        weighting = AdaLoss(3)
        self.feed(weighting, [4.0, 2.0, 1.0], 100)
        # 1/mean = .25 .5 1 of the largest; the last 2; halved: .125 .25 1
        expected = [0.93 * 0.125 + 0.07, 0.93 * 0.25 + 0.07, 1.0]
        assert weighting.weights(100) == pytest.approx(expected)
        self.feed(weighting, [1.0, 1.0, 1.0], 99, start=100)
        assert weighting.weights(199) == pytest.approx(expected)

    def test_momentum_is_99_hundredths(self):
        weighting = AdaLoss(2)
        self.feed(weighting, [2.0, 1.0], 99)
        weighting.observe([102.0, 1.0])
        mean = 0.99 * 2 + 0.01 * 102
        # relative 1/mean of the larger is 1, the last; then 2; halved
        assert weighting.weights(100)[0] == pytest.approx(0.93 * (1 / mean) / 2 + 0.07)

    def test_an_exit_that_was_not_computed_keeps_its_mean(self):
        weighting = AdaLoss(2)
        weighting.observe([2.0, 1.0])
        weighting.observe([math.nan, 1.0])
        assert weighting.state()["means"] == [2.0, 1.0]

    def test_a_perfect_exit_does_not_take_all(self):
        weighting = AdaLoss(2)
        self.feed(weighting, [1.0, 0.0], 100)
        assert all(math.isfinite(w) for w in weighting.weights(100))
        assert weighting.weights(100)[0] >= 0.07

    def test_a_restored_one_goes_on_alike(self):
        weighting = AdaLoss(3)
        self.feed(weighting, [4.0, 2.0, 1.0], 150)
        other = AdaLoss(3)
        other.restore(json.loads(json.dumps(weighting.state())))
        for one in (weighting, other):
            self.feed(one, [1.0, 2.0, 0.3], 60, start=150)
        assert weighting.weights(210) == other.weights(210)

    @pytest.mark.parametrize("state", [{}, {"means": [1.0], "weights": [1.0], "period": 0}, {"means": 3}])
    def test_a_foreign_state_is_refused(self, state):
        with pytest.raises(TrainingError, match="state of the weighting adaloss"):
            AdaLoss(2).restore(state)


class TestAlternating:
    def test_raises_one_exit_by_half_of_the_total(self):
        weighting = weighting_named("sieve", 4, alternate=True, seed=3)
        for iteration in range(50):
            raised = [a - b for a, b in zip(weighting.weights(iteration), sieve(4), strict=True)]
            assert sorted(raised) == pytest.approx([0, 0, 0, 1])

    def test_mean_is_one_and_a_half_times_the_weights(self):
        weighting = weighting_named("sieve", 10, alternate=True, seed=1)
        n = 20_000
        sums = [0.0] * 10
        for iteration in range(n):
            for i, w in enumerate(weighting.weights(iteration)):
                sums[i] += w
        total = sum(sieve(10))
        for found, w in zip(sums, sieve(10), strict=True):
            p = w / total
            four_sigma = 4 * (total / 2) * math.sqrt(p * (1 - p) / n)
            assert found / n == pytest.approx(1.5 * w, abs=four_sigma)

    def test_draws_follow_from_seed_and_iteration_alone(self):
        one, two = (weighting_named("const", 5, alternate=True, seed=7) for _ in range(2))
        forwards = [one.weights(i) for i in range(30)]
        assert forwards == [two.weights(i) for i in reversed(range(30))][::-1]
        other = weighting_named("const", 5, alternate=True, seed=8)
        assert forwards != [other.weights(i) for i in range(30)]

    def test_never_raises_an_exit_without_weight(self):
        weighting = weighting_named("sieve-member", 6, alternate=True)
        assert all(weighting.weights(i)[:3] == (0, 0, 0) for i in range(200))

    def test_passes_losses_and_state_on(self):
        inner = AdaLoss(2)
        weighting = Alternating(inner, seed=0)
        weighting.observe([2.0, 1.0])
        assert weighting.state() == inner.state()
        weighting.restore({"means": [1.0, None], "weights": [1.0, 1.0], "period": 2})
        assert inner.state()["means"] == [1.0, None]


def test_final_first_trains_the_last_exit_alone_and_then_all():
    weighting = FinalFirst(Fixed([1, 1, 3]), iterations=5)
    assert weighting.weights(4) == (0, 0, 1)
    assert weighting.weights(5) == (1, 1, 3)
