"""Every example of the README and of the pages in docs/ runs, and the tables say what was measured."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks.camera import RtspCamera, encode_pattern
from cli import app
from scripts import update_readme
from tests.labelling import tiny_weights
from tests.small_weights import save_small_distilled, save_small_eann
from tests.videos import encode, numbered

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()
PAGES = {"README.md": TEXT} | {f"docs/{p.name}": p.read_text() for p in sorted((ROOT / "docs").glob("*.md"))}
FIRST_FRAMES = ("--max-frames", "2")


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str = TEXT) -> list[str]:
    lines = [
        line[2:].split("  #")[0].strip()
        for block in blocks("console", text)
        for line in block.replace("\\\n", " ").splitlines()
        if line[:2] == "$ "
    ]
    return [line for line in lines if line.startswith("stream-ann ")]


EXAMPLES = [(page, command) for page, text in PAGES.items() for command in dict.fromkeys(commands(text))]
PYTHON = [(page, block) for page, text in PAGES.items() for block in blocks("python", text)]


@pytest.fixture(scope="module")
def camera() -> Iterator[RtspCamera]:
    """What answers in the place of every network camera that an example names."""
    with RtspCamera(encode_pattern(size_px=(160, 120), frames=50)) as running:
        yield running


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with the files that the examples name."""
    clip = (ROOT / "stream_ann" / "assets" / "demo.mp4").read_bytes()
    (tmp_path / "holiday.mp4").write_bytes(clip)
    (tmp_path / "shots").mkdir()
    (tmp_path / "videos").mkdir()
    for i in range(2):
        encode(tmp_path / "videos" / f"{i}.mp4", numbered(8))
    for i, name in enumerate(("rose", "tulip")):
        (tmp_path / "flowers" / name).mkdir(parents=True)
        for j in range(4):
            picture = np.full((48, 64, 3), 100 * i + 10 * j, np.uint8)
            Image.fromarray(picture).save(tmp_path / "flowers" / name / f"{j}.png")
    tiny_weights(tmp_path)
    for name in ("rose", "tulip"):
        (tmp_path / "photographs" / name).mkdir(parents=True)
        Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(tmp_path / "photographs" / name / "0.png")
    (tmp_path / "arrivals.txt").write_text("0.00\n0.04\n0.09\n0.12\n")
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


def stood_in(words: list[str], camera: RtspCamera) -> list[str]:
    """A command with what is not here replaced by what is: cameras, a screen, and the patience for a whole run."""
    words = [camera.url if re.match(r"(rtsps?|https?)://", word) else word for word in words]
    if words[0] == "live":
        words += ["--device", "cpu", *(() if "--max-frames" in words else FIRST_FRAMES)]
        if "window" in words:  # which tests/test_sinks_window.py opens on a screen of its own
            words[words.index("window")] = "none"
        if "web" in words and "--web-port" not in words:
            words += ["--web-port", "0"]
    if words[0] == "train":
        words += ["--device", "cpu", "--epochs", "1", "--val-fraction", "0.5"]
    if words[0] == "distill":  # a small teacher and few pictures
        save_small_eann(Path("small"), (96, 128))
        words[1] = "flowers"
        words += ["--weights", "small.json", "--device", "cpu", "--epochs", "1", "--batch-size", "2"]
        words += ["--val-fraction", "0.5"]
    if words[:2] == ["weights", "blend"]:
        small = save_small_eann(Path("small"), (96, 128))
        words[2:4] = [str(small), str(save_small_distilled(Path("sharper"), small))]
    if words[:2] == ["bench", "arrivals"]:
        words[-1] = "0.2"
    elif words[0] == "bench" and words[1] != "compare":
        # a film of two frames and a small network in place of the clip's: every exit of every rival sees each frame
        words += ["--labels", "photographs", "--motion-fps", "1", "--fps", "30", "--duration-s", "0.3", "--simulate"]
        words += ["--device", "cpu", "--weights", "tiny.json"]
    return words


def test_there_are_examples():
    assert len(commands()) >= 6
    assert len(blocks("python")) >= 2


