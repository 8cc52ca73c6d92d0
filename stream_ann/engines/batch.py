"""Labelling many frames at once: a plan run step by step on a batch, which shrinks as frames are done."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_ann.engines.devices import cpu_threads
from stream_ann.engines.opening import checked_temperatures, device_error
from stream_ann.engines.times import BatchTimes
from stream_ann.engines.torch_engine import inference_steps, torch_description
from stream_ann.nets.contract import AnytimeNet, Plan, State
from stream_ann.preprocess import Preprocessing, preprocess

__all__ = ["Batch", "BatchEngine", "TorchBatchEngine"]

WARM_UP_PX = 256
"""Side of the square that the steps are run on at opening."""


@dataclasses.dataclass(slots=True, eq=False)
class Batch:
    """Frames that run together. Made by an engine; only :attr:`count` is of interest to others."""

    squares: Tensor
    """The centre squares of all frames that were taken in together, uint8 [N, S, S, 3]."""
    rows: Tensor | None = None
    """Which of them are still in it, int64 [B], or None for all."""
    last_step: int | None = None
    """The step that ran last."""
    state: State = ()
    """What it left, of every frame that it ran for."""
    state_rows: Tensor | None = None
    """Which of those are still in the batch, int64 [B], or None for all."""

    @property
    def count(self) -> int:
        """How many frames are in it."""
        return len(self.squares) if self.rows is None else len(self.rows)


class BatchEngine(ABC):
    """Runs a plan step by step for many frames at once. Not for use from several threads at once.

    Args:
        plan: The steps.
        preprocessing: How a picture becomes the network's input; frames come with its crop already done.
        device: Where the tensors of a batch are.
        max_batch: Most frames of a batch.
    """

    def __init__(self, plan: Plan, preprocessing: Preprocessing, *, device: torch.device, max_batch: int) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, got {max_batch}")
        self._plan = plan
        self._preprocessing = dataclasses.replace(preprocessing, crop=1.0)
        self._device = device
        self._max_batch = max_batch
        self._times = BatchTimes(len(plan))

    @property
    def plan(self) -> Plan:
        """The steps that it runs."""
        return self._plan

    @property
    def max_batch(self) -> int:
        """Most frames of a batch."""
        return self._max_batch

    @property
    @abstractmethod
    def description(self) -> str:
        """The engine, its device and how it runs there, fit to be shown."""

    def open(self, squares: NDArray[np.uint8]) -> Batch:
        """Take in frames.

        Args:
            squares: The centre square of each (:func:`stream_ann.preprocess.centre_square`), uint8 [B, S, S, 3]; each
                member's input is resized from them. They must not change while the batch is in use.

        Returns:
            The batch that :meth:`run` and :meth:`keep` take.

        Raises:
            ValueError: If they are of another type or shape, or none, or more than ``max_batch``.
        """
        if squares.dtype != np.uint8 or squares.ndim != 4 or squares.shape[3] != 3 or 0 in squares.shape:
            raise ValueError(f"squares must be uint8 [B, S, S, 3], got {squares.dtype} {list(squares.shape)}")
        if squares.shape[1] != squares.shape[2]:
            raise ValueError(f"squares must be square, got {list(squares.shape)}")
        if len(squares) > self._max_batch:
            raise ValueError(f"a batch of {len(squares)} frames, at most {self._max_batch} can run together")
        if not squares.flags.writeable:  # torch warns of sharing memory with a read-only array
            squares = squares.copy()
        return Batch(torch.from_numpy(np.ascontiguousarray(squares)).to(self._device))

    def run(self, step: int, batch: Batch) -> NDArray[np.float32]:
        """Run one step.

        Args:
            step: The first step of a member, or the step after the one that ran last.
            batch: The frames, whose state is replaced.

        Returns:
            The exit's probabilities of each frame, float32 [B, classes]. The caller owns the array.

        Raises:
            ValueError: If the step cannot be run now.
            DeviceError: If the device fails.
        """
        info = self._plan.steps[step]
        if not info.first and batch.last_step != step - 1:
            raise ValueError(f"step {step} needs the state of step {step - 1}, the last one run was {batch.last_step}")
        begun_s = time.perf_counter()
        try:
            with torch.inference_mode():
                if info.first:
                    probabilities, state = self._first(step, _only(batch.squares, batch.rows))
                else:
                    kept = tuple(_only(tensor, batch.state_rows) for tensor in batch.state)
                    probabilities, state = self._next(step, kept)
        except RuntimeError as error:
            raise device_error(self._device, error) from error
        batch.last_step, batch.state, batch.state_rows = step, state, None
        self._times.add(step, batch.count, time.perf_counter() - begun_s)
        return probabilities

    def keep(self, batch: Batch, rows: NDArray[np.intp]) -> Batch:
        """The batch with these frames only; the others are done.

        Nothing is copied here: the next step gathers what it needs.

        Args:
            batch: The frames.
            rows: Numbers of those that go on, rising, as rows of what :meth:`run` gave.

        Raises:
            ValueError: If there are none, or they are not rising.
        """
        if len(rows) == 0:
            raise ValueError("a batch needs at least one frame: let go of it instead")
        if (np.diff(rows) <= 0).any() or rows[0] < 0 or rows[-1] >= batch.count:
            raise ValueError(f"rows must be rising and from 0 to {batch.count - 1}, got {rows.tolist()}")
        if len(rows) == batch.count:
            return batch
        index = torch.from_numpy(np.asarray(rows, dtype=np.int64)).to(self._device)
        return dataclasses.replace(
            batch,
            rows=index if batch.rows is None else batch.rows[index],
            state_rows=index if batch.state_rows is None else batch.state_rows[index],
        )

    def step_s(self, step: int, count: int) -> float:
        """Running estimate of how long a step takes for ``count`` frames, preprocessing included, in seconds."""
        seconds = self._times.estimate_s(step, count)
        assert seconds is not None  # each step ran at opening
        return seconds

    @abstractmethod
    def close(self) -> None:
        """Let go of the device's memory. The engine cannot be used afterwards; may be called more than once."""

    @abstractmethod
    def _first(self, step: int, squares: Tensor) -> tuple[NDArray[np.float32], State]:
        """Run a member's first step on ``squares`` uint8 [B, S, S, 3]; its probabilities and what it leaves."""

    @abstractmethod
    def _next(self, step: int, state: State) -> tuple[NDArray[np.float32], State]:
        """Run a step on what the one before left; its probabilities and what it leaves."""

    def _warm_up(self) -> None:
        """Run and time every step on one frame, so that there is an estimate of each from the start."""
        noise = np.random.default_rng(0).integers(0, 256, (1, WARM_UP_PX, WARM_UP_PX, 3), dtype=np.uint8)
        for _ in range(2):
            self._times.forget()
            batch = self.open(noise)
            for step in range(len(self._plan)):
                self.run(step, batch)


