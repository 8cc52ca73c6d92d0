"""How fast a ResANN trains with all its heads, with its last head only, and how much of that is loading data.

    python -m benchmarks.train_speed --out train_speed.json

Two nets share the trunk: one has an exit every ``--s`` units, the other one at its end. Both train on the same images
in turns, several rounds, so that a machine that slows down in between slows down both; medians are given. The loader
(decoded images in memory, augmented) is timed alone, and in a training run against batches made beforehand.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import write
from stream_ann.nets import AnytimeNet, build
from stream_ann.preprocess import Preprocessing
from stream_ann.training.augment import default_augment
from stream_ann.training.distributed import device_for
from stream_ann.training.made import synthetic
from stream_ann.training.optimizer import optimizer_for
from stream_ann.training.options import TrainOptions
from stream_ann.training.split import Batch, Data
from stream_ann.training.stepper import Stepper, normalised, train_mode
from stream_ann.training.weightings import weighting_named

__all__ = ["main", "measure"]

PREPROCESSING = Preprocessing((0.5,) * 3, (0.25,) * 3, crop=1.0)


def measure(
    *, n: int, c: int, s: int, resolution_px: int, batch_size: int, batches: int, rounds: int, options: TrainOptions
) -> dict[str, Any]:
    """The figures: images a second of both nets and of the loader, and the multiply-accumulates of both nets.

    Args:
        n, c, s: Of the ResANN.
        resolution_px: Side of its images.
        batch_size: Images in a batch.
        batches: Batches timed in each round.
        rounds: How many times each is timed.
        options: Of the training, device and seed among them.
    """
    device = device_for(options.device)
    data = synthetic(10, max(1_000, batch_size * batches), resolution_px, options.seed)
    arch = {"name": "resann", "classes": 10, "n": n, "c": c, "resolution_px": resolution_px}
    nets = {"all heads": {**arch, "s": s}, "last head only": {**arch, "s": 3 * n}}
    made = list(islice(_batches(data, 0, batch_size, resolution_px, options.seed, device), batches))
    timed: dict[str, Callable[[int], float]] = {}
    results: dict[str, Any] = {}
    for name, its_arch in nets.items():
        torch.manual_seed(options.seed)
        net = build(its_arch).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        plan = net.plan()
        results[name] = {"exits": len(plan), "macs": plan.cumulative_macs[-1]}
        timed[name] = _trainer(net, made, options)
        timed[f"{name}, loading"] = _trainer(
            net,
            lambda epoch: islice(_batches(data, epoch, batch_size, resolution_px, options.seed, device), batches),
            options,
        )
    timed["loading alone"] = lambda epoch: _timed(
        lambda: _drain(islice(_batches(data, epoch, batch_size, resolution_px, options.seed, device), batches)), device
    )
    for run in timed.values():
        run(0)  # the first time everything is slower
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for epoch in range(1, rounds + 1):
        for name, run in timed.items():
            seconds[name].append(run(epoch))
    images = batch_size * len(made)
    speed = {name: images / statistics.median(values) for name, values in seconds.items()}
    for name in nets:
        results[name] |= {
            "images_per_s": round(speed[name], 1),
            "images_per_s_loading": round(speed[f"{name}, loading"], 1),
            "loading_to_synthetic": round(speed[f"{name}, loading"] / speed[name], 4),
        }
    results["loading alone"] = {"images_per_s": round(speed["loading alone"], 1)}
    # Of each round the two are compared with each other: what slows the machine down slows both down.
    ratios = [last / all_ for last, all_ in zip(seconds["last head only"], seconds["all heads"], strict=True)]
    results["all_to_last"] = {
        "images_per_s": round(statistics.median(ratios), 4),
        "macs": round(results["all heads"]["macs"] / results["last head only"]["macs"], 6),
    }
    return results


def _batches(
    data: Data, epoch: int, batch_size: int, resolution_px: int, seed: int, device: torch.device
) -> Iterator[Batch]:
    return data.train.train_batches(
        epoch,
        batch_size=batch_size,
        resolution_px=resolution_px,
        seed=seed,
        device=device,
        augment=default_augment(data.resolution_px, resolution_px),
    )


def _trainer(
    net: AnytimeNet, batches: list[Batch] | Callable[[int], Iterator[Batch]], options: TrainOptions
) -> Callable[[int], float]:
    """Something that trains on the batches once and gives the seconds that it took."""
    optimizer = optimizer_for(net, options, ())
    stepper = Stepper(net, PREPROCESSING, options.objective(), amp=options.amp, compile=options.compile)
    weights = weighting_named(options.weighting, len(net.plan())).weights(0)
    device = next(net.parameters()).device

    def train(epoch: int) -> None:
        train_mode(net, freeze_norms=options.freeze_norms)
        for batch in batches if isinstance(batches, list) else batches(epoch):
            stepper.backward(normalised(batch.images, PREPROCESSING), batch.labels, weights)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return lambda epoch: _timed(lambda: train(epoch), device)


def _timed(run: Callable[[], None], device: torch.device) -> float:
    begun_s = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    return time.perf_counter() - begun_s


def _drain(batches: Iterator[Batch]) -> None:
    for _ in batches:
        pass


def main() -> None:
    """Parse the arguments, measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path("train_speed.json"), help="where the figures are written")
    parser.add_argument("--n", type=int, default=3, help="units in each of the 3 stages")
    parser.add_argument("--c", type=int, default=16, help="channels of the first stage")
    parser.add_argument("--s", type=int, default=1, help="units from one exit to the next")
    parser.add_argument("--resolution-px", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=20, help="batches timed in each round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", default="auto", choices=["auto", "bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=0, help="threads of torch on the CPU; 0 for its own choice")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    options = TrainOptions(seed=args.seed, device=args.device, amp=args.amp, compile=args.compile)
    results = measure(
        n=args.n,
        c=args.c,
        s=args.s,
        resolution_px=args.resolution_px,
        batch_size=args.batch_size,
        batches=args.batches,
        rounds=args.rounds,
        options=options,
    )
    write(args.out, "train_speed", results, {**vars(args), "threads": torch.get_num_threads()})
    for name, figures in results.items():
        print(f"{name:16}", "  ".join(f"{key} {value:,}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
