"""The slot under real threads: nothing is lost, nothing comes twice, nobody waits for ever."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from stream_ann.clock import MonotonicClock
from stream_ann.errors import SourceError
from stream_ann.ingest import Inbox, Slot
from stream_ann.ingest import slot as slot_module

OPERATIONS = max(1_000_000, 10 * int(os.environ.get("FUZZ_INPUTS", "1000000")))
"""Of the long form: ten million where a million inputs are fuzzed."""
SEED = int(os.environ.get("FUZZ_SEED", "0"))
PATIENCE_S = 20.0
"""How long a run may take, and a millisecond for each frame, before it counts as a deadlock."""
BLACK = np.zeros((1, 1, 3), dtype=np.uint8)


@contextmanager
def quick_switches() -> Iterator[None]:
    """Let threads interrupt each other a thousand times as often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@pytest.fixture(autouse=True)
def _quick_switches() -> Iterator[None]:
    with quick_switches():
        yield


@contextmanager
def interrupted(random: Random, share: float = 0.2) -> Iterator[None]:
    """Let threads that start in here give way to the others between some lines of the slot."""

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        if event == "call":
            return trace if frame.f_code.co_filename == slot_module.__file__ else None
        if random.random() < share:
            time.sleep(1e-6)
        return trace

    before = threading.gettrace()
    threading.settrace(trace)
    try:
        yield
    finally:
        threading.settrace(before)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Script:
    """What the threads of a run do."""

    frames: int
    lossless: bool
    inbox: bool = False
    watched: bool = False
    """Whether a third thread looks at everything that can be looked at, all the time."""
    fails: bool = False
    """Whether the reader ends with an error."""
    closed_after: int | None = None
    """The consumer leaves after so many frames."""
    pauses: tuple[int, ...] = (0,)
    """In turn, what the consumer does before it takes a frame: that many hundred microseconds of something else."""


@dataclass
class Run:
    """One reader, one consumer and perhaps an onlooker at a slot."""

    script: Script
    taken: list[tuple[int, int]] = field(default_factory=list)
    """Number of each frame taken, and how many were replaced before it."""
    operations: int = 0
    wrong: list[str] = field(default_factory=list)

    def play(self) -> Run:
        self.inbox = Inbox() if self.script.inbox else None
        self.slot = Slot(MonotonicClock(), lossless=self.script.lossless, inbox=self.inbox)
        self.over = threading.Event()
        todo = [self._read, self._consume, *([self._look] if self.script.watched else [])]
        threads = [threading.Thread(target=self._guarded, args=(work,), daemon=True) for work in todo]
        for thread in threads:
            thread.start()
        end_s = time.monotonic() + PATIENCE_S + self.script.frames * 1e-3
        for thread in threads[:2]:
            thread.join(max(0.0, end_s - time.monotonic()))
        stuck = [thread for thread in threads[:2] if thread.is_alive()]
        self.over.set()
        self.slot.close()
        for thread in threads:
            thread.join(5)
        assert not stuck, f"deadlock: {self.slot.counts}, {self.script}"
        assert not self.wrong, (self.wrong[0], self.script)
        self._check()
        return self

    def _guarded(self, work) -> None:
        try:
            work()
        except BaseException as error:
            self.wrong.append(f"{type(error).__name__}: {error}")

    def _read(self) -> None:
        for i in range(self.script.frames):
            if not self.slot.put(BLACK, source="s", index=i, pts_s=None):
                break
            self.operations += 1
        self.slot.finish(SourceError("gone") if self.script.fails else None)

    def _consume(self) -> None:
        pauses, closed_after = self.script.pauses, self.script.closed_after
        failed = False
        while not self.slot.ended:
            if closed_after is not None and len(self.taken) >= closed_after:
                self.slot.close()
                break
            if self.inbox is not None and not self.slot.waiting:
                self.inbox.wait(1.0)
            if pause := pauses[len(self.taken) % len(pauses)]:
                time.sleep(pause * 1e-4)
            try:
                taken = self.slot.take(1.0)
            except SourceError:
                failed = True
                break
            if taken is not None:
                self.taken.append((taken.frame.index, taken.replaced_before))
                if self.script.lossless and self.slot.newer_waiting():
                    raise AssertionError("a lossless slot asks to give way")
        if self.script.fails and closed_after is None and not failed and not self.slot.ended:
            raise AssertionError("the error was lost")

    def _look(self) -> None:
        while not self.over.is_set():
            counts = self.slot.counts
            if counts.put != counts.taken + counts.replaced + counts.waiting + counts.unused:
                raise AssertionError(f"frames do not add up: {counts}")
            if not 0 <= counts.waiting <= 1:
                raise AssertionError(str(counts))
            _ = (self.slot.next_arrival_s, self.slot.newer_waiting(), self.slot.ended)
            time.sleep(0)

    def _check(self) -> None:
        """Each frame was taken once, or counted as replaced just before the next one that was taken."""
        expected = 0
        for index, replaced in self.taken:
            assert index == expected + replaced, (index, expected, replaced, self.script)
            expected = index + 1
        counts = self.slot.counts
        self.operations += len(self.taken)
        assert counts.waiting == 0
        assert counts.taken == len(self.taken)
        assert counts.put == counts.taken + counts.replaced + counts.unused
        if self.script.closed_after is None:
            assert counts.put == self.script.frames
            assert counts.unused == 0
            if self.script.frames:
                assert self.taken[-1][0] == self.script.frames - 1, "the newest frame was lost"
        if self.script.lossless:
            assert counts.replaced == 0


scripts = st.builds(
    Script,
    frames=st.integers(0, 60),
    lossless=st.booleans(),
    inbox=st.booleans(),
    watched=st.booleans(),
    fails=st.booleans(),
    closed_after=st.none() | st.integers(0, 30),
    pauses=st.lists(st.sampled_from((0, 0, 0, 1, 3)), min_size=1, max_size=5).map(tuple),
)


@seed(SEED)
@settings(
    max_examples=80, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(scripts, st.integers(0, 2**32))
def test_whatever_the_threads_do_every_frame_is_accounted_for(script, number):
    with interrupted(Random(number)):
        Run(script).play()


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("lossless", [False, True])
def test_thousands_of_frames_in_a_row(lossless, watched):
    Run(Script(2_000, lossless, inbox=watched, watched=watched)).play()


def many_operations(least: int) -> int:
    """Puts and takes, in each kind of slot, with and without somebody who looks on; gives how many there were.

    Raises:
        AssertionError: A frame was lost, came twice or out of order, was not counted, or somebody waited for ever.
    """
    done = 0
    kinds = [
        Script(25_000, lossless, inbox=watched, watched=watched, pauses=pauses)
        for lossless in (False, True)
        for watched in (False, True)
        for pauses in ((0,), (0,) * 97 + (3,))
    ]
    with quick_switches():
        while done < least:
            for script in kinds:
                if done >= least:
                    break
                done += Run(script).play().operations
    return done


@pytest.mark.long
def test_millions_of_operations():
    begun_s = time.monotonic()
    print(f"slot: {many_operations(OPERATIONS)} operations in {time.monotonic() - begun_s:.0f} s")
