"""Offline labelling as a user meets it: one process, real videos, real files."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet
import pytest

import pipelines
from pipelines.labelling import ledger, work
from stream_ann.errors import CardError, ManifestError, OutputError, SourceError, UsageError
from stream_ann.labels import LabelOptions
from tests.labelling import CLASSES, WANTED_FRAMES, lines, noise, some_videos, tiny_weights
from tests.test_cli import run
from tests.videos import cut_short, damage, encode, numbered, sound

EXITS = 5


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos") / "holidays"
    some_videos(folder)
    return folder


@pytest.fixture
def small_units(monkeypatch) -> None:
    """Units as small as those of ``jobs``, so that a job that one of them has begun can be ended here."""
    monkeypatch.setattr(work, "WANTED_FRAMES", WANTED_FRAMES)


def key_numbers(path: Path) -> list[int]:
    """Numbers of the key frames, as the container says."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    times = sorted(p.pts for p in packets if p.pts is not None)
    return sorted(times.index(p.pts) for p in packets if p.is_keyframe and p.pts is not None)


class TestFrames:
    def test_every_frame_has_a_label_once_and_in_order(self, tiny, folder, tmp_path):
        found = list(pipelines.label(folder, weights=tiny, workers=2))
        assert [(Path(f.source).name, f.index) for f in found] == [
            (f"clip{i}.mp4", n) for i, count in enumerate((30, 7, 45)) for n in range(count)
        ]
        assert [f.pts_s for f in found[:30]] == pytest.approx([i / 25 for i in range(30)])
        for frame in found:
            assert frame.label == CLASSES[frame.class_id] == frame.top[0][0]
            assert [e.exit for e in frame.exits] == list(range(EXITS))
            assert frame.exit == EXITS - 1
        assert len({f.label for f in found}) > 1  # or the test would see no mix-up

    def test_labels_are_those_of_the_network_itself(self, tiny, folder):
        """Each frame's label is its own, whatever ran beside it in the batch."""
        together = list(pipelines.label(folder, weights=tiny, confidence=0.6, batch_size=8))
        alone = list(pipelines.label(folder, weights=tiny, confidence=0.6, batch_size=1, workers=1))
        assert len({f.exit for f in together}) > 2
        assert [(f.source, f.index, f.exit, f.label) for f in together] == [
            (f.source, f.index, f.exit, f.label) for f in alone
        ]
        assert [f.confidence for f in together] == pytest.approx([f.confidence for f in alone], abs=1e-4)

    def test_units_of_any_size_give_the_same_frames(self, tiny, folder, monkeypatch):
        whole = list(pipelines.label(folder, weights=tiny))
        monkeypatch.setattr(work, "WANTED_FRAMES", 8)
        parts = list(pipelines.label(folder, weights=tiny, workers=3))
        assert [(f.source, f.index, f.pts_s, f.label) for f in parts] == [
            (f.source, f.index, f.pts_s, f.label) for f in whole
        ]

    def test_sure_frames_leave_early(self, tiny, folder):
        run_ = pipelines.label(folder, weights=tiny, confidence=0.5)
        found = list(run_)
        for frame in found:
            *before, last = frame.exits
            assert all(answer.confidence < 0.5 for answer in before)
            assert last.confidence >= 0.5 or last.exit == EXITS - 1
        status = run_.status()
        assert list(status.left_at) == [sum(f.exit == e for f in found) for e in range(EXITS)]
        assert status.left_at[0] > 0

    def test_a_budget_is_kept_and_spent_on_the_least_sure(self, tiny, folder):
        first = pipelines.label(folder, weights=tiny, budget_ms_per_frame=1e-6)
        assert {f.exit for f in first} == {0}  # every frame has a label, however little time there is
        plenty = pipelines.label(folder, weights=tiny, budget_ms_per_frame=1e6, finish_by="1h")
        assert sum(f.exit == EXITS - 1 for f in plenty) > 40

    def test_max_drop_takes_the_thresholds_that_the_card_vouches_for(self, tiny, folder, tmp_path):
        card = copied(tiny, tmp_path / "w")
        limits = [[0.5, None, 0.4, 0.3, 0], [0, 0, 0, 0, 0]]
        edit_card(card, lambda c: c.update(safe_exits={"level": 0.95, "max_drops": [1, 3], "thresholds": limits}))
        options = {"weights": card, "stride": 2}
        for drop, alike in ((1.5, [0.5, math.inf, 0.4, 0.3, 0]), (3, 0.0)):
            found = [(f.exit, f.label) for f in pipelines.label(folder, max_drop=drop, **options)]
            assert found == [(f.exit, f.label) for f in pipelines.label(folder, confidence=alike, **options)]
        with pytest.raises(UsageError, match=r"0\.5 points is less than these weights vouch for; give at least 1"):
            pipelines.label(folder, max_drop=0.5, **options)
        with pytest.raises(UsageError, match="not known for the readout 'best'"):
            pipelines.label(folder, max_drop=3, readout="best", **options)
        # where the card has weights for an average, that is what is asked for, and what the drops must hold for
        edit_card(card, lambda c: c.update(readout_weights=[9, 1, 1, 1, 2]))
        with pytest.raises(UsageError, match=r"not known for the readout 'average'"):
            pipelines.label(folder, max_drop=3, **options)
        edit_card(card, lambda c: c["safe_exits"].update(readout="average"))
        assert [f.exit for f in pipelines.label(folder, max_drop=3, **options)][:3] == [0, 0, 0]
        edit_card(card, lambda c: c["safe_exits"].update(max_drops=[3, 1]))
        with pytest.raises(CardError, match="'safe_exits' must hold rising drops"):
            pipelines.label(folder, max_drop=3, **options)

    def test_the_readout_is_an_average_where_the_card_has_weights_for_it(self, tiny, folder, tmp_path):
        card = copied(tiny, tmp_path / "w")

        def said(**readout: Any) -> list[tuple[float, ...]]:
            frames = pipelines.label(folder, weights=card, stride=8, confidence=math.inf, **readout)
            return [tuple(round(p, 5) for _, p in f.top) for f in frames]

        edit_card(card, lambda c: c.update(readout_weights=None))
        latest = said()
        assert latest == said(readout="latest") != said(readout="average")
        edit_card(card, lambda c: c.update(readout_weights=[9, 1, 1, 1, 2]))
        assert said() == said(readout="average") != latest
        assert said(readout="latest") == latest

    def test_a_confidence_for_each_exit_on_the_command_line(self, tiny, folder, tmp_path):
        clip, out = folder / "clip0.mp4", tmp_path / "o.jsonl"
        assert run("label", clip, "--out", out, "--weights", tiny, "--confidence", "0.6,never,0.5,0.5,0")[0] == 0
        limits = [0.6, math.inf, 0.5, 0.5, 0]
        assert [line["exit"] for line in lines(out)] == [
            f.exit for f in pipelines.label(clip, weights=tiny, confidence=limits)
        ]
        code, _, err = run("label", clip, "--out", tmp_path / "p.jsonl", "--weights", tiny, "--confidence", "high")
        assert code == 1
        assert "error: 'high' is no confidence; write 0.8, never" in err

    def test_max_exit(self, tiny, folder):
        assert {f.exit for f in pipelines.label(folder, weights=tiny, max_exit=2)} == {2}
        with pytest.raises(UsageError, match="no exit 5"):
            pipelines.label(folder, weights=tiny, max_exit=5)

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"stride": 4}, list(range(0, 45, 4))),
            ({"every_s": 0.5}, [0, 13, 25, 38]),
            ({"keyframes_only": True}, None),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("size", [512, 3])
    def test_only_some_frames(self, tiny, folder, monkeypatch, options, expected, size):
        monkeypatch.setattr(work, "WANTED_FRAMES", size)
        found = list(pipelines.label(folder / "clip2.mp4", weights=tiny, **options))
        expected = expected or key_numbers(folder / "clip2.mp4")
        assert len(expected) > 3
        assert [f.index for f in found] == expected
        assert [f.pts_s for f in found] == pytest.approx([i / 25 for i in expected])

    def test_leaving_the_loop_early_stops_everything(self, tiny, folder):
        with pipelines.label(folder, weights=tiny) as frames:
            assert next(frames).index == 0
        with pytest.raises(StopIteration):
            next(frames)


