"""A run on a camera that fails in every way, with every output and a page that is watched, as long as one likes."""

from __future__ import annotations

import os

import pytest

from benchmarks.faulty_camera import TROUBLES
from benchmarks.soak import soak

MINUTES = float(os.environ.get("SOAK_MINUTES", "5"))


@pytest.mark.long
@pytest.mark.timeout(MINUTES * 60 + 600)
def test_nothing_grows_and_nothing_is_lost(tmp_path):
    seen = soak(MINUTES, tmp_path)
    for name, found in seen.results()["per_hour"].items():
        print(f"{name}: {found['per_hour']:+.4g} ± {found['error']:.2g} an hour, {found['first']} to {found['last']}")
    assert seen.problems() == [], seen.said
    if sum(trouble.lasts_s for trouble in TROUBLES) < MINUTES * 60:
        assert set(seen.troubles) == {trouble.name for trouble in TROUBLES}
    assert seen.visits > 5 * MINUTES
