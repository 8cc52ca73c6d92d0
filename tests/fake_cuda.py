"""A stand-in for a CUDA device that does the same work on the CPU, in any order that the events allow.

It is meant to be worse than a GPU:

- Each stream is a queue. What runs next is drawn from all queues whose head may run, so streams overtake each other
  wherever no event forbids it; nothing runs before its queue is served, however long ago it was enqueued.
- Memory is not zero at first, and a graph's scratch memory does not outlive a replay: a graph that reads what nobody
  keeps is an error.
- A replay destroys what graphs that were captured later with the same pool have left behind: the allocator may have
  put it where the replayed one has its scratch memory.
- Every access to a buffer is checked against the accesses before it by vector clocks (as in ThreadSanitizer): two of
  them, one a write, that no chain of events puts in an order are a :class:`Race`, even if they happened to come in the
  right order this time.
"""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from stream_ann.engines.cuda_device import Event, HostBuffer, Pool, Stream, Work

Clock = dict[str, int]
HOST = "the host"
OP_S = 1e-4
"""Device time of one piece of work."""
NOT_IN_A_GRAPH = {"aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::equal", "aten::is_nonzero"}
"""Operations that wait for the device, which a capture does not allow."""


class Race(AssertionError):
    """Something that is wrong on a real device at least some of the time."""


class Deadlock(AssertionError):
    """Somebody waits for what will never come."""


@dataclass
class _Record:
    """An event as it was recorded once."""

    clock: Clock
    at_s: float | None = None

    @property
    def past(self) -> bool:
        return self.at_s is not None


@dataclass
class _Buffer:
    """What is known of the accesses to a piece of memory."""

    name: str
    written: tuple[str, int] | None = None
    read: Clock = field(default_factory=dict)


class FakeEvent:
    def __init__(self, device: FakeDevice, name: str) -> None:
        self.device, self.name = device, name
        self.latest: _Record | None = None

    def wait(self, timeout_s: float | None = None) -> bool:
        record = self.latest
        if record is None or self.name in self.device.ignored:
            return True
        if timeout_s is not None:
            self.device.run_some(3)
            if not record.past:
                return False
        self.device.run_until(record)
        _join(self.device.clock, record.clock)
        return True

    def seconds_since(self, begun: Event) -> float:
        assert isinstance(begun, FakeEvent)
        ends = self.latest, begun.latest
        if not all(record is not None and record.past for record in ends):
            raise Race(f"the time from {begun.name} to {self.name} is asked for before both are past")
        return ends[0].at_s - ends[1].at_s  # type: ignore[union-attr, operator]


class FakeStream:
    def __init__(self, device: FakeDevice, name: str, *, urgent: bool) -> None:
        self.device, self.name, self.urgent = device, name, urgent
        self.clock: Clock = {}
        self.queue: deque[Callable[[], bool]] = deque()
        """Each does its work, or says False because it cannot yet."""

    def record(self, event: Event) -> None:
        assert isinstance(event, FakeEvent)
        record = event.latest = _Record(dict(self._tick()))

        def run() -> bool:
            record.at_s = self.device.now_s
            return True

        self._enqueue(run)

    def wait(self, event: Event) -> None:
        assert isinstance(event, FakeEvent)
        record = event.latest
        if record is None or event.name in self.device.ignored:
            return
        self._tick()
        _join(self.clock, record.clock)
        self._enqueue(lambda: record.past)

    def run(self, work: Work) -> None:
        clock = dict(self._tick())

        def run() -> bool:
            with _Watch(self.device, self.name, clock):
                work()
            return True

        self._enqueue(run)

    def pool(self) -> Pool:
        pool: list[_Graph] = []
        return pool

    def capture(self, work: Work, pool: Pool) -> Work:
        assert isinstance(pool, list)
        graph = _Graph(self.device, self.name, work)
        place = len(pool)
        pool.append(graph)

        def replay() -> None:
            clock = dict(self._tick())

            def run() -> bool:
                for later in pool[place + 1 :]:
                    later.destroy()
                graph.run(clock)
                return True

            self._enqueue(run)

        return replay

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
        tensor = torch.full(tuple(shape), 77 if dtype == torch.uint8 else float("nan"), dtype=dtype)
        tensor = tensor.contiguous(memory_format=layout)
        self.device.watch(tensor, f"{list(shape)} of {self.name}")
        return tensor

    def _tick(self) -> Clock:
        self.device.check_open()
        _join(self.clock, self.device.clock)
        self.clock[self.name] = self.clock.get(self.name, 0) + 1
        return self.clock

    def _enqueue(self, run: Callable[[], bool]) -> None:
        self.queue.append(run)
        self.device.enqueued()


