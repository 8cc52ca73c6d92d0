"""Engines against the network that they run."""

from __future__ import annotations

import copy
import itertools
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stream_ann.engines import TorchEngine, device_named, devices, open_engine
from stream_ann.engines.folding import fold_batch_norms
from stream_ann.errors import DeviceError
from stream_ann.nets import AnytimeNet, build
from stream_ann.preprocess import Preprocessing, preprocess

PREPROCESSING = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.5, 0.4, 0.6))
LITE = {"name": "efficientnet-lite0", "classes": 7, "exits": [2, 8], "head_width": 16}
ARCHS = {
    "resann": {"name": "resann", "classes": 7, "n": 2, "c": 8, "s": 1, "resolution_px": 32},
    "resann 224": {"name": "resann", "classes": 7, "n": 1, "c": 8, "s": 1, "resolution_px": 64, "stem": "7x7/4"},
    "lite0": LITE | {"resolution_px": 48},
    "eann of one shared and one other trunk": {
        "name": "eann",
        "trunks": {"lite0": LITE, "small": {"name": "resann", "classes": 7, "n": 1, "c": 8, "s": 2}},
        "members": [["small", 32], ["lite0", 48], ["lite0", 65]],
    },
}


def cuda_or_skip():
    if not torch.cuda.is_available():
        assert os.environ.get("REQUIRE_CUDA") != "1", "REQUIRE_CUDA=1, but torch sees no GPU"
        pytest.skip("needs a CUDA GPU")


@pytest.fixture(params=["cpu", "cuda"])
def device(request) -> torch.device:
    if request.param == "cuda":
        cuda_or_skip()
    return torch.device(request.param)


def random_net(arch) -> AnytimeNet:
    """A net whose batch norms have statistics, scales and shifts of their own, so that folding them shows."""
    torch.manual_seed(3)
    net = build(arch).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
    return net


def reference(net: AnytimeNet, image: np.ndarray) -> list[np.ndarray]:
    """Each exit's probabilities, from an uninterrupted run of every member."""
    answers = []
    with torch.inference_mode():
        for member in net.members():
            images, state = preprocess(image, member.resolution_px, PREPROCESSING), ()
            for step in member.steps:
                state, logits = step(images, state)
                answers.append(torch.softmax(logits[0], 0).numpy())
    return answers


def images(count: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [
        random.integers(0, 256, (int(h), int(w), 3), dtype=np.uint8) for h, w in random.integers(20, 90, (count, 2))
    ]


@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_every_exit_answers_as_the_network_does(arch, device):
    net = random_net(arch)
    engine = TorchEngine(net, PREPROCESSING, device=device, timing_runs=1)
    for image in images(3):
        engine.start(image)
        for step, expected in enumerate(reference(net, image)):
            got = engine.run(step)
            assert got.dtype == np.float32
            assert got.sum() == pytest.approx(1, abs=1e-5)
            np.testing.assert_allclose(got, expected, atol=1e-5 if device.type == "cpu" else 1e-3)


EANN = random_net(ARCHS["eann of one shared and one other trunk"])
PICTURES = images(4, seed=5)
EXPECTED = [reference(EANN, image) for image in PICTURES]


@pytest.fixture(scope="module")
def eann_engine() -> TorchEngine:
    return TorchEngine(EANN, PREPROCESSING, device=torch.device("cpu"), timing_runs=1)


@given(stops=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8)), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None)
def test_frames_abandoned_midway_leave_no_trace(eann_engine, stops):
    for picture, steps in stops:
        eann_engine.start(PICTURES[picture])
        for step in range(min(steps, len(eann_engine.plan))):
            np.testing.assert_allclose(eann_engine.run(step), EXPECTED[picture][step], atol=1e-5)


def test_whole_members_can_be_skipped_but_not_steps_within_one(eann_engine):
    plan = eann_engine.plan
    last_first = max(i for i, step in enumerate(plan.steps) if step.first)
    eann_engine.start(PICTURES[0])
    eann_engine.run(0)
    np.testing.assert_allclose(eann_engine.run(last_first), EXPECTED[0][last_first], atol=1e-5)
    with pytest.raises(ValueError, match="needs the state of step"):
        eann_engine.run(last_first + 2)
    eann_engine.start(PICTURES[1])
    with pytest.raises(ValueError, match="the last one run was None"):
        eann_engine.run(last_first + 1)


