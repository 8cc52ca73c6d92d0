"""Live classification with real video, real threads and a real (small) network."""

from __future__ import annotations

import gc
import io
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from rich.console import Console

import pipelines
from pipelines.outputs import Outputs
from pipelines.watch import watch
from stream_ann.errors import (
    DecodeError,
    OutputError,
    SourceError,
    SourceNotFoundError,
    UnknownWeightsError,
    UsageError,
)
from stream_ann.frames import Counts
from stream_ann.ingest import FakeSource
from stream_ann.scheduler import DEFAULT_PATH, chosen_path
from tests.small_weights import save_small_weights


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory) -> Path:
    """An untrained network of three cheap exits, as weights with a card."""
    return save_small_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def clip(tmp_path) -> Path:
    """One second of noise, 30 frames, 64x48."""
    path = tmp_path / "clip.mp4"
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(30):
            frame = av.VideoFrame.from_ndarray(random.integers(0, 256, (48, 64, 3), dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def pictures(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(count)]


def assert_invariant(run):
    counts = run.counts
    assert counts.frames_in == counts.results + counts.replaced + counts.corrupt


def test_a_file_in_real_time_answers_or_counts_every_frame(clip, small_weights):
    begun_s = time.monotonic()
    with pipelines.live(clip, weights=small_weights, device="cpu") as run:
        results = list(run)
    assert time.monotonic() - begun_s > 0.9  # paced by its timestamps
    assert run.counts.frames_in == 30
    assert_invariant(run)
    assert results[-1].frame.index == 29
    assert {r.label for r in results} <= {"ant", "bee", "cat", "dog", "eel"}
    assert run.stats.snapshot().counts == run.counts


def test_without_real_time_no_frame_is_lost_and_each_is_refined_to_the_end(clip, small_weights):
    with pipelines.live(clip, weights=small_weights, device="cpu", realtime=False) as run:
        results = list(run)
    assert [r.frame.index for r in results] == list(range(30))
    assert {len(r.exits) for r in results} == {3}
    assert {r.ended for r in results} == {"complete"}
    assert [r.frame.pts_s for r in results] == pytest.approx([i / 30 for i in range(30)])
    assert run.counts.replaced == 0


def test_damaged_frames_are_counted_reported_and_passed_over(small_weights):
    warnings: list[str] = []
    one, two, three = pictures(3)
    source = FakeSource([one, DecodeError("broken slice"), two, three])
    with pipelines.live(source, weights=small_weights, device="cpu", realtime=False, on_warning=warnings.append) as run:
        results = list(run)
    assert [r.frame.index for r in results] == [0, 2, 3]
    assert run.counts.corrupt == 1
    assert_invariant(run)
    assert len(warnings) == 1
    assert "broken slice" in warnings[0]


def test_a_source_that_fails_midway_gives_its_frames_and_then_its_error(small_weights):
    source = FakeSource([*pictures(2), SourceError("the cable was pulled")])
    run = pipelines.live(source, weights=small_weights, device="cpu", realtime=False)
    assert [next(run).frame.index, next(run).frame.index] == [0, 1]
    with pytest.raises(SourceError, match="the cable was pulled"):
        next(run)
    assert_invariant(run)


def test_a_frame_that_ctrl_c_cut_short_is_counted_too(small_weights, monkeypatch):
    run = pipelines.live(FakeSource(pictures(3)), weights=small_weights, device="cpu", realtime=False)
    next(run)

    def interrupted(step):
        raise KeyboardInterrupt

    monkeypatch.setattr(run.engine, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(run)
    assert run.counts.results == 1
    assert_invariant(run)


def test_temperatures_of_the_card_reach_the_engine(small_weights, tmp_path):
    for suffix in (".json", ".safetensors"):
        shutil.copy(small_weights.with_suffix(suffix), tmp_path)
    path = tmp_path / "small.json"
    card = json.loads(path.read_text())
    for step in card["steps"]:
        step["temperature"] = 1e6
    path.write_text(json.dumps(card))
    with pipelines.live(FakeSource(pictures(1)), weights=path, device="cpu", realtime=False) as run:
        (result,) = run
    assert [e.confidence for e in result.exits] == pytest.approx([0.2] * 3, abs=1e-3)


def test_max_frames_ends_the_run(clip, small_weights):
    run = pipelines.live(clip, weights=small_weights, device="cpu", realtime=False, max_frames=4)
    assert len(list(run)) == 4
    assert run.counts == Counts(frames_in=4, results=4)  # the frames behind them were read ahead, not replaced


@pytest.mark.parametrize("realtime", [False, True])
def test_figures_add_up_while_frames_wait_and_are_read_ahead(small_weights, realtime):
    with pipelines.live("pattern:64x48@200", weights=small_weights, device="cpu", realtime=realtime) as run:
        before = run.counts
        for number, _ in zip(range(20), run, strict=False):
            assert_invariant(run)  # at every result, not only at the end
            assert run.counts.results == number + 1
            assert run.counts.frames_in > before.frames_in
            before = run.counts
    assert_invariant(run)
    assert run.counts.frames_in >= before.frames_in


def test_closing_midway_stops_the_thread_and_keeps_the_count(small_weights):
    run = pipelines.live("pattern:64x48@100", weights=small_weights, device="cpu")
    next(run)
    run.close()
    run.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("stream-ann reader")]
    assert_invariant(run)


def test_dropping_the_iterator_stops_the_thread(small_weights):
    for _ in pipelines.live("pattern:64x48@100", weights=small_weights, device="cpu"):
        break
    gc.collect()
    assert not [t for t in threading.enumerate() if t.name.startswith("stream-ann reader")]


def test_stop_from_another_thread_ends_the_loop(small_weights):
    run = pipelines.live("pattern:64x48@100", weights=small_weights, device="cpu")
    threading.Timer(0.2, run.stop).start()
    results = list(run)
    assert results
    assert_invariant(run)


def test_deadline_confidence_readout_and_top_k_reach_the_scheduler(small_weights):
    source = FakeSource(pictures(3))
    with pipelines.live(
        source, weights=small_weights, device="cpu", realtime=False, confidence=0.001, readout="average", top_k=2
    ) as run:
        results = list(run)
    assert {r.ended for r in results} == {"confident"}
    assert {len(r.exits) for r in results} == {1}
    assert {len(r.top) for r in results} == {2}
    with pipelines.live(
        FakeSource(pictures(2)), weights=small_weights, device="cpu", realtime=False, deadline_ms=1e-6
    ) as run:
        assert {r.ended for r in run} == {"deadline"}


def test_the_readout_is_an_average_where_the_card_has_weights_for_it(small_weights, tmp_path):
    shutil.copytree(small_weights.parent, tmp_path / "weights")
    path = tmp_path / "weights" / small_weights.name

    def said(**readout: Any) -> float:
        options: dict[str, Any] = {"device": "cpu", "realtime": False, "path": "in-order", **readout}
        with pipelines.live(FakeSource(pictures(1)), weights=path, **options) as run:
            return next(iter(run)).confidence

    assert said() == said(readout="latest") != said(readout="average")
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, "readout_weights": [9, 1, 1]}))
    assert said() == said(readout="average") != said(readout="latest")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"top_k": 0}, UsageError, "top-k must be at least 1, got 0"),
        ({"threads": 0}, UsageError, "threads must be from 1 to 1024, got 0"),
        ({"threads": 100_000}, UsageError, "threads must be from 1 to 1024, got 100000"),
        ({"max_frames": 0}, UsageError, "max-frames must be at least 1, got 0"),
        ({"deadline_ms": -5}, UsageError, "deadline must be more than 0 ms, got -5"),
        ({"confidence": 2}, UsageError, "confidence must be above 0 and at most 1, got 2"),
        ({"readout": "newest"}, UsageError, "no readout is called 'newest'"),
        ({"readout": "best"}, UsageError, "needs the validated accuracy of every exit"),
        ({"weights": "imagenett"}, UnknownWeightsError, "did you mean 'imagenet'"),
    ],
)
def test_bad_options_are_named(options, error, message, small_weights):
    with pytest.raises(error, match=message):
        pipelines.live(FakeSource(pictures(1)), **{"weights": small_weights, "device": "cpu"} | options)


