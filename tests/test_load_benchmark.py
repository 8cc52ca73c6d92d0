"""What the load is judged by, and a short load: every frame is counted once, however many cameras share an engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pipelines
from benchmarks.load import ReadyCamera, measure, problems
from tests.labelling import tiny_weights

GOOD: dict[str, Any] = {
    "cameras": 64,
    "visitors": 0,
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
        ({"share_of_most": 2.0, "coverage": 0.5}, "depth is still"),
        ({"share_of_most": 2.0, "coverage": 0.5, "mean_exits": 1.0}, None),
        ({"reader_late_max_s": 3.0}, "a reader was 3.00 s late"),
        ({"memory_mib": [500.0, 900.0]}, "memory grew"),
        ({"uncounted": 1}, "not counted"),
    ],
)
def test_what_gives_way_before_depth_is_told(change: dict[str, Any], told: str | None):
    found = problems([GOOD, GOOD | change])
    assert found == [] if told is None else any(told in problem for problem in found)
