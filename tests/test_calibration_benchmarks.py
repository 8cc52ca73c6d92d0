"""The benchmarks that tell how far confidences and hedged labels can be believed."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import anytime_area, calibration, hedging
from benchmarks.photographs import Part, labelled, outputs_of
from stream_ann import weights
from stream_ann.errors import UsageError
from stream_ann.labels.hedging import TARGETS, HedgeCalibration
from stream_ann.nets import Plan, StepInfo, build
from stream_ann.preprocess import Preprocessing

CLASSES = ("tabby", "Egyptian cat", "beagle", "espresso")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """An untrained network that knows four of ImageNet's classes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small"
    weights.save(
        build({"name": "resann", "classes": 4, "n": 1, "c": 8, "s": 1, "resolution_px": 32}),
        path,
        title="untrained",
        description="for tests",
        classes=CLASSES,
        preprocessing=Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        training={"kind": "trained"},
        licence="Apache-2.0",
    )
    return path.with_suffix(".json")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for folder in ("tabby", "Egyptian cat", "espresso", "no class"):
            (root / part / folder).mkdir(parents=True)
            for i in range(8):
                picture = random.integers(0, 255, (24, 31, 3), np.uint8)
                Image.fromarray(picture).save(root / part / folder / f"{i}.png")
    return root


def run(module, *words: str | Path, monkeypatch) -> int:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
    return module.main()


def test_photographs_are_labelled_by_their_folders_name(small, photographs):
    loaded = weights.load(small)
    paths, labels = labelled(Part.parse(f"{photographs / 'val'}:3"), loaded)
    assert [path.parent.name for path in paths] == ["tabby"] * 3 + ["Egyptian cat"] * 3 + ["espresso"] * 3
    assert labels.tolist() == [0] * 3 + [1] * 3 + [3] * 3
    with pytest.raises(UsageError, match=r"no folder in .* is named as a class"):
        labelled(Part(photographs / "val" / "no class", None), loaded)


def test_logits_are_those_of_the_network_and_kept(small, photographs, tmp_path):
    loaded = weights.load(small)
    part = Part(photographs / "val", 2)
    outputs = outputs_of(loaded, part, batch_size=4, keep=tmp_path)
    assert outputs.logits.shape == (3, 6, 4)
    kept = outputs_of(loaded, part, keep=tmp_path)
    assert torch.allclose(kept.logits, outputs.logits, atol=1e-2)
    assert kept.labels.equal(outputs.labels)


def test_calibration_into_the_card_and_hedging_after_it(small, photographs, tmp_path, monkeypatch):
    options = ["--fit", photographs / "train", "--report", photographs / "val", "--weights", small, "--threads", "1"]
    out = tmp_path / "calibration.json"
    assert run(calibration, *options, "--out", out, "--into-card", monkeypatch=monkeypatch) == 0
    told = json.loads(out.read_text())["results"]
    assert told["fit"] == {f"{photographs.name}/train": 24}
    exits = told["report"][f"{photographs.name}/val"]["exits"]
    card = weights.load(small).card
    assert card.temperatures == pytest.approx([row["temperature"] for row in exits], abs=1e-3)
    assert card.extra["calibration"]["top1"]["exits"] == [row["top1"] for row in exits]
    assert card.steps[-1].threshold == 0
    assert list(card.readout_weights) == told["readout_weights"]

    out = tmp_path / "hedging.json"
    assert run(hedging, *options, "--out", out, "--into-card", monkeypatch=monkeypatch) == 0
    rows = json.loads(out.read_text())["results"]["report"][f"{photographs.name}/val"]["fitted"]
    assert [row["target"] for row in rows if row["exit"] == 0] == list(TARGETS)
    # an untrained network can promise nothing but the widest concept
    assert {row["right"] for row in rows if row["target"] >= 0.9} == {1.0}
    assert {row["information"] for row in rows if row["target"] >= 0.9} == {0.0}
    hedged = weights.load(small).card
    assert len(HedgeCalibration.from_json(hedged.extra["hedging"]).thresholds) == 3
    assert hedged.temperatures == card.temperatures


