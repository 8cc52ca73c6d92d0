from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from stream_ann.clock import FakeClock, MonotonicClock
from stream_ann.errors import DecodeError, SourceError, SourceNotFoundError
from stream_ann.frames import Frame
from stream_ann.ingest import FakeSource, Picture, Reader, Slot, Source, VideoSource, reader
from stream_ann.ingest.pattern import frame_number
from stream_ann.ingest.reader import Pacer
from tests.videos import damage, encode, numbered

BLACK = np.zeros((2, 2, 3), dtype=np.uint8)


def take_all(slot: Slot) -> tuple[list[Frame], list[int]]:
    """All frames, and how many were replaced before each."""
    frames: list[Frame] = []
    replaced: list[int] = []
    deadline_s = time.monotonic() + 30
    while not slot.ended:
        assert time.monotonic() < deadline_s, "the reader does not end"
        taken = slot.take(1.0)
        if taken is not None:
            frames.append(taken.frame)
            replaced.append(taken.replaced_before)
    return frames, replaced


def read_through(source: Source, **options) -> tuple[list[Frame], Reader, Slot]:
    """Read a whole source without loss."""
    slot = Slot(MonotonicClock(), lossless=True)
    it = Reader(source, slot, realtime=False, **options)
    it.start()
    try:
        frames, _ = take_all(slot)
    finally:
        slot.close()
        assert it.stop()
    return frames, it, slot


class Stuck:
    """A source that does not let go until it is told to, not even when it is cancelled."""

    name, live = "stuck", False

    def __init__(self) -> None:
        self.release = threading.Event()
        self.entered = threading.Event()

    def open(self) -> None:
        self.entered.set()
        self.release.wait(30)

    def read(self) -> Picture | None:
        return None

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return encode(tmp_path_factory.mktemp("clip") / "clip.mp4", numbered(50), options={"g": "10"})


class TestWholeRuns:
    def test_without_realtime_every_frame_comes_in_order(self, clip: Path):
        frames, it, slot = read_through(VideoSource(clip))
        assert [frame_number(f.image) for f in frames] == list(range(50))
        assert [f.index for f in frames] == list(range(50))
        assert [f.pts_s for f in frames] == pytest.approx([i / 25 for i in range(50)])
        assert {f.source for f in frames} == {str(clip)}
        assert (it.counts.frames_in, it.counts.corrupt, slot.counts.replaced) == (50, 0, 0)

    def test_damaged_packets_are_counted_reported_and_passed_over(self, clip: Path, tmp_path: Path):
        bad = damage(clip, tmp_path / "bad.mp4", [12, 30, 31, 44])
        warnings: list[str] = []
        frames, it, slot = read_through(VideoSource(bad), on_warning=warnings.append)
        assert it.counts.corrupt >= 4
        assert it.counts.frames_in == 50 == slot.counts.taken + slot.counts.replaced + it.counts.corrupt
        assert len(frames) == slot.counts.taken
        assert [f.index for f in frames] == sorted({f.index for f in frames})
        assert len(warnings) == reader.WARNINGS + 1
        assert all(str(bad) in line and "\n" not in line for line in warnings)
        assert "is damaged" in warnings[0]
        assert "only counted" in warnings[-1]

    @pytest.mark.parametrize("packets", [[], [12, 30, 31, 44]])
    def test_live_with_a_slow_consumer_every_frame_is_accounted_for(
        self, clip: Path, tmp_path: Path, packets: list[int]
    ):
        path = damage(clip, tmp_path / "bad.mp4", packets)
        slot = Slot(MonotonicClock())
        it = Reader(VideoSource(path), slot, realtime=False)  # at full speed, so that frames are replaced
        it.start()
        taken = 0
        replaced = 0
        while not slot.ended:
            got = slot.take(1.0)
            if got is not None:
                taken += 1
                replaced += got.replaced_before
                time.sleep(0.002)
        assert it.stop()
        counts = slot.counts
        assert it.counts.frames_in == 50 == counts.taken + counts.replaced + it.counts.corrupt
        assert (taken, replaced) == (counts.taken, counts.replaced)

    @pytest.mark.parametrize("lossless", [False, True])
    def test_leaving_early_every_frame_is_accounted_for(self, clip: Path, lossless: bool):
        slot = Slot(MonotonicClock(), lossless=lossless)
        it = Reader(VideoSource(clip), slot, realtime=False)
        it.start()
        for _ in range(3):
            assert slot.take(5.0) is not None or slot.ended
        slot.close()
        assert it.stop()
        counts = slot.counts
        assert counts.waiting == 0
        assert it.counts.frames_in == counts.put == counts.taken + counts.replaced + counts.unused
        assert counts.replaced == 0 or not lossless

    def test_in_real_time_the_frames_come_at_the_pace_of_their_timestamps(self):
        pictures = [Picture(BLACK, 5.0 + t) for t in (0.0, 0.05, 0.06, 0.2)]
        slot = Slot(MonotonicClock(), lossless=True)
        it = Reader(FakeSource(pictures), slot)
        it.start()
        frames, _ = take_all(slot)
        assert it.stop()
        since_first = [f.arrival_s - frames[0].arrival_s for f in frames]
        for waited_s, wanted_s in zip(since_first, (0.0, 0.05, 0.06, 0.2), strict=True):
            assert waited_s >= wanted_s - 0.02  # later is the machine's affair, earlier would be wrong

    def test_a_live_source_is_not_paced(self):
        pictures = [Picture(BLACK, t) for t in (0.0, 9.0, 18.0)]
        slot = Slot(MonotonicClock(), lossless=True)
        it = Reader(FakeSource(pictures, live=True), slot)
        it.start()
        begun_s = time.monotonic()
        assert len(take_all(slot)[0]) == 3
        assert time.monotonic() - begun_s < 8
        assert it.stop()