class TestGoingOn:
    @pytest.mark.parametrize(("format", "kills"), [("jsonl", (0, 3)), ("csv", (2,)), ("parquet", (2,)), ("vtt", (2,))])
    def test_a_killed_job_ends_in_the_same_bytes(
        self, tiny, folder, tmp_path, jobs, small_units, format, kills: tuple[int, ...]
    ):
        """Killed soon after so many commits, again and again."""
        options = ["--weights", tiny, "--confidence", "0.6", "--quiet", "--format", format]
        one = format in ("jsonl", "csv")
        whole, out = (tmp_path / name / "" if not one else tmp_path / name for name in ("whole", "killed"))
        if one:
            whole, out = whole.with_suffix(f".{format}"), out.with_suffix(f".{format}")
        else:
            whole.mkdir()
            out.mkdir()
        code, _, err = run("label", folder, "--out", whole, *options)
        assert code == 0, err
        rng = random.Random(format)
        for kill, commits in enumerate(kills):
            job = jobs.start("label", folder, "--out", out, *options, *(["--resume"] if kill else []))
            manifest = out.with_name(out.name + ".manifest") if one else out / "labels.manifest"
            deadline_s = time.monotonic() + 60
            while not job.over() and time.monotonic() < deadline_s:
                if manifest.exists() and manifest.read_bytes().count(b"\n") > commits:
                    time.sleep(rng.random() * 0.03)
                    break
                time.sleep(0.001)
            job.kill()
            assert job.wait() in (-signal.SIGKILL, 0), job.err()
            if one and out.exists():
                text = out.read_bytes()
                assert not text or text.endswith(b"\n")
        code, _, err = run("label", folder, "--out", out, *options, "--resume")
        assert code == 0, err
        assert contents(out) == contents(whole)
        assert len(contents(whole)) == (1 if one else 3)
        assert not list(tmp_path.rglob("*.unfinished"))

    def test_an_interrupted_job_ends_soon_and_goes_on(self, tiny, folder, tmp_path, jobs, small_units):
        out, options = tmp_path / "o.jsonl", ("--weights", tiny, "--workers", "1")
        job = jobs.start("label", folder, "--out", out, *options)
        deadline_s = time.monotonic() + 60
        while not (out.exists() and out.stat().st_size) and not job.over() and time.monotonic() < deadline_s:
            time.sleep(0.001)
        begun_s = time.monotonic()
        job.kill(signal.SIGINT)
        assert job.wait() in (0, 130), job.err()
        assert time.monotonic() - begun_s < 10
        assert "Traceback" not in job.err()
        code, _, err = run("label", folder, "--out", out, *options, "--resume")
        assert code == 0, err
        assert [line["frame"] for line in lines(out)] == [*range(30), *range(7), *range(45)]

    def test_an_output_that_is_there_is_not_touched_unasked(self, tiny, folder, tmp_path):
        out = tmp_path / "o.csv"
        out.write_text("mine\n")
        for extra, error in (({}, r"exists already"), ({"resume": True}, r"there is no manifest")):
            with pytest.raises(OutputError, match=error):
                pipelines.label(folder, out=out, weights=tiny, **extra)
        assert out.read_text() == "mine\n"
        list(pipelines.label(folder, out=out, weights=tiny, overwrite=True))
        done = out.read_bytes()
        with pytest.raises(OutputError, match=r"begun by an earlier run.*--resume"):
            pipelines.label(folder, out=out, weights=tiny)
        assert list(pipelines.label(folder, out=out, weights=tiny, resume=True)) == []
        assert out.read_bytes() == done

    @pytest.mark.parametrize("elsewhere", ["../0.mp4", "/0.mp4", "a/../../0.mp4"])
    def test_a_manifest_that_names_an_output_elsewhere_is_refused(self, tiny, folder, tmp_path, monkeypatch, elsewhere):
        with monkeypatch.context() as edited:
            edited.setattr(ledger, "_stamp", lambda video, real=ledger._stamp: real(video) | {"relative": elsewhere})
            list(pipelines.label(folder, out=tmp_path / "o.jsonl", weights=tiny))
        with pytest.raises(ManifestError, match="names an output outside its folder"):
            list(pipelines.label(folder, out=tmp_path / "o.jsonl", weights=tiny, resume=True))

    def test_a_manifest_of_another_job_is_refused_with_the_reason(self, tiny, folder, tmp_path):
        out = tmp_path / "o.jsonl"
        list(pipelines.label(folder, out=out, weights=tiny))
        other = tiny_weights(tmp_path / "other", seed=5)
        with pytest.raises(ManifestError, match="belongs to other weights: SHA-256"):
            pipelines.label(folder, out=out, weights=other, resume=True)
        with pytest.raises(ManifestError, match="another 'stride': 1, not 2"):
            pipelines.label(folder, out=out, weights=tiny, resume=True, stride=2)
        again = copied(tiny, tmp_path / "again")
        assert list(pipelines.label(folder, out=out, weights=again, resume=True)) == []
        edit_card(again, lambda card: card["steps"][1].update(temperature=2.0))
        with pytest.raises(ManifestError, match=r"another 'temperatures': \[1.0, 1.0, .*not \[1.0, 2.0"):
            pipelines.label(folder, out=out, weights=again, resume=True)
        manifest = tmp_path / "o.jsonl.manifest"
        text = manifest.read_text()
        manifest.write_text(text.replace('"unit":0', '"unit":1'))
        with pytest.raises(ManifestError, match="was edited or damaged \\(line 2\\)"):
            pipelines.label(folder, out=out, weights=tiny, resume=True)
        manifest.write_text(text)
        out.write_text(out.read_text().replace("rose", "lily"))
        manifest.write_text("".join(text.splitlines(keepends=True)[:2]))
        with pytest.raises(ManifestError, match="is not what its manifest says"):
            pipelines.label(folder, out=out, weights=tiny, resume=True)
        out.unlink()
        with pytest.raises(ManifestError, match="is gone"):
            pipelines.label(folder, out=out, weights=tiny, resume=True)

    def test_new_videos_are_added_to_a_finished_job(self, tiny, tmp_path):
        videos, out = tmp_path / "videos", tmp_path / "o.jsonl"
        some_videos(videos, (6, 5))
        list(pipelines.label(videos, out=out, weights=tiny))
        encode(videos / "another.mp4", noise(4, seed=9))
        found = list(pipelines.label(videos, out=out, weights=tiny, resume=True))
        assert [(Path(f.source).name, f.index) for f in found] == [("another.mp4", i) for i in range(4)]
        assert len(lines(out)) == 15

    def test_a_finished_parquet_file_is_gone_on_from_without_its_parts(self, tiny, tmp_path):
        videos, out = tmp_path / "videos", tmp_path / "o.parquet"
        some_videos(videos, (6, 5))
        list(pipelines.label(videos, out=out, weights=tiny))
        finished = out.read_bytes()
        half = tmp_path / "o.parquet.unfinished" / "all"
        half.mkdir(parents=True)  # as a kill leaves it that comes while it is removed
        assert list(pipelines.label(videos, out=out, weights=tiny, resume=True)) == []
        assert out.read_bytes() == finished
        encode(videos / "new.mp4", noise(4, seed=9))
        half.mkdir(parents=True)
        assert len(list(pipelines.label(videos, out=out, weights=tiny, resume=True))) == 4
        rows = pyarrow.parquet.read_table(out)
        assert rows.slice(0, 11).equals(pyarrow.parquet.read_table(io.BytesIO(finished)))
        assert [row["frame"] for row in rows.slice(11).to_pylist()] == [0, 1, 2, 3]
        assert not half.parent.exists()
        encode(videos / "newer.mp4", noise(3, seed=8))
        for content, told in ((finished, "is not what its manifest says"), (b"PAR1", "is not what"), (None, "is gone")):
            out.unlink()
            if content is not None:
                out.write_bytes(content)
            with pytest.raises(ManifestError, match=told):
                pipelines.label(videos, out=out, weights=tiny, resume=True)
            out.touch()

    def test_whatever_changes_the_answers_is_noticed(self, tiny, folder, tmp_path):
        """The weights stay the same, and what their card or a file says does not."""
        groups, hierarchy = tmp_path / "groups.txt", tmp_path / "tree.txt"
        groups.write_text("red=rose,tulip\nother\n")
        hierarchy.write_text("\n".join(["flower", *(f"  {name}" for name in CLASSES)]))
        hedged = LabelOptions(hedge=0.7, hierarchy=hierarchy)
        for number, (options, change, told) in enumerate(
            [
                ({}, lambda card: card["preprocessing"].update(crop=0.8), "'preprocessing'"),
                ({}, lambda card: card["classes"].reverse(), "'classes of the weights'"),
                (
                    {"readout": "average"},
                    lambda card: card.update(readout_weights=[1, 1, 1, 1, 2]),
                    "'readout weights'",
                ),
                ({}, lambda card: card["steps"][0].update(threshold=0.5), "'thresholds'"),
                (
                    {"labels": LabelOptions(classes=[f"@{groups}"])},
                    lambda _: groups.write_text("red=rose"),
                    "content of",
                ),
                ({"labels": hedged}, lambda card: card.update(hedging={"targets": [0.5]}), "hedged labels'"),
                ({"labels": hedged}, lambda _: hierarchy.write_text(hierarchy.read_text() + "\n"), "content of"),
            ]
        ):
            out, card = tmp_path / f"{number}.jsonl", copied(tiny, tmp_path / str(number))
            with pipelines.label(folder, out=out, weights=card, **options) as frames:
                next(frames)
            edit_card(card, change)
            with pytest.raises(ManifestError, match=f"a job with another '?.*{told}"):
                pipelines.label(folder, out=out, weights=card, resume=True, **options)

    def test_two_jobs_cannot_write_one_output(self, tiny, folder, tmp_path):
        out = tmp_path / "o.jsonl"
        with (
            pipelines.label(folder, out=out, weights=tiny),
            pytest.raises(ManifestError, match="another process"),
        ):
            pipelines.label(folder, out=out, weights=tiny, resume=True)

    def test_a_full_disk_stops_it_clean_and_it_goes_on_when_there_is_room(
        self, tiny, folder, tmp_path, jobs, small_units
    ):
        whole, out = tmp_path / "whole.jsonl", tmp_path / "o.jsonl"
        assert run("label", folder, "--out", whole, "--weights", tiny)[0] == 0
        limited = (
            "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
        )
        job = jobs.start("label", folder, "--out", out, "--weights", tiny, first=limited)
        assert job.wait() == 1, job.err()
        assert "error: cannot write" in job.err()
        assert "file too large; raise the limit" in job.err()
        assert 0 < len(lines(out)) < 82
        assert run("label", folder, "--out", out, "--weights", tiny, "--resume")[0] == 0
        assert out.read_bytes() == whole.read_bytes()


