"""How much an EANN's answers are worth over the costs at which they come, and whether other weights are better.

    python -m benchmarks.anytime_area PHOTOS/val TINY/val:10 --out benchmarks/results/anytime-area.json

The score is the area under accuracy against the logarithm of cumulative cost, from 60 to 1,500 million
multiply-accumulates, as a mean over that range: before the first exit an answer is worth nothing, afterwards as much as
the newest one. Accuracy is agreement with the last exit of the weights compared with, on all images (``FOLDER:10``
takes ten of each folder); and top-1 among the classes that there are, where folders are named by class or WordNet id.
Compared are the weights of ``--against``, by default the published networks as they are (extra ``pretrained``), image
by image, so that the standard error of the difference is that of paired samples.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import report
from benchmarks.agreement import images_in, labels_of, spread
from benchmarks.photographs import WORDNET_IDS, Part, logits_of
from stream_ann.nets import Plan
from stream_ann.weights import Weights, load, write_pretrained

COSTS_MMACS = (60.0, 1500.0)
READOUTS = ("latest", "average")


def shares(plan: Plan) -> NDArray[np.float64]:
    """Share of the logarithmic range of costs in which each exit is the newest one, float64 [exits]."""
    low, high = (math.log(cost) for cost in COSTS_MMACS)
    begins = [min(max(math.log(macs / 1e6), low), high) for macs in plan.cumulative_macs]
    return np.diff(np.array([*begins, high])) / (high - low)


def answers(weights: Weights, logits: Tensor, readout: str) -> Tensor:
    """What is answered at each exit, as probabilities float32 [exits, images, classes]."""
    temperatures = torch.tensor([step.temperature or 1.0 for step in weights.card.steps])
    probabilities = (logits / temperatures[:, None, None]).softmax(2)
    if readout == "latest":
        return probabilities
    mixing = weights.card.readout_weights or [2.0**i for i in range(len(weights.plan))]
    weighted = probabilities * torch.tensor(mixing)[:, None, None]
    return weighted.cumsum(0)  # not normalised: only the greatest is asked for


def right(weights: Weights, logits: Tensor, readout: str, wanted: Tensor, among: Tensor | None) -> NDArray[np.bool_]:
    """Whether each exit's answer is the wanted one, bool [exits, images]."""
    said = answers(weights, logits, readout)
    top = said.argmax(2) if among is None else among[said[:, :, among].argmax(2)]
    return np.asarray((top == wanted).numpy())


def score(hits: NDArray[np.bool_], plan: Plan) -> NDArray[np.float64]:
    """Each image's part in the area, float64 [images]; their mean is the area."""
    return np.asarray(shares(plan) @ hits.astype(np.float64))


def figures(mine: Weights, other: Weights, logits: Sequence[Tensor], labels: NDArray[np.int64]) -> dict[str, Any]:
    """All figures of one set of images."""
    measures: dict[str, tuple[Tensor, Tensor | None, Tensor]] = {}
    everything = torch.arange(len(labels))
    measures["agreement"] = (logits[1][-1].argmax(1), None, everything)
    known = torch.from_numpy(np.flatnonzero(labels >= 0))
    if len(known):
        measures["top1"] = (torch.from_numpy(labels)[known], torch.from_numpy(np.unique(labels[known])), known)
    found: dict[str, Any] = {"images": len(labels)}
    for name, (wanted, among, rows) in measures.items():
        for readout in READOUTS:
            hits = [
                right(weights, given[:, rows], readout, wanted, among)
                for weights, given in zip((mine, other), logits, strict=True)
            ]
            areas = [score(h, w.plan) for h, w in zip(hits, (mine, other), strict=True)]
            gain = areas[0] - areas[1]
            ends = hits[0][-1].astype(np.float64) - hits[1][-1]
            found[f"{name}_{readout}"] = {
                "images": len(rows),
                "area": _percent(areas[0]),
                "against": _percent(areas[1]),
                "gain": _percent(gain),
                "gain_error": _error(gain),
                "last_exit_gain": _percent(ends),
                "last_exit_gain_error": _error(ends),
                "exits": {n: _percent(h) for n, h in zip(mine.plan.exit_names, hits[0], strict=True)},
                "against_exits": {n: _percent(h) for n, h in zip(other.plan.exit_names, hits[1], strict=True)},
            }
    return found


def _percent(values: NDArray[Any]) -> float:
    return round(100 * float(values.mean()), 2)


def _error(values: NDArray[np.float64]) -> float:
    return round(100 * float(values.std()) / math.sqrt(len(values)), 2)


def chosen(part: Part) -> list[Path]:
    """The images of a part, whatever their folders are called."""
    of_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in images_in(part.folder):
        of_folder[path.parent].append(path)
    return [path for folder in sorted(of_folder) for path in spread(of_folder[folder], part.per_class)]


def measure(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    with tempfile.TemporaryDirectory() as folder:
        compare(args, args.against or write_pretrained(folder, name="untouched"))


def compare(args: argparse.Namespace, against: Path | str) -> None:
    """Measure, print and write down."""
    torch.set_num_threads(args.threads)
    mine, other = load(args.weights), load(against)
    sets = {}
    for part in args.data:
        paths = chosen(part)
        called = f"{part.name}-{part.per_class or 'all'}-every"
        logits = [logits_of(w, paths, called, batch_size=args.batch_size, keep=args.keep) for w in (mine, other)]
        sets[part.name] = figures(mine, other, logits, labels_of(paths, mine.card, WORDNET_IDS))
        for name, found in sets[part.name].items():
            print(f"{part.name} {name}: {found}")
    if args.out is not None:
        results = {
            "weights": mine.card.name,
            "weights_sha256": mine.card.file.sha256,
            "against": args.against or "untouched",
            "costs_mmacs": list(COSTS_MMACS),
            "cumulative_mmacs": [round(macs / 1e6, 1) for macs in mine.plan.cumulative_macs],
            "against_cumulative_mmacs": [round(macs / 1e6, 1) for macs in other.plan.cumulative_macs],
            "sets": sets,
        }
        options = {key: [p.name for p in v] if isinstance(v, list) else v for key, v in vars(args).items()}
        report.write(args.out, "anytime_area", results, options)


def main() -> int:
    """Parse the command line, measure, and give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Part.parse, nargs="+", help="folder of images, FOLDER or FOLDER:COUNT")
    parser.add_argument("--weights", default="imagenet", help="name or path of weights")
    parser.add_argument("--against", help="weights to compare with; by default the published networks")
    parser.add_argument("--keep", type=Path, help="folder where logits are kept for the next time")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    return report.run_checked(measure, parser.parse_args(), positive=("batch_size", "threads"))


if __name__ == "__main__":
    sys.exit(main())
