"""From lists of files to splits: decoded into memory where they fit, else streamed; what is damaged is left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stream_ann.errors import SourceError, UsageError
from stream_ann.training.clips import clip_shape, load_clip
from stream_ann.training.folder import Listing
from stream_ann.training.images import Progress, StoredImage, in_threads, load_image, why_unusable
from stream_ann.training.memory import MemorySplit, PixelStore
from stream_ann.training.split import Split
from stream_ann.training.streaming import StreamedSplit

__all__ = ["FolderLoader"]

_HEADERS_READ = 2000
"""Images whose size is looked up to estimate what all of them take."""
_LEAST_SIDE_PX = 96
"""Frames of clips are kept smaller to fit into the memory limit, down to this."""


class FolderLoader:
    """Makes splits of the files of a folder.

    Args:
        folder: The folder, to which the names in ``skipped`` are relative.
        classes: Names of the classes.
        short_side_px: What is kept in memory is reduced to this shorter side.
        limit_bytes: Bytes that all splits together may take decoded.
        progress: Told how many files are done of how many.
    """

    def __init__(
        self, folder: Path, classes: tuple[str, ...], short_side_px: int, limit_bytes: int, progress: Progress | None
    ) -> None:
        self._folder, self._classes = folder, classes
        self._short_side_px, self._limit_bytes, self._progress = short_side_px, limit_bytes, progress
        self.skipped: list[str] = []
        """What was left out, as ``"path: reason"``, in the order of the lists."""
        self.side_px = 0
        """Side of the images, where all are squares of one size; else 0."""

    def images(self, listings: Sequence[Listing], workers: int | None) -> list[Split]:
        """A split of each list of image files.

        Args:
            listings: The files.
            workers: Worker processes, where the images do not fit into the limit.

        Raises:
            SourceError: No file of a class decodes.
        """
        paths = [path for listing in listings for path in listing.paths]
        decoded = self._decoded(paths) if self._fits(paths) else None
        if decoded is None:
            reasons = [""] * len(paths)

            def note(number: int, reason: str) -> bool:
                reasons[number] = reason
                return True

            in_threads(why_unusable, paths, note, self._progress)
        else:
            reasons = [image if isinstance(image, str) else "" for image in decoded]

        splits: list[Split] = []
        sides = set()
        first = 0
        for listing in listings:
            rows = self._kept(listing, reasons[first : first + len(listing.paths)])
            kept = listing.kept(rows)
            labels = torch.tensor(kept.labels)
            if decoded is None:
                splits.append(StreamedSplit(kept.paths, labels, self._classes, workers))
            else:
                store = PixelStore.of_list([_taken(decoded, first + row) for row in rows])
                sides.add(store.side_px)
                splits.append(MemorySplit(store, labels, self._classes))
            first += len(listing.paths)
        self.side_px = sides.pop() if len(sides) == 1 else 0
        return splits

    def clips(self, listings: Sequence[Listing], frames: int) -> list[Split]:
        """A split of each list of video clips, whose images are frames of them. The frames of a clip are a group.

        Args:
            listings: The files.
            frames: Frames taken from each clip.

        Raises:
            SourceError: No file of a class decodes.
            UsageError: The frames do not fit into the limit, however small they are kept.
        """
        paths = [path for listing in listings for path in listing.paths]
        side = self._clip_side(paths, frames)
        decoded: list[list[NDArray[np.uint8]] | str] = [""] * len(paths)

        def note(number: int, found: list[NDArray[np.uint8]] | str) -> bool:
            decoded[number] = found
            return True

        in_threads(lambda path: load_clip(path, frames, side), paths, note, self._progress)
        splits: list[Split] = []
        first = 0
        for listing in listings:
            found = decoded[first : first + len(listing.paths)]
            rows = self._kept(listing, [clip if isinstance(clip, str) else "" for clip in found])
            images, labels, groups = [], [], []
            for row in rows:
                clip = found[row]
                assert isinstance(clip, list)
                images += clip
                labels += [listing.labels[row]] * len(clip)
                groups += [row] * len(clip)
                decoded[first + row] = found[row] = ""  # moves to the store image by image
            store = PixelStore.of_list(images)
            splits.append(MemorySplit(store, torch.tensor(labels), self._classes, groups=torch.tensor(groups)))
            first += len(listing.paths)
        return splits

    def _fits(self, paths: Sequence[Path]) -> bool:
        """Whether the images fit into the limit, by the headers of some, evenly spread over all."""
        sample = paths[:: max(1, len(paths) // _HEADERS_READ)]
        total = 0

        def add(number: int, size: int) -> bool:
            nonlocal total
            total += size
            return True

        in_threads(lambda path: _stored_bytes(path, self._short_side_px), sample, add, None)
        return total * len(paths) / len(sample) <= self._limit_bytes

    def _decoded(self, paths: Sequence[Path]) -> list[NDArray[np.uint8] | str] | None:
        """Each image, or why it was left out; None where they do not fit into the limit after all."""
        decoded: list[NDArray[np.uint8] | str] = [""] * len(paths)
        taken = 0

        def keep(number: int, image: NDArray[np.uint8] | str) -> bool:
            nonlocal taken
            decoded[number] = image
            taken += 0 if isinstance(image, str) else image.nbytes
            return taken <= self._limit_bytes

        whole = in_threads(lambda path: load_image(path, self._short_side_px), paths, keep, self._progress)
        return decoded if whole else None

    def _clip_side(self, paths: Sequence[Path], frames: int) -> int:
        """The shorter side at which the frames of all clips fit into the limit."""
        shapes: list[tuple[int, int]] = []

        def add(number: int, shape: tuple[int, int] | None) -> bool:
            if shape is not None:
                shapes.append(shape)
            return True

        in_threads(clip_shape, paths, add, None)
        side = self._short_side_px
        while sum(_shrunk_bytes(h, w, side) for h, w in shapes) * frames > self._limit_bytes:
            if side <= _LEAST_SIDE_PX:
                raise UsageError(
                    f"{frames} frames of each of {len(paths)} clips take more than {self._limit_bytes >> 20} MiB",
                    "take fewer frames per clip, or raise the memory limit",
                )
            side = max(_LEAST_SIDE_PX, side * 7 // 8)
        return side

    def _kept(self, listing: Listing, reasons: Sequence[str]) -> list[int]:
        """The rows without a reason against them. Each class must have one."""
        bad = [row for row, reason in enumerate(reasons) if reason]
        named = [f"{_relative(listing.paths[row], self._folder)}: {reasons[row]}" for row in bad]
        kept = [row for row, reason in enumerate(reasons) if not reason]
        if not kept:
            raise SourceError(
                f"none of {len(reasons)} files in '{self._folder}' decodes, e.g. {named[0]}", "repair them"
            )
        left = {listing.labels[row] for row in kept}
        for row, name in zip(bad, named, strict=True):
            if listing.labels[row] not in left:
                lost = self._classes[listing.labels[row]]
                raise SourceError(f"no file of class '{lost}' decodes, e.g. {name}", "repair them, or remove the class")
        self.skipped += named
        return kept


def _taken(decoded: list[NDArray[np.uint8] | str], row: int) -> NDArray[np.uint8]:
    """An image out of the list, which forgets it, so that its memory is free once it has been copied."""
    image, decoded[row] = decoded[row], ""
    assert not isinstance(image, str)
    return image


def _relative(path: Path, folder: Path) -> Path:
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def _stored_bytes(path: Path, short_side_px: int) -> int:
    """Bytes of an image once it is in memory; 0 where its header cannot be read."""
    try:
        image = StoredImage(path)
        image.close()
    except Exception:
        return 0
    return _shrunk_bytes(image.height_px, image.width_px, short_side_px)


def _shrunk_bytes(height_px: int, width_px: int, short_side_px: int) -> int:
    scale = min(1.0, short_side_px / max(1, min(height_px, width_px)))
    return round(height_px * scale) * round(width_px * scale) * 3
