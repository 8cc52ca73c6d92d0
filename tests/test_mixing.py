"""Weights of exits with which an average of them never gets worse."""

from __future__ import annotations

import pytest
import torch

from stream_ann.frames import Prediction
from stream_ann.readout import Average
from stream_ann.training.mixing import SHARES, fit_mixing
from stream_ann.training.outputs import Outputs


def made(qualities: list[float], images: int = 600, classes: int = 8) -> Outputs:
    """Exits whose logits have so much of the truth in them."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (images,), generator=random)
    truth = torch.nn.functional.one_hot(labels, classes).float()
    noise = torch.randn(len(qualities), images, classes, generator=random)
    return Outputs(torch.stack([q * truth + n for q, n in zip(qualities, noise, strict=True)]), labels)


def top1(outputs: Outputs, weights: tuple[float, ...]) -> list[float]:
    """How often the readout itself is right after each exit."""
    readout = Average(weights)
    probabilities = outputs.logits.softmax(2).numpy()
    hits = torch.zeros(len(weights))
    for image, label in enumerate(outputs.labels.tolist()):
        exits = [Prediction(k, row[image], 0.0) for k, row in enumerate(probabilities)]
        hits += torch.tensor([readout.answer(exits[: k + 1]).class_id == label for k in range(len(exits))]).float()
    return (hits / len(outputs.labels)).tolist()


def test_the_curve_never_falls_though_an_exit_is_worse_than_the_one_before():
    outputs = made([1.5, 0.2, 2.0, 3.0])
    latest = [float((logits.argmax(1) == outputs.labels).double().mean()) for logits in outputs.logits]
    assert latest[1] < latest[0] - 0.1
    weights = fit_mixing(outputs)
    curve = top1(outputs, weights)
    assert curve == sorted(curve)
    assert curve[-1] > latest[-1]  # together they know more
    assert weights[0] == 1
    assert weights[3] > weights[1]


def test_right_answers_are_not_given_for_less_surprise():
    labels = torch.zeros(10, dtype=torch.int64)
    # right seven times, but hardly sure, and wrong with all its might; then wrong every time, but never sure of it
    first = torch.tensor([[0.55, 0.45]] * 7 + [[0.001, 0.999]] * 3)
    second = torch.tensor([[0.4, 0.6]] * 10)
    outputs = Outputs(torch.stack([first, second]).log(), labels)
    weights = fit_mixing(outputs)
    assert top1(outputs, weights) == pytest.approx([0.7, 0.7])
    assert weights[1] > 0.3  # as much of it as costs nothing


def test_an_exit_without_any_use_counts_as_little_as_it_can():
    outputs = made([4.0, 4.0])
    wrong = Outputs(torch.stack([outputs.logits[0], -9 * outputs.logits[0]]), outputs.labels)
    assert fit_mixing(wrong)[1] == pytest.approx(SHARES[0] / (1 - SHARES[0]), rel=1e-3)


def test_a_new_exit_has_at_least_the_share_that_is_asked_for():
    outputs = made([4.0, 1.0, 4.0])
    free, held = fit_mixing(outputs), fit_mixing(outputs, least=0.5)
    assert free[1] < 1 <= held[1]
    assert held[2] >= held[0] + held[1]
    assert fit_mixing(outputs, least=[0.0, 0.0, 0.5])[:2] == free[:2]
    assert fit_mixing(outputs, least=[0.0, 0.5, 0.0])[1] == held[1]


def test_temperatures_are_heeded():
    outputs = made([1.5, 2.0])
    hot = Outputs(outputs.logits * torch.tensor([1.0, 50.0])[:, None, None], outputs.labels)
    assert fit_mixing(hot, [1.0, 50.0]) == pytest.approx(fit_mixing(outputs), rel=0.1)
    assert fit_mixing(hot)[1] < fit_mixing(outputs)[1]
