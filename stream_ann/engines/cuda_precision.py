"""Which type a network computes in on a GPU: 16 bits where its answers stay what they are in 32."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stream_ann.engines.cuda_device import Device, Stream
from stream_ann.engines.folding import fold_batch_norms
from stream_ann.nets.contract import AnytimeNet, State
from stream_ann.preprocess import Preprocessing, preprocess

__all__ = ["TOLERANCE", "placed", "placed_as_precise_as_float32"]

TOLERANCE = 0.02
"""By how much the probability of any class may differ from the float32 network's, at any exit of any picture tried."""

PICTURES = 4
PICTURE_PX = 256


def placed(net: AnytimeNet, dtype: torch.dtype, device: Device) -> AnytimeNet:
    """A copy of ``net`` on the device, ready for inference: batch norms folded, channels last.

    Args:
        net: The network; it is not changed.
        dtype: Type of its weights.
        device: Where to.
    """
    # All but the move itself is done on the CPU, and so is done when this returns: kernels on the device's default
    # stream would not be waited for by the others.
    own = fold_batch_norms(copy.deepcopy(net).cpu().eval().float().requires_grad_(False))
    placed = device.place(own.to(dtype).to(memory_format=torch.channels_last))
    assert isinstance(placed, AnytimeNet)
    return placed


def placed_as_precise_as_float32(
    net: AnytimeNet, preprocessing: Preprocessing, temperatures: Sequence[float], device: Device, stream: Stream
) -> tuple[AnytimeNet, torch.dtype]:
    """A copy of ``net`` on the device, in the first of float16, bfloat16 and float32 that keeps its answers.

    Each exit's probabilities on a few random pictures, noisy and smooth ones, must be within :data:`TOLERANCE` of what
    they are in float32.

    Args:
        net: The network; it is not changed.
        preprocessing: How a picture becomes its input.
        temperatures: What the logits of each exit are divided by.
        device: Where to.
        stream: What runs the trials.

    Returns:
        The copy and its type.
    """
    exact = placed(net, torch.float32, device)
    types = device.half_types()
    if not types:
        return exact, torch.float32
    pictures = [stream.empty((PICTURE_PX * PICTURE_PX * 3,), torch.uint8) for _ in range(PICTURES)]
    for number, picture in enumerate(pictures):
        _fill(device, stream, picture, number)
    found: list[float] = []
    for dtype in types:
        rounded = placed(net, dtype, device)

        def work(rounded: AnytimeNet = rounded) -> None:
            squares = [picture.view(1, PICTURE_PX, PICTURE_PX, 3) for picture in pictures]
            found.append(_difference(exact, rounded, squares, preprocessing, temperatures))

        done = device.event("tried")
        stream.run(work)
        stream.record(done)
        done.wait()
        if found[-1] <= TOLERANCE:  # not so for nan, which float16 gives where features are beyond 65504
            return rounded, dtype
    return exact, torch.float32


def _fill(device: Device, stream: Stream, picture: Tensor, number: int) -> None:
    """Noise, or a smooth picture of 8 x 8 random colours, by turns."""
    random = np.random.default_rng(number)
    grain = 1 if number % 2 == 0 else PICTURE_PX // 8
    colours = random.integers(0, 256, (PICTURE_PX // grain, PICTURE_PX // grain, 3), dtype=np.uint8)
    values = colours.repeat(grain, axis=0).repeat(grain, axis=1)
    buffer = device.host_buffer(values.size, torch.uint8)
    buffer.write(values)
    pinned = buffer.tensor
    sent = device.event("tried")

    def work() -> None:
        picture.copy_(pinned, non_blocking=True)

    stream.run(work)
    stream.record(sent)
    sent.wait()


def _difference(
    exact: AnytimeNet,
    rounded: AnytimeNet,
    squares: Sequence[Tensor],
    preprocessing: Preprocessing,
    temperatures: Sequence[float],
) -> float:
    with torch.inference_mode():
        differences = [
            (one - other).abs().amax()
            for square in squares
            for one, other in zip(
                _answers(exact, square, preprocessing, temperatures),
                _answers(rounded, square, preprocessing, temperatures),
                strict=True,
            )
        ]
        return float(torch.stack(differences).amax())


def _answers(
    net: AnytimeNet, square: Tensor, preprocessing: Preprocessing, temperatures: Sequence[float]
) -> list[Tensor]:
    """Each exit's probabilities, float32 [classes]."""
    dtype = next(net.parameters()).dtype
    answers: list[Tensor] = []
    for member in net.members():
        images = preprocess(square, member.resolution_px, preprocessing, dtype=dtype)
        state: State = ()
        for step in member.steps:
            state, logits = step(images, state)
            answers.append(torch.softmax(logits[0].float() / temperatures[len(answers)], dim=0))
    return answers
