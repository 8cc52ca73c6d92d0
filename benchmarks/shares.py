"""How much of what distilling has changed to keep: what each share gains, and what it costs.

    python -m benchmarks.shares imagenet sharper/sharper.json PHOTOS/train:4 OTHERS/train:20 --out shares.json

BEFORE and AFTER are weights, AFTER distilled from BEFORE; the folders hold images whose subfolders are named by class
or by WordNet id, ``FOLDER:4`` takes four of each class. Measured are, for every share, the exits that have changed:
agreement with the last exit of BEFORE, and top-1 among the classes of the folder, each against share 0 image by image,
with the standard error of paired samples.

Recommended is the share with the largest mean gain in agreement over all folders, of those with which top-1 has fallen
in no folder by more than one standard error; of equal ones the smallest. Gains and falls are means over the changed
exits that BEFORE has, too. So give classes that the training has seen and, in a folder of their own, some that it has
not: those are what is forgotten first. Few images let large falls pass, which their error then hides. Choose on other
images than those that anything is then reported on.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import report
from benchmarks.photographs import Part, labelled, logits_of
from pipelines.blend import check_descent
from stream_ann.errors import UsageError
from stream_ann.nets import EANN
from stream_ann.training.blending import blended, kept_exits
from stream_ann.training.own_trunk import part_of
from stream_ann.weights import Weights, load

RULE = (
    "largest mean gain in agreement over the sets, such that in no set top-1 falls by more than one standard error; "
    "the smallest of equal shares"
)
SHARES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)

Hits = dict[str, NDArray[np.float64]]
"""By the name of a measure, whether each exit is right about each image: 0 or 1, [exits, images]."""


@dataclass(frozen=True, slots=True)
class Gain:
    """What a share changes in one set of images, against share 0, as a mean over exits; shares of the images."""

    agreement: float
    """Gain in agreement with the last exit of the weights before."""
    top1: float
    """Gain in top-1 among the classes of the set."""
    top1_error: float
    """Standard error of that, of paired samples."""


@dataclass(frozen=True, slots=True)
class Blends:
    """Two weights, and the exits between them that are looked at."""

    before: Weights
    """The weights before."""
    after: Weights
    """What distilling made of them."""
    members: Sequence[str] | None
    """Which members change, as :func:`blended` takes them."""
    new_exits: bool
    """Whether exits are kept that only ``after`` has."""

    def net(self, share: float) -> EANN:
        """The EANN that has gone ``share`` of the way."""
        before, after = self.before.net, self.after.net
        assert isinstance(before, EANN)
        assert isinstance(after, EANN)
        return blended(before, after, share, members=self.members, new_exits=self.new_exits)

    def changed(self) -> tuple[list[int], list[str], list[bool]]:
        """Numbers of the members with exits that change; and of all exits of those, the names, and which are old.

        An exit is old if it changes, and was there before.
        """
        whole, before = self.net(1.0), self.before.net
        assert isinstance(before, EANN)
        kept = kept_exits(before, whole)
        steps = whole.plan().steps
        numbers = sorted({step.member for i, step in enumerate(steps) if i not in kept})
        names: list[str] = []
        old: list[bool] = []
        for number in numbers:
            own = [i for i, step in enumerate(steps) if step.member == number]
            count = sum(step.member == number for step in before.plan().steps)
            names += [steps[i].name for i in own]
            old += [i not in kept and (count == len(own) or i == own[-1]) for i in own]
        if not any(old):
            raise UsageError("no exit that was there before has changed", "name members that were trained")
        return numbers, names, old


def hits_of(logits: Tensor, last: Tensor, labels: NDArray[np.int64]) -> Hits:
    """Whether exits agree with the last exit, and are right.

    Args:
        logits: Of the exits, float32 [exits, images, classes].
        last: Of the last exit of the weights before, float32 [images, classes].
        labels: The classes of the images, int64 [images].
    """
    among = torch.from_numpy(np.unique(labels))
    agreeing = logits.argmax(2) == last.argmax(1)
    right = among[logits[:, :, among].argmax(2)] == torch.from_numpy(labels)
    return {"agreement": agreeing.double().numpy(), "top1": right.double().numpy()}


def figures(hits: Hits, against: Hits, names: Sequence[str], old: Sequence[bool]) -> dict[str, Any]:
    """Of one share and set, in percent: each exit, and the mean over the old ones under ``"mean"``."""
    rows: dict[str, Any] = {name: {} for name in (*names, "mean")}
    for measure, found in hits.items():
        gain = found - against[measure]
        for i, name in enumerate(names):
            rows[name] |= {measure: _percent(found[i]), **_gained(measure, gain[i])}
        rows["mean"] |= {measure: _percent(found[old]), **_gained(measure, gain[old].mean(axis=0))}
    return rows


def recommended(gains: Mapping[float, Sequence[Gain]]) -> float:
    """The share that :data:`RULE` chooses, from what each gains in every set."""
    good = [share for share, sets in gains.items() if all(gain.top1 >= -gain.top1_error for gain in sets)]
    return max(good, key=lambda share: (np.mean([gain.agreement for gain in gains[share]]), -share))


def _gain(hits: Hits, against: Hits, old: Sequence[bool]) -> Gain:
    agreement, top1 = ((hits[key] - against[key])[old].mean(axis=0) for key in ("agreement", "top1"))
    return Gain(float(agreement.mean()), float(top1.mean()), _error(top1))


def _percent(values: NDArray[np.float64]) -> float:
    return round(100 * float(values.mean()), 2)


def _gained(measure: str, gain: NDArray[np.float64]) -> dict[str, float]:
    return {f"{measure}_gain": _percent(gain), f"{measure}_gain_error": round(100 * _error(gain), 2)}


def _error(gain: NDArray[np.float64]) -> float:
    return float(gain.std()) / math.sqrt(len(gain))


def measure(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    torch.set_num_threads(args.threads)
    before, after = load(args.before), load(args.after)
    check_descent(before, after)
    blends = Blends(before, after, args.members, not args.without_exits)
    numbers, names, old = blends.changed()
    assert isinstance(before.net, EANN)
    last = replace(before, net=part_of(before.net, [len(before.net.members()) - 1]))
    shares = sorted({0.0, *args.shares})
    nets = {share: replace(after, net=part_of(blends.net(share), numbers)) for share in shares}
    gains: dict[float, list[Gain]] = {share: [] for share in shares}
    sets: dict[str, Any] = {}
    for part in args.data:
        paths, labels = labelled(part, before)
        called = f"{part.name}-{part.per_class or 'all'}"
        told: dict[str, Any] = {}
        wanted = logits_of(last, paths, called, batch_size=args.batch_size, keep=args.keep)[-1]
        against: Hits = {}
        for share, weights in nets.items():
            logits = logits_of(weights, paths, called, batch_size=args.batch_size, keep=args.keep)
            hits = hits_of(logits, wanted, labels)
            against = against or hits  # share 0 comes first
            told[f"{share:g}"] = figures(hits, against, names, old)
            gains[share].append(_gain(hits, against, old))
            print(f"{part.name} share {share:g}: {told[f'{share:g}']['mean']}")
        sets[f"{part.name}:{part.per_class}" if part.per_class else part.name] = {
            "images": len(labels),
            "classes": len(np.unique(labels)),
            "shares": told,
        }
    best = recommended(gains)
    print(f"recommended: {best:g} ({RULE})")
    if args.out is not None:
        results = {
            "before": {"name": before.card.name, "sha256": before.card.file.sha256},
            "after": {"name": after.card.name, "sha256": after.card.file.sha256},
            "exits": [{"name": name, "counts": counts} for name, counts in zip(names, old, strict=True)],
            "sets": sets,
            "rule": RULE,
            "recommended": best,
        }
        options = {key: [p.name for p in v] if key == "data" else v for key, v in vars(args).items()}
        report.write(args.out, "shares", results, options)


def _shares(text: str) -> list[float]:
    shares = [float(word) for word in text.split(",")]
    if not all(0 <= share <= 1 for share in shares):
        raise argparse.ArgumentTypeError("shares are from 0 to 1")
    return shares


def main() -> int:
    """Parse the command line, measure, and give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", help="name or path of the weights before")
    parser.add_argument("after", help="name or path of what distilling made of them")
    parser.add_argument("data", type=Part.parse, nargs="+", help="labelled images, FOLDER or FOLDER:COUNT")
    parser.add_argument("--shares", type=_shares, default=list(SHARES), help="such as 0,.125,.25; 0 is always measured")
    parser.add_argument("--members", type=lambda text: text.split(","), help="only these, by their names before")
    parser.add_argument("--without-exits", action="store_true", help="leave out the exits that distilling has added")
    parser.add_argument("--keep", type=Path, help="folder where logits are kept for the next time")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    return report.run_checked(measure, parser.parse_args(), positive=("batch_size", "threads"))


if __name__ == "__main__":
    sys.exit(main())
