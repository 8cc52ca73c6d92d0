"""The paper's comparison: how near each way of training comes to a network trained for each depth alone.

Trains one anytime network by each method, the OPT networks (the same trunk, trained for one exit only) at a quarter,
half, three quarters and the whole of its cost, and an MSDNet as a peer; same data, same recipe, several seeds. Each run
leaves a JSON of its own; what is there already is not run again, and a run that was interrupted goes on. From them come
``table.json``, ``table.md`` (relative increase of the error over OPT, arXiv 1708.06832v3) and ``curve.png``.

    python -m benchmarks.paper_table --preset smoke --out OUT                   a minute, made-up data
    python -m benchmarks.paper_table --preset cpu --data FOLDER --out OUT       an hour or two on two cores
    python -m benchmarks.paper_table --preset tiny-cpu --data FOLDER --out OUT  64 px, 3 hours on one core
    python -m benchmarks.paper_table --preset gpu --data FOLDER --out OUT
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.paper_report import write_report
from stream_ann.nets import AnytimeNet, build
from stream_ann.preprocess import Preprocessing
from stream_ann.training.augment import default_augment
from stream_ann.training.data import Data, open_data, synthetic
from stream_ann.training.evaluate import collect, score
from stream_ann.training.history import EpochRecord
from stream_ann.training.options import TrainOptions
from stream_ann.training.trainer import Trainer

PREPROCESSING = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop=1.0)

METHODS: Mapping[str, Mapping[str, Any]] = {
    "const": {"weighting": "const"},
    "linear": {"weighting": "linear"},
    "half-end": {"weighting": "half-end"},
    "sieve": {"weighting": "sieve"},
    "sieve+alternate": {"weighting": "sieve", "alternate": True},
    "adaloss": {"weighting": "adaloss"},
    "boosted+equilibrium": {"weighting": "const", "equilibrium": True, "boosted": True},
    "sieve+self-distill": {"weighting": "sieve", "self_distill": 0.3},
    "sieve+final-first": {"weighting": "sieve", "final_first": 0.3},
}
"""What differs between the methods: options of the trainer, and whether the net is boosted."""


@dataclass(frozen=True, slots=True)
class Preset:
    """Nets, recipe and extent of a comparison."""

    resann: Mapping[str, Any]
    msdnet: Mapping[str, Any]
    epochs: int
    seeds: int
    options: Mapping[str, Any] = field(default_factory=dict)
    methods: Sequence[str] = tuple(METHODS)
    limit_per_class: int | None = None


PRESETS = {
    "smoke": Preset(
        resann={"n": 1, "c": 4, "s": 1},
        msdnet={"exits": 3, "base": 1, "step": 1, "c": 4, "growth": 2, "head_width": 8},
        epochs=1,
        seeds=1,
        options={"batch_size": 32},
        methods=("const", "sieve+alternate", "boosted+equilibrium"),
    ),
    "cpu": Preset(
        resann={"n": 3, "c": 8, "s": 1},
        msdnet={"exits": 6, "base": 2, "step": 1, "c": 8, "growth": 4, "head_width": 64},
        epochs=12,
        seeds=3,
        options={"batch_size": 64, "lr": 0.1, "weight_decay": 2e-4, "warmup": 0.05},
        limit_per_class=1000,
    ),
    "tiny-cpu": Preset(
        resann={"n": [1, 2, 3], "c": 48, "s": 1, "resolution_px": 64, "stem": "3x3/4", "head": "strided"},
        msdnet={"exits": 6, "base": 3, "step": 2, "c": 32, "growth": 16, "resolution_px": 64, "stem": "3x3/4"},
        epochs=10,
        seeds=2,
        options={"batch_size": 64, "lr": 0.1, "weight_decay": 5e-4, "warmup": 0.05, "label_smoothing": 0.1},
        methods=("adaloss", "boosted+equilibrium"),
    ),
    "gpu": Preset(
        resann={"n": 9, "c": 32, "s": 3, "resolution_px": 64, "stem": "3x3/2"},
        msdnet={"exits": 9, "base": 4, "step": 2, "c": 32, "growth": 12, "resolution_px": 64, "stem": "3x3/2"},
        epochs=60,
        seeds=3,
        options={"batch_size": 256, "lr": 0.2, "weight_decay": 5e-4, "warmup": 0.05, "label_smoothing": 0.1},
    ),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One training run."""

    method: str
    seed: int
    arch: Mapping[str, Any]
    options: TrainOptions

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.method.replace(':', '-')}-seed{self.seed}"


def quarters(costs: Sequence[int]) -> list[int]:
    """Numbers, from 0, of the exits whose cumulative cost is nearest to 1/4, 1/2, 3/4 and all of the whole."""
    return [min(range(len(costs)), key=lambda i: abs(costs[i] - part / 4 * costs[-1])) for part in range(1, 5)]


