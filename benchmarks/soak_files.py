"""What a soaked run has left on the disk: is every file valid, and is every frame accounted for?"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import av
from PIL import Image

__all__ = ["EVENTS", "Found", "Held", "check_files", "event_files", "held"]

EVENTS = "events.jsonl"


@dataclass(slots=True)
class Found:
    """What was found."""

    answered: int = 0
    """Events of frames."""
    event_files: int = 0
    accounted: int = 0
    """Frames up to the last one that was answered, by its number."""
    states: Counter[str] = field(default_factory=Counter)
    lost_connections: int = 0
    recordings: int = 0
    recorded: int = 0
    """Frames in the recordings that are left."""
    snapshots: int = 0
    clips: int = 0
    problems: list[str] = field(default_factory=list)
    replaced: int = 0
    """Frames that were replaced before those that were answered."""

    def report(self) -> dict[str, Any]:
        """For a report."""
        return {
            "events": self.answered,
            "event_files": self.event_files,
            "states": dict(sorted(self.states.items())),
            "recordings": self.recordings,
            "recorded_frames": self.recorded,
            "snapshots": self.snapshots,
            "clips": self.clips,
        }


@dataclass(frozen=True, slots=True)
class Held:
    """What recordings and snapshots take on the disk at a moment, or at most; events and the log do not count, as the
    soak keeps all of them."""

    mib: float = 0.0
    recordings: int = 0
    snapshots: int = 0
    """Snapshots, each with its picture and clip."""
    largest_recording_mib: float = 0.0
    largest_snapshot_mib: float = 0.0

    def or_more(self, other: Held) -> Held:
        """The larger of each."""
        return Held(*(max(a, b) for a, b in zip(astuple(self), astuple(other), strict=True)))

    def beyond(self, *, keep_chunks: int, most_snapshots: int) -> list[str]:
        """Where this is more than was asked for, in words.

        How many files there may be is what the settings say: besides those that are kept, one of each kind is being
        written, and another one may be just about to be deleted. How much that is follows from the largest that were
        seen.

        Args:
            keep_chunks: So many finished recordings are kept.
            most_snapshots: So many snapshots are.
        """
        chunks, snapshots = keep_chunks + 2, most_snapshots + 2
        allowed_mib = chunks * self.largest_recording_mib + snapshots * self.largest_snapshot_mib
        wrong = []
        if self.recordings > chunks:
            wrong.append(f"{self.recordings} recordings at a time, {keep_chunks} were to be kept")
        if self.snapshots > snapshots:
            wrong.append(f"{self.snapshots} snapshots at a time, {most_snapshots} were to be kept")
        if self.mib > allowed_mib:
            wrong.append(f"{self.mib:.1f} MiB on the disk at a time, {allowed_mib:.1f} are what was to be kept")
        return wrong


def held(folder: Path) -> Held:
    """What recordings and snapshots take now."""
    recordings: list[int] = []
    snapshots: Counter[str] = Counter()
    for path in folder.rglob("*.*"):
        if path.suffix in (".jsonl", ".txt"):
            continue
        try:
            size = path.stat().st_size
        except FileNotFoundError:  # deleted meanwhile
            continue
        if path.parent == folder:
            recordings.append(size)
        else:  # what is being written has a dot in front, and the time in every name has one in it
            snapshots[".".join(path.name.lstrip(".").split(".")[:2])] += size
    total = sum(recordings) + snapshots.total()
    largest = max(recordings, default=0), max(snapshots.values(), default=0)
    return Held(total / 2**20, len(recordings), len(snapshots), largest[0] / 2**20, largest[1] / 2**20)


def check_files(folder: Path, *, keep_chunks: int, most_snapshots: int) -> Found:
    """Open and decode everything.

    Args:
        folder: Where the run wrote.
        keep_chunks: So many finished recordings may be left, besides the last.
        most_snapshots: So many snapshots may be left.
    """
    found = Found()
    _check_events(folder, found)
    recordings = sorted(folder.glob("video*.mp4"))
    found.recordings = len(recordings)
    for path in recordings:
        found.recorded += _decoded(path, found)
    if not 1 <= len(recordings) <= keep_chunks + 1:
        found.problems.append(f"{len(recordings)} recordings are left, {keep_chunks} were to be kept")
    events = sorted((folder / "snapshots").glob("*.json"))
    found.snapshots = len(events)
    if not 1 <= len(events) <= most_snapshots:
        found.problems.append(f"{len(events)} snapshots are left, at most {most_snapshots} were asked for")
    wanted = set(events)
    for path in events:
        event = json.loads(path.read_text())
        for name in filter(None, (event["picture"], event["clip"])):
            wanted.add(path.with_name(name))
        with Image.open(path.with_name(event["picture"])) as picture:
            picture.load()
    clips = sorted({path for path in wanted if path.suffix in (".mp4", ".mkv")})
    for path in clips:
        # a clip may be shared by several snapshots, and goes with the one that it is named after
        if path.exists():
            found.clips += 1
            _decoded(path, found)
    left = {path for path in folder.rglob("*") if path.is_file()} - wanted - set(recordings)
    left -= set(event_files(folder))
    strays = sorted(path.name for path in left if path.name != "said.txt")
    if strays:
        found.problems.append(f"files that nobody asked for are left: {', '.join(strays[:5])}")
    return found


def event_files(folder: Path) -> list[Path]:
    """The files of events, in order: those that were full, and the last one."""
    return [*sorted(folder.glob("events-*.jsonl")), folder / EVENTS]


def _check_events(folder: Path, found: Found) -> None:
    found.event_files = len(event_files(folder))
    data = b"".join(path.read_bytes() for path in event_files(folder))
    if not data.endswith(b"\n"):
        found.problems.append("the last event is not whole")
    last, state = -1, ""
    for line in data.splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            found.problems.append(f"no event: {line[:60]!r}")
            continue
        if "state" in event:
            found.states[event["state"]] += 1
            found.lost_connections += state in ("live", "stalled") and event["state"] in ("reconnecting", "refused")
            state = event["state"]
            continue
        found.answered += 1
        found.replaced += event["replaced_before"]
        if event["frame"] - last - 1 < event["replaced_before"]:
            found.problems.append(f"frame {event['frame']} after {last} claims {event['replaced_before']} in between")
        last = event["frame"]
    found.accounted = last + 1


def _decoded(path: Path, found: Found) -> int:
    """How many frames a video has."""
    try:
        with av.open(str(path)) as container:
            count = sum(1 for _ in container.decode(video=0))
    except (OSError, IndexError, av.FFmpegError) as error:  # IndexError: it has no video
        found.problems.append(f"'{path.name}' cannot be decoded: {error}")
        return 0
    if not count:
        found.problems.append(f"'{path.name}' has no frame")
    return count
