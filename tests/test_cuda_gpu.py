"""The CUDA engine on a real GPU: what is checked over a fake one elsewhere, and what only a GPU can show."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from stream_ann.engines import TorchEngine, open_engine
from stream_ann.engines.cuda_device import CudaDevice
from stream_ann.engines.cuda_engine import CudaEngine
from stream_ann.engines.cuda_precision import TOLERANCE
from stream_ann.errors import DeviceError
from stream_ann.nets import build
from stream_ann.preprocess import Preprocessing
from tests.engine_checks import CODE_ATOL, PLAIN, CodeNet, Driver, answers_of, coded
from tests.test_engines import ARCHS, PREPROCESSING, images, random_net

pytestmark = pytest.mark.cuda

ATOL = {torch.float32: 1e-4, torch.float16: TOLERANCE, torch.bfloat16: 0.1}
"""Of a probability, against float32. The nets here have random weights and statistics, so their features are large."""
GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _float32_without_tf32() -> Iterator[None]:
    """By default convolutions round their float32 inputs to 10 bits, which would hide small errors."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def opened(net=None, preprocessing=PLAIN, *, dtype=torch.float32, **options) -> CudaEngine:
    net = CodeNet() if net is None else net
    return CudaEngine(net, preprocessing, device=GPU, dtype=dtype, timing_runs=1, **options)


@pytest.mark.parametrize("dtype", ATOL, ids=str)
@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_every_exits_logits_are_those_of_the_torch_engine(arch, dtype):
    net = random_net(arch)
    # on the same GPU, since resizing differs a little between GPU and CPU
    exact = TorchEngine(net, PREPROCESSING, device=GPU, timing_runs=1)
    engine = opened(net, PREPROCESSING, dtype=dtype)
    assert engine.warning is None
    for image in [*images(6), *[images(1, seed=7)[0]] * 6]:
        engine.start(image)
        exact.start(image)
        for step in range(len(engine.plan)):
            got, expected = engine.run(step), exact.run(step)
            np.testing.assert_allclose(got, expected, atol=ATOL[dtype])
            if dtype == torch.float32:  # the logits, but for what softmax takes away
                likely = expected > 1e-6
                np.testing.assert_allclose(np.log(got[likely]), np.log(expected[likely]), atol=1e-2)
    engine.close()
    exact.close()


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-4), (torch.float16, CODE_ATOL)], ids=str)
def test_ten_thousand_frames_without_a_stale_or_mixed_answer(dtype, atol):
    engine = opened(dtype=dtype, lanes=3)
    driver = Driver(engine, 5, atol=atol, sides_px=(8,) * 20 + (9, 11, 14))
    driver.drive(10_000, depth=3)
    assert driver.frames == 10_000
    assert driver.collected > 9_000
    assert engine.warning is None
    engine.close()


@pytest.mark.parametrize("lanes", [1, 4])
def test_kernel_by_kernel_answers_are_the_same(lanes):
    engine = opened(graphs=False, lanes=lanes)
    Driver(engine, 6, atol=1e-4).drive(1_000, depth=2)
    engine.close()


@pytest.mark.parametrize("queued", [0, 1, 2])
def test_frames_abandoned_at_every_step(queued):
    engine, net = opened(), CodeNet()
    for _ in range(20):
        for run in range(len(engine.plan) - queued + 1):
            for code in (run, run + 8, run + 16):
                engine.start(coded(code))
                for step in range(run):
                    np.testing.assert_allclose(engine.run(step), answers_of(net, coded(code), PLAIN)[step], atol=1e-4)
                for step in range(run, run + queued):
                    engine.submit(step)
    engine.close()


@pytest.mark.parametrize("dtype", ATOL, ids=str)
def test_batches_answer_as_their_frames_do(dtype):
    net = random_net(ARCHS["eann of one shared and one other trunk"])
    engine = opened(net, PREPROCESSING, dtype=dtype, lanes=11)
    pictures = images(11, seed=3)
    for lanes in ((4, 0), (1, 2, 3), tuple(range(11))):
        alone = []
        for lane in lanes:
            engine.start(pictures[lane], lane=lane)
            alone.append([engine.run(step, lane=lane) for step in range(len(engine.plan))])
            engine.start(pictures[lane], lane=lane)
        for step in range(len(engine.plan)):
            got = engine.run_together(step, lanes)
            np.testing.assert_allclose(got, [answers[step] for answers in alone], atol=ATOL[dtype])
    assert (engine.together_s(0, 8) or 0) > 0
    engine.close()


