"""What each exit says about each picture of a film, computed once, and kept for the next time where that is wanted."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from stream_ann.scheduler import Engine
from stream_ann.sinks.files import output_error
from stream_ann.streaming import AnswerTable, Film, Mean, ratio_of
from stream_ann.whole_files import whole_file

__all__ = ["KeptAnswers", "answer_table", "right_on"]

SMALL_PX = (32, 24)
"""Width and height of what stands for a picture in a simulation."""


class KeptAnswers:
    """A network's answers to pictures, kept in a file by the pictures' content.

    Args:
        folder: Where the file lies; made where it is missing.
        about: All that answers depend on beside the picture: weights, temperatures, engine. Each has a file of its own.
        shape: Exits and classes.
    """

    def __init__(self, folder: str | os.PathLike[str], about: str, shape: tuple[int, int]) -> None:
        name = hashlib.sha256(f"{shape} {about}".encode()).hexdigest()[:16]
        self._path = Path(folder) / f"answers-{name}.safetensors"
        self._shape = shape
        self._rows: dict[bytes, NDArray[np.float32]] = {}
        self._new = False
        try:
            kept = safetensors.numpy.load(self._path.read_bytes())
            keys, rows = kept["pictures"], kept["answers"]
        except (OSError, ValueError, TypeError, KeyError, safetensors.SafetensorError):
            return  # what is missing or damaged is computed anew
        if rows.dtype == np.float32 and rows.shape == (len(keys), *shape):
            self._rows = {key.tobytes(): row for key, row in zip(keys, rows, strict=True)}

    def answers(
        self, picture: NDArray[np.uint8], ask: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """What is kept about a picture, uint8 [H, W, 3], or what ``ask`` says: float32 [exits, classes]."""
        shape = np.array(picture.shape, dtype=np.int64).tobytes()
        key = hashlib.blake2b(shape + picture.tobytes(), digest_size=16).digest()
        found = self._rows.get(key)
        if found is None:
            found = self._rows[key] = ask(picture)
            self._new = True
        return found

    def write(self) -> None:
        """Keep what is new.

        Raises:
            OutputError: The file cannot be written.
        """
        if not self._new:
            return
        keys = np.frombuffer(b"".join(self._rows), dtype=np.uint8).reshape(-1, 16)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self._path) as file:
                file.write(safetensors.numpy.save({"pictures": keys, "answers": np.stack(list(self._rows.values()))}))
        except OSError as error:
            raise output_error(self._path, error) from error
        self._new = False


def answer_table(
    engine: Engine, film: Film, on_progress: Callable[[int, int], None], *, kept: KeptAnswers | None = None
) -> AnswerTable:
    """Run the whole plan on every picture of a film.

    Args:
        engine: Runs the network.
        film: The film.
        on_progress: Called with the number of pictures done and their total.
        kept: Answers of the same network that are known, to which those that are new are added.
    """
    plan = engine.plan
    table = np.empty((len(film), len(plan), plan.classes), dtype=np.float32)
    images = []

    def ask(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        engine.start(picture)
        return np.stack([engine.run(step) for step in range(len(plan))])

    for number in range(len(film)):
        on_progress(number, len(film))
        picture = film.picture(number)
        images.append(np.asarray(cv2.resize(picture, SMALL_PX, interpolation=cv2.INTER_AREA), dtype=np.uint8))
        table[number] = ask(picture) if kept is None else kept.answers(picture, ask)
    if kept is not None:
        kept.write()
    return AnswerTable(table, tuple(images))


def right_on(film: Film, table: AnswerTable) -> list[Mean]:
    """Accuracy of each exit alone on a film, each picture weighed by how long it is there."""
    answers = table.probabilities.argmax(axis=2)
    right = np.array([[int(c) in truth for c in row] for row, truth in zip(answers, film.truths, strict=True)])
    return [ratio_of(film.shown_s * right[:, exit_], film.shown_s, film.scenes) for exit_ in range(right.shape[1])]