def jobs_of(preset: Preset, classes: int, *, epochs: int, seeds: int, device: str) -> list[Job]:
    """All runs of a comparison, seed by seed, so that an early stop leaves whole seeds."""
    resann = {"name": "resann", "classes": classes, **preset.resann}
    msdnet = {"name": "msdnet", "classes": classes, **preset.msdnet}
    exits = quarters(build(resann, device="meta").plan().cumulative_macs)
    common = {"epochs": epochs, "device": device, **preset.options}
    jobs = []
    for seed in range(seeds):
        for number in dict.fromkeys(exits):
            options = TrainOptions(**common, seed=seed, weighting=f"opt:{number + 1}")
            jobs.append(Job(f"opt:{number + 1}", seed, resann, options))
        for method in preset.methods:
            chosen = dict(METHODS[method])
            boosted = chosen.pop("boosted", False)
            arch = {"name": "boosted", "net": resann, "shrink": 0.5} if boosted else resann
            jobs.append(Job(method, seed, arch, TrainOptions(**common, **chosen, seed=seed)))
        jobs.append(Job("msdnet", seed, msdnet, TrainOptions(**common, seed=seed, weighting="const")))
    return jobs


def run(job: Job, data: Data, folder: Path) -> dict[str, Any]:
    """Train one net, or go on with it, and measure every exit on the validation images."""
    torch.manual_seed(job.seed)
    net: AnytimeNet = build(job.arch)
    checkpoints = folder / f"{job.name}.checkpoints"
    resolution_px = max(step.resolution_px for step in net.plan().steps)
    begun_s = time.monotonic()

    def tell(record: EpochRecord) -> None:
        shown = " ".join(f"{100 * a:.1f}" for a in record.val_accuracy)
        speed = f"{record.images_per_s:.0f} images/s"
        print(f"  {job.name} epoch {record.epoch + 1}/{job.options.epochs}: {shown} % ({speed})", flush=True)

    trainer = Trainer(
        net,
        data,
        PREPROCESSING,
        job.options,
        folder=checkpoints,
        augment=default_augment(data.resolution_px, resolution_px),
        on_epoch=tell,
    )
    history = trainer.run(resume=checkpoints.exists())
    if history.interrupted:
        raise KeyboardInterrupt
    device = torch.device("cuda" if job.options.device == "auto" and torch.cuda.is_available() else "cpu")
    trained = trainer.trained()
    accuracies = score(collect(trained, data.val, PREPROCESSING, device=device)).top1.double().mean(dim=1)
    shutil.rmtree(checkpoints)
    return {
        "method": job.method,
        "seed": job.seed,
        "arch": dict(job.arch),
        "options": job.options.as_dict(),
        "images": {"train": len(data.train), "val": len(data.val)},
        "cumulative_macs": list(trained.plan().cumulative_macs),
        "accuracy": [round(a, 6) for a in accuracies.tolist()],
        "train_s": round(sum(r.train_s for r in history.records), 1),
        "wall_s": round(time.monotonic() - begun_s, 1),
        "final_train_loss": [x if x is None else round(x, 5) for x in history.records[-1].train_loss],
    }


def data_of(args: argparse.Namespace, preset: Preset) -> Data:
    """The images: a folder or a set by name, or made up."""
    if args.data is None:
        if args.preset != "smoke":
            raise SystemExit("name the data: a folder in ImageFolder layout, or cifar10, cifar100 with --data")
        return synthetic(4, 256, 32, seed=0)
    resolution_px = int(preset.resann.get("resolution_px", 32))
    return open_data(args.data, limit_per_class=preset.limit_per_class, short_side_px=resolution_px)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="smoke")
    parser.add_argument("--data", help="folder in ImageFolder layout, or the name of a set")
    parser.add_argument("--data-name", help="what to call the data in the table")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, help="instead of the preset's")
    parser.add_argument("--seeds", type=int, help="instead of the preset's")
    parser.add_argument("--methods", help="some of the methods, separated by commas")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", choices=("auto", "bfloat16", "float32"), default="auto")
    parser.add_argument("--report-only", action="store_true", help="only write the table of what there is")
    args = parser.parse_args(argv)

    preset = PRESETS[args.preset]
    if args.methods:
        preset = dataclasses.replace(preset, methods=tuple(args.methods.split(",")))
    preset = dataclasses.replace(preset, options={**preset.options, "amp": args.amp})
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.report_only:
        data = data_of(args, preset)
        jobs = jobs_of(
            preset,
            len(data.classes),
            epochs=args.epochs or preset.epochs,
            seeds=args.seeds or preset.seeds,
            device=args.device,
        )
        for number, job in enumerate(jobs):
            path = args.out / f"{job.name}.json"
            if path.exists():
                continue
            print(f"{number + 1}/{len(jobs)} {job.name}", flush=True)
            result = run(job, data, args.out)
            result["data"] = args.data_name or data.name
            report.write(path, "paper_table", result, vars(args))
            write_report(args.out)
    print(write_report(args.out))


if __name__ == "__main__":
    main()
