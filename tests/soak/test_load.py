"""Many cameras on one engine with many visitors: what gives way first is depth. Long."""

from __future__ import annotations

import pytest

from benchmarks.load import CAMERAS, VISITORS, pictures, problems, simulated
from tests.labelling import tiny_weights


@pytest.mark.long
@pytest.mark.timeout(600)
def test_depth_gives_way_and_nothing_else(tmp_path):
    weights = str(tiny_weights(tmp_path))
    images = pictures()
    runs = simulated(2.0, VISITORS, 10.0, images, weights=weights, cameras=CAMERAS, rounds=2)
    assert problems(runs) == []
    assert runs[1]["visitors_messages"] > VISITORS
    assert runs[1]["visitors_refused"] == 0
