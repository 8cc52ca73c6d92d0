"""Steps of a network as OpenVINO models: converted straight from torch, and laid out so that they join without copies.

What a step hands to the next one lies in memory channels-last, as OpenVINO's convolutions want it. A model's inputs and
outputs cannot say so, but they can be tokens: features [B, C, H, W] travel as [B, H * W, C], and OpenVINO sees that
nothing needs to be moved: its profile then shows no work at the seams.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from stream_ann.engines import openvino_cache
from stream_ann.engines.folding import fold_batch_norms
from stream_ann.engines.openvino_runtime import core, openvino
from stream_ann.nets.contract import AnytimeNet, Plan, State, Step
from stream_ann.nets.layers import SameConv2d
from stream_ann.preprocess import Preprocessing, normalised

__all__ = ["OpenVinoSteps", "StepShape", "images_of", "prepared", "shapes_of"]


@dataclass(frozen=True, slots=True)
class StepShape:
    """What goes into a step and comes out of it, for one frame."""

    state_in: tuple[tuple[int, ...], ...]
    """Shape of each tensor of the state that it starts from, without the batch; none at a member's first step."""
    state_out: tuple[tuple[int, ...], ...]
    """Shape of each tensor that it leaves, without the batch; none at a member's last step, which nobody needs."""

    @property
    def state_out_tokens(self) -> tuple[tuple[int, ...], ...]:
        """:attr:`state_out` as it travels between two models."""
        return tuple((shape[1] * shape[2], shape[0]) if len(shape) == 3 else shape for shape in self.state_out)


