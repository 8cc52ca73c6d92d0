"""Every example of the README runs, and its tables say what was measured."""

from __future__ import annotations

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
    for i in range(3):
        Image.fromarray(np.full((40, 60, 3), 60 * i, np.uint8)).save(tmp_path / "shots" / f"{i}.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_examples():
    assert len(commands()) >= 6
    assert len(blocks("python")) >= 2


@pytest.mark.parametrize("command", commands())
def test_command_runs(command, folder):
    words = shlex.split(command)[1:]
    if words[0] == "live":
        words += ["--device", "cpu"]
        if "--max-frames" not in words:
            words += ["--max-frames", "2"]
    result = CliRunner().invoke(app, words)
    if words[:2] == ["live", "0"] and result.exit_code == 1:
        assert "0" in result.stderr  # no webcam here, which is said
        return
    assert result.exit_code == 0, result.stderr
    if "--record" in words:
        assert (folder / "out.mp4").stat().st_size > 0


@pytest.mark.parametrize("block", blocks("python"), ids=range(len(blocks("python"))))
def test_python_runs(block, capsys):
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_tables_say_what_was_measured():
    assert update_readme.updated(TEXT) == TEXT


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        if not target.startswith("https://"):
            assert (ROOT / target).exists(), target
