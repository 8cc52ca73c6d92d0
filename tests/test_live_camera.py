"""``stream-ann live`` on a network camera, as a user runs it: how it ends, and that no password shows anywhere."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import av
import pytest

from benchmarks.camera import AccessUnit, Faults, RtspCamera, encode_pattern
from tests.labelling import tiny_weights

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-c", "import cli; cli.main()", "-v", "live", "--device", "cpu", "--engine", "torch"]
PASSWORD = "hu@nt/er?2#x"
FORMS = [PASSWORD, quote(PASSWORD, safe=""), base64.b64encode(f"me:{PASSWORD}".encode()).decode(), "hu@nt", "er?2#x"]


@dataclass
class Command:
    """A running ``stream-ann live`` and its files."""

    process: subprocess.Popen[bytes]
    folder: Path
    camera: RtspCamera

    @property
    def events(self) -> list[dict[str, Any]]:
        path = self.folder / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def until_state(self, state: str) -> None:
        deadline_s = time.monotonic() + 90
        while not any(event.get("state") == state for event in self.events):
            assert time.monotonic() < deadline_s, (state, self.events[-3:])
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)

    def everything_written(self, out: bytes, err: bytes) -> bytes:
        """Every byte that it has put out, and every file name."""
        files = sorted(self.folder.rglob("*"))
        return b"\0".join([out, err, *(f.read_bytes() for f in files), *(str(f).encode() for f in files)])


def start(folder: Path, camera: RtspCamera, weights: Path, *options: str) -> Command:
    folder.mkdir()
    arguments = [
        f"rtsp://me:{PASSWORD}@127.0.0.1:{camera.port}/live",
        *("--view", "none", "--weights", str(weights)),
        *("--events", str(folder / "events.jsonl"), "--record", str(folder / "video.mkv")),
        *("--connect-timeout-s", "30", "--read-timeout-s", "30", *options),
    ]
    process = subprocess.Popen([*COMMAND, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return Command(process, folder, camera)


@pytest.fixture(scope="module")
def units() -> list[AccessUnit]:
    return encode_pattern(frames=100)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def commands(units, weights, tmp_path_factory) -> Iterator[dict[str, Command]]:
    """One for each state, started together, since most of their time is loading."""
    folder = tmp_path_factory.mktemp("runs")
    faults = {"connecting": Faults(silent=True), "stalled": Faults(stall_after=30), "live": Faults()}
    cameras = {state: RtspCamera(units, password=PASSWORD, faults=fault) for state, fault in faults.items()}
    for camera in cameras.values():
        camera.__enter__()
    started = {state: start(folder / state, camera, weights) for state, camera in cameras.items()}
    yield started
    for command in started.values():
        command.process.kill()
        command.process.communicate()
        command.camera.stop()


@pytest.mark.parametrize(
    ("state", "number"),
    [("connecting", signal.SIGINT), ("stalled", signal.SIGTERM), ("live", signal.SIGINT)],
    ids=["connecting", "stalled", "live"],
)
def test_interrupted_in_any_state_it_ends_within_two_seconds_with_whole_files(commands, state: str, number: int):
    command = commands[state]
    command.until_state(state)
    begun_s = time.monotonic()
    command.process.send_signal(number)
    out, err = command.process.communicate(timeout=30)
    # with either timeout of libav's it would be 30
    assert time.monotonic() - begun_s < 2
    assert command.process.returncode == 130
    assert b"Traceback" not in err
    assert b"frames in" in err, "no summary"
    states = [event["state"] for event in command.events if "state" in event]
    assert states[0] == "connecting"
    assert states[-1] == "ended"
    assert state in states
    frames = [event for event in command.events if "frame" in event]
    assert bool(frames) is (state != "connecting")
    if frames:
        with av.open(str(command.folder / "video.mkv")) as container:
            assert sum(1 for _ in container.decode(video=0)) == len(frames)
    written = command.everything_written(out, err)
    assert [form for form in FORMS if form.encode() in written] == []
    assert written.count(b"rtsp://me:***@127.0.0.1") >= 2


def test_a_wrong_password_is_said_without_it_even_in_a_traceback(units, weights, tmp_path: Path):
    with RtspCamera(units, password="another") as camera:
        command = start(tmp_path / "run", camera, weights, "--reconnect-attempts", "0")
        out, err = command.process.communicate(timeout=90)
    assert command.process.returncode == 1
    assert b"Traceback" in err, "-v shows them"
    assert b"takes another user name or password" in err
    written = command.everything_written(out, err)
    assert [form for form in FORMS if form.encode() in written] == []
