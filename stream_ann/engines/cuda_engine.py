"""The engine for NVIDIA GPUs: a CUDA graph for each step, on streams of two priorities."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from stream_ann.engines.cuda_bank import Bank, Program
from stream_ann.engines.cuda_device import CudaDevice, Device, Event, Stream
from stream_ann.engines.cuda_intake import Launcher, Uploads
from stream_ann.engines.cuda_precision import placed, placed_as_precise_as_float32
from stream_ann.engines.cuda_together import Together
from stream_ann.engines.opening import checked_temperatures, device_error, time_steps, time_together
from stream_ann.engines.times import BatchTimes
from stream_ann.errors import DeviceError
from stream_ann.lanes import Answer, check_different
from stream_ann.nets.contract import AnytimeNet, Plan
from stream_ann.preprocess import Preprocessing, centre_square

__all__ = ["CudaEngine"]

_opening = threading.Lock()
"""cuDNN's benchmark switch belongs to the whole process."""


@dataclass
class _Lane:
    """One frame in the works."""

    banks: Sequence[Bank]
    """Which its frames take in turn."""
    turn: int = 0
    submitted: deque[int] = field(default_factory=deque)
    """Steps of this frame whose answers were not collected, the oldest first."""

    @property
    def bank(self) -> Bank:
        return self.banks[self.turn]


