"""What every benchmark's JSON says besides its figures: machine, versions, command, seed, data."""

from __future__ import annotations

import json
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stream_ann.errors import StreamAnnError, UsageError
from stream_ann.machine import machine, versions
from stream_ann.whole_files import whole_file

__all__ = ["machine", "run_checked", "versions", "write"]


def run_checked(measure: Callable[[Namespace], None], args: Namespace, *, positive: Sequence[str] = ()) -> int:
    """Measure; an error of the project is one line instead of a traceback.

    Args:
        measure: What to do with the options.
        args: The options.
        positive: Names of those that must be at least 1 where they are given.

    Returns:
        The exit code.
    """
    try:
        for name in positive:
            value = getattr(args, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} is {value}", "it must be at least 1")
        measure(args)
    except StreamAnnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def write(path: Path, name: str, results: Any, args: Mapping[str, Any]) -> None:
    """Write a benchmark's JSON, whole or not at all.

    Args:
        path: The file.
        name: The benchmark's module name, e.g. ``"steps"``.
        results: Its figures, as plain JSON values.
        args: Its options, seed and data among them.
    """
    options = {key: str(value) if isinstance(value, Path) else value for key, value in args.items()}
    # the folder of a data set says nothing that another machine could use: its name does
    command = shlex.join(["python", "-m", f"benchmarks.{name}", *(_portable(a) for a in sys.argv[1:])])
    report = {
        "benchmark": name,
        "command": command,
        "options": {key: _portable(value) if isinstance(value, str) else value for key, value in options.items()},
        "machine": machine(),
        "versions": versions(),
        "results": results,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write((json.dumps(report, indent=2, allow_nan=False) + "\n").encode())


def _portable(value: str) -> str:
    """An absolute path without the folders of this machine."""
    return Path(value).name if os.path.isabs(value) else value
