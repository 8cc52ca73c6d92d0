"""What was tried to break runs, how often, and what was lost.

Runs all of tests/faults/ and counts: kills at random moments, signals in every state, full disks, limits,
outputs that block, and more. Exit code 1 if anything was lost; the report says what.

python -m benchmarks.faults --out benchmarks/results/faults.json    # 10 minutes on 2 cores
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.report import write

ROOT = Path(__file__).resolve().parent.parent
APART = {
    "losses": "",
    "late": "took longer, while other programs had the processor",
    "native": "times a library's native code ended it, and it went on from what was committed",
}
"""What rows tell one by one, and what the note says of how many there are."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the figures; by default they are only printed")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random moment")
    parser.add_argument("--moments", type=int, default=50, help="kills of each kind; twice as many of label")
    parser.add_argument("--processes", type=int, default=2, help="tests that run at a time")
    parser.add_argument("--only", default="", help="only tests that match this expression of pytest -k")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = Path(folder) / "tally.jsonl"
        tally.touch()
        command = [sys.executable, "-m", "pytest", "-m", "long or not long", "--timeout=600", "-n", str(args.processes)]
        command += ["-p", "no:cacheprovider", *(["-k", args.only] if args.only else []), "tests/faults"]
        options = {"FAULTS_SEED": str(args.seed), "FAULTS_MOMENTS": str(args.moments), "FAULTS_TALLY": str(tally)}
        environment = {**os.environ, **options, "OMP_NUM_THREADS": "1"}
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        rows = together([json.loads(line) for line in tally.read_text().splitlines()])
    for row in rows:
        print(f"{row['tried']}: {row['times']} times, lost {row['lost']}; {row['note']}")
        for kind in APART:
            for how in row.get(kind, ()):
                print(f"  {kind}: {how}")
    if args.out is not None:
        write(args.out, "faults", {"rows": rows, "tests_exit_code": code}, vars(args))
    sys.exit(1 if code or any(row["lost"] for row in rows) else 0)


def together(counted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for what differs in the part in brackets or after a colon alone, the counts added up."""
    rows: dict[str, dict[str, Any]] = {}
    for row in counted:
        name = row["tried"].split(":")[0].split(" (")[0]
        into = rows.setdefault(name, {"tried": name, "times": 0, "lost": 0, "note": row["note"]})
        into["times"] += row["times"]
        into["lost"] += row["lost"]
        for kind in APART:
            if row.get(kind):
                into[kind] = into.get(kind, []) + [f"{row['tried']}: {how}" for how in row[kind]]
    for row in rows.values():
        row["note"] += "".join(f"; {len(row[kind])} {told}" for kind, told in APART.items() if kind in row and told)
    return sorted(rows.values(), key=lambda row: str(row["tried"]))


if __name__ == "__main__":
    main()