@pytest.mark.parametrize(("page", "command"), EXAMPLES, ids=[f"{page}: {command}" for page, command in EXAMPLES])
def test_command_runs(page, command, folder, camera):
    words = shlex.split(command.split(" | ")[0])[1:]
    if "my-flowers" in words and words[0] != "train":
        train_small("my-flowers")
    for report in {word for word in words if word.endswith("/report.json")}:  # an earlier example's
        made = stood_in(["bench", "--out", report.removesuffix("/report.json")], camera)
        assert CliRunner().invoke(app, made).exit_code == 0
    words = stood_in(words, camera)
    result = CliRunner().invoke(app, words)
    if words[:2] == ["live", "0"] and result.exit_code == 1:
        assert "0" in result.stderr  # no webcam here, which is said
        return
    assert result.exit_code == 0, result.stderr
    if "--plot" in words:
        assert (folder / "curve.png").stat().st_size > 0
    if "--record" in words:
        assert list(folder.glob("out*.m*"))


@pytest.mark.parametrize(("page", "block"), PYTHON, ids=[f"{page} {i}" for i, (page, _) in enumerate(PYTHON)])
def test_python_runs(page, block, folder, capsys):
    exec(compile(block, page, "exec"), {"__name__": "example"})
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


def frame_rates_result() -> dict[str, Any]:
    """What the benchmark of frame rates writes, as far as the README tells it."""

    def one(ratio: float, in_time: float) -> dict[str, float]:
        first = {"first_p50_ms": 5.25, "first_p99_ms": 31.5}
        return {"accuracy": 0.6 * ratio, "ratio": ratio, "error": 0.01, "in_time": in_time, **first}

    rates = [
        {"fps": 15.0, "best_fixed": "fixed b", "best_fixed_accuracy": 0.6, "policies": {"p": one(1.05, 1.0)}},
        {"fps": 60.0, "best_fixed": "fixed b", "best_fixed_accuracy": 0.6, "policies": {"p": one(0.97, 0.9)}},
        {"fps": 90.0, "best_fixed": "fixed a", "best_fixed_accuracy": 0.6, "policies": {"p": one(0.99, 0.1)}},
    ]
    summary = {"rates": rates, "ratio_mean": {"p": 1.003}, "ratio_least": {"p": 0.97}}
    summary |= {"ratio_mean_error": {"p": 0.012}, "ratio_least_error": {"p": None}}
    worst = {"contender": "net, p", "fps": 60.0, "points": 1.25, "error": 0.5}
    clocks = {"runs": 6, "beyond_2_points": 0, "worst": worst, "replayed_worst_points": 0.75}
    clocks["mean_points"] = {"value": 0.25, "error": 0.125}
    quiet = {"other_cores": 0.02, "step_times_end_over_start": {"net": 0.99, "fixed a": 1.03}}
    paper = {
        "summary": summary,
        "stream": {"scenes": 80, "dwell_s": 1.0},
        "exit_accuracy": [{"exit": "a", "value": 0.5, "error": 0.02}, {"exit": "b", "value": 0.7, "error": 0.03}],
    }
    results = {
        "data": "photographs",
        "two_runs_of_a_seed": {"identical": True},
        "paper, regular": paper,
        "paper, jittered": paper,
        "paper, recorded": paper,
        "real": {"summary": summary | {"simulated": clocks, "quiet": quiet}},
    }
    machine = {"processor": "CPU", "cores": 2}
    return {"command": "command", "options": {"out": "some/frame_rates.json"}, "machine": machine, "results": results}


def test_frame_rates_are_told_as_they_are(monkeypatch):
    monkeypatch.setattr(update_readme, "result", lambda name: frame_rates_result())
    text = update_readme.frame_rates_section()
    assert "| 60 | b: 60.0 % | 58.2 %, 0.970 ± 0.010; 90 % |" in text
    assert "`p`: 1.003 ± 0.012 times the best fixed network on average, 0.970 at the worst rate" in text
    assert "at least as good at 1 of 3 rates; worse by more than two standard errors at 60 frames/s;" in text
    assert "frames/s; with jittered arrivals 1.003 and 0.970, with recorded arrivals 1.003 and 0.970; every" in text
    assert "every frame in time at 15 frames/s; first answers at 15 frames/s after 5 / 32 ms (p50 / p99)." in text
    assert (
        "6 runs in real time 0 differ by more than 2 points from the simulated clock (on average by +0.25 ± 0.12)"
        in text
    )
    assert "net, p at 60 frames/s, by +1.2 ± 0.5 (replayed with each run's own times the worst is 0.8)" in text
    assert "0.99 to 1.03 times" in text
    assert "gave identical bytes" in text


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGES[page]):
        if not target.startswith("https://"):
            assert ((ROOT / page).parent / target).exists(), target
