"""What has become of each video of a job, in memory and in the manifest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.labelling.inputs import Video
from pipelines.labelling.outputs import Layout
from pipelines.labelling.settings import Settings
from stream_ann.errors import ManifestError, OutputError
from stream_ann.manifest import Manifest
from stream_ann.sinks.files import output_error

__all__ = ["Ledger", "VideoReport"]

FORMAT = 2


@dataclass(frozen=True, slots=True)
class VideoReport:
    """What has become of one video."""

    name: str
    """The video."""
    frames: int = 0
    """Frames that were labelled."""
    damaged: int = 0
    """Frames that could not be decoded."""
    error: str | None = None
    """Why the rest of it could not be read; None if all of it was."""
    done: bool = False
    """Whether it is finished, for better or worse."""


class Ledger:
    """Keeps account of a job: videos, frames, exits, and where to go on. With a manifest, durably.

    Args:
        videos: The videos; where the manifest knows more or in another order, its own come first.
        settings: What decides the labels.
        layout: What is written where; None for nothing.
        resume: Go on from the manifest if there is one.
        overwrite: Begin anew, whatever is there.

    Raises:
        ManifestError: If the manifest was edited, is in use, or is that of another job.
        OutputError: If there is an output already, or the manifest cannot be written.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        settings: Settings,
        layout: Layout | None,
        *,
        exits: int,
        resume: bool,
        overwrite: bool,
    ) -> None:
        self.videos = tuple(videos)
        self.reports = [VideoReport(video.name) for video in videos]
        self.left_at = [0] * exits
        """How many frames left at each exit, in the whole job."""
        self.next = (0, 0)
        """Video and span to go on with."""
        self.units = 0
        """How many units are committed."""
        self.outputs: Mapping[str, Any] | None = None
        """State of the outputs at the last commit."""
        self.complete = False
        """Whether the job was over already."""
        self.finished = False
        """Whether all that was committed had been finished, whatever has been added since."""
        self._changed: set[int] = set()
        self._manifest: Manifest | None = None
        if layout is None or layout.manifest is None:
            return
        job = {"format": FORMAT, "settings": settings.as_json(), "output": _output(layout)}
        try:
            if overwrite or not layout.manifest.exists():
                if not overwrite:
                    _expect_nothing(layout, self.videos, resume)
                found = [_stamp(video) for video in self.videos]
                self._manifest = Manifest.create(layout.manifest, {**job, "videos": found})
            elif not resume:
                raise OutputError(
                    f"'{layout.out}' was begun by an earlier run",
                    "go on with --resume, or begin again with --overwrite",
                )
            else:
                self._manifest = Manifest.open(layout.manifest)
                try:
                    self._go_on(job)
                except BaseException:
                    self._manifest.close()
                    raise
        except OSError as error:
            raise output_error(layout.manifest, error) from error

    def close(self) -> None:
        """Let go of the manifest."""
        if self._manifest is not None:
            self._manifest.close()

    def labelled(self, video: int, exits: Sequence[int]) -> None:
        """Frames of a video have their labels; ``exits`` says which was the deepest that each reached."""
        report = self.reports[video]
        self.reports[video] = replace(report, frames=report.frames + len(exits))
        self._changed.add(video)
        for deepest in exits:
            self.left_at[deepest] += 1

    def ended(self, video: int, *, damaged: int, error: str | None, last: bool) -> None:
        """A piece of a video is done."""
        report = self.reports[video]
        self.reports[video] = replace(
            report,
            damaged=report.damaged + damaged,
            error=report.error if error is None else error,
            done=report.done or last,
        )
        self._changed.add(video)

    def commit(self, unit: int, following: tuple[int, int], outputs: Mapping[str, Any]) -> None:
        """A unit is done, and its rows are durable.

        Raises:
            OutputError: If the manifest cannot be written.
        """
        self.units, self.next = unit + 1, following
        changed = sorted(self._changed)
        self._write(
            {
                "unit": unit,
                "next": list(following),
                "outputs": outputs,
                "left at": self.left_at,
                "videos": {str(i): _report(self.reports[i]) for i in changed},
            }
        )
        self._changed.clear()

    def finish(self) -> None:
        """The job is over.

        Raises:
            OutputError: If the manifest cannot be written.
        """
        if not self.complete:
            self._write({"complete": True})
        self.complete = True

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._manifest is not None:
            try:
                self._manifest.commit(record)
            except OSError as error:
                raise output_error(self._manifest.path, error) from error

    def _go_on(self, job: Mapping[str, Any]) -> None:
        assert self._manifest is not None
        first, *later = self._manifest.records
        try:
            _compare(first, job)
            stamps = list(first["videos"])
            for record in later:
                stamps += record.get("added", ())
                self.complete = bool(record.get("complete", False))
                self.finished |= self.complete
                if "unit" in record:
                    self.finished = False
                    self.units = record["unit"] + 1
                    self.next = (record["next"][0], record["next"][1])
                    self.outputs = record["outputs"]
                    self.left_at = list(record["left at"])
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ManifestError(
                f"'{self._manifest.path}' is no manifest of this version", "begin again with --overwrite"
            ) from error
        self._join(stamps)
        for record in later:
            for number, values in record.get("videos", {}).items():
                i = int(number)
                self.reports[i] = VideoReport(self.videos[i].name, *values)

    def _join(self, stamps: Sequence[Mapping[str, Any]]) -> None:
        """The manifest's videos, then those that are new."""
        known = {stamp["path"] for stamp in stamps}
        new = [video for video in self.videos if os.path.realpath(video.path) not in known]
        old = [Video(Path(stamp["path"]), stamp["name"], Path(stamp["relative"])) for stamp in stamps]
        for video in old:  # a folder and its manifest may come from somebody else
            if video.relative.is_absolute() or ".." in video.relative.parts:
                raise ManifestError(
                    f"the manifest names an output outside its folder: '{video.relative}'",
                    "begin again with --overwrite",
                )
        given = {os.path.realpath(video.path): video.path for video in self.videos}
        old = [replace(video, path=given.get(str(video.path), video.path)) for video in old]
        begun = self.next[0]
        if self.next[1] > 0 and begun < len(old):
            now, then = _stamp(old[begun]), stamps[begun]
            if (now["bytes"], now["modified_ns"]) != (then["bytes"], then["modified_ns"]):
                raise ManifestError(
                    f"'{old[begun].name}' has changed since half of it was labelled", "begin again with --overwrite"
                )
        self.videos = (*old, *new)
        self.reports = [VideoReport(video.name) for video in self.videos]
        if new:
            self.complete = False
            self._write({"added": [_stamp(video) for video in new]})