class TestTrouble:
    def test_broken_videos_are_reported_and_the_job_goes_on(self, tiny, tmp_path):
        videos = tmp_path / "videos"
        good = encode(videos_made(videos) / "a-good.mp4", noise(8), options={"g": "4"})
        (videos / "b-empty.mp4").write_bytes(b"")
        sound(videos / "c-sound.mp4")
        (videos / "d-text.mp4").write_text("not a video\n" * 50)
        cut_short(
            encode(tmp_path / "long.nut", noise(40, seed=3), codec="mjpeg", pix_fmt="yuvj420p"),
            videos / "e-short.nut",
            0.6,
        )
        damage(encode(tmp_path / "b.mp4", noise(30, seed=4), options={"g": "10"}), videos / "f-damaged.mp4", [12])
        encode(videos / "g-good.mp4", noise(5, seed=2))
        front = encode(tmp_path / "f.mp4", noise(40, seed=5), container_options={"movflags": "faststart"})
        cut_short(front, videos / "h-cut.mp4", 0.6)
        code, out, err = run("label", videos, "--out", tmp_path / "o.jsonl", "--weights", tiny, "--summary-json", "-")
        assert code == 1, err
        summary = json.loads(out)
        videos_ = {Path(v["source"]).name: v for v in summary["videos"]}
        failed = {name: v for name, v in videos_.items() if v["error"] is not None}
        assert set(failed) == {"b-empty.mp4", "c-sound.mp4", "d-text.mp4", "h-cut.mp4"}
        assert "is empty (0 bytes)" in failed["b-empty.mp4"]["error"]
        assert "holds sound only" in failed["c-sound.mp4"]["error"]
        assert "b-empty.mp4' is empty" in err
        labelled = [Path(line["source"]).name for line in lines(tmp_path / "o.jsonl")]
        assert labelled.count("a-good.mp4") == 8
        assert labelled.count("g-good.mp4") == 5
        assert 10 < labelled.count("e-short.nut") < 40
        assert labelled.count("f-damaged.mp4") + videos_["f-damaged.mp4"]["damaged"] == 30
        assert videos_["f-damaged.mp4"]["damaged"] > 0
        assert summary["complete"]
        assert summary["done"] == 8
        assert good.exists()
        cut = videos_["h-cut.mp4"]
        assert re.search(r"h-cut.mp4' is cut short: \d+ of its 40 frames are not in it", cut["error"])
        assert 10 < labelled.count("h-cut.mp4") == cut["frames"] < 40
        whole = (tmp_path / "o.jsonl").read_bytes()
        again = run("label", videos, "--out", tmp_path / "o.jsonl", "--weights", tiny, "--resume")
        assert again[0] == 1  # it is finished, and still broken
        assert (tmp_path / "o.jsonl").read_bytes() == whole

    def test_strict_stops_at_the_first(self, tiny, tmp_path, small_units):
        videos = videos_made(tmp_path / "videos")
        (videos / "a.mp4").write_bytes(b"")
        encode(videos / "b.mp4", noise(3))
        with pytest.raises(SourceError, match="is empty"):
            list(pipelines.label(videos, weights=tiny, strict=True))
        front = encode(tmp_path / "f.mp4", noise(40, seed=5), container_options={"movflags": "faststart"})
        cut = cut_short(front, tmp_path / "cut.mp4", 0.6)
        holed = tmp_path / "holed.mkv"
        data = bytearray(encode(tmp_path / "w.mkv", noise(80, seed=5), options={"g": "10"}).read_bytes())
        data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
        holed.write_bytes(data)
        for options in ({}, {"stride": 3}, {"keyframes_only": True}):
            with pytest.raises(SourceError, match="is cut short"):
                list(pipelines.label(cut, weights=tiny, strict=True, **options))
            # cut into units, of which the last does not see the hole itself
            with pytest.raises(SourceError, match="is damaged: a part of it cannot be read"):
                list(pipelines.label(holed, weights=tiny, strict=True, **options))

    def test_the_size_may_change_midway(self, tiny, tmp_path):
        small = encode(tmp_path / "small.h264", numbered(4, (96, 64)))
        large = encode(tmp_path / "large.h264", numbered(4, (160, 120), first=4))
        both = tmp_path / "both.h264"
        both.write_bytes(small.read_bytes() + large.read_bytes())
        assert [f.index for f in pipelines.label(both, weights=tiny)] == list(range(8))

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"stride": 0}, "stride must be at least 1"),
            ({"every_s": -1.0}, "every-s must be a positive"),
            ({"every_s": 1.0, "stride": 2}, "one way"),
            ({"top_k": 0}, "top-k must be at least 1"),
            ({"confidence": 2.0}, "confidence must be from 0 to 1"),
            ({"budget_ms_per_frame": 0.0}, "budget-ms-per-frame must be a positive number"),
            ({"finish_by": "soon"}, "'soon' is no duration"),
            ({"format": "xml", "out": "x.jsonl"}, "no format is called 'xml'"),
            ({"out": "labels.xlsx"}, r"'labels.xlsx' ends like no table.*\.jsonl, \.ndjson, \.csv, \.parquet, \.vtt"),
            ({"out": "labels.txt", "format": "csv"}, "ends like no table"),
            ({"max_drop": 1.0}, "does not say what early exit loses"),
            ({"max_drop": 1.0, "confidence": 0.5}, "give one of them"),
            ({"out": "-", "format": "parquet"}, "Parquet cannot go to standard output"),
            ({"segments": True}, "nothing is written"),
            ({"resume": True, "overwrite": True, "out": "x.jsonl"}, "goes on or begins anew"),
            ({"readout": "first"}, "no readout is called 'first'"),
            ({"confidence": [0.5, 0.5]}, "5 exits need as many confidences, got 2"),
            ({"hwaccel": "abacus"}, "cannot decode on 'abacus'"),
        ],
        ids=str,
    )
    def test_wrong_options_are_told(self, tiny, folder, tmp_path, monkeypatch, options, error):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UsageError, match=error):
            pipelines.label(folder, weights=tiny, **options)
        assert list(tmp_path.iterdir()) == []


