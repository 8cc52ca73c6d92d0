"""How often hedged labels are right and how much they say, with thresholds that were fitted on other images.

Run from the root of the repository, with folders of training and of held-out photographs whose subfolders are named by
class or by WordNet id; ``FOLDER:4`` takes four images of each class. The weights must have ImageNet's classes::

    python -m benchmarks.hedging --fit PHOTOS/train TINY/train:20 --report PHOTOS/val TINY/val:20 --out hedging.json

Thresholds are fitted to each folder by itself, and of each exit and target the highest counts, so that the promise is
kept on easy and on hard images. ``--into-card`` writes them into the card, where ``live --hedge`` finds them.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import report
from benchmarks.photographs import options_of, outputs_of
from stream_ann.card import Card
from stream_ann.labels import bundled_hierarchy
from stream_ann.labels.hedging import TARGETS, Concepts, HedgeCalibration, fit_thresholds, outcomes
from stream_ann.training.outputs import Outputs
from stream_ann.weights import load, write_card


def probabilities(outputs: Outputs, card: Card) -> NDArray[np.float32]:
    """What is answered once each exit is done, float32 [exits, N, classes]: at the temperatures of the card, and by the
    readout that runs where none is asked for."""
    temperatures = torch.tensor(card.temperatures)[:, None, None]
    answers: NDArray[np.float32] = (outputs.logits / temperatures).softmax(dim=2).numpy()
    if card.default_readout == "average":
        weights = np.asarray(card.readout_weights, dtype=np.float32)
        answers = (answers * weights[:, None, None]).cumsum(axis=0) / weights.cumsum()[:, None, None]
    return answers


def fitted(concepts: Concepts, sets: list[Outputs], card: Card) -> HedgeCalibration:
    """For each exit and target the highest of the thresholds that the sets need."""
    needed = [
        [fit_thresholds(concepts, answers, outputs.labels.numpy()) for answers in probabilities(outputs, card)]
        for outputs in sets
    ]
    highest = np.max(np.array(needed), axis=0)
    return HedgeCalibration(TARGETS, tuple(tuple(row) for row in highest.tolist()))


def figures(
    concepts: Concepts, outputs: Outputs, card: Card, calibration: HedgeCalibration | None
) -> list[dict[str, Any]]:
    """For each exit and target, how often the label is right and how much it says.

    ``information`` is the share of the bits that the class itself would give: 1 where every label is a class, 0 where
    every label is the widest concept. ``classes`` is the share of labels that are classes, ``covered`` the geometric
    mean of how many classes a label covers.
    """
    rows = []
    for exit_, answers in enumerate(probabilities(outputs, card)):
        thresholds = [t if calibration is None else calibration.threshold(exit_, t) for t in TARGETS]
        right, covered = outcomes(concepts, answers, outputs.labels.numpy(), np.array(thresholds))
        bits = np.log2(covered).mean(axis=0)
        whole = np.log2(len(concepts.names))
        for i, target in enumerate(TARGETS):
            rows.append(
                {
                    "exit": exit_,
                    "target": target,
                    "threshold": round(thresholds[i], 4),
                    "right": round(float(right[:, i].mean()), 4),
                    "right_error": round(float(right[:, i].std() / len(right) ** 0.5), 4),
                    "information": round(float(1 - bits[i] / whole), 4),
                    "classes": round(float((covered[:, i] == 1).mean()), 4),
                    "covered": round(float(2 ** bits[i]), 2),
                }
            )
    return rows


def measure(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    torch.set_num_threads(args.threads)
    weights = load(args.weights)
    bundled_hierarchy().check_covers(weights.card.classes)
    concepts = Concepts.of(weights.card.classes, bundled_hierarchy())
    sets = {part.name: outputs_of(weights, part, batch_size=args.batch_size, keep=args.keep) for part in args.fit}
    calibration = fitted(concepts, list(sets.values()), weights.card)
    reported: dict[str, Any] = {}
    for part in args.report:
        outputs = outputs_of(weights, part, batch_size=args.batch_size, keep=args.keep)
        rows = figures(concepts, outputs, weights.card, calibration)
        reported[part.name] = {
            "images": len(outputs),
            "classes": len(set(outputs.labels.tolist())),
            "fitted": rows,
            "unfitted": figures(concepts, outputs, weights.card, None),
        }
        print(f"{part.name}, {len(outputs)} images: right and information at each exit")
        for i, target in enumerate(TARGETS):
            cells = (f"{row['right']:.3f} {row['information']:.3f}" for row in rows[i :: len(TARGETS)])
            print(f"  {target:.2f}   {'   '.join(cells)}")
    counts = {name: len(outputs) for name, outputs in sets.items()}
    if args.out is not None:
        results = {"weights": weights.card.name, "fit": counts, **calibration.as_json(), "report": reported}
        options = {key: [p.name for p in v] if isinstance(v, list) else v for key, v in vars(args).items()}
        report.write(args.out, "hedging", results, options)
    if args.into_card:
        told = "; ".join(f"{name} ({count:,} images)" for name, count in counts.items())
        hedging = {
            **calibration.as_json(),
            "data": args.data_name or told,
            "command": "python -m benchmarks.hedging --fit DATA --into-card",
        }
        write_card(replace(weights.card, extra={**weights.card.extra, "hedging": hedging}), weights.path)


def main() -> int:
    """Parse the command line, measure, and give the exit code."""
    parser = options_of(__doc__, fitted="thresholds")
    return report.run_checked(measure, parser.parse_args(), positive=("batch_size", "threads"))


if __name__ == "__main__":
    sys.exit(main())
