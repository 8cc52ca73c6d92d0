"""Checkpoints: one safetensors file each, tensors and JSON together, written whole or not at all. Never pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import Optimizer

from stream_ann.errors import OutputError, TrainingError
from stream_ann.whole_files import sync_folder

__all__ = [
    "BEST",
    "FORMAT",
    "LAST",
    "Checkpoint",
    "difference",
    "keep_checkpoint",
    "optimizer_tensors",
    "read_checkpoint",
    "restore_net",
    "restore_optimizer",
    "tensors_of",
    "write_checkpoint",
]

FORMAT = 1
"""The format that this version reads and writes."""
LAST = "last.safetensors"
"""Name of the newest checkpoint in its folder."""
BEST = "best.safetensors"
"""Name of the checkpoint of the epoch that validated best."""

_KEY = "stream_ann.checkpoint"
_REMEDY = "continue from another checkpoint, or train anew into another folder"


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """All that a run is made of at one moment."""

    tensors: Mapping[str, Tensor]
    """Tensors by name; what belongs together shares a prefix: ``net.``, ``optimizer.``, ``average.``."""
    about: Mapping[str, Any]
    """Everything else, as plain JSON data."""

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with ``prefix`` and a dot, without them."""
        start = prefix + "."
        return {name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)}


def write_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint, made durable under another name before it replaces the old one.

    Whenever the process is killed or the disk is full, ``path`` holds the old or the new checkpoint as a whole.

    Raises:
        OutputError: It cannot be written; the old one is as it was.
    """
    stored = {
        # contiguous in the usual order: the file does not know channels-last
        name: value.detach().to("cpu").contiguous(memory_format=torch.contiguous_format)
        for name, value in checkpoint.tensors.items()
    }
    about = json.dumps({"format": FORMAT, **checkpoint.about}, allow_nan=False)
    data = safetensors.torch.save(stored, metadata={_KEY: about})
    _appear(path, lambda partial: _written(partial, data))


def keep_checkpoint(written: Path, path: Path) -> None:
    """Let ``path`` be the checkpoint that ``written`` is now, and stay it when that is replaced by a newer one.

    Where the file system has hard links nothing is written again: on a GPU an epoch of small images takes seconds, and
    writing a checkpoint of it twice was a tenth of them.

    Raises:
        OutputError: It cannot be written; the old one is as it was.
    """

    def take(partial: Path) -> None:
        try:
            os.link(written, partial)
        except OSError:
            _written(partial, written.read_bytes())

    _appear(path, take)


def _written(partial: Path, data: bytes) -> None:
    """A new file that will survive a power cut."""
    with open(partial, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _appear(path: Path, make: Callable[[Path], None]) -> None:
    """Let a file appear as a whole: ``make`` makes it under another name."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # of a run that was killed; a link that somebody has put there is not followed
        make(partial)
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        kept = f"the one before is still valid: resume from '{path}'" if path.exists() else "nothing was written"
        what = f"checkpoint '{path}' cannot be written: {error.strerror or error}; {kept}"
        raise OutputError(what, "make room, or give another folder") from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; its tensors are on the CPU.

    Raises:
        TrainingError: There is none, it is damaged, or it is of another format.
    """
    try:
        data = path.read_bytes()  # not mapped: a file that is cut short meanwhile would be a SIGBUS
        tensors = safetensors.torch.load(data)
    except FileNotFoundError as error:
        raise TrainingError(f"there is no checkpoint '{path}'", "start without --resume") from error
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"checkpoint '{path}' cannot be read: {error}", _REMEDY) from error
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = json.loads(header["__metadata__"][_KEY])
        version = about["format"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise TrainingError(f"'{path}' holds tensors, but is no checkpoint of a training run", _REMEDY) from error
    if version != FORMAT:
        raise TrainingError(f"checkpoint '{path}' has format {str(version)[:20]}, this version reads {FORMAT}", _REMEDY)
    return Checkpoint(tensors, about)


def tensors_of(net: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a net by name; a shared one once, under the first of its names."""
    return {**dict(net.named_parameters()), **dict(net.named_buffers())}


def restore_net(net: nn.Module, tensors: Mapping[str, Tensor], *, origin: str) -> None:
    """Copy tensors, by name, into the parameters and buffers of a net, which stay where and what they are.

    Raises:
        TrainingError: A tensor is missing, superfluous, or of another shape.
    """
    wanted = tensors_of(net)
    odd = sorted(set(wanted) ^ set(tensors))
    if odd:
        verb = "lacks" if odd[0] in wanted else "has a superfluous"
        raise TrainingError(f"checkpoint '{origin}' does not fit the net: it {verb} tensor '{odd[0]}'", _REMEDY)
    with torch.no_grad():
        for name, tensor in wanted.items():
            if tensors[name].shape != tensor.shape:
                shapes = f"{list(tensors[name].shape)}, the net's has {list(tensor.shape)}"
                raise TrainingError(f"checkpoint '{origin}' does not fit the net: '{name}' has shape {shapes}", _REMEDY)
            tensor.copy_(tensors[name])


def optimizer_tensors(optimizer: Optimizer, net: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as tensors named ``PARAMETER/KEY``; by name, so that their order does not matter."""
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    state = {}
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if value is not None:
                state[f"{names[id(parameter)]}/{key}"] = torch.as_tensor(value)
    return state


def restore_optimizer(optimizer: Optimizer, net: nn.Module, tensors: Mapping[str, Tensor], *, origin: str) -> None:
    """Give an optimizer the state that :func:`optimizer_tensors` took.

    Raises:
        TrainingError: It is not a state of this net.
    """
    parameters = dict(net.named_parameters())
    for full, value in tensors.items():
        name, _, key = full.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None or (value.ndim and value.shape != parameter.shape):
            raise TrainingError(f"checkpoint '{origin}' does not fit the net: optimizer state '{full}'", _REMEDY)
        if value.ndim:
            # laid out in memory as the parameter is, channels-last or not
            kept = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
        else:
            kept = value.to(parameter.device)
        optimizer.state[parameter][key] = kept


def difference(theirs: Any, mine: Any) -> str | None:
    """Where two pieces of JSON data first differ, as ``".n is 3, not 5"``; None where they do not."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        for key in [*theirs, *(key for key in mine if key not in theirs)]:
            if (found := difference(theirs.get(key), mine.get(key))) is not None:
                return f".{key}{found}"
        return None
    if isinstance(mine, tuple):
        mine = list(mine)
    if isinstance(theirs, list) and isinstance(mine, list) and len(theirs) == len(mine):
        for i, (a, b) in enumerate(zip(theirs, mine, strict=True)):
            if (found := difference(a, b)) is not None:
                return f"[{i}]{found}"
        return None
    return None if theirs == mine else f" is {_short(theirs)}, not {_short(mine)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
