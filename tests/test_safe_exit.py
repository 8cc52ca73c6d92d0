"""Early exit that is vouched for: what is promised holds, and is not given away."""

from __future__ import annotations

import numpy as np
import pytest

from stream_ann.errors import CardError, UsageError
from stream_ann.training.early_exit import NEVER, exits_taken, frontier
from stream_ann.training.safe_exit import MAX_DROPS, SafeExits, drop_p_value, safe_exits, safe_thresholds


def made(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated answers of four exits, each better than the one before: bool and float [4, images]."""
    rng = np.random.default_rng(seed)
    ease = rng.beta(2, 1, images)
    sure = np.clip(ease[None] ** np.array([[3.0], [1.5], [1.0], [0.7]]), 0.01, 0.99)
    return rng.random((4, images)) < sure, sure


def drop(limits: tuple[float, ...], correct: np.ndarray, confidence: np.ndarray) -> float:
    taken = exits_taken(limits, confidence)
    return 100 * float(correct[-1].mean() - correct[taken, np.arange(correct.shape[1])].mean())


def test_what_is_promised_holds_where_the_cheapest_without_a_loss_breaks_it():
    others = made(100_000, 10_000)
    broken = careless = 0
    for seed in range(20):
        correct, confidence = made(600, seed)
        limits = safe_thresholds(correct, confidence, max_drop=3.0)
        assert limits is not None
        broken += drop(limits, *others) > 3.0
        points = frontier(correct, confidence, (1.0, 2.0, 3.0, 4.0), levels=8, effort=100)
        cheapest = next(p for p in points if p.accuracy >= correct[-1].mean() - 0.03)
        careless += drop(cheapest.thresholds, *others) > 3.0
    assert broken <= 3  # 1 is to be expected
    assert careless > 7


def test_many_images_can_vouch_for_little_and_few_for_nothing():
    many = safe_exits(*made(20_000, 1))
    assert many is not None
    assert many.max_drops == MAX_DROPS
    assert list(many.thresholds) == sorted(many.thresholds, reverse=True)
    assert many.thresholds[0][0] < 1
    for limits in many.thresholds:
        assert list(limits) == sorted(limits, reverse=True)
        assert limits[-1] == 0
    assert safe_exits(*made(20, 1)) is None
    assert safe_thresholds(*made(300, 1), max_drop=0) is None  # no number of images can vouch for nothing at all
    assert safe_thresholds(*made(20_000, 1), max_drop=1) == safe_thresholds(*made(20_000, 1), max_drop=1)


def test_one_exit_needs_no_thresholds():
    correct, confidence = made(2000, 0)
    assert safe_thresholds(correct[:1], confidence[:1], max_drop=1) == (0.0,)


def test_chance_rarely_passes_for_proof():
    """At a mean drop of just the limit, the test rejects in about one of twenty cases at most."""
    rng = np.random.default_rng(0)
    found = [
        drop_p_value(rng.choice([1.0, 0.0, -1.0], 600, p=[0.05, 0.92, 0.03]), 0.02, seed=i) < 0.05 for i in range(400)
    ]
    assert np.mean(found) < 0.07
    clear = drop_p_value(rng.choice([1.0, 0.0, -1.0], 600, p=[0.02, 0.94, 0.04]), 0.02)
    assert clear < 0.01


def test_a_card_keeps_them():
    known = SafeExits((1.0, 2.0), ((0.9, NEVER, 0.0), (0.5, 0.4, 0.0)))
    plain = known.as_json()
    assert plain["thresholds"][0] == [0.9, None, 0.0]
    assert SafeExits.from_json({**plain, "data": "ours"}, exits=3) == known
    assert known.at(1.9) == known.thresholds[0]
    assert known.at(50) == known.thresholds[1]
    with pytest.raises(UsageError, match="give at least 1"):
        known.at(0.9)
    for wrong in ([], {}, {**plain, "max_drops": [1.0]}, {**plain, "thresholds": [[0.9, 2.0, 0], [0, 0, 0]]}):
        with pytest.raises(CardError, match="'safe_exits' must hold"):
            SafeExits.from_json(wrong, exits=3)
    with pytest.raises(CardError):
        SafeExits.from_json(plain, exits=4)
