"""Answers to pictures are computed once, and figures over all rates are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import bench as bench_module
from pipelines.bench import BenchOptions, bench
from pipelines.benchmarking.answers import KeptAnswers
from pipelines.benchmarking.streams import FilmOptions
from stream_ann import weights as weights_room
from stream_ann.errors import OutputError
from stream_ann.nets import EANN, ResANN
from stream_ann.preprocess import Preprocessing


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> BenchOptions:
    root: Path = tmp_path_factory.mktemp("bench")
    rng = np.random.default_rng(0)
    for kind, grey in (("dark", 60), ("light", 190)):
        (root / "pictures" / kind).mkdir(parents=True)
        for i in range(3):
            picture = rng.normal(grey, 20, (40, 52, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(picture).save(root / "pictures" / kind / f"{i}.png")
    torch.manual_seed(1)
    weights_room.save(
        EANN({"small": ResANN(classes=2, n=1, c=4, s=3, resolution_px=16)}, [("small", 16), ("small", 24)]).eval(),
        root / "kinds.json",
        title="Kinds of pictures",
        description="For tests.",
        classes=("dark", "light"),
        preprocessing=Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 0.875, "bilinear"),
        training={"kind": "trained"},
        licence="Apache-2.0",
    )
    steps_ms = [[1.0]] * len(weights_room.load(root / "kinds.json").plan)
    (root / "times.json").write_text(
        f'{{"times": {{"kinds": {{"start_ms": [0.1], "between_ms": [0.1], "steps_ms": {steps_ms}}}}}}}'
    )
    return BenchOptions(
        fps=(20.0, 100.0),
        weights=root / "kinds.json",
        device="cpu",
        engine="torch",
        labels=str(root / "pictures"),
        film=FilmOptions(dwell_s=0.2, motion_fps=10, scenes=6),
        policies=("in-order",),
        simulate=True,
        times=root / "times.json",
        keep=root / "kept",
    )


class TestKept:
    def test_the_second_run_asks_nobody(self, options, monkeypatch):
        first = bench(None, options).to_json()
        assert len(list(Path(options.keep).iterdir())) == 1  # type: ignore[arg-type]
        real, asked = KeptAnswers.answers, []

        def answers(self, picture, ask):
            return real(self, picture, lambda image: asked.append(image) or ask(image))

        monkeypatch.setattr(KeptAnswers, "answers", answers)
        assert bench(None, options).to_json() == first
        assert asked == []

    def test_by_content_and_by_what_else_answers_depend_on(self, tmp_path):
        picture, other = np.zeros((4, 6, 3), dtype=np.uint8), np.ones((4, 6, 3), dtype=np.uint8)
        row = np.arange(6, dtype=np.float32).reshape(2, 3)
        kept = KeptAnswers(tmp_path / "new", "weights", (2, 3))
        assert kept.answers(picture, lambda _: row) is row
        kept.write()

        def ask(image):
            return row + 1

        again = KeptAnswers(tmp_path / "new", "weights", (2, 3))
        assert np.array_equal(again.answers(picture, ask), row)
        assert np.array_equal(again.answers(picture.reshape(6, 4, 3), ask), row + 1)
        assert np.array_equal(again.answers(other, ask), row + 1)
        for about, shape in (("other weights", (2, 3)), ("weights", (3, 2))):
            assert np.array_equal(KeptAnswers(tmp_path / "new", about, shape).answers(picture, ask), row + 1)

    def test_what_is_damaged_is_made_anew(self, tmp_path):
        kept = KeptAnswers(tmp_path, "weights", (1, 2))
        picture, row = np.zeros((2, 2, 3), dtype=np.uint8), np.zeros((1, 2), dtype=np.float32)
        kept.answers(picture, lambda _: row)
        kept.write()
        (file,) = tmp_path.iterdir()
        whole = file.read_bytes()
        for content in (b"", whole[:100], b"nonsense", whole[:-30]):
            file.write_bytes(content)
            assert np.array_equal(KeptAnswers(tmp_path, "weights", (1, 2)).answers(picture, lambda _: row + 1), row + 1)

    def test_what_cannot_be_written_is_said(self, tmp_path):
        (tmp_path / "taken").write_text("")
        kept = KeptAnswers(tmp_path / "taken", "weights", (1, 2))
        kept.answers(np.zeros((2, 2, 3), dtype=np.uint8), lambda _: np.zeros((1, 2), dtype=np.float32))
        with pytest.raises(OutputError, match="taken"):
            kept.write()


def test_over_all_rates(options):
    report = bench_module.bench(None, options)
    (whole,) = report.overall
    ratios = [line.ratio.value for line in report.headlines]
    assert whole.contender == "kinds, in-order"
    assert whole.mean.value == pytest.approx(np.mean(ratios))
    assert whole.least.value == pytest.approx(min(ratios))
    told = report.as_dict()
    assert told["overall"][0]["ratio_mean"]["value"] == pytest.approx(np.mean(ratios), abs=1e-4)
    assert told["mean_agreement"] is None
