"""What every exit says about labelled photographs: folders named by class, or by WordNet id for ImageNet's classes."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.agreement import batches, images_in, labels_of, spread
from stream_ann.errors import UsageError
from stream_ann.preprocess import preprocess
from stream_ann.training.outputs import Outputs
from stream_ann.weights import Weights

__all__ = ["WORDNET_IDS", "Part", "labelled", "outputs_of"]

WORDNET_IDS = Path(__file__).resolve().parent.parent / "stream_ann" / "assets" / "imagenet-wordnet-ids.tsv"


@dataclass(frozen=True, slots=True)
class Part:
    """Some labelled images."""

    folder: Path
    per_class: int | None
    """At most so many of each class, evenly spread over the order of their names."""

    @classmethod
    def parse(cls, text: str) -> Part:
        """From ``FOLDER`` or ``FOLDER:COUNT``."""
        folder, colon, count = text.rpartition(":")
        if colon and count.isdecimal() and int(count) > 0:
            return cls(Path(folder), int(count))
        return cls(Path(text), None)

    @property
    def name(self) -> str:
        """The folder with the one that it is in, e.g. ``tiny/train``."""
        folder = self.folder.resolve()
        return f"{folder.parent.name}/{folder.name}"


def labelled(part: Part, weights: Weights) -> tuple[list[Path], NDArray[np.int64]]:
    """The images whose folder is named as a class of the weights, and their classes."""
    paths = images_in(part.folder)
    of_class: dict[int, list[Path]] = defaultdict(list)
    for path, label in zip(paths, labels_of(paths, weights.card, WORDNET_IDS).tolist(), strict=True):
        if label >= 0:
            of_class[label].append(path)
    if not of_class:
        raise UsageError(f"no folder in '{part.folder}' is named as a class", "name them by class or by WordNet id")
    chosen = [(path, label) for label in sorted(of_class) for path in spread(of_class[label], part.per_class)]
    return [path for path, _ in chosen], np.array([label for _, label in chosen], dtype=np.int64)


def outputs_of(weights: Weights, part: Part, *, batch_size: int = 16, keep: Path | None = None) -> Outputs:
    """The logits of every exit for labelled images, each member fed from the image itself.

    Args:
        weights: What is run.
        part: The images.
        batch_size: Images in a batch.
        keep: Folder where logits are kept as float16 for the next time.
    """
    name = f"{weights.card.file.sha256[:8]}-{part.name.replace('/', '-')}-{part.per_class or 'all'}.npz"
    if keep is not None and (keep / name).exists():
        with np.load(keep / name) as kept:
            return Outputs(torch.from_numpy(kept["logits"].astype(np.float32)), torch.from_numpy(kept["labels"]))
    paths, labels = labelled(part, weights)
    rows = []
    for batch in batches(paths, batch_size):
        rows.append(_logits(weights, batch))
        print(f"\r{sum(row.shape[1] for row in rows)}/{len(paths)} images", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)  # ends the line of the progress
    logits = np.concatenate(rows, axis=1)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        np.savez(keep / name, logits=logits.astype(np.float16), labels=labels)
    return Outputs(torch.from_numpy(logits), torch.from_numpy(labels))


@torch.inference_mode()
def _logits(weights: Weights, batch: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """float32 [exits, images, classes]."""
    exits = []
    for member in weights.net.members():
        sized = torch.cat([preprocess(image, member.resolution_px, weights.card.preprocessing) for image in batch])
        state: tuple[torch.Tensor, ...] = ()
        for step in member.steps:
            state, logits = step(sized, state)
            exits.append(logits.numpy())
    return np.stack(exits)
