"""Every command with every option, and values that make sense, nearly make sense, and make none."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import typer.main
from hypothesis import strategies as st

from commands.app import app
from commands.shared import report_usage
from stream_ann.errors import UsageError
from tests.fuzz import corpus
from tests.fuzz.damage import any_text
from tests.fuzz.data import small_weights
from tests.fuzz.target import Target

__all__ = ["TARGETS"]

_LEFT_OUT = frozenset({"help", "compile", "compile_steps", "cluster", "version", "install_completion"})
"""Options that start what takes minutes, or say something about the command line itself."""
_WORDS = (
    *("", "a", "0", "-1", "1", "2", "7", "0.5", "nan", "inf", "-inf", "1e308", "1e-308", "9" * 20, "auto", "cpu"),
    *("cuda:7", "imagenet", "imagnet", "small.json", "clip.avi", "clip*.avi", "nothing.mp4", "noise.mp4", ".", "-"),
    *("@list.txt", "cat", "cat=ant,bee", "other", "in-order", "resann", "resann@16", "lite0@32", "{}", "1280x720"),
    *("90s", "http://127.0.0.1:9/x", "rtsp://me:Zq7secret@127.0.0.1:9/", "pattern:64x48@500", "pattern:1x1", "--"),
)
_PATHS = (
    *("out.jsonl", "out.csv", "out.mp4", "out.mkv", "out", "new/out.json", "clip.avi", "tree.txt", "list.txt"),
    *("noise.mp4", "report.json", "small.json", "photos", "/dev/null", "/dev/full", "", "a\nb.jsonl", "x" * 300),
)
_ALWAYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # what goes before and behind what is drawn, so that nothing runs for minutes
    "live": (
        ("--weights", "small.json", "--device", "cpu", "--view", "none", "--connect-timeout-s", "0.3"),
        ("--max-frames", "2", "--reconnect-attempts", "0", "--no-realtime"),
    ),
    "label": (("--weights", "small.json", "--device", "cpu", "--out", "out.jsonl"), ()),
    "bench": (
        ("--weights", "small.json", "--device", "cpu", "--fps", "5", "--against", "none"),
        ("--duration-s", "0.2", "--scenes", "2", "--simulate"),
    ),
    "train": (
        ("--arch", "resann@16", "--out", "trained", "--no-plots", "--device", "cpu", "--batch-size", "4"),
        ("--epochs", "1", "--limit-per-class", "3"),
    ),
    "evaluate": (("--device", "cpu"), ()),
    "weights convert": (("--out", "converted"), ("--members", "lite9@32")),
}
_SOURCES = {
    "live": ("clip.avi", "clip.avi", "photos/ant", "pattern:64x48@500", "noise.mp4", "nothing.mp4"),
    "label": ("clip.avi", "clip.avi", ".", "clip*.avi", "noise.mp4", "@list.txt"),
    "bench": ("clip.avi", "photos"),
    "train": ("photos",),
    "evaluate": ("small.json", "photos"),
}
_TRACEBACK = re.compile(r"Traceback \(most recent call last\)")
_originals: dict[str, bytes] = {}


def _commands() -> Iterator[tuple[str, Any]]:
    """Name and click's description of each command, those of groups by both their names."""
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        if hasattr(command, "commands"):
            yield from ((f"{name} {inner}", one) for inner, one in command.commands.items())
        else:
            yield name, command


@st.composite
def _command_lines(draw: st.DrawFn) -> bytes:
    name, command = draw(st.sampled_from(_KNOWN))
    before, behind = _ALWAYS.get(name, ((), ()))
    line = [*name.split(), *before]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name not in _LEFT_OUT]
    for _ in range(draw(st.integers(0, 4)) if options else 0):
        option = draw(st.sampled_from(options))
        line.append(draw(st.sampled_from([*option.opts, *option.secondary_opts])))
        if not option.is_flag:
            line.append(draw(_value(option)))
    usual = _SOURCES.get(name, _WORDS)
    for _ in arguments:
        line += draw(st.lists(st.sampled_from((*usual, *usual, *usual, *_WORDS)), min_size=1, max_size=2))
    if draw(st.integers(0, 9)) == 0:
        line.insert(draw(st.integers(1, len(line))), draw(any_text(max_size=12)))
    return json.dumps([*line, *behind]).encode()


def _value(option: Any) -> st.SearchStrategy[str]:
    """Whatever may be meant: what the option's help names, words, paths, and anything."""
    named = tuple(re.findall(r"[a-z0-9.:@-]+", (option.help or "").lower())) or _WORDS
    return st.one_of(st.sampled_from(named), st.sampled_from(_WORDS), st.sampled_from(_PATHS), any_text(max_size=8))


_KNOWN = [(name, command) for name, command in _commands() if name != "doctor"]


def _lines(folder: Path) -> st.SearchStrategy[bytes]:
    _originals["small.json"], _originals["small.safetensors"] = small_weights(folder)
    _originals["clip.avi"] = corpus.clip(folder)
    _originals["photo.png"] = corpus.images(folder)["rgb.png"]
    return _command_lines()


def _command(data: bytes, folder: Path) -> None:
    """Exit code 0, 1 or 2, and where it is 1, a line that says why; never a traceback, never the password."""
    for name in ("small.json", "small.safetensors", "clip.avi"):
        (folder / name).write_bytes(_originals[name])
    for number in range(8):
        photo = folder / "photos" / ("ant", "bee")[number % 2] / f"{number}.png"
        photo.parent.mkdir(parents=True, exist_ok=True)
        photo.write_bytes(_originals["photo.png"])
    (folder / "noise.mp4").write_bytes(_originals["clip.avi"][:200] + bytes(range(256)))
    (folder / "list.txt").write_text("clip.avi\nnothing.mp4\n")
    (folder / "tree.txt").write_text("animal\n  ant\n  bee\n  cat\n  dog\n  eel\n")
    (folder / "report.json").write_text("{}")
    arguments = [argument.replace("\0", "") for argument in json.loads(data)]
    code, out, err = command_line(arguments)
    assert code in (0, 1, 2), (code, err)
    assert not _TRACEBACK.search(err + out), err
    assert "Zq7secret" not in err + out
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) <= 1, errors
    if code:
        assert errors or (out + err).strip(), "it says nothing"
        raise UsageError("refused")


def command_line(arguments: Sequence[str]) -> tuple[int, str, str]:
    """Run a command in this process as the entry point does: exit code, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = app(args=list(arguments), standalone_mode=False)
        except SystemExit as end:
            code = end.code
        except Exception as error:
            code = report_usage(error)
    return code if isinstance(code, int) else 0, out.getvalue(), err.getvalue()


TARGETS = (Target("command", "command lines", _lines, _command, 5, timeout_s=120.0),)
