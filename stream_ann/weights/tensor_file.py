"""The tensors of a net in a safetensors file, compared with the net before anything is allocated.

A safetensors file is the length of a header (8 bytes, little-endian), the header (JSON: type, shape and byte range of
each tensor) and the bytes. It cannot hold code, unlike a pickle. Its header is read here rather than by the library,
so that a damaged or hostile file is refused for a reason that can be named, and costs nothing.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import safetensors.torch
import torch
from torch import Tensor, nn

from stream_ann.errors import CardError, CorruptWeightsError, UsageError
from stream_ann.nets import AnytimeNet

__all__ = ["Bits", "StoredTensor", "compare", "distinct_tensors", "fill", "read_header", "to_bytes"]

Bits = Literal[16, 8]
"""Bits of a stored convolution or matrix weight."""

MAX_HEADER_BYTES = 4 << 20
"""Room for some 40,000 tensors."""
MAX_DIMENSIONS = 8

REMEDY = "fetch the file again, or restore it from where it came"

_ITEM_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "F16": 2, "BF16": 2, "I32": 4, "F32": 4, "I64": 8, "F64": 8}
_FLOATS = ("F16", "BF16", "F32")
_SCALE = ":scale"
"""Behind the name of a tensor of 8 bits: what its values are multiplied by, one number for each output channel."""
_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "I64": torch.int64,
    "F64": torch.float64,
}
_NAMES = {torch.bool: "BOOL", torch.uint8: "U8", torch.int32: "I32", torch.int64: "I64"}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One entry of a file's header."""

    dtype: str
    """Type of the values, as the format calls it, e.g. ``"F16"``."""
    shape: tuple[int, ...]
    """Its shape."""
    begin: int
    """Where in the file its bytes begin."""


def distinct_tensors(net: AnytimeNet) -> dict[str, Tensor]:
    """The parameters and buffers of ``net`` by name, each once: a shared one under the first of its names.

    Raises:
        UsageError: The net has a tensor that is not in its state dict, and would be lost.
    """
    distinct: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in net.state_dict(keep_vars=True).items():
        distinct.setdefault(id(tensor), (name, tensor))
    for name, tensor in itertools.chain(net.named_parameters(), net.named_buffers()):
        if id(tensor) not in distinct:
            raise UsageError(f"buffer '{name}' is not in the net's state dict", "register it with persistent=True")
    return dict(distinct.values())


def to_bytes(net: AnytimeNet, *, bits: Bits = 16) -> bytes:
    """The content of a safetensors file with the tensors of ``net``.

    Convolution and matrix weights are rounded to float16, which halves the file; networks bear that, since these
    weights are well within its range and act in sums of many. With 8 bits they are rounded to whole numbers from -127
    to 127 times a scale for each output channel (symmetric, per channel: Krishnamoorthi, arXiv 1806.08342, sections 2.2
    and 2.6). Vectors (biases, batch norm's scales and statistics) stay float32: they are a hundredth of the file, a
    batch norm divides by the root of its variance, and variances span more orders of magnitude than float16 can hold.
    Integers stay as they are.

    Raises:
        UsageError: A value is not finite, or too large for float16.
    """
    stored = {}
    for name, tensor in distinct_tensors(net).items():
        value = tensor.detach().cpu()
        if value.is_floating_point():
            value = value.to(torch.float16 if value.ndim >= 2 and bits == 16 else torch.float32)
            if not value.isfinite().all():
                what = f"tensor '{name}' holds a value that is not finite as {str(value.dtype).removeprefix('torch.')}"
                raise UsageError(what, "these weights cannot be saved; see whether the training diverged")
        if value.is_floating_point() and value.ndim >= 2 and bits == 8:
            value, stored[name + _SCALE] = _to_8_bits(value)
        stored[name] = value.clone(memory_format=torch.contiguous_format)
    return safetensors.torch.save(stored, metadata={"format": "pt"})


