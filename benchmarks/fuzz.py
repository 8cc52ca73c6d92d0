"""How much damaged input was tried, and what was lost: nothing, unless it says so.

    python -m benchmarks.fuzz --inputs 100000 --out benchmarks/results/fuzz.json

Writes how often each kind of input was taken or refused, and exits
with 1 where one did something else; that input is then in the folder of ``--faults``, with the command that shows it
again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from benchmarks import report
from tests.fuzz.campaign import Pool, campaign
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS


def main() -> int:
    """Run a campaign over all targets and write its report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="how many, all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="targets at a time")
    parser.add_argument(
        "--faults", type=Path, default=Path("fuzz-faults"), help="folder for inputs that break something"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/fuzz.json"))
    args = parser.parse_args()
    shares = sum(target.share for target in TARGETS.values())
    pools: SimpleQueue[Pool] = SimpleQueue()

    def run(target: Target) -> dict[str, Any]:
        pool = pools.get()
        try:
            tally = campaign(target, max(1, round(args.inputs * target.share / shares)), args.seed, pool)
        finally:
            pools.put(pool)
        for fault in tally.faults.values():
            print(f"FAULT {fault.kind}\n  {fault.command(args.faults)}\n{fault.detail}", file=sys.stderr, flush=True)
        refused = tally.tried - tally.taken - tally.outcomes["fault"]
        print(f"{target.name}: {tally.tried} inputs, {len(tally.faults)} faults, {tally.seconds:.0f} s", flush=True)
        return {
            "tried": f"damaged input: {target.tried}",
            "times": tally.tried,
            "lost": tally.outcomes["fault"],
            "note": f"{tally.taken:,} taken, {refused:,} refused with an error of the project's",
        }

    with tempfile.TemporaryDirectory() as corpus, ThreadPoolExecutor(args.workers) as executor:
        opened = [Pool(Path(corpus) / str(number)).__enter__() for number in range(args.workers)]
        for pool in opened:
            pools.put(pool)
        try:
            rows = list(executor.map(run, TARGETS.values()))
        finally:
            for pool in opened:
                pool.__exit__(None, None, None)
    options = {"inputs": args.inputs, "seed": args.seed, "workers": args.workers}
    report.write(args.out, "fuzz", {"rows": rows}, options)
    return int(any(row["lost"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
