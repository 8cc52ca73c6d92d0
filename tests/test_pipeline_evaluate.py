"""Evaluation of real weights on real image files: figures, files, card."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from pipelines.evaluate import evaluate, write_into_card
from stream_ann import weights as weights_room
from stream_ann.errors import (
    DeviceError,
    MissingExtraError,
    OutputError,
    SourceNotFoundError,
    UnknownWeightsError,
    UsageError,
)
from stream_ann.nets import EANN, ResANN
from stream_ann.preprocess import Preprocessing, preprocess
from stream_ann.training.early_exit import NEVER

CLASSES = ("dark", "light", "stripes")
PREPROCESSING = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 0.875, "bilinear")
EACH = 14


def picture(kind: str, rng: np.random.Generator) -> Image.Image:
    pixels = rng.normal({"dark": 60, "light": 190, "stripes": 125}[kind], 25, (36, 44, 3))
    if kind == "stripes":
        pixels += 60 * np.sign(np.sin(np.arange(44) * rng.uniform(0.5, 1.0)))[None, :, None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root: Path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for part, count in (("train", 3), ("val", EACH)):
        for kind in CLASSES:
            (root / part / kind).mkdir(parents=True)
            for i in range(count):
                picture(kind, rng).save(root / part / kind / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Weights of two members that have learnt a little: their last layer fits the kinds of pictures."""
    torch.manual_seed(0)
    net = EANN({"small": ResANN(classes=3, n=1, c=4, s=3, resolution_px=16)}, [("small", 16), ("small", 24)]).eval()
    path: Path = tmp_path_factory.mktemp("weights") / "kinds.json"
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    rng = np.random.default_rng(1)
    images = torch.cat(
        [preprocess(np.asarray(picture(kind, rng)), 24, PREPROCESSING) for kind in CLASSES for _ in range(12)]
    )
    labels = torch.arange(3).repeat_interleave(12)
    for _ in range(12):
        loss = sum(torch.nn.functional.cross_entropy(logits, labels) for logits in net(images))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimiser.step()
    weights_room.save(
        net,
        path,
        title="Kinds of pictures",
        description="For tests.",
        classes=CLASSES,
        preprocessing=PREPROCESSING,
        training={"kind": "trained", "seed": 3},
        licence="Apache-2.0",
    )
    return path


