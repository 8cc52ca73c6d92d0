"""Snapshots of the moments that matter: a picture, what was found out about it, and the seconds around it."""

from __future__ import annotations

import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import cv2

from stream_ann.errors import OutputError, UsageError, nearest
from stream_ann.frames import FrameResult
from stream_ann.packets import CodedPacket
from stream_ann.sinks.files import check_writable, output_error
from stream_ann.sinks.jsonl import strict_json
from stream_ann.sinks.names import slug, stamp
from stream_ann.sinks.packets import Clip, FrameCoder, PacketRing
from stream_ann.states import StateChange
from stream_ann.whole_files import whole_file

__all__ = ["SnapshotOptions", "SnapshotSink", "SnapshotWhen"]

SnapshotWhen = Literal["change", "confidence"]

LONGEST_CLIP_S = 120.0
"""Where one moment follows the other, their clips are one; after so long another one begins."""
LONGEST_BEFORE_S = 60.0
JPEG_QUALITY = 92
_OURS = re.compile(r"(\d{8}T\d{6}\.\d{3}Z-.*)\.json")
_CLIP = re.compile(r"\d{8}T\d{6}\.\d{3}Z-[^/\\]*\.(mp4|mkv)")
"""Not just any name: what a file in the folder says is never a reason to delete something else."""


@dataclass(frozen=True, slots=True)
class SnapshotOptions:
    """When to take snapshots, and how many of them.

    Raises:
        UsageError: If an option makes no sense.
    """

    folder: Path
    """Where they go; made where it does not exist."""
    when: SnapshotWhen = "change"
    """``change``: when the label changes. ``confidence``: when the answer comes to be sure enough, or another label
    is."""
    confidence: float | None = None
    """How sure the answer must be, 0 to 1; by default not at all for a change, else 0.5."""
    format: Literal["jpg", "png"] = "jpg"
    """What pictures are stored as."""
    before_s: float = 0.0
    """How much of the time before is kept in a clip, in seconds."""
    after_s: float = 0.0
    """How much of the time after is kept in a clip, in seconds."""
    gap_s: float = 1.0
    """The shortest time between two snapshots of one source, in seconds."""
    most: int = 1000
    """How many snapshots the folder may hold: the oldest ones are deleted, those of earlier runs included."""

    def __post_init__(self) -> None:
        if self.when not in get_args(SnapshotWhen):
            raise UsageError(f"no snapshots are taken at '{self.when}'", nearest(self.when, get_args(SnapshotWhen)))
        if self.format not in ("jpg", "png"):
            raise UsageError(f"no pictures are stored as '{self.format}'", "known: jpg, png")
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise UsageError(f"the confidence of snapshots must be 0 to 1, got {self.confidence:g}")
        if not 0 <= self.before_s <= LONGEST_BEFORE_S or not 0 <= self.after_s <= LONGEST_CLIP_S:
            raise UsageError(
                f"a clip has 0 to {LONGEST_BEFORE_S:g} s before the moment and 0 to {LONGEST_CLIP_S:g} s after it, "
                f"got {self.before_s:g} and {self.after_s:g}"
            )
        if not self.gap_s >= 0:
            raise UsageError(f"the gap between snapshots must be 0 s or more, got {self.gap_s:g}")
        if self.most < 1:
            raise UsageError(f"at least 1 snapshot must be kept, got {self.most}")

    @property
    def least(self) -> float:
        """How sure the answer must be, 0 to 1."""
        return self.confidence if self.confidence is not None else 0.5 if self.when == "confidence" else 0.0


@dataclass(slots=True)
class _Source:
    """What is remembered of one source."""

    ring: PacketRing
    coder: FrameCoder | None
    label: str | None = None
    sure: bool = False
    taken_s: float = float("-inf")
    clip: Clip | None = None
    clip_begun_s: float = 0.0
    clip_until_s: float = 0.0
    own_time: bool = False
    last: int = -1


