"""Weights and their cards: found by name, verified before anything is allocated, read and written. Never pickle.

Weights called NAME are two files in one folder: ``NAME.safetensors`` with the tensors and ``NAME.json``, the card, with
all the rest (:class:`stream_ann.card.Card`). The card names the weights file and its SHA-256, so that the two cannot
come apart unnoticed.
"""

from stream_ann.weights.finding import FOLDERS_VARIABLE, bundled_folder, locate
from stream_ann.weights.loading import Check, Listed, Weights, available, load, read_card, verify
from stream_ann.weights.pretrained import write_pretrained
from stream_ann.weights.saving import save, write_card

__all__ = [
    "FOLDERS_VARIABLE",
    "Check",
    "Listed",
    "Weights",
    "available",
    "bundled_folder",
    "load",
    "locate",
    "read_card",
    "save",
    "verify",
    "write_card",
    "write_pretrained",
]
