"""When a live source is tried again, what state it is in meanwhile, and what may be shown of its address."""

from __future__ import annotations

import itertools
import pickle
import random
import statistics
import threading
from fractions import Fraction

import numpy as np
import pytest

from stream_ann.clock import FakeClock, MonotonicClock
from stream_ann.errors import (
    AccessDeniedError,
    DecodeError,
    DisconnectedError,
    SourceError,
    SourceNotFoundError,
    UnreachableError,
    UsageError,
)
from stream_ann.ingest import FakeSource, Retries, SourceOptions, SourceUrl, reader
from stream_ann.ingest.h264 import FrameGaps
from stream_ann.ingest.retries import retry_delay_s
from stream_ann.ingest.watching import Cadence, StallWatch, StateKeeper
from stream_ann.states import StateChange, StateFeed
from tests.cameras import Watched

BLACK = np.zeros((2, 2, 3), dtype=np.uint8)
LOST = DisconnectedError("the connection was lost")


class TestDelay:
    def delays(self, error: SourceError, away_s: float) -> list[float]:
        chance = random.Random(0)
        return [retry_delay_s(error, away_s, chance) for _ in range(200)]

    @pytest.mark.parametrize(
        ("error", "away_s", "middle_s"),
        [
            (LOST, 0.0, 0.25),
            (LOST, 20.0, 2.0),
            (LOST, 1e6, 10.0),
            (UnreachableError("x"), 1.0, 0.25),
            (SourceNotFoundError("x"), 0.0, 5.0),
            (SourceNotFoundError("x"), 1e6, 60.0),
            (AccessDeniedError("x"), 0.0, 30.0),
            (AccessDeniedError("x"), 1e6, 300.0),
        ],
    )
    def test_is_a_tenth_of_the_outage_within_bounds_give_or_take_a_fifth(self, error, away_s, middle_s):
        delays = self.delays(error, away_s)
        assert min(delays) >= 0.8 * middle_s
        assert max(delays) <= 1.2 * middle_s
        assert statistics.mean(delays) == pytest.approx(middle_s, rel=0.05)
        assert len(set(delays)) == len(delays), "many readers must not come back in step"

    def test_waiting_costs_no_more_than_a_seventh_of_an_outage_of_seconds(self):
        # the camera returns at some time; the next attempt is the first one after that
        chance = random.Random(1)
        for returned_s in (2.0, 5.0, 14.0, 60.0):
            now_s = 0.0
            while now_s < returned_s:
                now_s += retry_delay_s(LOST, now_s, chance)
            assert now_s - returned_s <= max(0.3, 0.14 * returned_s)

    def test_chance_makes_the_delay_and_nothing_else(self):
        assert retry_delay_s(LOST, 9, random.Random(7)) == retry_delay_s(LOST, 9, random.Random(7))