class TorchBatchEngine(BatchEngine):
    """Eager PyTorch: batch norm folded, channels last, no gradients. On the CPU it sets torch's number of threads.

    Args:
        net: The network whose plan is run. It is copied, not changed.
        preprocessing: How a picture becomes the network's input.
        device: Where it runs.
        dtype: Type of weights and features; the probabilities are float32 in any case.
        temperatures: What the logits of each exit are divided by; 1 for each by default.
        threads: Torch threads on the CPU; by default one core is left to the decoder.
        max_batch: Most frames of a batch.

    Raises:
        DeviceError: If the device fails, e.g. for want of memory.
    """

    def __init__(
        self,
        net: AnytimeNet,
        preprocessing: Preprocessing,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        temperatures: Sequence[float] | None = None,
        threads: int | None = None,
        max_batch: int = 32,
    ) -> None:
        super().__init__(net.plan(), preprocessing, device=device, max_batch=max_batch)
        self._dtype = dtype
        self._temperatures = checked_temperatures(temperatures, len(self._plan))
        self._threads = cpu_threads(threads)
        if device.type == "cpu":
            torch.set_num_threads(self._threads)
        try:
            self._steps = inference_steps(net, device, dtype)
        except RuntimeError as error:
            raise device_error(device, error) from error
        self._warm_up()

    @property
    def description(self) -> str:
        """See :attr:`BatchEngine.description`."""
        return torch_description(self._device, self._dtype, self._threads)

    def close(self) -> None:
        """See :meth:`BatchEngine.close`."""
        self._steps = ()

    def _first(self, step: int, squares: Tensor) -> tuple[NDArray[np.float32], State]:
        px = self._plan.steps[step].resolution_px
        return self._run(step, preprocess(squares, px, self._preprocessing, dtype=self._dtype), ())

    def _next(self, step: int, state: State) -> tuple[NDArray[np.float32], State]:
        return self._run(step, torch.empty(0), state)  # only a member's first step looks at the images

    def _run(self, step: int, images: Tensor, state: State) -> tuple[NDArray[np.float32], State]:
        after, logits = self._steps[step](images, state)
        probabilities = torch.softmax(logits.float() / self._temperatures[step], dim=1)
        return probabilities.cpu().numpy(), after


def _only(tensor: Tensor, rows: Tensor | None) -> Tensor:
    """Rows of a tensor [N, ...], laid out in memory as it is; without a copy where they are all of it."""
    if rows is None:
        return tensor
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1)[rows].permute(0, 3, 1, 2)
    return tensor[rows]
