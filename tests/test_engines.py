"""Engines against the network that they run."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import stream_ann
from stream_ann.engines import BatchEngine, TorchBatchEngine, TorchEngine, device_named, devices, open_engine
from stream_ann.engines.folding import fold_batch_norms
from stream_ann.engines.laned import LanedEngine
from stream_ann.engines.openvino_batch import OpenVinoBatchEngine
from stream_ann.engines.openvino_engine import OpenVinoEngine
from stream_ann.errors import DeviceError
from stream_ann.nets import AnytimeNet, build
from stream_ann.nets.trunk import Trunk
from stream_ann.preprocess import Preprocessing, preprocess

PREPROCESSING = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.5, 0.4, 0.6))
LITE = {"name": "efficientnet-lite0", "classes": 7, "exits": [2, 8], "head_width": 16}
ARCHS = {
    "resann": {"name": "resann", "classes": 7, "n": 2, "c": 8, "s": 1, "resolution_px": 32},
    "resann 224": {"name": "resann", "classes": 7, "n": 1, "c": 8, "s": 1, "resolution_px": 64, "stem": "7x7/4"},
    "lite0": LITE | {"resolution_px": 48},
    "boosted msdnet": {
        "name": "boosted",
        "net": {"name": "msdnet", "classes": 7, "exits": 3, "base": 2, "c": 4, "growth": 2, "head_width": 8},
    },
    "denseann": {"name": "denseann", "classes": 7, "depths": [1, 2], "growth": 4, "s": 1},
    "torchvision": {"name": "torchvision", "network": "mobilenet_v3_small", "classes": 7, "resolution_px": 32},
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


@pytest.fixture(autouse=True, scope="module")
def _threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["torch", "torch on cuda", "openvino"], scope="module")
def kind(request) -> str:
    """Every engine runs the same checks."""
    if request.param == "torch on cuda":
        cuda_or_skip()
    return request.param


def opened(kind: str, net: AnytimeNet, *, lanes: int = 1, temperatures=None) -> LanedEngine:
    if kind == "openvino":
        # two threads, since OpenVINO runs frames together only where there are several
        threads = 2 if lanes > 1 else 1
        options = {"lanes": lanes, "temperatures": temperatures, "threads": threads, "timing_runs": 1}
        return OpenVinoEngine(net, PREPROCESSING, precision="float32", **options)
    device = torch.device("cuda" if kind.endswith("cuda") else "cpu")
    return TorchEngine(net, PREPROCESSING, device=device, lanes=lanes, temperatures=temperatures, timing_runs=1)


def near(kind: str, got: np.ndarray, expected: np.ndarray) -> None:
    """Probabilities in float32 against the network's: up to 1e-5, on a GPU (whose convolutions use TF32) up to 1e-3."""
    np.testing.assert_allclose(got, expected, atol=1e-3 if kind.endswith("cuda") else 1e-5)


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


def reference(net: AnytimeNet, image: np.ndarray, preprocessing: Preprocessing = PREPROCESSING) -> list[np.ndarray]:
    """Each exit's probabilities, from an uninterrupted run of every member."""
    answers = []
    with torch.inference_mode():
        for member in net.members():
            images, state = preprocess(image, member.resolution_px, preprocessing), ()
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
def test_every_exit_answers_as_the_network_does(arch, kind):
    net = random_net(arch)
    engine = opened(kind, net)
    for image in images(3):
        engine.start(image)
        for step, expected in enumerate(reference(net, image)):
            got = engine.run(step)
            assert got.dtype == np.float32
            assert got.sum() == pytest.approx(1, abs=1e-5)
            near(kind, got, expected)


def test_trained_weights_answer_as_the_network_does(kind):
    """Their batch norms have the statistics of real features, and their exits are surer than random ones."""
    trained = stream_ann.load("cifar10-jpeg").net
    engine = opened(kind, trained)
    surest = 0.0
    for image in images(6, seed=2):
        engine.start(image)
        for step, expected in enumerate(reference(trained, image)):
            near(kind, engine.run(step), expected)
            surest = max(surest, float(expected.max()))
    assert surest > 0.8


EANN = random_net(ARCHS["eann of one shared and one other trunk"])
PICTURES = images(4, seed=5)
EXPECTED = [reference(EANN, image) for image in PICTURES]


@pytest.fixture(scope="module")
def lane_engine(kind) -> LanedEngine:
    return opened(kind, EANN, lanes=3)


@given(stops=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8)), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None)
def test_frames_abandoned_midway_leave_no_trace(kind, lane_engine, stops):
    for picture, steps in stops:
        lane_engine.start(PICTURES[picture])
        for step in range(min(steps, len(lane_engine.plan))):
            near(kind, lane_engine.run(step), EXPECTED[picture][step])


