"""Architectures by short names, as users write them: ``resann``, ``msdnet@64``, ``resnet18@160``, a JSON file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stream_ann.errors import UsageError, nearest
from stream_ann.nets import architectures
from stream_ann.training.transfer import arch_for_classes

__all__ = ["PHOTOGRAPH_RESOLUTION_PX", "arch_named", "resolution_named", "short_names"]

PHOTOGRAPH_RESOLUTION_PX = 128
"""Resolution of nets that are trained from scratch on images of unequal sizes, if none is asked for."""

_SCALED = ("resann", "denseann", "msdnet")
_NAMED = re.compile(r"([a-z][a-z0-9_-]*)(?:@(\d{1,4}))?")


def short_names() -> tuple[str, ...]:
    """The names that :func:`arch_named` takes, torchvision's networks among them."""
    from stream_ann.nets.backbones import backbones

    own = [name.removeprefix("efficientnet-") for name in architectures() if name.startswith("efficientnet-lite")]
    return (*_SCALED, *own, *backbones())


def resolution_named(text: str) -> int | None:
    """The resolution in a short name: 64 for ``"msdnet@64"``, None for ``"msdnet"`` or anything else."""
    found = _NAMED.fullmatch(text)
    return int(found[2]) if found and found[2] else None


def arch_named(text: str, *, classes: int, data_resolution_px: int = 0) -> dict[str, Any]:
    """What :func:`stream_ann.nets.build` makes the net from.

    Args:
        text: ``NAME`` or ``NAME@PIXELS``: resann, denseann, msdnet, lite0 to lite4, or a network of torchvision. Or
            JSON as in a weights card's ``arch``, or the path of a file with it, ending in ``.json``.
        classes: Number of classes; overrides what JSON says.
        data_resolution_px: Side of the images where all are squares of one size, 0 where they differ: the resolution
            if none is named.

    Raises:
        UsageError: There is no such architecture, or no such file, or it is not JSON.
    """
    if text.lstrip().startswith("{") or text.endswith(".json"):
        return arch_for_classes(_from_json(text), classes)
    found = _NAMED.fullmatch(text)
    if not found:
        remedy = "write NAME, NAME@PIXELS, JSON, or the path of a .json file"
        raise UsageError(f"architecture '{text}' cannot be read", remedy)
    name = found[1]
    small = 0 < data_resolution_px <= 96
    resolution_px = int(found[2]) if found[2] else (data_resolution_px if small else PHOTOGRAPH_RESOLUTION_PX)
    arch: dict[str, Any] = {"classes": classes, "resolution_px": resolution_px}
    if name in _SCALED:
        return {"name": name, **arch, "stem": _stem(resolution_px)}
    if f"efficientnet-{name}" in architectures():
        return {"name": f"efficientnet-{name}", **arch}
    names = short_names()
    if name in names:
        return {"name": "torchvision", "network": name, **arch}
    raise UsageError(f"no architecture is called '{name}'", nearest(name, names))


def _stem(resolution_px: int) -> str:
    """The stem that brings the images to about 32 px, as the nets were designed for."""
    if resolution_px < 48:
        return "3x3"
    if resolution_px < 96:
        return "3x3/2"
    return "3x3/4" if resolution_px < 176 else "7x7/4"


def _from_json(text: str) -> Mapping[str, Any]:
    try:
        source = text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8")
        arch = json.loads(source)
    except OSError as error:
        raise UsageError(f"architecture file '{text}' cannot be read: {error.strerror}", "name a JSON file") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the architecture is not JSON: {error}", 'write e.g. {"name": "resann", "n": 3}') from error
    if not isinstance(arch, dict):
        raise UsageError("the architecture is not a JSON object", 'write e.g. {"name": "resann", "n": 3}')
    arch = arch.get("arch", arch)  # a weights card
    if not isinstance(arch, dict):
        raise UsageError("the card's 'arch' is not a JSON object", 'write e.g. {"name": "resann", "n": 3}')
    if "classes" not in arch and arch.get("name") not in ("eann", "boosted"):
        arch = {**arch, "classes": 2}
    return arch
