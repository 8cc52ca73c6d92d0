"""A camera in a process of its own with which everything goes wrong in turn, again and again. For soaks."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.camera import AccessUnit, Faults, RtspCamera, encode
from stream_ann.ingest import source_from

__all__ = ["TROUBLES", "FaultyCamera", "Trouble"]

SIZES_PX = ((640, 360), (480, 270))
"""The camera's size, and the one that it changes to."""
EVERY = 2
"""One picture of so many of the clip is sent: its scenes change twice as fast."""
GOP = 25
STARTS_WITHIN_S = 300.0
"""Its imports and pictures take seconds, and minutes on a machine that is busy with other things."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with the camera for a while."""

    name: str
    lasts_s: float
    faults: Callable[[random.Random], Faults] | None
    """None where nothing listens at all."""
    resizes: bool = False
    """Whether the size of the picture changes in the middle of a connection."""


def _garbling(chance: random.Random) -> Faults:
    def garble(packet: bytes) -> bytes:
        if chance.random() >= 0.03 or len(packet) < 32:
            return packet
        begin = chance.randrange(12, len(packet) - 16)  # behind the RTP header
        return packet[:begin] + chance.randbytes(16) + packet[begin + 16 :]

    return Faults(garble=garble)


def _odd_times(chance: random.Random) -> Faults:
    jumps = [chance.uniform(-2.0, 4.0) for _ in range(8)]
    return Faults(timestamp=lambda number: max(0.0, number / 25 + jumps[number // 20 % len(jumps)]))


TROUBLES = (
    Trouble("steady", 8.0, lambda _: Faults()),
    Trouble("lost packets", 6.0, lambda chance: Faults(drop=lambda *_: chance.random() < 0.02)),
    Trouble("stalls", 6.0, lambda _: Faults(stall_after=40)),
    Trouble("resets", 6.0, lambda _: Faults(reset_after=25)),
    Trouble("garbage", 6.0, _garbling),
    Trouble("switched off", 1.5, None),
    Trouble("another size", 6.0, lambda _: Faults(), resizes=True),
    Trouble("closed connections", 6.0, lambda _: Faults(close_after=25)),
    Trouble("errors of its own", 2.0, lambda _: Faults(status="503 Service Unavailable")),
    Trouble("odd times", 5.0, _odd_times),
    Trouble("silence", 3.0, lambda _: Faults(silent=True)),
)
"""In this order, each once in 56 seconds; between two of them the camera starts anew."""


class FaultyCamera:
    """The camera, while its context lasts.

    Args:
        fps: Frames a second.
        seed: Where chance begins.
        only: Names of the troubles; by default all.
        scale: Their times are multiplied by this.
    """

    def __init__(self, *, fps: float = 25, seed: int = 0, only: tuple[str, ...] = (), scale: float = 1.0) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, its = context.Pipe()
        self._counts: Any = context.Array("q", len(TROUBLES), lock=False)
        self._process = context.Process(target=_serve, args=(fps, seed, only, scale, self._counts, its), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        if not self._ours.poll(STARTS_WITHIN_S):
            self._process.kill()
            raise RuntimeError("the camera does not start")
        self.url = f"rtsp://127.0.0.1:{self._ours.recv()}/live"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join(10)

    @property
    def times(self) -> dict[str, int]:
        """How often each trouble has begun so far."""
        return {trouble.name: int(n) for trouble, n in zip(TROUBLES, self._counts, strict=True) if n}


def _serve(fps: float, seed: int, only: tuple[str, ...], scale: float, counts: Any, to_parent: Connection) -> None:
    chance = random.Random(seed)  # noqa: S311 - nothing is kept secret with it
    pictures = _pictures()
    usual = _coded(pictures, SIZES_PX[0], fps)
    other = _coded(pictures, SIZES_PX[1], fps)
    third = len(usual) // GOP // 3 * GOP  # whole groups
    mixed = usual[:third] + other[third : 2 * third] + usual[2 * third :]
    port = 0
    while True:
        for i, trouble in enumerate(TROUBLES):
            if only and trouble.name not in only:
                continue
            begin = chance.randrange(len(usual) // GOP) * GOP
            faults = Faults() if trouble.faults is None else trouble.faults(chance)
            units = mixed if trouble.resizes else usual
            camera = RtspCamera(units, fps=fps, port=port, first_unit=begin, faults=faults)
            if not port:
                port = camera.port
                to_parent.send(port)
            counts[i] += 1
            if trouble.faults is not None:
                camera.__enter__()
                time.sleep(trouble.lasts_s * scale)
            camera.stop()
            if trouble.faults is None:
                time.sleep(trouble.lasts_s * scale)


def _pictures() -> list[NDArray[np.uint8]]:
    """Some of the demo clip's: its scenes are of different things, so that labels change."""
    source = source_from("demo")
    source.open()
    found: list[NDArray[np.uint8]] = []
    number = 0
    while (picture := source.read()) is not None:
        if number % EVERY == 0:
            found.append(picture.image)
        number += 1
    source.close()
    return found


def _coded(pictures: list[NDArray[np.uint8]], size_px: tuple[int, int], fps: float) -> list[AccessUnit]:
    scaled = (np.ascontiguousarray(cv2.resize(p, size_px, interpolation=cv2.INTER_AREA), np.uint8) for p in pictures)
    return encode(scaled, fps=round(fps), gop=GOP)
