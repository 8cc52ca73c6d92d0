"""The few things that the CUDA engine wants of a device: streams, events, graphs and pinned memory.

The engine speaks to these protocols alone. :class:`CudaDevice` is the real thing; the tests have another one, which
runs the same work on the CPU in any order that the events allow, and reports what the events should have forbidden.

What is peculiar about the real one:

- A graph is captured on the very stream that it is replayed on, with a memory pool of that stream. PyTorch
  instantiates graphs so that a kernel keeps the priority of the stream that it was captured on. Graphs of one pool
  share scratch memory, and graphs captured on one stream may share a cuBLAS workspace: neither may run at the same
  time, and on one stream they cannot.
- What a graph leaves behind may lie where a graph that was captured earlier, with the same pool, has its scratch
  memory: the allocator knows of captures, not of replays. Replaying the earlier one destroys it. So graphs whose
  results must last while those of others run have a pool of their own (:data:`Pool`).
- The graphs of a stream are destroyed together. Destroying one of them can take that workspace away from the others
  (pytorch#193402).
- A capture holds up garbage collection, which might free device memory in its midst, and a lock: there may be one
  capture at a time in a process. Its error mode is ``thread_local``, so that other threads may use CUDA meanwhile.
- Waiting never spins: events are made with ``blocking=True``.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["CudaDevice", "Device", "Event", "HostBuffer", "Pool", "Stream", "Work"]

Work = Callable[[], None]
"""Something that enqueues operations on a stream when it is called."""

POLL_S = 1e-4
"""Pause between two looks at an event that is waited for with a time limit, in seconds; a look takes locks."""

_capturing = threading.Lock()


Pool = Any
"""Memory of the graphs that are captured with it. Replaying one of them destroys what later captured ones have left."""


class Event(Protocol):
    """A point in a stream. Whoever waits for it waits for its latest record; one never recorded holds nobody up."""

    def wait(self, timeout_s: float | None = None) -> bool:
        """Make the calling thread wait, for ``timeout_s`` seconds at most, 0 being not at all. Whether it is past."""
        ...

    def seconds_since(self, begun: Event) -> float:
        """Device time from ``begun`` to this event in seconds; both must be past."""
        ...


class Stream(Protocol):
    """Operations that run one after another, in the order in which they were enqueued."""

    def record(self, event: Event) -> None:
        """Let ``event`` be past once everything enqueued so far is done."""
        ...

    def wait(self, event: Event) -> None:
        """Hold back whatever is enqueued from here on until ``event`` is past. The caller does not wait."""
        ...

    def run(self, work: Work) -> None:
        """Enqueue the operations of ``work``."""
        ...

    def pool(self) -> Pool:
        """A new pool for graphs of this stream."""
        ...

    def capture(self, work: Work, pool: Pool) -> Work:
        """Make a graph of the operations of ``work``, which are not run, and return what enqueues it.

        All tensors that ``work`` makes live in the pool; those that nobody refers to are scratch memory.

        Raises:
            RuntimeError: If something in ``work`` cannot be captured.
        """
        ...

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Uninitialised memory of the device, to be used on this stream first; [B, C, H, W] is channels-last."""
        ...


class HostBuffer(Protocol):
    """Pinned memory of the host, which the device reads and writes by itself."""

    @property
    def tensor(self) -> Tensor:
        """The memory, to be used on a stream only."""
        ...

    def write(self, values: NDArray[Any]) -> None:
        """Copy ``values`` to the beginning of the (flat) buffer, here and now."""
        ...

    def read(self) -> NDArray[Any]:
        """A copy of the buffer as it is here and now."""
        ...


class Device(Protocol):
    """Where streams, events and buffers come from."""

    def stream(self, name: str, *, urgent: bool) -> Stream:
        """A new stream, of the highest or of the lowest priority."""
        ...

    def event(self, name: str) -> Event:
        """A new event."""
        ...

    def host_buffer(self, count: int, dtype: torch.dtype) -> HostBuffer:
        """New pinned memory for ``count`` values; takes milliseconds."""
        ...

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """Move a module to the device in place, and wait until it is there."""
        ...

    def half_types(self) -> tuple[torch.dtype, ...]:
        """The 16-bit types that the device computes in, the most accurate first."""
        ...

    def drain(self) -> None:
        """Wait until everything that was enqueued on any of the streams is done."""
        ...

    def close(self) -> None:
        """Destroy all graphs and give unused memory back. Nothing may be enqueued any more."""
        ...


class CudaEvent:
    """See :class:`Event`."""

    def __init__(self) -> None:
        self.raw = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]

    def wait(self, timeout_s: float | None = None) -> bool:
        """See :meth:`Event.wait`."""
        if timeout_s is None:
            self.raw.synchronize()
            return True
        until_s = time.monotonic() + timeout_s
        while not self.raw.query():  # type: ignore[no-untyped-call]
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(left_s, POLL_S))
        return True

    def seconds_since(self, begun: Event) -> float:
        """See :meth:`Event.seconds_since`."""
        assert isinstance(begun, CudaEvent)
        return float(begun.raw.elapsed_time(self.raw)) / 1e3


