"""Temperatures, thresholds for early exit, and the three parts that they are fitted, chosen and reported on."""

from __future__ import annotations

import itertools
import json
import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stream_ann.errors import UsageError
from stream_ann.training import calibrate as calibrate_module
from stream_ann.training.calibrate import MIN_PART_IMAGES, TEMPERATURES, calibrate, fit_temperature, three_parts
from stream_ann.training.early_exit import NEVER, OperatingPoint, choose, exits_taken, frontier
from stream_ann.training.evaluate import Outputs
from stream_ann.training.mixing import fit_mixing
from tests.fakes import plan_of_macs


def nll(logits: Tensor, labels: Tensor, temperature: float) -> float:
    return float(torch.nn.functional.cross_entropy(logits.double() / temperature, labels))


def drawn(images: int, classes: int, temperature: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits with labels drawn from ``softmax(logits / temperature)``: that is their temperature."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, classes, generator=generator)
    labels = torch.multinomial(torch.softmax(logits / temperature, dim=1), 1, generator=generator)[:, 0]
    return logits, labels


def outputs_of(
    images: int = 1500, classes: int = 10, exits: int = 4, seed: int = 0, overconfidence: float = 3.0
) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (images,), generator=generator)
    hardness = 3 * torch.rand(images, 1, generator=generator)
    known = torch.linspace(2.0, 5.0, exits)[:, None, None]
    noise = torch.randn(exits, images, classes, generator=generator)
    logits = (known - hardness) * torch.nn.functional.one_hot(labels, classes) + noise
    return Outputs(overconfidence * logits, labels)


PLAN = plan_of_macs([10, 20, 40, 80], classes=10, members=[0, 0, 1, 2])


class TestTemperature:
    @pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 6.0])
    def test_finds_the_temperature_that_labels_were_drawn_at(self, temperature):
        assert fit_temperature(*drawn(6000, 10, temperature)) == pytest.approx(temperature, rel=0.08)

    @pytest.mark.parametrize("seed", range(4))
    def test_is_the_minimum(self, seed):
        logits, labels = drawn(300, 5, 1.7, seed)
        found = fit_temperature(logits, labels)
        least = nll(logits, labels, found)
        for other in np.geomspace(*TEMPERATURES, 200):
            assert least <= nll(logits, labels, float(other)) + 1e-9

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 5), st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e4]))
    def test_is_never_worse_than_none(self, seed, images, classes, scale):
        generator = torch.Generator().manual_seed(seed)
        logits = scale * torch.randn(images, classes, generator=generator)
        labels = torch.randint(0, classes, (images,), generator=generator)
        found = fit_temperature(logits, labels)
        assert TEMPERATURES[0] * 0.999 <= found <= TEMPERATURES[1] * 1.001
        assert nll(logits, labels, found) <= nll(logits, labels, 1.0)

    def test_takes_a_few_passes(self, monkeypatch):
        passes = []
        original = calibrate_module._derivatives

        def counted(logits: Tensor, labels: Tensor, beta: float) -> tuple[float, float, float]:
            passes.append(beta)
            return original(logits, labels, beta)

        monkeypatch.setattr(calibrate_module, "_derivatives", counted)
        fit_temperature(*drawn(300, 5, 2.5))
        assert len(passes) <= 10, "Newton's method, not the bracket alone"

    def test_without_errors_it_is_the_lower_limit(self):
        labels = torch.arange(4)
        assert fit_temperature(torch.eye(4), labels) == pytest.approx(TEMPERATURES[0], rel=1e-3)

    def test_nothing_but_errors_is_the_upper_limit(self):
        assert fit_temperature(torch.eye(4), (torch.arange(4) + 1) % 4) == pytest.approx(TEMPERATURES[1], rel=1e-3)

    def test_does_not_depend_on_how_it_is_cut_up(self, monkeypatch):
        logits, labels = drawn(300, 5, 1.7)
        whole = fit_temperature(logits, labels)
        monkeypatch.setattr("stream_ann.training.calibrate._CHUNK_VALUES", 37)
        assert fit_temperature(logits, labels) == pytest.approx(whole, rel=1e-6)