class TestTables:
    def test_csv_is_read_back_and_no_cell_is_a_formula(self, tiny, folder, tmp_path):
        out = tmp_path / "o.csv"
        found = list(pipelines.label(folder, out=out, weights=tiny, top_k=2))
        with out.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(found) == 82
        for row, frame in zip(rows, found, strict=True):
            assert (int(row["frame"]), int(row["class_id"]), int(row["exit"])) == (
                frame.index,
                frame.class_id,
                frame.exit,
            )
            assert float(row["confidence"]) == pytest.approx(frame.confidence, abs=1e-6)
            assert row["label"].removeprefix("'") == frame.label
            assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row.values())
        assert any(row["label"].startswith("'=") for row in rows)
        assert set(rows[0]) >= {"class_1", "probability_1", "class_2", "probability_2"}

    def test_parquet_is_read_back(self, tiny, folder, tmp_path):
        out = tmp_path / "o.parquet"
        found = list(pipelines.label(folder, out=out, weights=tiny, top_k=2))
        rows = pyarrow.parquet.read_table(out).to_pylist()
        assert [(r["source"], r["frame"], r["label"], r["exit"]) for r in rows] == [
            (f.source, f.index, f.label, f.exit) for f in found
        ]
        assert [r["pts_s"] for r in rows] == pytest.approx([f.pts_s for f in found])
        assert [[t["label"] for t in r["top"]] for r in rows] == [[n for n, _ in f.top] for f in found]
        assert [len(r["exits"]) for r in rows] == [len(f.exits) for f in found]

    def test_segments_are_runs_of_one_label(self, tiny, folder, tmp_path):
        out = tmp_path / "o.csv"
        found = list(pipelines.label(folder, out=out, weights=tiny, segments=True))
        with out.open(newline="") as file:
            rows = list(csv.DictReader(file))
        runs = [list(g) for _, g in itertools.groupby(found, key=lambda f: (f.source, f.label))]
        assert len(runs) < len(found)
        assert [(r["source"], r["label"].removeprefix("'"), int(r["frames"])) for r in rows] == [
            (run[0].source, run[0].label, len(run)) for run in runs
        ]
        for row, frames in zip(rows, runs, strict=True):
            assert float(row["start_s"]) == pytest.approx(frames[0].pts_s, abs=1e-6)
            assert float(row["end_s"]) == pytest.approx(frames[-1].pts_s + 0.04, abs=1e-6)
            assert float(row["confidence"]) == pytest.approx(np.mean([f.confidence for f in frames]), abs=1e-6)

    @pytest.mark.tool("ffprobe")
    def test_subtitles_are_read_by_a_player(self, tiny, folder, tmp_path):
        out = tmp_path / "clip2.vtt"
        found = list(pipelines.label(folder / "clip2.mp4", out=out, weights=tiny))
        command = ["ffprobe", "-v", "error", "-show_packets", "-show_data", "-of", "json", str(out)]
        packets = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)["packets"]
        runs = [list(g) for _, g in itertools.groupby(found, key=lambda f: f.label)]
        assert len(packets) == len(runs)
        for packet, frames in zip(packets, runs, strict=True):
            assert float(packet["pts_time"]) == pytest.approx(frames[0].pts_s, abs=1e-3)
            assert float(packet["duration_time"]) == pytest.approx(0.04 * len(frames), abs=2e-3)

    def test_one_subtitle_file_is_for_one_video(self, tiny, folder, tmp_path):
        with pytest.raises(UsageError, match="is for one video, not for 3"):
            pipelines.label(folder, out=tmp_path / "o.vtt", weights=tiny)

    def test_standard_output(self, tiny, folder):
        code, out, err = run("label", folder / "clip1.mp4", "--out", "-", "--weights", tiny, "--quiet")
        assert code == 0, err
        assert [json.loads(line)["frame"] for line in out.splitlines()] == list(range(7))
        assert err == ""


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> Path:
    """A video of variable rate with sound that begins later than its pictures."""
    path = tmp_path_factory.mktemp("spoken") / "spoken.mp4"
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("libx264", rate=25), container.add_stream("aac", rate=44100)
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        video.codec_context.time_base = video.time_base = Fraction(1, 1000)
        for image, ms in zip(
            numbered(12), [200, 240, 440, 1000, 1010, 1500, 1540, 1580, 1600, 1700, 1800, 1900], strict=True
        ):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = ms, Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        tone = (np.sin(np.arange(44100 * 2) * 0.06) * 9000).astype(np.int16)
        for start in range(0, len(tone), 1024):
            sound_ = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], format="s16", layout="mono")
            sound_.sample_rate, sound_.pts = 44100, start + 4410
            container.mux(audio.encode(sound_))
        container.mux(audio.encode(None))
    return path


