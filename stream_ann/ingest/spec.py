"""From what a user writes to a source."""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stream_ann.errors import SourceError, SourceNotFoundError, UsageError
from stream_ann.ingest.images import IMAGE_EXTENSIONS, ImageSource, find_images
from stream_ann.ingest.network import NetworkSource
from stream_ann.ingest.options import SourceOptions
from stream_ann.ingest.pattern import PATTERN_FORM, PatternSource
from stream_ann.ingest.source import Source, shown_path
from stream_ann.ingest.url import SourceUrl, is_url, redact
from stream_ann.ingest.video import VideoSource
from stream_ann.ingest.webcam import FoundWebcam, WebcamSource, list_webcams

__all__ = ["DEMO_CLIP", "SourceEntry", "list_sources", "source_from", "specs_from"]

DEMO_CLIP = Path(__file__).resolve().parent.parent / "assets" / "demo.mp4"
"""The bundled clip. Beside it, ``demo.json`` says what can be seen in it when."""

MAX_LIST_CHARACTERS = 1 << 20
"""A list of sources that is longer is none."""

_FORMS = (
    ("demo", "the bundled clip: photographs filmed with a moving camera, with hard cuts"),
    ("0, 1, ...", "a webcam by its number"),
    ("rtsp://...", "a network camera; rtsps:// likewise, with user and password as rtsp://USER:PASSWORD@..."),
    ("http://...", "MJPEG from a network camera, an HLS playlist, or a video file; https:// likewise"),
    ("FILE", "a video file of any kind that FFmpeg decodes, or an image"),
    ("FOLDER", "the images in a folder, sorted by name"),
    ("'GLOB'", "the images that match, such as 'shots/*.jpg'"),
    ("@FILE", "the sources in a text file, one a line: passwords in it are not seen in the list of processes"),
    (PATTERN_FORM, "a synthetic moving picture of any size and rate, such as pattern:1280x720@30"),
)


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """One line of ``stream-ann sources``."""

    spec: str
    """What to write as the source, or its form in capital letters."""
    description: str
    """What that is."""


def list_sources() -> list[SourceEntry]:
    """The webcams that are here, then every form that a source may take."""
    here = [SourceEntry(webcam.spec, _described(webcam)) for webcam in list_webcams()]
    return here + [SourceEntry(*form) for form in _FORMS]


def _described(webcam: FoundWebcam) -> str:
    sizes = ", ".join(f"{width}x{height}" for width, height in webcam.sizes_px)
    return f"{webcam.description}: {sizes}" if sizes else webcam.description


def source_from(spec: str | os.PathLike[str], options: SourceOptions | None = None) -> Source:
    """The source that a text or a path names. Nothing is opened yet, but what is not there is said at once.

    Args:
        spec: ``"demo"``; a webcam (``"0"``, ``"/dev/video0"``); a URL (rtsp, rtsps, http, https);
            ``"pattern:WxH@FPS"``; a video or image file; a folder or glob of images. A path object always means a file
            or folder; write ``./demo`` for a file of that name.
        options: What else to know about it; the defaults of :class:`SourceOptions` where None.

    Raises:
        SourceNotFoundError: If there is nothing of that name.
        UnsupportedSourceError: If it is of a kind that cannot be read.
        UsageError: If it cannot be understood.
    """
    options = options or SourceOptions()
    if isinstance(spec, str):
        if not spec.strip():
            raise UsageError("the source is empty", "give a file, a folder of images, a webcam such as 0, or demo")
        if spec == "demo":
            return VideoSource(DEMO_CLIP, name="demo")
        if re.fullmatch(r"[0-9]{1,4}|/dev/video[0-9]{1,4}", spec):
            webcam = WebcamSource(
                spec,
                size_px=options.webcam_size_px,
                fps=options.webcam_fps,
                timeout_s=options.read_timeout_s,
                reconnect_attempts=options.reconnect_attempts,
            )
            webcam.check()
            return webcam
        if spec.startswith("pattern:"):
            return PatternSource(spec)
        if spec.lower().startswith("file://"):
            spec = _path_of(spec)
        elif is_url(spec):
            return NetworkSource(SourceUrl(spec), options)
        if "\0" in spec:
            raise UsageError(f"'{shown_path(spec)}' holds a null character, which no path does", "check the path")
        try:
            os.fsencode(spec)
        except UnicodeEncodeError as error:
            raise UsageError(
                f"'{shown_path(spec)}' holds half a character, which no path does", "check the path"
            ) from error
        spec = os.path.expanduser(spec)
    return _source_of_path(spec, options.image_fps)