class CudaStream:
    """See :class:`Stream`."""

    def __init__(self, device: torch.device, *, urgent: bool) -> None:
        lowest, highest = torch.cuda.Stream.priority_range()  # type: ignore[call-arg]  # it is static
        self._device = device
        self._raw = torch.cuda.Stream(device, priority=highest if urgent else lowest)  # type: ignore[no-untyped-call]
        self._graphs: list[torch.cuda.CUDAGraph] = []

    def record(self, event: Event) -> None:
        """See :meth:`Stream.record`."""
        assert isinstance(event, CudaEvent)
        event.raw.record(self._raw)

    def wait(self, event: Event) -> None:
        """See :meth:`Stream.wait`."""
        assert isinstance(event, CudaEvent)
        event.raw.wait(self._raw)

    def run(self, work: Work) -> None:
        """See :meth:`Stream.run`."""
        with torch.cuda.stream(self._raw):
            work()

    def pool(self) -> Pool:
        """See :meth:`Stream.pool`."""
        return torch.cuda.graph_pool_handle()

    def capture(self, work: Work, pool: Pool) -> Work:
        """See :meth:`Stream.capture`."""
        # torch.cuda.graph() would also synchronise the whole device and hand all cached memory back to it.
        graph = torch.cuda.CUDAGraph()
        with _capturing, _no_collection(), torch.cuda.stream(self._raw):
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                work()
            except BaseException:
                with contextlib.suppress(RuntimeError):  # the capture is invalid by now, and says so once more
                    graph.capture_end()
                raise
            graph.capture_end()
        self._graphs.append(graph)

        def replay() -> None:
            with torch.cuda.stream(self._raw):
                graph.replay()

        return replay

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """See :meth:`Stream.empty`."""
        layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
        with torch.cuda.stream(self._raw):  # the allocator keeps books by stream
            return torch.empty(tuple(shape), dtype=dtype, device=self._device, memory_format=layout)

    def drain(self) -> None:
        """Wait until everything enqueued is done."""
        done = CudaEvent()
        self.record(done)
        done.wait()

    def close(self) -> None:
        """Destroy all graphs."""
        for graph in self._graphs:
            graph.reset()
        self._graphs.clear()


class CudaHostBuffer:
    """See :class:`HostBuffer`."""

    def __init__(self, count: int, dtype: torch.dtype) -> None:
        self._tensor = torch.empty(count, dtype=dtype, pin_memory=True)
        self._array: NDArray[Any] = self._tensor.numpy()

    @property
    def tensor(self) -> Tensor:
        """See :attr:`HostBuffer.tensor`."""
        return self._tensor

    def write(self, values: NDArray[Any]) -> None:
        """See :meth:`HostBuffer.write`."""
        np.copyto(self._array[: values.size].reshape(values.shape), values)

    def read(self) -> NDArray[Any]:
        """See :meth:`HostBuffer.read`."""
        return self._array.copy()


class CudaDevice:
    """See :class:`Device`: one CUDA GPU.

    Args:
        device: The GPU, with its index.
    """

    def __init__(self, device: torch.device) -> None:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        self._device = device
        self._streams: list[CudaStream] = []

    def stream(self, name: str, *, urgent: bool) -> CudaStream:
        """See :meth:`Device.stream`."""
        stream = CudaStream(self._device, urgent=urgent)
        self._streams.append(stream)
        return stream

    def event(self, name: str) -> CudaEvent:
        """See :meth:`Device.event`."""
        return CudaEvent()

    def host_buffer(self, count: int, dtype: torch.dtype) -> CudaHostBuffer:
        """See :meth:`Device.host_buffer`."""
        return CudaHostBuffer(count, dtype)

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """See :meth:`Device.place`. A copy from memory that is not pinned returns when it is done."""
        return module.to(self._device)

    def half_types(self) -> tuple[torch.dtype, ...]:
        """See :meth:`Device.half_types`. float16 is fast from compute capability 7.0 on, bfloat16 from 8.0 on."""
        major, _ = torch.cuda.get_device_capability(self._device)
        return (torch.float16, torch.bfloat16)[: max(0, min(2, major - 6))]

    def drain(self) -> None:
        """See :meth:`Device.drain`."""
        for stream in self._streams:
            stream.drain()

    def close(self) -> None:
        """See :meth:`Device.close`."""
        for stream in self._streams:
            stream.close()
        self._streams.clear()
        torch.cuda.empty_cache()  # a graph's pool goes back to the device only this way


@contextlib.contextmanager
def _no_collection() -> Any:
    """Hold garbage collection up."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
