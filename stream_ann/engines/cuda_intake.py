"""From a picture in the host's memory to the static inputs of the graphs, on the CUDA engine's device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_ann.engines.cuda_device import Device, Event, HostBuffer, Pool, Stream, Work
from stream_ann.preprocess import Preprocessing, preprocess

__all__ = ["Intake", "Launcher", "Uploads"]

RING = 3
"""Pinned buffers that pictures travel through: one is filled while others are on their way."""

MOST_SIZES = 4
"""So many sizes of picture have a buffer and graphs of their own; others are prepared kernel by kernel.

Graphs are never thrown away one by one, see :mod:`stream_ann.engines.cuda_device`.
"""


class Launcher:
    """Makes launches of work: graphs, or the work itself as soon as a capture failed.

    Args:
        graphs: Whether to capture at all. False from the first failure on.
    """

    def __init__(self, *, graphs: bool = True) -> None:
        self.graphs = graphs
        self.failure: str | None = None

    def launch(self, stream: Stream, work: Work, pool: Pool) -> Work:
        """What enqueues ``work`` on ``stream``; a graph of it is captured with ``pool``.

        Raises:
            torch.OutOfMemoryError: If there is no memory for the graph. Other failures are kept in ``failure``.
        """
        if self.graphs:
            try:
                return stream.capture(work, pool)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self.graphs = False
                self.failure = str(error).strip().split("\n")[0]
        return lambda: stream.run(work)


@dataclass
class _Slot:
    buffer: HostBuffer
    capacity: int
    copied: Event
    """Past once the device has read the buffer."""


class Uploads:
    """The way to the device: a ring of pinned buffers and a stream that copies.

    A copy waits until the buffer that it goes to has been read, and holds up those behind it meanwhile. So each stream
    of steps has a way of its own.

    Args:
        device: The device.
        name: What the stream is called.
        urgent: Its priority.
        ring: Number of buffers.
    """

    def __init__(self, device: Device, name: str, *, urgent: bool = True, ring: int = RING) -> None:
        self._device = device
        self._slots = [_Slot(device.host_buffer(1, torch.uint8), 1, device.event("copied")) for _ in range(ring)]
        self._turn = 0
        self.stream = device.stream(f"copies {name}", urgent=urgent)

    def send(self, square: NDArray[np.uint8], to: Tensor, *, after: Event, done: Event) -> None:
        """Enqueue the copy of a picture.

        Args:
            square: uint8 [S, S, 3], of any strides. It may change as soon as this returns.
            to: Where to on the device, uint8 [S * S * 3].
            after: Must be past before ``to`` is overwritten.
            done: Recorded behind the copy.
        """
        slot = self._slots[self._turn]
        self._turn = (self._turn + 1) % len(self._slots)
        slot.copied.wait()  # long past, unless more pictures come at once than there are buffers
        if slot.capacity < square.size:
            slot.buffer, slot.capacity = self._device.host_buffer(square.size, torch.uint8), square.size
        slot.buffer.write(square)
        pinned = slot.buffer.tensor[: square.size]
        self.stream.wait(after)
        self.stream.run(lambda: _copy(to, pinned))
        self.stream.record(slot.copied)
        self.stream.record(done)


@dataclass
class _Place:
    """A picture's buffer on the device, and what makes the inputs of it."""

    picture: Tensor
    """uint8 [1, S, S, 3]."""
    launches: dict[int, Work | None] = field(default_factory=dict)
    """By resolution: what fills its input; None once the work was run for the first time, kernel by kernel."""


class Intake:
    """The picture of one frame on the device, and the inputs that are made of it: once for each resolution.

    Pictures may change their size at any time. A size that comes twice in a row gets a buffer of its own, and a graph
    for each resolution as soon as that has been made once.

    Args:
        device: The device.
        stream: Where the inputs are made.
        pool: Memory of the graphs that make them.
        uploads: The way to the device.
        inputs: By resolution R, what is filled: [1, 3, R, R].
        preprocessing: What the network expects.
        launcher: Makes launches.
    """

    def __init__(
        self,
        device: Device,
        stream: Stream,
        pool: Pool,
        uploads: Uploads,
        inputs: Mapping[int, Tensor],
        preprocessing: Preprocessing,
        launcher: Launcher,
    ) -> None:
        self._stream, self._pool, self._uploads, self._inputs = stream, pool, uploads, inputs
        self._launcher = launcher
        self._preprocessing = dataclasses.replace(preprocessing, crop=1.0)  # what comes in is cut already
        self._sent = device.event("sent")
        self._read = device.event("read")
        self._places: dict[int, _Place] = {}
        self._loose = uploads.stream.empty((1,), torch.uint8)
        self._current: _Place | None = None
        self._last_side: int | None = None
        self._arrived = False
        self._made: set[int] = set()

    def start(self, square: NDArray[np.uint8]) -> None:
        """Send a picture, uint8 [S, S, 3], to the device."""
        self._current = place = self._place(square.shape[0])
        self._arrived = False
        self._made.clear()
        self._uploads.send(square, place.picture.view(-1), after=self._read, done=self._sent)

    def arrive(self) -> None:
        """Hold the stream back until the picture is on the device."""
        if not self._arrived:
            self._stream.wait(self._sent)
            self._arrived = True

    def make(self, resolution_px: int) -> None:
        """Enqueue the making of a resolution's input, unless that was done for this picture."""
        if resolution_px in self._made:
            return
        place = self._current
        assert place is not None, "no picture yet"
        if resolution_px in place.launches:
            launch = place.launches[resolution_px]
            if launch is None:
                launch = place.launches[resolution_px] = self._launcher.launch(
                    self._stream, self._work(place.picture, resolution_px), self._pool
                )
            launch()
        else:
            self._stream.run(self._work(place.picture, resolution_px))
            if place.picture.shape[1] in self._places:
                place.launches[resolution_px] = None
        self._stream.record(self._read)
        self._made.add(resolution_px)

    def _place(self, side_px: int) -> _Place:
        again, self._last_side = side_px == self._last_side, side_px
        if side_px in self._places:
            return self._places[side_px]
        size = side_px * side_px * 3
        if again and len(self._places) < MOST_SIZES and self._launcher.graphs:
            picture = self._uploads.stream.empty((size,), torch.uint8).view(1, side_px, side_px, 3)
            self._places[side_px] = _Place(picture)
            return self._places[side_px]
        if self._loose.numel() < size:
            self._read.wait()  # the allocator hands the old buffer out again as soon as it is let go of
            self._loose = self._uploads.stream.empty((size,), torch.uint8)
        return _Place(self._loose[:size].view(1, side_px, side_px, 3))

    def _work(self, picture: Tensor, resolution_px: int) -> Work:
        to, preprocessing = self._inputs[resolution_px], self._preprocessing

        def work() -> None:
            with torch.inference_mode():
                to.copy_(preprocess(picture, resolution_px, preprocessing, dtype=to.dtype))

        return work


def _copy(to: Tensor, pinned: Tensor) -> None:
    with torch.inference_mode():
        to.copy_(pinned, non_blocking=True)
