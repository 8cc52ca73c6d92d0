"""What a soaked run has left on the disk: is every file valid, and is every frame accounted for?"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
from PIL import Image

__all__ = ["Found", "check_files", "disk_bytes"]


@dataclass(slots=True)
class Found:
    """What was found."""

    answered: int = 0
    """Events of frames."""
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
            "states": dict(sorted(self.states.items())),
            "recordings": self.recordings,
            "recorded_frames": self.recorded,
            "snapshots": self.snapshots,
            "clips": self.clips,
        }


def disk_bytes(folder: Path) -> int:
    """How much is on the disk, without the events and the log, which nobody has limited."""
    found = 0
    for path in folder.rglob("*.*"):
        if path.suffix in (".jsonl", ".txt"):
            continue
        try:
            found += path.stat().st_size
        except FileNotFoundError:  # deleted meanwhile
            continue
    return found


def check_files(folder: Path, *, keep_chunks: int, most_snapshots: int) -> Found:
    """Open and decode everything.

    Args:
        folder: Where the run wrote.
        keep_chunks: So many finished recordings may be left, besides the last.
        most_snapshots: So many snapshots may be left.
    """
    found = Found()
    _check_events(folder / "events.jsonl", found)
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
    strays = sorted(path.name for path in left if path.name not in ("events.jsonl", "said.txt"))
    if strays:
        found.problems.append(f"files that nobody asked for are left: {', '.join(strays[:5])}")
    return found


def _check_events(path: Path, found: Found) -> None:
    data = path.read_bytes()
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