class TestThreeParts:
    def test_every_image_is_in_one_and_classes_are_even(self):
        labels = torch.tensor([0] * 31 + [1] * 7 + [2] * 3 + [3])
        parts = three_parts(labels)
        assert sorted(torch.cat(parts).tolist()) == list(range(42))
        assert [len(p) for p in parts] == [14, 14, 14]
        for number, count in ((0, 31), (1, 7), (2, 3)):
            for part in parts:
                assert abs(int((labels[part] == number).sum()) - count / 3) < 1

    def test_the_seed_decides(self):
        labels = torch.arange(90) % 3
        first, again, other = (three_parts(labels, seed=s) for s in (1, 1, 2))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))

    def test_groups_stay_together(self):
        groups = torch.arange(120) // 8
        labels = groups % 3
        parts = three_parts(labels, groups=groups)
        held = [set(groups[part].tolist()) for part in parts]
        assert sum(len(h) for h in held) == 15
        for part in parts:
            assert set(labels[part].tolist()) == {0, 1, 2}
            assert 32 <= len(part) <= 48

    def test_too_few(self):
        with pytest.raises(UsageError, match="2 images cannot be cut into three parts"):
            three_parts(torch.tensor([0, 1]))
        with pytest.raises(UsageError, match="1 groups of images cannot be cut"):
            three_parts(torch.zeros(9).long(), groups=torch.zeros(9).long())
        with pytest.raises(ValueError, match=r"groups of shape \[3\] for labels of shape \[9\]"):
            three_parts(torch.zeros(9).long(), groups=torch.zeros(3).long())


def problem(seed: int, exits: int = 3, images: int = 14) -> tuple[np.ndarray, np.ndarray, list[float]]:
    rng = np.random.default_rng(seed)
    confidence = rng.random((exits, images)).astype(np.float32).round(2)
    correct = rng.random((exits, images)) < (0.3 * confidence + np.linspace(0.3, 0.6, exits)[:, None])
    return correct, confidence, np.cumsum(rng.integers(1, 10, exits)).astype(float).tolist()


def value(thresholds, correct, confidence, costs) -> tuple[float, float]:
    """Mean cost and accuracy, image by image."""
    cost = right = 0.0
    for n in range(correct.shape[1]):
        e = next(e for e in range(len(costs)) if confidence[e, n] >= thresholds[e])
        cost += costs[e]
        right += correct[e, n]
    return cost / correct.shape[1], right / correct.shape[1]


def brute_force(correct, confidence, costs) -> list[tuple[float, float]]:
    """The frontier of all thresholds that make a difference, rising in cost."""
    grids = [[*sorted(set(row.tolist())), NEVER] for row in confidence[:-1]]
    values = {value((*ts, 0.0), correct, confidence, costs) for ts in itertools.product(*grids)}
    best: list[tuple[float, float]] = []
    for cost, accuracy in sorted(values, key=lambda v: (v[0], -v[1])):
        if not best or accuracy > best[-1][1] + 1e-9:
            best.append((cost, accuracy))
    return best


class TestFrontier:
    @pytest.mark.parametrize("seed", range(12))
    def test_is_what_trying_everything_finds(self, seed):
        correct, confidence, costs = problem(seed)
        found = [(p.cost, p.accuracy) for p in frontier(correct, confidence, costs)]
        assert np.allclose(found, brute_force(correct, confidence, costs))

    @pytest.mark.parametrize("exits", [1, 2])
    def test_few_exits(self, exits):
        correct, confidence, costs = problem(5, exits)
        found = [(p.cost, p.accuracy) for p in frontier(correct, confidence, costs)]
        assert np.allclose(found, brute_force(correct, confidence, costs))

    def test_the_local_search_comes_close(self):
        # Four exits of ten images: too many combinations for this effort, few enough to try them all here.
        lost, points = [], 0
        for seed in range(8):
            correct, confidence, costs = problem(seed, exits=4, images=10)
            points_found = frontier(correct, confidence, costs, effort=110)
            found = [(p.cost, p.accuracy) for p in points_found]
            for cost, accuracy in brute_force(correct, confidence, costs):
                points += 1
                lost.append(accuracy - max((a for c, a in found if c <= cost + 1e-9), default=0.0))
        assert min(lost) > -1e-9, "nothing can be better than trying everything"
        assert np.mean(np.array(lost) < 1e-9) > 0.9
        assert np.mean(lost) < 0.01

    def test_points_are_worth_what_they_say(self):
        correct, confidence, costs = problem(3, exits=5, images=200)
        points = frontier(correct, confidence, costs, levels=12, effort=300)
        assert len(points) > 10
        for point in points:
            assert np.allclose((point.cost, point.accuracy), value(point.thresholds, correct, confidence, costs))
        assert all(a.cost < b.cost and a.accuracy < b.accuracy for a, b in itertools.pairwise(points))

    def test_no_exit_alone_is_better(self):
        correct, confidence, costs = problem(4, exits=6, images=300)
        points = frontier(correct, confidence, costs, effort=200)
        for e in range(6):
            assert any(p.cost <= costs[e] + 1e-9 and p.accuracy >= correct[e].mean() - 1e-9 for p in points)

    def test_is_the_same_each_time(self):
        correct, confidence, costs = problem(4, exits=6, images=300)
        assert frontier(correct, confidence, costs, effort=400) == frontier(correct, confidence, costs, effort=400)

    def test_equal_confidences_need_no_threshold_between(self):
        correct = np.array([[True, False], [True, True]])
        confidence = np.ones((2, 2), dtype=np.float32)
        points = frontier(correct, confidence, [1.0, 2.0])
        assert [(p.cost, p.accuracy) for p in points] == [(1.0, 0.5), (2.0, 1.0)]
        assert [p.thresholds for p in points] == [(0.0, 0.0), (NEVER, 0.0)]

    def test_bad_arguments(self):
        correct, confidence, _ = problem(0)
        with pytest.raises(ValueError, match="with a cost for each exit, got"):
            frontier(correct, confidence, [1.0])
        with pytest.raises(ValueError, match="costs must not fall"):
            frontier(correct, confidence, [3.0, 2.0, 4.0])