def test_a_missing_file_fails_at_once(small_weights, tmp_path):
    with pytest.raises(SourceNotFoundError, match="no file or folder"):
        pipelines.live(tmp_path / "nothing.mp4", weights=small_weights)


def test_a_file_that_is_no_video_fails_before_the_first_frame(small_weights, tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("this is no video")
    with pytest.raises(SourceError, match=r"text\.mp4"):
        pipelines.live(path, weights=small_weights, device="cpu")


class TestSeveralSources:
    def test_every_frame_of_every_source_is_answered_or_counted(self, clip, small_weights):
        with pipelines.live([clip, "pattern:64x48@50", clip], weights=small_weights, device="cpu") as run:
            assert run.sources == (run.sources[0], "pattern:64x48@50", f"{run.sources[0]} (2)")
            seen: dict[str, int] = {}
            while min(seen.get(name, 0) for name in run.sources) < 5:
                result = next(run)
                seen[result.frame.source] = seen.get(result.frame.source, 0) + 1
        assert_invariant(run)
        statuses = run.statuses()
        assert [status.source for status in statuses] == list(run.sources)
        for status in statuses:
            counts = status.stats.counts
            assert counts.results == seen[status.source]
            assert counts.frames_in == counts.results + counts.replaced + counts.corrupt
        assert run.counts.results == sum(seen.values())

    def test_one_that_fails_is_left_out_with_a_warning(self, small_weights):
        warnings: list[str] = []
        sources = [
            FakeSource(pictures(8), name="good"),
            FakeSource([*pictures(1), SourceError("the cable was pulled")], name="bad"),
            FakeSource([], name="never", open_error=SourceError("no such camera")),
        ]
        with pipelines.live(
            sources, weights=small_weights, device="cpu", realtime=False, on_warning=warnings.append
        ) as run:
            results = list(run)
        assert sorted(r.frame.source for r in results) == ["bad"] + ["good"] * 8
        assert len(warnings) == 2
        assert any("the cable was pulled; 'bad' is not used any more" in line for line in warnings)
        assert [str(error) for error in run.errors] == ["the cable was pulled", "no such camera"]
        assert_invariant(run)

    def test_when_none_can_be_opened_that_is_an_error(self, small_weights):
        sources = [FakeSource([], name=name, open_error=SourceError(f"no {name}")) for name in ("one", "two")]
        with pytest.raises(SourceError, match="no one"):
            pipelines.live(sources, weights=small_weights, device="cpu")

    def test_no_source_and_a_background_for_several_make_no_sense(self, small_weights):
        with pytest.raises(UsageError, match="at least one source, got none"):
            pipelines.live([], weights=small_weights)
        with pytest.raises(UsageError, match="background is for one source, got 2"):
            pipelines.live(["demo", "demo"], weights=small_weights, background_refine=True)

    def test_events_name_their_source(self, small_weights, tmp_path):
        sources = [FakeSource(pictures(3), name="left"), FakeSource(pictures(4), name="right")]
        run = pipelines.live(sources, weights=small_weights, device="cpu", realtime=False)
        events = tmp_path / "out.jsonl"
        watch(run, console=Console(file=io.StringIO(), width=100), view="none", outputs=Outputs((str(events),)))
        lines = [json.loads(line) for line in events.read_text().splitlines()]
        for name, count in (("left", 3), ("right", 4)):
            assert [line["frame"] for line in lines if line["source"] == name] == list(range(count))


@pytest.mark.parametrize(
    "options", [{}, {"path": "in-order"}, {"path": "planned"}, {"background_refine": True}, {"queue_depth": 2}]
)
def test_every_way_of_spending_the_time_answers_every_frame(options, clip, small_weights):
    with pipelines.live(clip, weights=small_weights, device="cpu", **options) as run:
        results = list(run)
    assert_invariant(run)
    assert results[-1].frame.index == 29


class TestWhichPath:
    """What runs where nobody has said, and what does not go together."""

    def carried(self, small_weights: Path, **options) -> set[bool]:
        """Whether answers are joined to those of earlier frames, over frames of one scene."""
        source = FakeSource(pictures(1) * 40, [0.005] * 40)
        with pipelines.live(source, weights=small_weights, device="cpu", **options) as run:
            return {result.carried > 0 for result in list(run)[5:]}

    def test_answers_of_a_scene_are_joined_unless_told_otherwise(self, small_weights):
        assert self.carried(small_weights) == {True}

    @pytest.mark.parametrize("options", [{"path": "in-order"}, {"readout": "latest"}, {"realtime": False}])
    def test_and_else_are_not(self, small_weights, options):
        assert self.carried(small_weights, **options) == {False}

    def test_a_readout_and_the_background_take_steps_in_order(self):
        assert chosen_path(None) == DEFAULT_PATH == "scene"
        assert chosen_path(None, readout="average") == "in-order"
        assert chosen_path(None, background=True) == "in-order"
        assert chosen_path(None, sources=2) == "in-order"
        assert chosen_path("scene", sources=2) == "scene"
        assert chosen_path("planned", readout="best", background=True) == "planned"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"readout": "latest"}, "policy scene joins all exits, so that readout latest has no say"),
            ({"background_refine": True}, "policy scene remembers deep answers itself"),
        ],
    )
    def test_what_scene_does_not_go_with(self, small_weights, options, message):
        with pytest.raises(UsageError, match=message):
            pipelines.live(FakeSource(pictures(1)), weights=small_weights, path="scene", **options)

    def test_a_view_is_told_what_is_carried(self, small_weights):
        source = FakeSource(pictures(1) * 40, [0.005] * 40)
        with pipelines.live(source, weights=small_weights, device="cpu") as run:
            for number, result in enumerate(run):
                status = run.status()
                if number > 5:
                    assert status.carried == result.carried > 0
                    assert status.key_frame == result.key_frame


