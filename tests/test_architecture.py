"""The arrows of docs/architecture.md: imports point downwards only, and rooms of one floor do not know each other."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GROUND = {
    "errors": set(),
    "machine": set(),
    "clock": set(),
    "containers": set(),
    "frames": set(),
    "packets": set(),
    "text": set(),
    "whole_files": set(),
    "painting": {"text"},
    "nets": {"errors"},
    "preprocess": {"errors"},
    "readout": {"errors", "frames"},
    "lanes": {"nets"},
    "scenes": set(),
    "states": set(),
    "stats": {"frames", "states"},
    "batching": set(),
    "labelled": set(),
    "manifest": {"errors", "whole_files"},
    "labels": {"errors", "frames", "scenes", "text"},
    "streaming": {"clock", "errors", "frames", "nets"},
    "card": {"errors", "nets", "preprocess"},
}
"""Floor 1: each room and the rooms of the same floor that it builds on."""
UPPER = {"engines", "scheduler", "ingest", "sinks", "overlay", "weights", "training"}
"""Floor 2: may use all of floor 1 and nothing of floor 2."""


def modules() -> list[Path]:
    return [
        *sorted(p for d in ("stream_ann", "pipelines", "commands") for p in (ROOT / d).rglob("*.py")),
        ROOT / "cli.py",
    ]


def imported(path: Path) -> set[str]:
    """Dotted names of everything that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def room_of(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if parts[0] == "stream_ann" and len(parts) > 1 else None


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path: Path):
    relative = path.relative_to(ROOT)
    tops = {name.split(".")[0] for name in imported(path)}
    assert not tops & {"tests", "benchmarks", "scripts"}
    if relative.parts[0] == "stream_ann":
        assert not tops & {"pipelines", "commands", "cli"}
        if len(relative.parts) == 2 and relative.stem == "__init__":
            return
        room = relative.parts[1].removesuffix(".py")
        rooms = {r for name in imported(path) if (r := room_of(name)) is not None} - {room}
        if room in GROUND:
            extra = rooms - GROUND[room] - {"__version__"}
            assert not extra, f"{relative} on floor 1 imports {extra}"
        elif room != "assets":
            assert room in UPPER, f"{relative}: which floor is this on? Add it to this test and to docs/architecture.md"
            extra = rooms - set(GROUND) - {"__version__"}
            assert not extra, f"{relative} on floor 2 imports {extra} of its own floor"
    elif relative.parts[0] == "pipelines":
        assert not tops & {"commands", "cli"}
    elif relative.parts[0] == "commands":
        assert "cli" not in tops


def test_ingest_knows_nothing_of_networks():
    for path in (ROOT / "stream_ann" / "ingest").glob("*.py"):
        assert not {n.split(".")[0] for n in imported(path)} & {"torch", "torchvision"}, path
        assert "nets" not in {room_of(n) for n in imported(path)}, path


def test_nets_know_nothing_of_video_and_threads():
    for path in (ROOT / "stream_ann" / "nets").glob("*.py"):
        assert not {n.split(".")[0] for n in imported(path)} & {"av", "cv2", "threading"}, path


def public_modules() -> list[str]:
    found = ["stream_ann", "pipelines", "commands"]
    for package in ("stream_ann", "pipelines", "commands"):
        module = importlib.import_module(package)
        found += [m.name for m in pkgutil.walk_packages(module.__path__, f"{package}.")]
    return found


@pytest.mark.parametrize("name", public_modules())
def test_all_is_importable(name: str):
    module = importlib.import_module(name)
    if not hasattr(module, "__all__"):
        assert name == "stream_ann.assets" or name.endswith("__main__"), f"{name} has no __all__"
        return
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        assert hasattr(module, public), f"{name}.__all__ names {public}, which it lacks"


def test_modules_stay_readable():
    for path in modules():
        lines = len(path.read_text().splitlines())
        assert lines <= 450, f"{path.relative_to(ROOT)} has {lines} lines: split it"


def test_opencv_is_imported_before_av():
    """The other way round, OpenCV's windows hang for ever (opencv#21952)."""
    code = "import sys, pipelines; names = list(sys.modules); assert names.index('cv2') < names.index('av')"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
