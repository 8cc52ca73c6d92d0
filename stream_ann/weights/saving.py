"""Writing weights and their cards so that a crash leaves no half-written file behind."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from stream_ann.card import Card, CardStep, Validation, WeightsFile
from stream_ann.errors import OutputError, UsageError
from stream_ann.nets import AnytimeNet, arch_of, build
from stream_ann.preprocess import Preprocessing
from stream_ann.weights.card_json import card_to_json
from stream_ann.weights.finding import SUFFIXES
from stream_ann.weights.tensor_file import Bits, distinct_tensors, to_bytes
from stream_ann.whole_files import sync_folder

__all__ = ["save", "write_card"]


def save(
    net: AnytimeNet,
    path: str | os.PathLike[str],
    *,
    title: str,
    description: str,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    training: Mapping[str, Any],
    licence: str,
    sources: Sequence[str] = (),
    accuracies: Sequence[float | None] | None = None,
    validation: Validation | None = None,
    readout_weights: Sequence[float] | None = None,
    bits: Bits = 16,
) -> Card:
    """Write a net's weights and their card.

    Both files are written under temporary names first, made durable, and only then renamed, the weights before the
    card. Whenever the process is killed, each file is either the old or the new one as a whole; a kill between the two
    renames leaves new weights beside an old card, which :func:`stream_ann.weights.load` refuses.

    Args:
        net: The net. Its architecture must be registered; its weights may lie on any device.
        path: Folder and name: ``"out/flowers"`` makes ``out/flowers.safetensors`` and ``out/flowers.json``.
        title: One line about what these weights are.
        description: A paragraph about what they are, and what they are not.
        classes: Name of each class, in the order of the logits.
        preprocessing: What images must go through.
        training: How they came about; ``kind`` is ``"converted"`` or ``"trained"``.
        licence: SPDX identifier.
        sources: Where they come from.
        accuracies: Validated accuracy of each exit, 0 to 1.
        validation: How these were measured.
        readout_weights: Weight of each exit in the readout ``average``.
        bits: Of each convolution and matrix weight: 16, or 8 for a file of half the size.

    Returns:
        The card that was written.

    Raises:
        UsageError: The net cannot be written: it holds a value that is not finite, or no net like it can be built.
        CardError: What the card is to say makes no sense.
        OutputError: A file cannot be written.
    """
    target = Path(path)
    target = target.with_suffix("") if target.suffix in SUFFIXES else target
    plan = net.plan()
    if len(classes) != plan.classes:
        raise UsageError(f"{len(classes)} class names for a net of {plan.classes} classes", "name each class")
    known = [None] * len(plan) if accuracies is None else list(accuracies)
    if len(known) != len(plan):
        raise UsageError(f"{len(known)} accuracies for a net of {len(plan)} exits", "give one for each exit")

    arch = arch_of(net)
    data = to_bytes(net, bits=bits)
    file = WeightsFile(target.name + ".safetensors", hashlib.sha256(data).hexdigest(), len(data))
    card = Card(
        name=target.name,
        title=title,
        description=description,
        arch=arch,
        classes=tuple(classes),
        preprocessing=preprocessing,
        steps=tuple(
            CardStep(step.name, step.member, step.resolution_px, step.macs, accuracy)
            for step, accuracy in zip(plan.steps, known, strict=True)
        ),
        validation=validation,
        readout_weights=None if readout_weights is None else tuple(readout_weights),
        training=training,
        licence=licence,
        sources=tuple(sources),
        file=file,
    )
    # What could not be read again must not be written.
    sketch = build(arch, device="meta")
    if sketch.plan() != plan or _shapes(sketch) != _shapes(net):
        raise UsageError(f"the {type(net).__name__} is not what its arch describes", "correct its arch property")
    text = card_to_json(card)
    _write({target.with_name(file.name): data, target.with_name(target.name + ".json"): text})
    return card


def write_card(card: Card, path: str | os.PathLike[str]) -> None:
    """Write a card, atomically: ``path`` holds the old or the new one as a whole, whenever the process is killed.

    Raises:
        CardError: It holds what JSON cannot.
        OutputError: The file cannot be written.
    """
    _write({Path(path): card_to_json(card)})


def _shapes(net: AnytimeNet) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in distinct_tensors(net).items()}


def _write(contents: Mapping[Path, bytes]) -> None:
    """Write files so that each appears as a whole: first all under temporary names, then renamed in the order given."""
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    current = next(iter(contents))
    try:
        for current, content in contents.items():
            temporary[current].unlink(missing_ok=True)  # a link that somebody has put there is not followed
            with open(temporary[current], "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for current in contents:
            os.replace(temporary[current], current)
            sync_folder(current.parent)
    except OSError as error:
        remedy = "choose a folder that can be written to and has room"
        raise OutputError(f"cannot write '{current}': {error.strerror or error}", remedy) from error
    finally:
        for path in temporary.values():
            with suppress(OSError):
                path.unlink(missing_ok=True)