class TestReturning:
    """The reader, with a source that does what the script says. Delays are none, so that nothing waits."""

    @pytest.fixture(autouse=True)
    def _at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reader, "retry_delay_s", lambda error, away_s, chance: 0.0)

    def source(self, *items, attempts: int | None = None, from_the_start: bool = True) -> FakeSource:
        return FakeSource(items, live=True, retries=Retries(attempts, from_the_start))

    def test_failures_and_ends_are_no_end(self):
        items = [BLACK, None, BLACK, LOST, UnreachableError("it is off"), BLACK]
        with Watched(self.source(*items, *itertools.repeat(UnreachableError("it is gone"), 3), attempts=2)) as it:
            it.until(lambda: it.error)
        assert str(it.error) == "it is gone"
        # frames may replace each other in the slot, but all of them came, numbered on
        assert it.reader.counts.frames_in == 3
        away, back = "reconnecting", "live"
        assert it.names == ["connecting", "live", away, back, away, away, back, away, "ended"]

    def test_attempts_are_counted_in_a_row(self):
        off = UnreachableError("off")
        with Watched(self.source(BLACK, off, off, BLACK, off, off, BLACK, off, off, off, attempts=2)) as it:
            it.until(lambda: it.error)
        assert it.reader.counts.frames_in == 3

    def test_damaged_frames_are_not_lost_connections(self):
        items = [BLACK, DecodeError("x"), BLACK, DecodeError("y"), BLACK, LOST]
        with Watched(self.source(*items, attempts=0)) as it:
            it.until(lambda: it.error)
        assert it.names == ["connecting", "live", "ended"]
        assert (it.reader.counts.frames_in, it.reader.counts.corrupt) == (5, 2)

    def test_a_refusal_has_a_name(self):
        items = [AccessDeniedError("another password"), AccessDeniedError("another password"), BLACK, LOST]
        with Watched(self.source(*items, attempts=2)) as it:
            it.until(lambda: it.error)
        assert it.names[:3] == ["connecting", "refused", "live"]
        assert it.states[1].why == "another password"
        assert it.warnings[0] == "another password"

    def test_the_first_failure_can_be_the_end(self):
        with Watched(self.source(LOST, BLACK, from_the_start=False)) as it:
            it.until(lambda: it.error)
        assert it.error is not None
        assert it.names == ["connecting", "ended"]

    def test_a_bug_is_no_outage(self):
        with Watched(self.source(BLACK, KeyError("a bug"), BLACK)) as it:
            it.until(lambda: it.error)
        assert isinstance(it.error, KeyError)

    def test_no_start_is_waited_for(self):
        source = FakeSource([BLACK], gaps_s=[60.0], live=True, retries=Retries())
        with Watched(source) as it:
            it.reader.wait_opened(0.0)  # whoever shows the run can show that it connects
            assert it.reader.state.state == "connecting"

    def test_the_same_outage_goes_on_if_the_source_flaps(self, monkeypatch: pytest.MonkeyPatch):
        away: list[float] = []
        clock = FakeClock()

        def delay_s(error: SourceError, away_s: float, chance: random.Random) -> float:
            away.append(away_s)
            return 0.0

        def script():
            for lived_s in (1.0, 1.0, 60.0):
                yield BLACK
                clock.advance(lived_s)
                yield LOST
                clock.advance(2.0)
                yield UnreachableError("off")

        monkeypatch.setattr(reader, "retry_delay_s", delay_s)
        with Watched(FakeSource(script(), live=True, retries=Retries(5)), clock=clock) as it:
            it.until(lambda: it.error)
        assert away[:6] == [1.0, 3.0, 4.0, 6.0, 0.0, 2.0], "a minute of pictures ends an outage, a second does not"


class TestStates:
    def keeper(self) -> tuple[StateKeeper, FakeClock, list[StateChange]]:
        clock = FakeClock(10.0)
        told: list[StateChange] = []
        return StateKeeper("cam", clock, told.append), clock, told

    def test_a_state_begins_once_though_its_reason_changes(self):
        keeper, clock, told = self.keeper()
        keeper.announce()
        clock.advance(1)
        keeper.change("reconnecting", "lost", attempt=2)
        clock.advance(1)
        keeper.change("reconnecting", "lost", attempt=3)
        keeper.change("reconnecting", "no answer", attempt=4)
        assert [(c.state, c.since_s, c.why, c.attempt) for c in told] == [
            ("connecting", 10.0, "", 1),
            ("reconnecting", 11.0, "lost", 2),
            ("reconnecting", 11.0, "no answer", 4),
        ]
        keeper.change("reconnecting", "no answer", attempt=5)
        assert keeper.current.attempt == 5
        assert len(told) == 3

    def test_nothing_comes_after_the_end(self):
        keeper, _, told = self.keeper()
        keeper.change("ended")
        keeper.change("live")
        assert keeper.current.state == "ended"
        assert len(told) == 1

    def test_a_stall_that_is_noticed_too_late_is_none(self):
        keeper, _, _ = self.keeper()
        keeper.change("reconnecting", "lost")
        keeper.change("stalled", only_from="live")
        assert keeper.current.state == "reconnecting"

    def test_whoever_listens_late_hears_everything_in_order(self):
        feed, heard = StateFeed(), []
        changes = [StateChange("cam", state, 0.0) for state in ("connecting", "live", "stalled")]
        feed.put(changes[0])
        feed.put(changes[1])
        feed.listen(heard.append)
        feed.put(changes[2])
        assert heard == changes

    def test_as_an_event(self):
        event = StateChange("cam", "refused", 1.23456789, "another password", 2).as_event()
        assert event == {
            "source": "cam",
            "state": "refused",
            "since_s": 1.234568,
            "why": "another password",
            "attempt": 2,
        }


