"""Groups: a run restricted to some classes, or to sets of them under one name."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stream_ann.errors import UsageError, nearest
from stream_ann.labels.hierarchy import Hierarchy, NameFinder
from stream_ann.text import clean

__all__ = ["OTHER", "Groups", "groups_from"]

OTHER = "other"
"""What stands for every class that no group names."""
SHOWN_HINTS = 6


class Groups:
    """Sums of the probabilities of disjoint sets of classes.

    Where the sets leave classes out, the sums are divided by their total: what is left of the probability once the
    answer is known to be among them.

    Args:
        names: Name of each group.
        members: Numbers of the classes of each group.
        classes: Number of classes of the network.
    """

    def __init__(self, names: Sequence[str], members: Sequence[Sequence[int]], classes: int) -> None:
        self.names = tuple(names)
        """Name of each group."""
        self.members = tuple(tuple(numbers) for numbers in members)
        """Numbers of the classes of each group."""
        self._sums = np.zeros((classes, len(self.names)), dtype=np.float32)
        for group, numbers in enumerate(self.members):
            self._sums[list(numbers), group] = 1.0
        self._whole = int(self._sums.sum()) == classes

    def of(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probability of each group.

        Args:
            probabilities: Of the classes, float32 [classes] or [B, classes].

        Returns:
            float32 [groups] or [B, groups]. Where none of the classes has any probability, every group has the same.
        """
        sums: NDArray[np.float32] = probabilities @ self._sums
        if self._whole:
            return sums
        total = sums.sum(axis=-1, keepdims=True)
        even = np.float32(1 / len(self.names))
        shares: NDArray[np.float32] = np.divide(sums, total, out=np.full_like(sums, even), where=total > 0)
        return shares


def groups_from(specs: Sequence[str], classes: Sequence[str], hierarchy: Hierarchy | None = None) -> Groups:
    """The groups that a user asked for.

    Args:
        specs: Each ``GROUP=member,member``; or class names alone, separated by commas, each its own group; or
            ``@FILE`` for a text file with one of these a line. A member is a class, or a concept of the hierarchy,
            which stands for all classes below it; ``CONCEPT/*`` stands for each of them by itself. ``other`` stands
            for every class that is not named; it comes by itself where there is one group alone. Names are told
            apart without regard to case, and may have commas in them.
        classes: Name of each class of the network.
        hierarchy: Brings the concepts.

    Raises:
        UsageError: If a name is unknown, a class is in two groups, or there is nothing to choose among.
    """
    known = _Known(classes, hierarchy)
    asked: dict[str, set[int]] = {}
    rest: str | None = None
    for spec in _lines(specs):
        name, equals, right = spec.partition("=")
        name = name.strip()
        if known.has(spec):  # a class may have an equals sign in its name
            name, equals, right = "", "", spec
        if equals and (not name or not right.strip()):
            raise UsageError(f"'{clean(spec)}' is no group", "write NAME=class,class")
        for member in known.members(right if equals else spec):
            group = name if equals else member.name
            if member.rest:
                if rest not in (None, group):
                    raise UsageError(f"'{OTHER}' is in two groups", "name it once")
                rest = group
            for part, numbers in member.parts(group if equals else None):
                asked.setdefault(part, set()).update(numbers)
    if rest is None and len(asked) == 1 and len(*asked.values()) < len(classes):  # it alone would always be certain
        rest = OTHER
        asked[OTHER] = set()
    names, members = list(asked), list(asked.values())
    _check_apart(names, members, classes)
    if rest is not None:
        asked[rest].update(set(range(len(classes))).difference(*members))
    if not names:
        raise UsageError("no class is named", "name classes, or groups of them: NAME=class,class")
    if empty := next((name for name, numbers in zip(names, members, strict=True) if not numbers), None):
        raise UsageError(f"no class is left for '{clean(empty)}'", "take it out: the groups name every class")
    return Groups(names, [sorted(numbers) for numbers in members], len(classes))


class _Member:
    """What a name stands for: classes, all together or each by itself, or the rest."""

    def __init__(self, name: str, numbers: dict[int, str], *, apart: bool = False, rest: bool = False) -> None:
        self.name, self.numbers, self.apart, self.rest = name, numbers, apart, rest

    def parts(self, group: str | None) -> list[tuple[str, set[int]]]:
        """The groups that it becomes, in the one that is given or else by itself."""
        if group is None and self.apart:
            return [(name, {number}) for number, name in self.numbers.items()]
        return [(self.name if group is None else group, set(self.numbers))]


class _Known:
    """Finds classes and concepts by name."""

    def __init__(self, classes: Sequence[str], hierarchy: Hierarchy | None) -> None:
        self._numbers = {name: number for number, name in enumerate(classes)}
        self._class_named = NameFinder(classes)
        self._hierarchy = hierarchy

    def has(self, text: str) -> bool:
        return self._find(text.strip()) is not None

    def members(self, text: str) -> list[_Member]:
        """What a list of names stands for; of names with commas in them the longest that is known."""
        parts = text.split(",")
        found = []
        start = 0
        while start < len(parts):
            for end in range(len(parts), start, -1):
                name = ",".join(parts[start:end]).strip()
                if name and (member := self._find(name)) is not None:
                    found.append(member)
                    start = end
                    break
            else:
                if parts[start].strip():
                    raise self._unknown(parts[start].strip())
                start += 1
        return found

    def _find(self, name: str) -> _Member | None:
        if (known := self._class_named(name)) is not None:
            return _Member(known, {self._numbers[known]: known})
        if name.casefold() == OTHER:
            return _Member(OTHER, {}, rest=True)
        concept = None if self._hierarchy is None else self._hierarchy.find(name.removesuffix("/*"))
        if self._hierarchy is None or concept is None:
            return None
        below = self._hierarchy.below(concept)
        numbers = {number: known for known, number in self._numbers.items() if known in below}
        return _Member(concept, numbers, apart=name.endswith("/*")) if numbers else None

    def _unknown(self, name: str) -> UsageError:
        what = f"the weights know no class '{clean(name)}'"
        word = name.casefold()
        holding = [n for n in self._numbers if word in re.findall(r"[\w'-]+", n.casefold())]
        if Path(name).is_file():
            return UsageError(what, f"to read groups from the file write @{name}")
        if holding:
            shown = ", ".join(holding[:SHOWN_HINTS]) + (", …" if len(holding) > SHOWN_HINTS else "")
            return UsageError(what, f"classes with that word: {shown}")
        concepts = self._hierarchy.concepts if self._hierarchy is not None else ()
        return UsageError(what, nearest(name, [*self._numbers, *concepts]))


def _lines(specs: Sequence[str]) -> list[str]:
    """All groups asked for, those of files too."""
    found: list[str] = []
    for spec in specs:
        if not spec.startswith("@"):
            found.append(spec)
            continue
        path = spec[1:]
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise UsageError(f"cannot read the groups in '{os.fspath(path)}': {why}", "check the path") from error
        lines = [line.strip() for line in text.splitlines()]
        found += [line for line in lines if line and not line.startswith("#")]
    return [spec for spec in found if spec.strip()]


def _check_apart(names: Sequence[str], members: Sequence[set[int]], classes: Sequence[str]) -> None:
    owner: dict[int, str] = {}
    for name, numbers in zip(names, members, strict=True):
        for number in sorted(numbers):
            if number in owner:
                what = f"the class '{clean(classes[number])}' is in '{clean(owner[number])}' and in '{clean(name)}'"
                raise UsageError(what, "put each class into one group")
            owner[number] = name
