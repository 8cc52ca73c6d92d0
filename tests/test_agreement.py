"""The benchmark that compares exits with the last one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import agreement
from stream_ann import weights
from stream_ann.errors import SourceNotFoundError
from stream_ann.nets import EANN, ResANN
from stream_ann.preprocess import Preprocessing

CLASSES = ("rose", "tulip", "daisy")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Nine small images of unequal size in three folders, one of which is no class."""
    generator = np.random.default_rng(0)
    for folder in ("rose", "daisy", "n123", "other"):
        (tmp_path / "photographs" / folder).mkdir(parents=True)
        for i in range(3):
            size = (20 + 7 * i, 31, 3)
            Image.fromarray(generator.integers(0, 255, size, np.uint8)).save(
                tmp_path / "photographs" / folder / f"{i}.{'png' if i else 'JPG'}", "PNG" if i else "JPEG"
            )
    (tmp_path / "photographs" / "notes.txt").write_text("no image")
    return tmp_path / "photographs"


@pytest.fixture
def loaded(tmp_path: Path) -> weights.Weights:
    torch.manual_seed(0)
    small = ResANN(classes=3, n=1, c=4, s=3, resolution_px=16)
    net = EANN({"small": small}, [("small", 16), ("small", 32)])
    weights.save(
        net,
        tmp_path / "flowers",
        title="Three flowers",
        description="For tests.",
        classes=CLASSES,
        preprocessing=Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        training={"kind": "trained"},
        licence="Apache-2.0",
    )
    return weights.load(tmp_path / "flowers.json")


def test_figures(loaded):
    latest = np.array([[0, 0], [1, 2], [2, 2], [0, 1]])
    average = np.array([[0, 0], [1, 2], [2, 0], [0, 1]])
    labels = np.array([0, 2, -1, 0])
    first, last = agreement.figures(loaded, agreement.Answers(latest, average), labels)
    assert first == {
        "exit": 0,
        "name": "small@16",
        "cumulative_macs": loaded.plan.cumulative_macs[0],
        "agreement_latest": 0.5,
        "top1_latest": 0.6667,
        "agreement_average": 0.5,
        "top1_average": 0.6667,
    }
    assert last["agreement_latest"] == 1
    assert last["agreement_average"] == 0.75
    assert last["top1_latest"] == 0.6667


def test_labels_come_from_names_and_wordnet_ids(loaded, photographs, tmp_path):
    images = agreement.images_in(photographs)
    assert [p.parent.name for p in images] == ["daisy"] * 3 + ["n123"] * 3 + ["other"] * 3 + ["rose"] * 3
    assert agreement.labels_of(images, loaded.card, None).tolist() == [2] * 3 + [-1] * 6 + [0] * 3
    table = tmp_path / "ids.tsv"
    table.write_text("0\tn001\trose\n1\tn123\ttulip\n")
    assert agreement.labels_of(images, loaded.card, table).tolist() == [2] * 3 + [1] * 3 + [-1] * 3 + [0] * 3


def test_every_member_sees_the_image_at_its_own_resolution(loaded, photographs):
    images = agreement.images_in(photographs)
    one_by_one = agreement.classify(loaded, images, 1)
    batched = agreement.classify(loaded, images, 5)
    assert one_by_one.latest.shape == one_by_one.average.shape == (12, 2)
    assert np.array_equal(one_by_one.latest, batched.latest)
    assert np.array_equal(one_by_one.average, batched.average)
    assert np.array_equal(batched.latest[:, 0], batched.average[:, 0])


def test_spread():
    paths = [Path(str(i)) for i in range(10)]
    assert agreement.spread(paths, None) == paths
    assert agreement.spread(paths, 50) == paths
    assert [p.name for p in agreement.spread(paths, 4)] == ["0", "2", "5", "7"]


def test_report_and_card(loaded, photographs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "results" / "out.json"
    words = [str(photographs), "--weights", str(loaded.path), "--out", str(out), "--into-card", "--threads", "1"]
    monkeypatch.setattr("sys.argv", ["agreement", *words])
    assert agreement.main() == 0
    report = json.loads(out.read_text())
    assert report["results"]["images"] == 12
    assert report["results"]["labelled_images"] == 6
    assert report["results"]["weights_sha256"] == loaded.card.file.sha256
    assert str(tmp_path) not in out.read_text()
    card = weights.load(loaded.path).card  # still fits its weights
    assert [s.accuracy for s in card.steps] == [row["agreement_latest"] for row in report["results"]["exits"]]
    assert card.steps[-1].accuracy == 1
    assert card.validation is not None
    assert card.validation.measure.startswith("agreement of top-1 with the last exit (small@32)")
    assert card.validation.images == 12
    assert "12/12 images" in capsys.readouterr().err


def test_folder_without_images(tmp_path):
    with pytest.raises(SourceNotFoundError, match="there are no images in"):
        agreement.images_in(tmp_path)
