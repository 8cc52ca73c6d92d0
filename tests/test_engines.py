"""Engines against the network that they run."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stream_ann.engines import BatchEngine, TorchEngine, device_named, devices, open_batch_engine, open_engine
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


@pytest.fixture(scope="module")
def lane_engine() -> TorchEngine:
    return TorchEngine(EANN, PREPROCESSING, device=torch.device("cpu"), lanes=3, timing_runs=1)


class TestLanes:
    @given(moves=st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 3)), min_size=5, max_size=40))
    @settings(max_examples=15, deadline=None)
    def test_frames_of_different_lanes_never_mix(self, lane_engine, moves):
        """Each move starts a picture in a lane, or (-1) goes on with what the lane holds."""
        held: dict[int, tuple[int, int]] = {}
        for lane, picture in moves:
            if picture >= 0:
                lane_engine.start(PICTURES[picture], lane=lane)
                held[lane] = (picture, 0)
            elif lane in held and held[lane][1] < len(lane_engine.plan):
                picture, step = held[lane]
                np.testing.assert_allclose(lane_engine.run(step, lane=lane), EXPECTED[picture][step], atol=1e-5)
                held[lane] = (picture, step + 1)

    def test_running_together_gives_what_running_alone_gives(self, lane_engine):
        for step in range(len(lane_engine.plan)):
            if step == 0:
                for lane in range(3):
                    lane_engine.start(PICTURES[lane], lane=lane)
            lanes = (2, 0) if step % 2 else (0, 1, 2)
            if step % 2:  # one lane goes on by itself in between
                np.testing.assert_allclose(lane_engine.run(step, lane=1), EXPECTED[1][step], atol=1e-5)
            together = lane_engine.run_together(step, lanes)
            assert together.shape == (len(lanes), 7)
            for row, lane in enumerate(lanes):
                np.testing.assert_allclose(together[row], EXPECTED[lane][step], atol=1e-5)

    def test_submitted_steps_are_collected_in_order_and_once(self, lane_engine):
        lane_engine.start(PICTURES[0], lane=1)
        lane_engine.submit(0, lane=1)
        lane_engine.submit(1, lane=1)
        for step in (0, 1):
            answer = lane_engine.collect(1, timeout_s=5)
            assert answer is not None
            np.testing.assert_allclose(answer.probabilities, EXPECTED[0][step], atol=1e-5)
            assert answer.device_s is None or answer.device_s > 0
        with pytest.raises(ValueError, match="no submitted step of lane 1"):
            lane_engine.collect(1)
        lane_engine.submit(2, lane=1)
        lane_engine.start(PICTURES[1], lane=1)
        with pytest.raises(ValueError, match="no submitted step of lane 1"):
            lane_engine.collect(1)

    def test_every_number_of_lanes_together_has_a_time(self, lane_engine):
        for step in range(len(lane_engine.plan)):
            times = [lane_engine.together_s(step, count) for count in (1, 2, 3, 12)]
            assert all(seconds is not None and seconds > 0 for seconds in times)

    def test_a_lane_cannot_be_in_a_batch_twice(self, lane_engine):
        lane_engine.start(PICTURES[0], lane=1)
        with pytest.raises(ValueError, match="lanes must be different ones"):
            lane_engine.run_together(0, (1, 1))


@pytest.fixture(scope="module")
def batch_engine() -> BatchEngine:
    return open_batch_engine(EANN, PREPROCESSING, device="cpu", engine="torch", max_batch=6)


class TestBatches:
    @staticmethod
    def squares(count: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (count, 70, 70, 3), dtype=np.uint8)

    @staticmethod
    def expected(squares: np.ndarray) -> np.ndarray:
        """float32 [steps, B, classes]"""
        whole = dataclasses.replace(PREPROCESSING, crop=1.0)
        return np.stack([reference(EANN, square, whole) for square in squares], axis=1)

    def test_frames_that_go_on_are_answered_as_if_alone(self, batch_engine):
        squares = self.squares(6, seed=1)
        expected = self.expected(squares)
        random = np.random.default_rng(4)
        for _ in range(5):
            batch, left = batch_engine.open(squares), np.arange(6)
            for step in range(len(batch_engine.plan)):
                np.testing.assert_allclose(batch_engine.run(step, batch), expected[step][left], atol=1e-5)
                for _ in range(int(random.integers(0, 3))):  # none, one or two cuts between two steps
                    rows = np.flatnonzero(random.random(batch.count) < 0.8)
                    if len(rows):
                        batch, left = batch_engine.keep(batch, rows), left[rows]
                assert batch.count == len(left)

    def test_members_can_be_skipped_but_not_steps_within_one(self, batch_engine):
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

    def test_what_is_kept_leaves_the_batch_as_it_was(self, batch_engine):
        squares = self.squares(4, seed=3)
        expected = self.expected(squares)
        batch = batch_engine.open(squares)
        first = batch_engine.run(0, batch).copy()
        some, others = batch_engine.keep(batch, np.array([1])), batch_engine.keep(batch, np.array([0, 3]))
        np.testing.assert_allclose(batch_engine.run(1, some), expected[1][[1]], atol=1e-5)
        np.testing.assert_allclose(batch_engine.run(1, others), expected[1][[0, 3]], atol=1e-5)
        np.testing.assert_allclose(batch_engine.run(1, batch), expected[1], atol=1e-5)
        np.testing.assert_allclose(first, expected[0], atol=1e-5)

    def test_each_step_has_an_estimate_that_grows_with_the_batch(self, batch_engine):
        for step in range(len(batch_engine.plan)):
            assert 0 < batch_engine.step_s(step, 1) < batch_engine.step_s(step, 1000)

    def test_what_is_no_batch(self, batch_engine):
        batch = batch_engine.open(self.squares(2, seed=0))
        for rows in ([], [1, 0], [0, 0], [2], [-1]):
            with pytest.raises(ValueError, match=r"rows must be rising|at least one frame"):
                batch_engine.keep(batch, np.array(rows, dtype=np.intp))
        for squares in (self.squares(7, seed=0), self.squares(1, seed=0)[0], self.squares(2, seed=0)[:, 1:]):
            with pytest.raises(ValueError, match=r"squares must be|at most 6"):
                batch_engine.open(squares)

    def test_read_only_squares_are_taken(self, batch_engine):
        squares = self.squares(2, seed=5)
        squares.flags.writeable = False
        np.testing.assert_allclose(
            batch_engine.run(0, batch_engine.open(squares)), self.expected(squares)[0], atol=1e-5
        )


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