class FakeHostBuffer:
    def __init__(self, device: FakeDevice, count: int, dtype: torch.dtype) -> None:
        self.device = device
        self.tensor = torch.full((count,), 99, dtype=dtype)
        device.watch(self.tensor, f"pinned [{count}]")

    def write(self, values: NDArray[Any]) -> None:
        self._access(write=True)
        np.copyto(self.tensor.numpy()[: values.size].reshape(values.shape), values)

    def read(self) -> NDArray[Any]:
        self._access(write=False)
        return self.tensor.numpy().copy()

    def _access(self, *, write: bool) -> None:
        self.device.clock[HOST] = self.device.clock.get(HOST, 0) + 1
        self.device.access(self.tensor, write=write, actor=HOST, clock=self.device.clock)


class FakeDevice:
    """Stands for :class:`stream_ann.engines.cuda_device.Device`.

    Args:
        seed: Of the order in which queues are served.
        haste: Chance that a queue is served whenever something is enqueued: 0 is a device that is always late, 1 one
            that is nearly always done.
        ignored: Names of events that nobody waits for: breaks a guard on purpose.
        fail_captures: Raise this in place of every capture from the given number on.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        haste: float = 0.5,
        ignored: Sequence[str] = (),
        fail_captures: tuple[int, RuntimeError] | None = None,
    ) -> None:
        self.random = random.Random(seed)
        self.haste = haste
        self.ignored = frozenset(ignored)
        self.fail_captures = fail_captures
        self.captures = 0
        self.streams: list[FakeStream] = []
        self.clock: Clock = {}
        """What the host knows of everyone."""
        self.now_s = 0.0
        self.closed = False
        self._buffers: dict[int, _Buffer] = {}
        self._kept: list[Tensor] = []
        """All buffers ever made, so that no address comes twice."""

    def stream(self, name: str, *, urgent: bool) -> FakeStream:
        stream = FakeStream(self, f"stream {name} ({len(self.streams)})", urgent=urgent)
        self.streams.append(stream)
        return stream

    def event(self, name: str) -> FakeEvent:
        return FakeEvent(self, name)

    def host_buffer(self, count: int, dtype: torch.dtype) -> FakeHostBuffer:
        return FakeHostBuffer(self, count, dtype)

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        return module

    def half_types(self) -> tuple[torch.dtype, ...]:
        return (torch.float16, torch.bfloat16)

    def drain(self) -> None:
        self.run_all()

    def close(self) -> None:
        assert not any(stream.queue for stream in self.streams), "closed in the middle of something"
        self.closed = True

    # --- what follows is for the fakes above, and for tests ---

    def check_open(self) -> None:
        assert not self.closed, "used after close()"

    def enqueued(self) -> None:
        while self.random.random() < self.haste and self.run_some(1):
            pass

    def run_some(self, most: int) -> int:
        """Serve queues, at most so many times; how often it was done."""
        done = 0
        while done < most:
            waiting = [stream for stream in self.streams if stream.queue]
            self.random.shuffle(waiting)
            if not any(self._serve(stream) for stream in waiting):
                break
            done += 1
        return done

    def run_until(self, record: _Record) -> None:
        while not record.past:
            if not self.run_some(1):
                raise Deadlock("what is waited for cannot come")

    def run_all(self) -> None:
        while self.run_some(1):
            pass
        if any(stream.queue for stream in self.streams):
            raise Deadlock("queues are left that cannot go on")

    def _serve(self, stream: FakeStream) -> bool:
        run = stream.queue[0]
        if not run():
            return False
        self.now_s += OP_S
        stream.queue.popleft()
        return True

    def watch(self, tensor: Tensor, name: str) -> None:
        self._kept.append(tensor)
        self._buffers.setdefault(tensor.untyped_storage().data_ptr(), _Buffer(name))

    def access(self, tensor: Tensor, *, write: bool, actor: str, clock: Clock) -> None:
        """Check one access, and remember it."""
        buffer = self._buffers.get(tensor.untyped_storage().data_ptr())
        if buffer is None:
            return
        kind = "writes" if write else "reads"

        def check(other: str, epoch: int, what: str) -> None:
            if other != actor and epoch > clock.get(other, 0):
                raise Race(f"{actor} {kind} {buffer.name}, which {other} {what} at an unordered time")

        if buffer.written is not None:
            check(*buffer.written, "writes")
        if write:
            for other, epoch in buffer.read.items():
                check(other, epoch, "reads")
            buffer.written, buffer.read = (actor, clock[actor]), {}
        else:
            buffer.read[actor] = clock[actor]


class _Watch(TorchDispatchMode):
    """Reports what operations read and write."""

    def __init__(self, device: FakeDevice, actor: str, clock: Clock) -> None:
        super().__init__()
        self._device, self._actor, self._clock = device, actor, clock

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        _report(self._device, self._actor, self._clock, func, args, kwargs, result)
        return result


def _report(device: FakeDevice, actor: str, clock: Clock, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    written = _written(func, args, kwargs)
    made = {t.untyped_storage().data_ptr() for t in tree_flatten(result)[0] if isinstance(t, Tensor)}
    for tensor in tree_flatten((args, kwargs))[0]:
        if not isinstance(tensor, Tensor):
            continue
        if any(tensor is w for w in written):
            device.access(tensor, write=True, actor=actor, clock=clock)
        elif tensor.untyped_storage().data_ptr() not in made:  # else it is only looked at in another way
            device.access(tensor, write=False, actor=actor, clock=clock)


@functools.cache
def _writing(func: Any) -> list[tuple[int, str]]:
    """Place and name of the arguments that an operation writes to."""
    arguments = enumerate(func._schema.arguments)
    return [(place, a.name) for place, a in arguments if a.alias_info is not None and a.alias_info.is_write]


def _written(func: Any, args: Any, kwargs: Any) -> list[Any]:
    """The tensors (or what stands for them) that an operation writes to."""
    values = [args[place] if place < len(args) else kwargs.get(name) for place, name in _writing(func)]
    return [value for value in values if value is not None]


@dataclass
class _Slot:
    """A tensor that a graph refers to, without keeping it."""

    storage: StorageWeakRef
    made: bool
    """Whether the graph itself makes it."""
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def tensor(self) -> Tensor | None:
        storage = torch.UntypedStorage._new_with_weak_ptr(self.storage.cdata)
        if storage is None:
            return None
        return torch.empty(0, dtype=self.dtype).set_(storage, self.offset, self.size, self.stride)


@dataclass(frozen=True)
class _Ref:
    number: int


class _Graph(TorchDispatchMode):
    """Operations that were recorded once and can be run again, in the same memory."""

    def __init__(self, device: FakeDevice, actor: str, work: Work) -> None:
        super().__init__()
        self._device, self._actor = device, actor
        device.captures += 1
        if device.fail_captures is not None and device.captures >= device.fail_captures[0]:
            raise device.fail_captures[1]
        self._slots: list[_Slot] = []
        self._operations: list[tuple[Any, Any, Any, list[_Ref | None]]] = []
        self._static: dict[int, Tensor] = {}
        """By number of its slot: what somebody keeps, and so is the same memory at every run."""
        self._compiled: list[tuple[Any, Any, Any, bool, list[tuple[Tensor, bool]], list[_Ref | None]]] | None = None
        self._numbers: dict[int, int] = {}
        self._inside: dict[int, bool] = {}
        """By address: whether the memory was made by the graph."""
        self._alive: list[Tensor] = []
        with self:
            work()
        self._alive.clear()
        self._numbers.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.name in NOT_IN_A_GRAPH:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func._schema.name}")
        args_of, kwargs_of = tree_map_only(Tensor, self._ref, (args, kwargs))
        written = _written(func, args, kwargs)
        # Nothing is run while it is captured: what is outside of the graph keeps its values.
        outside = [t for t in written if not self._slots[self._ref(t).number].made]
        if outside:
            assert len(written) == 1
            result = outside[0]
        else:
            result = func(*args, **kwargs)
        results = [self._ref(t, made=True) if isinstance(t, Tensor) else None for t in tree_flatten(result)[0]]
        self._operations.append((func, args_of, kwargs_of, results))
        return result

    def _ref(self, tensor: Tensor, made: bool = False) -> _Ref:
        if id(tensor) not in self._numbers:
            # A view lies where its tensor lies. No memory is freed meanwhile, so addresses tell.
            inside = self._inside.setdefault(tensor.untyped_storage().data_ptr(), made)
            self._numbers[id(tensor)] = len(self._slots)
            self._alive.append(tensor)
            self._slots.append(
                _Slot(
                    StorageWeakRef(tensor.untyped_storage()),
                    inside,
                    int(tensor.storage_offset()),
                    tuple(tensor.shape),
                    tensor.stride(),
                    tensor.dtype,
                )
            )
        return _Ref(self._numbers[id(tensor)])

    def run(self, clock: Clock) -> None:
        """Run all operations again."""
        if self._compiled is None:
            self._compiled = self._compile()
        values: dict[int, Tensor] = dict(self._static)
        with torch.inference_mode():
            for func, args_of, kwargs_of, nested, accesses, results in self._compiled:
                for tensor, write in accesses:
                    self._device.access(tensor, write=write, actor=self._actor, clock=clock)
                if nested:
                    args, kwargs = tree_map_only(_Ref, lambda ref: values[ref.number], (args_of, kwargs_of))
                else:
                    args, kwargs = [values[a.number] if type(a) is _Ref else a for a in args_of], kwargs_of
                result = func(*args, **kwargs)
                for ref, tensor in zip(
                    results, (result,) if len(results) == 1 else tree_flatten(result)[0], strict=True
                ):
                    if ref is None:
                        continue
                    kept = self._static.get(ref.number)
                    if kept is None:
                        values[ref.number] = tensor
                    elif not _same_memory(kept, tensor):
                        kept.copy_(tensor)

    def destroy(self) -> None:
        """Overwrite what the last run has left."""
        with torch.inference_mode():
            for slot in self._slots:
                tensor = slot.tensor() if slot.made else None
                if tensor is not None and tensor.is_floating_point():
                    tensor.fill_(float("nan"))

    def _compile(self) -> list[tuple[Any, Any, Any, bool, list[tuple[Tensor, bool]], list[_Ref | None]]]:
        """What is to be done at each run: found out at the first one, when it shows which memory somebody keeps."""
        for number, slot in enumerate(self._slots):
            tensor = slot.tensor()
            if tensor is not None:
                self._static[number] = tensor
                if slot.made:
                    self._device.watch(tensor, f"{list(tensor.shape)} made by a graph of {self._actor}")
            elif not slot.made:
                raise Race(f"a graph of {self._actor} reads {list(slot.size)} that nobody keeps any more")
        compiled = []
        for func, args_of, kwargs_of, results in self._operations:
            refs = [ref for ref in tree_flatten((args_of, kwargs_of))[0] if isinstance(ref, _Ref)]
            written = {ref.number for ref in _written(func, args_of, kwargs_of)}
            made = [ref.number for ref in results if ref is not None]
            accesses: list[tuple[Tensor, bool]] = []
            views = 0
            for ref in refs:
                tensor = self._static.get(ref.number)
                if ref.number in written:
                    accesses += [] if tensor is None else [(tensor, True)]
                elif any(self._slots[ref.number].storage == self._slots[number].storage for number in made):
                    views += 1
                elif tensor is not None:
                    accesses.append((tensor, False))
            if views and not written and all(number in self._static for number in made):
                continue  # another look at static memory
            accesses += [(self._static[n], True) for n in made if n in self._static and n not in written]
            nested = len(refs) != sum(type(a) is _Ref for a in args_of)
            compiled.append((func, args_of, kwargs_of, nested, accesses, results))
        return compiled


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _join(clock: Clock, other: Clock) -> None:
    for actor, epoch in other.items():
        if epoch > clock.get(actor, 0):
            clock[actor] = epoch


_: tuple[type[Event], type[Stream], type[HostBuffer]] = (FakeEvent, FakeStream, FakeHostBuffer)  # type: ignore[type-abstract]
