from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from stream_ann.errors import UsageError
from stream_ann.training.objective import Objective
from stream_ann.training.schedule import lr_factor


def some(exits=3, images=5, classes=4, seed=0):
    random = torch.Generator().manual_seed(seed)
    logits = [3 * torch.randn(images, classes, generator=random) for _ in range(exits)]
    return logits, torch.randint(classes, (images,), generator=random)


class TestObjective:
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_cross_entropy_of_each_exit(self, smoothing):
        logits, labels = some()
        found = Objective(label_smoothing=smoothing).losses(logits, labels, last=True)
        expected = [F.cross_entropy(one, labels, label_smoothing=smoothing) for one in logits]
        torch.testing.assert_close(found, torch.stack(expected))

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_soft_targets(self, smoothing):
        logits, _ = some()
        targets = torch.rand(5, 4).softmax(1)
        found = Objective(label_smoothing=smoothing).losses(logits, targets, last=True)
        expected = [F.cross_entropy(one, targets, label_smoothing=smoothing) for one in logits]
        torch.testing.assert_close(found, torch.stack(expected))

    def test_hard_labels_are_soft_targets_that_are_certain(self):
        logits, labels = some()
        objective = Objective(label_smoothing=0.1)
        certain = F.one_hot(labels, 4).float()
        torch.testing.assert_close(objective.losses(logits, labels), objective.losses(logits, certain))

    def test_half_precision_logits_are_summed_in_float32(self):
        logits, labels = some()
        found = Objective().losses([one.bfloat16() for one in logits], labels)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, Objective().losses([one.bfloat16().float() for one in logits], labels))

    def test_self_distillation_of_the_early_exits_from_the_last(self):
        logits, labels = some()
        objective = Objective(self_distill=0.3, self_temperature=2.0)
        found = objective.losses(logits, labels, final=logits[-1], last=True)
        plain = Objective().losses(logits, labels)
        for i in range(2):
            wanted = F.softmax(logits[-1] / 2, dim=1)
            match = F.kl_div(F.log_softmax(logits[i] / 2, dim=1), wanted, reduction="batchmean") * 4
            torch.testing.assert_close(found[i], 0.7 * plain[i] + 0.3 * match)
        torch.testing.assert_close(found[2], plain[2])

    def test_the_last_exit_is_a_constant_to_those_that_match_it(self):
        logits, labels = some()
        for one in logits:
            one.requires_grad_()
        losses = Objective(self_distill=0.5).losses(logits, labels, final=logits[-1], last=True)
        losses[:2].sum().backward()
        assert logits[-1].grad is None or not logits[-1].grad.any()
        assert logits[0].grad is not None

    def test_all_exits_of_an_earlier_member_match_the_last(self):
        logits, labels = some()
        final = torch.randn(5, 4)
        found = Objective(self_distill=0.3).losses(logits, labels, final=final, last=False)
        plain = Objective().losses(logits, labels)
        assert (found != plain).all()

    def test_distillation_from_a_teacher(self):
        logits, labels = some()
        teacher = torch.randn(5, 4)
        found = Objective(distill=0.6, temperature=3.0).losses(logits, labels, teacher=teacher, last=True)
        for i, plain in enumerate(Objective().losses(logits, labels)):
            match = F.kl_div(F.log_softmax(logits[i] / 3, 1), F.softmax(teacher / 3, 1), reduction="batchmean") * 9
            torch.testing.assert_close(found[i], 0.4 * plain + 0.6 * match)

    def test_both_kinds_of_distillation_share_the_loss(self):
        logits, labels = some()
        teacher = torch.randn(5, 4)
        both = Objective(self_distill=0.25, distill=0.5, temperature=2.0, self_temperature=2.0)
        found = both.losses(logits, labels, final=logits[-1], teacher=teacher, last=True)
        plain = Objective().losses(logits, labels)
        by_teacher = Objective(distill=1.0).losses(logits, labels, teacher=teacher)
        by_last = Objective(self_distill=1.0).losses(logits, labels, final=logits[-1], last=True)
        expected = [0.25 * plain[i] + 0.25 * by_last[i] + 0.5 * by_teacher[i] for i in range(2)]
        torch.testing.assert_close(found[:2], torch.stack(expected))
        torch.testing.assert_close(found[2], 0.5 * plain[2] + 0.5 * by_teacher[2])

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            ({"label_smoothing": 1.0}, "label-smoothing is 1.0"),
            ({"self_distill": -0.1}, "self-distill is -0.1"),
            ({"distill": 1.1}, "distill is 1.1"),
            ({"self_distill": 0.6, "distill": 0.6}, "together are 1.2; they must be at most 1"),
            ({"temperature": 0.0}, "temperature is 0.0"),
            ({"self_temperature": math.nan}, "self-temperature is nan"),
        ],
    )
    def test_values_that_make_no_sense(self, options, complaint):
        with pytest.raises(UsageError, match=complaint):
            Objective(**options)


class TestSchedule:
    def test_cosine_falls_from_one_to_nearly_zero(self):
        factors = [lr_factor(i, 100, schedule="cosine") for i in range(100)]
        assert factors[0] == 1
        assert factors[50] == pytest.approx(0.5)
        assert 0 < factors[99] < 0.001
        assert factors == sorted(factors, reverse=True)

    def test_steps_of_the_paper(self):
        factors = [lr_factor(epoch, 300, schedule="steps") for epoch in range(300)]
        drops = [i for i in range(1, 300) if factors[i] < factors[i - 1]]
        assert drops == [140, 210, 250]
        assert factors[299] == pytest.approx(0.001)

    def test_warm_up_rises_evenly_and_reaches_the_top(self):
        factors = [lr_factor(i, 100, schedule="constant", warmup=0.1) for i in range(20)]
        assert factors[:3] == pytest.approx([1 / 11, 2 / 11, 3 / 11])
        assert factors[10:] == [1.0] * 10
        assert lr_factor(10, 100, schedule="cosine", warmup=0.1) == 1.0

    def test_unknown(self):
        with pytest.raises(UsageError, match="no schedule is called 'cosin'; did you mean 'cosine'"):
            lr_factor(0, 1, schedule="cosin")
