"""What is fuzzed: where inputs come from, and what is done with each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypothesis.strategies import SearchStrategy

__all__ = ["MEMORY_BYTES", "Target"]

MEMORY_BYTES = 1 << 30
"""How much more memory than before one input may take by default: four of the largest pictures that are let through."""


@dataclass(frozen=True, slots=True)
class Target:
    """One way into the project for what nobody controls."""

    name: str
    """What the command line calls it."""
    tried: str
    """What is tried, in words for a table."""
    inputs: Callable[[Path], SearchStrategy[bytes]]
    """Inputs, made from a folder where the corpus may be kept between calls."""
    check: Callable[[bytes, Path], None]
    """Takes an input in, using an empty folder. Returns where it was taken, raises StreamAnnError where it was refused;
    anything else that it raises is a fault."""
    share: int
    """How many of a thousand inputs it gets."""
    memory_bytes: int = MEMORY_BYTES
    """How much more memory than before one input may take."""
    timeout_s: float = 30.0
    """How long one input may take, in seconds, on a machine with much else to do."""