def sound_packets(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(audio=0) if p.size and p.pts is not None]
        return [(float(p.pts or 0) * float(p.time_base), bytes(p)) for p in packets]


def frame_times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


class TestAnnotated:
    @pytest.mark.parametrize("options", [{}, {"stride": 5}], ids=str)
    def test_sound_and_times_are_kept(self, tiny, spoken, tmp_path, options):
        list(pipelines.label(spoken, out=tmp_path / "o.jsonl", overlay=tmp_path / "drawn", weights=tiny, **options))
        made = tmp_path / "drawn" / "spoken.mp4"
        assert frame_times(made) == pytest.approx(frame_times(spoken), abs=1e-9)
        assert sound_packets(made) == sound_packets(spoken)
        assert len(sound_packets(made)) > 50
        with av.open(str(made)) as drawn, av.open(str(spoken)) as plain:
            pairs = zip(drawn.decode(video=0), plain.decode(video=0), strict=True)
            for ours, theirs in pairs:
                difference = np.abs(ours.to_ndarray(format="rgb24").astype(int) - theirs.to_ndarray(format="rgb24"))
                assert difference[-40:].mean() > 3 * difference[:20].mean()
        assert [p.name for p in (tmp_path / "drawn").iterdir()] == ["spoken.mp4"]
        assert not list(tmp_path.rglob("*unfinished*"))

    @pytest.mark.parametrize("name", ["o/spoken.jsonl", "o/labels.manifest", "drawn/spoken.mp4"])
    def test_nothing_else_is_written_over_what_the_job_writes(self, tiny, spoken, tmp_path, name):
        out, drawn = tmp_path / "o", tmp_path / "drawn"
        job = ("label", spoken, "--out", f"{out}/", "--overlay", drawn, "--weights", tiny)
        code, _, err = run(*job, "--summary-json", tmp_path / "drawn" / ".." / name)
        assert (code, err.strip().endswith("is read or written by the job; name another file")) == (1, True), err
        assert not list(tmp_path.rglob("*.jsonl*")), "nothing has begun"

    def test_it_never_replaces_an_input(self, tiny, spoken, tmp_path):
        with pytest.raises(UsageError, match="would replace an input"):
            pipelines.label(spoken, out=tmp_path / "o.jsonl", overlay=spoken.parent, weights=tiny)

    def test_a_broken_video_is_drawn_as_far_as_it_goes(self, tiny, tmp_path):
        whole = encode(tmp_path / "whole.mkv", noise(30), options={"g": "10"})
        cut_short(whole, tmp_path / "cut.mkv", 0.6)
        run_ = pipelines.label(tmp_path / "cut.mkv", out=tmp_path / "o.jsonl", overlay=tmp_path / "d", weights=tiny)
        count = len(list(run_))
        assert 5 < count < 30
        assert len(frame_times(tmp_path / "d" / "cut.mp4")) == count


def copied(card: Path, folder: Path) -> Path:
    """A copy of weights, whose card can be written anew."""
    shutil.copytree(card.parent, folder)
    return folder / card.name


def edit_card(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))


def contents(path: Path) -> dict[str, bytes]:
    """What is in a file, or in all files of a folder."""
    files = sorted(f for f in path.rglob("*") if f.suffix != ".manifest") if path.is_dir() else [path]
    return {str(f.relative_to(path)): f.read_bytes() for f in files}


def videos_made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
