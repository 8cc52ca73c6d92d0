"""Everything that is fuzzed, by name."""

from __future__ import annotations

from stream_ann.errors import nearest
from tests.fuzz import data, media, wire, words
from tests.fuzz.broken import BROKEN
from tests.fuzz.target import Target

__all__ = ["TARGETS", "target_named"]

TARGETS: dict[str, Target] = {target.name: target for room in (media, data, words, wire) for target in room.TARGETS}


def target_named(name: str) -> Target:
    """A target by its name, the broken one among them."""
    if name == BROKEN.name:
        return BROKEN
    if name not in TARGETS:
        raise SystemExit(f"there is no target '{name}'; {nearest(name, TARGETS)}")
    return TARGETS[name]
