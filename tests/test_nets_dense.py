"""DenseANN: the trunk by hand, its exits, its costs, wrong arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from stream_ann.errors import CardError, UsageError
from stream_ann.nets import DenseANN, build
from tests.net_checks import check_folding, check_modes, check_round_trips, check_steps, lively
from tests.net_checks import one_thread as one_thread  # a fixture

SMALL: dict[str, Any] = {"classes": 5, "depths": (2, 3, 1), "growth": 4, "s": 2}
CASES: dict[str, dict[str, Any]] = {
    "bc": SMALL,
    "plain": {**SMALL, "bottleneck": 0, "reduction": 1.0, "s": 1},
    "odd size": {**SMALL, "resolution_px": 45, "reduction": 0.3},
    "3x3/2": {**SMALL, "stem": "3x3/2", "resolution_px": 64},
    "3x3/4": {**SMALL, "stem": "3x3/4", "resolution_px": 96, "s": 6},
    "7x7/4": {**SMALL, "stem": "7x7/4", "resolution_px": 97},
    "one block": {**SMALL, "depths": [3]},
}


@pytest.mark.parametrize("case", CASES)
class TestContract:
    def test_steps(self, case: str):
        check_steps(lively(DenseANN(**CASES[case])))

    def test_round_trips(self, case: str):
        check_round_trips(lively(DenseANN(**CASES[case])))

    def test_folding(self, case: str):
        net = lively(DenseANN(**CASES[case]))
        transitions = len(net.depths) - 1
        # Of each unit, transition and head the first batch norm has no convolution before it.
        check_folding(net, left=len(net.blocks) + transitions + len(net.heads))

    def test_modes(self, case: str):
        check_modes(DenseANN(**CASES[case]))


def test_the_default_is_the_papers_densenet_bc_of_100_layers():
    net = build({"name": "denseann", "classes": 10}, device="meta")
    assert isinstance(net, DenseANN)
    convolutions = sum(isinstance(m, nn.Conv2d) for m in net.modules())
    assert convolutions + 1 == 100
    # 0.8 million parameters (arXiv 1608.06993, table 2); the auxiliary heads are not the paper's.
    auxiliary = [head for block, head in net.heads.named_children() if block != "47"]
    parameters = sum(p.numel() for p in net.parameters()) - sum(p.numel() for h in auxiliary for p in h.parameters())
    assert parameters == 769_162
    # DenseNet-BC-100 is given as 0.3 G multiply-accumulates in the literature.
    assert net.plan().cumulative_macs[-1] == pytest.approx(0.292e9, rel=0.02)


def test_channels_and_sizes_grow_and_shrink_as_in_the_paper():
    net = DenseANN(classes=2, depths=(2, 2), growth=4, reduction=0.5, s=1).eval()
    state: tuple[torch.Tensor, ...] = ()
    shapes = []
    for step in net.steps:
        state, _ = step(torch.zeros(1, 3, 32, 32), state)
        shapes.append(tuple(state[0].shape[1:]))
    assert shapes == [(12, 32, 32), (16, 32, 32), (12, 16, 16), (16, 16, 16)]


def test_odd_sizes_are_halved_upwards():
    net = DenseANN(classes=2, depths=(1, 1, 1), growth=4, s=1, resolution_px=45).eval()
    state: tuple[torch.Tensor, ...] = ()
    sides = []
    for step in net.steps:
        state, _ = step(torch.zeros(1, 3, 45, 45), state)
        sides.append(state[0].shape[-1])
    assert sides == [45, 23, 12]


def test_costs_are_the_hand_count():
    net = DenseANN(classes=10, depths=(1, 1), growth=4, bottleneck=2, reduction=0.5, s=1)
    stem = 32**2 * 9 * 3 * 8
    first = 32**2 * (8 * 8 + 9 * 8 * 4)
    transition = 32**2 * 12 * 6
    second = 16**2 * (6 * 8 + 9 * 8 * 4)
    assert [step.macs for step in net.plan().steps] == [stem + first + 12 * 10, transition + second + 10 * 10]


def test_old_features_are_handed_on_untouched():
    net = lively(DenseANN(classes=2, depths=(2,), growth=4, s=1))
    (before,), _ = net.steps[0](torch.randn(1, 3, 32, 32), ())
    (after,), _ = net.steps[1](torch.empty(0), (before,))
    assert torch.equal(after[:, :12], before)


@pytest.mark.parametrize(
    ("depths", "s", "expected"), [((2, 2), 3, [0, 3]), ((2, 2), 1, [0, 1, 2, 3]), ((2, 3), 5, [4])]
)
def test_predictors_are_counted_from_the_end(depths: tuple[int, ...], s: int, expected: list[int]):
    net = DenseANN(classes=2, depths=depths, growth=4, s=s)
    assert [int(i) for i in net.heads._modules] == expected


def test_it_trains():
    torch.manual_seed(0)
    net = DenseANN(**SMALL).train()
    labels = torch.arange(10) % 5
    images = torch.randn(10, 3, 32, 32) + labels.view(10, 1, 1, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    losses = []
    for _ in range(12):
        loss = torch.stack([nn.functional.cross_entropy(logits, labels) for logits in net(images)]).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None for p in net.parameters())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"classes": 0}, "classes is 0; it must be a whole number from 1 to 100000"),
        ({"depths": ()}, r"depths is \(\); it must be a list of 1 to 6 whole numbers from 1 to 64"),
        ({"depths": [4, 0]}, r"depths is \[4, 0\]; it must be a list of 1 to 6"),
        ({"depths": [1] * 7}, r"depths is \[1, 1, .*; it must be a list of 1 to 6"),
        ({"depths": [True]}, r"depths is \[True\]"),
        ({"depths": "16"}, "depths is '16'"),
        ({"growth": 3}, "growth is 3; it must be a whole number from 4 to 64"),
        ({"bottleneck": 9}, "bottleneck is 9; it must be a whole number from 0 to 8"),
        ({"reduction": 0.0}, "reduction is 0.0; it must be a number from 0.05 to 1.0"),
        ({"s": 7}, "s is 7; it must be a whole number from 1 to 6"),
        ({"stem": "5x5"}, "stem is '5x5'; it must be one of 3x3, 3x3/2, 3x3/4, 7x7/4"),
        ({"resolution_px": 4}, "resolution_px is 4; it must be a whole number from 8 to 1024"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        DenseANN(**{**SMALL, **wrong})
    with pytest.raises(CardError, match=message):
        build({"name": "denseann", **SMALL, **wrong})
