"""The engines on a CPU against their goals: what cutting costs, and how soon a new frame begins and has its answer.

Measures, for each network, in one run:

- all steps one by one, against uninterrupted runs of the same network with the same threads and precision: OpenVINO on
  the whole network in one model, with every exit's head and with the last one of each member alone, ONNX Runtime, and
  eager torch (frame by frame in turn, so that a drift of the machine's speed touches all), from the picture to the
  probabilities;
- at 30 frames a second: from a new frame's arrival to the start of its first step, and to its first answer, alone and
  beside a thread that decodes the demo clip without a rest, in turn.
"""

from __future__ import annotations

import io
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.steps import WatchedEngine, percentiles_ms
from stream_ann.clock import MonotonicClock
from stream_ann.engines import open_engine
from stream_ann.engines.openvino_runtime import core, openvino
from stream_ann.engines.openvino_steps import images_of, prepared
from stream_ann.ingest import Reader, Slot, source_from
from stream_ann.ingest.source import Picture
from stream_ann.lanes import LaneEngine
from stream_ann.nets import AnytimeNet
from stream_ann.nets.contract import State
from stream_ann.preprocess import Preprocessing, preprocess, resized
from stream_ann.scheduler import Scheduler

__all__ = ["GOALS", "Settings", "goals_met", "measure", "summary"]

GOALS = {
    "stepped_over_best_uninterrupted": 1.05,
    "arrival_to_first_step_p99_over_longest_step": 1.0,
    "first_answer_busy_over_quiet_p50": 1.3,
    "first_answer_busy_over_quiet_p99": 1.3,
}
"""At most so much."""


@dataclass(frozen=True)
class Settings:
    """How much is measured."""

    frames: int = 200
    """Frames of each comparison."""
    seconds: float = 10.0
    """Duration of each part at a frame rate; there are two alone and two beside the decoder."""
    fps: float = 30.0
    threads: int = 1
    compile: bool = False
    """Whether torch's steps are measured compiled as well."""
    height_px: int = 360
    width_px: int = 640
    seed: int = 0


Run = Callable[[NDArray[np.uint8]], list[NDArray[np.float32]]]
"""From a picture to the probabilities of the exits that it computes."""


def measure(net: AnytimeNet, preprocessing: Preprocessing, settings: Settings) -> dict[str, Any]:
    """All figures of one network, as plain JSON values."""
    engines = {
        name: open_engine(net, preprocessing, device="cpu", engine=name, precision="float32", threads=settings.threads)
        for name in ("openvino", "torch")
    }
    if settings.compile:
        engines["torch, compiled"] = open_engine(
            net, preprocessing, device="cpu", engine="torch", threads=settings.threads, compile=True
        )
    try:
        return {
            "steps": [info.name for info in engines["torch"].plan.steps],
            "mmacs": [round(info.macs / 1e6, 1) for info in engines["torch"].plan.steps],
            "stepped": _compared(net, preprocessing, engines, settings),
            "live": {name: _live(engine, settings) for name, engine in engines.items()},
        }
    finally:
        for engine in engines.values():
            engine.close()


def goals_met(results: Any) -> dict[str, tuple[float, bool]]:
    """Each goal's figure for the openvino engine, and whether it is met."""
    live = results["live"]["openvino"]
    figures = {
        "stepped_over_best_uninterrupted": results["stepped"]["openvino"]["over_best_with_all_exits"],
        "arrival_to_first_step_p99_over_longest_step": live["wait_p99_over_longest_step"],
        "first_answer_busy_over_quiet_p50": live["busy_over_quiet_p50"],
        "first_answer_busy_over_quiet_p99": live["busy_over_quiet_p99"],
    }
    return {name: (figure, figure <= GOALS[name]) for name, figure in figures.items()}


