"""How much damaged input was tried, and what was lost: nothing, unless it says so.

    python -m benchmarks.fuzz --inputs 100000 --out benchmarks/results/fuzz.json

Writes how often each kind of input was taken or refused, and exits with 1 where one did something else; that input is
then in the folder of ``--faults``, with the command that shows it again. Behind them come operations of the slot, by a
thread that puts frames, one that takes them and one that looks on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from benchmarks import report
from tests.fuzz.campaign import Pool, campaign
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS
from tests.fuzz.test_slot import many_operations


def main() -> int:
    """Run a campaign over all targets and write its report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="how many, all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="targets at a time")
    parser.add_argument("--slot-operations", type=int, default=10_000_000, help="puts and takes under real threads")
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
    if args.slot_operations:
        rows.append(slot(args.slot_operations))
    options = {
        "inputs": args.inputs,
        "seed": args.seed,
        "workers": args.workers,
        "slot_operations": args.slot_operations,
    }
    report.write(args.out, "fuzz", {"rows": rows}, options)
    return int(any(row["lost"] for row in rows))


def slot(operations: int) -> dict[str, Any]:
    """So many operations of the slot; the row that tells of them."""
    begun_s, lost = time.monotonic(), 0
    try:
        operations = many_operations(operations)
    except AssertionError as error:
        print(f"FAULT slot: {error}", file=sys.stderr, flush=True)
        lost = 1
    print(f"slot: {operations} operations, {lost} faults, {time.monotonic() - begun_s:.0f} s", flush=True)
    note = "every frame taken once or counted as replaced, in order; nobody waits for ever"
    return {"tried": "operations of the slot under real threads", "times": operations, "lost": lost, "note": note}


if __name__ == "__main__":
    sys.exit(main())