class SnapshotSink:
    """Takes snapshots of the results that matter.

    Each is a picture as it came from the source, ``TIME-SOURCE-LABEL.jpg``, and a JSON file of that name with the
    event, the time of day, and the name of its clip. A clip holds the source's own packets, from the last key frame
    before the time asked for, copied without encoding; those of a source that has no packets (webcams, images) hold
    JPEG pictures of the frames that were answered. Where moments follow each other their clips are one.

    Args:
        options: When and how many.
        rings: The packets of each source that has some, by its name; filled by somebody else. Sources without get one.
        wall_s: Tells the time, in seconds since 1970.

    Attributes:
        taken: How many snapshots were taken.
        deleted: How many were deleted to make room.

    Raises:
        OutputError: If the folder cannot be written to.
    """

    def __init__(
        self,
        options: SnapshotOptions,
        rings: Mapping[str, PacketRing] | None = None,
        *,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._options = options
        self._rings = dict(rings or {})
        self._wall_s = wall_s
        self._sources: dict[str, _Source] = {}
        self.taken = self.deleted = 0
        folder = options.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(folder, error) from error
        check_writable(folder / "snapshot.json")
        known = sorted(match[1] for name in os.listdir(folder) if (match := _OURS.fullmatch(name)))
        self._kept: deque[str] = deque(known)
        self._clips = {name: clip for name in known if (clip := _clip_of(folder / f"{name}.json")) is not None}

    @property
    def name(self) -> str:
        """The folder's name as it was given."""
        return str(self._options.folder)

    def write(self, result: FrameResult) -> None:
        """Take a snapshot of a result, if it is one that matters, and go on with the clip before it.

        Raises:
            OutputError: If it cannot be written.
        """
        source = self._source(result.frame.source)
        if source.coder is not None:
            coded = source.coder.code(result.frame)
            if coded is not None:
                source.ring.add(coded)
        if self._matters(source, result):
            self._take(source, result)
        self._go_on(source)
        if source.clip is not None and _time_s(result, source.own_time) > source.clip_until_s:
            self._finish(source)

    def write_state(self, change: StateChange) -> None:
        """Finish the clip of a source that has stopped giving pictures.

        Raises:
            OutputError: If it cannot be finished.
        """
        if change.state in ("reconnecting", "refused", "ended") and change.source in self._sources:
            source = self._sources[change.source]
            self._go_on(source)
            self._finish(source)

    def close(self) -> None:
        """Finish all clips.

        Raises:
            OutputError: If one cannot be finished; the others are nevertheless.
        """
        failure: OutputError | None = None
        for source in self._sources.values():
            try:
                self._go_on(source)
                self._finish(source)
            except OutputError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _source(self, name: str) -> _Source:
        if name not in self._sources:
            ring = self._rings.get(name)
            wanted = self._options.before_s > 0 or self._options.after_s > 0
            coder = FrameCoder() if ring is None and wanted else None
            self._sources[name] = _Source(ring or PacketRing(self._options.before_s), coder)
        return self._sources[name]

    def _matters(self, source: _Source, result: FrameResult) -> bool:
        if not result.confidence >= self._options.least:  # NaN is never sure
            source.sure = False
            return False
        another = result.label != source.label or (self._options.when == "confidence" and not source.sure)
        if another and result.frame.arrival_s - source.taken_s < self._options.gap_s:
            return False  # and still another one when the gap is over, if it lasts
        source.label, source.sure = result.label, True
        if another:
            source.taken_s = result.frame.arrival_s
        return another

    def _take(self, source: _Source, result: FrameResult) -> None:
        wall_s = self._wall_s()
        name = self._name_for(result, wall_s)
        options = self._options
        clip = self._clip(source, result, name) if options.before_s > 0 or options.after_s > 0 else None
        picture = f"{name}.{options.format}"
        event = result.as_event() | {"time": stamp(wall_s), "picture": picture, "clip": clip}
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if options.format == "jpg" else []
        bgr = cv2.cvtColor(result.frame.image, cv2.COLOR_RGB2BGR)
        done, data = cv2.imencode(f".{options.format}", bgr, quality)
        if not done:
            raise OutputError(f"cannot write '{options.folder / picture}': it cannot be encoded")
        self._write(picture, data.tobytes())
        self._write(f"{name}.json", (strict_json(event) + "\n").encode("utf-8", "backslashreplace"))
        self.taken += 1
        self._kept.append(name)
        if clip is not None:
            self._clips[name] = clip
        while len(self._kept) > options.most:
            self._delete(self._kept.popleft())

    def _name_for(self, result: FrameResult, wall_s: float) -> str:
        """A name that no other snapshot has."""
        source, label = slug(result.frame.source, longest=30, end=True), slug(result.label, longest=30)
        name = plain = f"{stamp(wall_s)}-{source}-{label}"
        number = 1
        while name in self._kept:
            number += 1
            name = f"{plain}-{number}"
        return name

    def _write(self, name: str, data: bytes) -> None:
        path = self._options.folder / name
        try:
            with whole_file(path) as file:
                file.write(data)
        except OSError as error:
            raise output_error(path, error) from error

    def _delete(self, name: str) -> None:
        clip = self._clips.pop(name, None)
        shared = clip in self._clips.values()  # moments near each other have one clip, which the last of them keeps
        files = [f"{name}.jpg", f"{name}.png", *([] if clip is None or shared else [clip])]
        for file in (*files, f"{name}.json"):  # the JSON last: it says what belongs together
            try:
                (self._options.folder / file).unlink(missing_ok=True)
            except OSError as error:
                raise output_error(self._options.folder / name, error) from error
        self.deleted += 1

    def _clip(self, source: _Source, result: FrameResult, name: str) -> str | None:
        """Begin a clip for a moment, or go on longer with the one that is being written; its file name."""
        frame, options = result.frame, self._options
        own_time = frame.pts_s is not None
        at_s = _time_s(result, own_time)
        if source.clip is not None:
            until_s = at_s + options.after_s
            if source.own_time is own_time and 0 <= until_s - source.clip_begun_s <= LONGEST_CLIP_S:
                source.clip_until_s = until_s
                return source.clip.path.name
            self._finish(source)
        packets = source.ring.since(at_s - options.before_s, own_time=own_time)
        begins_s = None if not packets else packets[0][1].pts_s if own_time else packets[0][1].arrival_s
        if begins_s is None or begins_s > at_s + options.after_s:
            return None  # no key frame has come yet since the connection was made
        source.clip = Clip(options.folder / name, packets[0][1])
        source.own_time, source.clip_begun_s, source.clip_until_s = own_time, at_s, at_s + options.after_s
        file_name = source.clip.path.name
        self._copy(source, packets)  # the ring forgets them as soon as the camera is connected anew
        return file_name

    def _go_on(self, source: _Source) -> None:
        """Copy what has come since the last call to the clip."""
        if source.clip is not None:
            self._copy(source, source.ring.after(source.last))

    def _copy(self, source: _Source, packets: list[tuple[int, CodedPacket]]) -> None:
        """Copy packets to the clip, up to its end.

        They run ahead of results, so that a later moment may still put the end off.
        """
        clip = source.clip
        if clip is None:
            return
        for number, packet in packets:
            at_s = packet.pts_s if source.own_time else packet.arrival_s
            if packet.template is not clip.template:
                self._finish(source)
                return
            if at_s is not None and at_s > source.clip_until_s:
                return
            clip.write(packet)
            source.last = number

    def _finish(self, source: _Source) -> None:
        clip, source.clip = source.clip, None
        if clip is not None:
            clip.close()


def _clip_of(event: Path) -> str | None:
    """The clip that a snapshot's JSON names."""
    try:
        clip = json.loads(event.read_bytes())["clip"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return clip if isinstance(clip, str) and _CLIP.fullmatch(clip) else None


def _time_s(result: FrameResult, own_time: bool) -> float:
    """When a result's frame was seen, in seconds, by its source's own time or by arrival."""
    frame = result.frame
    return frame.pts_s if own_time and frame.pts_s is not None else frame.arrival_s
