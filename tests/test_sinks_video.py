"""Recording: true times, files that play however the run ends, and every size."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ann.errors import OutputError, UsageError
from stream_ann.sinks import VideoSink
from stream_ann.sinks.timeline import Timeline
from tests.sink_tools import make_result, picture, start_script

KINDS = ["mp4", "mkv", "webm"]


def plain(result):
    return result.frame.image


def smooth(width: int, height: int, shift: int = 0) -> np.ndarray:
    """A gradient: survives encoding nearly unchanged, and shows in which order frames came."""
    x = np.linspace(30, 220, width)[None, :, None]
    y = np.linspace(-20, 20, height)[:, None, None]
    return np.clip(x + y + shift + np.zeros((1, 1, 3)), 0, 255).astype(np.uint8)


def record(path: Path, times_s: Sequence[float | None], *, width: int = 64, height: int = 48, **options) -> VideoSink:
    sink = VideoSink(path, draw=plain, **options)
    for i, pts_s in enumerate(times_s):
        sink.write(make_result(smooth(width, height, i % 20), index=i, pts_s=pts_s, arrival_s=50.0 + i * 0.1))
    sink.close()
    return sink


def decoded(path: Path, *, cut: bool = False) -> tuple[list[float], list[np.ndarray]]:
    """Times and pictures of a whole video; with ``cut``, up to where it may have been cut off."""
    times, pictures = [], []
    with av.open(str(path)) as container, contextlib.suppress(*([av.FFmpegError] if cut else [])):
        for frame in container.decode(video=0):
            assert frame.pts is not None
            assert frame.time_base is not None
            times.append(float(frame.pts * frame.time_base))
            pictures.append(frame.to_ndarray(format="rgb24"))
    return times, pictures


@pytest.mark.parametrize("kind", KINDS)
def test_variable_frame_rates_survive_to_the_millisecond(tmp_path, kind):
    steps = np.random.default_rng(1).choice([1 / 60, 1 / 24, 0.1001, 0.25], 60)
    times_s = [float(t) for t in 12.34 + np.cumsum(steps)]
    record(tmp_path / f"v.{kind}", times_s)
    got, pictures = decoded(tmp_path / f"v.{kind}")
    assert len(got) == len(times_s)
    assert got == pytest.approx([t - times_s[0] for t in times_s], abs=1e-3)
    for i in (0, 7, 59):
        assert np.abs(pictures[i].astype(int) - smooth(64, 48, i % 20)).mean() < 4


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_plain_enough_for_ordinary_players(tmp_path, kind):
    path = tmp_path / f"v.{kind}"
    record(path, [i / 25 for i in range(75)], width=320, height=240)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.codec.canonical_name == ("vp9" if kind == "webm" else "h264")
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.codec_context.profile in (("Profile 0",) if kind == "webm" else ("High", "Main"))
        assert not stream.codec_context.has_b_frames
        assert (stream.codec_context.color_range, stream.codec_context.colorspace) == (1, 6)
        packets = [p for p in container.demux(stream) if p.pts is not None]
        keys = [float((p.pts or 0) * p.time_base) for p in packets if p.is_keyframe]
    assert keys[0] == 0
    assert max(np.diff(keys)) <= 1.001
    with av.open(str(path)) as container:
        assert container.duration is not None
        assert container.duration / 1e6 == pytest.approx(
            3.0, abs=0.011
        )  # the last frame is shown as long as the others


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_colours_are_true(tmp_path, kind):
    path = tmp_path / f"c.{kind}"
    colours = np.array([(230, 159, 0), (0, 114, 178), (255, 255, 255), (12, 15, 21)], np.uint8)
    image = np.repeat(np.repeat(colours[None], 64, axis=0), 32, axis=1)
    sink = VideoSink(path, draw=plain)
    sink.write(make_result(image))
    sink.close()
    _, (got,) = decoded(path)
    assert np.abs(got[32, 16::32].astype(int) - colours).max() <= 6


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (63, 47), (641, 361), (3, 100)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_odd_and_tiny_sizes(tmp_path, kind, size):
    width, height = size
    record(tmp_path / f"v.{kind}", [0.0, 0.1, 0.2], width=width, height=height)
    _, pictures = decoded(tmp_path / f"v.{kind}")
    assert [p.shape for p in pictures] == [(height + height % 2, width + width % 2, 3)] * 3
    if width > 60:
        last = pictures[0].astype(int)
        assert np.abs(last[:, -1] - last[:, -2]).mean() < 4


def test_another_size_midway_is_fitted_in_and_counted(tmp_path):
    path = tmp_path / "v.mp4"
    sink = VideoSink(path, draw=plain)
    for i, (width, height) in enumerate([(64, 48), (64, 48), (48, 96), (640, 480), (64, 48)]):
        sink.write(make_result(np.full((height, width, 3), 200, np.uint8), pts_s=i / 10))
    sink.close()
    assert (sink.frames, sink.resized) == (5, 2)
    _, pictures = decoded(path)
    assert {p.shape for p in pictures} == {(48, 64, 3)}
    assert pictures[2][:, 32].min() > 180, "upright and full height"
    assert pictures[2][:, :16].max() < 40, "between black bars"
    assert pictures[3].min() > 180, "same shape: no bars"


def test_the_picture_is_the_one_drawn(tmp_path):
    sink = VideoSink(tmp_path / "v.mkv", draw=lambda result: 255 - result.frame.image)
    sink.write(make_result(np.full((48, 64, 3), 55, np.uint8)))
    sink.close()
    _, (got,) = decoded(tmp_path / "v.mkv")
    assert np.abs(got.astype(int) - 200).max() <= 3


def test_an_earlier_file_is_kept_beside_the_new_one(tmp_path):
    path = tmp_path / "v.mp4"
    record(path, [0.0, 0.1])
    sink = VideoSink(path, draw=plain)
    sink.close()
    sink.close()
    assert sink.previous is None
    assert len(decoded(path)[0]) == 2, "a run without frames changes nothing"
    assert record(path, [0.0, 0.1, 0.2]).previous == tmp_path / "v.previous.mp4"
    assert len(decoded(tmp_path / "v.previous.mp4")[0]) == 2
    assert len(decoded(path)[0]) == 3
    with pytest.raises(OutputError, match="closed already"):
        sink.write(make_result())


def test_wrong_paths_fail_before_the_first_frame(tmp_path):
    with pytest.raises(UsageError, match=r"with '\.avi'; name the file \.mp4, \.mkv or \.webm"):
        VideoSink(tmp_path / "v.avi", draw=plain)
    with pytest.raises(UsageError, match="no extension"):
        VideoSink(tmp_path / "video", draw=plain)
    with pytest.raises(UsageError, match="crf must be 0 to 51, got 99"):
        VideoSink(tmp_path / "v.mp4", draw=plain, crf=99)
    with pytest.raises(OutputError, match="there is no folder"):
        VideoSink(tmp_path / "nowhere" / "v.mp4", draw=plain)
    assert list(tmp_path.iterdir()) == []


def test_a_name_with_a_colon_is_a_file_and_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record(Path("tcp:12.mp4"), [0.0, 0.1])
    assert len(decoded(tmp_path / "tcp:12.mp4")[0]) == 2


RECORDER = """
import sys
import numpy as np
from stream_ann.sinks import VideoSink
from tests.sink_tools import make_result, picture
sink = VideoSink(sys.argv[1], draw=lambda result: result.frame.image)
image = picture(96, 64)
for i in range(100_000):
    sink.write(make_result(np.roll(image, i, 1), index=i, pts_s=i / 30))
    print(i, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_leaves_a_video_without_its_last_second_or_two(tmp_path, kind):
    path = tmp_path / f"v.{kind}"
    process = start_script(RECORDER, str(path))
    assert process.stdout is not None
    written = 0
    for line in process.stdout:
        written = int(line) + 1
        if written == 200:
            process.send_signal(signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    times, _ = decoded(path, cut=True)
    assert written - 61 <= len(times) <= written + 1
    assert times == pytest.approx([i / 30 for i in range(len(times))], abs=1e-3)


CROWDED = """
import resource, sys
import numpy as np
from stream_ann.errors import OutputError
from stream_ann.sinks import VideoSink
from tests.sink_tools import make_result, picture
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
sink = VideoSink(sys.argv[1], draw=lambda result: result.frame.image)
for i in range(2000):
    try:
        sink.write(make_result(picture(96, 64, seed=i % 5), index=i, pts_s=i / 30))
    except OutputError as error:
        print(i, error)
        break
sink.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on file sizes")
@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_a_disk_that_fills_up_midway_leaves_what_fitted(tmp_path, kind):
    path = tmp_path / f"v.{kind}"
    out, err = start_script(CROWDED, str(path)).communicate(timeout=60)
    assert err == ""
    tried, message = out.split(maxsplit=1)
    assert message.startswith(f"cannot write '{path}': file too large; raise the limit on file sizes")
    times, _ = decoded(path)
    assert int(tried) - 61 <= len(times)
    assert len(times) > 10


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_named(tmp_path, kind):
    path = tmp_path / f"v.{kind}"
    path.symlink_to("/dev/full")
    sink = VideoSink(path, draw=plain)

    def fill() -> None:
        for i in range(100):
            sink.write(make_result(picture(96, 64, seed=i), pts_s=i / 10))

    with pytest.raises(OutputError, match=r"cannot write '.*': no space left on device; free some space"):
        fill()
    sink.close()
    assert path.is_symlink()


def times_of(values: Sequence[tuple[float | None, float]], tick_s: float = 1e-3) -> list[float]:
    timeline = Timeline(tick_s)
    return [timeline.next_s(pts_s, arrival_s) for pts_s, arrival_s in values]


def test_timeline_of_a_source_that_loops():
    loop = [(0.5 + i * 0.1, 7.0) for i in range(5)] * 2
    assert times_of(loop) == pytest.approx([i * 0.1 for i in range(10)])


def test_timeline_keeps_true_times_after_a_duplicate():
    assert times_of([(t, 0) for t in (0.0, 0.1, 0.1, 0.2, 0.3)]) == pytest.approx([0.0, 0.1, 0.101, 0.2, 0.3])


def test_timeline_of_a_source_whose_time_stands_still():
    got = times_of([(5.0, i * 0.02) for i in range(6)])
    assert got[-1] >= 0.04
    assert all(b > a for a, b in pairwise(got))


def test_timeline_falls_back_on_arrival_and_comes_back():
    values = [(None, 100.0), (None, 100.2), (None, 100.3), (9.0, 100.4), (9.1, 100.5), (None, 100.6)]
    assert times_of(values) == pytest.approx([0.0, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert times_of([(float("nan"), 1.0), (float("inf"), 1.25)]) == pytest.approx([0.0, 0.25])


def test_timeline_keeps_pauses_but_not_absurd_ones():
    assert times_of([(0.0, 0), (0.1, 0), (600.0, 0)]) == pytest.approx([0.0, 0.1, 600.0])
    assert times_of([(0.0, 0), (0.1, 0), (95_443.7, 0), (95_443.8, 0)]) == pytest.approx([0.0, 0.1, 0.2, 0.3])


@given(
    st.lists(st.tuples(st.none() | st.floats(), st.floats(0, 1e6)), max_size=30),
)
def test_timeline_always_starts_at_0_and_increases(values):
    got = times_of(values)
    assert got[:1] in ([], [0.0])
    assert all(b - a > 0.99e-3 for a, b in pairwise(got))