def _path_of(url: str) -> str:
    try:
        return unquote(urlsplit(url).path)
    except ValueError as error:  # a bracket where the machine's name belongs
        raise UsageError(f"'{shown_path(url)}' names no file", "write file:///PATH, or the path alone") from error


def specs_from(words: Iterable[str], *, on_warning: Callable[[str], None] | None = None) -> list[str]:
    """What a user has written as sources, with the lines of each ``@FILE`` in its place.

    Everybody on a machine can see the arguments of its processes, and shells remember them; a file can be kept from
    others. Empty lines and those that begin with # are left out.

    Args:
        words: Sources, and names of files with sources behind an @.
        on_warning: Called with a line where others can read a file that holds a password.

    Raises:
        SourceNotFoundError: There is no such file.
        SourceError: It cannot be read.
        UsageError: It names no source.
    """
    specs: list[str] = []
    for word in words:
        if not word.startswith("@"):
            specs.append(word)
            continue
        file, shown = Path(word[1:]).expanduser(), shown_path(word[1:])
        try:
            with open(file, encoding="utf-8") as lines:
                status = os.stat(lines.fileno())
                text = lines.read(MAX_LIST_CHARACTERS + 1)
        except FileNotFoundError as error:
            raise SourceNotFoundError(f"there is no list '{shown}'", "check the path") from error
        except (OSError, ValueError) as error:
            raise SourceError(
                f"the list '{shown}' cannot be read", "give a text file of sources, one a line"
            ) from error
        found = [line.strip() for line in text.splitlines()]
        found = [line for line in found if line and not line.startswith("#")]
        if not found or len(text) > MAX_LIST_CHARACTERS:
            raise UsageError(f"the list '{shown}' names no source, or too many", "write one a line")
        secret = any(is_url(line) and redact(line) != line for line in found)
        others = stat.S_ISREG(status.st_mode) and status.st_mode & (stat.S_IRGRP | stat.S_IROTH)
        if secret and others and on_warning is not None:
            on_warning(f"others can read the passwords in '{shown}'; run: chmod 600 '{shown}'")
        specs += found
    return specs


def _source_of_path(spec: str | os.PathLike[str], image_fps: float) -> Source:
    path, shown = Path(spec), shown_path(spec)
    try:
        is_dir, exists = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:  # too long a name, a null character, a folder that may not be entered
        raise SourceError(f"'{shown}' cannot be read", "check the path") from error
    if is_dir:
        return ImageSource(find_images(path), name=shown, fps=image_fps)
    if exists:
        if path.suffix.lower() in IMAGE_EXTENSIONS:
            return ImageSource([path], name=shown, fps=image_fps)
        return VideoSource(path, name=shown)
    if isinstance(spec, str) and any(c in spec for c in "*?["):
        return ImageSource(find_images(spec), name=shown, fps=image_fps)
    raise SourceNotFoundError(f"there is no file or folder '{shown}'", _nearest_path(path, spec))


def _nearest_path(path: Path, spec: str | os.PathLike[str]) -> str:
    """What is there instead of a path that is not."""
    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder '{shown_path(folder)}' either"
    try:
        names = [entry.name for entry in islice(folder.iterdir(), 10_000)]
    except OSError:
        names = []
    if spec == os.fspath(path) == path.name:
        names.append("demo")
    by_lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(path.name.lower(), by_lower, n=1, cutoff=0.6)
    if not close:
        return "check the path"
    name = by_lower[close[0]]
    return f"did you mean '{shown_path(name if name == 'demo' else folder / name)}'?"
