"""The reference engine: eager PyTorch on the CPU or a GPU."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_ann.engines.devices import cpu_threads
from stream_ann.engines.folding import fold_batch_norms
from stream_ann.engines.opening import checked_temperatures, device_error, time_steps, time_together
from stream_ann.engines.times import BatchTimes
from stream_ann.lanes import Answer
from stream_ann.nets.contract import AnytimeNet, Plan, State, Step
from stream_ann.preprocess import Preprocessing, preprocess

__all__ = ["TorchEngine", "inference_steps", "torch_description"]


@dataclass
class _Lane:
    """One frame in the works."""

    picture: NDArray[np.uint8] | Tensor | None = None
    inputs: dict[int, Tensor] = field(default_factory=dict)
    state: State = ()
    last_step: int | None = None
    answers: deque[Answer] = field(default_factory=deque)

    def start(self, picture: NDArray[np.uint8] | Tensor | None) -> None:
        self.picture = picture
        self.inputs.clear()
        self.state = ()
        self.last_step = None
        self.answers.clear()


class TorchEngine:
    """Runs a plan step by step in eager PyTorch: batch norm folded, channels last, no gradients.

    Not for use from several threads at once. On the CPU it sets the process's number of torch threads.

    Args:
        net: The network whose plan is run. It is copied, not changed.
        preprocessing: How a picture becomes the network's input.
        device: Where it runs.
        dtype: Type of weights and features; the probabilities are float32 in any case.
        temperatures: What the logits of each exit are divided by, so that its probabilities are calibrated (Guo et al.,
            ICML 2017); 1 for each by default.
        threads: Torch threads on the CPU; by default one core is left to the decoder.
        lanes: How many frames may be in the works at once. Their steps run one after another.
        timing_runs: How often each step is timed at opening.

    Raises:
        DeviceError: If the device fails, e.g. for want of memory.
    """

    name = "torch"
    concurrent = False

    def __init__(
        self,
        net: AnytimeNet,
        preprocessing: Preprocessing,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        temperatures: Sequence[float] | None = None,
        threads: int | None = None,
        lanes: int = 1,
        timing_runs: int = 3,
    ) -> None:
        self._device = device
        self._dtype = dtype
        self._preprocessing = preprocessing
        self._plan = net.plan()
        self._temperatures = checked_temperatures(temperatures, len(self._plan))
        self._lanes = [_Lane() for _ in range(lanes)]
        self._threads = threads if threads is not None else cpu_threads()
        if device.type == "cpu":
            torch.set_num_threads(self._threads)
        self._times = BatchTimes(len(self._plan))
        self._step_s: tuple[float, ...] = ()
        try:
            self._steps = inference_steps(net, device, dtype)
            self._answers = torch.empty(
                len(self._plan), lanes, self._plan.classes, dtype=torch.float32, pin_memory=device.type == "cuda"
            )
            # A blocking event lets the waiting thread sleep instead of burning a core.
            self._done = torch.cuda.Event(blocking=True) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
            self._step_s = time_steps(self, timing_runs)
            time_together(self, self._times, self._step_s)
        except RuntimeError as error:
            raise device_error(device, error) from error
        for lane in self._lanes:
            lane.start(None)

    @property
    def plan(self) -> Plan:
        """The steps that it runs."""
        return self._plan

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._device

    @property
    def description(self) -> str:
        """See :attr:`LaneEngine.description <stream_ann.lanes.LaneEngine.description>`."""
        return torch_description(self._device, self._dtype, self._threads)

    @property
    def step_s(self) -> Sequence[float]:
        """Median time of each step at opening, in seconds, with its share of the preprocessing."""
        return self._step_s

    @property
    def lanes(self) -> int:
        """How many frames may be in the works at once."""
        return len(self._lanes)

    def start(self, image: NDArray[np.uint8], *, lane: int = 0) -> None:
        """Take a new picture, uint8 [H, W, 3] RGB, into a lane, and forget the one before.

        The picture must not change until the lane's next call of this.
        """
        # Copied on the way to a GPU, since torch warns of sharing memory with a read-only array.
        on_cpu = self._device.type == "cpu"
        self._lanes[lane].start(image if on_cpu else torch.from_numpy(image.copy()).to(self._device))

    def run(self, step: int, *, lane: int = 0) -> NDArray[np.float32]:
        """Run one step and wait for its answer.

        Args:
            step: The first step of a member, or the step after the one that ran last in the lane.
            lane: The lane.

        Returns:
            The exit's probabilities, float32 [classes].

        Raises:
            ValueError: If the step cannot be run now.
            DeviceError: If the device fails.
        """
        probabilities: NDArray[np.float32] = self._run(step, (lane,))[0]
        return probabilities

    def submit(self, step: int, *, lane: int = 0) -> None:
        """Run one step right here, and keep its answer for :meth:`collect`."""
        begun_s = time.perf_counter()
        probabilities = self.run(step, lane=lane)
        self._lanes[lane].answers.append(Answer(probabilities, time.perf_counter() - begun_s))

    def collect(self, lane: int = 0, *, timeout_s: float | None = None) -> Answer | None:
        """The answer of the lane's oldest submitted step; it is there at once.

        Raises:
            ValueError: If there is none.
        """
        answers = self._lanes[lane].answers
        if not answers:
            raise ValueError(f"no submitted step of lane {lane} is left to collect")
        return answers.popleft()

    def run_together(self, step: int, lanes: Sequence[int]) -> NDArray[np.float32]:
        """Run one step of several lanes as one batch.

        Args:
            step: The step, which must be possible in each lane.
            lanes: Different lanes.

        Returns:
            The exit's probabilities for each, float32 [len(lanes), classes].

        Raises:
            ValueError: If the step cannot be run now in one of them, or a lane occurs twice.
            DeviceError: If the device fails.
        """
        if not lanes or len(set(lanes)) != len(lanes):
            raise ValueError(f"lanes must be different ones, and at least one, got {list(lanes)}")
        begun_s = time.perf_counter()
        probabilities = self._run(step, lanes)
        self._times.add(step, len(lanes), time.perf_counter() - begun_s)
        return probabilities

    def together_s(self, step: int, count: int) -> float | None:
        """Seconds that :meth:`run_together` takes for ``count`` lanes: measured at opening and whenever it runs."""
        return self._times.estimate_s(step, count)

    def close(self) -> None:
        """Let go of the device's memory. The engine cannot be used afterwards; may be called more than once."""
        self._steps = ()
        for lane in self._lanes:
            lane.start(None)

    def _run(self, step: int, lanes: Sequence[int]) -> NDArray[np.float32]:
        info = self._plan.steps[step]
        ours = [self._lanes[lane] for lane in lanes]
        for lane in ours:
            if not info.first and lane.last_step != step - 1:
                raise ValueError(
                    f"step {step} needs the state of step {step - 1}, the last one run was {lane.last_step}"
                )
        try:
            with torch.inference_mode():
                # Only a member's first step looks at the images.
                images, state = torch.empty(0), tuple(map(_joined, zip(*(lane.state for lane in ours), strict=True)))
                if info.first:
                    images, state = _joined([self._input(lane, info.resolution_px) for lane in ours]), ()
                after, logits = self._steps[step](images, state)
                probabilities = torch.softmax(logits.float() / self._temperatures[step], dim=1)
                for row, lane in enumerate(ours):
                    lane.state = tuple(tensor[row : row + 1] for tensor in after)
                    lane.last_step = step
                return self._to_host(step, probabilities)
        except RuntimeError as error:
            raise device_error(self._device, error) from error

    def _input(self, lane: _Lane, resolution_px: int) -> Tensor:
        """The picture as the input of a resolution, made once per picture: members may share one."""
        if resolution_px not in lane.inputs:
            if lane.picture is None:
                raise ValueError("no picture yet: call start() first")
            lane.inputs[resolution_px] = preprocess(lane.picture, resolution_px, self._preprocessing, dtype=self._dtype)
        return lane.inputs[resolution_px]

    def _to_host(self, step: int, probabilities: Tensor) -> NDArray[np.float32]:
        if self._done is None:
            return probabilities.numpy()
        rows = self._answers[step, : len(probabilities)]
        rows.copy_(probabilities, non_blocking=True)
        self._done.record()
        self._done.synchronize()
        return rows.numpy().copy()  # the rows are written again for the next frame


def inference_steps(net: AnytimeNet, device: torch.device, dtype: torch.dtype) -> tuple[Step, ...]:
    """The steps of a copy of ``net``, made ready for nothing but inference."""
    folded = fold_batch_norms(copy.deepcopy(net).eval().float().requires_grad_(False))
    return folded.to(device, dtype).to(memory_format=torch.channels_last).steps


def torch_description(device: torch.device, dtype: torch.dtype, threads: int) -> str:
    """How torch runs there, fit to be shown: ``"torch on cpu, float32, 1 thread"``."""
    words = ["torch on " + str(device), str(dtype).removeprefix("torch.")]
    if device.type == "cpu":
        words.append(f"{threads} thread{'s' if threads > 1 else ''}")
    return ", ".join(words)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one frame each as one batch; a single one as it is."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
