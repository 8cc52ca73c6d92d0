"""How long fine-tuning to one's own classes takes on this machine, and what it reaches.

Fine-tunes the bundled weights with the defaults of ``stream-ann train``, evaluates every exit on the validation images
with the weights as they were written, and lets ``live`` run on the result.

    python -m benchmarks.finetune FOLDER --data-name "10 classes of Caltech-101" --out benchmarks/results/finetune.json
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console

import pipelines
from benchmarks import report
from pipelines.train import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--data-name")
    parser.add_argument("--init", default="imagenet")
    parser.add_argument("--epochs", type=int, help="instead of the default for this many images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        begun_s = time.monotonic()
        result = train(
            args.data,
            out=Path(folder) / "weights",
            init=args.init,
            epochs=args.epochs,
            device=args.device,
            seed=args.seed,
            plots=False,
            console=Console(stderr=True),
        )
        elapsed_s = time.monotonic() - begun_s
        if result.path is None or result.curve is None or result.card is None:
            raise SystemExit("interrupted")
        with pipelines.live("demo", weights=result.path, device=args.device, max_frames=100) as run:
            exits = [len(r.exits) for r in run]
    latest = [figures for figures in result.curve.figures if figures.readout == "latest"]
    results = {
        "data": args.data_name or Path(args.data).name,
        "classes": len(result.card.classes),
        "epochs": len(result.history.records),
        "threads": torch.get_num_threads(),
        "elapsed_s": round(elapsed_s, 1),
        "images_validated": result.curve.images,
        "exits": [{"name": figures.name, "top1": round(figures.top1, 5)} for figures in latest],
        "training": {k: v for k, v in result.card.training.items() if k != "command"},
        "live": {"frames": len(exits), "mean_exits": round(statistics.mean(exits), 2)},
    }
    report.write(args.out, "finetune", results, vars(args))
    print(f"{results['classes']} classes in {elapsed_s:.0f} s: {results['exits']}")


if __name__ == "__main__":
    main()
