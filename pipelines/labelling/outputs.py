"""Where labels go: one table or one for each video, each whole when it is in its place, and all of it resumable."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pipelines.labelling.annotating import check_targets
from pipelines.labelling.inputs import Video, output_names
from stream_ann.errors import OutputError, UsageError, nearest
from stream_ann.labelled import LabelledFrame, Runs
from stream_ann.sinks.files import check_writable, output_error
from stream_ann.sinks.parquet import ParquetTable, join_parts, need_parquet, split_parts
from stream_ann.sinks.tables import CsvText, JsonlText, Row, Table, TableText, TextTable, VttText
from stream_ann.whole_files import sync_folder

__all__ = ["Format", "Layout", "Outputs", "layout_of"]

Format = Literal["jsonl", "csv", "parquet", "vtt"]
_SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".vtt": "vtt",
}


@dataclass(frozen=True, slots=True)
class Layout:
    """What is written where."""

    out: Path | None
    """The file, or the folder for a file each; None for standard output."""
    each: bool
    """Whether each video has a file of its own."""
    format: Format
    segments: bool
    """Whether rows are runs of one label instead of frames."""
    top_k: int
    overlays: Path | None = None
    """Folder for annotated videos."""

    @property
    def manifest(self) -> Path | None:
        """Where the manifest is: beside the file, or in the folder."""
        return self._beside(".manifest")

    @property
    def work(self) -> Path | None:
        """Folder for what is not whole yet."""
        return self._beside(".unfinished")

    @property
    def kind(self) -> Literal["frames", "segments"]:
        """What the rows are."""
        return "segments" if self.segments or self.format == "vtt" else "frames"

    @property
    def extension(self) -> str:
        """Extension of its files."""
        return self.out.suffix if self.out is not None and not self.each else f".{self.format}"

    def tables(self, videos: Sequence[Video]) -> list[Path]:
        """Where the labels go; nowhere where they go to standard output."""
        if self.out is None:
            return []
        return [self.out / name for name in output_names(videos, self.extension)] if self.each else [self.out]

    def files(self, videos: Sequence[Video]) -> list[Path]:
        """What a job reads and writes."""
        paths = [*(video.path for video in videos), *self.tables(videos)]
        paths += [] if self.manifest is None else [self.manifest]
        paths += [] if self.overlays is None else [self.overlays / name for name in output_names(videos, ".mp4")]
        return paths

    def _beside(self, extension: str) -> Path | None:
        if self.out is None:
            return None
        return self.out / f"labels{extension}" if self.each else self.out.with_name(self.out.name + extension)

    def text(self) -> TableText:
        """The form of its text."""
        if self.format == "csv":
            return CsvText(self.kind, self.top_k)
        return VttText() if self.format == "vtt" else JsonlText()


def layout_of(
    out: str | os.PathLike[str],
    videos: Sequence[Video],
    *,
    format: str = "auto",
    segments: bool = False,
    top_k: int = 5,
    overlays: str | os.PathLike[str] | None = None,
) -> Layout:
    """What a user asked to be written.

    Args:
        out: ``-``, a file, or a folder: what has the extension of a format is a file for all videos, what has none or
            ends with a slash is a folder.
        videos: The videos.
        format: ``"auto"`` (by the file's extension; JSON Lines in a folder), or the name of one.
        segments: Whether rows are runs of one label instead of frames.
        top_k: How many classes of each frame.
        overlays: Folder for annotated videos.

    Raises:
        UsageError: If there is no such format, or it cannot be had so.
        MissingExtraError: If the package for it is not installed.
        OutputError: If nothing can be written there.
    """
    text = os.fspath(out)
    if not text:
        raise UsageError("the output has no name", "name a file, a folder, or - for standard output")
    path = Path(text)
    named = _SUFFIXES.get(path.suffix.lower())
    a_folder = path.is_dir() or text.endswith(os.sep)
    each = text != "-" and (a_folder or (not path.suffix and not path.exists()))
    if path.suffix and named is None and text != "-" and not a_folder:
        raise UsageError(
            f"'{text}' ends like no table that can be written",
            f"end a file with {', '.join(_SUFFIXES)}, and a folder for a file each with '{os.sep}'",
        )
    if format not in ("auto", *get_args(Format)):
        raise UsageError(f"no format is called '{format}'", nearest(format, get_args(Format)))
    chosen: Format = next((f for f in get_args(Format) if f == format), named or "jsonl")
    if text == "-":
        if chosen == "parquet":
            raise UsageError("Parquet cannot go to standard output", "name a file")
        if overlays is not None:
            raise UsageError("annotated videos need a file for the labels, too", "name one with --out")
    if chosen == "vtt" and not each and len(videos) > 1:
        raise UsageError(
            f"one file of subtitles is for one video, not for {len(videos)}", "give a folder, for a file each"
        )
    if chosen == "parquet":
        need_parquet()
    pictures = None if overlays is None else Path(overlays)
    layout = Layout(None if text == "-" else path, each, chosen, segments, top_k, pictures)
    if pictures is not None:
        check_targets(videos, [pictures / name for name in output_names(videos, ".mp4")])
    try:
        if each:
            path.mkdir(parents=True, exist_ok=True)
        elif layout.out is not None:
            check_writable(path)
        if layout.overlays is not None:
            layout.overlays.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(path, error) from error
    return layout


class Outputs:
    """Writes the frames of all videos, in order. What is committed can be gone on from; the rest is taken back then.

    Args:
        layout: What is written where.
        videos: All videos.
        state: What :meth:`commit` gave, to go on from there.
        finished: Whether :meth:`finish` came after that commit: what was only kept to go on from may be gone.
        more: Whether there is anything left to write.
        annotate: Makes the annotated video of a video, given its number, the file of its frames and its target;
            False where it was stopped.

    Raises:
        OutputError: If they cannot be written, or are not what was committed.
    """

    def __init__(
        self,
        layout: Layout,
        videos: Sequence[Video],
        *,
        state: Mapping[str, Any] | None = None,
        finished: bool = False,
        more: bool = True,
        annotate: Callable[[int, Path, Path], bool] | None = None,
    ) -> None:
        self._layout = layout
        self._videos = videos
        self._annotate = annotate
        self._names = output_names(videos, layout.extension)
        self._pictures = output_names(videos, ".mp4")
        self._table: Table | None = None
        self._frames: TextTable | None = None
        self._runs: Runs | None = None
        self._video: int | None = None
        self._ended: list[int] = []
        self._finished, self._more = finished, more
        if layout.work is not None:
            try:
                layout.work.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise output_error(layout.work, error) from error
        try:
            if state is None:
                if not layout.each:
                    self._table = self._open_shared(None)
            else:
                self._go_on(state)
        except BaseException:
            self.close()
            raise

    def add(self, video: int, frames: Sequence[LabelledFrame]) -> None:
        """Write frames of a video, which are the next ones of it.

        Raises:
            OutputError: If they cannot be written.
        """
        self._begin(video)
        assert self._table is not None
        if self._frames is not None:
            self._frames.add(frames)
        rows: Sequence[Row] = frames
        if self._runs is not None:
            rows = [segment for frame in frames for segment in self._runs.add(frame)]
        self._table.add(rows)

    def end(self, video: int) -> None:
        """A video has no more frames.

        Raises:
            OutputError: If it cannot be written.
        """
        if self._video != video:
            return  # it gave none
        if self._runs is not None and self._table is not None:
            self._table.add(list(self._runs.end()))
        self._ended.append(video)
        self._seal()
        self._video = None

    def commit(self) -> dict[str, Any]:
        """Make all of it durable; gives what must be known to go on from here, as plain JSON values.

        Raises:
            OutputError: If that fails.
        """
        return {
            "table": None if self._table is None else self._table.commit(),
            "frames": None if self._frames is None else self._frames.commit(),
            "runs": None if self._runs is None else self._runs.state(),
            "video": self._video,
            "ended": list(self._ended),
        }

    def publish(self) -> None:
        """Put what the last commit has finished into its place. May be done again after any interruption, and ends
        early when the job is stopped.

        Raises:
            OutputError: If that fails; another attempt may succeed.
        """
        while self._ended:
            video = self._ended[0]
            if self._layout.each:
                self._put_in_place(video)
            if self._layout.overlays is not None and self._annotate is not None:
                frames = self._frames_path(video)
                if frames.exists():
                    target = self._layout.overlays / self._pictures[video]
                    if not self._annotate(video, frames, target):
                        return
                    frames.unlink()
            self._ended.pop(0)

    def finish(self) -> None:
        """All videos are done and published: put in place what is whole only now. May be done again.

        Raises:
            OutputError: If the last file cannot be written.
        """
        layout = self._layout
        if layout.format == "parquet" and not layout.each and layout.out is not None and layout.work is not None:
            joined = layout.work / "joined"
            join_parts(layout.work / "all", joined, layout.kind)
            _move(joined, layout.out)

    def tidy(self) -> None:
        """The job is over: remove what was only kept to go on from."""
        self.close()
        if self._layout.work is not None:
            shutil.rmtree(self._layout.work, ignore_errors=True)

    def close(self) -> None:
        """Let go of all files."""
        for table in (self._table, self._frames):
            if table is not None:
                table.close()
        self._table = self._frames = None

    def _begin(self, video: int) -> None:
        if self._video == video:
            return
        self._video = video
        if self._layout.each:
            self._table = self._open_own(video, None)
        if self._layout.kind == "segments":
            self._runs = Runs()
        if self._layout.overlays is not None:
            self._frames = TextTable(self._frames_path(video), JsonlText())

    def _seal(self) -> None:
        """Close the files that were of the present video alone."""
        if self._layout.each and self._table is not None:
            self._table.commit()
            self._table.close()
            self._table = None
        if self._frames is not None:
            self._frames.commit()
            self._frames.close()
            self._frames = None
        self._runs = None

    def _go_on(self, state: Mapping[str, Any]) -> None:
        self._video = state["video"]
        self._ended = list(state["ended"])
        if not self._layout.each:
            self._table = self._open_shared(state["table"])
        elif self._video is not None:
            self._table = self._open_own(self._video, state["table"])
        if state["runs"] is not None:
            self._runs = Runs(state["runs"])
        if state["frames"] is not None and self._video is not None:
            self._frames = TextTable(self._frames_path(self._video), JsonlText(), state=state["frames"])

    def _open_shared(self, state: Mapping[str, Any] | None) -> Table | None:
        layout = self._layout
        if layout.out is None:
            return _Stdout(layout.text())
        if layout.format == "parquet":
            assert layout.work is not None
            parts = layout.work / "all"
            if state is not None and self._finished:
                if not self._more and layout.out.exists():
                    return None
                split_parts(layout.out, parts, layout.kind, parts=state["parts"])
            return ParquetTable(parts, layout.kind, state=state)
        return TextTable(layout.out, layout.text(), state=state)

    def _open_own(self, video: int, state: Mapping[str, Any] | None) -> Table:
        if self._layout.format == "parquet":
            return ParquetTable(self._own_path(video), self._layout.kind, state=state)
        return TextTable(self._own_path(video), self._layout.text(), state=state)

    def _own_path(self, video: int) -> Path:
        assert self._layout.work is not None
        return self._layout.work / f"{video:06}"

    def _frames_path(self, video: int) -> Path:
        return self._own_path(video).with_suffix(".frames")

    def _put_in_place(self, video: int) -> None:
        assert self._layout.out is not None
        source, target = self._own_path(video), self._layout.out / self._names[video]
        if not source.exists():
            return  # done before an interruption
        if self._layout.format == "parquet":
            joined = source.with_suffix(".joined")
            join_parts(source, joined, self._layout.kind)
            _move(joined, target)
            self._drop(source)
        else:
            _move(source, target)

    def _drop(self, folder: Path) -> None:
        """Remove a folder of parts. Another name first: half of it must never be taken for all."""
        gone = folder.with_suffix(".gone")
        with suppress(OSError):
            os.replace(folder, gone)
            shutil.rmtree(gone)


def _move(source: Path, target: Path) -> None:
    """Put a finished file into its place."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
        sync_folder(target.parent)
    except OSError as error:
        raise output_error(target, error) from error


class _Stdout:
    """A table on standard output, which cannot be taken back."""

    def __init__(self, text: TableText) -> None:
        self._text = text
        self._write(text.head())

    def add(self, rows: Sequence[Row]) -> None:
        self._write(self._text.rows(rows))

    def commit(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        with suppress(OSError, ValueError):
            sys.stdout.flush()

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(text.encode("utf-8", "backslashreplace").decode())
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise OutputError("standard output was closed by its reader", "keep the reader running") from error
        except (OSError, ValueError) as error:
            raise output_error("standard output", error) from error
