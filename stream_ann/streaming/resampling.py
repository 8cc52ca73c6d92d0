"""How sure figures are that compare runs over the same scenes: a paired bootstrap over scenes.

The frames of a scene hang together, and all contenders are shown the same ones. So whole scenes are drawn, with
replacement, and every contender at every rate is judged by the same draw (Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 8). What is picked in hindsight, such as the best fixed network, is picked anew in each draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stream_ann.streaming.accuracy import Mean, check_same_frames

__all__ = ["mean_of_means", "paired_ratio", "ratios_to_best"]

DRAWS = 2000
SEED = 0x5CE9E5


def paired_ratio(ours: NDArray[np.bool_], theirs: NDArray[np.bool_], scenes: NDArray[np.intp]) -> Mean:
    """The ratio of two shares over the same frames, with its standard error by bootstrap over scenes.

    Args:
        ours: For each frame, whether one contender was right, bool [N].
        theirs: The same of the other one, bool [N].
        scenes: Which scene each frame belongs to, intp [N], from 0.

    Returns:
        The ratio; 0 over 0 counts as 1, and anything else over 0 as infinite.

    Raises:
        ValueError: If there are no frames, or the three differ in length.
    """
    check_same_frames(ours, theirs, scenes)
    above, below = _by_scene(ours, scenes), _by_scene(theirs, scenes)
    if not below.any():
        return Mean(math.inf if above.any() else 1.0, None)
    seen = np.flatnonzero(np.bincount(scenes))
    drawn = _draws(len(seen))
    drawn_above, drawn_below = drawn @ above[seen], drawn @ below[seen]
    good = drawn_below > 0
    error = None
    if len(seen) > 1 and good.sum() > DRAWS // 2:
        error = float((drawn_above[good] / drawn_below[good]).std(ddof=1))
    return Mean(float(above.sum() / below.sum()), error)


def ratios_to_best(
    ours: Sequence[NDArray[np.bool_]],
    theirs: Sequence[Sequence[NDArray[np.bool_]]],
    scenes: Sequence[NDArray[np.intp]],
) -> tuple[Mean, Mean] | None:
    """Over several rates, the mean and the least ratio to whichever rival is best at each rate.

    Args:
        ours: At each rate, for each frame whether the contender was right, bool [N].
        theirs: At each rate, the same of each rival, on the same frames.
        scenes: At each rate, which scene each frame belongs to, intp [N], from 0.

    Returns:
        Both with their standard errors by bootstrap over scenes; None where at some rate no rival was ever right.
    """
    count = 1 + max(int(of_frames.max()) for of_frames in scenes)
    seen = np.unique(np.concatenate(list(scenes)))
    above = np.array([_by_scene(one, at, count) for one, at in zip(ours, scenes, strict=True)])[:, seen]
    below = [
        np.array([_by_scene(one, at, count) for one in rivals])[:, seen]
        for rivals, at in zip(theirs, scenes, strict=True)
    ]

    def ratios(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        best = np.array([(of_rate @ drawn.T).max(axis=0) for of_rate in below])
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((above @ drawn.T) / best)

    whole = ratios(np.ones((1, len(seen))))[:, 0]
    if not np.isfinite(whole).all():
        return None
    drawn = ratios(_draws(len(seen)))
    drawn = drawn[:, np.isfinite(drawn).all(axis=0)]
    enough = len(seen) > 1 and drawn.shape[1] > DRAWS // 2
    errors = [float(of.std(ddof=1)) if enough else None for of in (drawn.mean(axis=0), drawn.min(axis=0))]
    return Mean(float(whole.mean()), errors[0]), Mean(float(whole.min()), errors[1])


def mean_of_means(values: Sequence[NDArray[np.float64]], scenes: Sequence[NDArray[np.intp]]) -> Mean:
    """The mean over several runs of each one's mean over its frames, all runs over the same scenes.

    Args:
        values: For each run one for each frame, float64 [N].
        scenes: For each run which scene each frame belongs to, intp [N], from 0.

    Returns:
        The mean with its standard error by bootstrap over scenes.
    """
    count = 1 + max(int(of_frames.max()) for of_frames in scenes)
    sums = np.array([_by_scene(one, at, count) for one, at in zip(values, scenes, strict=True)])
    frames = np.array([np.bincount(at, minlength=count) for at in scenes])
    seen = np.flatnonzero(frames.any(axis=0))
    whole = float((sums.sum(axis=1) / frames.sum(axis=1)).mean())
    drawn = _draws(len(seen)).T
    below = frames[:, seen] @ drawn
    good = (below > 0).all(axis=0)
    if len(seen) < 2 or good.sum() <= DRAWS // 2:
        return Mean(whole, None)
    means = (sums[:, seen] @ drawn)[:, good] / below[:, good]
    return Mean(whole, float(means.mean(axis=0).std(ddof=1)))


def _by_scene(
    values: NDArray[np.bool_] | NDArray[np.float64], scenes: NDArray[np.intp], count: int = 0
) -> NDArray[np.float64]:
    """The sum over each scene's frames, float64 [scenes]."""
    return np.bincount(scenes, weights=values, minlength=count).astype(np.float64)


def _draws(scenes: int) -> NDArray[np.float64]:
    """How often each scene is in each draw, float64 [draws, scenes]. Always the same: figures are to be repeatable."""
    random = np.random.default_rng(SEED)
    return random.multinomial(scenes, np.full(scenes, 1 / scenes), size=DRAWS).astype(np.float64)
