"""Weights that are run in milliseconds, for tests of what is around the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from stream_ann.nets import EANN, Lite, build
from stream_ann.preprocess import Preprocessing
from stream_ann.training.own_trunk import own_trunk, with_own_trunks
from stream_ann.weights import load, save

__all__ = ["save_small_distilled", "save_small_eann", "save_small_weights"]


def save_small_weights(folder: Path, name: str = "small", units: int = 1) -> Path:
    """Write an untrained network of three cheap exits for each of its units; gives the path of its card."""
    torch.manual_seed(0)
    net = build({"name": "resann", "classes": 5, "n": units, "c": 8, "s": 1, "resolution_px": 32})
    path = folder / name
    save(
        net,
        path,
        title="untrained",
        description="for tests",
        classes=["ant", "bee", "cat", "dog", "eel"],
        preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        training={"kind": "trained", "command": "none", "data": "none", "seed": 0},
        licence="Apache-2.0",
    )
    return path.with_suffix(".json")


def save_small_eann(path: Path, resolutions_px: Sequence[int]) -> Path:
    """Write an untrained EANN of one trunk, lite0, at several resolutions; gives the path of its card."""
    torch.manual_seed(0)
    net = EANN({"lite0": Lite(0, classes=5)}, [("lite0", px) for px in resolutions_px])
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean.normal_(0, 0.1)
    save(
        net.eval(),
        path,
        title="untrained",
        description="for tests",
        classes=["ant", "bee", "cat", "dog", "eel"],
        preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        training={"kind": "converted", "command": "none", "data": "none", "seed": 0},
        licence="Apache-2.0",
        sources=["somebody"],
        accuracies=[0.25 + 0.25 * i for i in range(len(resolutions_px))],
        readout_weights=[2.0**i for i in range(len(resolutions_px))],
    )
    return path.with_suffix(".json")


def save_small_distilled(path: Path, before: Path) -> Path:
    """Write what distilling could have made of an EANN's first member, by noise instead; gives the path of its card."""
    torch.manual_seed(1)
    base = load(before)
    member = base.net.members()[0].name
    trunk, _ = own_trunk(base.net, member)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape))
    save(
        with_own_trunks(base.net, {member: trunk}),
        path,
        title="distilled",
        description="for tests",
        classes=base.card.classes,
        preprocessing=base.card.preprocessing,
        training={
            "kind": "trained",
            "method": "distilled",
            "command": "none",
            "data": "none",
            "teacher": {"name": base.card.name, "exit": base.plan.exit_names[-1]},
            "init": {"name": base.card.name, "sha256": base.card.file.sha256},
        },
        licence="Apache-2.0",
    )
    return path.with_suffix(".json")
