from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ann.clock import FakeClock, MonotonicClock
from stream_ann.errors import SourceError
from stream_ann.frames import Frame
from stream_ann.ingest import Inbox, ScriptedInbox, ScriptedSlot, Slot, SlotCounts

BLACK = np.zeros((2, 2, 3), dtype=np.uint8)


def put(slot: Slot, index: int) -> bool:
    return slot.put(BLACK, source="test", index=index, pts_s=index / 25)


def put_all(slot: Slot, total: int) -> None:
    for i in range(total):
        put(slot, i)
    slot.finish()


def in_thread(function, *args) -> threading.Thread:
    thread = threading.Thread(target=function, args=args, name="stream-ann test", daemon=True)
    thread.start()
    return thread


class TestLive:
    def test_the_newest_frame_takes_the_place_of_the_older_ones_which_are_counted(self):
        slot = Slot(FakeClock())
        for i in range(4):
            assert put(slot, i)
        frame, replaced_before = slot.take(0.0) or pytest.fail("nothing there")
        assert (frame.index, replaced_before) == (3, 3)
        assert slot.counts == SlotCounts(put=4, taken=1, replaced=3, waiting=0)
        put(slot, 4)
        taken = slot.take(0.0)
        assert taken is not None
        assert (taken.frame.index, taken.replaced_before) == (4, 0)

    def test_a_frame_arrives_when_it_is_put_in(self):
        clock = FakeClock()
        slot = Slot(clock)
        clock.advance_to(1.0)
        put(slot, 0)
        assert slot.next_arrival_s == 1.0
        assert slot.newer_waiting()
        clock.advance_to(2.0)
        taken = slot.take(0.0)
        assert taken is not None
        assert taken.frame.arrival_s == 1.0
        assert (taken.frame.source, taken.frame.pts_s) == ("test", 0.0)
        assert slot.next_arrival_s is None
        assert not slot.newer_waiting()

    def test_take_waits_no_longer_than_it_may(self):
        slot = Slot(FakeClock())
        begun_s = time.monotonic()
        assert slot.take(0.05) is None
        assert 0.05 <= time.monotonic() - begun_s < 5
        assert not slot.ended

    def test_take_wakes_when_a_frame_comes(self):
        slot = Slot(FakeClock())
        indices = []

        def take() -> None:
            taken = slot.take(30.0)
            indices.append(None if taken is None else taken.frame.index)

        thread = in_thread(take)
        put(slot, 7)
        thread.join(10)
        assert indices == [7]


class TestLossless:
    def test_put_waits_until_the_place_is_free_and_nothing_is_replaced(self):
        slot = Slot(MonotonicClock(), lossless=True)
        thread = in_thread(put_all, slot, 50)
        indices = []
        while not slot.ended:
            taken = slot.take(5.0)
            if taken is not None:
                assert taken.replaced_before == 0
                indices.append(taken.frame.index)
        thread.join(5)
        assert indices == list(range(50))
        assert slot.counts == SlotCounts(put=50, taken=50, replaced=0, waiting=0)

    def test_a_frame_arrives_when_it_is_taken_and_presses_nobody(self):
        clock = FakeClock()
        slot = Slot(clock, lossless=True)
        put(slot, 0)
        assert not slot.newer_waiting()
        assert slot.next_arrival_s is None
        assert not slot.wait_free(0.0)
        clock.advance_to(3.0)
        taken = slot.take(0.0)
        assert taken is not None
        assert taken.frame.arrival_s == 3.0
        assert slot.wait_free(0.0)

    def test_close_wakes_a_waiting_put_and_counts_both_frames(self):
        slot = Slot(FakeClock(), lossless=True)
        put(slot, 0)
        answers = []
        thread = in_thread(lambda: answers.append(put(slot, 1)))
        slot.close()
        thread.join(10)
        assert answers == [False]
        assert slot.counts == SlotCounts(put=2, taken=0, replaced=0, waiting=0, unused=2)


class TestEnd:
    @pytest.mark.parametrize("lossless", [False, True])
    def test_the_last_frame_is_taken_before_the_error_is_raised(self, lossless: bool):
        slot = Slot(FakeClock(), lossless=lossless)
        put(slot, 0)
        slot.finish(SourceError("the camera burnt down"))
        slot.finish(SourceError("and later the house"))
        assert not slot.ended
        assert slot.take(0.0) is not None
        assert slot.ended
        for _ in range(2):
            with pytest.raises(SourceError, match="the camera burnt down"):
                slot.take(0.0)

    def test_without_an_error_take_gives_none_at_once(self):
        slot = Slot(FakeClock())
        slot.finish()
        begun_s = time.monotonic()
        assert slot.take(30.0) is None
        assert time.monotonic() - begun_s < 10
        assert slot.ended

    def test_finish_wakes_a_waiting_take(self):
        slot = Slot(FakeClock())
        taken = []
        thread = in_thread(lambda: taken.append(slot.take(30.0)))
        slot.finish()
        thread.join(10)
        assert taken == [None]

    def test_what_waits_at_the_end_or_comes_later_was_not_replaced(self):
        slot = Slot(FakeClock())
        put(slot, 0)
        slot.close()
        slot.close()
        assert slot.ended
        assert slot.take(30.0) is None
        assert not put(slot, 1)
        assert slot.counts == SlotCounts(put=2, taken=0, replaced=0, waiting=0, unused=2)
        slot.finish(SourceError("nobody listens any more"))
        assert slot.take(0.0) is None

    def test_putting_after_the_end_is_a_mistake(self):
        slot = Slot(FakeClock())
        slot.finish()
        with pytest.raises(RuntimeError, match="after finish"):
            put(slot, 0)

    def test_what_is_no_picture_is_refused(self):
        with pytest.raises(ValueError, match=r"must be uint8 \[H, W, 3\]"):
            Slot(FakeClock()).put(BLACK[..., 0], source="test", index=0, pts_s=None)


