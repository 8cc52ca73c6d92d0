"""Everything that is fuzzed, by name."""

from __future__ import annotations

from stream_ann.errors import nearest
from tests.fuzz import arguments, data, media, wire, words
from tests.fuzz.broken import BROKEN
from tests.fuzz.target import Target

__all__ = ["TARGETS", "target_named"]

_ROOMS = (media, data, words, wire, arguments)
TARGETS: dict[str, Target] = {target.name: target for room in _ROOMS for target in room.TARGETS}


def target_named(name: str) -> Target:
    """A target by its name, the broken one among them."""
    if name == BROKEN.name:
        return BROKEN
    if name not in TARGETS:
        raise SystemExit(f"there is no target '{name}'; {nearest(name, TARGETS)}")
    return TARGETS[name]