def summary(name: str, results: Any) -> str:
    """The figures that matter, as lines to read."""
    stepped = results["stepped"]
    lines = [f"{name}: {len(results['steps'])} steps, {sum(results['mmacs']):.0f} MMACs"]
    for label, part in stepped["uninterrupted"].items():
        lines.append(f"  uninterrupted, {label}: p50 {part['p50_ms']:.2f} ms")
    for engine in results["live"]:
        part = stepped[engine]
        ratios = ", ".join(f"{ratio:.3f} of {label}" for label, ratio in part["over"].items())
        lines.append(f"  {engine} step by step: p50 {part['p50_ms']:.2f} ms; {ratios}")
        live = results["live"][engine]
        for kind in ("quiet", "busy"):
            first, wait = live[kind]["first_answer"], live[kind]["wait_for_first_step"]
            lines.append(
                f"  {engine}, {kind}: first answer p50 {first['p50_ms']:.1f}, p99 {first['p99_ms']:.1f} ms; "
                f"wait for the first step p99 {wait['p99_ms']:.1f} ms"
            )
    for goal, (figure, met) in goals_met(results).items():
        lines.append(f"  {'met   ' if met else 'MISSED'} {goal}: {figure:.3f} (goal: at most {GOALS[goal]})")
    return "\n".join(lines)


def _compared(
    net: AnytimeNet, preprocessing: Preprocessing, engines: dict[str, LaneEngine], settings: Settings
) -> dict[str, Any]:
    uninterrupted = _uninterrupted(net, preprocessing, settings.threads)
    runs: dict[str, Run] = {name: _stepped(engine) for name, engine in engines.items()} | uninterrupted
    random = np.random.default_rng(settings.seed)
    times_s: dict[str, list[float]] = {name: [] for name in runs}
    processor_s: dict[str, list[float]] = {name: [] for name in runs}
    exits = len(engines["torch"].plan)
    names = list(runs)
    for number in range(settings.frames + 3):
        picture = random.integers(0, 256, (settings.height_px, settings.width_px, 3), dtype=np.uint8)
        answers = {}
        for name in names[number % len(names) :] + names[: number % len(names)]:
            begun_s, begun_processor_s = time.perf_counter(), time.process_time()
            answers[name] = runs[name](picture)
            times_s[name].append(time.perf_counter() - begun_s)
            processor_s[name].append(time.process_time() - begun_processor_s)
        for name, rows in answers.items():  # whoever is fast must be right
            expected = answers["torch"] if len(rows) == exits else [answers["torch"][i] for i in _lasts(net)]
            for row, right in zip(rows, expected, strict=True):
                np.testing.assert_allclose(row, right, atol=1e-3, err_msg=name)
    for seconds in (*times_s.values(), *processor_s.values()):
        del seconds[:3]  # warm-up
    with_all = [name for name in uninterrupted if name.endswith("all exits")]
    results: dict[str, Any] = {
        "frames": settings.frames,
        "threads": settings.threads,
        "uninterrupted": {name: percentiles_ms(times_s[name]) for name in uninterrupted},
    }
    for engine in engines:
        over = {name: _median_ratio(times_s[engine], times_s[name]) for name in uninterrupted}
        results[engine] = {
            **percentiles_ms(times_s[engine]),
            "over": over,
            "over_in_processor_time": {
                name: _median_ratio(processor_s[engine], processor_s[name]) for name in uninterrupted
            },
            "over_best_with_all_exits": max(over[name] for name in with_all),
        }
    return results


def _median_ratio(ours_s: Sequence[float], theirs_s: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(ours_s, theirs_s, strict=True)), 4)


