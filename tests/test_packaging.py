"""A built wheel works on its own, outside the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("stream_ann", "pipelines", "commands", "weights", "cli.py", "pyproject.toml", "README.md", "LICENSE")


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "STREAM_ANN_WEIGHTS")}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("source")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder / part)
    run(
        *(
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            "dist",
            ".",
        ),
        cwd=folder,
    )
    (built,) = (folder / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_all_code_and_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {"cli.py"}
    for part in ("stream_ann", "pipelines", "commands", "weights"):
        wanted |= {
            str(path.relative_to(ROOT))
            for path in (ROOT / part).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
    assert packed == wanted
    assert "weights/imagenet.safetensors" in packed
    assert "stream_ann/assets/demo.mp4" in packed


def test_it_runs_from_another_folder_without_the_checkout(wheel, tmp_path):
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=tmp_path)
    venv = tmp_path / "venv"
    python = venv / "bin" / "python"
    site = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).stdout.strip()
    )
    # the new environment sees the dependencies that are installed, but not the checkout: path lines of a .pth file are
    # added as they are, and .pth files in those folders are not read
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel, cwd=tmp_path)

    where = run(python, "-c", "import cli, pipelines, stream_ann; print(pipelines.__file__)", cwd=tmp_path).stdout
    assert Path(where.strip()).is_relative_to(venv)
    command = venv / "bin" / "stream-ann"
    assert run(command, "--version", cwd=tmp_path).stdout.startswith("stream-ann 0.")
    verified = run(command, "weights", "verify", cwd=tmp_path).stdout
    assert all(
        f"{name}.json: values of the tensors: ok" in verified for name in ("imagenet", "tiny-imagenet", "cifar10-jpeg")
    )
    events = run(
        *(command, "live", "demo", "--no-realtime", "--max-frames", "2", "--view", "none", "--events", "-"),
        cwd=tmp_path,
    )
    lines = [json.loads(line) for line in events.stdout.splitlines()]
    assert [line["frame"] for line in lines] == [0, 1]
    assert all(line["source"] == "demo" for line in lines)
