"""Annotated copies of labelled videos: the pictures are decoded once more, and drawn on as their labels say."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.labelling.inputs import Video
from stream_ann.errors import DecodeError, SourceError, UsageError
from stream_ann.frames import ExitAnswer, Frame, FrameResult
from stream_ann.ingest import VideoSource
from stream_ann.ingest.spans import time_base_of
from stream_ann.overlay import Overlay
from stream_ann.sinks.annotated import annotated_path, write_annotated

__all__ = ["Annotator", "check_targets"]


class Annotator:
    """Makes the annotated copy of a video.

    Args:
        videos: All videos of the job.
        exit_names: Name of each exit.
        stopped: Whether to give up.
    """

    def __init__(self, videos: Sequence[Video], exit_names: Sequence[str], stopped: Callable[[], bool]) -> None:
        self._videos = videos
        self._overlay = Overlay(exit_names)
        self._stopped = stopped

    def __call__(self, number: int, frames: Path, target: Path) -> bool:
        """Draw onto a video.

        Args:
            number: Number of the video.
            frames: Its labelled frames as JSON Lines.
            target: Where to write; the extension follows its sound.

        Returns:
            Whether it is done; False where it was stopped.

        Raises:
            OutputError: If it cannot be written.
        """
        video = self._videos[number]
        try:
            with frames.open(encoding="utf-8") as file:
                labels = (json.loads(line) for line in file)
                write_annotated(
                    video.path,
                    self._pictures(video, labels),
                    annotated_path(video.path, target),
                    time_base=time_base_of(video.path, video.name),
                )
        except _StoppedError:
            return False
        return True

    def _pictures(
        self, video: Video, labels: Iterator[dict[str, Any]]
    ) -> Iterator[tuple[NDArray[np.uint8], float | None]]:
        """Every frame with the label that holds for it: its own, or else that of the last labelled one before it."""
        source = VideoSource(video.path, name=video.name)
        index = 0
        present: dict[str, Any] | None = None
        following = next(labels, None)
        try:
            source.open()
            while True:
                if self._stopped():
                    raise _StoppedError
                try:
                    picture = source.read()
                except DecodeError:
                    index += 1
                    continue
                if picture is None:
                    return
                while following is not None and following["frame"] <= index:
                    present, following = following, next(labels, None)
                image = picture.image
                if present is not None:
                    image = self._overlay.draw(_result(Frame(image, video.name, index, picture.pts_s, 0.0), present))
                yield image, picture.pts_s
                index += 1
        except SourceError:
            return  # as far as it could be read; the job has told why
        finally:
            source.close()


class _StoppedError(Exception):
    """Nobody waits for the video any more."""


def check_targets(videos: Sequence[Video], targets: Sequence[Path]) -> None:
    """Make sure that no annotated video takes the place of an input.

    Raises:
        UsageError: If one would.
    """
    inputs = {os.path.realpath(video.path) for video in videos}
    for target in targets:
        for path in (target.with_suffix(".mp4"), target.with_suffix(".mkv")):
            if os.path.realpath(path) in inputs:
                raise UsageError(f"the annotated video '{path}' would replace an input", "choose another folder")


def _result(frame: Frame, label: dict[str, Any]) -> FrameResult:
    """A labelled frame as what an overlay draws; nobody waited for its answers, so they have no times."""
    return FrameResult(
        frame=frame,
        label=label["label"],
        class_id=label["class_id"],
        confidence=label["confidence"],
        top=tuple((name, probability) for name, probability in label["top"]),
        exit=label["exit"],
        exits=tuple(ExitAnswer(e["exit"], e["class_id"], e["confidence"], math.nan) for e in label["exits"]),
        budget_ms=None,
        replaced_before=0,
        ended="complete",
    )