class CudaEngine:
    """Runs a plan step by step on a GPU, each step one graph: blocks, head, softmax, copy of the answer to the host.

    Lane 0 runs on streams of high priority, and its frames take turns on two sets of buffers with a stream each: a new
    frame's first step starts at once while the last step of the abandoned one drains. The other lanes have a set of
    buffers each and share one stream of low priority: their steps run one after another, in the order in which they
    were submitted, and beside those of lane 0.

    A picture's centre square travels as 8-bit pixels through a ring of pinned buffers, on streams that only copy,
    and is resized and normalised on the device, once for each resolution. The host waits for single events and sleeps
    meanwhile. How many steps are in the queue at a time is up to whoever calls :meth:`submit`; whatever is in the
    queue when a frame is abandoned still runs, and its answers are dropped. Frames of several lanes can run a step as
    one batch: graphs of 2, 4 and 8 frames are captured as well.

    If a step cannot be captured, all are launched kernel by kernel, on the same streams: see :attr:`warning`.

    For use from one thread at a time; other engines may be used from other threads.

    Args:
        net: The network whose plan is run. It is copied, not changed.
        preprocessing: How a picture becomes the network's input.
        device: The GPU.
        dtype: Type of weights and features. None: the first of float16, bfloat16 and float32 whose answers are within
            :data:`~stream_ann.engines.cuda_precision.TOLERANCE` of those in float32 on some random pictures.
        temperatures: What the logits of each exit are divided by; 1 for each by default.
        lanes: How many frames may be in the works at once.
        graphs: Whether steps are captured, rather than launched kernel by kernel.
        timing_runs: How often each step is timed at opening.
        layer: What stands for the device; the GPU itself by default.

    Raises:
        DeviceError: If the device fails, e.g. for want of memory.
    """

    name = "cuda"
    concurrent = True

    def __init__(
        self,
        net: AnytimeNet,
        preprocessing: Preprocessing,
        *,
        device: torch.device,
        dtype: torch.dtype | None = None,
        temperatures: Sequence[float] | None = None,
        lanes: int = 1,
        graphs: bool = True,
        timing_runs: int = 7,
        layer: Device | None = None,
    ) -> None:
        if lanes < 1:
            raise ValueError(f"lanes must be at least 1, got {lanes}")
        self._torch_device = device
        self._plan = net.plan()
        checked = checked_temperatures(temperatures, len(self._plan))
        self._crop = preprocessing.crop
        self._launcher = Launcher(graphs=graphs)
        self._lanes: list[_Lane] = []
        self._together: Together | None = None
        self._times = BatchTimes(len(self._plan))
        self._layer: Device | None = None
        try:
            self._layer = CudaDevice(device) if layer is None else layer
            with _opening:
                self._open(self._layer, net, preprocessing, checked, dtype, lanes)
            self._step_s = time_steps(self, timing_runs)
            if self._together is not None:
                time_together(self, self._times, self._step_s)
            for bank in (bank for at in self._lanes for bank in at.banks):
                bank.forget()  # what was timed
        except RuntimeError as error:
            with contextlib.suppress(DeviceError):  # the first failure is the one to report
                self.close()
            raise device_error(device, error) from error

    @property
    def plan(self) -> Plan:
        """The steps that it runs."""
        return self._plan

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._torch_device

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights and features."""
        return self._dtype

    @property
    def description(self) -> str:
        """See :attr:`LaneEngine.description <stream_ann.lanes.LaneEngine.description>`."""
        how = "graphs" if self._launcher.graphs else "kernel by kernel"
        return f"cuda on {self._torch_device}, {str(self._dtype).removeprefix('torch.')}, {how}"

    @property
    def warning(self) -> str | None:
        """Why it is slower than it could be, in one line, or None."""
        failure = self._launcher.failure
        return None if failure is None else f"work is launched kernel by kernel, because a graph failed: {failure}"

    @property
    def step_s(self) -> Sequence[float]:
        """Median time of each step at opening, in seconds, from the call to its answer on the host."""
        return self._step_s

    @property
    def lanes(self) -> int:
        """How many frames may be in the works at once."""
        return len(self._lanes)

    def start(self, image: NDArray[np.uint8], *, lane: int = 0) -> None:
        """Take a new picture, uint8 [H, W, 3] RGB, into a lane, and forget the one before and its submitted steps.

        The picture may change as soon as this returns.

        Raises:
            ValueError: If the picture has another type or shape or no pixels.
            DeviceError: If the device fails.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise ValueError(f"image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
        if 0 in image.shape:
            raise ValueError(f"image has no pixels, its shape is {list(image.shape)}")
        top, left, side = centre_square(image.shape[0], image.shape[1], self._crop)
        at = self._lane(lane)
        at.submitted.clear()
        at.turn = (at.turn + 1) % len(at.banks)
        try:
            at.bank.start(image[top : top + side, left : left + side])
        except RuntimeError as error:
            raise device_error(self._torch_device, error) from error

    def run(self, step: int, *, lane: int = 0) -> NDArray[np.float32]:
        """Run one step and wait for its answer, which is not left to collect.

        Args:
            step: The first step of a member, or the step after the one that was run or submitted last in the lane.
            lane: The lane.

        Returns:
            The exit's probabilities, float32 [classes].

        Raises:
            ValueError: If the step cannot be run now.
            DeviceError: If the device fails.
        """
        self.submit(step, lane=lane)
        at = self._lane(lane)
        answer = self._answer(at, at.submitted.pop(), None)
        assert answer is not None
        return answer.probabilities

    def submit(self, step: int, *, lane: int = 0) -> None:
        """Enqueue one step and return.

        Args:
            step: The first step of a member, or the step after the one that was run or submitted last in the lane.
            lane: The lane.

        Raises:
            ValueError: If the step cannot be run now, or is in the queue already.
            DeviceError: If the device fails.
        """
        at = self._lane(lane)
        if step in at.submitted:
            raise ValueError(f"step {step} is in the queue of lane {lane} already: collect its answer first")
        try:
            at.bank.launch(step)
        except RuntimeError as error:
            raise device_error(self._torch_device, error) from error
        at.submitted.append(step)

    def collect(self, lane: int = 0, *, timeout_s: float | None = None) -> Answer | None:
        """The answer of the lane's oldest submitted step, each handed out once.

        Args:
            lane: The lane.
            timeout_s: How long to wait for it at most, in seconds; None as long as it takes, 0 not at all.

        Returns:
            The answer with the time that the device took, or None when it is not there in time.

        Raises:
            ValueError: If no step of the lane's frame is submitted that was not collected.
            DeviceError: If the device fails.
        """
        at = self._lane(lane)
        if not at.submitted:
            raise ValueError(f"no submitted step of lane {lane} is left to collect")
        answer = self._answer(at, at.submitted[0], timeout_s)
        if answer is not None:
            at.submitted.popleft()
        return answer

    def begun(self, step: int, *, lane: int = 0) -> Event:
        """Past once the device has begun with a submitted step of the lane's frame: for measurements."""
        return self._lane(lane).bank.begun(step)

    def run_together(self, step: int, lanes: Sequence[int]) -> NDArray[np.float32]:
        """Run one step of several lanes as one batch and wait; one by one where there are no graphs.

        Args:
            step: The step, which must be possible in each lane.
            lanes: Different lanes.

        Returns:
            The exit's probabilities for each, float32 [len(lanes), classes].

        Raises:
            ValueError: If the step cannot be run now in one of them, or a lane occurs twice.
            DeviceError: If the device fails.
        """
        check_different(lanes)
        if self._together is None:
            return np.stack([self.run(step, lane=lane) for lane in lanes])
        banks = [self._lane(lane).bank for lane in lanes]
        begun_s = time.perf_counter()
        try:
            probabilities = self._together.run(step, banks)
        except RuntimeError as error:
            raise device_error(self._torch_device, error) from error
        self._times.add(step, len(lanes), time.perf_counter() - begun_s)
        return probabilities

    def together_s(self, step: int, count: int) -> float | None:
        """Seconds that :meth:`run_together` takes for ``count`` lanes: measured at opening and whenever it runs.

        None for one lane only, and where there are no graphs.
        """
        return None if self._together is None else self._times.estimate_s(step, count)

    def close(self) -> None:
        """Wait for what is in the queues, and let go of the device's memory; may be called more than once.

        Raises:
            DeviceError: If the device fails.
        """
        layer, self._layer = self._layer, None
        if layer is None:
            return
        try:
            layer.drain()
            self._lanes, self._together = [], None  # what is still referred to would not be given back
            layer.close()
        except RuntimeError as error:
            raise device_error(self._torch_device, error) from error
        finally:
            self._lanes, self._together = [], None

    def _open(
        self,
        layer: Device,
        net: AnytimeNet,
        preprocessing: Preprocessing,
        temperatures: Sequence[float],
        dtype: torch.dtype | None,
        lanes: int,
    ) -> None:
        first, second = layer.stream("first", urgent=True), layer.stream("second", urgent=True)
        if dtype is None:
            own, dtype = placed_as_precise_as_float32(net, preprocessing, temperatures, layer, first)
        else:
            own = placed(net, dtype, layer)
        self._dtype = dtype
        program = Program(self._plan, own.steps, dtype, temperatures, preprocessing)
        streams: list[tuple[Stream, Uploads]] = [(first, Uploads(layer, "first")), (second, Uploads(layer, "second"))]
        if lanes > 1:
            low = layer.stream("low", urgent=False), Uploads(layer, "low", urgent=False)
            streams += [low] * (lanes - 1)
        banks = [Bank(layer, stream, uploads, program, self._launcher) for stream, uploads in streams]
        with _Benchmarking():  # not around the rest: trying every shape in every type and batch takes a minute
            for number, bank in enumerate(banks):
                bank.open(warm_up=number < 3)  # the others share the third one's stream
        if lanes > 1 and self._launcher.graphs:
            self._together = Together(layer, program, lanes, self._launcher)
        if not self._launcher.graphs:
            self._together = None
            for bank in banks:
                bank.relaunch()
        self._lanes = [_Lane(banks[:2]), *(_Lane([bank]) for bank in banks[2:])]

    def _lane(self, lane: int) -> _Lane:
        if not self._lanes:
            raise ValueError("the engine is closed")
        return self._lanes[lane]

    def _answer(self, at: _Lane, step: int, timeout_s: float | None) -> Answer | None:
        try:
            return at.bank.answer(step, timeout_s)
        except RuntimeError as error:
            raise device_error(self._torch_device, error) from error


class _Benchmarking:
    """cuDNN tries its algorithms on each new shape, and the fastest is what is captured."""

    def __enter__(self) -> None:
        self._before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True

    def __exit__(self, *exception: object) -> None:
        torch.backends.cudnn.benchmark = self._before