def test_frames_abandoned_at_every_step_leave_no_trace(kind, lane_engine):
    for stop in range(1, len(lane_engine.plan) + 1):
        lane_engine.start(PICTURES[0])
        for step in range(stop):
            lane_engine.run(step)
        lane_engine.start(PICTURES[1])
        for step in range(len(lane_engine.plan)):
            near(kind, lane_engine.run(step), EXPECTED[1][step])


def test_whole_members_can_be_skipped_but_not_steps_within_one(kind, lane_engine):
    plan = lane_engine.plan
    last_first = max(i for i, step in enumerate(plan.steps) if step.first)
    lane_engine.start(PICTURES[0])
    lane_engine.run(0)
    near(kind, lane_engine.run(last_first), EXPECTED[0][last_first])
    with pytest.raises(ValueError, match="needs the state of step"):
        lane_engine.run(last_first + 2)
    lane_engine.start(PICTURES[1])
    with pytest.raises(ValueError, match="the last one run was None"):
        lane_engine.run(last_first + 1)


def test_answers_stay_when_the_next_frame_runs(lane_engine):
    lane_engine.start(PICTURES[0])
    first = lane_engine.run(0)
    before = first.copy()
    lane_engine.start(PICTURES[1])
    lane_engine.run(0)
    np.testing.assert_array_equal(first, before)
    first[:] = -1  # the caller's own
    assert (lane_engine.run(0) >= 0).all()


def test_read_only_and_flipped_pictures_are_taken(kind, lane_engine):
    picture = PICTURES[2].copy()
    picture.flags.writeable = False
    lane_engine.start(picture)
    near(kind, lane_engine.run(0), EXPECTED[2][0])
    lane_engine.start(PICTURES[2][::-1][::-1])
    near(kind, lane_engine.run(0), EXPECTED[2][0])


class Coded(Trunk):
    """Answers with the number that a picture of one grey level carries, moved on by one at each exit.

    The features travel through every step, so that an answer made of another frame's state is a wrong one.
    """

    def __init__(self, classes: int = 16) -> None:
        heads = {i: _CodeHead(classes, i) for i in range(3)}
        copies = [nn.Conv2d(3, 3, 1, groups=3, bias=False) for _ in range(4)]
        for copied in copies:
            nn.init.ones_(copied.weight)
        super().__init__("coded", classes=classes, resolution_px=8, stem=copies[0], blocks=copies[1:], heads=heads)

    @staticmethod
    def picture(code: int) -> np.ndarray:
        return np.full((10, 12, 3), 8 + 16 * code, dtype=np.uint8)


class _CodeHead(nn.Module):
    def __init__(self, classes: int, moved: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3, classes)
        centre = (8 + 16 * torch.arange(classes)).roll(moved) / 255
        with torch.no_grad():  # -(mean - centre)^2 without what all classes share, and sharp
            self.linear.weight.copy_(4000 * 2 / 3 * centre[:, None].expand(-1, 3))
            self.linear.bias.copy_(-4000 * centre**2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features.mean((2, 3)))


def test_ten_thousand_frames_in_three_lanes_each_get_their_own_answers(kind, monkeypatch):
    plain = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1))
    monkeypatch.setattr(sys.modules[__name__], "PREPROCESSING", plain)
    engine = opened(kind, Coded(), lanes=3)
    random = np.random.default_rng(7)
    pictures = [Coded.picture(code) for code in range(16)]
    codes, done = [-1, -1, -1], [3, 3, 3]
    frames = answers = together = 0
    while frames < 10_000:
        lane = int(random.integers(3))
        if done[lane] == 3 or random.random() < 0.4:  # abandoned after none, one or two steps, or complete
            codes[lane], done[lane] = int(random.integers(16)), 0
            engine.start(pictures[codes[lane]], lane=lane)
            frames += 1
            continue
        step = done[lane]
        alike = [other for other in range(3) if done[other] == step]
        if len(alike) > 1 and random.random() < 0.2:
            got = engine.run_together(step, alike).argmax(1).tolist()
            together += 1
        else:
            alike = [lane]
            got = [int(engine.run(step, lane=lane).argmax())]
        assert got == [(codes[other] + step) % 16 for other in alike], f"frame {frames}, step {step}"
        for other in alike:
            done[other] += 1
        answers += len(alike)
    assert answers > 5_000
    assert together > 500


