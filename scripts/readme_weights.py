"""What the README says of the bundled weights."""

from __future__ import annotations

import json
from typing import Any

from scripts.results import RESULTS, result, table
from stream_ann.weights import read_card

__all__ = ["weights_table"]


def weights_table() -> str:
    """The exits of the bundled weights."""
    card = read_card("imagenet")
    assert card.validation is not None
    sets = result("calibration")["results"]["report"]
    rows, spent = [], 0
    for number, step in enumerate(card.steps):
        spent += step.macs
        assert step.accuracy is not None
        row = [str(number), step.name, f"{step.macs / 1e6:.0f}", f"{spent / 1e6:.0f}"]
        for found in sets.values():
            exit_ = found["exits"][number]
            row.append(f"{100 * exit_['top1']:.1f} / {100 * exit_['calibrated_average_top1']:.1f} %")
        rows.append([*row, f"{100 * step.accuracy:.1f} %"])
    heads = [f"{AREA_SETS.get(name, name)}, {found['images']} images" for name, found in sets.items()]
    text = table(["exit", "member", "MMACs", "MMACs so far", *heads, "agreement"], rows)
    told = (
        f"{text}\n\nTop-1 of the exit alone / of all exits so far together, which is what runs, on images held out "
        "whose classes are ImageNet's by name (`python -m benchmarks.calibration`). "
        f"{card.validation.measure[0].upper()}"
        f"{card.validation.measure[1:]}, on {card.validation.data}."
    )
    area = f"\n\n{area_table()}" if (RESULTS / "anytime-area.json").exists() else ""
    return f"{told}{area}\n\n{small_lines()}"


def small_lines() -> str:
    """What the smaller bundled weights are worth."""
    tiny, cifar = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("tiny-imagenet", "cifar10-jpeg"))
    return (
        f"`tiny-imagenet` is an EANN of two anytime ResNets, {_whole_mmacs(tiny)} MMACs, for the {tiny['classes']} "
        f"classes of Tiny-ImageNet at 64 px, {_trained('tiny-imagenet')}, far too short for the best that it could be. "
        f"Top-1 of its exits on the {tiny['images']:,} validation images, by `stream-ann evaluate`: "
        f"{_top1('tiny-imagenet', tiny)} %.\n\n"
        f"`cifar10-jpeg` is one of {_whole_mmacs(cifar)} MMACs for the {cifar['classes']} classes of CIFAR-10 at "
        f"32 px, {_trained('cifar10-jpeg')}: for trying things out in seconds. Top-1 of its exits on the "
        f"{cifar['images']:,} validation images of CIFAR-10, JPEG re-encoded (not to be set beside published results "
        f"on CIFAR-10): {_top1('cifar10-jpeg', cifar)} %."
    )


def _trained(name: str) -> str:
    """How large the file is, and how much training is in it."""
    card = read_card(name)
    recipes = list(card.training.get("members", {"": card.training}).values())
    epochs = " and ".join(str(recipe["options"]["epochs"]) for recipe in recipes)
    rounded = card.training.get("rounded")
    bits = f" at {rounded['bits']} bits a weight" if isinstance(rounded, dict) else ""
    return (
        f"{card.file.bytes / 1e6:.1f} MB{bits}, trained from scratch for {epochs} epochs on {card.training['device']}"
    )


def _whole_mmacs(found: dict[str, Any]) -> str:
    return f"{max(row['macs'] for row in found['figures']) / 1e6:.0f}"


def _top1(name: str, found: dict[str, Any]) -> str:
    """Of the exits of an evaluation, in percent: what runs, and where that is an average, each exit alone as well."""
    runs = read_card(name).default_readout
    told = {
        readout: ", ".join(f"{100 * row['top1']:.1f}" for row in found["figures"] if row["readout"] == readout)
        for readout in ("latest", "average")
    }
    return told["latest"] if runs == "latest" else f"{told[runs]} (each alone {told['latest']})"


AREA_SETS = {
    "cal/val": "Caltech-101",
    "tiny/val": "Tiny-ImageNet",
    "tiny-left/val": "Tiny-ImageNet, 20 classes that no training picture shows",
}
AREA_MEASURES = {
    "agreement_latest": "agreement, newest exit",
    "top1_latest": "top-1 among its classes, newest exit",
    "top1_average": "the same, average of the exits",
}


def area_table() -> str:
    """What the answers of the bundled weights are worth over their costs."""
    found = result("anytime-area")["results"]
    low, high = found["costs_mmacs"]
    rows = [
        [
            f"{AREA_SETS.get(name, name)}, {parts[measure]['images']:,} images",
            told,
            f"{parts[measure]['area']:.1f}",
            f"{parts[measure]['against']:.1f}",
            f"{parts[measure]['gain']:+.1f} ± {parts[measure]['gain_error']:.1f}",
        ]
        for name, parts in found["sets"].items()
        for measure, told in AREA_MEASURES.items()
        if measure in parts
    ]
    text = table(["images held out", "measure", "area", found["against"], "difference"], rows)
    return f"{text}\n\nArea: mean in percent over the logarithm of cost from {low:g} to {high:,g} MMACs."
