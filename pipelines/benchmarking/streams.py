"""The films that the benchmark shows: the demo clip, a labelled video, or a folder of labelled photographs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stream_ann.errors import (
    DecodeError,
    SourceError,
    SourceNotFoundError,
    UnsupportedSourceError,
    UsageError,
    nearest,
)
from stream_ann.ingest import DEMO_CLIP, Source, source_from
from stream_ann.ingest.images import load_image
from stream_ann.streaming import Film, Shot, film_photograph
from stream_ann.training.folder import read_layout

__all__ = ["FilmOptions", "LabelledFilm", "class_map", "folder_film", "video_film", "with_truths"]

PICTURE_PX = (426, 320)
"""Width and height of the pictures that are filmed of photographs: the largest bundled member looks at 297 pixels."""
MAX_PRELOADED_BYTES = 3 << 30
MAX_RECORDING_S = 120.0
"""So much of a recording is looked at, at most: a synthetic one never ends."""


@dataclass(frozen=True, slots=True)
class FilmOptions:
    """How a film is made of photographs."""

    dwell_s: float = 1.0
    """How long each photograph is there, in seconds."""
    motion_fps: float = 8.0
    """How many different pictures a second the moving camera gives."""
    scenes: int = 100
    """How many photographs at most, evenly over the classes."""
    seed: int = 0
    """Which ones, in which order, and how the camera moves."""

    def __post_init__(self) -> None:
        for what, value in (("dwell", self.dwell_s), ("motion rate", self.motion_fps)):
            if not 0 < value < 1e6:
                raise UsageError(f"a {what} of {value:g} makes no sense", "give a number above 0")
        if self.scenes < 1:
            raise UsageError(f"{self.scenes} scenes make no film", "give 1 or more")


@dataclass(frozen=True, slots=True)
class LabelledFilm:
    """A film, and what is to be said about its labels."""

    film: Film
    """The film; its truths are empty where there are no labels."""
    labelled: bool
    """Whether its truths are labels that somebody gave."""
    unmatched: tuple[str, ...]
    """Names of labels that the network has no class for; pictures with no other label are left out."""


def video_film(
    spec: str | os.PathLike[str],
    sidecar: str | os.PathLike[str] | None,
    classes: Sequence[str],
    mapping: Mapping[str, frozenset[int]],
    *,
    labelled: bool = True,
    seconds: float | None = None,
) -> LabelledFilm:
    """The frames of a recording, each for as long as its timestamps say.

    Args:
        spec: ``"demo"``, a video file, or anything else that ends.
        sidecar: JSON that says what can be seen when, in the form of the demo clip's: ``shots`` with ``start_s``,
            ``end_s`` and ``labels``, each a ``name``. None: the file beside a video that has its name and ends in
            .json, if there is one; without any, nothing is labelled.
        classes: Names of the network's classes.
        mapping: Further names of classes, by number.
        labelled: Whether labels are wanted. Without, only the scenes are taken from the sidecar.
        seconds: Only so much of the recording; None for two minutes of it, as far as they fit into memory.

    Raises:
        SourceError: If it cannot be read, or it never ends.
        UsageError: If no label fits the network, or the sidecar is malformed.
    """
    source = source_from(spec)
    if source.live:
        raise UnsupportedSourceError(f"'{source.name}' is a live source, whose frames nobody has labelled", "record it")
    images, starts_s = _frames(source, MAX_RECORDING_S if seconds is None else seconds)
    if not images:
        raise SourceError(f"'{source.name}' gave no frames", "give a recording")
    gap_s = (starts_s[-1] - starts_s[0]) / (len(starts_s) - 1) if len(starts_s) > 1 else 1.0
    shown_s = np.append(np.diff(starts_s), gap_s if gap_s > 0 else 1.0)
    shown_s = np.where(shown_s > 0, shown_s, gap_s if gap_s > 0 else 1.0)
    scenes = np.zeros(len(images), dtype=np.intp)
    truths: list[frozenset[int]] = [frozenset()] * len(images)
    path = _sidecar_of(spec, sidecar)
    if path is None:
        film = Film(source.name, images.__getitem__, tuple(truths), scenes, shown_s)
        return LabelledFilm(film, False, ())

    shots = _shots(path)
    unmatched: list[str] = []
    for number, (start_s, end_s, names) in enumerate(shots):
        found, missing = _matched(names, classes, mapping)
        unmatched += missing
        for i, time_s in enumerate(starts_s):
            if start_s - 1e-6 <= time_s < end_s - 1e-6:
                scenes[i], truths[i] = number, found
    if not labelled:
        truths = [frozenset()] * len(images)
        return LabelledFilm(Film(source.name, images.__getitem__, tuple(truths), scenes, shown_s), False, ())
    keep = [i for i, truth in enumerate(truths) if truth]
    if not keep:
        raise _nothing_matched(str(path), unmatched, classes)
    kept = [images[i] for i in keep]
    film = Film(source.name, kept.__getitem__, tuple(truths[i] for i in keep), scenes[keep], shown_s[keep])
    return LabelledFilm(film, True, tuple(dict.fromkeys(unmatched)))


def folder_film(
    folder: str | os.PathLike[str],
    classes: Sequence[str],
    mapping: Mapping[str, frozenset[int]],
    options: FilmOptions,
    *,
    labelled: bool = True,
) -> LabelledFilm:
    """Photographs of a folder in ImageFolder layout, filmed by a moving camera, with hard cuts between them.

    Of a folder with ``train`` and ``val``, those of ``val`` are taken.

    Args:
        folder: The folder. A class folder is matched to the network's classes by its name, in whatever case, by the
            class's number, or by ``mapping``.
        classes: Names of the network's classes.
        mapping: Further names of classes, by number.
        options: How the film is made.
        labelled: Whether labels are wanted. Without, photographs of every folder are taken.

    Raises:
        SourceError: If the folder cannot be used.
        UsageError: If no class folder fits the network.
    """
    root = Path(folder)
    layout = read_layout(root)
    if layout.kind != "images":
        raise UnsupportedSourceError(
            f"'{root}' holds video clips", "give a folder of photographs, or one labelled video"
        )
    listing = layout.val or layout.train
    truths: dict[int, frozenset[int]] = {}
    unmatched = []
    for label, name in enumerate(layout.classes):
        truths[label], missing = _matched([name], classes, mapping)
        unmatched += missing
    by_class: dict[int, list[Path]] = {}
    for path, label in zip(listing.paths, listing.labels, strict=True):
        if truths[label] or not labelled:
            by_class.setdefault(label, []).append(path)
    if not by_class:
        raise _nothing_matched(str(root), unmatched, classes)
    chosen = _chosen(by_class, options)
    per_scene = max(1, round(options.motion_fps * options.dwell_s))
    shots = [Shot((options.seed, number), per_scene) for number in range(len(chosen))]
    photograph = lru_cache(maxsize=4)(load_image)

    def picture(number: int) -> NDArray[np.uint8]:
        scene, view = divmod(number, per_scene)
        return film_photograph(photograph(chosen[scene][0]), shots[scene], view, PICTURE_PX)

    count = len(chosen) * per_scene
    film = Film(
        name=f"{root.resolve().name}, {len(chosen)} photographs",
        picture=picture,
        truths=tuple(truths[chosen[i // per_scene][1]] if labelled else frozenset() for i in range(count)),
        scenes=np.arange(count) // per_scene,
        shown_s=np.full(count, options.dwell_s / per_scene),
    )
    return LabelledFilm(film, labelled, tuple(unmatched) if labelled else ())


def class_map(path: str | os.PathLike[str], classes: Sequence[str]) -> dict[str, frozenset[int]]:
    """Names of class folders and what they stand for: lines of two or three fields, separated by tabs.

    A line is a name, and the network's class by name or number; of three fields, the first is the class's number and
    the second the name, as in lists of the WordNet ids of ImageNet. A name that stands in several lines means any of
    their classes. Empty lines and comments (``#``) are passed over.

    Raises:
        SourceNotFoundError: If there is no such file.
        UsageError: If a line is something else, or names a class that the network does not have.
    """
    file = Path(path)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"there is no file '{file}'", "check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"the class map '{file}' cannot be read", "give a text file of names and classes") from error
    found: dict[str, frozenset[int]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) not in (2, 3):
            raise UsageError(f"line {number} of '{file}' has {len(fields)} fields", "give NAME, a tab, and CLASS")
        name, wanted = (fields[1], fields[0]) if len(fields) == 3 else (fields[0], fields[1])
        matched, _ = _matched([wanted], classes, {})
        if not matched:
            raise UsageError(f"line {number} of '{file}': there is no class '{wanted}'", nearest(wanted, classes))
        found[name] = found.get(name, frozenset()) | matched
    return found


def _chosen(by_class: dict[int, list[Path]], options: FilmOptions) -> list[tuple[Path, int]]:
    """Photographs with their classes: evenly over the classes, in a random order without two of a class in a row."""
    random = np.random.default_rng(options.seed)
    order = random.permutation(len(by_class)).tolist()
    queues = []
    for key in sorted(by_class):
        paths = by_class[key]
        queues.append([(paths[i], key) for i in random.permutation(len(paths)).tolist()])
    chosen: list[tuple[Path, int]] = []
    depth = 0
    while len(chosen) < options.scenes and any(depth < len(queue) for queue in queues):
        chosen += [queues[i][depth] for i in order if depth < len(queues[i])]
        depth += 1
    return chosen[: options.scenes]


def _matched(
    names: Sequence[str], classes: Sequence[str], mapping: Mapping[str, frozenset[int]]
) -> tuple[frozenset[int], list[str]]:
    """The classes that names stand for, and the names that stand for none."""
    known = _numbers(tuple(classes))
    found: set[int] = set()
    missing = []
    for name in names:
        plain = name.strip()
        if plain in mapping:
            found |= mapping[plain]
            continue
        number = known.get(plain, known.get(_folded(plain)))
        if number is None and plain.isascii() and plain.isdigit() and int(plain) < len(classes):
            number = int(plain)
        if number is None:
            missing.append(name)
        else:
            found.add(number)
    return frozenset(found), missing


@lru_cache(maxsize=4)
def _numbers(classes: tuple[str, ...]) -> dict[str, int]:
    folded = {_folded(name): number for number, name in reversed(list(enumerate(classes)))}
    return folded | {name: number for number, name in enumerate(classes)}


def _folded(name: str) -> str:
    """A name as folders spell it: case and word separators do not count."""
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def _nothing_matched(where: str, unmatched: Sequence[str], classes: Sequence[str]) -> UsageError:
    shown = ", ".join(f"'{name}'" for name in list(dict.fromkeys(unmatched))[:5]) or "none"
    hint = nearest(unmatched[0], classes) if unmatched else ""
    remedy = "give --class-map FILE, or take the whole plan's answers for the truth: --labels agreement"
    return UsageError(f"no label of '{where}' is a class of the network: {shown}", f"{hint} {remedy}".strip())


def _sidecar_of(spec: str | os.PathLike[str], sidecar: str | os.PathLike[str] | None) -> Path | None:
    if sidecar is not None:
        return Path(sidecar)
    beside = (DEMO_CLIP if spec == "demo" else Path(spec)).with_suffix(".json")
    return beside if beside.is_file() else None


def _shots(path: Path) -> list[tuple[float, float, list[str]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"there is no file '{path}'", "check the path") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"the labels '{path}' are no JSON", "write them like the demo clip's demo.json") from error
    try:
        shots = [
            (float(s["start_s"]), float(s["end_s"]), [str(one["name"]) for one in s["labels"]])
            for s in content["shots"]
        ]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        what = f"the labels '{path}' do not say 'shots' with 'start_s', 'end_s' and 'labels' of 'name'"
        raise UsageError(what, "write them like the demo clip's demo.json") from error
    if not shots:
        raise UsageError(f"the labels '{path}' have no shots", "write them like the demo clip's demo.json")
    return shots


def _frames(source: Source, seconds: float) -> tuple[list[NDArray[np.uint8]], NDArray[np.float64]]:
    """The frames of so many seconds that fit into memory, and when each is shown, in seconds from the first."""
    images: list[NDArray[np.uint8]] = []
    times: list[float] = []
    held = 0
    source.open()
    try:
        while held < MAX_PRELOADED_BYTES:
            try:
                picture = source.read()
            except DecodeError:
                continue
            if picture is None:
                break
            time_s = picture.pts_s if picture.pts_s is not None else (times[-1] + 0.04 if times else 0.0)
            if times and time_s - times[0] >= seconds:
                break
            images.append(picture.image)
            times.append(time_s)
            held += picture.image.nbytes
    finally:
        source.close()
    starts = np.asarray(times, dtype=np.float64)
    return images, starts - (starts[0] if len(starts) else 0.0)


def with_truths(labelled: LabelledFilm, truths: Sequence[frozenset[int]]) -> LabelledFilm:
    """The same film with other truths: the whole plan's answers, where nobody gave labels."""
    return replace(labelled, film=replace(labelled.film, truths=tuple(truths)), labelled=False)
