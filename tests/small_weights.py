"""Weights that are run in milliseconds, for tests of what is around the network."""

from __future__ import annotations

from pathlib import Path

import torch

from stream_ann.nets import build
from stream_ann.preprocess import Preprocessing
from stream_ann.weights import save

__all__ = ["save_small_weights"]


def save_small_weights(folder: Path) -> Path:
    """Write an untrained network of three cheap exits; gives the path of its card."""
    torch.manual_seed(0)
    net = build({"name": "resann", "classes": 5, "n": 1, "c": 8, "s": 1, "resolution_px": 32})
    path = folder / "small"
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