class TestLanes:
    @given(moves=st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 3)), min_size=5, max_size=40))
    @settings(max_examples=15, deadline=None)
    def test_frames_of_different_lanes_never_mix(self, kind, lane_engine, moves):
        """Each move starts a picture in a lane, or (-1) goes on with what the lane holds."""
        held: dict[int, tuple[int, int]] = {}
        for lane, picture in moves:
            if picture >= 0:
                lane_engine.start(PICTURES[picture], lane=lane)
                held[lane] = (picture, 0)
            elif lane in held and held[lane][1] < len(lane_engine.plan):
                picture, step = held[lane]
                near(kind, lane_engine.run(step, lane=lane), EXPECTED[picture][step])
                held[lane] = (picture, step + 1)

    def test_running_together_gives_what_running_alone_gives(self, kind, lane_engine):
        for step in range(len(lane_engine.plan)):
            if step == 0:
                for lane in range(3):
                    lane_engine.start(PICTURES[lane], lane=lane)
            lanes = (2, 0) if step % 2 else (0, 1, 2)
            if step % 2:  # one lane goes on by itself in between
                near(kind, lane_engine.run(step, lane=1), EXPECTED[1][step])
            together = lane_engine.run_together(step, lanes)
            assert together.shape == (len(lanes), 7)
            for row, lane in enumerate(lanes):
                near(kind, together[row], EXPECTED[lane][step])

    def test_lanes_that_have_run_different_members_begin_another_one_together(self, kind, lane_engine):
        firsts = [i for i, step in enumerate(lane_engine.plan.steps) if step.first]
        assert len(firsts) > 2
        for lane in range(3):
            lane_engine.start(PICTURES[lane], lane=lane)
        for lane in (0, 1):  # the third has run nothing
            lane_engine.run(firsts[lane], lane=lane)
        together = lane_engine.run_together(firsts[2], (0, 1, 2))
        for lane in range(3):
            near(kind, together[lane], EXPECTED[lane][firsts[2]])

    def test_submitted_steps_are_collected_in_order_and_once(self, kind, lane_engine):
        lane_engine.start(PICTURES[0], lane=1)
        lane_engine.submit(0, lane=1)
        lane_engine.submit(1, lane=1)
        for step in (0, 1):
            answer = lane_engine.collect(1, timeout_s=5)
            assert answer is not None
            near(kind, answer.probabilities, EXPECTED[0][step])
            assert answer.device_s is None or answer.device_s > 0
        with pytest.raises(ValueError, match="no submitted step of lane 1"):
            lane_engine.collect(1)
        lane_engine.submit(2, lane=1)
        lane_engine.start(PICTURES[1], lane=1)
        with pytest.raises(ValueError, match="no submitted step of lane 1"):
            lane_engine.collect(1)

    def test_every_number_of_lanes_together_has_a_time(self, kind, lane_engine):
        for step in range(len(lane_engine.plan)):
            times = [lane_engine.together_s(step, count) for count in (1, 2, 3, 12)]
            assert all(seconds is not None and seconds > 0 for seconds in times)

    def test_a_lane_cannot_be_in_a_batch_twice(self, kind, lane_engine):
        lane_engine.start(PICTURES[0], lane=1)
        with pytest.raises(ValueError, match="lanes must be different ones"):
            lane_engine.run_together(0, (1, 1))


@pytest.fixture(scope="module")
def batch_engine(kind) -> BatchEngine:
    if kind == "openvino":
        return OpenVinoBatchEngine(EANN, PREPROCESSING, threads=1, max_batch=6)
    device = torch.device("cuda" if kind.endswith("cuda") else "cpu")
    return TorchBatchEngine(EANN, PREPROCESSING, device=device, max_batch=6)


