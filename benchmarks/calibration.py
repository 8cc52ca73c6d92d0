"""How far the confidences of each exit can be believed, with temperatures that were fitted on other images.

Run from the root of the repository, with folders of training and of held-out photographs whose subfolders are named by
class or by WordNet id; ``FOLDER:4`` takes four images of each class::

    python -m benchmarks.calibration --fit PHOTOS/train --report PHOTOS/val TINY/val:20 --out calibration.json

One part of the images to fit to gives a temperature for each exit, another the thresholds of early exit (at most half a
point of top-1 lost), a third tells what these are worth. All of them together, and those of ``--fit-readout``, give the
weights with which the readout ``average`` does not get worse from exit to exit, a new member having at least half of
the answer, the last one two fifths: photographs at hand tend to be smaller than those that the last members were made
for. Thresholds are for the confidences of that readout. ``--into-card`` writes temperatures, thresholds and weights
into the card, and top-1 of each exit on the first folder reported on beside its validation. Top-1 on the images to fit
to, of a later exit never less than of one before, is what schedulers then plan by, where a card's validation is
something else, such as agreement: these images are not those that anything is reported on.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks import report
from benchmarks.photographs import Part, options_of, outputs_of
from stream_ann.card import Card
from stream_ann.nets import Plan
from stream_ann.training.calibrate import Calibration, calibrate
from stream_ann.training.early_exit import NEVER
from stream_ann.training.evaluate import Scores, calibration_error, score, standard_error
from stream_ann.training.mixing import fit_mixing
from stream_ann.training.outputs import Outputs
from stream_ann.weights import Weights, load, write_card

MAX_DROP = 0.5
"""Percentage points of top-1 that early exit may lose."""
LEAST_SHARE = 0.5
"""Of the readout's answer, what the last exit of a member has at least when it is new."""
LEAST_LAST_SHARE = 0.4
"""What the last exit of all has at least: more than any other. With half of it, photographs of 160 px lost a point."""
LEAST_CONFIDENCE = 0.4
"""No exit but the last ends a frame that it is less sure of: what is unsure goes on to where more pixels are seen."""
LEAST_GAIN = 0.002
"""By how much a later exit is planned to be better than the one before, where the photographs do not show it."""


def figures(
    weights: Weights, outputs: Outputs, temperatures: tuple[float, ...], mixing: tuple[float, ...]
) -> list[dict[str, Any]]:
    """For each exit top-1, how far its confidences are off before and after, and top-1 of the averages."""
    before, after = score(outputs), score(outputs, temperatures=temperatures)
    averages = {
        "average_top1": score(outputs, readout="average", weights=weights.card.readout_weights),
        "calibrated_average_top1": score(outputs, readout="average", weights=mixing, temperatures=temperatures),
    }
    rows = []
    for i, name in enumerate(weights.plan.exit_names):
        top1 = float(before.top1[i].double().mean())
        rows.append(
            {
                "exit": i,
                "name": name,
                "top1": round(top1, 4),
                "top1_error": round(standard_error(top1, len(outputs)), 4),
                "temperature": round(temperatures[i], 4),
                **_believed(before, i, "before"),
                **_believed(after, i, "after"),
                **{key: round(float(s.top1[i].double().mean()), 4) for key, s in averages.items()},
            }
        )
    return rows


def _believed(scores: Scores, exit_: int, when: str) -> dict[str, float]:
    return {
        f"confidence_{when}": round(float(scores.confidence[exit_].double().mean()), 4),
        f"ece_{when}": round(calibration_error(scores.confidence[exit_], scores.top1[exit_]), 4),
        f"nll_{when}": round(float(scores.nll[exit_].double().mean()), 4),
    }


def least_shares(plan: Plan) -> list[float]:
    """What each exit has at least of the answer; those inside members may do no more than complete the one before."""
    members = [step.member for step in plan.steps]
    found = [LEAST_SHARE if own != later else 0.0 for own, later in itertools.pairwise(members)]
    return [*found, LEAST_LAST_SHARE]


def joined(sets: Sequence[Outputs]) -> Outputs:
    """The images of several sets as one."""
    return Outputs(torch.cat([s.logits for s in sets], dim=1), torch.cat([s.labels for s in sets]))


def planned_by(top1: Sequence[float]) -> list[float]:
    """What schedulers are to reckon with of each exit: its top-1, but of a later one never less than of one before.

    The later members of an EANN see more pixels. Photographs to fit to that are smaller than their inputs do not show
    what that gains on the frames of a camera, and a scheduler would leave these members out for it.
    """
    found: list[float] = []
    for one in top1:
        found.append(max(one, found[-1] + LEAST_GAIN) if found else one)
    return [round(min(one, 1.0), 4) for one in found]