class TestErrors:
    def test_a_source_that_cannot_be_opened_fails_fast_with_its_own_error(self, tmp_path: Path):
        slot = Slot(MonotonicClock())
        it = Reader(VideoSource(tmp_path / "gone.mp4"), slot)
        it.start()
        with pytest.raises(SourceNotFoundError, match="there is no file"):
            it.wait_opened(10.0)
        with pytest.raises(SourceNotFoundError, match="there is no file"):
            slot.take(10.0)
        assert slot.ended
        assert it.stop()

    def test_the_end_is_told_after_the_last_frame(self):
        source = FakeSource([BLACK, SourceError("the cable was pulled")], live=True)
        slot = Slot(MonotonicClock(), lossless=True)
        it = Reader(source, slot)
        it.start()
        assert it.wait_opened(10.0)
        assert slot.take(10.0) is not None
        with pytest.raises(SourceError, match="the cable was pulled"):
            slot.take(10.0)
        assert it.stop()
        assert (source.opened, source.closed) == (1, 1)

    @pytest.mark.parametrize("error", [KeyError("a bug"), MemoryError("too large"), SystemExit(3)])
    def test_any_exception_reaches_the_consumer(self, error: BaseException):
        slot = Slot(MonotonicClock())
        it = Reader(FakeSource([error]), slot)
        it.start()
        with pytest.raises(type(error)):
            slot.take(10.0)
        assert it.stop()

    def test_an_image_of_the_wrong_kind_reaches_the_consumer(self):
        slot = Slot(MonotonicClock())
        it = Reader(FakeSource([np.zeros((4, 4), dtype=np.uint8)]), slot)
        it.start()
        with pytest.raises(ValueError, match=r"must be uint8 \[H, W, 3\]"):
            slot.take(10.0)
        assert it.stop()

    def test_a_failing_close_is_a_warning(self):
        class Sticky(FakeSource):
            def close(self) -> None:
                raise SourceError("the lid is stuck")

        warnings: list[str] = []
        frames, _, _ = read_through(Sticky([BLACK]), on_warning=warnings.append)
        assert len(frames) == 1
        assert warnings == ["closing 'fake' failed: the lid is stuck"]

    def test_a_source_that_never_recovers_is_given_up(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(reader, "MAX_DAMAGED_IN_A_ROW", 20)
        errors = itertools.repeat(DecodeError("noise"))
        slot = Slot(MonotonicClock())
        it = Reader(FakeSource(errors), slot)
        it.start()
        with pytest.raises(SourceError, match="'fake' gave 20 damaged frames in a row"):
            slot.take(10.0)
        assert it.stop()
        assert (it.counts.frames_in, it.counts.corrupt) == (20, 20)


class TestStop:
    """From every state the thread ends within a moment, and the slot is told."""

    def stops(self, it: Reader, slot: Slot) -> None:
        begun_s = time.monotonic()
        assert it.stop()
        assert time.monotonic() - begun_s < 1.5
        assert it.stop()
        assert not [t for t in threading.enumerate() if t.name.startswith("stream-ann reader")]

    def test_before_it_was_started(self):
        slot = Slot(MonotonicClock())
        source = FakeSource([BLACK])
        it = Reader(source, slot)
        self.stops(it, slot)
        it.start()
        assert it.stop()
        assert source.opened == 0
        assert slot.ended

    def test_while_a_read_waits(self):
        slot = Slot(MonotonicClock())
        it = Reader(FakeSource([BLACK], gaps_s=[60.0], live=True), slot)
        it.start()
        assert it.wait_opened(10.0)
        self.stops(it, slot)
        assert slot.take(0.0) is None
        assert slot.ended

    def test_while_a_picture_waits_for_its_time(self):
        slot = Slot(MonotonicClock())
        it = Reader(FakeSource([Picture(BLACK, 0.0), Picture(BLACK, 9.0)]), slot)
        it.start()
        assert slot.take(10.0) is not None
        self.stops(it, slot)
        assert slot.ended
        # the second picture was read, but its time had not come
        assert (it.counts.frames_in, slot.counts.taken, slot.counts.replaced) == (1, 1, 0)

    def test_while_a_frame_waits_for_its_place(self):
        slot = Slot(MonotonicClock(), lossless=True)
        it = Reader(FakeSource(itertools.repeat(BLACK)), slot, realtime=False)
        it.start()
        assert it.wait_opened(10.0)
        while not slot.counts.waiting:
            time.sleep(0.001)
        self.stops(it, slot)
        # the frame in the slot can still be taken, and is the last
        assert slot.take(0.0) is not None
        assert slot.ended
        assert it.counts.frames_in == slot.counts.taken == 1

    def test_in_full_run(self):
        slot = Slot(MonotonicClock())
        it = Reader(FakeSource(itertools.repeat(BLACK)), slot, realtime=False)
        it.start()
        assert slot.take(10.0) is not None
        self.stops(it, slot)

    def test_after_the_end(self):
        slot = Slot(MonotonicClock())
        it = Reader(FakeSource([]), slot)
        it.start()
        assert slot.take(10.0) is None
        self.stops(it, slot)

    def test_when_the_consumer_left(self):
        slot = Slot(MonotonicClock(), lossless=True)
        source = FakeSource(itertools.repeat(BLACK))
        it = Reader(source, slot, realtime=False)
        it.start()
        slot.close()
        it._thread.join(10)
        assert not it._thread.is_alive()
        assert source.closed == 1
        self.stops(it, slot)

    def test_a_failure_that_comes_from_stopping_is_none(self):
        class Broken(FakeSource):
            def read(self) -> Picture | None:
                super().read()
                raise SourceError("interrupted")

        slot = Slot(MonotonicClock())
        it = Reader(Broken([], gaps_s=[60.0]), slot)
        it.start()
        assert it.wait_opened(10.0)
        self.stops(it, slot)
        assert slot.take(0.0) is None

    def test_a_source_that_is_stuck_is_not_waited_for(self):
        slot = Slot(MonotonicClock())
        source = Stuck()
        it = Reader(source, slot)
        it.start()
        assert source.entered.wait(10)
        assert not it.wait_opened(0.01)
        assert not it.stop(timeout_s=0.05)
        source.release.set()
        assert it.stop()
        assert slot.ended


class TestPacer:
    def waits(self, script: list[tuple[float, float | None]]) -> list[float]:
        """``script``: pairs of the time at which a picture is ready, and its timestamp."""
        clock = FakeClock()
        pacer = Pacer(clock)
        waits = []
        for ready_s, pts_s in script:
            clock.advance_to(ready_s)
            waits.append(round(pacer.wait_s(pts_s), 6))
            clock.advance(waits[-1])
        return waits

    def test_the_first_picture_is_due_at_once_whatever_its_timestamp(self):
        assert self.waits([(3.0, 100.0), (3.0, 100.04), (3.0, 100.08)]) == [0.0, 0.04, 0.04]

    def test_time_spent_elsewhere_counts(self):
        assert self.waits([(0.0, 0.0), (0.03, 0.04), (0.07, 0.08)]) == [0.0, 0.01, 0.01]

    def test_a_short_delay_is_caught_up(self):
        assert self.waits([(0.0, 0.0), (0.5, 0.1), (0.5, 0.4), (0.5, 0.6)]) == [0.0, 0.0, 0.0, 0.1]

    def test_a_long_delay_is_given_up(self):
        # 3 s late: from then on playback goes on at its own pace, 2.9 s after the timestamps
        assert self.waits([(0.0, 0.0), (3.0, 0.1), (3.0, 0.2), (3.0, 0.3)]) == [0.0, 0.0, 0.1, 0.1]

    def test_a_jump_back_or_far_ahead_begins_afresh(self):
        assert self.waits([(0.0, 5.0), (0.0, 1.0), (0.0, 1.5)]) == [0.0, 0.0, 0.5]
        assert self.waits([(0.0, 5.0), (0.0, 500.0), (0.0, 500.5)]) == [0.0, 0.0, 0.5]
        assert self.waits([(0.0, 0.0), (0.0, 9.5)]) == [0.0, 9.5]

    def test_without_timestamps_nothing_waits(self):
        assert self.waits([(0.0, None), (0.0, 1.0), (0.0, None), (0.0, 1.5)]) == [0.0, 0.0, 0.0, 0.5]
