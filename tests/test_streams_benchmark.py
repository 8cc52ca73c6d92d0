"""The benchmark of how many cameras an engine serves: that it counts right, not how fast anything is."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np
import pytest

from benchmarks import streams
from stream_ann.frames import Frame

NOBODY: Any = None


class TestKnee:
    def knee(self, monkeypatch, most_served: int, *, most: int = 64, quick: bool = False) -> tuple[int, list[int]]:
        def serve(engine, loaded, images, count, **options):
            lost = 0 if count <= most_served else 100
            return {
                "streams": count, "lost": lost, "share_answered": 1 - lost / 1000, "first_p50_ms": 1.0,
                "first_p99_ms": 2.0, "mean_exits": 1.0,
            }  # fmt: skip

        monkeypatch.setattr(streams, "serve", serve)
        args = argparse.Namespace(policy="in-order", fps=30.0, seconds=1.0, most=most, quick=quick)
        found, runs = streams.knee(NOBODY, NOBODY, [], args)
        return found, [run["streams"] for run in runs]

    @pytest.mark.parametrize("served", [0, 1, 2, 3, 5, 8, 13, 31, 32, 63, 64, 1000])
    def test_the_largest_number_without_a_loss_is_found(self, monkeypatch, served):
        assert self.knee(monkeypatch, served)[0] == min(served, 64)

    def test_in_few_runs(self, monkeypatch):
        assert self.knee(monkeypatch, 5) == (5, [1, 2, 4, 5, 6, 8])
        assert self.knee(monkeypatch, 5, quick=True) == (4, [1, 2, 4, 8])
        assert self.knee(monkeypatch, 10, most=6) == (6, [1, 2, 4, 6])


def test_the_figures_are_of_frames_that_were_really_put_and_answered(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(streams, "WARM_UP_S", 0.2)
    out = tmp_path / "streams.json"
    words = "--engines torch --most 2 --seconds 0.4 --fps 20 --quick --out"
    monkeypatch.setattr(sys, "argv", ["streams", *words.split(), str(out)])
    streams.main()
    results = json.loads(out.read_text())["results"]
    (engine,) = results["engines"]
    assert engine["knee"] in (0, 1, 2)
    for run in engine["runs"]:
        assert 0 < run["answered"] <= 8 * run["streams"]
        assert run["lost"] <= 8 * run["streams"]
        assert sum(run["frames_by_deepest_exit"]) == run["answered"]
        assert run["least_answered_of_a_stream"] >= 1
    assert "every frame is answered up to" in capsys.readouterr().out


def test_the_pictures_are_those_of_the_demo_clip():
    images = streams.pictures(3)
    assert [image.shape for image in images] == [(360, 640, 3)] * 3
    assert not np.array_equal(images[0], images[2])
    Frame(images[0], "demo", 0, None, 0.0)
