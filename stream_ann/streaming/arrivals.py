"""When frames arrive: regularly, with the jitter of a camera, or as recorded."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stream_ann.errors import SourceError, SourceNotFoundError, UsageError

__all__ = ["arrivals_at", "gaps_from", "jittered_gaps", "read_trace"]

KEY_FRAME_EVERY = 25
"""A camera's encoder sends a key frame about once a second; it is large, so that it comes late."""
KEY_FRAME_DELAY = 1.5
"""How late, in frame intervals; the frames that queue up behind it then come in a burst."""
MAX_TRACE_BYTES = 64 << 20


def arrivals_at(
    fps: float, duration_s: float, gaps: Sequence[float] | NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Times of arrival at a mean rate, float64 [N], in seconds from 0.

    Args:
        fps: Frames a second.
        duration_s: For how long, in seconds; at least one frame comes.
        gaps: Gaps between arrivals, whose mean is 1 frame interval; repeated for as long as needed. None: regular.

    Raises:
        UsageError: If the rate or the duration is not positive and finite.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise UsageError(f"a rate of {fps:g} frames a second makes no sense", "give one above 0")
    if not (math.isfinite(duration_s) and duration_s > 0):
        raise UsageError(f"a duration of {duration_s:g} s makes no sense", "give one above 0")
    count = max(1, round(fps * duration_s))
    if gaps is None:
        return np.arange(count) / fps
    repeated = np.resize(np.asarray(gaps, dtype=np.float64), max(0, count - 1))
    return np.concatenate([[0.0], np.cumsum(repeated)]) / fps


def jittered_gaps(frames: int, seed: int, *, jitter: float = 0.15) -> NDArray[np.float64]:
    """Gaps as a network camera's frames have them, in frame intervals, of mean 1, float64 [frames].

    Each frame is sent on time and delayed by a gamma-distributed time; a key frame is delayed further, and since frames
    arrive in the order in which they were sent, those behind it come in a burst.

    Args:
        frames: How many gaps, at least 1.
        seed: Seed of the delays.
        jitter: Mean delay of a frame, in frame intervals.
    """
    random = np.random.default_rng([seed, 0x6A17])
    delays = random.gamma(1.0, jitter, frames + 1) if jitter > 0 else np.zeros(frames + 1)
    delays[KEY_FRAME_EVERY::KEY_FRAME_EVERY] += KEY_FRAME_DELAY
    arrivals = np.maximum.accumulate(np.arange(frames + 1) + delays)
    return gaps_from(arrivals)


def gaps_from(arrivals: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaps between arrivals in any unit, scaled to a mean of 1, float64 [N - 1].

    Raises:
        UsageError: If there are fewer than two, they are not in order, or none comes later than the first.
    """
    times = np.asarray(arrivals, dtype=np.float64)
    if len(times) < 2:
        raise UsageError(f"a trace of {len(times)} arrivals says nothing about gaps", "give two or more")
    gaps = np.diff(times)
    if not np.isfinite(gaps).all() or gaps.min() < 0:
        raise UsageError("the arrivals of a trace must be finite and in order", "sort them")
    if gaps.sum() == 0:
        raise UsageError("all arrivals of the trace are at the same time", "give a trace in seconds")
    return np.asarray(gaps / gaps.mean())


def read_trace(path: str | os.PathLike[str]) -> NDArray[np.float64]:
    """The gaps of a recorded trace, scaled to a mean of 1, float64 [N - 1].

    A trace is a text file with one arrival a line: a time in seconds, or an event as ``live --events`` writes it, whose
    ``arrival_s`` counts. Empty lines and those that begin with ``#`` are passed over.

    Raises:
        SourceNotFoundError: If there is no such file.
        SourceError: If it cannot be read.
        UsageError: If a line is neither, or the times are not usable.
    """
    file = Path(path)
    try:
        if file.stat().st_size > MAX_TRACE_BYTES:
            raise UsageError(f"'{file}' is larger than a trace can be", f"give at most {MAX_TRACE_BYTES >> 20} MiB")
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"there is no file '{file}'", "check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise SourceError(
            f"the trace '{file}' cannot be read: {reason}", "give one arrival in seconds a line"
        ) from error
    times = [_time_of(line, file, number) for number, line in enumerate(lines, 1) if line.strip()[:1] not in ("", "#")]
    return gaps_from(times)


def _time_of(line: str, file: Path, number: int) -> float:
    text = line.strip()
    try:
        value = json.loads(text)
        time_s = value["arrival_s"] if isinstance(value, dict) else value
        if isinstance(time_s, bool) or not isinstance(time_s, int | float) or not math.isfinite(time_s):
            raise ValueError(text)
    except (ValueError, KeyError, OverflowError, RecursionError) as error:
        what = f"line {number} of '{file}' is no arrival: {text[:40]!r}"
        raise UsageError(what, "give a time in seconds, or a line of live --events") from error
    return float(time_s)
