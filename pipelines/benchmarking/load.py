"""Latency and load in the manner of MLPerf Inference: single stream, and multi-stream with a fixed interval.

In the multi-stream scenario as it was in version 0.5 (2019), a query of one frame of each stream comes at a fixed
interval; a query that is late makes the next one dropped, and the figure is the largest number of streams for which
99 % of the queries are answered in time. (Now the queries of that scenario come back to back.)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_ann.scheduler import Engine
from stream_ann.streaming import TimeTable

__all__ = ["IN_TIME", "exit_times_s", "percentiles", "single_stream", "streams_in_reality", "streams_on_paper"]

IN_TIME = 0.99
"""Share of the queries that must be answered in time."""
DRAWS = 400
MOST_STREAMS = 4096
QUERIES = 40
"""Queries of a probe in real time."""


def exit_times_s(times: TimeTable, *, seed: int, draws: int = 2000) -> NDArray[np.float64]:
    """Times from a frame's beginning until each exit, drawn from the distributions, float64 [draws, exits]."""
    random = np.random.default_rng(seed)
    total = _drawn(times.start_s, random, draws)
    columns = []
    for number, step in enumerate(times.steps_s):
        if number:
            total = total + _drawn(times.between_s, random, draws)
        total = total + _drawn(step, random, draws)
        columns.append(total)
    return np.stack(columns, axis=1)


def streams_on_paper(frame_s: NDArray[np.float64], interval_s: float, *, seed: int) -> int:
    """Most streams at an interval, one frame after another.

    Args:
        frame_s: Times that a frame takes, float64 [N], to draw from.
        interval_s: The interval, in seconds.
        seed: Seed of the draws.
    """
    random = np.random.default_rng(seed)
    most = min(MOST_STREAMS, int(interval_s / max(1e-9, float(frame_s.min()))) + 1)
    sums = random.choice(frame_s, size=(DRAWS, most)).cumsum(axis=1)
    good = (sums <= interval_s).mean(axis=0) >= IN_TIME
    return int(np.argmin(good)) if not good.all() else most


def streams_in_reality(
    engine: Engine, images: Sequence[NDArray[np.uint8]], steps: Sequence[int], interval_s: float, *, about: int
) -> int:
    """Most streams at an interval, measured.

    Args:
        engine: Runs the network.
        images: Pictures of the streams.
        steps: The steps that each frame goes through.
        interval_s: The interval, in seconds.
        about: Where to begin to look.
    """
    count = max(1, about)
    if _share_in_time(engine, images, steps, interval_s, count) >= IN_TIME:
        while count < MOST_STREAMS and _share_in_time(engine, images, steps, interval_s, count + 1) >= IN_TIME:
            count += 1
        return count
    while count > 1:
        count -= 1
        if _share_in_time(engine, images, steps, interval_s, count) >= IN_TIME:
            return count
    return 0


def _share_in_time(
    engine: Engine, images: Sequence[NDArray[np.uint8]], steps: Sequence[int], interval_s: float, count: int
) -> float:
    begun_s = time.monotonic()
    good, number, free_s = 0, 0, begun_s
    for query in range(QUERIES):
        due_s = begun_s + query * interval_s
        if free_s > due_s + 1e-4:
            continue  # the one before is late: this one is dropped
        time.sleep(max(0.0, due_s - time.monotonic()))
        for _ in range(count):
            engine.start(images[number % len(images)])
            number += 1
            for step in steps:
                engine.run(step)
        free_s = time.monotonic()
        good += free_s <= due_s + interval_s
    return good / QUERIES


def _drawn(quantiles_s: Sequence[float], random: np.random.Generator, draws: int) -> NDArray[np.float64]:
    places = random.random(draws) * (len(quantiles_s) - 1)
    return np.interp(places, np.arange(len(quantiles_s)), quantiles_s)


def percentiles(seconds: NDArray[np.float64]) -> dict[str, float]:
    """50th, 90th and 99th percentile in milliseconds, to the microsecond."""
    p50, p90, p99 = 1e3 * np.percentile(seconds, [50, 90, 99])
    return {"p50_ms": round(float(p50), 3), "p90_ms": round(float(p90), 3), "p99_ms": round(float(p99), 3)}


def single_stream(name: str, exits: Sequence[str], frame_s: NDArray[np.float64]) -> list[dict[str, Any]]:
    """A line for each exit of a network: how long it takes until it is reached, frame by frame.

    Args:
        name: The network's.
        exits: Name of each exit.
        frame_s: Times from a frame's beginning until each exit, float64 [N, exits].
    """
    return [{"network": name, "exit": exit_, **percentiles(frame_s[:, i])} for i, exit_ in enumerate(exits)]
