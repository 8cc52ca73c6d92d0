"""What the CUDA benchmark measures: an engine with pictures to run, and the whole plan as one graph."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from stream_ann.engines.cuda_device import Device
from stream_ann.engines.cuda_engine import CudaEngine
from stream_ann.engines.cuda_intake import Intake, Launcher, Uploads
from stream_ann.engines.cuda_precision import placed
from stream_ann.nets.contract import AnytimeNet, State
from stream_ann.preprocess import Preprocessing, centre_square

__all__ = ["Bench", "Opening", "Settings", "Whole"]


@dataclass(frozen=True)
class Settings:
    """How much is measured."""

    frames: int = 400
    """Frames of each comparison."""
    seconds: float = 5.0
    """Duration of each part that runs at a frame rate."""
    streams: tuple[int, ...] = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
    height_px: int = 720
    width_px: int = 1280
    seed: int = 0


Opening = Callable[[], Device]
"""Makes the device that an engine is opened on, a new one for each."""


class Bench:
    """An engine, and what else the parts need."""

    def __init__(
        self,
        net: AnytimeNet,
        preprocessing: Preprocessing,
        device: torch.device,
        settings: Settings,
        opening: Opening,
        *,
        lanes: int,
    ) -> None:
        self.net, self.preprocessing, self.device = net, preprocessing, device
        self.settings, self.opening = settings, opening
        self.layer = opening()
        begun_s = time.perf_counter()
        self.engine = CudaEngine(net, preprocessing, device=device, layer=self.layer, lanes=lanes)
        self.opening_s = time.perf_counter() - begun_s
        random = np.random.default_rng(settings.seed)
        shape = (8, settings.height_px, settings.width_px, 3)
        self._pictures: NDArray[np.uint8] = random.integers(0, 256, shape, dtype=np.uint8)
        self._number = 0
        for _ in range(8):  # until this size of picture has its graphs in every set of buffers
            for lane in range(lanes):
                self.refine(lane)

    def picture(self) -> NDArray[np.uint8]:
        """The next one of a few random pictures."""
        self._number += 1
        picture: NDArray[np.uint8] = self._pictures[self._number % len(self._pictures)]
        return picture

    def refine(self, lane: int = 0, *, depth: int = 1) -> None:
        """A frame to the end, with ``depth`` steps in the queue."""
        self.engine.start(self.picture(), lane=lane)
        steps = len(self.engine.plan)
        for step in range(steps):
            self.engine.submit(step, lane=lane)
            if step >= depth - 1:
                self.engine.collect(lane)
        for _ in range(min(depth - 1, steps)):
            self.engine.collect(lane)


class Whole:
    """The whole plan as one graph, with the engine's own way to the device and its own preprocessing."""

    def __init__(self, bench: Bench) -> None:
        plan, preprocessing = bench.engine.plan, bench.preprocessing
        self._crop = preprocessing.crop
        self._layer = layer = bench.opening()
        self._net = net = placed(bench.net, bench.engine.dtype, layer)  # the graph reads its weights
        stream = layer.stream("whole", urgent=True)
        launcher = Launcher()
        resolutions = sorted({step.resolution_px for step in plan.steps})
        inputs = {px: stream.empty((1, 3, px, px), bench.engine.dtype) for px in resolutions}
        pool = stream.pool()
        intake = Intake(layer, stream, pool, Uploads(layer, "whole"), inputs, preprocessing, launcher)
        rows = [layer.host_buffer(plan.classes, torch.float32) for _ in plan.steps]
        done = layer.event("done")
        kept: list[State] = []

        def work() -> None:
            kept.clear()
            with torch.inference_mode():
                for info, step, row in zip(plan.steps, net.steps, rows, strict=True):
                    state, logits = step(inputs[info.resolution_px], () if info.first else kept[-1])
                    kept.append(state)
                    row.tensor.copy_(torch.softmax(logits[0].float(), dim=0), non_blocking=True)

        benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        for _ in range(3):
            stream.run(work)
        torch.backends.cudnn.benchmark = benchmark
        stream.record(done)
        done.wait()
        launch = launcher.launch(stream, work, pool)
        self.failure = launcher.failure

        def run(image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
            top, left, side = centre_square(image.shape[0], image.shape[1], self._crop)
            intake.start(image[top : top + side, left : left + side])
            intake.arrive()
            for resolution_px in resolutions:
                intake.make(resolution_px)
            launch()
            stream.record(done)
            done.wait()
            return [row.read() for row in rows]

        self.run = run

    def close(self) -> None:
        self._layer.drain()
        del self.run
        self._layer.close()