def _to_8_bits(value: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers, int8 [out, ...], and the scale of each output channel, float32 [out], for float32 [out, ...]."""
    scale = value.abs().flatten(1).amax(1) / 127
    unit = torch.where(scale > 0, scale, 1).view(-1, *[1] * (value.ndim - 1))
    return (value / unit).round().to(torch.int8), scale


def read_header(file: BinaryIO, size: int, *, origin: str) -> dict[str, StoredTensor]:
    """What a safetensors file says it holds, checked against its size.

    Args:
        file: The file, at its beginning.
        size: Its size in bytes.
        origin: What to call it in error messages: its path.

    Raises:
        CorruptWeightsError: It is not a safetensors file, or its header cannot be true.
    """

    def corrupt(detail: str) -> CorruptWeightsError:
        return CorruptWeightsError(f"weights file '{origin}' is damaged or not safetensors: {detail}", REMEDY)

    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or 8 + length > size:
        raise corrupt(f"it has {size} bytes, less than its header needs")
    if length > MAX_HEADER_BYTES:
        raise corrupt(f"its header has {length} bytes, at most {MAX_HEADER_BYTES} are allowed")
    try:
        entries = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise corrupt("its header is not JSON") from error
    if not isinstance(entries, dict):
        raise corrupt("its header is not an object")
    entries.pop("__metadata__", None)

    tensors: dict[str, StoredTensor] = {}
    ranges: list[tuple[int, int, str]] = []
    for name, entry in entries.items():
        stored = _entry(entry)
        if stored is None:
            raise corrupt(f"its header describes tensor {_short(name)} in a way that cannot be read")
        dtype, shape, begin, end = stored
        if math.prod(shape) * _ITEM_BYTES[dtype] != end - begin:
            raise corrupt(f"tensor {_short(name)} of shape {list(shape)} and type {dtype} has {end - begin} bytes")
        tensors[name] = StoredTensor(dtype, shape, 8 + length + begin)
        ranges.append((begin, end, name))
    position = 0
    for begin, end, name in sorted(ranges):
        if begin != position:
            raise corrupt(f"tensor {_short(name)} begins at byte {begin} of the data, not at {position}")
        position = end
    if 8 + length + position != size:
        raise corrupt(f"it has {size} bytes, its header describes {8 + length + position}")
    return tensors


def compare(stored: Mapping[str, StoredTensor], net: AnytimeNet, *, origin: str) -> None:
    """Raise CardError, naming the first difference, unless ``stored`` holds the tensors of ``net`` and nothing else.

    Args:
        stored: What a weights file holds.
        net: The network that its card describes; may lie on the meta device.
        origin: What to call the file in the message: its path.
    """

    def misfit(detail: str) -> CardError:
        remedy = "use the card that was written with these weights"
        return CardError(f"the card does not fit the weights in '{origin}': {detail}", remedy)

    wanted = distinct_tensors(net)
    scales: set[str] = set()
    for name, tensor in wanted.items():
        if name not in stored:
            raise misfit(f"the card's network needs a tensor '{name}', which is not there")
        found = stored[name]
        if found.shape != tuple(tensor.shape):
            needs = list(tensor.shape)
            raise misfit(f"tensor '{name}' has shape {list(found.shape)}, the card's network needs {needs}")
        allowed = _FLOATS if tensor.is_floating_point() else (_NAMES[tensor.dtype],)
        if found.dtype == "I8" and tensor.is_floating_point() and tensor.ndim >= 2:
            scale = stored.get(name + _SCALE)
            if scale is None or scale.dtype != "F32" or scale.shape != tuple(tensor.shape[:1]):
                raise misfit(f"tensor '{name}' of 8 bits has no scale for each of its {tensor.shape[0]} channels")
            scales.add(name + _SCALE)
        elif found.dtype not in allowed:
            raise misfit(f"tensor '{name}' has type {found.dtype}, the card's network needs {' or '.join(allowed)}")
    for name in stored:
        if name not in wanted and name not in scales:
            raise misfit(f"tensor {_short(name)} is not part of the card's network")


def fill(net: AnytimeNet, path: Path) -> None:
    """Give ``net``, built on the meta device, the tensors in ``path``, as float32 on the CPU. Shared ones stay shared.

    The file is read, not mapped: where it is cut short or replaced meanwhile, that is an error instead of a SIGBUS,
    and nothing that happens to it later matters.

    Raises:
        CorruptWeightsError: The file cannot be read, does not fit, or holds a value that is not finite.
    """
    names = {id(tensor): name for name, tensor in distinct_tensors(net).items()}
    made: dict[int, Tensor] = {}
    values: dict[str, Tensor] = {}
    try:
        with open(path, "rb") as file:
            stored = read_header(file, os.fstat(file.fileno()).st_size, origin=str(path))
            for name, old in net.state_dict(keep_vars=True).items():
                if id(old) not in made:
                    value = _read(file, stored, names[id(old)], old, f"tensor '{name}' in '{path}'")
                    # One Parameter object for all names of a shared tensor: training must go on seeing one.
                    is_parameter = isinstance(old, nn.Parameter)
                    made[id(old)] = nn.Parameter(value, requires_grad=old.requires_grad) if is_parameter else value
                values[name] = made[id(old)]
    except OSError as error:
        raise CorruptWeightsError(f"weights file '{path}' cannot be read: {error.strerror}", REMEDY) from error
    net.load_state_dict(values, assign=True)


def _read(file: BinaryIO, stored: Mapping[str, StoredTensor], name: str, wanted: Tensor, what: str) -> Tensor:
    """The tensor of a name, of the type that is wanted."""
    data, entry = b"", stored.get(name)
    if entry is not None and entry.shape == tuple(wanted.shape):
        file.seek(entry.begin)
        data = file.read(wanted.numel() * _ITEM_BYTES[entry.dtype])
    if entry is None or len(data) != wanted.numel() * _ITEM_BYTES[entry.dtype]:
        raise CorruptWeightsError(f"{what} is not as it was a moment ago: the file is being written", REMEDY)
    if not data:
        return torch.empty(wanted.shape, dtype=wanted.dtype)
    value = torch.frombuffer(bytearray(data), dtype=_DTYPES[entry.dtype]).reshape(wanted.shape).to(wanted.dtype)
    if entry.dtype == "I8":
        scale = _read(file, stored, name + _SCALE, wanted.new_empty(wanted.shape[:1]), what)
        value *= scale.view(-1, *[1] * (wanted.ndim - 1))
    if value.is_floating_point() and not value.isfinite().all():
        raise CorruptWeightsError(f"{what} holds a value that is not finite", REMEDY)
    return value


def _entry(entry: object) -> tuple[str, tuple[int, ...], int, int] | None:
    """Type, shape, begin and end of a tensor's entry in a header, or None where it is malformed."""
    if not isinstance(entry, dict):
        return None
    dtype, shape, offsets = entry.get("dtype"), _wholes(entry.get("shape")), _wholes(entry.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES or shape is None or offsets is None:
        return None
    if len(shape) > MAX_DIMENSIONS or len(offsets) != 2:
        return None
    return dtype, shape, offsets[0], offsets[1]


def _wholes(value: object) -> tuple[int, ...] | None:
    """``value`` as a tuple if it is a list of whole numbers that fit into 62 bits."""
    if not isinstance(value, list) or not all(type(n) is int and 0 <= n < 1 << 62 for n in value):
        return None
    return tuple(value)


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:60] + "…")
