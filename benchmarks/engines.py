"""The engines against their goals: what cutting a network into steps costs, and how soon a new frame is answered.

On a CPU the parts of :mod:`benchmarks.engines_cpu` for the bundled weights and for EfficientNet-Lite0 with six exits,
whose weights are random; on a GPU, where there is one, those of :mod:`benchmarks.engines_cuda` for the bundled weights.

Run: python -m benchmarks.engines --out benchmarks/results/engines.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks import engines_cpu, engines_cuda, report
from stream_ann import weights
from stream_ann.engines import device_named
from stream_ann.engines.devices import cpu_threads
from stream_ann.engines.openvino_runtime import version
from stream_ann.nets import AnytimeNet, build

SIX_EXITS = {"name": "efficientnet-lite0", "classes": 1000, "exits": [2, 4, 7, 10, 13], "resolution_px": 224}
B0_STAGES = {"name": "torchvision", "network": "efficientnet_b0", "classes": 1000, "head": "pooled"}
MADE = {"lite0 with 6 exits": SIX_EXITS, "efficientnet_b0, an exit behind each stage": B0_STAGES}


def made(arch: dict[str, Any], seed: int) -> AnytimeNet:
    """A net with random weights: they do not change what a step costs."""
    torch.manual_seed(seed)
    return build(arch).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--device", default="auto", help="auto: the CPU, and a GPU where there is one; or cpu, or cuda")
    parser.add_argument("--frames", type=int, default=engines_cpu.Settings.frames)
    parser.add_argument("--seconds", type=float, default=engines_cpu.Settings.seconds)
    parser.add_argument("--threads", type=int, default=cpu_threads())
    parser.add_argument("--compile", action="store_true", help="measure torch's steps compiled as well; takes minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    loaded = weights.load(args.weights)
    preprocessing = loaded.card.preprocessing
    results: dict[str, Any] = {"weights_sha256": loaded.card.file.sha256}
    if args.device in ("auto", "cpu"):
        nets = {args.weights: loaded.net} | {name: made(arch, args.seed) for name, arch in MADE.items()}
        settings = engines_cpu.Settings(
            frames=args.frames, seconds=args.seconds, threads=args.threads, compile=args.compile, seed=args.seed
        )
        results["openvino"] = version()
        results["cpu"] = {}
        for name, net in nets.items():
            results["cpu"][name] = engines_cpu.measure(net, preprocessing, settings)
            print(engines_cpu.summary(name, results["cpu"][name]), flush=True)
    if args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available()):
        on_gpu = engines_cuda.Settings(frames=args.frames, seconds=args.seconds, seed=args.seed)
        results["cuda"] = engines_cuda.measure(loaded.net, preprocessing, device_named("cuda"), on_gpu)
        print(engines_cuda.summary(results["cuda"]), flush=True)
    report.write(args.out, "engines", results, vars(args))


if __name__ == "__main__":
    main()