def test_what_to_plan_by_is_measured_on_the_images_to_fit_to(small, photographs, monkeypatch):
    of_one_class = photographs / "val" / "tabby"
    options = ["--fit", photographs / "train", "--report", of_one_class, "--weights", small, "--threads", "1"]
    assert run(calibration, *options, "--into-card", monkeypatch=monkeypatch) == 0
    loaded = weights.load(small)
    outputs = outputs_of(loaded, Part(photographs / "train", None))
    shares = (outputs.logits.argmax(2) == outputs.labels).double().mean(1).tolist()
    assert loaded.card.planning_accuracies == pytest.approx(calibration.planned_by(shares), abs=1e-3)
    assert loaded.card.planning_accuracies != tuple(loaded.card.extra["calibration"]["top1"]["exits"])
    assert loaded.card.extra["planning"]["images"] == 24


def test_a_later_exit_is_never_planned_to_be_worse_than_one_before():
    assert calibration.planned_by([0.5, 0.75, 0.7, 0.8]) == [0.5, 0.75, 0.752, 0.8]
    assert calibration.planned_by([1.0, 0.9]) == [1.0, 1.0]


def test_hedging_needs_classes_of_imagenet(photographs, tmp_path, monkeypatch, capsys):
    weights.save(
        build({"name": "resann", "classes": 2, "n": 1, "c": 8, "s": 1, "resolution_px": 32}),
        tmp_path / "mine",
        title="untrained",
        description="for tests",
        classes=["tabby", "espreso"],
        preprocessing=Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        training={"kind": "trained"},
        licence="Apache-2.0",
    )
    words = ["--fit", photographs / "train", "--weights", tmp_path / "mine.json"]
    assert run(hedging, *words, monkeypatch=monkeypatch) == 1
    assert "the class 'espreso' is not in the hierarchy; did you mean 'espresso'" in capsys.readouterr().err


def test_area_under_answers_over_the_logarithm_of_cost(small, photographs, tmp_path, monkeypatch):
    plan = Plan(tuple(StepInfo(str(i), 0, 32, i == 0, macs) for i, macs in enumerate((30e6, 120e6, 1200e6))), 4)
    # the first exit counts from 60 to 150 MMACs, the second up to 1,350, the last up to 1,500
    wanted = [math.log(150 / 60), math.log(1350 / 150), math.log(1500 / 1350)]
    assert anytime_area.shares(plan) == pytest.approx(np.array(wanted) / math.log(25))
    hits = np.array([[True, False], [True, True], [False, True]])
    assert anytime_area.score(hits, plan).mean() == pytest.approx(
        (wanted[0] / 2 + wanted[1] + wanted[2] / 2) / math.log(25)
    )

    out = tmp_path / "area.json"
    words = [
        photographs / "val",
        f"{photographs / 'train'}:2",
        "--weights",
        small,
        "--against",
        small,
        "--threads",
        "1",
    ]
    assert run(anytime_area, *words, "--keep", tmp_path / "keep", "--out", out, monkeypatch=monkeypatch) == 0
    sets = json.loads(out.read_text())["results"]["sets"]
    assert [found["images"] for found in sets.values()] == [32, 8]
    for found in sets.values():
        assert found["agreement_latest"]["gain"] == found["top1_average"]["gain_error"] == 0
        assert found["agreement_latest"]["exits"]["resann@32 3"] == 100
        assert found["top1_latest"]["images"] < found["images"]
    assert len(list((tmp_path / "keep").iterdir())) == 2  # what both weights have in common ran once


def test_exits_inside_members_may_have_any_share_and_the_last_of_all_less_than_half():
    macs = {"resolution_px": 32, "first": False, "macs": 1}
    plan = Plan(tuple(StepInfo(str(i), member, **macs) for i, member in enumerate((0, 1, 1, 2, 2))), 4)
    assert calibration.least_shares(plan) == [0.5, 0.0, 0.5, 0.0, 0.4]
