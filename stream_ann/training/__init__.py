"""Training of anytime networks: data, exit weightings, the loop, evaluation of the anytime curve.

The names below are what most programs need; each module says more about its part.
"""

from __future__ import annotations

from stream_ann.training.augment import Augment, default_augment, mix
from stream_ann.training.data import Batch, Data, Split, holdout, open_data, synthetic

__all__ = [
    "Augment",
    "Batch",
    "Data",
    "Split",
    "default_augment",
    "holdout",
    "mix",
    "open_data",
    "synthetic",
]