@pytest.fixture
def weights_file(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may write to."""
    for ending in (".json", ".safetensors"):
        (tmp_path / f"kinds{ending}").write_bytes(saved.with_suffix(ending).read_bytes())
    return tmp_path / "kinds.json"


def by_hand(path: Path, folder: Path) -> list[float]:
    """Accuracy of each exit, picture by picture, with preprocessing and net alone."""
    loaded = weights_room.load(path)
    right = torch.zeros(len(loaded.plan))
    for number, kind in enumerate(CLASSES):
        for file in sorted((folder / "val" / kind).iterdir()):
            image = np.asarray(Image.open(file))
            with torch.inference_mode():
                for i, (step, info) in enumerate(zip(loaded.net.steps, loaded.plan.steps, strict=True)):
                    _, logits = step(preprocess(image, info.resolution_px, loaded.card.preprocessing), ())
                    right[i] += int(logits.argmax()) == number
    return (right / (EACH * len(CLASSES))).tolist()


class TestFigures:
    def test_are_those_of_the_net(self, saved, folder):
        result = evaluate(saved, folder, device="cpu", max_drop=2.0)
        figures = result.curve.of("latest")
        expected = by_hand(saved, folder)
        assert max(expected) > 0.6, "the weights must have learnt something"
        assert [f.top1 for f in figures] == pytest.approx(expected)
        plan = weights_room.load(saved).plan
        assert tuple(f.macs for f in figures) == plan.cumulative_macs
        assert all(f.ms is not None and f.ms > 0 for f in figures)
        assert (result.weights, result.data, result.device) == ("kinds", folder.name, "cpu")
        assert result.curve.images == 3 * EACH
        assert result.calibration is not None
        assert sum(result.calibration.images) == 3 * EACH

    def test_few_images_are_warned_of(self, saved, folder):
        result = evaluate(saved, folder, device="cpu", timing=False)
        assert any("on 14 images only" in line for line in result.warnings)
        assert result.curve.of()[0].ms is None

    def test_the_training_part(self, saved, folder):
        assert evaluate(saved, folder, device="cpu", split="train", timing=False).curve.images == 9

    def test_progress(self, saved, folder):
        told: list[tuple[str, int, int]] = []
        evaluate(saved, folder, device="cpu", batch_size=20, timing=False, on_progress=lambda *a: told.append(a))
        assert [t for t in told if t[0] == "evaluating"] == [("evaluating", n, 84) for n in (0, 20, 40, 42, 62, 82, 84)]

    def test_damaged_files_are_named(self, saved, folder, tmp_path):
        for kind in CLASSES:
            for part in ("train", "val"):
                target = tmp_path / "data" / part / kind
                target.mkdir(parents=True)
                for file in sorted((folder / part / kind).iterdir())[:5]:
                    (target / file.name).write_bytes(file.read_bytes())
        (tmp_path / "data" / "val" / "dark" / "broken.png").write_bytes(b"no picture")
        result = evaluate(saved, tmp_path / "data", device="cpu", timing=False)
        assert result.curve.images == 15
        assert any("left out" in line and "broken.png" in line for line in result.warnings)


class TestFiles:
    def test_json_csv_and_plot(self, saved, folder, tmp_path):
        pytest.importorskip("matplotlib")
        names = {kind: tmp_path / f"out.{kind}" for kind in ("json", "csv", "png")}
        result = evaluate(
            saved, folder, device="cpu", json=names["json"], csv=names["csv"], plot=names["png"], timing=False
        )
        document = json.loads(names["json"].read_text())
        assert document == json.loads(result.to_json())
        assert document["figures"][0]["top1"] == result.curve.figures[0].top1
        assert document["calibration"]["early_exit"]["budget"] == 0.5
        rows = list(csv.DictReader(io.StringIO(names["csv"].read_text())))
        assert len(rows) == 6
        assert [(r["readout"], r["name"]) for r in rows[:2]] == [("latest", "small@16"), ("latest", "small@24")]
        assert float(rows[1]["top1"]) == result.curve.figures[1].top1
        assert rows[0]["ms"] == ""
        with Image.open(names["png"]) as image:
            assert image.format == "PNG"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "out.json", "out.png"]

    def test_standard_output(self, saved, folder, capsys):
        result = evaluate(saved, folder, device="cpu", json="-", timing=False)
        assert capsys.readouterr().out == result.to_json()

    def test_an_interrupt_leaves_nothing(self, weights_file, folder):
        before = {p.name: p.read_bytes() for p in weights_file.parent.iterdir()}

        def interrupt(stage: str, done: int, total: int) -> None:
            if stage == "evaluating" and done:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            evaluate(
                weights_file,
                folder,
                device="cpu",
                json=weights_file.parent / "out.json",
                into_card=True,
                timing=False,
                on_progress=interrupt,
            )
        assert {p.name: p.read_bytes() for p in weights_file.parent.iterdir()} == before

    def test_what_cannot_be_written_is_found_out_first(self, saved, folder, tmp_path, monkeypatch):
        monkeypatch.setattr("pipelines.evaluate.open_data", lambda *a, **k: pytest.fail("the data was opened"))
        with pytest.raises(OutputError, match=r"there is no folder '.*missing'"):
            evaluate(saved, folder, json=tmp_path / "missing" / "out.json")
        with pytest.raises(UsageError, match=r"two outputs are to be written to '.*out'"):
            evaluate(saved, folder, json=tmp_path / "out", csv=tmp_path / "." / "out")
        with pytest.raises(UsageError, match=r"cannot write a plot as 'plot\.bmp'"):
            evaluate(saved, folder, plot=tmp_path / "plot.bmp")
        monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
        with pytest.raises(MissingExtraError, match=r"stream-ann\[plots\]"):
            evaluate(saved, folder, plot=tmp_path / "plot.png")


class TestIntoCard:
    def test_accuracies_temperatures_and_thresholds(self, weights_file, folder):
        result = evaluate(weights_file, folder, device="cpu", target_cost=0.9, into_card=True, timing=False)
        assert all(check.ok for check in weights_room.verify(weights_file))
        card = weights_room.read_card(weights_file)
        assert result.calibration is not None
        early = result.calibration.early_exit
        for i, step in enumerate(card.steps):
            assert step.accuracy == pytest.approx(result.curve.of()[i].top1, abs=1e-6)
            assert step.temperature == pytest.approx(result.calibration.temperatures[i], abs=1e-6)
            threshold = early.thresholds[i]
            assert step.threshold == (threshold if threshold <= 1 else None)
        assert card.steps[-1].threshold == 0
        assert card.validation is not None
        assert (card.validation.images, card.validation.data) == (42, folder.name)
        assert card.validation.command == f"stream-ann evaluate kinds {folder.name} --target-cost 0.9"
        assert card.validation.extra["early_exit"]["goal"] == "target-cost"
        assert card.validation.extra["early_exit"]["images"] == 14

    def test_fitted_weights_make_the_average_the_answer(self, weights_file, folder):
        assert weights_room.read_card(weights_file).default_readout == "latest"
        result = evaluate(weights_file, folder, device="cpu", fit_readout=True, into_card=True, timing=False)
        assert result.calibration is not None
        fitted = result.calibration.readout_weights
        assert fitted is not None
        card = weights_room.read_card(weights_file)
        assert card.readout_weights == fitted
        assert card.default_readout == "average"
        assert card.validation is not None
        assert card.validation.command.endswith(" --max-drop 0.5 --fit-readout")
        assert card.validation.extra["early_exit"]["readout"] == "average"
        (of_them, again) = (r.curve.of("average") for r in (result, evaluate(weights_file, folder, timing=False)))
        assert of_them == again, "the figures told are those of the fitted weights"
        gained = itertools.accumulate((round(figures.top1, 6) for figures in of_them), max)
        assert card.planning_accuracies == tuple(gained), "plans go by the answers that run"
        console = Console(width=160, record=True, file=io.StringIO())
        console.print(result)
        assert "weight in the average" in console.export_text()

        evaluate(weights_file, folder, device="cpu", into_card=True, timing=False)
        assert weights_room.read_card(weights_file).readout_weights == fitted, "nothing was fitted this time"

    def test_without_it_the_card_stays(self, weights_file, folder):
        before = weights_file.read_bytes()
        evaluate(weights_file, folder, device="cpu", timing=False)
        assert weights_file.read_bytes() == before

    def test_an_exit_that_never_ends_a_frame_has_no_threshold(self, weights_file, folder):
        result = evaluate(weights_file, folder, device="cpu", timing=False)
        assert result.calibration is not None
        early = dataclasses.replace(result.calibration.early_exit, thresholds=(NEVER, 0.0))
        result = dataclasses.replace(result, calibration=dataclasses.replace(result.calibration, early_exit=early))
        assert json.loads(result.to_json())["calibration"]["early_exit"]["thresholds"] == [None, 0.0]
        write_into_card(weights_file, weights_room.read_card(weights_file), result)
        assert [step.threshold for step in weights_room.read_card(weights_file).steps] == [None, 0.0]
        console = Console(width=160, record=True, file=io.StringIO())
        console.print(result)
        assert "never" in console.export_text()

    def test_a_calibration_of_other_figures_is_taken_out(self, weights_file, folder):
        result = evaluate(weights_file, folder, device="cpu", timing=False, into_card=True)
        assert weights_room.read_card(weights_file).steps[0].temperature is not None
        extra = {"hedging": {}, "planning": {"exits": [0.1, 0.2]}, "mine": 1}
        card = dataclasses.replace(weights_room.read_card(weights_file), extra=extra)
        write_into_card(weights_file, card, dataclasses.replace(result, calibration=None))
        written = weights_room.read_card(weights_file)
        assert written.steps[0].temperature is None
        assert written.extra == {"mine": 1}  # hedged labels' thresholds were fitted at other temperatures
        assert weights_room.read_card(weights_file).steps[0].accuracy is not None


class TestTables:
    def test_say_it_all(self, saved, folder):
        console = Console(width=80, record=True, file=io.StringIO())
        result = evaluate(saved, folder, device="cpu", console=console)
        console.print(result)
        text = console.export_text()
        assert "…" not in text, "nothing is cut on a terminal of 80 columns"
        for part in ("small@16", "latest", "average", "MMACs", "ms (cpu)", "temperature", "early exit", "warning:"):
            assert part in text
        assert f"{100 * result.curve.figures[0].top1:.2f} ±" in text
        assert "top-5" not in text, "of three classes"
        assert "of the plan's MACs" in " ".join(text.split())

    def test_a_bar_on_a_terminal(self, saved, folder):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=True, width=80)
        evaluate(saved, folder, device="cpu", console=console, timing=False)
        assert "evaluating" in screen.getvalue()


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"split": "test"}, "no split is called 'test'"),
            ({"readout": "newest"}, "no readout is called 'newest'"),
            ({"batch_size": 0}, "a batch of 0 images"),
            ({"fit_readout": True, "readout": "latest"}, "weights of an average are to be fitted, and early exit"),
            ({"max_drop": 0.5, "target_cost": 0.5}, "both a drop in accuracy and a target cost are given"),
            ({"max_drop": -1.0}, "a drop in accuracy of -1 points"),
            ({"target_cost": 0.0}, "a target cost of 0; give a fraction"),
        ],
    )
    def test_options(self, saved, folder, options, message):
        with pytest.raises(UsageError, match=message):
            evaluate(saved, folder, **options)

    def test_weights_data_and_device(self, saved, folder, tmp_path):
        with pytest.raises(UnknownWeightsError, match="no weights are called 'nothing'"):
            evaluate("nothing", folder)
        with pytest.raises(SourceNotFoundError, match="there is no folder 'nothing'"):
            evaluate(saved, "nothing", timing=False)
        with pytest.raises(DeviceError, match="no device is called 'gpu'"):
            evaluate(saved, folder, device="gpu")

    def test_data_of_other_classes(self, saved, folder, tmp_path):
        for kind in ("dark", "green"):
            (tmp_path / "data" / "val" / kind).mkdir(parents=True)
            (tmp_path / "data" / "train" / kind).mkdir(parents=True)
            for part in ("train", "val"):
                source = folder / "val" / "dark" / "00.png"
                (tmp_path / "data" / part / kind / "a.png").write_bytes(source.read_bytes())
        with pytest.raises(UsageError, match="has no class 'light'"):
            evaluate(saved, tmp_path / "data", timing=False)

    def test_a_cost_below_the_first_exit(self, saved, folder):
        with pytest.raises(UsageError, match=r"no early exit costs 0\.01 of the plan"):
            evaluate(saved, folder, device="cpu", target_cost=0.01, timing=False)