def test_answers_stay_when_the_next_frame_runs(eann_engine):
    eann_engine.start(PICTURES[0])
    first = eann_engine.run(0)
    before = first.copy()
    eann_engine.start(PICTURES[1])
    eann_engine.run(0)
    np.testing.assert_array_equal(first, before)


def test_read_only_and_flipped_pictures_are_taken(eann_engine):
    picture = PICTURES[2].copy()
    picture.flags.writeable = False
    eann_engine.start(picture)
    np.testing.assert_allclose(eann_engine.run(0), EXPECTED[2][0], atol=1e-5)
    eann_engine.start(PICTURES[2][::-1][::-1])
    np.testing.assert_allclose(eann_engine.run(0), EXPECTED[2][0], atol=1e-5)


def test_temperatures_divide_each_exits_own_logits():
    net, image = random_net(ARCHS["resann"]), PICTURES[0]
    exits = len(net.plan())
    temperatures = [0.5 + i for i in range(exits)]
    engine = TorchEngine(net, PREPROCESSING, device=torch.device("cpu"), temperatures=temperatures, timing_runs=1)
    engine.start(image)
    for step, plain in enumerate(reference(net, image)):
        expected = plain ** (1 / temperatures[step])
        np.testing.assert_allclose(engine.run(step), expected / expected.sum(), atol=1e-5)
    for wrong in ([1.0], [0.0] * exits):
        with pytest.raises(ValueError, match="temperatures must be"):
            TorchEngine(net, PREPROCESSING, device=torch.device("cpu"), temperatures=wrong)


def test_steps_are_timed_at_opening(eann_engine):
    assert len(eann_engine.step_s) == len(eann_engine.plan)
    assert min(eann_engine.step_s) > 0


def test_the_network_itself_is_not_changed():
    net = random_net(ARCHS["lite0"])
    before = copy.deepcopy(net.state_dict())
    TorchEngine(net, PREPROCESSING, device=torch.device("cpu"), timing_runs=1)
    assert net.state_dict().keys() == before.keys()
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert any(p.requires_grad for p in net.parameters())


def test_running_without_a_picture_says_so():
    engine = TorchEngine(random_net(ARCHS["resann"]), PREPROCESSING, device=torch.device("cpu"), timing_runs=1)
    engine.close()
    engine.close()
    with pytest.raises((ValueError, IndexError)):
        engine.run(0)


@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_folding_leaves_no_batch_norm_behind_a_convolution(arch):
    net = fold_batch_norms(random_net(arch))
    for module in net.modules():
        if isinstance(module, nn.Sequential):
            children = list(module)
            for one, other in itertools.pairwise(children):
                assert not (isinstance(one, nn.Conv2d) and isinstance(other, nn.BatchNorm2d))
    if "lite" in str(arch):
        assert not any(isinstance(m, nn.BatchNorm2d) for n, m in net.named_modules() if "lite0" in n or arch is LITE)


class TestDevices:
    def test_cpu_is_always_there_and_auto_is_the_best(self):
        assert devices()[-1] == "cpu"
        assert str(device_named("auto")) == devices()[0]
        assert device_named("cpu").type == "cpu"

    def test_unknown_names_get_the_nearest(self):
        with pytest.raises(DeviceError, match="no device is called 'cup'; did you mean 'cpu'"):
            device_named("cup")

    def test_a_gpu_that_is_not_there(self):
        with pytest.raises(DeviceError, match="'cuda:63' is not available"):
            device_named("cuda:63")

    def test_open_engine_opens_on_the_device_asked_for(self):
        engine = open_engine(random_net(ARCHS["resann"]), PREPROCESSING, device="cpu")
        assert engine.device.type == "cpu"


def test_running_out_of_memory_is_one_line(monkeypatch):
    engine = TorchEngine(random_net(ARCHS["resann"]), PREPROCESSING, device=torch.device("cpu"), timing_runs=1)

    def fail(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmany more lines")

    monkeypatch.setattr("stream_ann.engines.torch_engine.preprocess", fail)
    engine.start(PICTURES[0])
    with pytest.raises(DeviceError, match="out of memory; free some, or use --device cpu"):
        engine.run(0)