BIG = {"name": "resann", "classes": 7, "n": 4, "c": 64, "s": 4, "resolution_px": 256}
"""Long enough steps on any GPU that two frames meet in them."""


def test_a_new_frame_starts_while_the_abandoned_one_drains():
    engine = opened(build(BIG).eval(), PREPROCESSING)
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    for _ in range(6):  # until this size has its graphs
        engine.start(image)
        engine.run(0)
    reference = CudaDevice(GPU).event("reference")
    stream = engine._lanes[0].bank.stream
    overtaken = 0
    for _ in range(10):
        stream.record(reference)
        engine.start(image)
        old = engine._lanes[0].bank
        for step in range(len(engine.plan)):
            engine.submit(step)
        engine.start(image)
        engine.submit(0)
        begun = engine.begun(0)
        assert engine.collect() is not None
        last = old._exits[-1].done
        last.wait()
        overtaken += begun.seconds_since(reference) < last.seconds_since(reference)
    assert overtaken >= 8, "new frames wait for abandoned ones"
    engine.close()


def test_big_nets_drain_without_a_mix_up():
    net = build(BIG).eval()
    engine = opened(net, PREPROCESSING, lanes=2)
    exact = TorchEngine(net, PREPROCESSING, device=GPU, timing_runs=1)
    pictures = [np.random.default_rng(i).integers(0, 256, (300, 400, 3), dtype=np.uint8) // (i + 1) for i in range(4)]
    expected = []
    for picture in pictures:
        exact.start(picture)
        expected.append([exact.run(step) for step in range(len(exact.plan))])
    for number in range(200):
        which = number % 4
        engine.start(pictures[which], lane=number % 2)
        for step in range(len(engine.plan)):
            engine.submit(step, lane=number % 2)
        for step in range(number % (len(engine.plan) + 1)):
            answer = engine.collect(number % 2)
            assert answer is not None
            np.testing.assert_allclose(answer.probabilities, expected[which][step], atol=1e-3)
    engine.close()


def test_engines_of_two_threads():
    failures: list[BaseException] = []

    def use(seed: int) -> None:
        try:
            for _ in range(3):  # captures in one thread while the other one works
                engine = opened(lanes=2)
                Driver(engine, seed, atol=1e-4).drive(500, depth=2)
                engine.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use, args=(seed,), name=f"stream-ann test {seed}") for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert not failures, failures


def test_device_times_are_there_and_plausible():
    engine = opened(build(BIG).eval(), PREPROCESSING)
    engine.start(np.zeros((300, 400, 3), np.uint8))
    for step in range(len(engine.plan)):
        engine.submit(step)
    times_s = []
    for _ in engine.plan.steps:
        answer = engine.collect(timeout_s=10.0)
        assert answer is not None
        assert answer.device_s is not None
        times_s.append(answer.device_s)
    assert 0 < min(times_s) < max(times_s) < 5
    engine.close()


def test_closing_gives_the_memory_back():
    def used() -> tuple[int, int]:
        gc.collect()
        torch._C._cuda_clearCublasWorkspaces()  # kept for each stream for good, megabytes each
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    opened(build(BIG).eval(), PREPROCESSING).close()  # what libraries keep
    before = used()
    for _ in range(3):
        engine = opened(build(BIG).eval(), PREPROCESSING, lanes=3)
        engine.start(np.zeros((300, 400, 3), np.uint8))
        engine.submit(0)
        engine.close()
        after = used()
        assert after[0] <= before[0] + 2**20
        assert after[1] <= before[1] + 2**22


def test_too_little_memory_is_one_line():
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**24) / total)
    try:
        with pytest.raises(DeviceError, match="device 'cuda:0' is out of memory; free some, or use --device cpu"):
            opened(build(BIG | {"c": 128, "resolution_px": 512}).eval(), PREPROCESSING, lanes=8)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    engine = opened()
    Driver(engine, 0, atol=1e-4).drive(50, depth=1)
    engine.close()


def test_auto_is_this_engine_in_sixteen_bits():
    engine = open_engine(random_net(ARCHS["resann"]), Preprocessing((0.5,) * 3, (0.5,) * 3))
    assert engine.name == "cuda"
    assert isinstance(engine, CudaEngine)
    if torch.cuda.get_device_capability(GPU) >= (7, 0):
        assert engine.dtype in (torch.float16, torch.bfloat16)
    assert engine.warning is None
    engine.close()
