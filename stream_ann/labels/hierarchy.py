"""Hierarchies: which classes fall under which concepts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path

from stream_ann.errors import UsageError, nearest
from stream_ann.text import clean

__all__ = ["Hierarchy", "NameFinder", "bundled_hierarchy"]

MOST_BYTES = 16_000_000
"""A larger file is not a hierarchy."""


class Hierarchy:
    """Concepts over classes: a directed graph without circles, in which a name may have several parents.

    What has no children is a class; a concept stands for the set of distinct classes below it.

    Args:
        parents: For each name, the names right above it.

    Raises:
        UsageError: If something is above itself.
    """

    def __init__(self, parents: Mapping[str, Iterable[str]]) -> None:
        above = {child: dict.fromkeys(wider) for child, wider in parents.items()}
        children: dict[str, list[str]] = {child: [] for child in above}
        for child, wider in above.items():
            for parent in wider:
                children.setdefault(parent, []).append(child)
        self._classes = _classes(children, above)
        self._find = NameFinder(self._classes)

    @property
    def concepts(self) -> tuple[str, ...]:
        """Name of everything that has something below it."""
        return tuple(name for name, below in self._classes.items() if below != {name})

    def find(self, name: str) -> str | None:
        """The name as the hierarchy writes it, found without regard to case; None if it has none such."""
        return self._find(name)

    def below(self, name: str) -> frozenset[str]:
        """Names of the classes below a name as the hierarchy writes it: of a class, itself.

        Raises:
            KeyError: If the name is not in the hierarchy.
        """
        return self._classes[name]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Hierarchy:
        """Read a text file, see :meth:`parse`.

        Raises:
            UsageError: If it cannot be read, or is no hierarchy.
        """
        try:
            if Path(path).stat().st_size > MOST_BYTES:
                raise UsageError(f"'{path}' is too large for a hierarchy", "give a text file of up to 16 MB")
            text = Path(path).read_text(encoding="utf-8-sig")
        except OSError as error:
            raise UsageError(f"cannot read the hierarchy '{path}': {error.strerror}", "check the path") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"the hierarchy '{path}' is not UTF-8 text", "save it as UTF-8") from error
        return cls.parse(text, where=os.fspath(path))

    @classmethod
    def parse(cls, text: str, *, where: str = "hierarchy") -> Hierarchy:
        """Read a hierarchy from text, in either of two forms.

        An indented tree: each line a name, more indented than what it falls under, with spaces or tabs but not both.
        Or lines of ``child<tab>parent``. In both a name may come again under another parent, and a line with a name
        alone stands by itself. Empty lines and lines that begin with ``#`` say nothing.

        Args:
            text: The text.
            where: What to call it in errors.

        Raises:
            UsageError: If a line makes no sense, or something is above itself.
        """
        lines = [(i, line.rstrip()) for i, line in enumerate(text.splitlines(), 1)]
        lines = [(i, line) for i, line in lines if line and not line.lstrip().startswith("#")]
        if not lines:
            raise UsageError(
                f"the hierarchy '{where}' is empty", "write a name a line, indented under what it belongs to"
            )
        pairs = any("\t" in line.strip() for _, line in lines)
        parents = _from_pairs(lines, where) if pairs else _from_tree(lines, where)
        try:
            return cls(parents)
        except UsageError as error:
            raise UsageError(f"{error.what}, in '{where}'", error.remedy) from error

    def covers(self, classes: Iterable[str]) -> bool:
        """Whether every class is in the hierarchy by exactly its name, without anything below it."""
        return all(self._classes.get(name, frozenset()) == frozenset((name,)) for name in classes)

    def check_covers(self, classes: Iterable[str]) -> None:
        """Make sure that every class is in the hierarchy, as something without anything below it.

        Raises:
            UsageError: If one is not.
        """
        for name in classes:
            if (found := self.find(name)) is None:
                leaves = [leaf for leaf, below in self._classes.items() if below == {leaf}]
                hint = nearest(name, leaves).partition("known:")[0]
                remedy = hint or "add it, on a line by itself if it falls under nothing"
                raise UsageError(f"the class '{clean(name)}' is not in the hierarchy", remedy)
            if self.below(found) != {found}:
                raise UsageError(
                    f"the class '{clean(name)}' has other names below it in the hierarchy",
                    "a class of the weights cannot be a concept: give the concept another name",
                )


class NameFinder:
    """Finds names without regard to case; with regard to it where two differ in nothing else (``Cardigan``, a dog, and
    ``cardigan``).

    Args:
        names: What can be found.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)
        self._folded: dict[str, str] = {}
        for name in names:
            self._folded.setdefault(name.casefold(), name)

    def __call__(self, name: str) -> str | None:
        """The name as it is written, or None."""
        return name if name in self._names else self._folded.get(name.casefold())


@lru_cache(maxsize=1)
def bundled_hierarchy() -> Hierarchy:
    """The hierarchy over the 1,000 classes of ImageNet, from WordNet 3.0."""
    text = resources.files("stream_ann.assets").joinpath("imagenet-hierarchy.txt").read_text(encoding="utf-8")
    return Hierarchy.parse(text, where="imagenet-hierarchy.txt")


def _classes(children: Mapping[str, Sequence[str]], above: Mapping[str, Iterable[str]]) -> dict[str, frozenset[str]]:
    """The classes below every name, in the order in which the names came up."""
    left = {name: len(below) for name, below in children.items()}
    ready = [name for name, count in left.items() if count == 0]
    found: dict[str, frozenset[str]] = {}
    while ready:
        name = ready.pop()
        found[name] = frozenset[str]().union(*(found[child] for child in children[name])) or frozenset((name,))
        for parent in above.get(name, ()):
            left[parent] -= 1
            if left[parent] == 0:
                ready.append(parent)
    if len(found) < len(children):
        stuck = next(name for name in children if name not in found)
        raise UsageError(f"'{clean(stuck)}' is above itself", "take one of the lines of the circle out")
    return {name: found[name] for name in children}


def _from_pairs(lines: Iterable[tuple[int, str]], where: str) -> dict[str, list[str]]:
    parents: dict[str, list[str]] = {}
    for number, line in lines:
        child, *rest = [part.strip() for part in line.split("\t") if part.strip()]
        if len(rest) > 1:
            raise UsageError(f"'{where}', line {number}: {len(rest) + 1} names", "write child, a tab, parent")
        parents.setdefault(child, []).extend(rest)
    return parents


def _from_tree(lines: Iterable[tuple[int, str]], where: str) -> dict[str, list[str]]:
    parents: dict[str, list[str]] = {}
    path: list[tuple[int, str]] = []  # indentation and name of everything that the line may fall under
    used = ""
    for number, line in lines:
        name = line.lstrip()
        indent = line[: len(line) - len(name)]
        used = used or indent[:1]
        if indent.strip(used or " "):
            raise UsageError(f"'{where}', line {number}: tabs and spaces are mixed", "indent with one of them")
        level = -1 if not path else path[-1][0]
        while path and path[-1][0] >= len(indent):
            level = path.pop()[0]
        if level > len(indent) or (indent and not path):
            raise UsageError(f"'{where}', line {number}: indented unlike any line above it", "indent with care")
        parents.setdefault(name, []).extend([path[-1][1]] if path else [])
        path.append((len(indent), name))
    return parents
