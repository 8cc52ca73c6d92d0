"""What the load is judged by, and a short load: every frame is counted once, however many cameras share an engine."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

import pipelines
from benchmarks.cpu_shares import Beside, Taken
from benchmarks.load import ReadyCamera, measure, problems
from stream_ann.sinks.web.feed import jpeg
from tests.labelling import tiny_weights
from tests.web_tools import EXITS, FakeRun

GOOD: dict[str, Any] = {
    "cameras": 64,
    "visitors": 0,
    "burning": False,
    "fps": 1.0,
    "share_of_most": 0.5,
    "coverage": 1.0,
    "mean_exits": 2.5,
    "reader_late_max_s": 0.01,
    "memory_mib": [500.0, 501.0],
    "uncounted": 0,
}


def test_many_cameras_share_an_engine_and_each_is_answered(tmp_path):
    images = [np.full((36, 64, 3), 40 * i, np.uint8) for i in range(6)]
    cameras = [ReadyCamera(i, images, 4.0, i / 64) for i in range(64)]
    with pipelines.live(cameras, weights=tiny_weights(tmp_path), engine="torch", device="cpu") as run:
        stretch = measure(run, None, 1.5, warm_up_s=0.5)
    counts = run.counts
    assert counts.frames_in == counts.results + counts.replaced + counts.corrupt
    assert len(stretch.answered) > 60, "some wait for ever"
    assert stretch.offered.total() >= stretch.answered.total() > 0
    assert sum(len(camera.late_s) for camera in cameras) >= counts.frames_in
    assert stretch.memory_mib[0] > 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"coverage": 0.8}, "80.0% answered"),
        ({"coverage": 0.8, "mean_exits": 1.0}, None),
        ({"coverage": 0.9, "mean_exits": 1.0, "visitors": 100}, "90.0% answered, 95.0% where nobody watches"),
        ({"coverage": 0.94, "mean_exits": 1.0, "visitors": 100}, None),
        ({"share_of_most": 2.0, "coverage": 0.5}, "depth is still"),
        ({"share_of_most": 2.0, "coverage": 0.5, "mean_exits": 1.0}, None),
        ({"reader_late_max_s": 3.0}, "a reader was 3.00 s late"),
        ({"memory_mib": [500.0, 900.0]}, "memory grew"),
        ({"uncounted": 1}, "not counted"),
    ],
)
def test_what_gives_way_before_depth_is_told(change: dict[str, Any], told: str | None):
    found = problems([GOOD, GOOD | {"burning": True, "coverage": 0.95, "mean_exits": 1.0}, GOOD | change])
    assert found == [] if told is None else any(told in problem for problem in found)


def test_visitors_of_a_page_read_what_comes_and_say_what_they_took():
    pytest.importorskip("uvicorn")
    from stream_ann.sinks.web import Access, WebView

    run = FakeRun(*(f"camera {i}" for i in range(10)))
    for name in run.names:
        run.answer(name)
    with WebView(run.statuses, EXITS, access=Access(port=0)) as view, Beside(view.port, 5, 10) as beside:
        assert beside.ready(60)
        taken = Taken(beside)
        until_s = time.monotonic() + 30
        while (found := beside.ask())["pictures"] < 80 and time.monotonic() < until_s:
            for name in run.names:
                run.answer(name)
            time.sleep(0.05)
        assert found["pictures"] >= 80, "eight cards of each of five pages, twice"
        assert found["messages"] >= 10
        assert found["refused"] == 0
        assert found["bytes"] > 80 * len(jpeg(np.zeros((36, 64, 3), np.uint8)))
        cores = taken.cores()
    assert set(cores) == {"scheduler", "page", "readers", "libraries", "beside", "elsewhere"}
    assert cores["page"] > 0
    assert 0 <= found["cpu_s"] < 30


def test_as_much_can_be_burnt_as_they_took():
    with Beside("--burn", 0.3) as beside:
        assert beside.ready(60)
        first, begun_s = beside.ask()["cpu_s"], time.monotonic()
        while (more := beside.ask()["cpu_s"]) < first + 0.2:
            assert time.monotonic() < begun_s + 30
            time.sleep(0.05)
        assert (more - first) / (time.monotonic() - begun_s) < 0.6, "it takes a core, not a share of one"
