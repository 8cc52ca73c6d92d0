"""How often each exit agrees with the last one, on photographs that need no labels.

    python -m benchmarks.agreement DATA --weights imagenet --out benchmarks/results/agreement-NAME.json

DATA is a folder of images, searched with all its subfolders. Where the name of an image's own folder is one of the
card's class names, or its WordNet id with ``--wordnet-ids FILE`` (lines of class number, id and name, separated by
tabs), top-1 is measured as well. ``--into-card`` writes each exit's agreement into the weights card as its accuracy.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from benchmarks import report
from stream_ann.card import Card, Validation
from stream_ann.errors import SourceNotFoundError
from stream_ann.frames import Prediction
from stream_ann.preprocess import preprocess
from stream_ann.readout import Average
from stream_ann.weights import Weights, load, write_card

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm")


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """The top-1 answers on all images."""

    latest: NDArray[np.int64]
    """Of each exit alone, [images, exits]."""
    average: NDArray[np.int64]
    """Of the weighted average of each exit and those before it, [images, exits]."""


def images_in(folder: Path) -> list[Path]:
    """All images in a folder and its subfolders, in the order of their paths."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        what = f"there are no images in '{folder}'"
        raise SourceNotFoundError(what, f"name a folder with {', '.join(SUFFIXES)} files in it")
    return found


def spread(images: Sequence[Path], count: int | None) -> list[Path]:
    """``count`` of the images (all if None or more than there are), evenly spread over their order."""
    total = len(images)
    count = total if count is None else min(count, total)
    return [images[i * total // count] for i in range(count)]


def wordnet_classes(path: Path) -> dict[str, int]:
    """Class number by WordNet id, from lines of class number, id and name."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line]
    return {row[1]: int(row[0]) for row in rows}


def labels_of(images: Sequence[Path], card: Card, wordnet_ids: Path | None) -> NDArray[np.int64]:
    """Class of each image by the name of its folder, -1 where that says nothing."""
    known = {name: number for number, name in enumerate(card.classes)}
    if wordnet_ids is not None:
        known |= wordnet_classes(wordnet_ids)
    return np.array([known.get(path.parent.name, -1) for path in images], dtype=np.int64)


def classify(weights: Weights, images: Sequence[Path], batch_size: int) -> Answers:
    """Run the whole plan on every image, each member at its own resolution from the image itself."""
    readout = Average(weights.card.readout_weights or [2.0**i for i in range(len(weights.plan))])
    latest: list[NDArray[np.int64]] = []
    average: list[list[int]] = []
    started_s = time.monotonic()
    for batch in batches(images, batch_size):
        probabilities = _probabilities(weights, batch)
        latest.append(probabilities.argmax(axis=2).T)
        for image in range(len(batch)):
            exits = [Prediction(k, row[image], 0.0) for k, row in enumerate(probabilities)]
            average.append([readout.answer(exits[: k + 1]).class_id for k in range(len(exits))])
        done, elapsed_s = len(average), time.monotonic() - started_s
        print(f"\r{done}/{len(images)} images, {done / elapsed_s:.1f} a second", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)  # ends the line of the progress
    return Answers(np.concatenate(latest), np.array(average, dtype=np.int64))


def batches(images: Sequence[Path], batch_size: int) -> Iterator[list[NDArray[np.uint8]]]:
    """The pictures, uint8 [H, W, 3] RGB each, so many at a time."""
    for begin in range(0, len(images), batch_size):
        batch = []
        for path in images[begin : begin + batch_size]:
            with Image.open(path) as image:
                batch.append(np.asarray(ImageOps.exif_transpose(image).convert("RGB")))
        yield batch


@torch.inference_mode()
def _probabilities(weights: Weights, batch: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Probabilities float32 [exits, images, classes]."""
    exits = []
    for member in weights.net.members():
        sized = torch.cat([preprocess(image, member.resolution_px, weights.card.preprocessing) for image in batch])
        state: tuple[torch.Tensor, ...] = ()
        for step in member.steps:
            state, logits = step(sized, state)
            exits.append(logits.softmax(dim=1).numpy())
    return np.stack(exits)


def figures(weights: Weights, answers: Answers, labels: NDArray[np.int64]) -> list[dict[str, Any]]:
    """A row for each exit: what it costs, how often it agrees with the last exit, and how often it is right."""
    last = answers.latest[:, -1:]
    labelled = labels >= 0
    rows = []
    for exit_, (step, macs) in enumerate(zip(weights.plan.steps, weights.plan.cumulative_macs, strict=True)):
        row: dict[str, Any] = {"exit": exit_, "name": step.name, "cumulative_macs": macs}
        for readout, top1 in (("latest", answers.latest), ("average", answers.average)):
            row[f"agreement_{readout}"] = round(float((top1[:, exit_] == last[:, 0]).mean()), 4)
            if labelled.any():
                row[f"top1_{readout}"] = round(float((top1[labelled, exit_] == labels[labelled]).mean()), 4)
        rows.append(row)
    return rows


def with_agreement(card: Card, rows: Sequence[dict[str, Any]], *, data: str, images: int, command: str) -> Card:
    """The card with each exit's agreement as its accuracy."""
    last = card.steps[-1]
    measure = f"agreement of top-1 with the last exit ({last.name}), which needs no labels: not top-1 accuracy"
    steps = (replace(step, accuracy=row["agreement_latest"]) for step, row in zip(card.steps, rows, strict=True))
    return replace(card, steps=tuple(steps), validation=Validation(measure, data, images, command))


def measure(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    torch.set_num_threads(args.threads)
    weights = load(args.weights)
    images = spread(images_in(args.data), args.images)
    labels = labels_of(images, weights.card, args.wordnet_ids)
    rows = figures(weights, classify(weights, images, args.batch_size), labels)
    data_name = args.data_name or args.data.resolve().name
    for row in rows:
        print(" ".join(f"{key}={value}" for key, value in row.items()))
    results = {
        "weights": weights.card.name,
        "weights_sha256": weights.card.file.sha256,
        "data": data_name,
        "images": len(images),
        "labelled_images": int((labels >= 0).sum()),
        "exits": rows,
    }
    if args.out is not None:
        report.write(args.out, "agreement", results, vars(args))
    if args.into_card:
        # What the command says must hold on another machine: the folder there has a path of its own.
        command = f"python -m benchmarks.agreement DATA --weights {weights.card.name}"
        card = with_agreement(weights.card, rows, data=data_name, images=len(images), command=command)
        write_card(card, weights.path)


def main() -> int:
    """Parse the command line, measure, and give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of images")
    parser.add_argument("--weights", default="imagenet", help="name or path of weights")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--data-name", help="what to call the images; by default the folder's name")
    parser.add_argument("--wordnet-ids", type=Path, help="table of class number, WordNet id and name")
    parser.add_argument("--images", type=int, help="only this many, spread evenly over all of them")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--into-card", action="store_true", help="write each exit's agreement into the card")
    return report.run_checked(measure, parser.parse_args(), positive=("images", "batch_size", "threads"))


if __name__ == "__main__":
    sys.exit(main())
