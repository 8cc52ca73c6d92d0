"""Views and outputs of whole runs: which view is taken, and that any number of outputs work beside it."""

from __future__ import annotations

import io
import json
import re
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import pipelines
from pipelines import views as views_module
from pipelines.outputs import LOSSLESS_PUT_TIMEOUT_S, Attached, Outputs
from pipelines.views import Serving, Views, choose_view
from pipelines.watch import watch
from stream_ann.errors import MissingExtraError, OutputError, UsageError
from stream_ann.ingest import FakeSource
from stream_ann.overlay import Overlay, draw_statuses
from stream_ann.overlay.banner import WARNING, draw_badge, draw_banner
from stream_ann.packets import CodedPacket
from stream_ann.painting import Mask, text_mask
from stream_ann.sinks import JsonlSink, SnapshotOptions
from tests.small_weights import save_small_weights
from tests.videos import encode, numbered
from tests.web_tools import EXITS, Client, FakeRun


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory) -> Path:
    return save_small_weights(tmp_path_factory.mktemp("weights"))


def console(*, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=200, force_terminal=terminal, legacy_windows=False)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def a_run(weights: Path, *sources, **options):
    return pipelines.live(list(sources), weights=weights, device="cpu", realtime=False, **options)


class TestChoice:
    @pytest.fixture(autouse=True)
    def _plain(self, monkeypatch):
        monkeypatch.delenv("SSH_CONNECTION", raising=False)
        monkeypatch.setattr(views_module, "window_problem", lambda: None)

    def test_a_display_and_a_terminal_make_a_window(self):
        name, why = choose_view("auto", terminal=True)
        assert name == "window"
        assert "as there is a display" in why

    def test_without_a_display_it_is_the_terminal(self, monkeypatch):
        monkeypatch.setattr(views_module, "window_problem", lambda: ("there is no display", "use another view"))
        name, why = choose_view("auto", terminal=True)
        assert name == "terminal"
        assert "as there is no display" in why
        assert "--view web" in why

    def test_over_a_remote_connection_it_is_the_terminal(self, monkeypatch):
        monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22")
        assert choose_view("auto", terminal=True)[0] == "terminal"

    def test_where_nobody_looks_it_is_none(self):
        name, why = choose_view("auto", terminal=False)
        assert name == "none"
        assert "no terminal" in why

    @pytest.mark.parametrize("name", ["window", "web", "terminal", "none"])
    def test_what_is_asked_for_is_taken(self, name):
        assert choose_view(name, terminal=False) == (name, "")

    def test_a_name_that_is_none_is_refused(self):
        with pytest.raises(UsageError, match="did you mean 'window'"):
            choose_view("windw", terminal=True)

    def test_a_window_that_does_not_open_makes_room_for_the_terminal(self, monkeypatch, small_weights):
        def refuse(*_: object, **__: object) -> None:
            raise OutputError("cannot open a window: it is raining", "wait")

        monkeypatch.setattr(views_module, "WindowView", refuse)
        out = console(terminal=True)
        with a_run(small_weights, FakeSource([])) as run:
            with Views(run, console=out, view="auto") as views:
                assert views.shown
            assert "view: terminal; cannot open a window: it is raining" in said(out)
            with pytest.raises(OutputError, match="raining"):
                Views(run, console=out, view="window")


