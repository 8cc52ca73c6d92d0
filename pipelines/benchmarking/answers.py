"""What each exit says about each picture of a film, computed once."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from stream_ann.scheduler import Engine
from stream_ann.streaming import AnswerTable, Film, Mean, ratio_of

__all__ = ["answer_table", "right_on"]

SMALL_PX = (32, 24)
"""Width and height of what stands for a picture in a simulation."""


def answer_table(engine: Engine, film: Film, on_progress: Callable[[int, int], None]) -> AnswerTable:
    """Run the whole plan on every picture of a film.

    Args:
        engine: Runs the network.
        film: The film.
        on_progress: Called with the number of pictures done and their total.
    """
    plan = engine.plan
    table = np.empty((len(film), len(plan), plan.classes), dtype=np.float32)
    images = []
    for number in range(len(film)):
        on_progress(number, len(film))
        picture = film.picture(number)
        images.append(np.asarray(cv2.resize(picture, SMALL_PX, interpolation=cv2.INTER_AREA), dtype=np.uint8))
        engine.start(picture)
        for step in range(len(plan)):
            table[number, step] = engine.run(step)
    return AnswerTable(table, tuple(images))


def right_on(film: Film, table: AnswerTable) -> list[Mean]:
    """Accuracy of each exit alone on a film, each picture weighed by how long it is there."""
    answers = table.probabilities.argmax(axis=2)
    right = np.array([[int(c) in truth for c in row] for row, truth in zip(answers, film.truths, strict=True)])
    return [ratio_of(film.shown_s * right[:, exit_], film.shown_s, film.scenes) for exit_ in range(right.shape[1])]