class TestStalls:
    def test_a_gap_is_measured_by_the_usual_one(self):
        cadence = Cadence()
        assert cadence.patience_s == 1.0
        for gap_s in (0.04, 0.04, 5.0, 0.04, 0.04):
            cadence.add(gap_s)
        assert cadence.patience_s == 1.0, "one long gap is not the usual one"
        for _ in range(9):
            cadence.add(2.0)
        assert cadence.patience_s == 6.0, "a picture every two seconds is what this camera gives"

    def test_when_the_next_picture_is_overdue(self):
        clock = FakeClock()
        watch = StallWatch("cam", clock, lambda gap_s: None)
        assert watch.overdue_s() is None, "none has come yet"
        watch.beat()
        clock.advance(0.75)
        assert watch.overdue_s() == pytest.approx(-0.25)
        clock.advance(0.5)
        assert watch.overdue_s() == pytest.approx(0.25)
        watch.rest()
        assert watch.overdue_s() is None, "not connected, none is expected"

    def test_each_stall_is_told_once_while_the_reader_waits(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("stream_ann.ingest.watching.MIN_STALL_S", 0.05)
        told: list[float] = []
        came = threading.Event()

        def on_stall(gap_s: float) -> None:
            told.append(gap_s)
            came.set()

        watch = StallWatch("cam", MonotonicClock(), on_stall)
        watch.start()
        for stalls in (1, 2):
            watch.beat()
            assert came.wait(10)
            came.clear()
            assert not came.wait(0.2)
            assert len(told) == stalls
        watch.stop()
        watch.join(10)
        assert min(told) >= 0.05


class TestUrl:
    @pytest.mark.parametrize(
        ("text", "address", "host"),
        [
            ("rtsp://host/live", "rtsp://host/live", "host"),
            ("RTSP://Host:554/a?b=1", "rtsp://Host:554/a?b=1", "Host"),
            ("rtsp://me:pw@host/live", "rtsp://me:pw@host/live", "host"),
            ("rtsp://me:p%40w@host/live", "rtsp://me:p%40w@host/live", "host"),
            ("rtsp://me:p@w@host/live", "rtsp://me:p%40w@host/live", "host"),
            ("rtsp://me:p/w@host/live", "rtsp://me:p%2Fw@host/live", "host"),
            ("rtsp://me:p@s/w?r#d@10.0.0.1/live", "rtsp://me:p%40s%2Fw%3Fr%23d@10.0.0.1/live", "10.0.0.1"),
            ("rtsp://me:p@s/w@host:554/live", "rtsp://me:p%40s%2Fw@host:554/live", "host"),
            ("rtsp://me:50%off@host/live", "rtsp://me:50%25off@host/live", "host"),
            ("rtsp://me:p w@host/live", "rtsp://me:p%20w@host/live", "host"),
            ("rtsp://me:pw@[::1]:554/live", "rtsp://me:pw@[::1]:554/live", "::1"),
            ("rtsp://me:pw@host/live@2x", "rtsp://me:pw@host/live@2x", "host"),
            ("rtsp://host/live@2x", "rtsp://host/live@2x", "host"),
            ("rtsp://host:554/live@2x", "rtsp://host:554/live@2x", "host"),
            ("rtsp://token@host/live", "rtsp://token@host/live", "host"),
        ],
    )
    def test_is_understood_however_its_password_is_written(self, text: str, address: str, host: str):
        url = SourceUrl(text)
        assert url.secret == address
        assert url.host == host

    @pytest.mark.parametrize("secret", ["hunter2", "hu@nt/er?2#", "hunter%402"])
    def test_shows_no_secret(self, secret: str):
        url = SourceUrl(f"rtsp://me:{secret}@10.0.0.1/live?token=abc123")
        for shown in (str(url), repr(url), f"{url}", f"{url!r:>99}", "%s" % url):  # noqa: UP031
            assert secret not in shown
            assert "abc123" not in shown
            assert "me:***@10.0.0.1/live?token=***" in shown
        with pytest.raises(TypeError, match="may hold a password"):
            pickle.dumps(url)

    def test_hides_its_secrets_in_other_texts(self):
        url = SourceUrl("rtsp://me:hu@nt/er2@10.0.0.1/live?token=abc123")
        said = f"cannot open {url.secret}, not with 'hu@nt/er2' nor hu%40nt%2Fer2, abc123 or rtsp://x:other@y/z"
        hidden = url.hide(said)
        for secret in ("hu@nt", "hu%40nt", "abc123", "other"):
            assert secret not in hidden
        assert hidden.startswith("cannot open rtsp://me:***@10.0.0.1/live?token=***")

    @pytest.mark.parametrize("text", ["rtsp://", "rtsp:///live", "http://me:hunter2@", "rtsp://host:99999/x", "host/x"])
    def test_must_lead_somewhere(self, text: str):
        with pytest.raises(UsageError, match=r"no host and port|is no URL") as caught:
            SourceUrl(text)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"transport": "tpc"}, "no transport is called 'tpc'; did you mean 'tcp'"),
        ({"connect_timeout_s": 0}, "connect-timeout-s must be above 0"),
        ({"read_timeout_s": float("inf")}, "read-timeout-s must be above 0 and finite"),
        ({"reconnect_attempts": -1}, "reconnect-attempts must be 0 or more"),
        ({"webcam_fps": 0}, "webcam-fps must be above 0"),
        ({"webcam_size_px": (0, 480)}, "webcam-size 0x480 is out of range"),
    ],
)
def test_options_must_make_sense(options, words: str):
    with pytest.raises(UsageError, match=words):
        SourceOptions(**options)