class TestServing:
    def test_metrics_are_served_with_any_view_and_count_every_result(self, small_weights):
        out = console()
        with a_run(small_weights, FakeSource(numbered(4), name="cam")) as run:
            with Views(run, console=out, view="none", serving=Serving(metrics_port=0)) as views:
                assert not views.shown
                port = re.search(r"metrics: http://127\.0\.0\.1:(\d+)/metrics", said(out))
                assert port is not None
                for result in run:
                    views.put(result)
                text = Client(int(port[1])).get("/metrics")[2].decode()
            assert 'stream_ann_frames_in_total{source="cam"} 4.0' in text
            assert 'stream_ann_first_answer_seconds_count{source="cam"} 4.0' in text

    def test_another_address_gets_a_token_that_is_printed(self, small_weights):
        out = console()
        serving = Serving("0.0.0.0", 0, metrics_port=0)
        with a_run(small_weights, FakeSource([])) as run:  # noqa: SIM117
            with Views(run, console=out, view="web", serving=serving):
                page = re.search(r"http://[^/]+:(\d+)/\?token=([\w-]+)", said(out))
                metrics = re.search(r"http://[^/]+:(\d+)/metrics\n", said(out))
                assert page is not None
                assert metrics is not None
                assert Client(int(page[1])).get("/state")[0] == 401
                assert Client(int(metrics[1])).get("/metrics")[0] == 401
                assert Client(int(metrics[1])).get("/metrics", Authorization=f"Bearer {page[2]}")[0] == 200

    def test_without_the_extra_it_says_what_to_install(self, monkeypatch, small_weights):
        for name in [n for n in sys.modules if n.startswith("stream_ann.sinks.web")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "starlette.applications", None)
        with a_run(small_weights, FakeSource([])) as run:  # noqa: SIM117
            with pytest.raises(MissingExtraError, match=r"pip install 'stream-ann\[web\]'"):
                Views(run, console=console(), view="web")

    def test_a_port_that_is_taken_is_an_error_that_leaves_nothing_open(self, small_weights):
        with a_run(small_weights, FakeSource([])) as run:
            out = console()
            with Views(run, console=out, view="none", serving=Serving(metrics_port=0)):
                port = int(re.search(r":(\d+)/metrics", said(out))[1])  # type: ignore[index]
                with pytest.raises(OutputError, match="address already in use"):
                    Views(run, console=console(), view="web", serving=Serving(port=0, metrics_port=port))
        assert not [t for t in threading.enumerate() if t.name.startswith("stream-ann")]


