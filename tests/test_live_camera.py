"""``stream-ann live`` on a network camera, as a user runs it: how it ends, and that no password shows anywhere."""

from __future__ import annotations

import base64
import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import av
import pytest

from benchmarks.camera import AccessUnit, Faults, RtspCamera, encode_pattern
from tests.labelling import Job, Jobs, tiny_weights

COMMAND = ["-v", "live", "--device", "cpu", "--engine", "torch"]
PASSWORD = "hu@nt/er?2#x"
FORMS = [PASSWORD, quote(PASSWORD, safe=""), base64.b64encode(f"me:{PASSWORD}".encode()).decode(), "hu@nt", "er?2#x"]


@dataclass
class Command:
    """A running ``stream-ann live`` and its files."""

    job: Job
    folder: Path

    @property
    def events(self) -> list[dict[str, Any]]:
        path = self.folder / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def until_state(self, state: str) -> None:
        deadline_s = time.monotonic() + 90
        while not any(event.get("state") == state for event in self.events):
            assert time.monotonic() < deadline_s, (state, self.events[-3:])
            assert not self.job.over(), self.job.err()
            time.sleep(0.05)

    def everything_written(self) -> bytes:
        """Every byte that it has put out, and every file name."""
        files = sorted(self.folder.rglob("*"))
        printed = self.job.out().encode(), self.job.err().encode()
        return b"\0".join([*printed, *(f.read_bytes() for f in files), *(str(f).encode() for f in files)])


def start(jobs: Jobs, folder: Path, camera: RtspCamera, weights: Path, *options: str) -> Command:
    folder.mkdir()
    arguments = [
        f"rtsp://me:{PASSWORD}@127.0.0.1:{camera.port}/live",
        *("--view", "none", "--weights", str(weights)),
        *("--events", str(folder / "events.jsonl"), "--record", str(folder / "video.mkv")),
        *("--connect-timeout-s", "30", "--read-timeout-s", "30", *options),
    ]
    return Command(jobs.start(*COMMAND, *arguments), folder)


@pytest.fixture(scope="module")
def units() -> list[AccessUnit]:
    return encode_pattern(frames=100)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize(
    ("state", "number", "faults"),
    [
        ("connecting", signal.SIGINT, Faults(silent=True)),
        ("stalled", signal.SIGTERM, Faults(stall_after=30)),
        ("live", signal.SIGINT, Faults()),
    ],
    ids=["connecting", "stalled", "live"],
)
def test_interrupted_in_any_state_it_ends_within_two_seconds_with_whole_files(
    jobs, units, weights, tmp_path: Path, state: str, number: int, faults: Faults
):
    with RtspCamera(units, password=PASSWORD, faults=faults) as camera:
        command = start(jobs, tmp_path / "run", camera, weights)
        try:
            command.until_state(state)
            begun_s = time.monotonic()
            command.job.kill(number)
            code = command.job.wait(30)
            # with either timeout of libav's it would be 30
            assert time.monotonic() - begun_s < 2
        finally:
            command.job.kill()
            command.job.wait()
    assert code == 130
    assert "Traceback" not in command.job.err()
    assert "frames in" in command.job.err(), "no summary"
    states = [event["state"] for event in command.events if "state" in event]
    assert states[0] == "connecting"
    assert states[-1] == "ended"
    assert state in states
    frames = [event for event in command.events if "frame" in event]
    assert bool(frames) is (state != "connecting")
    if frames:
        with av.open(str(command.folder / "video.mkv")) as container:
            assert sum(1 for _ in container.decode(video=0)) == len(frames)
    written = command.everything_written()
    assert [form for form in FORMS if form.encode() in written] == []
    assert written.count(b"rtsp://me:***@127.0.0.1") >= 2


def test_a_wrong_password_is_said_without_it_even_in_a_traceback(jobs, units, weights, tmp_path: Path):
    with RtspCamera(units, password="another") as camera:
        command = start(jobs, tmp_path / "run", camera, weights, "--reconnect-attempts", "0")
        assert command.job.wait(90) == 1
    assert "Traceback" in command.job.err(), "-v shows them"
    assert "takes another user name or password" in command.job.err()
    written = command.everything_written()
    assert [form for form in FORMS if form.encode() in written] == []