@pytest.mark.parametrize("lossless", [False, True])
def test_threads_lose_nothing_duplicate_nothing_and_keep_the_order(lossless: bool):
    total = 10_000 if lossless else 60_000
    slot = Slot(MonotonicClock(), lossless=lossless)
    thread = in_thread(put_all, slot, total)
    indices: list[int] = []
    replaced = 0
    while not slot.ended:
        taken = slot.take(5.0)
        if taken is not None:
            # the frames between this one and the last one taken are just those that were replaced
            last = indices[-1] if indices else -1
            assert taken.frame.index - last - 1 == taken.replaced_before
            indices.append(taken.frame.index)
            replaced += taken.replaced_before
        if len(indices) % 100 == 0:
            counts = slot.counts
            assert counts.put == counts.taken + counts.replaced + counts.waiting
    thread.join(5)
    assert len(indices) + replaced == total
    assert indices[-1] == total - 1
    assert slot.counts == SlotCounts(put=total, taken=len(indices), replaced=replaced, waiting=0)
    assert replaced == 0 or not lossless


@settings(max_examples=200, deadline=None)
@given(
    actions=st.lists(st.sampled_from(["put", "take", "close", "finish"]), max_size=30),
    lossless=st.booleans(),
)
def test_every_frame_is_accounted_for_whatever_happens(actions: list[str], lossless: bool):
    slot = Slot(FakeClock(), lossless=lossless)
    index = 0
    finished = False
    for action in actions:
        if action == "put" and not finished and slot.wait_free(0.0):
            put(slot, index)
            index += 1
        elif action == "take":
            slot.take(0.0)
        elif action == "close":
            slot.close()
        elif action == "finish":
            slot.finish()
            finished = True
        counts = slot.counts
        assert counts.put == index == counts.taken + counts.replaced + counts.waiting + counts.unused
        assert slot.ended is (slot.take(0.0) is None and slot.ended)


class TestScriptedSlot:
    def test_waiting_moves_the_clock_to_the_next_arrival(self):
        clock = FakeClock()
        slot = ScriptedSlot([0.5, 1.0], clock)
        assert slot.take(0.2) is None
        assert clock.now_s() == pytest.approx(0.2)
        taken = slot.take(1.0)
        assert taken is not None
        assert (taken.frame.index, clock.now_s()) == (0, 0.5)

    def test_what_arrives_meanwhile_is_replaced_by_the_newest(self):
        clock = FakeClock()
        slot = ScriptedSlot([0.0, 1.0, 2.0, 3.0, 9.0], clock)
        slot.take(0.0)
        assert not slot.newer_waiting()
        clock.advance_to(3.5)
        assert slot.newer_waiting()
        assert slot.next_arrival_s == 1.0
        taken = slot.take(0.0)
        assert taken is not None
        assert (taken.frame.index, taken.replaced_before) == (3, 2)
        assert slot.counts == SlotCounts(put=4, taken=2, replaced=2, waiting=0)
        clock.advance_to(10.0)
        assert not slot.ended
        slot.close()
        assert slot.ended
        assert slot.take(1.0) is None
        assert slot.counts == SlotCounts(put=5, taken=2, replaced=2, waiting=0, unused=1)

    def test_the_error_comes_after_the_last_frame(self):
        frame = Frame(BLACK, "script", 0, None, 1.0)
        slot = ScriptedSlot([frame], FakeClock(), error=SourceError("gone"))
        assert slot.take(5.0) == (frame, 0)
        assert slot.ended
        with pytest.raises(SourceError, match="gone"):
            slot.take(5.0)

    def test_the_script_must_be_in_order(self):
        with pytest.raises(ValueError, match="in order"):
            ScriptedSlot([1.0, 0.5], FakeClock())


class TestWaiting:
    def test_a_slot_waits_without_taking(self):
        slot = Slot(MonotonicClock())
        assert not slot.wait(0.0)
        thread = in_thread(put, slot, 0)
        assert slot.wait(5.0)
        thread.join()
        assert slot.waiting
        assert slot.counts.taken == 0

    @pytest.mark.parametrize("end", ["finish", "close"])
    def test_its_end_ends_the_wait(self, end):
        slot = Slot(MonotonicClock())
        thread = in_thread(getattr(slot, end))
        assert slot.wait(5.0)
        thread.join()
        assert not slot.waiting

    def test_an_inbox_is_told_of_every_slot_and_forgets_nothing_between_two_waits(self):
        inbox = Inbox()
        one, two = (Slot(MonotonicClock(), inbox=inbox) for _ in range(2))
        assert not inbox.wait(0.0)
        put(one, 0)  # before anybody waits
        assert inbox.wait(0.0)
        assert not inbox.wait(0.0)
        for change in (lambda: put(two, 0), two.finish, one.close):
            thread = in_thread(change)
            assert inbox.wait(5.0)
            thread.join()

    def test_scripted_slots_move_the_clock_to_the_first_arrival_of_any(self):
        clock = FakeClock()
        slots = [ScriptedSlot([0.5, 2.0], clock), ScriptedSlot([1.0], clock), ScriptedSlot([], clock)]
        inbox = ScriptedInbox(slots, clock)
        assert not inbox.wait(0.2)
        assert clock.now_s() == 0.2
        assert inbox.wait(9.0)
        assert clock.now_s() == 0.5
        assert inbox.wait(9.0)  # at once: a frame waits
        assert clock.now_s() == 0.5
        assert not slots[1].wait(0.1)
        assert slots[1].wait(9.0)
        assert clock.now_s() == 1.0
