"""Network cameras, with a real server that can do everything wrong that real ones do."""

from __future__ import annotations

import gc
import random
import socket
import time
from collections.abc import Iterator

import av
import numpy as np
import pytest

from benchmarks.camera import AccessUnit, Faults, RtspCamera, encode_pattern
from stream_ann.errors import (
    AccessDeniedError,
    DisconnectedError,
    SourceNotFoundError,
    SourceTimeoutError,
    UnreachableError,
    UnsupportedSourceError,
)
from stream_ann.ingest import NetworkSource, SourceUrl, source_from
from stream_ann.ingest.pattern import frame_number
from tests.cameras import Watched, quick

PASSWORD = "se@cr/et?pa#ss"


@pytest.fixture(scope="module")
def units() -> list[AccessUnit]:
    return encode_pattern(size_px=(320, 240), frames=100, gop=25)


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that nothing else will take meanwhile, for it is bound, but on which nothing listens."""
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def numbers(frames) -> list[int]:
    return [frame_number(frame.image) for frame in frames]


class TestLive:
    def test_frames_come_whole_and_in_order_with_the_states_around_them(self, units):
        with RtspCamera(units) as camera, Watched(camera.url) as it:
            frames = it.more_frames(30)
            assert it.reader.state.state == "live"
        assert it.names == ["connecting", "live", "ended"]
        assert [change.attempt for change in it.states] == [1, 0, 0]
        assert {frame.source for frame in frames} == {camera.url}
        assert all(later > earlier for earlier, later in zip(numbers(frames), numbers(frames)[1:], strict=False))
        assert [f.index for f in frames] == numbers(frames), "frames are numbered as they were sent"
        assert [f.pts_s for f in frames] == pytest.approx([f.index / 25 for f in frames]), "the first has a time, too"
        assert not any(frame.suspect for frame in frames)
        assert it.warnings == []
        assert it.reader.counts.frames_in == it.slot.counts.put

    def test_joining_between_two_key_frames_waits_for_the_next(self, units):
        with RtspCamera(units, first_unit=7) as camera, Watched(camera.url) as it:
            frames = it.more_frames(5)
        assert numbers(frames[:1]) == [25], "nothing can be told before the first key frame"
        assert numbers(frames) == sorted(numbers(frames))
        assert not any(frame.suspect for frame in frames)

    def test_the_newest_frame_wins_however_slow_the_consumer(self, units):
        # no matter how long nobody looks, what is taken then is what the camera has just sent
        with RtspCamera(units) as camera, Watched(camera.url) as it:
            it.more_frames(1)
            behind = []
            for _ in range(3):
                time.sleep(0.8)
                taken = it.slot.take(5.0)
                assert taken is not None
                behind.append(len(camera.sent_s) - 1 - taken.frame.index)
                assert taken.replaced_before > 3
        # one frame for libav's parser, the rest for a busy machine; a queue would hold 20 for each time, and more
        assert max(behind) <= 8, behind

    @pytest.mark.parametrize("step_s", [-0.04, 100.0], ids=["backwards", "leaps"])
    def test_timestamps_that_jump_label_frames_and_do_no_harm(self, units, step_s: float):
        def timestamp(number: int) -> float:
            return 1000.0 + number / 25 if number < 15 else 1000.0 + 15 / 25 + step_s * (number - 14)

        with RtspCamera(units, faults=Faults(timestamp=timestamp)) as camera, Watched(camera.url) as it:
            frames = it.more_frames(40)
            assert it.reader.state.state == "live"
        assert it.names == ["connecting", "live", "ended"]
        assert numbers(frames) == sorted(numbers(frames))
        times_s = [frame.pts_s for frame in frames[-10:] if frame.pts_s is not None]
        assert len(times_s) == 10
        assert (times_s == sorted(times_s)) is (step_s > 0)
        assert frames[-1].arrival_s - frames[-10].arrival_s < 30, "it was not waited for"


class TestLoss:
    def test_every_wrong_picture_is_marked_until_the_next_key_frame(self, units):
        clean = _decoded(units)
        chance = random.Random(3)
        faults = Faults(drop=lambda number, _: number > 2 and chance.random() < 0.02)
        with RtspCamera(units, fps=50, faults=faults) as camera:
            source = source_from(camera.url, quick())
            assert isinstance(source, NetworkSource)
            source.open()
            pictures = {}
            while max(pictures, default=0) < 99:
                picture = source.read()
                assert picture is not None
                pictures[round((picture.pts_s or 0.0) * 50)] = picture
            source.close()
        wrong = {i for i, p in pictures.items() if np.abs(p.image.astype(int) - clean[i % 100]).max() > 40}
        marked = {i for i, p in pictures.items() if p.suspect}
        assert wrong, "nothing was lost that shows"
        assert wrong <= marked
        # and no more than that: marked frames run from a loss to the key frame behind it, which is whole again
        first_lost = min(set(range(max(pictures))) - set(pictures), default=min(wrong))
        assert all(i >= min(first_lost, min(wrong)) for i in marked)
        assert not any(pictures[i].suspect for i in pictures if i % 25 == 0 and i not in wrong)

    def test_a_lost_frame_is_noticed_though_its_decoder_says_nothing(self, units):
        faults = Faults(drop=lambda number, _: number == 10)
        with RtspCamera(units, fps=50, faults=faults) as camera, Watched(camera.url) as it:
            it.until(lambda: it.frames and it.frames[-1].index > 40)
        marked = [n for n, frame in zip(numbers(it.frames), it.frames, strict=True) if frame.suspect]
        assert marked
        assert set(marked) <= {9, *range(11, 25)}, "libav flags the frame before the gap, too"
        assert not {n for n in numbers(it.frames) if 11 <= n < 25} - set(marked)


def _decoded(units: list[AccessUnit]) -> list[np.ndarray]:
    """What the decoder makes of the frames when nothing is lost, each int [H, W, 3]."""
    decoder = av.CodecContext.create("h264", "r")
    frames = []
    for unit in units:
        frames += decoder.decode(av.Packet(b"".join(b"\0\0\0\1" + nal for nal in unit)))
    return [frame.to_ndarray(format="rgb24").astype(int) for frame in frames]


class TestComingBack:
    def test_one_that_is_not_there_yet_is_waited_for(self, units, free_port: int):
        with Watched(f"rtsp://127.0.0.1:{free_port}/live") as it:
            it.until(lambda: it.reader.state.attempt > 2)
            assert it.reader.state.state == "connecting"
            assert "nothing listens at" in it.reader.state.why
            with RtspCamera(units, port=free_port):
                it.until_state("live")
                assert it.more_frames(5)
                # told once for one reason, however many attempts
                assert it.names == ["connecting", "connecting", "live"]
                assert len(it.warnings) == 1

    def test_one_that_was_killed_comes_back_with_another_size(self, units):
        with RtspCamera(units) as camera, Watched(camera.url) as it:
            before = it.more_frames(10)[-1]
            camera.stop()
            change = it.until_state("reconnecting")
            it.until(lambda: "nothing listens" in it.reader.state.why)
            other = encode_pattern(size_px=(480, 320), frames=50)
            with RtspCamera(other, port=camera.port):
                it.until_state("live")
                after = it.more_frames(10)
        assert "was lost" in change.why
        assert (before.image.shape, after[-1].image.shape) == ((240, 320, 3), (320, 480, 3))
        assert numbers(after)[0] < 5, "it begins with the first key frame, without leftovers"
        assert after[0].index > before.index, "frames are numbered on"
        assert not any(frame.suspect for frame in after)

    @pytest.mark.parametrize("faults", [Faults(close_after=15), Faults(reset_after=15)], ids=["closed", "reset"])
    def test_a_connection_that_breaks_is_made_anew(self, units, faults: Faults):
        with RtspCamera(units, faults=faults) as camera, Watched(camera.url) as it:
            it.until_state("live", "reconnecting", "live", "reconnecting", "live")
            assert it.more_frames(3)
        assert camera.connections >= 3
        assert all("was lost" in change.why for change in it.states if change.state == "reconnecting")

    def test_a_stall_is_said_and_then_ended(self, units):
        with RtspCamera(units, faults=Faults(stall_after=15)) as camera, Watched(camera.url) as it:
            it.until_state("live", "stalled")
            stalled = it.reader.state
            it.until_state("reconnecting", "live")
        assert "no picture for" in stalled.why
        reconnecting = next(change for change in it.states if change.state == "reconnecting")
        assert "gave no picture for 1.5 s" in reconnecting.why
        # not the two timeouts that libav takes, since it holds a packet back for the first one
        assert reconnecting.since_s - stalled.since_s < 1.5

    def test_one_that_takes_connections_and_says_nothing(self, units):
        options = quick(connect_timeout_s=0.5)
        with RtspCamera(units, faults=Faults(silent=True)) as camera, Watched(camera.url, options) as it:
            it.until(lambda: it.reader.state.attempt > 1)
            assert it.reader.state.state == "connecting"
            assert "did not answer within 0.5 s" in it.reader.state.why
            camera.faults = Faults()
            it.until_state("live")

    def test_a_server_with_an_error_of_its_own_is_tried_again(self, units):
        with RtspCamera(units, faults=Faults(status="503 Service Unavailable")) as camera, Watched(camera.url) as it:
            it.until(lambda: "error of its own" in it.reader.state.why)
            camera.faults = Faults()
            it.until_state("live")


def test_frames_are_let_go_as_soon_as_they_are_pictures(units):
    """Or megabytes of them pile up until the collector comes by."""

    def alive() -> int:
        return sum(type(thing) is av.VideoFrame for thing in gc.get_objects())

    gc.collect()
    before = alive()
    gc.disable()  # however seldom it comes by itself
    try:
        with RtspCamera(units) as camera:
            source = source_from(camera.url, quick())
            source.open()
            for _ in range(20):
                source.read()
            left = alive() - before
            source.close()
    finally:
        gc.enable()
    assert left <= 3, "the first one, and those that the source still works on"


class TestRefused:
    """What is said, and tried again slowly: these states must not change for a while."""

    def refused(self, url: str, words: str, **options) -> Watched:
        with Watched(url, quick(**options)) as it:
            it.until_state("refused")
            assert words in it.reader.state.why
            time.sleep(0.3)
            assert (it.reader.state.state, it.reader.state.attempt) == ("refused", 2)
        assert it.names == ["connecting", "refused", "ended"]
        assert len(it.warnings) == 1
        return it

    @pytest.mark.parametrize("password", [PASSWORD + "x", "50%off", "p:w"])
    def test_a_wrong_password(self, units, password: str):
        with RtspCamera(units, password=PASSWORD) as camera:
            it = self.refused(camera.url_for("me", password), "takes another user name or password")
        assert password not in repr((it.states, it.warnings, it.source.name))
        assert "me:***@127.0.0.1" in it.states[1].why

    def test_no_password(self, units):
        with RtspCamera(units, password=PASSWORD) as camera:
            it = self.refused(camera.url, "wants a user name and a password")
        assert "write rtsp://USER:PASSWORD@" in it.warnings[0]

    def test_a_path_that_is_not_there(self, units):
        with RtspCamera(units) as camera:
            self.refused(camera.url + "x", "there is no stream at")

    def test_a_transport_that_is_not_offered(self, units):
        with RtspCamera(units) as camera:
            it = self.refused(camera.url, "does not offer this transport", transport="udp")
        assert "--transport tcp" in it.warnings[0]

    @pytest.mark.parametrize("password", [PASSWORD, "50%off", "p:w", "plain", "%41"])
    def test_the_right_password_opens_it_however_it_is_written(self, units, password: str):
        meant = "A" if password == "%41" else password
        with RtspCamera(units, password=meant) as camera, Watched(camera.url_for("me", password)) as it:
            it.until_state("live")
        assert "***" in it.source.name


class TestGivingUp:
    def test_at_once_if_nothing_is_to_be_tried_again(self, free_port: int):
        with Watched(f"rtsp://127.0.0.1:{free_port}/live", quick(reconnect_attempts=0)) as it:
            with pytest.raises(UnreachableError, match="nothing listens at"):
                it.reader.wait_opened(10)
            it.until(lambda: it.error)
        assert isinstance(it.error, UnreachableError)
        assert it.names == ["connecting", "ended"]
        assert "nothing listens" in it.states[-1].why

    def test_after_so_many_attempts_in_a_row(self, units):
        with RtspCamera(units) as camera, Watched(camera.url, quick(reconnect_attempts=2)) as it:
            it.more_frames(3)
            camera.stop()
            it.until(lambda: it.error)
        assert isinstance(it.error, UnreachableError)
        assert it.names == ["connecting", "live", "reconnecting", "reconnecting", "ended"]

    def test_a_lost_connection_is_the_end_if_nothing_is_to_be_tried_again(self, units):
        options = quick(reconnect_attempts=0)
        with RtspCamera(units, faults=Faults(close_after=15)) as camera, Watched(camera.url, options) as it:
            it.until(lambda: it.error)
        assert isinstance(it.error, DisconnectedError)
        assert it.names == ["connecting", "live", "ended"]


class TestStopping:
    @pytest.mark.parametrize(
        "faults", [Faults(silent=True), Faults(stall_after=15), Faults()], ids=["connecting", "stalled", "live"]
    )
    def test_nobody_waits_for_libav(self, units, faults: Faults):
        with RtspCamera(units, faults=faults) as camera, Watched(camera.url) as it:
            it.until(lambda: faults.silent or it.frames)
            if faults.stall_after:
                it.until(lambda: len(camera.sent_s) >= 15)
            begun_s = time.monotonic()
            it.reader.stop(0.2)
            assert time.monotonic() - begun_s < 1.5
        assert it.error is None
        assert it.names[-1] == "ended"  # leaving the context waits until the thread has gone, too


class TestErrors:
    """The errors as they come out of the source itself, without anything that libav has said."""

    @pytest.mark.parametrize(
        ("server", "path", "kind"),
        [
            ({"password": "other"}, "live", AccessDeniedError),
            ({}, "nothing", SourceNotFoundError),
            ({"faults": Faults(silent=True)}, "live", SourceTimeoutError),
        ],
    )
    def test_keep_no_trace_of_the_password(self, units, server, path, kind):
        with RtspCamera(units, **server) as camera:
            source = NetworkSource(
                SourceUrl(f"rtsp://me:{PASSWORD}@127.0.0.1:{camera.port}/{path}"), quick(connect_timeout_s=0.5)
            )
            with pytest.raises(kind) as caught:
                source.open()
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
        assert PASSWORD not in repr(caught.value) + repr(source._url)
        assert "me:***@127.0.0.1" in str(caught.value)

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("rtsp://nowhere.invalid/live", "no machine of the name"),
            ("http://nowhere.invalid/a.m3u8", "no machine of the name"),
        ],
    )
    def test_a_name_that_is_not_known(self, url: str, words: str):
        with pytest.raises(UnreachableError, match=words):
            NetworkSource(SourceUrl(url), quick()).open()

    def test_other_schemes_are_refused(self):
        with pytest.raises(UnsupportedSourceError, match="'srt' is none of rtsp, rtsps, http, https"):
            NetworkSource(SourceUrl("srt://me:secret@host/x"))