def with_calibration(
    card: Card,
    found: Calibration,
    mixing: tuple[float, ...],
    *,
    leasts: list[float],
    told: str,
    mixed: str,
    fitted: list[float],
    top1: dict[str, Any] | None,
) -> Card:
    """The card with temperatures, thresholds, the readout's weights and what to plan by, and where they come from."""
    early = found.early_exit
    steps = [
        replace(step, temperature=round(t, 4), threshold=None if limit == NEVER else round(limit, 6))
        for step, t, limit in zip(card.steps, found.temperatures, early.thresholds, strict=True)
    ]
    calibration: dict[str, Any] = {
        "data": told,
        "command": f"python -m benchmarks.calibration --fit DATA --report DATA --weights {card.name} --into-card",
        "early_exit": {
            "goal": early.goal,
            "budget": early.budget,
            "least_confidence": LEAST_CONFIDENCE,
            "readout": early.readout,
            "top1": round(early.top1, 4),
            "drop": round(early.drop, 2),
            "cost": round(early.cost, 4),
            "images": found.images[2],
        },
        "readout": {"data": mixed, "least_shares": leasts},
    }
    if top1 is not None:
        calibration["top1"] = top1
    extra = {key: value for key, value in card.extra.items() if key != "safe_exits"}
    if found.safe_exits is not None:
        extra["safe_exits"] = {
            **found.safe_exits.as_json(),
            "readout": early.readout,
            "data": told,
            "images": sum(found.images[1:]),
        }
    extra["planning"] = {
        "measure": "top-1, of a later exit never less than of one before",
        "data": told,
        "images": sum(found.images),
        "command": calibration["command"],
        "exits": fitted,
    }
    return replace(card, steps=tuple(steps), readout_weights=mixing, extra={**extra, "calibration": calibration})


def measure(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    torch.set_num_threads(args.threads)
    weights = load(args.weights)
    sets = [outputs_of(weights, part, batch_size=args.batch_size, keep=args.keep) for part in args.fit]
    fit = joined(sets)
    temperatures = calibrate(fit, weights.plan, max_drop=MAX_DROP, seed=args.seed).temperatures
    more = [outputs_of(weights, part, batch_size=args.batch_size, keep=args.keep) for part in args.fit_readout]
    leasts = least_shares(weights.plan)
    mixing = fit_mixing(joined([fit, *more]), temperatures, least=leasts)
    found = calibrate(
        fit,
        weights.plan,
        max_drop=MAX_DROP,
        readout="average",
        weights=mixing,
        least_confidence=LEAST_CONFIDENCE,
        seed=args.seed,
    )
    reported: dict[str, Any] = {}
    for part in args.report:
        outputs = outputs_of(weights, part, batch_size=args.batch_size, keep=args.keep)
        rows = figures(weights, outputs, found.temperatures, mixing)
        classes = len(set(outputs.labels.tolist()))
        reported[part.name] = {"images": len(outputs), "classes": classes, "exits": rows}
        print(f"{part.name}, {len(outputs)} images of {classes} classes")
        for row in rows:
            print("  " + " ".join(f"{key}={value}" for key, value in row.items() if key != "exit"))
    counts = {part.name: len(s) for part, s in zip(args.fit, sets, strict=True)}
    also = {part.name: len(s) for part, s in zip(args.fit_readout, more, strict=True)}
    if args.out is not None:
        results = {
            "weights": weights.card.name,
            "fit": counts,
            "fit_readout": also,
            "calibration": found.as_dict(),
            "readout_weights": list(mixing),
            "report": reported,
        }
        options = {key: [p.name for p in v] if isinstance(v, list) else v for key, v in vars(args).items()}
        report.write(args.out, "calibration", results, options)
    if args.into_card:
        told = args.data_name or "; ".join(f"{name} ({count:,} images)" for name, count in counts.items())
        mixed = "; ".join(
            [told, args.readout_name or ", ".join(f"{n} ({count:,} images)" for n, count in also.items())]
        )
        top1 = None
        if reported:
            name, first = next(iter(reported.items()))
            shares = [row["top1"] for row in first["exits"]]
            told_of = args.report_name or name
            top1 = {"data": told_of, "images": first["images"], "classes": first["classes"], "exits": shares}
        fitted = planned_by(score(fit).top1.double().mean(dim=1).tolist())
        card = with_calibration(
            weights.card, found, mixing, leasts=leasts, told=told, mixed=mixed.rstrip("; "), fitted=fitted, top1=top1
        )
        write_card(card, weights.path)


def main() -> int:
    """Parse the command line, measure, and give the exit code."""
    parser = options_of(__doc__, fitted="temperatures, thresholds and weights of exits")
    parser.add_argument(
        "--fit-readout",
        type=Part.parse,
        nargs="+",
        default=[],
        help="folders of other images that the readout's weights alone are fitted to as well",
    )
    parser.add_argument("--readout-name", help="what the card calls these; by default the folders' names")
    parser.add_argument("--report-name", help="what the card calls the first folder reported on")
    parser.add_argument("--seed", type=int, default=0, help="which images are for what")
    return report.run_checked(measure, parser.parse_args(), positive=("batch_size", "threads"))


if __name__ == "__main__":
    sys.exit(main())
