"""Compiled models in the user's cache folder, so that only the first opening takes seconds."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import io
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from stream_ann.engines.openvino_runtime import capabilities, core, openvino
from stream_ann.nets.contract import AnytimeNet
from stream_ann.whole_files import whole_file

__all__ = ["cache_folder", "joined_key", "key_of", "read", "write"]

LIMIT_BYTES = 1 << 30
"""How large the folder may become; the models that were not used for longest go first."""

_SUFFIX = ".blob"


def cache_folder() -> Path:
    """Where compiled models are kept: ``stream_ann/openvino`` in ``$XDG_CACHE_HOME``, by default ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "stream_ann" / "openvino"


def key_of(net: AnytimeNet) -> str | None:
    """What a compiled model of ``net`` depends on, in short: weights, modules and their code, versions, the processor.

    Returns:
        Hexadecimal digits; None where the code of a module cannot be found, so that nothing may be kept.
    """
    digest = hashlib.sha256(repr(net).encode())
    for name, tensor in net.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy()))
    here = Path(__file__).parent
    files = {*here.glob("openvino_*.py"), *(here.parent / "nets").glob("*.py")}
    for kind in {type(module) for step in net.steps for module in step.modules()}:
        if kind.__module__.split(".")[0] in ("torch", "torchvision"):
            continue  # known by their versions
        try:
            files.add(Path(inspect.getfile(kind)))
        except (TypeError, OSError):
            return None
    try:
        for path in sorted(files):
            digest.update(path.read_bytes())
    except OSError:
        return None
    # torchvision takes a second to import, where none of its networks runs
    versions = (torch.__version__, importlib.metadata.version("torchvision"), openvino().__version__)
    processor = (core().get_property("CPU", "FULL_DEVICE_NAME"), sorted(capabilities()))
    digest.update(repr((versions, processor)).encode())
    return digest.hexdigest()


def joined_key(*parts: str) -> str:
    """One key made of several."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]


def read(key: str) -> io.BytesIO | None:
    """What was kept under a key, or None; what is damaged or somebody else's counts as not there."""
    path = cache_folder() / (key + _SUFFIX)
    try:
        if not (_is_ours(path) and _is_ours(path.parent)):
            return None
        content = path.read_bytes()
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            return None
        with suppress(OSError):
            os.utime(path)  # used just now: the others go first
        return io.BytesIO(content[32:])
    except OSError:
        return None


def write(key: str, compiled: Any) -> None:
    """Keep a compiled model. Does nothing where the folder cannot be written to."""
    content = compiled.export_model().getvalue()
    folder = cache_folder()
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with whole_file(folder / (key + _SUFFIX)) as file:
            file.write(hashlib.sha256(content).digest())
            file.write(content)
        _prune(folder.glob("*" + _SUFFIX))


def _is_ours(path: Path) -> bool:
    """Whether nobody else can write there: a compiled model is run as it is, so it must not be somebody else's."""
    if not hasattr(os, "geteuid"):
        return True
    info = path.stat()
    return info.st_uid == os.geteuid() and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _prune(paths: Iterable[Path]) -> None:
    """Delete what was not used for longest, until the rest is within the limit."""
    entries = sorted(((path.stat().st_mtime, path.stat().st_size, path) for path in paths), reverse=True)
    total = 0
    for _, size, path in entries:
        total += size
        if total > LIMIT_BYTES:
            path.unlink(missing_ok=True)
