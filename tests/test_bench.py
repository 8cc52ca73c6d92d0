"""The frame-rate benchmark: on paper to the byte, in real time on a small net, its files, and its page in a browser."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from cli import app
from pipelines.bench import BenchOptions, bench
from pipelines.benchmarking.advice import advise
from pipelines.benchmarking.cameras import streams_together
from pipelines.benchmarking.compare import compare
from pipelines.benchmarking.contenders import Network
from pipelines.benchmarking.load import exit_times_s, streams_on_paper
from pipelines.benchmarking.machine import busy_s
from pipelines.benchmarking.paper import Line, Paper
from pipelines.benchmarking.play import Manner
from pipelines.benchmarking.quiet import quiet_of
from pipelines.benchmarking.results import BenchReport
from pipelines.benchmarking.streams import FilmOptions, class_map, folder_film, video_film
from pipelines.benchmarking.tables import tables
from pipelines.benchmarking.timing import Timings, pooled, recording_of, timings_in
from pipelines.benchmarking.trace import record_arrivals
from pipelines.benchmarking.writing import write_report
from stream_ann import weights as weights_room
from stream_ann.errors import SourceError, SourceNotFoundError, UnsupportedSourceError, UsageError
from stream_ann.nets import EANN, FixedNet, ResANN
from stream_ann.preprocess import Preprocessing
from stream_ann.scheduler import InOrder
from stream_ann.streaming import AnswerTable, Film, RunLog, TimeTable, figures_of, read_trace
from tests.browser import Browser
from tests.fakes import plan_of_macs

CLASSES = ("dark", "light")
NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root: Path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for kind, grey in (("dark", 60), ("Light", 190), ("unheard_of", 120)):
        (root / kind).mkdir()
        for i in range(3):
            Image.fromarray(rng.normal(grey, 20, (40, 52, 3)).clip(0, 255).astype(np.uint8)).save(
                root / kind / f"{i}.png"
            )
    return root


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    torch.manual_seed(1)  # an accuracy above 0, so that there are ratios
    net = EANN({"small": ResANN(classes=2, n=1, c=4, s=3, resolution_px=16)}, [("small", 16), ("small", 24)]).eval()
    path: Path = tmp_path_factory.mktemp("weights") / "kinds.json"
    weights_room.save(
        net,
        path,
        title="Kinds of pictures",
        description="For tests.",
        classes=CLASSES,
        preprocessing=Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 0.875, "bilinear"),
        training={"kind": "trained"},
        licence="Apache-2.0",
    )
    return path


def options(saved: Path, folder: Path, **more) -> BenchOptions:
    film = FilmOptions(dwell_s=0.2, motion_fps=10, scenes=6)
    chosen = {
        "fps": (20.0, 100.0),
        "weights": saved,
        "device": "cpu",
        "engine": "torch",
        "labels": str(folder),
        "film": film,
        "duration_s": 0.8,
        "timing_frames": 4,
        "policies": ("in-order",),
        "simulate": True,
    }
    return BenchOptions(**(chosen | more))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def simulated(saved, folder) -> BenchReport:
    return bench(
        None, options(saved, folder, streams=3, interval_ms=50.0, target_accuracy=0.9, policies=("in-order", "planned"))
    )


class TestFixedNet:
    def test_gives_what_its_exit_gives(self):
        net = ResANN(classes=3, n=3, c=4, s=2, resolution_px=16).eval()
        images = torch.rand(2, 3, 16, 16)
        with torch.no_grad():
            for exit_, logits in enumerate(net(images)):
                fixed = FixedNet(net, exit_)
                (alone,) = fixed(images)
                assert torch.equal(alone, logits)
                assert len(fixed.plan()) == 1

    def test_leaves_out_other_members_and_heads_on_the_way(self):
        net = ResANN(classes=3, n=3, c=4, s=2, resolution_px=16).eval()
        macs = [FixedNet(net, i).plan().steps[0].macs for i in range(len(net.plan()))]
        assert macs[0] == net.plan().cumulative_macs[0]
        assert all(alone < whole for alone, whole in zip(macs[1:], net.plan().cumulative_macs[1:], strict=True))
        pair = EANN({"a": net}, [("a", 16), ("a", 24)]).eval()
        exits = len(net.plan())
        assert FixedNet(pair, exits).plan().steps[0].macs == pair.plan().steps[exits].macs
        assert FixedNet(pair, exits).plan().steps[0].resolution_px == 24
        with pytest.raises(ValueError, match="no exit"):
            FixedNet(pair, 2 * exits)


class TestFilms:
    def test_photographs_dwell_and_folders_are_matched(self, folder):
        labelled = folder_film(folder, CLASSES, {}, FilmOptions(dwell_s=0.5, motion_fps=10, scenes=4))
        film = labelled.film
        assert labelled.unmatched == ("unheard_of",)
        assert (len(film), film.scene_count, film.dwell_s) == (20, 4, pytest.approx(0.5))
        assert sorted(min(film.truths[i]) for i in range(0, 20, 5)) == [0, 0, 1, 1]
        assert film.picture(7).shape == (320, 426, 3)
        bright = [film.picture(i).mean() > 128 for i in range(0, 20, 5)]
        assert bright == [film.truths[i] == {1} for i in range(0, 20, 5)]

    def test_names_may_be_mapped_to_several_classes(self, folder, tmp_path):
        mapping = tmp_path / "map.tsv"
        mapping.write_text("# what folders mean\nunheard_of\tdark\nunheard_of\t1\n0\tn01440764\tdark\n")
        found = class_map(mapping, CLASSES)
        assert found == {"unheard_of": {0, 1}, "n01440764": {0}}
        labelled = folder_film(folder, CLASSES, found, FilmOptions(scenes=9))
        assert labelled.unmatched == ()
        assert {0, 1} in labelled.film.truths

    @pytest.mark.parametrize(
        ("line", "message"), [("dark", "1 fields"), ("x\tlihgt", "no class 'lihgt'.*did you mean 'light'")]
    )
    def test_says_what_is_wrong_with_a_map(self, tmp_path, line, message):
        mapping = tmp_path / "map.tsv"
        mapping.write_text(f"{line}\n")
        with pytest.raises(UsageError, match=message):
            class_map(mapping, CLASSES)

    def test_nothing_that_matches_is_an_error(self, folder):
        with pytest.raises(UsageError, match=r"no label of .* is a class of the network: 'Light', 'dark'"):
            folder_film(folder, ("tench", "goldfish"), {}, FilmOptions())

    def test_the_demo_clip_and_its_labels(self):
        classes = ("tabby", "coffee mug", "missile", "tripod")
        labelled = video_film("demo", None, classes, {})
        film = labelled.film
        assert (len(film), film.scene_count) == (300, 8)
        assert film.duration_s == pytest.approx(12)
        assert [film.truths[i] for i in (0, 39, 40, 100, 140)] == [{0}, {0}, {1}, {2}, {3}]
        assert "espresso" in labelled.unmatched

    def test_a_live_source_has_no_labels(self):
        with pytest.raises(UnsupportedSourceError, match="live source"):
            video_film("rtsp://127.0.0.1:1/stream", None, CLASSES, {})

    @pytest.mark.parametrize("content", ["{", "[]", '{"shots": [{}]}', '{"shots": []}', '{"shots": 3}'])
    def test_a_malformed_sidecar(self, tmp_path, content):
        sidecar = tmp_path / "labels.json"
        sidecar.write_text(content)
        with pytest.raises(UsageError, match="the labels"):
            video_film("demo", sidecar, CLASSES, {}, seconds=0.2)


def paper(step_s: list[float], accuracies_right: list[list[bool]], *, dwell_s: float = 1.0) -> tuple[Paper, Line]:
    """A film of pictures of class 0 and what each exit says about each: right, or class 1."""
    right = np.array(accuracies_right)
    pictures, exits = right.shape
    table = np.zeros((pictures, exits, 4), np.float32)
    table[..., 0], table[..., 1] = right, ~right
    images = tuple(np.full((4, 4, 3), i, np.uint8) for i in range(pictures))
    plan = plan_of_macs([1] * exits)
    network = Network("net", "anytime", plan, lambda: pytest.fail("nothing is opened on paper"), None)
    film = Film(
        "film", images.__getitem__, (frozenset({0}),) * pictures, np.arange(pictures), np.full(pictures, dwell_s)
    )
    answers = AnswerTable(table, images)
    made = Paper(film, {"net": answers}, {"net": TimeTable.constant(step_s)}, NAMES, None, 0)
    return made, Line("net, in-order", network, Manner(path=InOrder))


class TestPaper:
    def test_a_run_to_the_microsecond(self):
        # 10 frames a second, steps of 30 and 60 ms: the second exit is there at 90 ms, in time
        made, line = paper([0.030, 0.060], [[False, True]])
        log = made.log(line, 10, 0.5)
        assert [round(1e6 * s.time_s) for s in log.shown] == [
            t for i in range(5) for t in (100_000 * i + 30_000, 100_000 * i + 90_000)
        ]
        figures = figures_of(log, line.network.plan)
        assert (figures.accuracy.value, figures.missed, figures.lag_frames) == (1.0, 0.0, 0.0)
        assert figures.accuracy_at_arrival.value == 0.8  # the first frame has nothing before it
        assert figures.exit_shares == (0.0, 1.0)
        assert figures.step_ms == pytest.approx((30, 60))
        assert figures.busy == pytest.approx(0.9)

    def test_a_slower_machine_is_late(self):
        made, line = paper([0.030, 0.060], [[False, True]])
        figures = figures_of(made.log(line, 10, 1.0, speed=0.5), line.network.plan)
        # frames take 60 and 120 ms: the first has its second exit at 180, the next one starts 80 late and ends at 140
        assert [round(1e3 * s.time_s) for s in made.log(line, 10, 0.3, speed=0.5).shown[:3]] == [60, 180, 240]
        assert figures.accuracy.value < 1
        assert figures.missed == 0.5

    def test_the_oracle_may_pick_an_earlier_exit(self):
        made, line = paper([0.030, 0.030], [[True, False]])
        figures = figures_of(made.log(line, 10, 0.5), line.network.plan)
        assert (figures.accuracy.value, figures.oracle.value) == (0.0, 1.0)

    def test_says_what_it_takes(self):
        made, line = paper([0.030, 0.060], [[False, True]])
        found = advise(made, line, accuracy=0.9, fps=20, duration_s=2)
        assert not found["met"]
        assert found["speed_needed"] == pytest.approx(1.8, rel=0.02)  # 90 ms in 50
        assert found["fps_possible"] == pytest.approx(1 / 0.090, rel=0.1)
        assert "1.8" in found["sentence"]
        good = advise(made, line, accuracy=0.9, fps=5, duration_s=2)
        assert good["met"]
        assert good["speed_needed"] == pytest.approx(0.45, rel=0.02)  # 90 ms in 200
        never = advise(*paper([0.01, 0.01], [[False, False]]), accuracy=0.5, fps=5, duration_s=2)
        assert never["speed_needed"] is None
        assert "No machine" in never["sentence"]


class TestStreams:
    def test_one_is_the_plain_run(self):
        made, line = paper([0.030, 0.060], [[False, True], [True, False]])
        plain = figures_of(made.log(line, 12, 2.0), line.network.plan)
        one = streams_together(made, line, 12, 2.0, 1)
        assert one["accuracy"] == plain.accuracy.as_dict()
        assert one["in_time"] == pytest.approx(1 - plain.missed, abs=1e-5)
        assert one["each"] == [{"in_time": one["in_time"], "accuracy": one["accuracy"]["value"]}]

    def test_share_the_engine(self):
        # 10 frames a second of each stream: three first steps fit into a gap, and two whole plans of 50 ms do
        made, line = paper([0.030, 0.020], [[False, True]])
        two, three, six = (streams_together(made, line, 10, 2.0, n) for n in (2, 3, 6))
        assert [len(one["each"]) for one in (two, three, six)] == [2, 3, 6]
        assert (two["in_time"], two["accuracy"]["value"]) == (1.0, 1.0)
        assert three["in_time"] == 1.0
        assert three["accuracy"]["value"] < 1
        assert 0.25 < six["in_time"] <= 0.6  # and five of nine have a turn
        served = [stream["in_time"] for stream in six["each"]]
        assert max(served) - min(served) < 0.2  # all alike

    def test_begin_at_places_of_their_own(self):
        made, line = paper([0.001], [[True], [False]])
        each = streams_together(made, line, 10, 1.0, 2)["each"]
        assert [stream["accuracy"] for stream in each] == [1.0, 0.0]


class TestLoad:
    def test_streams_that_fit_into_an_interval(self):
        times = TimeTable((0.001,), ((0.009,), (0.015,)), (0.0,))
        frame_s = exit_times_s(times, seed=0)
        assert frame_s.mean(axis=0) == pytest.approx([0.010, 0.025])
        assert streams_on_paper(frame_s[:, 0], 0.0505, seed=0) == 5
        assert streams_on_paper(frame_s[:, 1], 0.0505, seed=0) == 2
        assert streams_on_paper(frame_s[:, 1], 0.020, seed=0) == 0

    def test_one_in_a_hundred_may_be_late(self):
        often = np.where(np.arange(10_000) % 50 == 0, 0.2, 0.01)  # 2 % are late
        seldom = np.where(np.arange(10_000) % 500 == 0, 0.2, 0.01)
        assert streams_on_paper(often, 0.1, seed=0) == 0
        assert streams_on_paper(seldom, 0.1, seed=0) >= 1


class TestSimulated:
    def test_two_runs_of_the_same_seed_are_the_same_bytes(self, saved, folder, simulated, tmp_path):
        (tmp_path / "times.json").write_text(simulated.to_json())
        again = options(saved, folder, times=tmp_path / "times.json", fps=(100.0,), policies=("planned",))
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            write_report(bench(None, again), tmp_path / name)
        for file in ("report.json", "report.csv", "report.html", "accuracy.png"):
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
        other = bench(None, replace(again, seed=1))
        assert other.to_json() != (tmp_path / "one" / "report.json").read_text()

    def test_times_may_be_written_by_hand(self, saved, folder, tmp_path):
        """Of the network alone: an exit by itself takes as long as the steps of its member that lead to it."""
        exits = len(weights_room.load(saved).plan)
        by_hand = {"start_ms": [0.5], "steps_ms": [[10 + i] for i in range(exits)], "between_ms": [0]}
        (tmp_path / "slow.json").write_text(json.dumps({"times": {"kinds": by_hand}}))
        (tmp_path / "nested.json").write_text(json.dumps({"results": {"real": {"times": {"kinds": by_hand}}}}))
        found = [
            bench(None, options(saved, folder, times=tmp_path / name, fps=(5.0,), duration_s=1.0)).times
            for name in ("slow.json", "nested.json")
        ]
        assert found[0] == found[1]
        fixed = [table.medians_s[0] for name, table in found[0].items() if name.startswith("fixed")]
        per_member = exits // 2
        sums = [sum(10 + j for j in range(i - i % per_member, i + 1)) / 1e3 for i in range(exits)]
        assert fixed == pytest.approx(sums)

    def test_has_every_contender_at_every_rate(self, simulated):
        assert {e.fps for e in simulated.entries} == {20, 100}
        assert set(simulated.contenders) >= {"kinds, in-order", "kinds, planned"}
        assert sum(e.kind == "fixed" for e in simulated.entries) == 2 * len(simulated.entries[0].exit_names)
        assert {line.contender for line in simulated.headlines} == {"kinds, in-order", "kinds, planned"}
        for line in simulated.headlines:
            fixed = [e for e in simulated.entries if e.kind == "fixed" and e.fps == line.fps]
            assert line.theirs == max(e.figures.accuracy.value for e in fixed)
            assert line.ratio.value == pytest.approx(line.ours / line.theirs)

    def test_where_frames_went(self, simulated):
        for entry in simulated.entries:
            figures = entry.figures
            assert figures.frames == round(0.8 * entry.fps)
            assert figures.answered + figures.replaced == figures.frames
            assert sum(figures.exit_shares) == pytest.approx(1)

    def test_json_and_csv(self, simulated):
        content = json.loads(simulated.to_json())
        assert content["weights"]["sha256"]
        assert content["machine"]["versions"]["torch"] == torch.__version__.split("+")[0]
        assert {"headline", "single_stream", "multi_stream", "advice", "runs", "streams", "times"} <= set(content)
        rows = list(csv.DictReader(io.StringIO(simulated.to_csv())))
        assert len(rows) == len(simulated.entries)
        assert float(rows[0]["accuracy"]) == content["runs"][0]["accuracy"]["value"]

    def test_agreement_takes_the_last_exit_for_the_truth(self, saved, folder):
        report = bench(folder, options(saved, folder, labels="agreement", duration_s=None, fps=(2.0,), against=()))
        assert report.about["stream"]["scenes"] == 6
        assert report.about["stream"]["labels"] == "agreement with the whole plan"
        assert report.more["exit_accuracy"][-1]["value"] == 1.0
        more = {"labels": "agreement", "fps": (5.0,), "against": ()}
        demo = bench(None, options(saved, folder, duration_s=None, **more))
        assert demo.about["stream"]["scenes"] == 8
        short = bench(None, options(saved, folder, duration_s=0.8, **more))
        assert short.about["stream"]["pictures"] == 20  # no more than the run shows


def test_policies_that_remember_and_that_refine_behind_run_by_both_clocks(saved, folder):
    policies = ("scene", "background")
    report = bench(
        None, options(saved, folder, policies=policies, against=(), fps=(20.0,), simulate=False, duration_s=0.5)
    )
    for clock in ("real", "simulated"):
        found = {entry.contender: entry.figures for entry in report.entries if entry.clock == clock}
        assert set(found) == {"kinds, scene", "kinds, background"}
        assert all(figures.accuracy.value >= 0 for figures in found.values())
    with pytest.raises(UsageError, match="for one stream"):
        options(saved, folder, policies=policies, streams=2)


def test_in_real_time_both_clocks_and_the_machine_are_told(saved, folder, tmp_path):
    report = bench(None, options(saved, folder, simulate=False, fps=(20.0,), duration_s=0.6))
    assert {e.clock for e in report.entries} == {"real", "simulated", "replayed"}
    assert len(report.agreements) == 1 + len(report.entries[0].exit_names)
    for entry in report.entries:
        assert entry.figures.answered + entry.figures.replaced == entry.figures.frames == 12
        assert (entry.usage is None) == (entry.clock != "real")
    assert all(e.usage.cpu_cores > 0 for e in report.entries if e.usage is not None)
    printed = Console(width=200, file=io.StringIO(), record=True)
    printed.print(tables(report))
    text = printed.export_text()
    assert "simulated against real clock: within" in text
    assert "step times at the end" in text
    assert "accuracy of each exit without any clock" in text
    assert "taken of the machine in real time: " in text
    # whoever has the report alone comes to the same figures on paper
    (tmp_path / "times.json").write_text(report.to_json())
    again = bench(None, options(saved, folder, fps=(20.0,), duration_s=0.6, times=tmp_path / "times.json"))
    first = [e.as_dict() for e in report.entries if e.clock == "simulated"]
    assert [e.as_dict() for e in again.entries] == first


class TestTimes:
    def test_waiting_is_no_work(self):
        # two frames of two steps; the second frame, and the second one's second step, were waited for
        spans = ((-1, 0.0, 0.1), (0, 0.1, 0.2), (1, 0.3, 0.6), (-1, 5.0, 5.1), (0, 5.1, 5.3), (1, 9.0, 9.4))
        log = RunLog(np.zeros(0), (), np.zeros(0, np.intp), (), (), spans, waits_s=(0.7, 5.4, 9.5))
        found = timings_in(log, 2)
        assert found.between_s == pytest.approx([0.1])
        assert found.steps_s == [pytest.approx([0.1, 0.2]), pytest.approx([0.3, 0.4])]
        assert found.starts_s == pytest.approx([0.1, 0.1])

    def test_a_recording_is_played_as_it_came(self):
        # steps of 30 ms, but for a second in which they take 90 ms: each frame is as late as it was then
        made, line = paper([0.030], [[True]])
        spans = []
        for i in range(30):
            begin_s, step_s = 7.0 + i / 10, 0.090 if 10 <= i < 20 else 0.030
            spans += [(-1, begin_s, begin_s), (0, begin_s, begin_s + step_s)]
        arrivals_s = 7.0 + np.arange(30) / 10
        arrivals_s[25] += 0.02  # the camera was late
        waits_s = tuple(end_s + 0.001 for step, _, end_s in spans if step == 0)
        log = RunLog(arrivals_s, (), np.zeros(0, np.intp), (), (), tuple(spans), waits_s)
        replayed = made.log(line, 10, 3.0, recording=recording_of(log))
        assert [round(r.first_ms) for r in replayed.results] == [30] * 10 + [90] * 10 + [30] * 10
        assert [r.frame.arrival_s for r in replayed.results[24:27]] == pytest.approx([2.4, 2.52, 2.6])
        assert max(r.first_ms for r in made.log(line, 10, 3.0).results) < 31

    def test_each_measurement_counts_alike(self):
        few, many = (Timings([0.0] * n, [[step_s] * n], [0.0] * n) for n, step_s in ((20, 0.010), (2000, 0.030)))
        times = pooled([few, many]).steps_s[0]
        assert np.mean(times) == pytest.approx(0.020, rel=0.05)

    def test_says_when_the_machine_was_not_quiet(self):
        before, same, slower = ({"net": Timings([0.0], [[step_s], [0.02]], [0.0])} for step_s in (0.01, 0.0101, 0.02))
        assert quiet_of(before, same, [0.02, 0.03]) == (
            {
                "step_times_end_over_start": {"net": 1.003},
                "other_cores": 0.025,
                "other_cores_max": 0.03,
                "quiet": True,
            },
            [],
        )
        found, warnings = quiet_of(before, slower, [0.0, 1.0])
        assert found["quiet"] is False
        assert "other programs took 0.50 cores on average, 1.00 at most" in warnings[0]
        assert "the steps of net took 1.33 times as long" in warnings[1]
        assert quiet_of(before, {}, [None])[0]["quiet"] is None

    def test_other_programs_are_told_apart_from_this_one(self, tmp_path):
        stat = tmp_path / "stat"
        stat.write_text("cpu  100 20 30 5000 40 5 6 7 800 900\ncpu0 1 2 3\n")  # idle, waiting and guests are no work
        assert busy_s(stat) == pytest.approx(168 / os.sysconf("SC_CLK_TCK"))
        stat.write_text("something else")
        assert busy_s(stat) is None


class TestArrivals:
    def test_every_frame_of_a_source_is_written_down(self, tmp_path):
        file = tmp_path / "arrivals.txt"
        result = CliRunner().invoke(app, ["bench", "arrivals", "demo", str(file), "--duration-s", "0.5"])
        assert result.exit_code == 0, result.output
        lines = file.read_text().splitlines()
        assert lines[0] == "# arrivals of demo, seconds"
        times_s = [float(line) for line in lines[1:]]
        assert 10 <= len(times_s) <= 14  # the clip has 25 frames a second
        assert f"{len(times_s)} arrivals in" in result.stderr
        assert read_trace(file).mean() == pytest.approx(1)

    def test_ends_with_the_source(self, tmp_path):
        still = tmp_path / "still.png"
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(still)
        with pytest.raises(SourceError, match="gave 1 frames"):
            record_arrivals(str(still), tmp_path / "arrivals.txt", duration_s=30)
        assert not (tmp_path / "arrivals.txt").exists()


class TestCompare:
    def test_shows_what_two_reports_have_in_common(self, simulated, tmp_path):
        for name, report in (("a", simulated), ("b", replace(simulated, about=simulated.about | {"seed": 7}))):
            (tmp_path / f"{name}.json").write_text(report.to_json())
        result = CliRunner().invoke(app, ["bench", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
        assert result.exit_code == 0, result.output
        assert result.stdout.count("+0.0") == len({(e.fps, e.contender) for e in simulated.entries})
        assert "seed" in result.stdout

    def test_errors_beyond_all_measure_are_shown_too(self, simulated, tmp_path):
        report = json.loads(simulated.to_json())
        report["runs"][0]["accuracy"]["error"] = 1e308
        for name in "ab":
            (tmp_path / f"{name}.json").write_text(json.dumps(report))
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(compare(tmp_path / "a.json", tmp_path / "b.json"))
        printed = console.export_text()
        assert "+0.0 ± inf" in printed
        assert "…" not in printed, "nothing is cut on a terminal of 80 columns"

    def test_says_that_a_file_is_no_report(self, simulated, tmp_path):
        (tmp_path / "a.json").write_text(simulated.to_json())
        (tmp_path / "b.json").write_text('{"runs": [{"fps": 1}]}')
        with pytest.raises(UsageError, match="is no report"):
            compare(tmp_path / "a.json", tmp_path / "b.json")
        with pytest.raises(SourceNotFoundError, match="there is no file"):
            compare(tmp_path / "a.json", tmp_path / "c.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fps", "fast"], "no list of numbers"),
        (["--fps", "0,30"], "frame rates 0, 30"),
        (["--fps", "30,30"], "given twice"),
        (["--fps", ""], "frame rates none"),
        (["--times", "x.json"], "on paper only"),
        (["--streams", "4"], "on paper only"),
        (["--streams", "2000", "--simulate"], "give 1 to 1024"),
        (["--speed", "2"], "on paper only"),
        (["--simulate", "--times", "no.json"], "there is no file 'no.json'"),
        (["--labels", "no-folder"], "there is no folder 'no-folder'"),
        (["--arrivals", "no.txt"], "there is no file 'no.txt'"),
        (["--policy", "lazy"], "no policy is called 'lazy'"),
        (["--against", "fxied"], "did you mean 'fixed'"),
        (["--against", "no.onnx"], "no.onnx"),
        (["--weights", "nothing"], "nothing"),
        (["--target-fps", "30"], "--target-accuracy"),
        (["--dwell-s", "0"], "dwell"),
        (["one.mp4", "two.mp4"], "more than one source"),
        (["arrivals", "demo"], "arrivals takes a camera and a file"),
        (["arrivals", "no.mp4", "a.txt"], "no.mp4"),
        (["arrivals", "demo", "no/folder/a.txt"], "cannot write"),
        (["arrivals", "demo", "a.txt", "--duration-s", "0"], "a duration of 0 s"),
        (["compare", "a.json"], "compare takes two reports"),
        (["no.mp4"], "no.mp4"),
    ],
)
def test_errors_of_the_command_line(arguments, message):
    result = CliRunner().invoke(app, ["bench", "--against", "none", *arguments])
    assert result.exit_code == 1, result.output
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_what_cannot_be_written_is_found_out_first(tmp_path):
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(app, ["bench", "--out", str(tmp_path / "file" / "report")])
    assert result.exit_code == 1
    assert "cannot write" in result.stderr


@pytest.mark.tool("chromium")
@pytest.mark.tool("chromedriver")
def test_the_page_in_a_browser(simulated, tmp_path):
    evil = '<img src=x onerror="document.title=1"><script>document.title="got in"</script>$x$'
    about = simulated.about | {"stream": simulated.about["stream"] | {"name": evil}}
    entries = tuple(replace(e, contender=e.contender.replace("kinds", evil)) for e in simulated.entries)
    write_report(replace(simulated, about=about, entries=entries, warnings=(evil,)), tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert "<script" not in html
    with Browser(width_px=1100, height_px=900) as browser:
        browser.open((tmp_path / "report.html").as_uri())
        assert browser.run("return document.title").startswith("Frame-rate budgets of kinds")
        assert browser.run("return document.querySelectorAll('svg').length") == 4
        assert browser.run("return document.images.length") == 0
        sizes = browser.run("return [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().width)")
        assert min(sizes) > 500
        assert evil in browser.run("return document.body.textContent")
        rows = browser.run("return document.querySelectorAll('table.runs')[1].rows.length")
        assert rows == 1 + len(simulated.entries)
        assert "3 streams at once on one engine" in browser.run("return document.body.textContent")
        # nothing is fetched from anywhere
        assert browser.run("return performance.getEntriesByType('resource').length") == 0
    with Browser(width_px=390, height_px=800, phone=True) as browser:
        browser.open((tmp_path / "report.html").as_uri())
        assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth + 1")
