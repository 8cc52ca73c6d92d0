"""Inputs that once broke something, each as small as it could be made."""

from __future__ import annotations

import json
import struct

import pytest

from stream_ann.errors import StreamAnnError, UsageError
from stream_ann.ingest import SourceUrl, source_from
from stream_ann.ingest.url import redact
from stream_ann.streaming import TimeTable
from tests.fuzz.arguments import command_line
from tests.fuzz.targets import TARGETS

HUGE = 10**400
DEEP = "[" * 20_000


def header(about: str) -> bytes:
    """A checkpoint without tensors."""
    text = json.dumps({"__metadata__": {"stream_ann.checkpoint": about}}).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("target", "data"),
    [
        ("arch", DEEP.encode()),
        ("arch", b'{"arch": true}'),
        ("arch", b'{"arch": null}'),
        ("checkpoint", header(DEEP)),
        ("hedging", json.dumps({"targets": [HUGE], "thresholds": [[0.5]]}).encode()),
        ("shots", json.dumps({"shots": [{"start_s": HUGE, "end_s": 1, "labels": []}]}).encode()),
        ("trace", f"1\n{HUGE}\n".encode()),
        ("words", b"~\0"),
        ("words", b"file://["),
    ],
)
def test_it_is_refused_in_the_words_of_this_package(target, data, tmp_path):
    TARGETS[target].inputs(tmp_path / "corpus")
    (tmp_path / "work").mkdir()
    with pytest.raises(StreamAnnError):
        TARGETS[target].check(data, tmp_path / "work")


@pytest.mark.parametrize("host", ["camera", "camera:554", "camera.example"])
@pytest.mark.parametrize("path", ["/a:b@c.d/e", "/a@b", "/live:1@x"])
def test_a_token_before_a_path_that_looks_like_a_password_is_hidden(host, path):
    url = f"rtsp://t0ken%21secret@{host}{path}"
    parsed = SourceUrl(url)
    for text in (redact(url), str(parsed), parsed.hide(f"opening {parsed.secret}"), parsed.hide(url)):
        assert "t0ken" not in text


@pytest.mark.parametrize("rest", ["", "/live", "/\r\nX: y"])
def test_a_password_that_goes_on_behind_an_at_and_a_space_is_hidden(rest):
    url = f"rtsp://me:first@5#s3cret ,2@{rest}"
    parsed = SourceUrl(url)
    told = [parsed.hide(f"opening {parsed.secret}"), parsed.hide(f"opening {url}"), parsed.hide("no host 5#s3cret ,2")]
    for text in (redact(url), str(parsed), *told):
        assert "first" not in text
        assert "s3cret" not in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "small", "photos", "rtsp://me:s3cret@camera/live"],
        ["evaluate", "small", "rtsp://me:s3cret@camera/live"],
        ["bench", "clip.mp4", "rtsp://me:s3cret@camera/live"],
        ["live", "demo", "--top-k", "rtsp://me:s3cret@camera/live"],
        ["rtsp://me:s3cret@camera/live"],
        ["weights", "verify", "rtsp://me:s3cret@camera/live"],
        ["weights", "show", "rtsp://me:s3cret@camera/live"],
    ],
)
def test_a_password_in_the_wrong_place_is_not_repeated(arguments):
    code, out, err = command_line(arguments)
    assert code in (1, 2)
    assert "s3cret" not in out + err


@pytest.mark.parametrize("line", [b"/", b".", b"//", b"./"])
def test_a_line_of_a_list_without_a_name_is_a_video_that_cannot_be_read(line, tmp_path):
    TARGETS["list"].check(line + b"\nclip.mp4\n", tmp_path)


def test_half_a_character_is_in_no_path():
    with pytest.raises(UsageError, match="half a character"):
        source_from("~\udb1f.mp4")


def test_step_times_too_large_for_a_float_are_refused():
    with pytest.raises(UsageError, match="step times are not as"):
        TimeTable.from_dict({"steps_ms": [[1.0]], "start_ms": [1.0], "between_ms": [10**400]})
