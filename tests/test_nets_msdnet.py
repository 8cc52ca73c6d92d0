"""MSDNet: the published configuration, lazy evaluation against computing layer after layer, wrong arguments."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_ann.errors import CardError, UsageError
from stream_ann.nets import MSDNet, build
from stream_ann.nets.msdnet import Cell, Wave
from tests.net_checks import check_folding, check_modes, check_round_trips, check_steps, lively, pictures, same
from tests.net_checks import one_thread as one_thread  # a fixture

SMALL: dict[str, Any] = {"classes": 5, "exits": 3, "base": 2, "step": 2, "c": 4, "growth": 2, "head_width": 8}
CASES: dict[str, dict[str, Any]] = {
    "small": SMALL,
    "growing": {**SMALL, "spacing": "growing", "step": 1, "base": 1},
    "one scale": {**SMALL, "factors": [2], "reduction": 0.0},
    "two scales": {**SMALL, "factors": (1, 3), "bottlenecks": (4, 1), "step": 1},
    "a layer for each scale": {**SMALL, "exits": 1, "base": 3},
    "fewer layers than scales": {**SMALL, "exits": 2, "base": 1, "step": 1},
    "not a multiple": {**SMALL, "exits": 1, "base": 4},
    "all kept": {**SMALL, "reduction": 1.0},
    "imagenet": {**SMALL, "factors": (1, 2, 4, 4), "head_width": None, "stem": "7x7/4", "resolution_px": 97},
    "3x3/2": {**SMALL, "stem": "3x3/2", "resolution_px": 64},
    "3x3/4": {**SMALL, "stem": "3x3/4", "resolution_px": 96},
}


def layers_of(net: MSDNet) -> list[int]:
    """Layers before each classifier."""
    return [net.base, *(net.step if net.spacing == "even" else net.step * i + 1 for i in range(1, net.exits))]


def published_macs(net: MSDNet) -> list[float]:
    """Millions of multiply-accumulates at each exit as the authors' code counts them: layer after layer, not lazily.

    Written from the description of the network, without its code: convolutions and the linear layer only.
    """
    scales, depth = len(net.factors), sum(layers_of(net))
    part = math.ceil(depth / scales)
    side = [net.resolution_px >> s for s in range(scales)]
    total = 9 * 3 * net.c * net.factors[0] * side[0] ** 2
    for s in range(1, scales):
        total += 9 * net.c**2 * net.factors[s - 1] * net.factors[s] * side[s] ** 2
    width, found = net.c, []
    ends = torch.tensor(layers_of(net)).cumsum(0).tolist()
    for layer in range(1, depth + 1):
        lost = (layer - 1) // part
        new_part = lost > max(0, layer - 2) // part

        def made(source: int, out: int, s: int, width: int = width) -> int:
            channels = width * net.factors[source]
            middle = min(channels, net.bottlenecks[source] * out)
            return channels * middle * side[source] ** 2 + 9 * middle * out * side[s] ** 2

        for s in range(lost, scales):
            out = net.growth * net.factors[s]
            if s == lost and not new_part:
                total += made(s, out, s)
            else:
                total += made(s - 1, out // 2, s) + made(s, out // 2, s)
        width += net.growth
        if new_part and net.reduction:
            reduced = math.floor(net.reduction * width)
            total += sum(width * reduced * net.factors[s] ** 2 * side[s] ** 2 for s in range(lost, scales))
            width = reduced
        if layer in ends:
            channels = width * net.factors[-1]
            hidden = net.head_width or channels
            total += 9 * channels * hidden * (side[-1] // 2) ** 2 + 9 * hidden**2 * (side[-1] // 4) ** 2
            total += hidden * net.classes
            found.append(total / 1e6)
    return found


class LayerByLayer:
    """Every layer at every scale that anything needs, from the definition: x[l, s] of x[l-1, s-1] and x[l-1, s]."""

    def __init__(self, net: MSDNet, images: Tensor) -> None:
        self.net = net
        self.known = {(0, s): features for s, features in enumerate(net.stem(images))}
        self.cells: dict[tuple[int, int], Cell] = {}
        scales = len(net.factors)
        finest = 0
        for number, wave in enumerate(net.blocks, start=1):
            assert isinstance(wave, Wave)
            for position, cell in wave.cells.items():
                assert isinstance(cell, Cell)
                scale = finest + int(position)
                self.cells[number - (scales - 1 - scale), scale] = cell
            finest += wave.drop

    def at(self, layer: int, scale: int) -> Tensor:
        if (layer, scale) not in self.known:
            cell = self.cells[layer, scale]
            finer = None if cell.from_finer is None else self.at(layer - 1, scale - 1)
            self.known[layer, scale] = cell(finer, self.at(layer - 1, scale))
        found: Tensor = self.known[layer, scale]
        return found

    def logits(self) -> list[Tensor]:
        coarsest = len(self.net.factors) - 1
        return [head(self.at(int(block) + 1, coarsest)) for block, head in self.net.heads.items()]


@pytest.mark.parametrize("case", CASES)
class TestContract:
    def test_steps(self, case: str):
        check_steps(lively(MSDNet(**CASES[case])))

    def test_round_trips(self, case: str):
        check_round_trips(lively(MSDNet(**CASES[case])))

    def test_folding(self, case: str):
        check_folding(lively(MSDNet(**CASES[case])), left=0)

    def test_modes(self, case: str):
        check_modes(MSDNet(**CASES[case]))

    @torch.no_grad()
    def test_lazy_evaluation_gives_what_the_definition_gives(self, case: str):
        net = lively(MSDNet(**CASES[case]))
        images = pictures(net.resolution_px)
        assert same(LayerByLayer(net, images).logits(), net(images))

    def test_every_weight_is_used(self, case: str):
        net = MSDNet(**CASES[case]).train()
        torch.stack([logits.square().sum() for logits in net(pictures(net.resolution_px))]).sum().backward()  # type: ignore[no-untyped-call]
        assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []

    @torch.no_grad()
    def test_a_step_computes_only_what_its_exit_needs(self, case: str):
        net = lively(MSDNet(**CASES[case]))
        images = pictures(net.resolution_px, count=1)
        grid = LayerByLayer(net, images)
        coarsest, layers = len(net.factors) - 1, 0
        run: list[Cell] = []
        walk = net.walk(images)
        before: set[Cell] = set()
        for depth in layers_of(net):
            layers += depth
            run.clear()
            grid.at(layers, coarsest)  # recursion reaches what is needed, and no more
            handles = [cell.register_forward_hook(lambda cell, *_: run.append(cell)) for cell in grid.cells.values()]
            next(walk)
            for handle in handles:
                handle.remove()
            needed = {cell for place, cell in grid.cells.items() if place in grid.known} - before
            before |= needed
            assert set(run) == needed
            assert len(run) == len(needed)


@functools.cache
def cifar() -> MSDNet:
    net = build({"name": "msdnet", "classes": 100}, device="meta")
    assert isinstance(net, MSDNet)
    return net


class TestPublished:
    def test_cifar_with_ten_exits_costs_what_the_literature_says(self):
        net = cifar()
        assert (len(net.steps), len(net.blocks)) == (10, 22)
        counted = published_macs(net)
        assert counted == pytest.approx(
            [14.97, 25.26, 37.47, 51.67, 61.74, 73.59, 87.21, 99.48, 109.55, 121.09], abs=6e-3
        )
        # Published figures of this network, which also count pooling and activations, all but one of the exits.
        published = [15.1, 25.5, 37.8, 52.1, 62.2, 74.1, 87.7, 100, 122]
        assert [*counted[:8], counted[9]] == pytest.approx(published, rel=0.012)

    def test_lazy_evaluation_makes_early_exits_cheaper_and_the_whole_no_dearer(self):
        net = cifar()
        lazy = [macs / 1e6 for macs in net.plan().cumulative_macs]
        assert lazy == pytest.approx([13.26, 23.25, 35.17, 50.57, 60.5, 72.2, 85.67, 99.48, 109.55, 121.09], abs=6e-3)
        counted = published_macs(net)
        assert lazy[7:] == pytest.approx(counted[7:])
        assert all(ours < theirs for ours, theirs in zip(lazy[:7], counted, strict=False))

    def test_growing_spacing_of_seven_exits(self):
        net = MSDNet(classes=10, exits=7, base=1, step=1, spacing="growing", c=4)
        assert [int(block) for block in net.heads] == [0, 2, 5, 9, 14, 20, 27]
        assert net.plan().cumulative_macs[-1] / 1e6 == pytest.approx(published_macs(net)[-1])

    def test_imagenet_with_five_exits(self):
        arch = {"exits": 5, "base": 4, "step": 4, "c": 32, "growth": 16, "factors": [1, 2, 4, 4], "head_width": None}
        net = build({"name": "msdnet", "classes": 1000, "resolution_px": 224, "stem": "7x7/4", **arch}, device="meta")
        giga = [macs / 1e9 for macs in net.plan().cumulative_macs]
        # Published, layer after layer: .34 .69 1.01 1.25 1.36.
        assert giga[-1] == pytest.approx(1.36, rel=0.01)
        assert giga[0] < 0.34

    @torch.no_grad()
    def test_scales_are_lost_along_the_depth(self):
        net = lively(MSDNet(classes=2, exits=6, base=2, step=2, c=4, growth=2, head_width=8))  # 12 layers, parts of 4
        state: tuple[Tensor, ...] = ()
        shapes = []
        for step in net.steps:
            state, _ = step(torch.zeros(1, 3, 32, 32), state)
            shapes.append([tuple(features.shape[1:]) for features in state])
        # The scale of 16 px is one layer behind that of 8 px, the one of 32 px two.
        assert shapes == [
            [(4, 32, 32), (12, 16, 16), (32, 8, 8)],
            [(8, 32, 32), (20, 16, 16), (48, 8, 8)],
            [(14, 16, 16), (36, 8, 8)],
            [(22, 16, 16), (52, 8, 8)],
            [(36, 8, 8)],
            [(52, 8, 8)],
        ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"classes": 0}, "classes is 0; it must be a whole number from 1"),
        ({"exits": 33}, "exits is 33; it must be a whole number from 1 to 32"),
        ({"base": 0}, "base is 0; it must be a whole number from 1 to 32"),
        ({"step": 17}, "step is 17; it must be a whole number from 1 to 16"),
        ({"spacing": "odd"}, "spacing is 'odd'; it must be one of even, growing"),
        ({"exits": 32, "step": 16}, "exits 32, base 2 and step 16 make 498 layers; at most 128 are allowed"),
        ({"c": 3}, "c is 3; it must be a whole number from 4 to 128"),
        ({"growth": 3}, "growth is 3; it must be even"),
        ({"growth": 65}, "growth is 65; it must be a whole number from 2 to 64"),
        ({"factors": []}, r"factors is \[\]; it must be a list of 1 to 5 whole numbers from 1 to 8"),
        ({"factors": [1, 9]}, r"factors is \[1, 9\]"),
        ({"factors": [1] * 6}, r"factors is \[1, 1, 1, 1, 1, 1\]"),
        ({"bottlenecks": [1, 2]}, "bottlenecks has 2 values, factors has 3; give one of each for every scale"),
        ({"bottlenecks": 4}, "bottlenecks is 4; it must be a list"),
        ({"reduction": 1.5}, "reduction is 1.5; it must be a number from 0.0 to 1.0"),
        ({"head_width": 4}, "head_width is 4; it must be a whole number from 8 to 2048"),
        ({"stem": ""}, "stem is ''; it must be one of 3x3"),
        ({"resolution_px": 4}, "resolution_px is 4; it must be a whole number from 8 to 1024"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        MSDNet(**{**SMALL, **wrong})
    with pytest.raises(CardError, match=message):
        build({"name": "msdnet", **SMALL, **wrong})
