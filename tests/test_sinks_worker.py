"""The sink's thread: back-pressure, bounded waits and memory, and a stream that outlives its sinks."""

from __future__ import annotations

import threading
import time

import pytest

from stream_ann.errors import OutputError, StreamAnnError, UsageError
from stream_ann.frames import FrameResult
from stream_ann.sinks import SinkWorker
from tests.sink_tools import make_result, picture


class GatedSink:
    """Writes a result only once it is let through."""

    name = "gated"

    def __init__(self, *, open_: bool = False, error: Exception | None = None, close_error: Exception | None = None):
        self.gate = threading.Semaphore(10**6 if open_ else 0)
        self.error = error
        self.close_error = close_error
        self.entered = threading.Semaphore(0)
        self.got: list[int] = []
        self.closed = 0
        self.threads: set[str] = set()

    def write(self, result: FrameResult) -> None:
        self.entered.release()
        assert self.gate.acquire(timeout=10)
        self.threads.add(threading.current_thread().name)
        if self.error is not None:
            raise self.error
        self.got.append(result.frame.index)

    def close(self) -> None:
        self.closed += 1
        if self.close_error is not None:
            raise self.close_error


def busy(sink: GatedSink, **options) -> SinkWorker:
    """A worker whose sink holds result 0 in its hands."""
    worker = SinkWorker(sink, **options)
    assert worker.put(make_result(index=0))
    assert sink.entered.acquire(timeout=5)
    return worker


def test_everything_is_written_in_order_and_in_another_thread():
    sink = GatedSink(open_=True)
    worker = SinkWorker(sink, capacity=2, timeout_s=5)
    assert all(worker.put(make_result(index=i)) for i in range(50))
    assert worker.close()
    assert sink.got == list(range(50))
    assert (worker.written, worker.dropped, worker.error, sink.closed) == (50, 0, None, 1)
    assert sink.threads == {"stream-ann sink gated"}
    assert worker.close()
    assert sink.closed == 1
    assert not worker.put(make_result())


def test_a_full_queue_makes_put_wait_until_there_is_room():
    sink = GatedSink()
    worker = busy(sink, capacity=1, timeout_s=10)
    worker.put(make_result(index=1))
    threading.Timer(0.05, sink.gate.release, [100]).start()
    assert worker.put(make_result(index=2))
    assert worker.close()
    assert (sink.got, worker.dropped) == ([0, 1, 2], 0)


def test_a_stuck_sink_costs_the_stream_one_timeout_only():
    sink = GatedSink()
    worker = busy(sink, capacity=1, timeout_s=0.3)
    worker.put(make_result(index=1))
    begun_s = time.monotonic()
    assert not any(worker.put(make_result(index=i)) for i in range(2, 50))
    assert 0.3 <= time.monotonic() - begun_s < 3.0  # 48 timeouts would be 14.4 s
    sink.gate.release()
    assert sink.entered.acquire(timeout=5)
    assert worker.put(make_result(index=50))
    threading.Timer(0.03, sink.gate.release, [100]).start()
    assert worker.put(make_result(index=51)), "it has moved, so it is waited for again"
    assert worker.close()
    assert (sink.got, worker.written, worker.dropped) == ([0, 1, 50, 51], 4, 48)


def test_waiting_pictures_are_bounded_in_bytes():
    sink = GatedSink()
    image = picture(100, 100)
    worker = SinkWorker(sink, capacity=100, capacity_bytes=3 * image.nbytes, timeout_s=0.01)
    worker.put(make_result(image, index=0))
    assert sink.entered.acquire(timeout=5)
    assert [worker.put(make_result(image, index=i)) for i in range(1, 5)] == [True, True, False, False]
    sink.gate.release(3)
    for _ in range(2):
        assert sink.entered.acquire(timeout=5)
    worker.put(make_result(image, index=5))
    assert sink.entered.acquire(timeout=5)
    assert [worker.put(make_result(image, index=i)) for i in range(6, 9)] == [True, True, False]
    sink.gate.release(100)
    assert worker.close()
    assert sink.got == [0, 1, 2, 5, 6, 7]


def test_one_picture_may_wait_however_large_it_is():
    sink = GatedSink()
    worker = busy(sink, capacity_bytes=1, timeout_s=0.01)
    assert worker.put(make_result(index=1))
    assert not worker.put(make_result(index=2))
    sink.gate.release(100)
    assert worker.close()
    assert sink.got == [0, 1]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OutputError("no space", "free some"), "no space; free some"),
        (ValueError("boom\nline 2"), "'gated' failed: boom"),
    ],
)
def test_a_sink_that_fails_is_detached_and_reported_once_by_the_callers_thread(error, expected):
    sink = GatedSink(error=error)
    reports: list[tuple[StreamAnnError, str]] = []
    worker = busy(sink, on_error=lambda e: reports.append((e, threading.current_thread().name)))
    worker.put(make_result(index=1))
    sink.gate.release(100)
    deadline_s = time.monotonic() + 5
    while sink.closed == 0 and time.monotonic() < deadline_s:
        time.sleep(0.001)
    assert reports == []
    assert not worker.put(make_result(index=2))
    assert not worker.put(make_result(index=3))
    assert not worker.close()
    assert [(str(e), name) for e, name in reports] == [(expected, threading.current_thread().name)]
    assert worker.error is reports[0][0]
    assert (worker.written, worker.dropped, sink.closed) == (0, 4, 1)


def test_a_sink_that_cannot_be_finished_is_an_error_too():
    reports: list[StreamAnnError] = []
    worker = SinkWorker(GatedSink(open_=True, close_error=OutputError("no space")), on_error=reports.append)
    worker.put(make_result())
    assert not worker.close()
    assert [str(e) for e in reports] == ["no space"]
    assert worker.written == 1


def test_closing_is_bounded_and_finishes_the_file_although_results_wait():
    class Slow(GatedSink):
        def write(self, result: FrameResult) -> None:
            time.sleep(0.05)
            super().write(result)

    sink = Slow(open_=True)
    worker = SinkWorker(sink)
    for i in range(40):
        worker.put(make_result(index=i))
    begun_s = time.monotonic()
    assert worker.close(timeout_s=0.4)
    assert time.monotonic() - begun_s < 0.6
    assert sink.closed == 1
    assert 1 <= len(sink.got) < 15
    assert (worker.written, worker.dropped) == (len(sink.got), 40 - len(sink.got))


def test_a_sink_that_hangs_is_given_up():
    sink = GatedSink()
    reports: list[StreamAnnError] = []
    worker = busy(sink, on_error=reports.append)
    assert not worker.close(timeout_s=0.1)
    assert [str(e).split(";")[0] for e in reports] == ["'gated' could not be finished within 0.1 s"]
    assert not worker.put(make_result())
    sink.gate.release(100)


def test_wrong_options_are_named():
    with pytest.raises(UsageError, match="1 or more, got 0"):
        SinkWorker(GatedSink(), capacity=0)
    with pytest.raises(UsageError, match="timeout_s must be 0 or more, got -1"):
        SinkWorker(GatedSink(), timeout_s=-1)