class TestChoose:
    correct, confidence, costs = problem(7, exits=4, images=400)
    points = frontier(correct, confidence, costs, effort=400)
    last: ClassVar = {"last_accuracy": float(correct[-1].mean()), "last_cost": costs[-1]}

    def test_a_larger_drop_never_costs_more(self):
        chosen = [choose(self.points, max_drop=d, **self.last) for d in np.linspace(0, 40, 60)]
        assert all(b.cost <= a.cost for a, b in itertools.pairwise(chosen))
        for drop, point in zip(np.linspace(0, 40, 60), chosen, strict=True):
            assert point.accuracy >= self.last["last_accuracy"] - drop / 100 - 1e-9

    def test_a_larger_cost_never_answers_worse(self):
        targets = np.linspace(self.costs[0] / self.costs[-1], 1, 60)
        chosen = [choose(self.points, target_cost=t, **self.last) for t in targets]
        assert all(b.accuracy >= a.accuracy for a, b in itertools.pairwise(chosen))
        assert all(p.cost <= t * self.costs[-1] + 1e-6 for t, p in zip(targets, chosen, strict=True))

    def test_no_drop_and_the_whole_cost_are_no_worse_than_the_last_exit(self):
        for point in (choose(self.points, max_drop=0, **self.last), choose(self.points, target_cost=1, **self.last)):
            assert point.accuracy >= self.last["last_accuracy"]
            assert point.cost <= self.last["last_cost"]

    def test_bad_budgets(self):
        with pytest.raises(UsageError, match="early exit needs one budget"):
            choose(self.points, **self.last)
        with pytest.raises(UsageError, match="early exit needs one budget"):
            choose(self.points, max_drop=1, target_cost=0.5, **self.last)
        with pytest.raises(UsageError, match="a drop in accuracy of -1 points"):
            choose(self.points, max_drop=-1, **self.last)
        with pytest.raises(UsageError, match=r"a target cost of 1\.5; give a fraction"):
            choose(self.points, target_cost=1.5, **self.last)
        points = [OperatingPoint((0.0, 0.0), 3.0, 0.5)]
        with pytest.raises(UsageError, match=r"no early exit costs 0\.1 of the plan.*takes 0\.3; .* at least 0\.3"):
            choose(points, target_cost=0.1, last_accuracy=0.5, last_cost=10.0)


def test_exits_taken():
    confidence = np.array([[0.9, 0.5, 0.2], [0.1, 0.6, 0.3], [0.2, 0.2, 0.2]], dtype=np.float32)
    assert exits_taken((0.9, 0.6, 0.0), confidence.astype(np.float64).round(1)).tolist() == [0, 1, 2]
    assert exits_taken((NEVER, NEVER, 0.0), confidence).tolist() == [2, 2, 2]
    assert exits_taken((0.0, 0.6, 0.0), confidence).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="3 thresholds are needed, the last one 0"):
        exits_taken((0.5, 0.5, 0.5), confidence)


