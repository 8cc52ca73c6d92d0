"""What every exit says about labelled photographs: folders named by class, or by WordNet id for ImageNet's classes."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.agreement import batches, images_in, labels_of, spread
from stream_ann.errors import UsageError
from stream_ann.nets import Member
from stream_ann.preprocess import Preprocessing, preprocess
from stream_ann.training.outputs import Outputs
from stream_ann.weights import Weights

__all__ = ["WORDNET_IDS", "Part", "labelled", "logits_of", "options_of", "outputs_of"]

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


def options_of(doc: str | None, *, fitted: str) -> argparse.ArgumentParser:
    """The options of a measurement that fits something to some photographs and reports on others.

    Args:
        doc: What the measurement says about itself.
        fitted: What is fitted, fit to be read after "to write" and "to fit".
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=Part.parse, nargs="+", required=True, help=f"folders to fit {fitted} to")
    parser.add_argument("--report", type=Part.parse, nargs="+", default=[], help="folders of other images to report on")
    parser.add_argument("--weights", default="imagenet", help="name or path of weights")
    parser.add_argument("--data-name", help="what the card calls the images fitted to; by default the folders' names")
    parser.add_argument("--keep", type=Path, help="folder where logits are kept for the next time")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--into-card", action="store_true", help=f"write {fitted} into the card")
    return parser


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
        keep: Folder where logits are kept as float16 for the next time, member by member: what two weights files have
            in common runs once.
    """
    paths, labels = labelled(part, weights)
    logits = logits_of(weights, paths, f"{part.name}-{part.per_class or 'all'}", batch_size=batch_size, keep=keep)
    return Outputs(logits, torch.from_numpy(labels))


def logits_of(
    weights: Weights, paths: Sequence[Path], called: str, *, batch_size: int = 16, keep: Path | None = None
) -> Tensor:
    """The logits of every exit for images, float32 [exits, images, classes].

    Args:
        weights: What is run.
        paths: The images.
        called: What to call them where logits are kept.
        batch_size, keep: As in :func:`outputs_of`.
    """
    found: dict[int, NDArray[np.float32]] = {}
    files: dict[int, Path] = {}
    members = weights.net.members()
    for number, member in enumerate(members):
        if keep is not None:
            files[number] = keep / f"{_fingerprint(member)}-{called.replace('/', '-')}.npz"
            if files[number].exists():
                with np.load(files[number]) as kept:
                    found[number] = kept["logits"].astype(np.float32)
    missing = [number for number in range(len(members)) if number not in found]
    rows: dict[int, list[NDArray[np.float32]]] = {number: [] for number in missing}
    done = 0
    for batch in batches(paths, batch_size) if missing else ():
        for number in missing:
            rows[number].append(_logits(members[number], weights.card.preprocessing, batch))
        done += len(batch)
        print(f"\r{done}/{len(paths)} images", end="", file=sys.stderr, flush=True)
    if missing:
        print(file=sys.stderr)  # ends the line of the progress
    for number in missing:
        found[number] = np.concatenate(rows[number], axis=1)
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            np.savez(files[number], logits=found[number].astype(np.float16))
    return torch.from_numpy(np.concatenate([found[number] for number in range(len(members))]))


@torch.inference_mode()
def _logits(member: Member, preprocessing: Preprocessing, batch: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Of a member's exits, float32 [exits, images, classes]."""
    exits = []
    sized = torch.cat([preprocess(image, member.resolution_px, preprocessing) for image in batch])
    state: tuple[Tensor, ...] = ()
    for step in member.steps:
        state, logits = step(sized, state)
        exits.append(logits.numpy())
    return np.stack(exits)


def _fingerprint(member: Member) -> str:
    """Names a member by all that its answers depend on."""
    digest = hashlib.sha256(str(member.resolution_px).encode())
    for step in member.steps:
        for name, tensor in step.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
