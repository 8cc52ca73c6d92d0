"""Many cameras on one engine, on paper: how many frames of each are answered in time, and how well."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from pipelines.benchmarking.paper import Line, Paper
from pipelines.benchmarking.play import simulate_streams
from stream_ann.streaming import arrivals_at, in_time, mean_of, streaming_correct

__all__ = ["streams_together"]


def streams_together(paper: Paper, line: Line, fps: float, duration_s: float, streams: int) -> dict[str, Any]:
    """What becomes of so many streams that share an engine.

    All show the same film, each from another place on, and their frames come one after another: the first stream's, a
    part of the gap later the second one's, and so on.

    Args:
        paper: All that is needed to play them.
        line: The network, and how frames are refined.
        fps: Frames a second of each stream.
        duration_s: For how long, in seconds.
        streams: How many.

    Returns:
        Plain JSON values: the share of frames with an answer of their own before the next one, and streaming accuracy
        at eta = -1, for all frames together and for each stream.
    """
    film, network = paper.film, line.network
    played = []
    for number in range(streams):
        share = number / streams
        gaps = None if paper.gaps is None else np.roll(paper.gaps, -int(share * len(paper.gaps)))
        played.append((arrivals_at(fps, duration_s, gaps) + share / fps, share * film.duration_s))
    logs = simulate_streams(
        network.plan,
        paper.answers[network.name],
        paper.times[network.name],
        film,
        played,
        classes=paper.classes,
        manner=line.manner,
        seed=(paper.seed, zlib.crc32(line.name.encode()), round(1e3 * fps), streams),
    )
    answered = [in_time(log) for log in logs]
    right = [streaming_correct(log.shown, log.arrivals_s, log.truths, eta=-1) for log in logs]
    together = mean_of(np.concatenate(right), np.concatenate([log.scenes for log in logs]))
    return {
        "fps": fps,
        "contender": line.name,
        "in_time": round(float(np.concatenate(answered).mean()), 5),
        "accuracy": together.as_dict(),
        "each": [
            {"in_time": round(float(a.mean()), 5), "accuracy": round(float(r.mean()), 5)}
            for a, r in zip(answered, right, strict=True)
        ],
    }
