"""Tables of labels as Parquet (extra 'parquet')."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from stream_ann.errors import ManifestError, MissingExtraError, OutputError
from stream_ann.labelled import LabelledFrame
from stream_ann.sinks.files import output_error
from stream_ann.sinks.tables import Row
from stream_ann.whole_files import whole_file

__all__ = ["ParquetTable", "join_parts", "need_parquet", "split_parts"]

MOST_ROWS = 8192
"""Rows of a part."""


def need_parquet() -> Any:
    """The package that writes Parquet.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("parquet", "pyarrow") from error
    return pyarrow


class ParquetTable:
    """A table in parts, one for each commit, each a whole Parquet file. :func:`join_parts` makes one file of them.

    Args:
        folder: Where the parts are.
        kind: What the rows are.
        state: What :meth:`commit` gave, to go on from there; parts that were written later are taken back.

    Raises:
        MissingExtraError: If the package that writes Parquet is missing.
        ManifestError: If the parts are not what was committed.
        OutputError: If they cannot be written.
    """

    def __init__(
        self, folder: Path, kind: Literal["frames", "segments"], *, state: Mapping[str, Any] | None = None
    ) -> None:
        self._folder = folder
        self._schema = _schema(need_parquet(), kind)
        self._rows: list[Row] = []
        self._parts = 0 if state is None else int(state["parts"])
        try:
            if state is None and folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            for part in folder.iterdir():
                if part.suffix != ".parquet" or int(part.stem) >= self._parts:
                    part.unlink()
        except (OSError, ValueError) as error:
            raise output_error(folder, error) from error
        if any(not _part(folder, i).exists() for i in range(self._parts)):
            raise ManifestError(f"parts of '{folder}' are gone", "restore them, or begin again with --overwrite")

    def add(self, rows: Sequence[Row]) -> None:
        """Keep rows for the next part.

        Raises:
            OutputError: If a part is full and cannot be written.
        """
        self._rows += rows
        if len(self._rows) >= MOST_ROWS:
            self._write()

    def commit(self) -> dict[str, Any]:
        """Write what was added as a part.

        Raises:
            OutputError: If it cannot be written.
        """
        self._write()
        return {"parts": self._parts}

    def _write(self) -> None:
        if self._rows:
            pyarrow = need_parquet()
            table = pyarrow.Table.from_pylist([_plain(row) for row in self._rows], schema=self._schema)
            path = _part(self._folder, self._parts)
            try:
                with whole_file(path) as file:
                    pyarrow.parquet.write_table(table, file)
            except OSError as error:
                raise output_error(path, error) from error
            self._parts += 1
            self._rows.clear()

    def close(self) -> None:
        """Drop what was not committed."""
        self._rows.clear()


def join_parts(folder: Path, path: Path, kind: Literal["frames", "segments"]) -> None:
    """Make one Parquet file of a table's parts, each a row group, in the place of ``path``; it is whole or not there.

    Raises:
        OutputError: If it cannot be written.
    """
    pyarrow = need_parquet()
    schema = _schema(pyarrow, kind)
    try:
        with whole_file(path) as file, pyarrow.parquet.ParquetWriter(file, schema) as writer:
            for part in _in_order(folder):
                writer.write_table(pyarrow.parquet.read_table(part, schema=schema))
    except OSError as error:
        raise output_error(path, error) from error
    except pyarrow.ArrowException as error:
        raise OutputError(f"cannot write '{path}': its parts cannot be read", "begin again with --overwrite") from error


def split_parts(path: Path, folder: Path, kind: Literal["frames", "segments"], *, parts: int) -> None:
    """Undo :func:`join_parts`, so that a table can be added to: all parts are in ``folder`` then, or none.

    Args:
        path: What was made of the parts.
        folder: Where they are to be; whatever is left there is removed.
        kind: What the rows are.
        parts: How many there were.

    Raises:
        ManifestError: If the file is gone, or not what was made of so many parts.
        OutputError: If they cannot be written.
    """
    pyarrow = need_parquet()
    fresh = folder.with_suffix(".fresh")
    remedy = "restore it, or begin again with --overwrite"
    try:
        for left in (fresh, folder):
            if left.exists():
                shutil.rmtree(left)
        fresh.mkdir(parents=True)
        with pyarrow.parquet.ParquetFile(path) as file:
            if file.num_row_groups != parts or not file.schema_arrow.equals(_schema(pyarrow, kind)):
                raise ManifestError(f"'{path}' is not what its manifest says", remedy)
            for number in range(parts):
                with whole_file(_part(fresh, number)) as part:
                    pyarrow.parquet.write_table(file.read_row_group(number), part)
        os.replace(fresh, folder)
    except pyarrow.ArrowException as error:
        raise ManifestError(f"'{path}' is not what its manifest says", remedy) from error
    except OSError as error:
        if not path.exists():
            raise ManifestError(f"'{path}' is gone", remedy) from error
        raise output_error(folder, error) from error


def _in_order(folder: Path) -> Iterable[Path]:
    return sorted(folder.glob("*.parquet"), key=lambda part: int(part.stem))


def _part(folder: Path, number: int) -> Path:
    return folder / f"{number:06}.parquet"


def _plain(row: Row) -> dict[str, Any]:
    event = row.as_event()
    event["source"] = event["source"].encode("utf-8", "backslashreplace").decode()
    if isinstance(row, LabelledFrame):
        event["top"] = [{"label": label, "probability": p} for label, p in event["top"]]
    return event


def _schema(pyarrow: Any, kind: Literal["frames", "segments"]) -> Any:
    text, double, single = pyarrow.string(), pyarrow.float64(), pyarrow.float32()
    whole, small = pyarrow.int64(), pyarrow.int32()
    if kind == "segments":
        fields = [("source", text), ("start_s", double), ("end_s", double), ("label", text), ("class_id", small)]
        fields += [("confidence", single), ("frames", whole), ("first_frame", whole), ("last_frame", whole)]
        return pyarrow.schema(fields)
    answer = pyarrow.struct([("exit", small), ("class_id", small), ("confidence", single)])
    top = pyarrow.list_(pyarrow.struct([("label", text), ("probability", single)]))
    fields = [("source", text), ("frame", whole), ("pts_s", double), ("label", text), ("class_id", small)]
    fields += [("confidence", single), ("top", top), ("exit", small), ("exits", pyarrow.list_(answer))]
    return pyarrow.schema(fields)