class TestBatches:
    @staticmethod
    def squares(count: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (count, 70, 70, 3), dtype=np.uint8)

    @staticmethod
    def expected(squares: np.ndarray) -> np.ndarray:
        """float32 [steps, B, classes]"""
        whole = dataclasses.replace(PREPROCESSING, crop=1.0)
        return np.stack([reference(EANN, square, whole) for square in squares], axis=1)

    def test_frames_that_go_on_are_answered_as_if_alone(self, kind, batch_engine):
        squares = self.squares(6, seed=1)
        expected = self.expected(squares)
        random = np.random.default_rng(4)
        for _ in range(5):
            batch, left = batch_engine.open(squares), np.arange(6)
            for step in range(len(batch_engine.plan)):
                near(kind, batch_engine.run(step, batch), expected[step][left])
                for _ in range(int(random.integers(0, 3))):  # none, one or two cuts between two steps
                    rows = np.flatnonzero(random.random(batch.count) < 0.8)
                    if len(rows):
                        batch, left = batch_engine.keep(batch, rows), left[rows]
                assert batch.count == len(left)

    def test_members_can_be_skipped_but_not_steps_within_one(self, kind, batch_engine):
        squares = self.squares(3, seed=2)
        batch = batch_engine.open(squares)
        batch_engine.run(0, batch)
        last_first = max(i for i, step in enumerate(batch_engine.plan.steps) if step.first)
        batch = batch_engine.keep(batch, np.array([0, 2]))
        np.testing.assert_allclose(
            batch_engine.run(last_first, batch), self.expected(squares)[last_first][[0, 2]], atol=1e-5
        )
        with pytest.raises(ValueError, match="needs the state of step"):
            batch_engine.run(last_first + 2, batch)

    def test_what_is_kept_leaves_the_batch_as_it_was(self, kind, batch_engine):
        squares = self.squares(4, seed=3)
        expected = self.expected(squares)
        batch = batch_engine.open(squares)
        first = batch_engine.run(0, batch).copy()
        some, others = batch_engine.keep(batch, np.array([1])), batch_engine.keep(batch, np.array([0, 3]))
        near(kind, batch_engine.run(1, some), expected[1][[1]])
        near(kind, batch_engine.run(1, others), expected[1][[0, 3]])
        near(kind, batch_engine.run(1, batch), expected[1])
        near(kind, first, expected[0])

    def test_each_step_has_an_estimate_that_grows_with_the_batch(self, kind, batch_engine):
        for step in range(len(batch_engine.plan)):
            assert 0 < batch_engine.step_s(step, 1) < batch_engine.step_s(step, 1000)

    def test_what_is_no_batch(self, kind, batch_engine):
        batch = batch_engine.open(self.squares(2, seed=0))
        for rows in ([], [1, 0], [0, 0], [2], [-1]):
            with pytest.raises(ValueError, match=r"rows must be rising|at least one frame"):
                batch_engine.keep(batch, np.array(rows, dtype=np.intp))
        for squares in (self.squares(7, seed=0), self.squares(1, seed=0)[0], self.squares(2, seed=0)[:, 1:]):
            with pytest.raises(ValueError, match=r"squares must be|at most 6"):
                batch_engine.open(squares)

    def test_read_only_squares_are_taken(self, kind, batch_engine):
        squares = self.squares(2, seed=5)
        squares.flags.writeable = False
        np.testing.assert_allclose(
            batch_engine.run(0, batch_engine.open(squares)), self.expected(squares)[0], atol=1e-5
        )


def test_temperatures_divide_each_exits_own_logits(kind):
    net, image = random_net(ARCHS["resann"]), PICTURES[0]
    exits = len(net.plan())
    temperatures = [0.5 + i for i in range(exits)]
    engine = opened(kind, net, temperatures=temperatures)
    engine.start(image)
    for step, plain in enumerate(reference(net, image)):
        expected = plain ** (1 / temperatures[step])
        near(kind, engine.run(step), expected / expected.sum())
    for wrong in ([1.0], [0.0] * exits):
        with pytest.raises(ValueError, match="temperatures must be"):
            opened(kind, net, temperatures=wrong)


def test_steps_are_timed_at_opening(lane_engine):
    assert len(lane_engine.step_s) == len(lane_engine.plan)
    assert min(lane_engine.step_s) > 0


def test_the_network_itself_is_not_changed(kind):
    net = random_net(ARCHS["lite0"])
    before = copy.deepcopy(net.state_dict())
    opened(kind, net)
    assert net.state_dict().keys() == before.keys()
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert any(p.requires_grad for p in net.parameters())


def test_running_without_a_picture_says_so(kind):
    engine = opened(kind, random_net(ARCHS["resann"]))
    with pytest.raises(ValueError, match="no picture yet"):
        engine.run(0)
    engine.start(PICTURES[0])
    engine.close()
    engine.close()
    with pytest.raises(ValueError, match="no picture yet"):
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
        engine = open_engine(random_net(ARCHS["resann"]), PREPROCESSING, device="cpu", engine="torch", threads=1)
        assert engine.description == "torch on cpu, float32, 1 thread"


def test_running_out_of_memory_is_one_line(monkeypatch):
    engine = TorchEngine(random_net(ARCHS["resann"]), PREPROCESSING, device=torch.device("cpu"), timing_runs=1)

    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmany more lines")

    monkeypatch.setattr("stream_ann.engines.torch_engine.preprocess", fail)
    engine.start(PICTURES[0])
    with pytest.raises(DeviceError, match="out of memory; free some, or use --device cpu"):
        engine.run(0)