class _PaddedConv2d(nn.Module):
    """The same as a :class:`SameConv2d`, padded before it on each side by what is needed.

    In torch that takes a copy, which is why the other exists. OpenVINO makes the padding a part of the convolution.
    """

    def __init__(self, conv: SameConv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, features: Tensor) -> Tensor:
        """As that of :class:`SameConv2d`."""
        conv, half = self.conv, self.conv.kernel_size[0] // 2
        pads: list[int] = []
        for size in (int(features.shape[-1]), int(features.shape[-2])):
            pads += [half - 1 + size % 2, half]
        padded = F.pad(features, pads)
        return F.conv2d(padded, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


class _StepModel(nn.Module):
    """A step as the model that OpenVINO gets.

    Args:
        step: The step.
        shape: What goes in and out.
        temperature: What the logits are divided by.
        preprocessing: How pixels are normalised, where it is a member's first step.
    """

    def __init__(self, step: Step, shape: StepShape, temperature: float, preprocessing: Preprocessing | None) -> None:
        super().__init__()
        self.step = step
        self.shape = shape
        self.temperature = temperature
        self.preprocessing = preprocessing

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Pixels uint8 [B, R, R, 3], or the state as tokens, to the next state as tokens, then probabilities."""
        images = torch.empty(0)
        state: State = ()
        if self.shape.state_in:
            state = tuple(_untokened(tensor, shape) for tensor, shape in zip(tensors, self.shape.state_in, strict=True))
        else:
            assert self.preprocessing is not None
            images = images_of(tensors[0], self.preprocessing)
        after, logits = self.step(images, state)
        kept = [_tokened(tensor) for tensor in after[: len(self.shape.state_out)]]
        if self.temperature != 1:
            logits = logits / self.temperature
        return (*kept, torch.softmax(logits, dim=1))


def images_of(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Pixels uint8 [B, R, R, 3] as a network's input, float32 [B, 3, R, R].

    They are normalised before they are turned, which then is a matter of strides alone, and by plain numbers where the
    channels are alike: together a third of the time of the other order.
    """
    scales, shifts = preprocessing.scales_and_shifts
    values = pixels.float()
    if len(set(scales)) == len(set(shifts)) == 1:
        values = values * scales[0] + shifts[0]
    else:
        values = values * torch.tensor(scales) + torch.tensor(shifts)
    return values.permute(0, 3, 1, 2)


def prepared(net: AnytimeNet) -> AnytimeNet:
    """A copy of ``net`` made ready for conversion: batch norms folded, 'same' convolutions padded in front."""
    ready = fold_batch_norms(copy.deepcopy(net).eval().float().requires_grad_(False))
    for module in list(ready.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, SameConv2d):
                setattr(module, name, _PaddedConv2d(child))
    return ready


def shapes_of(net: AnytimeNet, plan: Plan) -> list[StepShape]:
    """The shapes of every step's state, by running it on an empty picture."""
    shapes: list[StepShape] = []
    state: State = ()
    with torch.inference_mode():
        for number, (info, step) in enumerate(zip(plan.steps, net.steps, strict=True)):
            if info.first:
                state = ()
                images = torch.zeros(1, 3, info.resolution_px, info.resolution_px)
            state_in = tuple(tuple(tensor.shape[1:]) for tensor in state)
            state, _ = step(images, state)
            last = number + 1 == len(plan) or plan.steps[number + 1].first
            shapes.append(StepShape(state_in, () if last else tuple(tuple(tensor.shape[1:]) for tensor in state)))
    return shapes


class OpenVinoSteps:
    """Compiles the steps of a net.

    Args:
        net: The net; it is copied, not changed.
        plan: Its plan.
        preprocessing: How a picture becomes the network's input.
        temperatures: What the logits of each exit are divided by.
        threads: Threads on the CPU.
        cached: Whether models are looked for and kept in the user's cache folder.
    """

    def __init__(
        self,
        net: AnytimeNet,
        plan: Plan,
        preprocessing: Preprocessing,
        *,
        temperatures: Sequence[float],
        threads: int,
        cached: bool = True,
    ) -> None:
        self._net = prepared(net)
        self._plan = plan
        self._preprocessing = preprocessing
        self._temperatures = temperatures
        self._threads = threads
        self._net_key = openvino_cache.key_of(self._net) if cached else None
        self._models: dict[int, Any] = {}
        self.shapes = shapes_of(self._net, plan)

    def compile(self, step: int, *, precision: str, together: bool) -> Any:
        """One step as a compiled model.

        Args:
            step: Number of the step.
            precision: ``"f32"``, ``"bf16"`` or ``"f16"``.
            together: Whether it is for any number of frames at once, or for one.
        """
        config = self._config(precision)
        key = self._key(step, precision, together)
        if key is not None:
            blob = openvino_cache.read(key)
            if blob is not None:
                try:
                    return core().import_model(blob, "CPU", config)
                except RuntimeError:
                    pass  # written by another build or for another processor: made anew below
        compiled = core().compile_model(self._converted(step, together), "CPU", config)
        if key is not None:
            openvino_cache.write(key, compiled)
        return compiled

    def reference(self, picture: Mapping[int, NDArray[np.uint8]]) -> NDArray[np.float32]:
        """What torch answers: the probabilities of every exit, float32 [exits, classes].

        Args:
            picture: The picture at each resolution, uint8 [1, R, R, 3].
        """
        rows: list[NDArray[np.float32]] = []
        state: State = ()
        with torch.inference_mode():
            for number, (info, step) in enumerate(zip(self._plan.steps, self._net.steps, strict=True)):
                pixels = torch.from_numpy(picture[info.resolution_px]).permute(0, 3, 1, 2)
                state, logits = step(normalised(pixels, self._preprocessing), () if info.first else state)
                rows.append(torch.softmax(logits[0] / self._temperatures[number], dim=0).numpy())
        return np.stack(rows)

    def _converted(self, step: int, together: bool) -> Any:
        examples = self._examples(step)
        if step not in self._models:
            info, shape = self._plan.steps[step], self.shapes[step]
            preprocessing = self._preprocessing if info.first else None
            model = _StepModel(self._net.steps[step], shape, self._temperatures[step], preprocessing).eval()
            with warnings.catch_warnings():
                # Tracing warns of each Python number in a network, and of being superseded by what takes three times as
                # long to convert from. Everything but the batch is meant to be constant.
                warnings.simplefilter("ignore")
                with torch.no_grad():
                    traced = torch.jit.trace(model, examples, check_trace=False)  # type: ignore[no-untyped-call]
                self._models[step] = openvino().convert_model(traced, example_input=examples)
        converted = self._models[step]
        batch = -1 if together else 1
        converted.reshape({port: [batch, *e.shape[1:]] for port, e in zip(converted.inputs, examples, strict=True)})
        return converted

    def _examples(self, step: int) -> tuple[Tensor, ...]:
        info, shape = self._plan.steps[step], self.shapes[step]
        if info.first:
            return (torch.zeros(1, info.resolution_px, info.resolution_px, 3, dtype=torch.uint8),)
        return tuple(_tokened(torch.zeros(1, *part)) for part in shape.state_in)

    def _config(self, precision: str) -> dict[str, Any]:
        return {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self._threads,
            "INFERENCE_PRECISION_HINT": precision,
            # A thread that is bound to a core waits for whatever else the system puts there, e.g. the decoder.
            "ENABLE_CPU_PINNING": False,
        }

    def _key(self, step: int, precision: str, together: bool) -> str | None:
        if self._net_key is None:
            return None
        info = self._plan.steps[step]
        pixels = self._preprocessing.scales_and_shifts if info.first else None
        # with the resolution: members may be the same network, whose shapes are constants in the model
        known = (self._net_key, step, info.resolution_px, self._temperatures[step], pixels, precision, together)
        return openvino_cache.joined_key(*map(repr, known))


def _tokened(tensor: Tensor) -> Tensor:
    """Features [B, C, H, W] as tokens [B, H * W, C]; any other tensor as it is."""
    return tensor.flatten(2).transpose(1, 2) if tensor.ndim == 4 else tensor


def _untokened(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The reverse of :func:`_tokened`, for a tensor of ``shape`` without the batch."""
    return tensor.transpose(1, 2).reshape(-1, *shape) if len(shape) == 3 else tensor
