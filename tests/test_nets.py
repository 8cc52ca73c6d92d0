"""The step contract, kept by Lite, ResANN and EANN: stepping, abandoning, gradients, state dicts, training mode."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stream_ann import nets
from stream_ann.nets import AnytimeNet, State, arch_of, architectures, at_resolution, build

LITE: dict[str, Any] = {
    "name": "efficientnet-lite0",
    "classes": 7,
    "resolution_px": 32,
    "exits": [2, 5, 10],
    "head_width": 16,
}
RESANN: dict[str, Any] = {"name": "resann", "classes": 7, "n": 2, "c": 4, "s": 2, "resolution_px": 32}
SHARED: dict[str, Any] = {
    "name": "eann",
    "trunks": {"lite0": LITE, "small": RESANN},
    "members": [["small", 16], ["lite0", 17], ["small", 33], ["lite0", 32]],
}

CASES: dict[str, dict[str, Any]] = {
    "lite0": LITE,
    "lite0 odd": {**LITE, "resolution_px": 97},
    "lite1": {"name": "efficientnet-lite1", "classes": 3, "resolution_px": 32, "exits": [0, 19]},
    "lite2": {"name": "efficientnet-lite2", "classes": 3, "resolution_px": 33},
    "lite3": {"name": "efficientnet-lite3", "classes": 3, "resolution_px": 32},
    "lite4": {"name": "efficientnet-lite4", "classes": 3, "resolution_px": 8},
    "resann": RESANN,
    "resann odd": {**RESANN, "c": 5, "s": 1, "resolution_px": 45},
    "resann 3x3/2": {**RESANN, "stem": "3x3/2", "resolution_px": 64},
    "resann 3x3/4": {**RESANN, "stem": "3x3/4", "resolution_px": 97},
    "resann 7x7/4": {**RESANN, "stem": "7x7/4", "resolution_px": 97},
    "resann 4 stages": {**RESANN, "n": [1, 1, 2, 1], "s": 1, "first": 3},
    "resann strided": {**RESANN, "n": [1, 2, 1], "s": 1, "head": "strided", "head_width": 8, "resolution_px": 33},
    "eann": SHARED,
}
ABANDONED = ("lite0", "resann odd", "resann strided", "eann")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with tensors this small, more threads only wait for each other
    yield
    torch.set_num_threads(threads)


@functools.cache
def lively(case: str) -> AnytimeNet:
    """A net in evaluation mode, its batch norms busy and its logits far apart; tests must not change it."""
    torch.manual_seed(0)
    net = build(CASES[case])
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            nn.init.uniform_(layer.weight, 0.7, 1.3)
            nn.init.normal_(layer.bias, 0.0, 0.2)
            nn.init.normal_(layer.running_mean, 0.0, 0.2)
            nn.init.uniform_(layer.running_var, 0.7, 1.3)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight)
    return net.eval()


def frame(seed: int, resolution_px: int = 32) -> Tensor:
    """One preprocessed image."""
    return torch.randn(1, 3, resolution_px, resolution_px, generator=torch.Generator().manual_seed(seed))


class Walker:
    """Runs one frame through a plan by hand, with nothing but what the contract promises."""

    def __init__(self, net: AnytimeNet, images: Tensor) -> None:
        self.net, self.images, self.done = net, images, 0
        self.infos, self.steps = net.plan().steps, net.steps
        self.state: State = ()

    def step(self) -> Tensor:
        info = self.infos[self.done]
        if info.first:
            self.state = ()
            self.sized = at_resolution(self.images, info.resolution_px)
        logits: Tensor
        self.state, logits = self.steps[self.done](self.sized, self.state)
        self.done += 1
        return logits


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_nets_tried_here_are_registered():
    assert {arch["name"] for arch in CASES.values()} <= set(architectures())
    assert all(name in {arch["name"] for arch in CASES.values()} for name in architectures() if "lite" in name)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_stepping_through_the_plan_gives_the_logits_of_forward(case: str):
    net = lively(case)
    images = torch.cat([frame(0), frame(1)])
    expected = net(images)
    walker = Walker(net, images)
    assert len(net.plan()) == len(net.steps) == len(expected)
    for logits in expected:
        assert logits.shape == (2, net.classes)
        assert close(walker.step(), logits)
    # Different exits and images give different answers, so the comparison above is not one of constants.
    assert not close(expected[-1][0], expected[-1][1])
    if len(expected) > 1:
        assert not close(expected[-1], expected[-2])


@pytest.mark.parametrize("case", ABANDONED)
@torch.no_grad()
def test_a_frame_abandoned_after_any_step_leaves_no_trace(case: str):
    net = lively(case)
    expected = net(frame(1))
    for stop in range(len(net.plan()) + 1):
        abandoned = Walker(net, frame(0))
        for _ in range(stop):
            abandoned.step()
        walker = Walker(net, frame(1))
        for logits in expected:
            assert torch.equal(walker.step(), logits)


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(0, 2), max_size=40))
def test_frames_in_any_interleaving_do_not_touch_each_other(turns: list[int]):
    net, expected = lively("eann"), _answers()
    with torch.no_grad():
        walkers = [Walker(net, frame(i)) for i in range(3)]
        for turn in turns:
            walker = walkers[turn]
            if walker.done == len(walker.infos):  # finished: the same frame once more
                walker.done = 0
            at = walker.done
            assert torch.equal(walker.step(), expected[turn][at])


@functools.cache
def _answers() -> list[list[Tensor]]:
    with torch.no_grad():
        return [lively("eann")(frame(i)) for i in range(3)]


@torch.no_grad()
def test_walk_computes_nothing_after_it_is_stopped():
    net = copy.deepcopy(lively("eann"))
    calls: list[int] = []
    steps = list(dict.fromkeys(net.steps))
    for number, step in enumerate(steps):
        step.register_forward_hook(lambda *_, number=number: calls.append(number))
    walk = net.walk(frame(0))
    next(walk)
    next(walk)
    assert calls == [0, 1]


@pytest.mark.parametrize("case", ["lite0", "resann"])
def test_an_exit_trains_what_lies_before_it_and_nothing_else(case: str):
    net = build(CASES[case]).train()
    exits = sorted(int(i) for i in net.get_submodule("heads")._modules)
    for number, block in enumerate(exits):
        net.zero_grad()
        net(torch.randn(2, 3, 32, 32))[number].square().sum().backward()
        for name, parameter in net.named_parameters():
            part, index = name.split(".")[:2]
            reached = part == "stem" or (int(index) <= block if part == "blocks" else int(index) == block)
            assert (parameter.grad is not None) == reached, name
            if reached:
                assert parameter.grad is not None
                assert parameter.grad.isfinite().all(), name
        stem = next(net.get_submodule("stem").parameters())
        assert stem.grad is not None
        assert stem.grad.abs().sum() > 0


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_the_state_dict_holds_everything_once_and_gives_the_same_answers_back(case: str):
    net = lively(case)
    state = net.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    twin = build(CASES[case], device="meta")
    twin.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
    twin.eval()
    for ours, theirs in zip(net(frame(0)), twin(frame(0)), strict=True):
        assert torch.equal(ours, theirs)


def test_parameter_names_do_not_depend_on_where_the_exits_are():
    with_exits = set(build(LITE, device="meta").state_dict())
    without = set(build({**LITE, "exits": []}, device="meta").state_dict())
    assert without < with_exits
    assert {name.split(".")[1] for name in with_exits - without} == {"2", "5", "10"}


@pytest.mark.parametrize("case", CASES)
def test_batch_norms_fold_into_the_convolution_before_them_by_one_rule(case: str):
    net = lively(case)
    folded = copy.deepcopy(net)
    for layers in [m for m in folded.modules() if isinstance(m, nn.Sequential)]:
        for i in range(len(layers) - 1):
            conv, norm = layers[i], layers[i + 1]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                layers[i], layers[i + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    left = sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    units = sum(type(m).__name__ == "ResidualUnit" for m in folded.modules())
    assert left == units, "only the batch norm that a residual unit begins with cannot be folded"
    with torch.no_grad():
        for ours, theirs in zip(net(frame(0)), folded(frame(0)), strict=True):
            assert float((ours - theirs).norm() / ours.norm()) < 1e-4


@pytest.mark.parametrize("case", ["lite0", "eann"])
def test_mode_device_and_copies_reach_the_steps(case: str):
    net = build(CASES[case])
    assert all(step.training for step in net.steps)
    net.eval()
    assert not any(module.training for step in net.steps for module in step.modules())
    twin = copy.deepcopy(net).to(torch.float64)
    own = {id(parameter) for parameter in twin.parameters()}
    for step in twin.steps:
        assert all(id(p) in own and p.dtype is torch.float64 for p in step.parameters())
    assert all(p.dtype is torch.float32 for p in net.parameters())


def test_dropout_acts_in_training_only():
    net = build({**LITE, "dropout": 0.5})
    images = frame(0)
    heads = net.get_submodule("heads")
    features = torch.ones(1, 24, 4, 4)
    head = heads.get_submodule("2").eval()
    assert torch.equal(head(features), head(features))
    head.get_submodule("dropout").train()
    assert not torch.equal(head(features), head(features))
    net.eval()
    assert all(torch.equal(a, b) for a, b in zip(net(images), net(images), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_arch_round_trip(case: str):
    net = build(CASES[case], device="meta")
    arch = json.loads(json.dumps(arch_of(net)))
    again = build(arch, device="meta")
    assert arch_of(again) == arch_of(net) == arch
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in net.state_dict().items()}
    given = CASES[case]
    assert arch["name"] == given["name"]
    if arch["name"] != "eann":
        assert all(arch[key] == value for key, value in given.items())
    assert [(m.name, m.resolution_px) for m in again.members()] == [(m.name, m.resolution_px) for m in net.members()]


def test_exported_names():
    assert nets.__all__ == sorted(nets.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))
    for name in nets.__all__:
        assert hasattr(nets, name)
