"""Results and figures to draw and to write, for the tests of overlay and sinks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stream_ann.frames import Counts, ExitAnswer, Frame, FrameResult
from stream_ann.stats import Latency, StatsSnapshot

ROOT = Path(__file__).resolve().parent.parent


def picture(width: int = 64, height: int = 48, *, seed: int = 0) -> NDArray[np.uint8]:
    """Noise: hard to encode and to write on, uint8 [H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_result(
    image: NDArray[np.uint8] | None = None,
    *,
    index: int = 0,
    pts_s: float | None = 0.0,
    arrival_s: float = 100.0,
    label: str = "Egyptian cat",
    confidence: float = 0.87,
    top: Sequence[tuple[str, float]] | None = None,
    reached: int = 2,
    answer: int | None = None,
    budget_ms: float | None = 33.3,
) -> FrameResult:
    exits = tuple(ExitAnswer(i, 5, 0.5 + 0.4 * i / reached, 2.5 + 4.0 * i) for i in range(reached))
    return FrameResult(
        frame=Frame(picture() if image is None else image, "test", index, pts_s, arrival_s),
        label=label,
        class_id=5,
        confidence=confidence,
        top=tuple(top) if top is not None else ((label, confidence), ("tabby", 0.08), ("lynx", 0.01)),
        exit=reached - 1 if answer is None else answer,
        exits=exits,
        budget_ms=budget_ms,
        replaced_before=0,
        ended="newer-frame",
    )


def make_stats(*, depths: Sequence[int] = (10, 116)) -> StatsSnapshot:
    return StatsSnapshot(Counts(130, 126, 3, 1), Latency(4.2, 5.2, 9.0), Latency(28.1, 31.9, 40.0), 29.9, tuple(depths))


def start_script(script: str, *arguments: str) -> subprocess.Popen[str]:
    """Start Python code in a process of its own, which sees this checkout."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
    )
