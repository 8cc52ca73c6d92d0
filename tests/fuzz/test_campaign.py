"""Damaged input of every kind, some of it always, and as much as is asked for in the long form."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuzz.broken import BROKEN, WAYS
from tests.fuzz.campaign import Tally, campaign, reproduce
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

SEED = int(os.environ.get("FUZZ_SEED", "0"))
INPUTS = int(os.environ.get("FUZZ_INPUTS", "1000000"))
FAULTS = Path(os.environ.get("FUZZ_FAULTS", "fuzz-faults"))
SHORT = 150
"""Inputs of the short form, all targets together."""


def share(target: Target, inputs: int) -> int:
    """How many of so many inputs a target gets, at least one."""
    return max(1, round(inputs * target.share / sum(other.share for other in TARGETS.values())))


def expect_no_fault(tally: Tally) -> None:
    told = [f"{f.kind}\nshow it again: {f.command(FAULTS)}\n{f.detail}" for f in tally.faults.values()]
    assert not told, f"seed {SEED} (FUZZ_SEED)\n" + "\n".join(told)


@pytest.mark.parametrize("name", TARGETS)
def test_a_little_of_everything(name, pool):
    target = TARGETS[name]
    tally = campaign(target, share(target, SHORT), SEED, pool)
    expect_no_fault(tally)
    assert tally.tried >= share(target, SHORT)


@pytest.mark.parametrize("way", WAYS, ids=bytes.decode)
def test_whatever_breaks_is_found_with_its_input(way, pool, tmp_path):
    tally = reproduce(BROKEN, way, pool)
    (fault,) = tally.faults.values()
    assert fault.kind.startswith(WAYS[way]), fault.detail
    assert fault.data == way
    path = Path(fault.command(tmp_path).rpartition(" ")[2])
    assert path.read_bytes() == way


def test_a_lost_worker_does_not_end_the_campaign(pool):
    tally = campaign(BROKEN, 6, SEED, pool)
    assert tally.tried >= 6
    assert tally.outcomes["fault"] > 1


def test_the_same_seed_gives_the_same_inputs(pool):
    first, second, third = (campaign(TARGETS["trace"], 30, seed, pool).outcomes for seed in (1, 1, 2))
    assert first == second != third


@pytest.mark.long
@pytest.mark.parametrize("name", TARGETS)
def test_much_of_everything(name, pool):
    target = TARGETS[name]
    tally = campaign(target, share(target, INPUTS), SEED, pool)
    print(f"{name}: {tally.tried} inputs in {tally.seconds:.0f} s, seed {SEED}: {dict(tally.outcomes)}")
    expect_no_fault(tally)
    assert tally.tried >= share(target, INPUTS)
