"""Hostile text and secrets: in what is printed, in tables, and on the command line."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app
from stream_ann.errors import StreamAnnError, UsageError
from stream_ann.ingest import specs_from
from stream_ann.ingest.url import SourceUrl
from stream_ann.labelled import LabelledFrame, Segment
from stream_ann.sinks.jsonl import strict_json
from stream_ann.sinks.tables import CsvText, JsonlText, VttText
from stream_ann.text import clean, plain_json, safe_cell
from tests.small_weights import save_small_weights

ROOT = Path(__file__).resolve().parent.parent
STEERING = (
    "\x1b]0;title\x07",
    "\x1b]8;;http://evil.example\x1b\\",
    "\x1b[2J",
    "\x9b31m",
    "\x9d0;title\x9c",
    "\x1bPq#0\x1b\\",
    "\x07\x08\x0c\x0e\x7f\x00",
    "\x85",
    "\u202e\u2066\u200f",
    "\ufeff\u2028\u2029",
    "\U000e0041",
    "\r\n",
)
"""What moves cursors, sets titles, makes links, turns the writing direction, or ends a line."""


class TestTerminal:
    @pytest.mark.parametrize("text", STEERING, ids=ascii)
    def test_what_steers_is_taken_out(self, text: str):
        assert clean(f"a{text}b") in ("ab", "a b")
        assert clean(f"{text}") == ""

    @pytest.mark.parametrize("text", STEERING, ids=ascii)
    def test_json_holds_it_in_a_form_that_does_nothing(self, text: str):
        for line in (strict_json({"label": text}), plain_json(json.dumps(text, ensure_ascii=False))):
            assert line.isprintable()
            assert line.splitlines() == [line]
        assert json.loads(strict_json({"label": text})) == {"label": text}

    def test_letters_stay_as_they_are(self):
        assert strict_json({"label": "Möwe, 鷗, чайка"}) == '{"label": "Möwe, 鷗, чайка"}'

    @pytest.mark.parametrize(
        "words", [["{}"], ["live", "demo", "--{}"], ["doctor", "{}"], ["live", "demo", "--view", "{}"]]
    )
    def test_wrong_usage_is_told_in_one_plain_line_without_passwords(self, words: list[str]):
        hostile = "".join(STEERING).replace("\x00", "")
        for value in (f"rtsp://me:hunter2@cam{hostile}/live", "rtsp://me:hunt'er2 x@cam/live"):
            done = cli(*(word.format(value) for word in words))
            assert done.returncode == 2
            assert done.stdout == ""
            assert done.stderr.count("\n") == 1
            assert done.stderr.removesuffix("\n").isprintable()
            assert done.stderr.startswith("error: ")
            assert "hunt" not in done.stderr

    def test_weights_are_shown_and_checked_without_what_steers(self, tmp_path: Path):
        folder = tmp_path / "w\x1b[2J\x9b31m"
        folder.mkdir()
        card = json.loads((ROOT / "weights" / "imagenet.json").read_text())
        card["description"] = card["classes"][0] = "a\u202eb"
        (folder / "bad.json").write_text(json.dumps(card))
        (folder / "bad.safetensors").write_bytes(b"\x1b[2J")
        for words in (["show"], ["show", "--json"], ["verify"]):
            done = CliRunner().invoke(app, ["weights", *words, str(folder / "bad.json")])
            assert done.stdout
            assert all(line.isprintable() for line in (done.stdout + done.stderr).splitlines())


class TestTables:
    @pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", " =", "\uff1d"], ids=ascii)
    def test_no_cell_of_a_table_becomes_a_formula(self, start: str):
        name = start + 'HYPERLINK("http://evil.example")'
        text = CsvText("frames", 1)
        frame = LabelledFrame(name, 0, 0.0, name, 0, 0.5, ((name, 0.5),), 0, ())
        rows = list(csv.reader(io.StringIO(text.head() + text.rows([frame]), newline="")))
        assert [cell[:1] for cell in rows[1] if "HYPERLINK" in cell] == ["'"] * 3
        assert safe_cell(name) == "'" + name
        assert safe_cell("tabby") == "tabby"

    def test_no_report_of_a_benchmark_or_an_evaluation_does_either(self):
        from pipelines.benchmarking import results
        from pipelines.evaluation import Evaluation

        class Entry:
            def as_dict(self) -> dict[str, object]:
                return {"contender": "=1+1", "accuracy": {"value": -0.5}, "list": [1]}

        class Figure:
            def as_dict(self) -> dict[str, object]:
                return {"name": "=1+1", "top1": -0.5}

        assert results._flat(Entry()) == {"contender": "'=1+1", "accuracy": -0.5}  # type: ignore[arg-type]
        result = object.__new__(Evaluation)
        object.__setattr__(result, "curve", type("Curve", (), {"figures": [Figure()]}))
        assert result.to_csv() == "name,top1\n'=1+1,-0.5\n"

    def test_a_label_cannot_begin_a_cue_or_hold_markup(self):
        label = "a --> b\n\n00:00:00.000 --> 00:01:00.000\n<b>&lt;<00:01.000>"
        cue = VttText().rows([Segment("x", 0.0, 1.0, label, 0, 0.5, 25, 0, 24)])
        head, text = cue.strip().split("\n")
        assert head.count("-->") == 1
        assert "-->" not in text
        assert "<" not in text
        assert "&amp;lt;" in text

    def test_a_line_of_json_stays_one_line(self):
        frame = LabelledFrame("a\u2028b\x85", 0, 0.0, "c\u2029", 0, 0.5, (("c\u2029", 0.5),), 0, ())
        assert len(JsonlText().rows([frame]).splitlines()) == 1


class TestSecrets:
    def test_a_url_that_is_not_text_is_refused_without_its_password(self):
        with pytest.raises(UsageError, match="not UTF-8") as raised:
            SourceUrl("rtsp://cam:\udcffsecret@host/live")
        assert "secret" not in str(raised.value)

    def test_sources_can_be_kept_out_of_the_list_of_processes(self, tmp_path: Path):
        file, warnings = tmp_path / "cameras.txt", list[str]()
        file.write_text("# the yard\nrtsp://cam:hunter2@yard/live\n\n  demo  \n")
        file.chmod(0o600)
        assert specs_from(["0", f"@{file}", "x"], on_warning=warnings.append) == [
            "0",
            "rtsp://cam:hunter2@yard/live",
            "demo",
            "x",
        ]
        assert not warnings
        file.chmod(0o644)
        specs_from([f"@{file}"], on_warning=warnings.append)
        assert len(warnings) == 1
        assert "chmod 600" in warnings[0]
        assert "hunter2" not in warnings[0]
        file.write_text("demo\n")
        specs_from([f"@{file}"], on_warning=warnings.append)
        assert len(warnings) == 1, "there is no password in it"

    @pytest.mark.parametrize("content", [None, b"", b"# none\n", b"\xff\xfe", bytes(3 << 20)])
    def test_a_list_of_sources_that_is_none_is_told_in_one_line(self, tmp_path: Path, content: bytes | None):
        file = tmp_path / "cameras.txt"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(StreamAnnError, match=r"the list|there is no list"):
            specs_from([f"@{file}"])

    def test_a_run_takes_its_sources_from_a_list(self, tmp_path: Path):
        file = tmp_path / "cameras.txt"
        file.write_text("pattern:64x48@50\n")
        small = ["--weights", str(save_small_weights(tmp_path)), "--engine", "torch", "--view", "none"]
        done = CliRunner().invoke(app, ["live", f"@{file}", *small, "--events", "-", "--max-frames", "2"])
        assert done.exit_code == 0, done.stderr
        assert [json.loads(line)["source"] for line in done.stdout.splitlines()] == ["pattern:64x48@50"] * 2

    @pytest.mark.parametrize("verbose", [[], ["-v"]])
    def test_no_output_of_a_run_tells_a_password(self, tmp_path: Path, verbose: list[str]):
        url = "rtsp://cam:hunter2@127.0.0.1:1/live?token=hunter3"
        events = tmp_path / "events.jsonl"
        outputs = ["--view", "none", "--events", str(events), "--record", str(tmp_path / "r.mp4")]
        small = ["--weights", str(save_small_weights(tmp_path)), "--engine", "torch", "--reconnect-attempts", "0"]
        done = CliRunner().invoke(app, [*verbose, "live", url, *small, *outputs])
        assert done.exit_code == 1
        written = "".join(path.read_text(errors="replace") for path in tmp_path.glob("*.*"))
        told = "".join(traceback.format_exception(done.exception)) if done.exception else ""
        for text in (done.stdout, done.stderr, written, told):
            assert "hunter" not in text
        assert "cam:***@" in done.stderr + told


def cli(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, as it is installed."""
    command = [sys.executable, "-c", "import cli; cli.main()", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
