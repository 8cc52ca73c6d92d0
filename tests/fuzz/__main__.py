"""Fuzz one target, or take one input in again: ``python -m tests.fuzz TARGET [--inputs N --seed S | --input FILE]``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.campaign import Pool, Tally, campaign, reproduce
from tests.fuzz.targets import TARGETS, target_named


def main() -> int:
    """Print what it comes to; 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=", ".join(TARGETS))
    parser.add_argument("--inputs", type=int, default=1000, help="how many, of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--input", type=Path, help="take in this file alone")
    parser.add_argument(
        "--faults", type=Path, default=Path("fuzz-faults"), help="folder for inputs that break something"
    )
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as corpus, Pool(Path(corpus)) as pool:
        for target in map(target_named, args.targets):
            if args.input is not None:
                tally = reproduce(target, args.input.read_bytes(), pool)
            else:
                tally = campaign(target, args.inputs, args.seed, pool)
            failed |= bool(tally.faults)
            _show(target.name, tally, args.faults)
    return int(failed)


def _show(name: str, tally: Tally, folder: Path) -> None:
    rate = tally.tried / tally.seconds if tally.seconds else 0.0
    outcomes = ", ".join(f"{outcome} {count}" for outcome, count in tally.outcomes.most_common())
    print(f"{name}: {tally.tried} inputs, {rate:.0f}/s: {outcomes}", flush=True)
    for fault in tally.faults.values():
        print(f"FAULT {fault.kind}\n  {fault.command(folder)}\n{fault.detail}\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
