"""Where weights lie: from a name or a path to a card."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from stream_ann.errors import UnknownWeightsError, nearest

__all__ = ["FOLDERS_VARIABLE", "SUFFIXES", "bundled_folder", "locate", "names"]

FOLDERS_VARIABLE = "STREAM_ANN_WEIGHTS"
"""Environment variable with more folders to look for names in, before the bundled one; separated like PATH."""

SUFFIXES = (".json", ".safetensors")
"""Endings of a card and of its weights file."""


def bundled_folder() -> Path:
    """The folder of the weights that come with the package."""
    return Path(__file__).resolve().parent.parent.parent / "weights"


def names() -> dict[str, Path]:
    """Where the card of each name lies, or should lie. The first folder that has a name wins."""
    folders = [Path(f) for f in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if f]
    found: dict[str, Path] = {}
    for folder in (*folders, bundled_folder()):
        with suppress(OSError):  # a folder of the list that is not there or may not be read
            for entry in sorted(folder.iterdir()):
                if entry.suffix in SUFFIXES and not entry.name.startswith("."):
                    found.setdefault(entry.stem, entry.with_suffix(".json"))
    return found


def locate(name_or_path: str | os.PathLike[str]) -> Path:
    """The path at which the card of the weights lies, or should lie.

    Raises:
        UnknownWeightsError: There are no weights of that name or at that path, or a folder holds more than one.
    """
    given = os.fspath(name_or_path)
    if given.endswith(SUFFIXES) or os.path.isabs(given) or os.path.dirname(given):
        if given.endswith(SUFFIXES) and any(os.path.exists(Path(given).with_suffix(suffix)) for suffix in SUFFIXES):
            return Path(given).with_suffix(".json")
        if os.path.isdir(given):
            return _only_one(Path(given))
        what = f"there are no weights at '{given}'"
        if not given.endswith(SUFFIXES):
            what += ": it is neither a folder nor the path of a .json or .safetensors file"
        raise UnknownWeightsError(what, nearest(Path(given).stem, names()))
    known = names()
    if given in known:
        return known[given]
    if os.path.isdir(given):
        return _only_one(Path(given))
    raise UnknownWeightsError(f"no weights are called '{given}'", nearest(given, known))


def _only_one(folder: Path) -> Path:
    try:
        found = sorted(p for p in folder.iterdir() if p.suffix == ".safetensors" and not p.name.startswith("."))
    except OSError as error:
        raise UnknownWeightsError(
            f"folder '{folder}' cannot be read: {error.strerror}", "see its permissions"
        ) from error
    if len(found) == 1:
        return found[0].with_suffix(".json")
    if not found:
        raise UnknownWeightsError(f"folder '{folder}' holds no weights", "name a folder with a .safetensors file")
    shown = ", ".join(p.name for p in found[:5]) + (", …" if len(found) > 5 else "")
    raise UnknownWeightsError(f"folder '{folder}' holds {len(found)} weights files", f"name one of them: {shown}")
