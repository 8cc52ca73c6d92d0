"""Streams on paper: what is seen when, when frames arrive, what an answer is worth, and engines on a fake clock."""

from __future__ import annotations

from stream_ann.streaming.accuracy import Mean, Shown, mean_of, ratio_of, streaming_correct
from stream_ann.streaming.arrivals import arrivals_at, gaps_from, jittered_gaps, read_trace
from stream_ann.streaming.camera import Shot, film_photograph
from stream_ann.streaming.figures import Latencies, RunFigures, RunLog, figures_of, in_time
from stream_ann.streaming.film import Film
from stream_ann.streaming.resampling import mean_of_means, paired_ratio, ratios_to_best
from stream_ann.streaming.simulation import BETWEEN, AnswerTable, Recording, SimulatedEngine, TimeTable

__all__ = [
    "BETWEEN",
    "AnswerTable",
    "Film",
    "Latencies",
    "Mean",
    "Recording",
    "RunFigures",
    "RunLog",
    "Shot",
    "Shown",
    "SimulatedEngine",
    "TimeTable",
    "arrivals_at",
    "figures_of",
    "film_photograph",
    "gaps_from",
    "in_time",
    "jittered_gaps",
    "mean_of",
    "mean_of_means",
    "paired_ratio",
    "ratio_of",
    "ratios_to_best",
    "read_trace",
    "streaming_correct",
]
