"""Which precision OpenVINO computes with, and whether its answers are those of the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_ann.engines.openvino_runtime import capabilities, openvino
from stream_ann.engines.openvino_steps import OpenVinoSteps
from stream_ann.errors import DeviceError
from stream_ann.nets.contract import Plan

__all__ = ["BFLOAT16_BOUND", "FLOAT32_BOUND", "HINTS", "checked_precision", "chosen_precision", "deviation"]

HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
"""What OpenVINO calls a precision."""

FLOAT32_BOUND = 1e-3
"""How far the probabilities of an exit may be from torch's, as the probability mass that is elsewhere (0 to 1)."""

BFLOAT16_BOUND = 0.02
"""Likewise those in bfloat16 from those in float32, for it to be used without being asked for."""

_NATIVE = {"bfloat16": "BF16", "float16": "FP16"}


def chosen_precision(steps: OpenVinoSteps, plan: Plan, asked: str) -> tuple[str, list[Any]]:
    """Compile every step in the precision to be used.

    ``"auto"`` is bfloat16 where the processor computes with it natively and the answers to made-up pictures stay within
    ``BFLOAT16_BOUND`` of those in float32, else float32. Answers in float32 are compared with torch's.

    Args:
        steps: The steps.
        plan: Their plan.
        asked: ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.

    Returns:
        The precision, and the compiled models for one frame.

    Raises:
        DeviceError: If the processor does not have the precision asked for, or answers are not those of the network.
    """
    if asked in _NATIVE:
        return checked_precision(asked), _compiled(steps, plan, asked)
    single = _compiled(steps, plan, "float32")
    pictures = _pictures(plan)
    answers = [_answers(single, plan, picture) for picture in pictures]
    off = deviation(answers[:1], [steps.reference(pictures[0])])
    if not off <= FLOAT32_BOUND:
        raise DeviceError(f"OpenVINO's answers differ from the network's by {off:.2g}", "use --engine torch")
    if asked == "auto" and _NATIVE["bfloat16"] in capabilities():
        half = _compiled(steps, plan, "bfloat16")
        if deviation([_answers(half, plan, picture) for picture in pictures], answers) <= BFLOAT16_BOUND:
            return "bfloat16", half
    return "float32", single


def checked_precision(asked: str) -> str:
    """``asked`` itself: ``"float32"``, ``"bfloat16"`` or ``"float16"``.

    Raises:
        DeviceError: If the processor does not compute with it natively.
    """
    if asked in _NATIVE and _NATIVE[asked] not in capabilities():
        raise DeviceError(f"this processor does not compute in {asked}", "use --precision float32 or auto")
    return asked


def deviation(ours: Sequence[NDArray[np.float32]], theirs: Sequence[NDArray[np.float32]]) -> float:
    """Largest probability mass that lies elsewhere, 0 to 1, over pictures and exits: float32 [exits, classes] each."""
    return max(float(np.abs(a - b).sum(1).max()) / 2 for a, b in zip(ours, theirs, strict=True))


def _compiled(steps: OpenVinoSteps, plan: Plan, precision: str) -> list[Any]:
    return [steps.compile(step, precision=HINTS[precision], together=False) for step in range(len(plan))]


def _pictures(plan: Plan) -> list[dict[int, NDArray[np.uint8]]]:
    """Made-up pictures at every resolution of the plan, uint8 [1, R, R, 3]: squares of several sizes, and noise."""
    random = np.random.default_rng(0)
    pictures = []
    for cells in (3, 8, 24, None):
        at: dict[int, NDArray[np.uint8]] = {}
        for px in sorted({info.resolution_px for info in plan.steps}):
            coarse = random.integers(0, 256, (px if cells is None else cells,) * 2 + (3,), dtype=np.uint8)
            index = np.arange(px) * len(coarse) // px
            at[px] = np.ascontiguousarray(coarse[index][:, index][None])
        pictures.append(at)
    return pictures


def _answers(compiled: Sequence[Any], plan: Plan, picture: dict[int, NDArray[np.uint8]]) -> NDArray[np.float32]:
    """The probabilities of every exit, float32 [exits, classes]."""
    rows = []
    state: list[Any] = []
    for info, model in zip(plan.steps, compiled, strict=True):
        inputs = [openvino().Tensor(picture[info.resolution_px])] if info.first else state
        request = model.create_infer_request()
        for i, tensor in enumerate(inputs):
            request.set_input_tensor(i, tensor)
        request.infer(share_outputs=True)
        *state, probabilities = [request.get_output_tensor(i) for i in range(len(model.outputs))]
        rows.append(probabilities.data[0].copy())
    return np.stack(rows)