def _stepped(engine: LaneEngine) -> Run:
    def run(picture: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        engine.start(picture)
        return [engine.run(step) for step in range(len(engine.plan))]

    return run


def _lasts(net: AnytimeNet) -> list[int]:
    """Number of the last exit of each member."""
    return [int(end) - 1 for end in np.cumsum([len(member.steps) for member in net.members()])]


class _Whole(nn.Module):
    """The whole plan as one model, from the pixels of each resolution to the probabilities of every exit.

    Its convolutions are made ready as the openvino engine makes them, so that it is the cutting alone that is compared.
    What no answer needs, i.e. the other heads where only the last ones answer, is left out by whoever converts it.
    """

    def __init__(self, net: AnytimeNet, preprocessing: Preprocessing, *, lasts: bool) -> None:
        super().__init__()
        self.net = net
        self.resolutions = sorted({member.resolution_px for member in net.members()})
        self.wanted = set(_lasts(net)) if lasts else set(range(len(net.steps)))
        self.preprocessing = preprocessing

    def forward(self, *pixels: Tensor) -> tuple[Tensor, ...]:
        """uint8 [1, R, R, 3] each to float [1, classes] each."""
        answers: list[Tensor] = []
        number = 0
        for member in self.net.members():
            images = images_of(pixels[self.resolutions.index(member.resolution_px)], self.preprocessing)
            state: State = ()
            for step in member.steps:
                state, logits = step(images, state)
                if number in self.wanted:
                    answers.append(torch.softmax(logits, 1))
                number += 1
        return tuple(answers)


def _uninterrupted(net: AnytimeNet, preprocessing: Preprocessing, threads: int) -> dict[str, Run]:
    ready = prepared(net)
    runs = {"OpenVINO, all exits": _in_openvino(_Whole(ready, preprocessing, lasts=False), preprocessing, threads)}
    if len(_lasts(net)) < len(net.steps):
        lasts = _Whole(ready, preprocessing, lasts=True)
        runs["OpenVINO, last exit of each member"] = _in_openvino(lasts, preprocessing, threads)
    onnx = _in_onnxruntime(_Whole(ready, preprocessing, lasts=False), preprocessing, threads)
    return runs | {"ONNX Runtime, all exits": onnx, "torch, all exits": _in_torch(net, preprocessing)}


def _examples(whole: _Whole) -> tuple[Tensor, ...]:
    return tuple(torch.zeros(1, px, px, 3, dtype=torch.uint8) for px in whole.resolutions)


def _pixels(whole: _Whole, preprocessing: Preprocessing, picture: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [resized(picture, px, preprocessing).permute(0, 2, 3, 1).numpy() for px in whole.resolutions]


def _in_openvino(whole: _Whole, preprocessing: Preprocessing, threads: int) -> Run:
    examples = _examples(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every constant
        traced = torch.jit.trace(whole.eval(), examples, check_trace=False)  # type: ignore[no-untyped-call]
        model = openvino().convert_model(traced, example_input=examples)
    model.reshape({port: list(example.shape) for port, example in zip(model.inputs, examples, strict=True)})
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    request = core().compile_model(model, "CPU", options).create_infer_request()
    exits = range(len(model.outputs))

    def run(picture: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        pixels = _pixels(whole, preprocessing, picture)
        for i, tensor in enumerate(pixels):
            request.set_input_tensor(i, openvino().Tensor(tensor, shared_memory=True))
        request.infer(share_outputs=True)
        return [request.get_output_tensor(i).data[0].copy() for i in exits]

    return run


def _in_onnxruntime(whole: _Whole, preprocessing: Preprocessing, threads: int) -> Run:
    import onnxruntime

    file: Any = io.BytesIO()
    names = [f"pixels{px}" for px in whole.resolutions]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(whole.eval(), _examples(whole), file, input_names=names, opset_version=17, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])

    def run(picture: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        pixels = _pixels(whole, preprocessing, picture)
        return [answer[0] for answer in session.run(None, dict(zip(names, pixels, strict=True)))]

    return run


def _in_torch(net: AnytimeNet, preprocessing: Preprocessing) -> Run:
    from stream_ann.engines.torch_engine import inference_steps

    steps = iter(inference_steps(net, torch.device("cpu"), torch.float32))
    members = [(member.resolution_px, [next(steps) for _ in member.steps]) for member in net.members()]

    @torch.inference_mode()
    def run(picture: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        answers = []
        for px, of_member in members:
            images = preprocess(picture, px, preprocessing)
            state: State = ()
            for step in of_member:
                state, logits = step(images, state)
                answers.append(torch.softmax(logits[0], 0))
        return [answer.numpy() for answer in answers]

    return run


class _Film:
    """Pictures made beforehand, at a frame rate: a source that takes next to no time itself."""

    name, live = "film", False

    def __init__(self, settings: Settings) -> None:
        random = np.random.default_rng(settings.seed)
        shape = (settings.height_px, settings.width_px, 3)
        self._pictures = [random.integers(0, 256, shape, dtype=np.uint8) for _ in range(8)]
        self._fps, self._left, self._given = settings.fps, round(settings.fps * settings.seconds), 0

    def open(self) -> None:
        pass

    def read(self) -> Picture | None:
        if self._given == self._left:
            return None
        self._given += 1
        return Picture(self._pictures[self._given % len(self._pictures)], self._given / self._fps)

    def close(self) -> None:
        pass


@contextmanager
def _busy_decoder() -> Iterator[None]:
    """A thread that decodes the demo clip over and over, as a live run does but without its pace."""
    stop = threading.Event()

    def decode() -> None:
        while not stop.is_set():
            source = source_from("demo")
            source.open()
            while not stop.is_set() and source.read() is not None:
                pass
            source.close()

    thread = threading.Thread(target=decode, name="stream-ann bench decoder", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)


def _live(engine: LaneEngine, settings: Settings) -> dict[str, Any]:
    kinds: dict[str, dict[str, list[float]]] = {
        kind: {"wait": [], "first": [], "step": []} for kind in ("quiet", "busy")
    }
    frames = dict.fromkeys(kinds, 0)
    for kind in ("quiet", "busy") * 2:
        if kind == "busy":
            with _busy_decoder():
                seen = _one_run(engine, settings)
        else:
            seen = _one_run(engine, settings)
        frames[kind] += len(seen["first"])
        for figure, seconds in seen.items():
            kinds[kind][figure] += seconds
    results: dict[str, Any] = {
        kind: {
            "answered": frames[kind],
            "of": 2 * round(settings.fps * settings.seconds),
            "wait_for_first_step": percentiles_ms(seen["wait"]),
            "first_answer": percentiles_ms(seen["first"]),
            "longest_step": percentiles_ms(seen["step"]),
        }
        for kind, seen in kinds.items()
    }
    quiet, busy = results["quiet"], results["busy"]
    results["wait_p99_over_longest_step"] = round(
        quiet["wait_for_first_step"]["p99_ms"] / quiet["longest_step"]["p99_ms"], 4
    )
    for p in ("p50", "p99"):
        results[f"busy_over_quiet_{p}"] = round(busy["first_answer"][f"{p}_ms"] / quiet["first_answer"][f"{p}_ms"], 4)
    return results


def _one_run(engine: LaneEngine, settings: Settings) -> dict[str, list[float]]:
    """Seconds from arrival to the first step and to the first answer, and of each run of the longest step."""
    clock = MonotonicClock()
    watched = WatchedEngine(engine, clock)
    slot = Slot(clock)
    reader = Reader(_Film(settings), slot, clock)
    names = [str(number) for number in range(engine.plan.classes)]
    reader.start()
    results = list(Scheduler(watched, slot, clock, classes=names).results())
    reader.stop()
    longest = int(np.argmax(engine.step_s))
    starts = zip(results, watched.started_s, strict=True)
    return {
        "wait": [started_s - result.frame.arrival_s for result, started_s in starts],
        "first": [result.first_ms / 1e3 for result in results],
        "step": [end_s - begun_s for step, begun_s, end_s in watched.steps_s if step == longest],
    }