class TestCalibrate:
    def test_overconfident_exits_are_put_right(self):
        found = calibrate(outputs_of(overconfidence=6.0), PLAN, max_drop=1.0)
        for e in found.exits:
            assert e.temperature > 1.5
            assert e.calibrated_ece < e.ece
            assert e.calibrated_nll < e.nll
        assert found.images == (500, 500, 500)
        assert found.warnings == ()

    def test_early_exit_is_worth_what_it_says(self):
        """Everything again, image by image, from the parts and the thresholds alone."""
        outputs = outputs_of()
        found = calibrate(outputs, PLAN, max_drop=1.0, step_s=(0.001, 0.002, 0.004, 0.008), seed=3)
        early = found.early_exit
        _, chosen, reported = three_parts(outputs.labels, seed=3)
        scales = torch.tensor(found.temperatures)[:, None, None]
        confidence, answer = torch.softmax(outputs.logits / scales, dim=2).max(dim=2)
        correct = (answer == outputs.labels).numpy()

        def on(part: Tensor, costs: list[float]) -> tuple[float, float]:
            return value(early.thresholds, correct[:, part], confidence[:, part].numpy(), costs)

        cost, top1 = on(reported, [10, 30, 70, 150])
        assert (early.macs, early.top1) == pytest.approx((cost, top1))
        assert early.cost == pytest.approx(cost / 150)
        assert early.ms == pytest.approx(on(reported, [1, 3, 7, 15])[0])
        assert (150 * early.chosen_cost, early.chosen_top1) == pytest.approx(on(chosen, [10, 30, 70, 150]))
        assert early.chosen_top1 >= correct[-1, chosen].mean() - 0.01 - 1e-9
        assert early.chosen_cost < 0.8
        assert early.last_top1 == pytest.approx(correct[-1, reported].mean())
        assert early.drop == pytest.approx(100 * (early.last_top1 - early.top1))
        assert sum(early.shares) == pytest.approx(1)
        assert sum(s * m for s, m in zip(early.shares, [10, 30, 70, 150], strict=True)) == pytest.approx(cost)
        assert (early.goal, early.budget, early.readout) == ("max-drop", 1.0, "latest")

        assert [s.macs for s in early.statics] == [10, 30, 40, 80]
        assert [s.ms for s in early.statics] == pytest.approx([1, 3, 4, 8])
        assert [s.top1 for s in early.statics] == pytest.approx(correct[:, reported].mean(axis=1).tolist())
        as_good = [i for i in range(4) if correct[i, reported].mean() >= top1]
        assert early.smallest_static == (min(as_good) if as_good else None)

    @pytest.mark.parametrize("least", [0.0, 0.6, 0.95])
    def test_no_image_that_an_exit_is_unsure_of_ends_there(self, least):
        outputs = outputs_of(exits=4)
        free = calibrate(outputs, PLAN, max_drop=20.0).early_exit
        assert min(free.thresholds[:-1]) < 0.6
        held = calibrate(outputs, PLAN, max_drop=20.0, least_confidence=least).early_exit
        assert held.thresholds == (*(max(t, least) for t in free.thresholds[:-1]), 0.0)
        assert (held.cost > free.cost) == (held.chosen_cost > free.chosen_cost) == (least > 0)
        assert held.chosen_top1 >= free.chosen_top1

    def test_a_target_cost_is_kept_where_it_was_chosen(self):
        found = calibrate(outputs_of(), PLAN, target_cost=0.4).early_exit
        assert found.chosen_cost <= 0.4
        assert found.cost == pytest.approx(0.4, abs=0.05)
        assert found.top1 > found.statics[1].top1
        assert (found.goal, found.budget) == ("target-cost", 0.4)

    def test_only_its_own_part_has_a_say(self):
        outputs = outputs_of()
        fitted, chosen, reported = three_parts(outputs.labels)
        base = calibrate(outputs, PLAN, max_drop=1.0)

        def with_noise(part: Tensor) -> Outputs:
            logits = outputs.logits.clone()
            logits[:, part] = torch.randn(logits[:, part].shape, generator=torch.Generator().manual_seed(1))
            return Outputs(logits, outputs.labels)

        other = calibrate(with_noise(reported), PLAN, max_drop=1.0)
        assert other.temperatures == base.temperatures
        assert other.early_exit.thresholds == base.early_exit.thresholds
        assert other.early_exit.top1 < 0.3
        other = calibrate(with_noise(chosen), PLAN, max_drop=1.0)
        assert other.temperatures == base.temperatures
        assert other.early_exit.thresholds != base.early_exit.thresholds
        assert other.early_exit.last_top1 == base.early_exit.last_top1
        assert calibrate(with_noise(fitted), PLAN, max_drop=1.0).temperatures != base.temperatures

    def test_the_readout_is_fitted_where_the_temperatures_are(self):
        outputs = outputs_of()
        fitted, chosen, reported = three_parts(outputs.labels)
        base = calibrate(outputs, PLAN, max_drop=1.0, readout="average", fit_readout=True)
        assert base.readout_weights == fit_mixing(outputs.rows(fitted), base.temperatures)
        given = calibrate(outputs, PLAN, max_drop=1.0, readout="average", weights=base.readout_weights)
        assert given.readout_weights is None
        assert given.early_exit == base.early_exit, "early exit is for the weights that were fitted"
        logits = outputs.logits.clone()
        for part in (chosen, reported):
            logits[:, part] = torch.randn(logits[:, part].shape, generator=torch.Generator().manual_seed(1))
        noisy = Outputs(logits, outputs.labels)
        assert calibrate(noisy, PLAN, max_drop=1.0, fit_readout=True).readout_weights == base.readout_weights
        assert json.loads(json.dumps(base.as_dict()))["readout_weights"] == list(base.readout_weights or ())

    def test_groups_are_not_torn_apart(self):
        outputs = outputs_of(images=300)
        grouped = Outputs(outputs.logits, outputs.labels, torch.arange(300) // 10)
        found = calibrate(grouped, PLAN, max_drop=1.0)
        assert all(count % 10 == 0 for count in found.images)
        assert found.safe_exits is None, "what frames of one clip say is not independent"

    def test_groups_of_one_image_are_no_groups(self):
        outputs = outputs_of()
        alone = Outputs(outputs.logits, outputs.labels, torch.arange(len(outputs)) + 100)
        found = calibrate(alone, PLAN, max_drop=1.0)
        assert found.safe_exits is not None
        assert found == calibrate(outputs, PLAN, max_drop=1.0)

    @pytest.mark.parametrize("readout", ["best", "average"])
    def test_other_readouts(self, readout):
        found = calibrate(outputs_of(), PLAN, max_drop=1.0, readout=readout).early_exit
        assert found.readout == readout
        assert found.chosen_cost < 0.8

    def test_few_images_are_warned_of(self):
        found = calibrate(outputs_of(images=100), PLAN, max_drop=1.0)
        assert any("on 33 images only" in line and "standard error of 7.0 points" in line for line in found.warnings)
        assert not calibrate(outputs_of(images=3 * MIN_PART_IMAGES), PLAN, max_drop=1.0).warnings
        with pytest.raises(UsageError, match="2 images cannot be cut into three parts"):
            calibrate(outputs_of(images=2), PLAN, max_drop=1.0)

    def test_rare_classes_are_warned_of(self):
        outputs = outputs_of(images=1500, classes=10)
        labels = outputs.labels.clone()
        labels[labels == 9] = 0
        labels[0] = 9
        found = calibrate(Outputs(outputs.logits, labels), PLAN, max_drop=1.0)
        assert found.warnings == ("some classes have too few images to be in all three parts",)

    def test_is_plain_json(self):
        found = calibrate(outputs_of(), PLAN, max_drop=0.0)
        document = json.loads(json.dumps(found.as_dict(), allow_nan=False))
        assert document["images"] == {"fitted": 500, "chosen": 500, "reported": 500}
        thresholds = document["early_exit"]["thresholds"]
        expected = [None if t == NEVER else t for t in found.early_exit.thresholds]
        assert thresholds == expected
        assert document["early_exit"]["statics"][1]["name"] == "step1"
        assert all(len(point) == 2 for point in document["early_exit"]["curve"])

    def test_one_exit(self):
        found = calibrate(outputs_of(exits=1), plan_of_macs([10], classes=10), max_drop=0.5).early_exit
        assert (found.thresholds, found.cost, found.drop, found.shares) == ((0.0,), 1.0, 0.0, (1.0,))
        assert math.isclose(found.top1, found.statics[0].top1)
