"""Make the hierarchy over the classes of ImageNet from WordNet 3.0.

Run from the root of the repository, with WordNet's files as Debian's package ``wordnet-base`` installs them::

    python scripts/make_hierarchy.py --wordnet /usr/share/wordnet

It reads ``stream_ann/assets/imagenet-wordnet-ids.tsv`` (class number, WordNet id such as ``n01440764``, name) and
writes ``stream_ann/assets/imagenet-hierarchy.txt``, a line for each arrow: child, a tab, parent. A class is a child
of each of its hypernyms and so on upwards, so that a dog is both a canine and a domestic animal. Concepts that cover
the same classes become one, by the name of the narrowest; concepts whose names only a taxonomist knows, or which
nobody would call a thing, are left out, and their children go to their parents.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "stream_ann" / "assets"
TABLE = ASSETS / "imagenet-wordnet-ids.tsv"
WORDNET = Path("/usr/share/wordnet")

LEFT_OUT = """
abstraction; agamid; ambystomid; anapsid; anseriform bird; anthozoan; anthropoid ape; aquatic vertebrate;
article; attire; beating-reed instrument; bovid; causal agent; chordate; cloth covering; colubrid snake;
commodity; consumer goods; coraciiform bird; covering; cutter; cyprinid; cypriniform fish; data input device;
decapod crustacean; diapsid; dictyopterous insect; digital computer; double-reed instrument; durables; edentate;
elapid; elasmobranch; electro-acoustic transducer; even-toed ungulate; free-reed instrument; gallinaceous bird;
game; ganoid; ganoid fish; gear; heavier-than-air craft; homopterous insect; hymenopterous insect; iguanid;
instrumentality; lagomorph; lamellicorn beetle; lepidopterous insect; leporid; lighter-than-air craft; matter;
mechanical device; mercantile establishment; musteline mammal; object; odd-toed ungulate; odonate; orthopterous
insect; oscine; overgarment; part; passerine; percoid fish; phasianid; physical entity; piciform bird;
placental; plate; proboscidean; procyonid; relation; residence; restraint; saurian; scarabaeid beetle;
self-propelled vehicle; sheet; soft-finned fish; spiny-finned fish; substance; supporting structure; system;
teleost fish; toy spaniel; transducer; viverrine; white goods; whole; wirehair
"""
HEADER = (
    "# The classes of ImageNet (ILSVRC 2012) under the concepts of WordNet 3.0, made by scripts/make_hierarchy.py:",
    "# child, a tab, parent. WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved. Its licence is",
    "# in imagenet-hierarchy.LICENSE.txt.",
)
RENAMED = {
    "entity": "something",
    "conveyance": "transport",
    "headdress": "headgear",
    "source of illumination": "light source",
}
"""Names that people would use instead of WordNet's."""
WHEELED_VEHICLE, CONTAINER, SOLID_FOOD, FOOD = 4576211, 3094503, 7555863, 21265
NOT_ABOVE = {WHEELED_VEHICLE: CONTAINER}
ALSO_ABOVE = {SOLID_FOOD: FOOD}
"""Where WordNet's arrows would surprise: a car is no container, and what is eaten is food, be it solid or not."""


@dataclass(frozen=True)
class Synset:
    """One meaning: its names, most frequent first, and the wider meanings right above it."""

    names: tuple[str, ...]
    parents: frozenset[int]


def synsets(folder: Path) -> dict[int, Synset]:
    """Every noun of WordNet by its offset."""
    found = {}
    for line in (folder / "data.noun").read_text(encoding="ascii").splitlines():
        if line.startswith(" "):  # the licence
            continue
        fields = line.split(" | ")[0].split()
        words = int(fields[3], 16)
        names = fields[4 : 4 + 2 * words : 2]
        pointers = fields[5 + 2 * words :]
        kinds, targets = pointers[0::4], pointers[1::4]
        parents = {int(t) for kind, t in zip(kinds, targets, strict=False) if kind in ("@", "@i")}
        offset = int(fields[0])
        parents -= {NOT_ABOVE.get(offset)}
        parents |= {ALSO_ABOVE[offset]} if offset in ALSO_ABOVE else set()
        found[offset] = Synset(tuple(name.replace("_", " ") for name in names), frozenset(parents))
    return found


def classes(table: Path) -> dict[int, str]:
    """Name of each class by its WordNet offset, in the order of the classes."""
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines() if line]
    return {int(row[1].removeprefix("n")): row[2] for row in rows}


def above(leaves: Iterable[int], nouns: dict[int, Synset]) -> set[int]:
    """The classes and everything above them."""
    found: set[int] = set()
    left = list(leaves)
    while left:
        if (offset := left.pop()) not in found:
            found.add(offset)
            left.extend(nouns[offset].parents)
    return found


def arrows(nouns: dict[int, Synset], leaf_names: dict[int, str]) -> Iterator[tuple[str, str]]:
    """Every (child, parent) by name, each child once for each parent, from the widest concept down."""
    used = above(leaf_names, nouns)
    children: dict[int, list[int]] = {}
    for offset in used:
        for parent in nouns[offset].parents:
            children.setdefault(parent, []).append(offset)

    @cache
    def covers(offset: int) -> frozenset[int]:
        own = frozenset((offset,)) if offset in leaf_names else frozenset[int]()
        return own.union(*(covers(child) for child in children.get(offset, ())))

    alike: dict[frozenset[int], list[int]] = {}
    for offset in sorted(used):
        alike.setdefault(covers(offset), []).append(offset)
    names: dict[frozenset[int], str] = {frozenset((offset,)): name for offset, name in leaf_names.items()}
    taken = {name.casefold() for name in names.values()}
    for covered, offsets in sorted(alike.items(), key=lambda item: (-len(item[0]), min(item[0]))):
        candidates = _candidates(offsets, nouns)
        name = next((c for c in candidates if c.casefold() not in taken), None)
        if len(covered) == 1 or name is None:  # a second "cap" would help nobody
            continue
        taken.add(name.casefold())
        names[covered] = name
    for covered, name in names.items():
        wider = [other for other in names if covered < other]
        direct = [other for other in wider if not any(between < other for between in wider)]
        yield from ((name, names[other]) for other in sorted(direct, key=len))


def _candidates(alike: list[int], nouns: dict[int, Synset]) -> list[str]:
    """Names for concepts that cover the same classes, the best one first: those of the narrowest concept."""
    left_out = " ".join(LEFT_OUT.split()).split("; ")
    kept = [o for o in alike if nouns[o].names[0] not in left_out]
    kept.sort(key=lambda o: (-len(above([o], nouns)), o))
    return [RENAMED.get(name, name) for o in kept for name in nouns[o].names]


def hierarchy(table: Path = TABLE, wordnet: Path = WORDNET) -> str:
    """The text of the file."""
    lines = [f"{child}\t{parent}" for child, parent in arrows(synsets(wordnet), classes(table))]
    return "\n".join([*HEADER, *lines]) + "\n"


def main() -> None:
    """Parse the command line and write the hierarchy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE, help="table of class number, WordNet id and name")
    parser.add_argument("--wordnet", type=Path, default=WORDNET, help="folder of data.noun")
    parser.add_argument("--out", type=Path, default=ASSETS / "imagenet-hierarchy.txt")
    args = parser.parse_args()
    args.out.write_text(hierarchy(args.table, args.wordnet), encoding="utf-8")


if __name__ == "__main__":
    main()