def _report(report: VideoReport) -> list[Any]:
    return [report.frames, report.damaged, report.error, report.done]


def _stamp(video: Video) -> dict[str, Any]:
    """What tells a video from another, or from itself after a change."""
    try:
        status = os.stat(video.path)
        size, modified_ns = status.st_size, status.st_mtime_ns
    except OSError:
        size = modified_ns = -1
    path, relative = os.path.realpath(video.path), os.fspath(video.relative)
    return {"path": path, "name": video.name, "relative": relative, "bytes": size, "modified_ns": modified_ns}


def _output(layout: Layout) -> dict[str, Any]:
    return {
        "format": layout.format,
        "rows": layout.kind,
        "one for each video": layout.each,
        "annotated videos": layout.overlays is not None,
    }


def _expect_nothing(layout: Layout, videos: Sequence[Video], resume: bool) -> None:
    """Nothing that exists is mixed with a new job."""
    there = next((path for path in layout.tables(videos) if path.is_file() and path.stat().st_size > 0), None)
    if there is not None and resume:
        raise ManifestError(
            f"'{there}' cannot be gone on with: there is no manifest '{layout.manifest}'",
            "restore that, choose another output, or begin again with --overwrite",
        )
    if there is not None:
        raise OutputError(f"'{there}' exists already", "choose another output, or replace it with --overwrite")


def _compare(first: Mapping[str, Any], job: Mapping[str, Any]) -> None:
    """Refuse a manifest of another job, and say in what it differs."""
    if first["format"] != job["format"]:
        raise ManifestError(
            f"the manifest has format {first['format']}, this version writes {job['format']}",
            "use the version that began it, or begin again with --overwrite",
        )
    if first["settings"]["weights"] != job["settings"]["weights"]:
        raise ManifestError(
            "the manifest belongs to other weights: SHA-256 "
            f"{first['settings']['weights'][:12]}…, not {job['settings']['weights'][:12]}…",
            "give those weights, or begin again with --overwrite",
        )
    for part in ("settings", "output"):
        for key in (*job[part], *(first[part].keys() - job[part].keys())):
            then, now = first[part].get(key), job[part].get(key)
            if then != now:
                told = f"the manifest belongs to a job with another '{key}'"
                raise ManifestError(
                    told if _is_digest(then) or _is_digest(now) else f"{told}: {then}, not {now}",
                    "give the same options, or begin again with --overwrite",
                )


def _is_digest(value: object) -> bool:
    """Whether a value tells a reader nothing."""
    return isinstance(value, str) and len(value) == 64
