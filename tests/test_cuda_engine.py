"""The CUDA engine over a device that runs on the CPU, in any order that the events allow."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ann.clock import FakeClock
from stream_ann.engines.cuda_bank import Bank
from stream_ann.engines.cuda_engine import CudaEngine
from stream_ann.errors import DeviceError
from stream_ann.frames import Frame
from stream_ann.ingest import ScriptedInbox, ScriptedSlot
from stream_ann.lanes import Answer
from stream_ann.preprocess import Preprocessing
from stream_ann.scheduler import Background, Scheduler, path_named
from tests.engine_checks import CODE_ATOL, PLAIN, CodeNet, CodeStep, Driver, answers_of, coded, worst_confusion
from tests.fake_cuda import Deadlock, FakeDevice, FakeStream, Race
from tests.test_engines import ARCHS, PREPROCESSING, images, random_net, reference

CPU = torch.device("cpu")
ATOL = 1e-5
FLOAT16_ATOL = 0.01


def opened(net=None, preprocessing=PLAIN, *, layer=None, dtype=torch.float32, **options) -> CudaEngine:
    net = CodeNet() if net is None else net
    layer = FakeDevice() if layer is None else layer
    return CudaEngine(net, preprocessing, device=CPU, dtype=dtype, timing_runs=1, layer=layer, **options)


def test_the_codes_can_be_told_apart():
    assert worst_confusion() > 5 * CODE_ATOL


class TestAnswers:
    @pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "kernels"])
    @pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
    def test_every_exit_answers_as_the_network_does(self, arch, graphs):
        net = random_net(arch)
        engine = opened(net, PREPROCESSING, graphs=graphs)
        for image in [*images(3), *[images(1, seed=7)[0]] * 5]:
            engine.start(image)
            for step, expected in enumerate(reference(net, image)):
                got = engine.run(step)
                assert got.dtype == np.float32
                np.testing.assert_allclose(got, expected, atol=ATOL)
        engine.close()

    def test_sixteen_bits_are_near(self):
        net, image = random_net(ARCHS["resann"]), images(1)[0]
        engine = opened(net, PREPROCESSING, dtype=torch.float16)
        engine.start(image)
        for step, expected in enumerate(reference(net, image)):
            np.testing.assert_allclose(engine.run(step), expected, atol=FLOAT16_ATOL)

    def test_temperatures_divide_each_exits_own_logits(self):
        net, image = random_net(ARCHS["resann"]), images(1)[0]
        temperatures = [0.5 + i for i in range(len(net.plan()))]
        engine = opened(net, PREPROCESSING, temperatures=temperatures)
        engine.start(image)
        for step, plain in enumerate(reference(net, image)):
            expected = plain ** (1 / temperatures[step])
            np.testing.assert_allclose(engine.run(step), expected / expected.sum(), atol=ATOL)

    def test_any_strides_and_read_only(self):
        image = images(1)[0]
        net = random_net(ARCHS["resann"])
        engine = opened(net, PREPROCESSING)
        for view in (image[::-1, ::-1], image[::2, ::3], image[..., ::-1], np.asfortranarray(image)):
            view.flags.writeable = False
            engine.start(view)
            np.testing.assert_allclose(engine.run(0), reference(net, np.ascontiguousarray(view))[0], atol=ATOL)

    @given(
        seed=st.integers(0, 2**32),
        haste=st.sampled_from([0.0, 0.3, 0.9]),
        lanes=st.integers(1, 4),
        depth=st.integers(1, 3),
        graphs=st.booleans(),
    )
    @settings(max_examples=15, deadline=None)
    def test_whatever_the_order_no_answer_is_stale_or_mixed(self, seed, haste, lanes, depth, graphs):
        engine = opened(layer=FakeDevice(seed, haste=haste), lanes=lanes, graphs=graphs)
        driver = Driver(engine, seed, atol=ATOL)
        driver.drive(20, depth=depth)
        engine.close()
        assert driver.collected > 3

    @pytest.mark.parametrize("frames", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
    def test_many_frames(self, frames):
        engine = opened(layer=FakeDevice(2, haste=0.6), lanes=2)
        driver = Driver(engine, 3, atol=ATOL, sides_px=(8,) * 20 + (9, 11, 14), batches=0.01)
        driver.drive(frames, depth=2)
        assert driver.frames == frames
        assert driver.collected > 0.9 * frames
        engine.close()

    @pytest.mark.parametrize("haste", [0.0, 0.5])
    @pytest.mark.parametrize("queued", [0, 1, 2])
    def test_frames_abandoned_at_every_step(self, queued, haste):
        """With ``queued`` steps still in the queue; the frames around must not notice."""
        engine = opened(layer=FakeDevice(7, haste=haste))
        net = CodeNet()
        for run in range(len(engine.plan) - queued + 1):
            for code in (run, run + 20, run + 40):
                engine.start(coded(code))
                for step in range(run):
                    np.testing.assert_allclose(engine.run(step), answers_of(net, coded(code), PLAIN)[step], atol=ATOL)
                for step in range(run, run + queued):
                    engine.submit(step)
        engine.start(coded(1))
        for step, expected in enumerate(answers_of(net, coded(1), PLAIN)):
            np.testing.assert_allclose(engine.run(step), expected, atol=ATOL)
        engine.close()


class TestQueue:
    @pytest.mark.parametrize("depth", [1, 2, 3])
    def test_answers_come_in_the_order_of_submission(self, depth):
        engine = opened(layer=FakeDevice(1, haste=0.2))
        expected = answers_of(CodeNet(), coded(9), PLAIN)
        engine.start(coded(9))
        steps, got = list(range(len(engine.plan))), []
        waiting = 0
        while len(got) < len(expected):
            while steps and waiting < depth:
                engine.submit(steps.pop(0))
                waiting += 1
            answer = engine.collect()
            assert answer is not None
            got.append(answer.probabilities)
            waiting -= 1
        np.testing.assert_allclose(got, expected, atol=ATOL)

    def test_no_time_means_no_wait(self):
        engine = opened(layer=(layer := FakeDevice(haste=0)))
        layer.run_all()
        engine.start(coded(3))
        engine.submit(0)
        assert engine.collect(timeout_s=0) is None
        answer = None
        for _ in range(20):
            answer = answer or engine.collect(timeout_s=0)
        assert answer is not None
        np.testing.assert_allclose(answer.probabilities, answers_of(CodeNet(), coded(3), PLAIN)[0], atol=ATOL)
        assert answer.device_s is not None
        assert answer.device_s > 0
        with pytest.raises(ValueError, match="no submitted step of lane 0 is left to collect"):
            engine.collect()

    def test_steps_of_an_abandoned_frame_are_not_handed_out(self):
        engine = opened(layer=FakeDevice(haste=0))
        engine.start(coded(3))
        engine.submit(0)
        engine.submit(1)
        engine.start(coded(4))
        with pytest.raises(ValueError, match="no submitted step"):
            engine.collect()
        engine.submit(0)
        answer = engine.collect()
        assert answer is not None
        np.testing.assert_allclose(answer.probabilities, answers_of(CodeNet(), coded(4), PLAIN)[0], atol=ATOL)

    def test_run_leaves_what_was_submitted_before_it(self):
        engine = opened()
        expected = answers_of(CodeNet(), coded(5), PLAIN)
        engine.start(coded(5))
        engine.submit(0)
        np.testing.assert_allclose(engine.run(1), expected[1], atol=ATOL)
        answer = engine.collect()
        assert answer is not None
        np.testing.assert_allclose(answer.probabilities, expected[0], atol=ATOL)

    def test_answers_stay_when_later_frames_run(self):
        engine = opened()
        engine.start(coded(5))
        first = engine.run(0)
        before = first.copy()
        for code in range(4):
            engine.start(coded(code))
            engine.run(0)
        np.testing.assert_array_equal(first, before)

    def test_answers_of_a_batch_are_those_of_its_frames(self):
        engine, net = opened(lanes=11), CodeNet()
        expected = [answers_of(net, coded(code), PLAIN) for code in range(11)]
        for lanes in ((2, 0, 1), (3, 9), tuple(range(11)), (5,)):
            for lane in lanes:
                engine.start(coded(lane), lane=lane)
            for step in (0, 1, 3, 4, 5):
                got = engine.run_together(step, lanes)
                assert got.dtype == np.float32
                np.testing.assert_allclose(got, [expected[lane][step] for lane in lanes], atol=ATOL)

    def test_frames_go_on_alone_after_a_batch_and_the_other_way_round(self):
        engine, net = opened(layer=FakeDevice(haste=0), lanes=3), CodeNet()
        expected = [answers_of(net, coded(code), PLAIN) for code in range(3)]
        for _ in range(3):
            for lane in range(3):
                engine.start(coded(lane), lane=lane)
                np.testing.assert_allclose(engine.run(3, lane=lane), expected[lane][3], atol=ATOL)
            engine.run_together(4, (2, 1))
            engine.submit(4, lane=0)
            for lane in (1, 2):
                np.testing.assert_allclose(engine.run(5, lane=lane), expected[lane][5], atol=ATOL)
            with pytest.raises(ValueError, match="step 5 needs the state of step 4"):
                engine.run_together(5, (0, 1))
            np.testing.assert_allclose(engine.run(5, lane=0), expected[0][5], atol=ATOL)

    @pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
    def test_batches_of_real_networks(self, arch):
        net = random_net(arch)
        engine = opened(net, PREPROCESSING, lanes=3)
        pictures = images(3, seed=9)
        for lane, picture in enumerate(pictures):
            engine.start(picture, lane=lane)
        expected = [reference(net, picture) for picture in pictures]
        for step in range(len(engine.plan)):
            got = engine.run_together(step, (1, 2, 0))
            np.testing.assert_allclose(got, [expected[lane][step] for lane in (1, 2, 0)], atol=ATOL)

    def test_batches_are_timed_and_offered_where_there_are_graphs(self):
        engine = opened(lanes=5)
        assert all((engine.together_s(step, 4) or 0) > 0 for step in range(len(engine.plan)))
        assert opened().together_s(0, 2) is None
        plain = opened(lanes=2, graphs=False)
        assert plain.together_s(0, 2) is None
        for lane in range(2):
            plain.start(coded(lane), lane=lane)
        expected = [answers_of(CodeNet(), coded(code), PLAIN)[0] for code in (1, 0)]
        np.testing.assert_allclose(plain.run_together(0, (1, 0)), expected, atol=ATOL)
        with pytest.raises(ValueError, match="different ones"):
            engine.run_together(0, (1, 1))

    def test_a_new_frame_runs_while_the_abandoned_one_drains(self):
        layer = FakeDevice(haste=0)
        engine = opened(layer=layer)
        engine.start(coded(1))
        engine.submit(0)
        layer.run_all()
        busy = max(layer.streams, key=lambda stream: stream.clock.get(stream.name, 0) if stream.urgent else 0)
        engine.submit(1)
        draining = next(stream for stream in layer.streams if stream.queue)
        assert busy.urgent
        held, layer.streams = layer.streams, [stream for stream in layer.streams if stream is not draining]
        engine.start(coded(2))
        np.testing.assert_allclose(engine.run(0), answers_of(CodeNet(), coded(2), PLAIN)[0], atol=ATOL)
        assert draining.queue, "the abandoned frame's step ran, though its stream stood still"
        layer.streams = held
        engine.close()

    def test_nothing_in_the_low_lane_holds_up_lane_0(self):
        """Not even the copy of a picture whose place on the device is still to be read."""
        layer = FakeDevice(haste=0)
        engine = opened(layer=layer, lanes=2)
        for _ in range(6):
            engine.start(coded(1), lane=1)
            for step in range(6):
                engine.run(step, lane=1)
        held, layer.streams = layer.streams, [stream for stream in layer.streams if "low" not in stream.name[:11]]
        assert len(layer.streams) == len(held) - 1
        for _ in range(2):
            engine.start(coded(2), lane=1)
            engine.submit(0, lane=1)
            engine.submit(2, lane=1)
        for code in range(6):
            engine.start(coded(code))
            np.testing.assert_allclose(engine.run(0), answers_of(CodeNet(), coded(code), PLAIN)[0], atol=ATOL)
        layer.streams = held
        engine.close()

    def test_lane_0_is_urgent_and_the_others_are_not(self):
        layer = FakeDevice()
        engine = opened(layer=layer, lanes=3)
        low = [stream.name for stream in layer.streams if not stream.urgent]
        assert [name.rsplit(" ", 1)[0] for name in low] == ["stream low", "stream copies low"]
        assert len(layer.streams) == 7
        assert (engine.lanes, engine.concurrent, engine.name) == (3, True, "cuda")


class Ticking:
    """An engine under whose steps a fake clock goes on."""

    def __init__(self, engine: CudaEngine, clock: FakeClock, step_s: float) -> None:
        self._engine, self._clock = engine, clock
        self.step_s = [step_s] * len(engine.plan)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, step: int, *, lane: int = 0) -> np.ndarray:
        self._clock.advance(self.step_s[step])
        return self._engine.run(step, lane=lane)

    def collect(self, lane: int = 0, *, timeout_s: float | None = None) -> Answer | None:
        self._clock.advance(self.step_s[0] if timeout_s is None else 0.0)
        return self._engine.collect(lane, timeout_s=timeout_s)


class TestUnderTheScheduler:
    @pytest.mark.parametrize(
        ("sources", "path", "queue_depth"),
        [(1, "in-order", 1), (1, "in-order", 3), (1, "planned", 2), (3, "planned", 1)],
    )
    def test_every_exit_of_every_result_is_its_frames_own(self, sources, path, queue_depth):
        clock, net = FakeClock(), CodeNet()
        slots = [
            ScriptedSlot(
                [Frame(coded(7 * s + i), f"{s}", i, t, t) for i, t in enumerate(np.arange(20) * 0.035 + s / 100)], clock
            )
            for s in range(sources)
        ]
        engine = opened(layer=FakeDevice(4, haste=0.2), lanes=sources)
        scheduler = Scheduler(
            Ticking(engine, clock, 0.01),
            slots,
            clock,
            classes=[str(i) for i in range(engine.plan.classes)],
            path=path_named(path, engine.plan, [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
            waiter=ScriptedInbox(slots, clock),
            queue_depth=queue_depth,
        )
        results = list(scheduler.results())
        assert len(results) > 10
        assert sum(len(result.exits) for result in results) > len(results), "no frame was refined"
        for result in results:
            expected = answers_of(net, result.frame.image, PLAIN)
            for exit_ in result.exits:
                assert exit_.confidence == pytest.approx(expected[exit_.exit].max(), abs=ATOL)
        engine.close()

    def test_key_frames_in_the_low_lane(self, monkeypatch):
        monkeypatch.setattr("stream_ann.scheduler.memory.is_cut", lambda *_: False)  # every picture has another colour
        clock, net = FakeClock(), CodeNet()
        slot = ScriptedSlot([Frame(coded(i), "s", i, t, t) for i, t in enumerate(np.arange(60) * 0.015)], clock)
        engine = opened(layer=FakeDevice(4, haste=0.05), lanes=2)
        background = Background((0.2, 0.3, 0.4, 0.5, 0.6, 0.7))
        scheduler = Scheduler(
            Ticking(engine, clock, 0.01), slot, clock, classes=list("abcde"), waiter=slot, background=background
        )
        results = list(scheduler.results())
        assert background.refined > 0
        for result in results:
            expected = answers_of(net, result.frame.image, PLAIN)
            for exit_ in result.exits:
                assert exit_.confidence == pytest.approx(expected[exit_.exit].max(), abs=ATOL)
        engine.close()


class TestRefusals:
    def test_steps_out_of_order(self):
        engine = opened()
        for lane in range(2):
            with pytest.raises(ValueError, match="no picture yet"):
                opened(lanes=2).run(0, lane=lane)
        engine.start(coded(1))
        with pytest.raises(ValueError, match="step 1 needs the state of step 0, the last one run was None"):
            engine.run(1)
        engine.run(0)
        engine.run(2)
        with pytest.raises(ValueError, match="step 4 needs the state of step 3, the last one run was 2"):
            engine.submit(4)
        engine.submit(3)
        with pytest.raises(ValueError, match="step 3 is in the queue of lane 0 already"):
            engine.submit(3)

    def test_whole_members_can_be_skipped(self):
        engine = opened()
        expected = answers_of(CodeNet(), coded(8), PLAIN)
        engine.start(coded(8))
        for step in (0, 3, 4, 2):
            np.testing.assert_allclose(engine.run(step), expected[step], atol=ATOL)

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (np.zeros((8, 8, 3), np.float32), r"image must be uint8 \[H, W, 3\], got float32"),
            (np.zeros((8, 8), np.uint8), r"got uint8 \[8, 8\]"),
            (np.zeros((0, 8, 3), np.uint8), "image has no pixels"),
        ],
    )
    def test_other_pictures(self, image, message):
        with pytest.raises(ValueError, match=message):
            opened().start(image)

    def test_options(self):
        with pytest.raises(ValueError, match="lanes must be at least 1"):
            opened(lanes=0)
        with pytest.raises(ValueError, match="temperatures must be 6 positive numbers"):
            opened(temperatures=[1.0])

    def test_closed(self):
        layer = FakeDevice(haste=0)
        engine = opened(layer=layer)
        engine.start(coded(1))
        engine.submit(0)
        engine.close()
        engine.close()
        assert layer.closed
        for use in (lambda: engine.run(0), lambda: engine.start(coded(1)), engine.collect):
            with pytest.raises(ValueError, match="the engine is closed"):
                use()


class TestSizes:
    def test_a_size_that_stays_gets_graphs_and_one_that_does_not_gets_none(self):
        layer = FakeDevice()
        engine = opened(layer=layer)
        before = layer.captures
        net = CodeNet()

        def show(side_px: int) -> int:
            for _ in range(8):
                engine.start(coded(11, side_px))
                for step in (0, 2):
                    np.testing.assert_allclose(
                        engine.run(step), answers_of(net, coded(11, side_px), PLAIN)[step], atol=ATOL
                    )
            return layer.captures - before

        assert show(20) == 4  # two resolutions in two sets of buffers
        assert show(20) == 4
        assert [show(side) for side in (21, 22, 23)] == [8, 12, 16]
        assert show(24) == 16  # enough is enough
        assert show(20) == 16
        for side in range(5, 60):
            engine.start(coded(side, side))
            np.testing.assert_allclose(engine.run(0), answers_of(net, coded(side, side), PLAIN)[0], atol=ATOL)
        assert layer.captures - before == 16

    def test_only_the_square_that_is_looked_at_travels(self):
        image = np.zeros((40, 100, 3), np.uint8)
        image[:, 32:68] = coded(21, 1)
        image[2:38, 32:68] = coded(21, 1)
        engine = opened(preprocessing=Preprocessing(PLAIN.mean, PLAIN.std, crop=0.9))
        engine.start(image)
        np.testing.assert_allclose(engine.run(0), answers_of(CodeNet(), coded(21), PLAIN)[0], atol=ATOL)


class TestFailures:
    @pytest.mark.parametrize("number", [1, 3, 12])
    def test_a_failed_capture_means_kernel_by_kernel(self, number):
        layer = FakeDevice(fail_captures=(number, RuntimeError("operation not permitted\nmany more lines")))
        engine = opened(layer=layer)
        assert engine.warning == "work is launched kernel by kernel, because a graph failed: operation not permitted"
        assert "kernel by kernel" in engine.description
        Driver(engine, 0, atol=ATOL).drive(50, depth=2)
        assert layer.captures == number, "tried again"

    def test_a_capture_that_fails_for_a_new_size(self):
        layer = FakeDevice(fail_captures=(13, RuntimeError("operation not permitted")))
        engine = opened(layer=layer)
        assert engine.warning is None
        assert engine.description == "cuda on cpu, float32, graphs"
        driver = Driver(engine, 0, atol=ATOL, sides_px=(8,))
        driver.drive(50, depth=2)
        assert "operation not permitted" in (engine.warning or "")

    def test_no_memory_for_a_graph(self):
        layer = FakeDevice(
            fail_captures=(2, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"))
        )
        with pytest.raises(DeviceError, match="device 'cpu' is out of memory; free some, or use --device cpu"):
            opened(layer=layer)
        assert layer.closed, "what was opened is left open"

    @pytest.mark.parametrize("call", ["start", "submit", "collect"])
    def test_a_failing_device(self, call, monkeypatch):
        engine = opened()
        engine.start(coded(1))
        engine.submit(0)

        def fail(*args, **kwargs):
            raise RuntimeError("CUDA error: unspecified launch failure\nCompile with ...")

        monkeypatch.setattr(Bank, {"start": "start", "submit": "launch", "collect": "answer"}[call], fail)
        uses = {"start": lambda: engine.start(coded(1)), "submit": lambda: engine.submit(1), "collect": engine.collect}
        with pytest.raises(DeviceError, match="device 'cpu' failed: CUDA error: unspecified launch failure; try"):
            uses[call]()

    def test_cudnn_is_left_as_it_was(self):
        before = torch.backends.cudnn.benchmark
        opened()
        assert torch.backends.cudnn.benchmark == before


class TestPrecision:
    def test_sixteen_bits_where_they_are_enough(self):
        assert opened(dtype=None).dtype == torch.float16

    def test_beyond_float16_comes_bfloat16(self):
        engine = opened(scaled(1e4), dtype=None)
        assert engine.dtype == torch.bfloat16

    def test_beyond_both_comes_float32(self):
        assert opened(scaled(1e4, gain=300.0), dtype=None).dtype == torch.float32

    def test_a_gpu_without_fast_16_bits(self, monkeypatch):
        monkeypatch.setattr(FakeDevice, "half_types", lambda self: ())
        assert opened(dtype=None).dtype == torch.float32


def scaled(factor: float, *, gain: float = 1.0) -> CodeNet:
    """The same function but for ``gain``, with features so large that float16 cannot hold them."""
    net = CodeNet()
    for part in net.parts:
        assert isinstance(part, CodeStep)
        if part.first:
            part.mix.weight.data.mul_(factor * 100)
            part.mix.bias.data.mul_(factor * 100)
        else:
            part.mix.bias.data.mul_(factor * 100)
        part.head.weight.data.mul_(gain / (factor * 100))
    return net


class TestTheFakeNotices:
    """Each guard taken away once: the answers may still be right by luck, but the fake does not accept it."""

    @pytest.mark.parametrize(
        ("event", "message"),
        [
            ("copied", "the host writes pinned .* which stream copies"),
            ("sent", "stream (first|second) .* reads .* of stream copies .*, which stream copies .* writes"),
            ("read", "stream copies .* writes .* which stream (first|second) .* reads"),
            ("lent", "stream together .* reads .* which stream (first|second|low) .* writes"),
            ("together", "the host reads pinned .* which stream together|stream together .* at an unordered time"),
            ("done", "the host reads pinned .* which stream (first|second) .* writes|before both are past"),
        ],
    )
    def test_an_event_that_nobody_waits_for(self, event, message):
        with pytest.raises(Race, match=message):
            self.use(FakeDevice(3, ignored=[event]), lanes=2 if event in ("lent", "together") else 1)

    def use(self, layer: FakeDevice, *, lanes: int) -> None:
        engine = opened(layer=layer, lanes=lanes)
        for code in range(5):
            engine.start(coded(code))
        Driver(engine, 3, atol=ATOL).drive(30, depth=2)

    def test_two_streams_on_one_set_of_buffers(self, monkeypatch):
        made: dict[tuple[int, ...], torch.Tensor] = {}
        empty = FakeStream.empty

        def shared(stream: FakeStream, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
            return (
                made.setdefault(tuple(shape), empty(stream, shape, dtype))
                if len(shape) == 4
                else empty(stream, shape, dtype)
            )

        monkeypatch.setattr(FakeStream, "empty", shared)
        with pytest.raises(Race, match=r"stream (first|second) .* of stream (first|second) .*"):
            Driver(opened(layer=FakeDevice(haste=0)), 0, atol=ATOL).drive(60, depth=2)

    def test_a_state_that_nobody_keeps(self, monkeypatch):
        capture = Bank.open

        def forgetful(bank: Bank, *, warm_up: bool) -> None:
            capture(bank, warm_up=warm_up)
            bank._states[:] = [()] * len(bank._states)

        monkeypatch.setattr(Bank, "open", forgetful)
        with pytest.raises(Race, match="that nobody keeps any more"):
            opened()

    def test_answers_of_an_abandoned_frame(self):
        class NeverCleared(deque):
            def clear(self) -> None:
                pass

        engine = opened()
        engine._lanes[0].submitted = NeverCleared()
        engine.start(coded(3))
        engine.submit(0)
        engine.start(coded(4))
        engine.submit(1 if engine.plan.steps[1].first else 2)
        with pytest.raises((AssertionError, ValueError)):
            Driver(engine, 0, atol=ATOL).drive(60, depth=2)

    def test_what_cannot_come(self):
        layer = FakeDevice(haste=0)
        one, other = layer.stream("one", urgent=True), layer.stream("other", urgent=True)
        first, second = layer.event("first"), layer.event("second")
        one.record(first)
        one.wait(first)
        two_ways = layer.event("two ways")
        other.wait(first)
        other.record(second)
        assert second.wait()
        one.queue.appendleft(lambda: False)
        one.record(two_ways)
        with pytest.raises(Deadlock):
            two_ways.wait()

    def test_waiting_for_the_device_within_a_graph(self):
        stream = FakeDevice().stream("one", urgent=True)
        values = stream.empty((3,), torch.float32)
        with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
            stream.capture(lambda: values.add_(float(values.sum())), stream.pool())

    def test_graphs_run_in_the_memory_that_they_were_captured_in(self):
        layer = FakeDevice(haste=1)
        stream = layer.stream("one", urgent=True)
        values = stream.empty((3,), torch.float32)
        kept = []
        replay = stream.capture(lambda: kept.append(values * 2), stream.pool())
        assert not kept[0].eq(8).any()
        values.fill_(4)
        replay()
        layer.run_all()
        assert kept[0].eq(8).all()

    def test_a_replay_destroys_what_later_graphs_of_its_pool_have_left(self):
        layer = FakeDevice(haste=1)
        stream = layer.stream("one", urgent=True)
        values = torch.full((3,), 2.0)
        kept = []
        shared, own = stream.pool(), stream.pool()
        first = stream.capture(lambda: values * 2, shared)
        launches = [stream.capture(lambda: kept.append(values * 3), pool) for pool in (shared, own)]
        for launch in (*launches, first):
            launch()
        layer.run_all()
        assert kept[0].isnan().all()
        assert kept[1].eq(6).all()
