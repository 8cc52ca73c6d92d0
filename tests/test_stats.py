"""Figures of a run: the same as of all its results at once, with memory and time that do not grow with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stream_ann.frames import FrameResult
from stream_ann.stats import WINDOW, LiveStats
from tests.sink_tools import make_result


def results(count: int, *, fps: float = 25.0, seed: int = 0) -> list[FrameResult]:
    chance = np.random.default_rng(seed)
    one = make_result(reached=2)
    found = []
    for number in range(count):
        first_ms, more_ms = chance.gamma(2, 5), chance.gamma(2, 20)
        first, final = (replace(answer, done_ms=first_ms + i * more_ms) for i, answer in enumerate(one.exits))
        frame = replace(one.frame, index=number, arrival_s=100 + number / fps)
        found.append(replace(one, frame=frame, exits=(first, final)))
    return found


@pytest.mark.parametrize("count", [1, 2, 100, WINDOW + 900])
def test_percentiles_are_those_of_the_latest_results(count: int):
    stats = LiveStats(2)
    every = results(count)
    for result in every:
        stats.add(result)
    found = stats.snapshot()
    latest = every[-WINDOW:]
    for latency, values in ((found.first, [r.first_ms for r in latest]), (found.final, [r.final_ms for r in latest])):
        assert latency is not None
        expected = np.percentile(values, [50, 99, 100])
        assert [latency.p50_ms, latency.p99_ms, latency.max_ms] == pytest.approx(expected.tolist())
    assert found.last_exit_counts == (0, count)


def test_equal_latencies_leave_one_by_one():
    stats = LiveStats(2)
    result = results(1)[0]
    for _ in range(2 * WINDOW):
        stats.add(result)
    assert len(stats._first_ms._sorted) == len(stats._first_ms._latest) == WINDOW
    first = stats.snapshot().first
    assert first is not None
    assert first.p50_ms == first.max_ms == result.first_ms


def test_the_rate_is_that_of_the_last_two_seconds():
    stats = LiveStats(2)
    assert stats.snapshot().results_per_s == 0
    for result in results(200, fps=5):
        stats.add(result)
    assert stats.snapshot().results_per_s == pytest.approx(5, rel=0.1)