class TestWatch:
    def console(self) -> Console:
        return Console(file=io.StringIO(), width=100)

    def test_events_and_recording_hold_every_result(self, clip, small_weights, tmp_path):
        run = pipelines.live(clip, weights=small_weights, device="cpu", realtime=False)
        video, events = tmp_path / "out.mp4", tmp_path / "out.jsonl"
        summary = watch(run, console=self.console(), view="none", outputs=Outputs((str(events),), record=video))
        lines = [json.loads(line) for line in events.read_text().splitlines()]
        assert [line["frame"] for line in lines] == list(range(30))
        with av.open(str(video)) as container:
            times_s = [frame.time for frame in container.decode(video=0)]
        assert times_s == pytest.approx([i / 30 for i in range(30)], abs=1e-3)
        assert summary.stats.counts.results == 30
        assert summary.dropped == {}
        assert not summary.interrupted

    def test_an_output_that_cannot_be_written_fails_before_the_run(self, clip, small_weights, tmp_path):
        run = pipelines.live(clip, weights=small_weights, device="cpu", realtime=False)
        with pytest.raises(OutputError, match="nowhere"):
            watch(run, console=self.console(), outputs=Outputs(record=tmp_path / "nowhere" / "out.mp4"))

    def test_an_unknown_view_is_named(self, clip, small_weights):
        run = pipelines.live(clip, weights=small_weights, device="cpu", realtime=False)
        with run, pytest.raises(UsageError, match="no view is called 'windw'"):
            watch(run, console=self.console(), view="windw")