class TestFrameNumbers:
    @pytest.mark.parametrize("profile", ["baseline", "main", "high"])
    def test_a_missing_frame_is_noticed_and_no_other(self, profile: str):
        import av

        encoder = av.CodecContext.create("libx264", "w")
        encoder.width, encoder.height, encoder.pix_fmt = 64, 48, "yuv420p"
        encoder.framerate, encoder.gop_size = Fraction(25), 40
        options = {"profile": profile, "preset": "fast", "x264-params": "scenecut=0:bframes=0:repeat-headers=1"}
        encoder.options = options
        noise = np.random.default_rng(0)
        packets = []
        for _ in range(100):
            image = noise.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            packets += [bytes(p) for p in encoder.encode(av.VideoFrame.from_ndarray(image, format="rgb24"))]
        packets += [bytes(p) for p in encoder.encode(None)]
        assert len(packets) == 100
        assert not any(map(FrameGaps(None).lost, packets))
        for missing in (1, 15, 16, 39, 41, 70):  # numbers wrap round meanwhile
            gaps = FrameGaps(None)
            found = [i for i in range(100) if i != missing and gaps.lost(packets[i])]
            # before a key frame nothing that is missing matters
            assert found == ([] if missing % 40 == 39 else [missing + 1])

    def test_anything_else_is_let_pass(self):
        gaps = FrameGaps(b"\1\2\3")
        for data in (b"", b"\0\0\1", b"\0\0\1\x67", b"\0\0\1\x67\x64\0\x1f\xff", b"\0\0\1\x41", b"noise" * 99):
            assert not gaps.lost(data)
