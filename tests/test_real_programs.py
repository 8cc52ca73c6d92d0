"""What other programs make of our output: an independent player, and a real terminal."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.tool("ffprobe")
@pytest.mark.parametrize(("name", "codec"), [("v.mp4", "h264"), ("v.mkv", "h264"), ("v.webm", "vp9")])
def test_a_recording_is_an_ordinary_video_to_ffprobe(name, codec, tmp_path):
    path = tmp_path / name
    args = ["live", "demo", "--no-realtime", "--max-frames", "6", "--confidence", "0.01", "--device", "cpu"]
    result = CliRunner().invoke(app, [*args, "--view", "none", "--record", str(path)])
    assert result.exit_code == 0, result.stderr
    probe = ["ffprobe", "-v", "error", "-show_streams", "-show_frames", "-of", "json", str(path)]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    assert done.stderr == ""
    found = json.loads(done.stdout)
    (stream,) = found["streams"]
    assert (stream["codec_name"], stream["pix_fmt"], stream["width"], stream["height"]) == (codec, "yuv420p", 640, 360)
    times_s = [float(frame["pts_time"]) for frame in found["frames"]]
    assert times_s == pytest.approx([i / 25 for i in range(6)], abs=2e-3)


@pytest.mark.tool("tmux")
def test_the_terminal_view_fills_its_ladder_in_a_real_terminal():
    server = f"stream-ann-{uuid.uuid4().hex[:8]}"

    def tmux(*args: str) -> str:
        return subprocess.run(["tmux", "-L", server, *args], capture_output=True, text=True, timeout=10).stdout

    command = f"{sys.executable} -c 'import cli; cli.main()' live demo --device cpu"
    tmux("new-session", "-d", "-x", "100", "-y", "40", "-c", str(ROOT), f"{command}; sleep 60")
    try:
        screens: list[str] = []
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            screens.append(tmux("capture-pane", "-p"))
            if "elapsed" in screens[-1]:  # the summary at the end
                break
            time.sleep(0.1)
        live = [screen for screen in screens if "lite2@260" in screen and "elapsed" not in screen]
        assert len(set(live)) > 10, "the view does not move"
        assert any(re.search(r"cat|tabby", screen) for screen in live)
        assert any("tripod" in screen for screen in live)
        assert "answered" in screens[-1]
        frames_in, answered, replaced, corrupt = (
            int(re.search(rf"{name} +(\d+)", screens[-1])[1])  # type: ignore[index]
            for name in ("frames in", "answered", "replaced", "corrupt")
        )
        assert frames_in == 300
        assert frames_in == answered + replaced + corrupt
    finally:
        tmux("kill-server")
