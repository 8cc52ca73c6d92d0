"""What every net must do, as functions that the tests of each net call."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from stream_ann.engines.folding import fold_batch_norms
from stream_ann.nets import AnytimeNet, State, arch_of, at_resolution, build

Net = TypeVar("Net", bound=AnytimeNet)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """With one thread the small nets run faster, on a busy machine by far. For a module that imports it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def lively(net: Net) -> Net:
    """``net`` in evaluation mode, its batch norms fitted to their inputs and busy, its last layers as well."""
    enliven(net, net.classes, net.members()[0].resolution_px)
    return net


@torch.no_grad()
def enliven(net: nn.Module, classes: int, resolution_px: int) -> None:
    """What :func:`lively` does, to any network."""
    torch.manual_seed(1)
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.7, 1.3)
        nn.init.normal_(norm.bias, 0.0, 0.2)
        norm.momentum = 1.0
    for layer in net.modules():
        if isinstance(layer, nn.Linear) and layer.out_features == classes:
            nn.init.normal_(layer.weight, 0.0, 0.5)
    for name, parameter in net.named_parameters():
        if name.endswith("layer_scale"):  # ConvNeXt's blocks start out doing next to nothing
            nn.init.constant_(parameter, 0.5)
    net.train()(pictures(resolution_px, count=4, seed=2))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    net.eval()


def pictures(resolution_px: int, count: int = 2, seed: int = 0) -> Tensor:
    """Preprocessed images, float [count, 3, resolution_px, resolution_px]."""
    return torch.randn(count, 3, resolution_px, resolution_px, generator=torch.Generator().manual_seed(seed))


def stepped(net: AnytimeNet, images: Tensor, stop: int | None = None) -> list[Tensor]:
    """The logits of the first ``stop`` exits, by hand, with nothing but what the contract promises."""
    state: State = ()
    sized = images
    found = []
    for info, step in list(zip(net.plan().steps, net.steps, strict=True))[:stop]:
        if info.first:
            state, sized = (), at_resolution(images, info.resolution_px)
        state, logits = step(sized, state)
        found.append(logits)
    return found


def same(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-5) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(torch.allclose(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(b.abs().max()))) for a, b in pairs)


@torch.no_grad()
def check_steps(net: AnytimeNet) -> None:
    """Stepping gives what forward gives, and a frame abandoned after any step leaves no trace."""
    first, second = pictures(net.members()[0].resolution_px), pictures(net.members()[0].resolution_px, seed=1)
    expected = net(first)
    assert same(stepped(net, first), expected)
    assert all(logits.shape == (2, net.classes) for logits in expected)
    # Exits and images differ, so that the comparison above is not one of constants.
    assert not same([expected[-1][0]], [expected[-1][1]], 1e-3)
    for earlier, later in itertools.pairwise(expected):
        assert not same([earlier], [later], 1e-3)
    for stop in {1, len(expected) // 2, len(expected) - 1}:
        stepped(net, second, stop)
        assert all(torch.equal(a, b) for a, b in zip(stepped(net, first), expected, strict=True))


@torch.no_grad()
def check_round_trips(net: AnytimeNet) -> None:
    """A net made from the arch as JSON, with the state dict, gives the same answers; nothing is in it twice."""
    state = net.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    arch = json.loads(json.dumps(arch_of(net)))
    twin = build(arch, device="meta")
    assert arch_of(twin) == arch_of(net) == arch
    assert twin.plan() == net.plan()
    twin.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
    images = pictures(net.members()[0].resolution_px)
    assert all(torch.equal(a, b) for a, b in zip(net(images), twin.eval()(images), strict=True))


@torch.no_grad()
def check_folding(net: AnytimeNet, left: int) -> None:
    """The engine's folding leaves ``left`` batch norms, and the answers as they are."""
    images = pictures(net.members()[0].resolution_px)
    expected = net(images)
    folded = fold_batch_norms(copy.deepcopy(net).requires_grad_(False))
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules()) == left
    assert same(folded(images), expected, 1e-4)


def check_modes(net: AnytimeNet) -> None:
    """Training mode, dtype and copies reach the steps."""
    net.train()
    assert all(module.training for step in net.steps for module in step.modules())
    net.eval()
    assert not any(module.training for step in net.steps for module in step.modules())
    twin = copy.deepcopy(net).to(torch.float64)
    own = {id(parameter) for parameter in twin.parameters()}
    for step in twin.steps:
        assert all(id(p) in own and p.dtype is torch.float64 for p in step.parameters())
    assert all(p.dtype is torch.float32 for p in net.parameters())
