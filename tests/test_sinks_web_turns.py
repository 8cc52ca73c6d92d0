"""What the page may cost: its share of a core, less where frames are lost, and everybody's turn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time

import pytest

pytest.importorskip("uvicorn")

import pipelines
from pipelines.handover import PROMPT_S, begin_prompt, end_prompt
from stream_ann.ingest import FakeSource
from stream_ann.sinks.web.app import REFRESHES_PER_S, Hub, _events
from stream_ann.sinks.web.feed import Feed
from stream_ann.sinks.web.turns import BURST_S, LEAST_SHARE, LONGEST_S, MOST_SHARE, Turns
from tests.small_weights import save_small_weights
from tests.videos import numbered
from tests.web_tools import EXITS, FakeRun


class Machine:
    """Time that passes, and what of it the thread has taken, as a test says."""

    def __init__(self) -> None:
        self.now_s = self.taken_s = 0.0
        self.turns = Turns(lambda: self.now_s, lambda: self.taken_s)
        self.turns.wait_s()

    def work(self, seconds: float) -> None:
        self.now_s += seconds
        self.taken_s += seconds

    def serve(self, seconds: float, each_s: float) -> int:
        """Serve somebody as often as it is his turn; how often that is."""
        until_s, served = self.now_s + seconds, 0
        while self.now_s < until_s:
            wait_s = self.turns.wait_s()
            if wait_s:
                self.now_s += wait_s
            else:
                self.work(each_s)
                served += 1
        return served


class TestTurns:
    @pytest.mark.parametrize("each_s", [0.0005, 0.05])
    def test_no_more_is_taken_than_the_share(self, each_s):
        machine = Machine()
        served = machine.serve(20.0, each_s)
        assert machine.taken_s == pytest.approx(20 * MOST_SHARE, rel=0.05)
        assert served == pytest.approx(20 * MOST_SHARE / each_s, rel=0.05)

    def test_who_asks_for_little_never_waits(self):
        machine = Machine()
        for _ in range(100):
            assert machine.turns.wait_s() == 0
            assert machine.turns.idle
            machine.work(BURST_S / 2)
            machine.now_s += BURST_S / 2 / MOST_SHARE

    def test_whatever_was_taken_nobody_waits_for_ever(self):
        machine = Machine()
        machine.work(100.0)
        assert machine.turns.wait_s() <= LONGEST_S + BURST_S / MOST_SHARE

    def test_where_frames_are_lost_it_takes_less_and_then_more_again(self):
        turns = Turns()
        answered = lost = 0
        shares = []
        for _ in range(6):
            answered, lost = answered + 97, lost + 3
            turns.mind(answered, lost)
            shares.append(turns.share)
        assert shares == sorted(shares, reverse=True)
        assert shares[0] == MOST_SHARE / 2
        assert shares[-1] == LEAST_SHARE
        for _ in range(30):
            answered += 1000
            lost += 5  # one in two hundred may be lost
            turns.mind(answered, lost)
        assert turns.share == MOST_SHARE

    def test_a_few_frames_say_nothing_yet(self):
        turns = Turns()
        for lost in range(1, 20):
            turns.mind(0, lost)
            assert turns.share == MOST_SHARE
        turns.mind(0, 20)
        assert turns.share < MOST_SHARE

    def test_who_comes_first_is_served_first_and_at_the_end_all_are(self):
        came: list[int] = []
        machine = Machine()
        machine.work(100.0)  # time stands still from now on: without the end nobody would be served

        async def visit(number: int) -> None:
            await machine.turns.turn()
            came.append(number)

        async def all_of_them() -> None:
            tasks = [asyncio.create_task(visit(number)) for number in range(5)]
            await asyncio.sleep(0.05)
            assert came == []
            assert not machine.turns.idle
            machine.turns.stop()
            await asyncio.wait_for(asyncio.gather(*tasks), 10)

        asyncio.run(all_of_them())
        assert came == list(range(5))


class TestHub:
    def test_what_is_skipped_is_counted_and_no_result_is_missed(self):
        run = FakeRun()
        feed = Feed(run.statuses, EXITS)
        told: list[int] = []

        async def watched() -> tuple[list[dict], int]:
            hub = Hub(feed)
            hub.streams = hub.listeners = 1
            stream = _events(hub, told.append)
            messages = [await anext(stream)]
            for ticks in (1, 4, 1):
                for _ in range(ticks):
                    feed.put(run.answer())
                    hub.ticks += 1
                    hub.statuses()
                wait = asyncio.ensure_future(anext(stream))
                await asyncio.sleep(0)
                hub._wake()
                messages.append(await asyncio.wait_for(wait, 10))
            hub.stop()
            await stream.aclose()
            assert hub.seen == {}
            return [json.loads(message.split(b"data: ")[1]) for message in messages], hub.skipped

        messages, skipped = asyncio.run(watched())
        assert told == [0, 3, 0]
        assert skipped == 3
        assert [message["whole"] for message in messages] == [True, False, False, False]
        assert messages[-1]["page"] == {"watching": 1, "skipped": 3}
        points = [{point[0] for point in message["sources"][0]["points"]} for message in messages]
        assert [max(found, default=0) for found in points] == [0, 1, 5, 6]
        assert set.union(*points) == set(range(1, 7))

    def test_with_much_to_do_the_run_is_looked_at_once_for_all_who_ask(self):
        run = FakeRun("a", "b", "c")
        hub = Hub(Feed(run.statuses, EXITS))
        hub.statuses()
        hub.statuses()
        assert run.polls == 2, "there is time"
        hub.turns._waited_s = time.monotonic() + 3600
        hub.ticks += 1
        first = hub.message()
        begun_s = time.monotonic()
        for _ in range(50):
            assert hub.message() is first or time.monotonic() - begun_s > 0.5 / REFRESHES_PER_S
        assert hub.message(whole=True) != first
        assert run.polls <= 3 + (time.monotonic() - begun_s) * REFRESHES_PER_S / 0.9
        looked = run.polls
        hub._cost_s = LEAST_SHARE  # seconds: as much as it may take in one second
        hub.turns.share = LEAST_SHARE
        time.sleep(1.5 / REFRESHES_PER_S)
        hub.message()
        assert run.polls == looked, "looking takes more than sending"

    def test_lost_frames_make_it_slower(self):
        run = FakeRun()

        async def watched() -> float:
            hub = Hub(Feed(run.statuses, EXITS))
            hub.streams = 1
            task = asyncio.create_task(hub.run())
            until_s = time.monotonic() + 20
            while hub.turns.share == MOST_SHARE and time.monotonic() < until_s:
                run.lose(50)
                await asyncio.sleep(0.05)
            hub.stop()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            return hub.turns.share

        assert asyncio.run(watched()) < MOST_SHARE


class TestHandover:
    def test_it_is_prompt_while_a_run_lasts(self, tmp_path):
        weights = save_small_weights(tmp_path)
        before_s = sys.getswitchinterval()
        with pipelines.live(FakeSource(numbered(3)), weights=weights, device="cpu") as run:
            assert sys.getswitchinterval() == pytest.approx(PROMPT_S, abs=2e-6)
            begin_prompt()
            run.close()
            assert sys.getswitchinterval() == pytest.approx(PROMPT_S, abs=2e-6), "another one lasts"
            run.close()
            end_prompt()
        assert sys.getswitchinterval() == pytest.approx(before_s, abs=2e-6)

    def test_who_wants_it_prompter_keeps_it(self):
        before_s = sys.getswitchinterval()
        try:
            sys.setswitchinterval(PROMPT_S / 5)
            begin_prompt()
            assert sys.getswitchinterval() == pytest.approx(PROMPT_S / 5, abs=2e-6)
            end_prompt()
            assert sys.getswitchinterval() == pytest.approx(PROMPT_S / 5, abs=2e-6)
        finally:
            sys.setswitchinterval(before_s)
