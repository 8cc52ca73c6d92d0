"""From what a user writes to the videos to label, each once, and what their outputs are called."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stream_ann.errors import SourceError, SourceNotFoundError, UnsupportedSourceError, UsageError
from stream_ann.ingest.source import shown_path
from stream_ann.ingest.spec import DEMO_CLIP

__all__ = ["VIDEO_EXTENSIONS", "Video", "find_videos", "output_names"]

VIDEO_EXTENSIONS = frozenset(
    f".{extension}"
    for extension in (
        *("3g2", "3gp", "asf", "avi", "divx", "dv", "f4v", "flv", "gif", "h264", "h265", "hevc", "ivf", "m1v", "m2ts"),
        *("m2v", "m4v", "mjpeg", "mjpg", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "mxf", "nut", "obu", "ogm", "ogv"),
        *("rm", "rmvb", "ts", "vob", "webm", "wmv", "y4m"),
    )
)
"""What is taken for a video in a folder. A file that is named itself may be called anything."""


@dataclass(frozen=True, slots=True)
class Video:
    """One video to label."""

    path: Path
    """The file."""
    name: str
    """What it is called in results: its path as it was given, fit to be shown. No two have the same."""
    relative: Path
    """Its path below the folder that was given, or its file name."""


def find_videos(
    inputs: Sequence[str | os.PathLike[str]],
    *,
    lists: Sequence[str | os.PathLike[str]] = (),
    apart_from: Sequence[Path] = (),
) -> tuple[Video, ...]:
    """The videos that inputs name, in their order and each once; those of a folder or glob sorted by path.

    Args:
        inputs: Files, folders (searched with all folders in them), globs (``**`` for any depth), ``@FILE`` for a file
            with a path on each line, ``-`` for such a list on standard input, ``demo`` for the bundled clip. A path
            object always means a file or folder.
        lists: More files with a path on each line. Lines may end with NUL instead, as from ``find -print0``.
        apart_from: Folders that are left out where they are below an input folder: outputs.

    Raises:
        SourceNotFoundError: If there is no such file, folder or list. What a list names is looked at later.
        UnsupportedSourceError: If a folder or glob holds no video.
        UsageError: If nothing is named.
    """
    excluded = [Path(os.path.realpath(folder)) for folder in apart_from]
    found: dict[str, Video] = {}
    sources = [*inputs, *(f"@{os.fspath(path)}" for path in lists)]
    for video in (v for source in sources for v in _videos(source, excluded)):
        found.setdefault(os.path.realpath(video.path), video)
    if not found:
        raise UsageError("there is nothing to label", "name a video, a folder, a glob, or a list with @FILE")
    return tuple(_distinct(found.values()))


def output_names(videos: Sequence[Video], extension: str) -> tuple[Path, ...]:
    """A path for each video's output, relative to the output folder, no two the same.

    It is the video's path below the folder that was given, with another extension. Videos of one folder that differ in
    their extension keep it (``clip.mp4.csv``), and what is still the same gets a number (``clip.2.csv``).
    """
    plain = [video.relative.with_suffix(extension) for video in videos]
    counts = Counter(_folded(path) for path in plain)
    longer = [
        path if counts[_folded(path)] == 1 else video.relative.with_name(video.relative.name + extension)
        for video, path in zip(videos, plain, strict=True)
    ]
    taken: set[str] = set()
    names = []
    for path in longer:
        candidate, number = path, 1
        while _folded(candidate) in taken:
            number += 1
            candidate = path.with_name(f"{path.name.removesuffix(extension)}.{number}{extension}")
        taken.add(_folded(candidate))
        names.append(candidate)
    return tuple(names)


def _folded(path: Path) -> str:
    return str(path).casefold()  # some file systems tell no difference


def _videos(source: str | os.PathLike[str], excluded: Sequence[Path]) -> Iterator[Video]:
    if isinstance(source, str):
        if not source.strip():
            raise UsageError("an input is empty", "name a video, a folder, a glob, or a list with @FILE")
        if source == "demo":
            yield Video(DEMO_CLIP, "demo", Path("demo.mp4"))
            return
        if source == "-":
            yield from _listed(sys.stdin.buffer.read(), Path())
            return
        if source.startswith("@") and len(source) > 1 and not Path(source).exists():
            yield from _listed(_read_list(Path(source[1:])), Path(source[1:]).parent)
            return
        source = os.path.expanduser(source)
    path, shown = Path(source), shown_path(source)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:
        raise SourceError(f"'{shown}' cannot be read", "check the path") from error
    if is_folder:
        yield from _in_folder(path, excluded)
    elif exists:
        yield Video(path, shown, Path(path.name))
    elif isinstance(source, str) and any(c in source for c in "*?["):
        yield from _matching(source)
    else:
        live = isinstance(source, str) and re.match(r"[A-Za-z]+:|[0-9]{1,4}$|/dev/video", source)
        remedy = "videos are labelled; for a camera: stream-ann live" if live else "check the path"
        raise SourceNotFoundError(f"there is no file or folder '{shown}'", remedy)


def _in_folder(folder: Path, excluded: Sequence[Path]) -> Iterator[Video]:
    paths = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if Path(os.path.realpath(Path(root) / name)) not in excluded]
        paths += [
            Path(root) / name
            for name in names
            if Path(name).suffix.lower() in VIDEO_EXTENSIONS and not name.startswith(".")
        ]
    paths.sort()
    if not paths:
        raise UnsupportedSourceError(f"there is no video in the folder '{shown_path(folder)}'", "check the path")
    for path in paths:
        yield Video(path, shown_path(path), path.relative_to(folder))


def _matching(pattern: str) -> Iterator[Video]:
    paths = sorted(Path(match) for match in glob.glob(pattern, recursive=True))
    files = [path for path in paths if path.is_file()]
    if not files:
        raise SourceNotFoundError(f"nothing matches '{shown_path(pattern)}'", "check the path")
    # The part of the pattern before its first wildcard: below it, folders are kept apart in the output.
    fixed = Path(*_until_wildcard(Path(pattern).parts))
    for path in files:
        yield Video(path, shown_path(path), path.relative_to(fixed) if path.is_relative_to(fixed) else Path(path.name))


def _until_wildcard(parts: Iterable[str]) -> Iterator[str]:
    for part in parts:
        if any(c in part for c in "*?["):
            return
        yield part


def _read_list(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"there is no list '{shown_path(path)}'", "check the path") from error
    except OSError as error:
        raise SourceError(f"the list '{shown_path(path)}' cannot be read: {error.strerror}") from error


def _listed(data: bytes, folder: Path) -> Iterator[Video]:
    """The videos of a list. Paths in it are relative to its folder; lines that begin with # are comments."""
    separator = b"\0" if b"\0" in data else b"\n"
    for line in data.removeprefix(b"\xef\xbb\xbf").split(separator):
        text = os.fsdecode(line.rstrip(b"\r"))
        if text.strip() and not text.startswith("#"):
            path = folder / os.path.expanduser(text)
            # a line such as / or . has no name, and is said to be no video when its turn comes
            yield Video(path, shown_path(path), Path(path.name or "unnamed"))


def _distinct(videos: Iterable[Video]) -> Iterator[Video]:
    """Videos whose shown names are the same (what is in them cannot be shown) get numbers."""
    taken: set[str] = set()
    for video in videos:
        name, number = video.name, 1
        while name in taken:
            number += 1
            name = f"{video.name} ({number})"
        taken.add(name)
        yield video if name == video.name else Video(video.path, name, video.relative)
