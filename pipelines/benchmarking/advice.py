"""What to buy: whether this machine reaches an accuracy at a frame rate, and what it would take."""

from __future__ import annotations

from typing import Any

from pipelines.benchmarking.paper import Line, Paper
from stream_ann.streaming import RunFigures, figures_of

__all__ = ["advise"]

FASTEST, SLOWEST = 64.0, 1 / 64
"""The machines that are thought of, in speeds of this one."""
HALVINGS = 10
"""So often is the range of speeds or rates halved: to a part in a thousand."""
HIGHEST_FPS, LOWEST_FPS = 2000.0, 0.5


def advise(paper: Paper, line: Line, *, accuracy: float, fps: float, duration_s: float) -> dict[str, Any]:
    """Whether a contender reaches a streaming accuracy (eta = -1) at a rate on paper, and what it takes where not.

    Args:
        paper: What runs are computed from.
        line: The contender.
        accuracy: What is wanted, 0 to 1.
        fps: At this rate.
        duration_s: How long a stream is looked at, in seconds.

    Returns:
        Plain JSON values, with a ``sentence`` for people.
    """

    def figures(rate: float, speed: float) -> RunFigures:
        return figures_of(paper.log(line, rate, duration_s, speed=speed), line.network.plan)

    here = figures(fps, 1.0)
    met = here.accuracy.value >= accuracy
    deepest = max(range(len(here.exit_shares)), key=lambda i: here.exit_shares[i])
    speed = _least(lambda s: figures(fps, s).accuracy.value >= accuracy, SLOWEST, FASTEST)
    rate = None
    if not met:
        slower = _least(lambda r: figures(1 / r, 1.0).accuracy.value >= accuracy, 1 / HIGHEST_FPS, 1 / LOWEST_FPS)
        rate = None if slower is None else 1 / slower
    found: dict[str, Any] = {
        "target_accuracy": accuracy,
        "target_fps": fps,
        "met": met,
        "accuracy": round(here.accuracy.value, 5),
        "error": None if here.accuracy.error is None else round(here.accuracy.error, 5),
        "usual_exit": line.network.plan.exit_names[deepest],
        "mean_exit": round(here.mean_exit, 3),
        "speed_needed": None if speed is None else round(speed, 3),
        "fps_possible": None if rate is None else round(rate, 2),
    }
    return found | {"sentence": _sentence(found)}


def _least(good: Any, low: float, high: float) -> float | None:
    """About the least value from which on something is good, by halving on a logarithmic scale; None if none is."""
    if not good(high):
        return None
    if good(low):
        return low
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        if good(middle):
            high = middle
        else:
            low = middle
    return high


def _sentence(found: dict[str, Any]) -> str:
    wanted = f"{100 * found['target_accuracy']:g} % at {found['target_fps']:g} frames a second"
    error = "" if found["error"] is None else f" ± {100 * found['error']:.1f}"
    reached = f"{100 * found['accuracy']:.1f}{error} %, most frames ending at exit {found['usual_exit']}"
    unsure = ""
    if found["error"] is not None and abs(found["accuracy"] - found["target_accuracy"]) < 2 * found["error"]:
        unsure = " The two are too near to be sure of it: more scenes would tell."
    if found["met"]:
        spare = found["speed_needed"]
        much = f"a machine {spare:.2f} times as fast would do" if spare is not None else "there is nothing to spare"
        return f"This machine reaches {wanted}: {reached}; {much}.{unsure}"
    if found["speed_needed"] is None:
        return (
            f"No machine reaches {wanted} with these weights on this stream: one {FASTEST:g} times as fast does not "
            f"either (this one: {reached}).{unsure}"
        )
    slower = "" if found["fps_possible"] is None else f", or {found['fps_possible']:g} frames a second on this one"
    return (
        f"This machine does not reach {wanted}: {reached}. "
        f"It takes one {found['speed_needed']:.2f} times as fast{slower}.{unsure}"
    )