class TestOutputs:
    def test_all_of_them_at_once_for_two_sources(self, small_weights, tmp_path):
        clips = [encode(tmp_path / f"{name}.mkv", numbered(40), fps=10, options={"g": "10"}) for name in ("a", "b")]
        outputs = Outputs(
            events=(str(tmp_path / "all.jsonl"), str(tmp_path / "again.jsonl")),
            record=tmp_path / "out.mp4",
            chunk_s=2.0,
            snapshots=SnapshotOptions(tmp_path / "moments", before_s=1.0, after_s=0.5, gap_s=0.0),
        )
        summary = watch(a_run(small_weights, *clips), console=console(), view="none", outputs=outputs)
        assert summary.errors == ()
        assert summary.dropped == {}
        lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
        assert len(lines) == 80
        assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "all.jsonl").read_text()
        videos = sorted(tmp_path.glob("out-*.mp4"))
        assert len(videos) == 4
        for video in videos:
            with av.open(str(video)) as container:
                assert sum(1 for _ in container.decode(video=0)) == 20
        snapshots = [json.loads(path.read_text()) for path in (tmp_path / "moments").glob("*.json")]
        assert {snapshot["source"] for snapshot in snapshots} == {str(clip) for clip in clips}
        for snapshot in snapshots:
            assert (tmp_path / "moments" / snapshot["picture"]).exists()
            if (
                snapshot["clip"] is not None
            ):  # of the first moment, before the first key frame that was kept, there is none
                assert snapshot["clip"].endswith(".mp4")
                with av.open(str(tmp_path / "moments" / snapshot["clip"])) as container:
                    assert sum(1 for _ in container.decode(video=0)) > 3

    def test_clips_are_made_of_the_sources_own_packets_where_it_has_some(self, small_weights, tmp_path):
        clip = encode(tmp_path / "clip.mkv", numbered(40), fps=10, options={"g": "5"})
        packets: list[CodedPacket] = []
        with a_run(small_weights, clip, FakeSource(numbered(3), name="webcam")) as run:
            assert run.tap(str(clip), packets.append)
            assert not run.tap("webcam", packets.append)
            list(run)
        assert len(packets) >= 20
        assert any(packet.key for packet in packets)

    def test_only_changes_are_events_and_the_counts_stay(self, small_weights, tmp_path):
        black, white = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)
        pictures = [black] * 5 + [white] * 5 + [black] * 5
        changes, every = tmp_path / "changes.jsonl", tmp_path / "every.jsonl"
        for path, on_change in ((changes, True), (every, False)):
            run = a_run(small_weights, FakeSource(pictures))
            summary = watch(run, console=console(), view="none", outputs=Outputs((str(path),), on_change=on_change))
            assert summary.stats.counts.results == 15
            assert summary.dropped == {}
        labels = [json.loads(line)["label"] for line in every.read_text().splitlines()]
        wanted = [i for i, label in enumerate(labels) if i == 0 or label != labels[i - 1]]
        assert [json.loads(line)["frame"] for line in changes.read_text().splitlines()] == wanted

    @pytest.mark.parametrize("live", [True, False])
    def test_a_camera_does_not_wait_for_one_that_takes_nothing(self, live, small_weights, tmp_path, monkeypatch):
        goes_on, begun = threading.Event(), threading.Event()
        monkeypatch.setattr(JsonlSink, "write", lambda self, result: begun.set() or goes_on.wait(30))
        monkeypatch.setattr("pipelines.outputs.WAITING", 5)
        path = tmp_path / "stuck.jsonl"
        sources = [FakeSource(numbered(3), live=live, name=name) for name in "ab"]
        with a_run(small_weights, *sources) as run:
            attached = Attached(run, Outputs((str(path),)), lambda error: None)
            result = next(run)
            attached.put(result)
            assert begun.wait(20)
            for _ in range(10):  # five of each source may wait
                attached.put(result)
            assert attached.dropped() == {str(path): 0}
            if not live:  # whoever must lose nothing waits for as long as it takes
                threading.Timer(0.3, goes_on.set).start()
            for _ in range(10):
                attached.put(result)
            goes_on.set()
            attached.close(20)
        assert attached.dropped() == {str(path): 10 if live else 0}
        assert attached._put_timeout_s == (0 if live else LOSSLESS_PUT_TIMEOUT_S)

    def test_all_of_them_and_the_page_end_at_the_same_time(self, small_weights, tmp_path, monkeypatch):
        pytest.importorskip("uvicorn")
        from stream_ann.sinks.web.app import Hub

        monkeypatch.setattr("stream_ann.sinks.web.view.ENDS_WITHIN_S", 30)
        together = threading.Barrier(3, timeout=10)  # one after the other, none would come past it

        def with_the_others(end):
            def ending(self):
                if threading.current_thread() not in come:
                    come.add(threading.current_thread())
                    together.wait()
                end(self)

            return ending

        come: set[threading.Thread] = set()
        monkeypatch.setattr(JsonlSink, "close", with_the_others(JsonlSink.close))
        monkeypatch.setattr(Hub, "stop", with_the_others(Hub.stop))
        outputs = Outputs((str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")), events_mb=0.001, keep_events=1)
        run = a_run(small_weights, FakeSource(numbered(20)))
        summary = watch(run, console=console(), view="web", serving=Serving(port=0), outputs=outputs)
        assert summary.errors == ()
        assert len(come) == 3
        assert not together.broken
        assert {len(list(tmp_path.glob(f"{name}-*.jsonl"))) for name in "ab"} == {1}, "the limits reach the files"

    @pytest.mark.parametrize("kind", ["video", "image", "link"])
    def test_what_is_read_is_not_written(self, small_weights, tmp_path, kind):
        """Kept as .previous it would be lost with the second run."""
        clip = encode(tmp_path / "holiday.mp4", numbered(3), fps=10)
        source, written = clip, clip
        if kind == "link":
            written = tmp_path / "link.mp4"
            written.symlink_to(clip)
        if kind == "image":
            source = written = tmp_path / "shot.png"
            Image.fromarray(numbered(1)[0]).save(source)
        outputs = Outputs(record=written) if kind != "image" else Outputs((str(written),))
        before = written.read_bytes()
        with pytest.raises(UsageError, match="is what is read, and cannot be written; name another file"):
            watch(a_run(small_weights, source), console=console(), view="none", outputs=outputs)
        assert written.read_bytes() == before
        assert not list(tmp_path.glob("*.previous.*"))

    def test_two_of_them_need_two_files(self, small_weights, tmp_path):
        outputs = Outputs((f"{tmp_path}/a.jsonl", f"{tmp_path}/./a.jsonl"))
        with pytest.raises(UsageError, match="two outputs go to"):
            watch(a_run(small_weights, FakeSource(numbered(1))), console=console(), view="none", outputs=outputs)

    @pytest.mark.parametrize(
        ("options", "missing"),
        [
            ({"on_change": True}, "--on-change does nothing without --events"),
            ({"keep_events": 2}, "--events-keep does nothing without --events"),
            ({"chunk_s": 5.0}, "--record-chunk-s does nothing without --record"),
            ({"keep_chunks": 2}, "--record-keep does nothing without --record"),
        ],
    )
    def test_options_of_an_output_that_is_missing(self, options, missing):
        with pytest.raises(UsageError, match=missing):
            Outputs(**options)

    def test_one_that_fails_is_left_out_and_the_others_go_on(self, small_weights, tmp_path):
        gone = tmp_path / "gone"
        gone.mkdir()
        out = console()
        run = a_run(small_weights, FakeSource(numbered(30)))
        events = tmp_path / "events.jsonl"
        outputs = Outputs((str(events),), snapshots=SnapshotOptions(gone, gap_s=0))
        gone.rmdir()
        gone.write_text("")  # between its making and its first snapshot
        with pytest.raises(OutputError):
            watch(run, console=out, view="none", outputs=outputs)
        assert not events.exists()


@pytest.mark.tool("Xvfb", "xdotool")
class TestWindow:
    def test_q_ends_a_run_whose_recording_is_whole(self, jobs, small_weights, tmp_path):
        from tests.test_cli import wait_for_lines
        from tests.test_sinks_window import screen, window_of, xdotool

        generator = screen.__wrapped__() if hasattr(screen, "__wrapped__") else None
        assert generator is not None
        display = next(generator)
        try:
            arguments = ["live", "pattern:320x180@25", "--view", "window", "--weights", str(small_weights)]
            arguments += [
                "--device",
                "cpu",
                "--record",
                str(tmp_path / "out.mkv"),
                "--events",
                str(tmp_path / "e.jsonl"),
            ]
            job = jobs.start(*arguments, first=f"os.environ['DISPLAY'] = {display!r}")
            try:
                window = window_of(display, "pattern:320x180@25 - stream_ann")
                wait_for_lines(tmp_path / "e.jsonl", 6, job)
                xdotool(display, "windowfocus", "--sync", window)
                deadline_s = time.monotonic() + 30
                while not job.over():
                    assert time.monotonic() < deadline_s
                    xdotool(display, "key", "--window", window, "q")
                    time.sleep(0.3)
            finally:
                job.kill()
                code = job.wait()
        finally:
            generator.close()
        assert code == 0
        events = (tmp_path / "e.jsonl").read_text().splitlines()
        with av.open(str(tmp_path / "out.mkv")) as container:
            assert sum(1 for _ in container.decode(video=0)) == len(events) > 5


class TestPictures:
    def lines(self, monkeypatch) -> list[str]:
        """What is written from now on."""
        written: list[str] = []

        def noted(text: str, size_px: int) -> Mask:
            written.append(text)
            return text_mask(text, size_px)

        monkeypatch.setattr("stream_ann.overlay.banner.text_mask", noted)
        return written

    def test_trouble_is_written_across_a_picture_that_turns_grey(self, monkeypatch):
        written = self.lines(monkeypatch)
        run = FakeRun("cam")
        image = np.zeros((180, 320, 3), np.uint8)
        image[..., 0] = 200
        run.answer(image=image)
        now_s = time.monotonic()
        overlay = Overlay(EXITS)
        fine = draw_statuses(overlay, run.statuses(), now_s)
        assert tuple(fine[2, 2]) == (200, 0, 0)
        assert written == []
        run.state("cam", "stalled", "no picture for 3 s")
        lost = draw_statuses(overlay, run.statuses(), now_s + 12)
        assert len(set(lost[2, 2].tolist())) == 1
        assert written == ["stalled: no picture for 3 s", "the picture is 12 s old"]
        assert image[0, 0, 0] == 200

    def test_several_are_beside_each_other_with_their_names(self, monkeypatch):
        written = self.lines(monkeypatch)
        run = FakeRun("yard", "door", "garage")
        for i, name in enumerate(run.names[:2]):
            run.answer(name, image=np.full((90, 160, 3), 60 + 60 * i, np.uint8))
        picture = draw_statuses(Overlay(EXITS), run.statuses(), time.monotonic())
        assert picture.shape == (720, 1280, 3)
        assert picture[100, 100, 0] == pytest.approx(60, abs=2)
        assert picture[100, 740, 0] == pytest.approx(120, abs=2)
        assert (picture[400:, 700:] == 0).all()
        assert written == ["yard", "door", "garage", "waiting for the first frame"]

    def test_a_suspect_picture_is_marked_everywhere(self, monkeypatch):
        written = self.lines(monkeypatch)
        run = FakeRun("cam")
        result = run.answer(image=np.zeros((180, 320, 3), np.uint8))
        suspect = replace(result, frame=replace(result.frame, suspect=True))
        Overlay(EXITS).draw(suspect)
        assert written == ["suspect picture"]
        run.now["cam"] = replace(run.now["cam"], frame=suspect.frame)
        draw_statuses(Overlay(EXITS), run.statuses(), time.monotonic())
        assert written == ["suspect picture"] * 2

    def test_an_old_picture_says_its_age_even_where_no_state_is_known(self, monkeypatch):
        written = self.lines(monkeypatch)
        run = FakeRun("cam")
        result = run.answer(image=np.zeros((180, 320, 3), np.uint8))
        draw_statuses(Overlay(EXITS), run.statuses(), result.frame.arrival_s + 7)
        assert written == ["7.0 s old"]

    def test_the_bars_of_a_frame_in_the_works_are_of_its_own_answer(self):
        painted = []

        class Noted(Overlay):
            def paint(self, picture, result, stats=None):
                painted.append(result)

        run = FakeRun("cam")
        result = run.answer(label="tripod", confidence=0.9)
        begun = (("binder", 0.45), ("tripod", 0.3))
        newer = replace(result.frame, index=1)
        run.now["cam"] = replace(run.now["cam"], frame=newer, label="binder", confidence=0.45, top=begun)
        draw_statuses(Noted(EXITS), run.statuses(), time.monotonic())
        assert (painted[0].label, painted[0].top) == ("binder", begun)

    @pytest.mark.parametrize("size", [(1, 1), (5, 40), (40, 5), (64, 48), (4000, 30)])
    def test_no_size_and_no_text_is_too_much(self, size):
        picture = np.zeros((size[1], size[0], 3), np.uint8)
        draw_banner(picture, ["a" * 500, "b" * 500, "c"])
        draw_badge(picture, "x" * 500, WARNING)
        draw_badge(picture, "", right=True)
        run = FakeRun("n" * 300)
        run.answer(image=picture)
        run.state("n" * 300, "refused", "w" * 900, 99)
        assert draw_statuses(Overlay(EXITS), run.statuses(), time.monotonic()).size > 0
