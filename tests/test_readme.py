"""Every example of the README runs, and its tables say what was measured."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cli import app
from scripts import update_readme

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [
        line[2:].split("  #")[0].strip()
        for block in blocks("console")
        for line in block.splitlines()
        if line[:2] == "$ "
    ]
    return [line for line in lines if line.startswith("stream-ann ")]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with the files that the examples name."""
    (tmp_path / "holiday.mp4").write_bytes((ROOT / "stream_ann" / "assets" / "demo.mp4").read_bytes())
    (tmp_path / "shots").mkdir()
    for i, name in enumerate(("rose", "tulip")):
        (tmp_path / "flowers" / name).mkdir(parents=True)
        for j in range(4):
            picture = np.full((48, 64, 3), 100 * i + 10 * j, np.uint8)
            Image.fromarray(picture).save(tmp_path / "flowers" / name / f"{j}.png")
    for i in range(3):
        Image.fromarray(np.full((40, 60, 3), 60 * i, np.uint8)).save(tmp_path / "shots" / f"{i}.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train_small(name: str) -> None:
    """What the example of training leaves behind, for the examples that follow it."""
    words = [
        "train",
        "flowers",
        "--arch",
        "resann@32",
        "--out",
        name,
        "--epochs",
        "1",
        "--no-plots",
        "--val-fraction",
        "0.5",
    ]
    assert CliRunner().invoke(app, [*words, "--device", "cpu"]).exit_code == 0


def test_there_are_examples():
    assert len(commands()) >= 6
    assert len(blocks("python")) >= 2


@pytest.mark.parametrize("command", commands())
def test_command_runs(command, folder):
    words = shlex.split(command)[1:]
    if "my-flowers" in words and words[0] != "train":
        train_small("my-flowers")
    if words[0] == "live":
        words += ["--device", "cpu"]
        if "--max-frames" not in words:
            words += ["--max-frames", "2"]
    if words[0] == "train":
        words += ["--device", "cpu", "--epochs", "1", "--val-fraction", "0.5"]
    result = CliRunner().invoke(app, words)
    if words[:2] == ["live", "0"] and result.exit_code == 1:
        assert "0" in result.stderr  # no webcam here, which is said
        return
    assert result.exit_code == 0, result.stderr
    if "--plot" in words:
        assert (folder / "curve.png").stat().st_size > 0
    if "--record" in words:
        assert (folder / "out.mp4").stat().st_size > 0


@pytest.mark.parametrize("block", blocks("python"), ids=range(len(blocks("python"))))
def test_python_runs(block, capsys):
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_event_shown_is_what_the_command_prints():
    """All but the times, which differ from run to run."""
    (shown,) = [json.loads(block) for block in blocks("json")]
    command = next(c for c in commands() if "--top-k 2" in c)
    result = CliRunner().invoke(app, [*shlex.split(command)[1:], "--device", "cpu"])
    printed = json.loads(result.stdout)
    assert list(printed) == list(shown)
    for key in ("source", "frame", "pts_s", "label", "class_id", "exit", "budget_ms", "replaced_before", "ended"):
        assert printed[key] == shown[key]
    assert printed["confidence"] == pytest.approx(shown["confidence"], abs=0.01)
    assert [name for name, _ in printed["top"]] == [name for name, _ in shown["top"]]
    assert [set(e) for e in printed["exits"]] == [set(e) for e in shown["exits"]]


def test_tables_say_what_was_measured():
    assert update_readme.updated(TEXT) == TEXT


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        if not target.startswith("https://"):
            assert (ROOT / target).exists(), target
