"""Labels on the demo clip, with the bundled network."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import pipelines
from cli import app
from stream_ann import weights
from stream_ann.engines import open_engine
from stream_ann.errors import UsageError
from stream_ann.frames import Frame, Prediction
from stream_ann.ingest import FakeSource, source_from
from stream_ann.labels import LabelOptions, bundled_hierarchy, labelling_from
from stream_ann.labels.hedging import TARGETS, HedgeCalibration


def events(*options: str) -> list[dict[str, Any]]:
    words = ["live", "demo", "--no-realtime", "--view", "none", "--events", "-", "--device", "cpu", *options]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_run_restricted_to_groups_answers_with_their_names_alone(tmp_path):
    groups = tmp_path / "groups.txt"
    groups.write_text("cat=tabby,tiger cat,Egyptian cat\ndog\n")
    restricted, whole = [
        events("--max-frames", "2", "--classes", f"@{groups}", *more) for more in ([], ["--classes", "other"])
    ]
    for event in restricted:
        assert event["label"] == "cat"
        assert [name for name, _ in event["top"]] == ["cat", "dog"]
        assert sum(p for _, p in event["top"]) == pytest.approx(1, abs=1e-5)
        assert {e["class_id"] for e in event["exits"]} <= {0, 1}
    assert next(name for name, _ in whole[0]["top"]) == "cat"
    assert {name for name, _ in whole[0]["top"]} == {"cat", "dog", "other"}
    assert whole[0]["confidence"] < restricted[0]["confidence"]


def test_smoothing_makes_labels_calmer():
    options = ["--max-frames", "38", "--top-k", "1", "--confidence", "0.05"]  # the first exit alone, before the cut
    plain, smooth = [np.array([e["confidence"] for e in events(*options, *more)]) for more in ([], ["--smooth-s", "1"])]
    assert smooth[0] == pytest.approx(plain[0])
    assert np.abs(np.diff(smooth)).mean() < 0.5 * np.abs(np.diff(plain)).mean()


def test_from_python():
    labels = LabelOptions(classes=["cat=tabby,tiger cat,Egyptian cat", "other"], smooth_s=0.5)
    with pipelines.live("demo", labels=labels, device="cpu", realtime=False, max_frames=2) as run:
        assert run.labelling.names == ("cat", "other")
        assert {result.label for result in run} == {"cat"}


def test_what_does_not_fit_the_weights_is_said():
    with pytest.raises(UsageError, match="the weights know no class 'tabbi'; did you mean 'tabby'"):
        pipelines.live("demo", labels=LabelOptions(classes=["tabbi"]), device="cpu")
    result = CliRunner().invoke(app, ["live", "demo", "--classes", "tabbi"])
    assert result.exit_code == 1
    assert "error: the weights know no class 'tabbi'; did you mean 'tabby'?" in result.stderr


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """One of each of the clip's shots: a cat, coffee, a rocket."""
    source = source_from("demo")
    source.open()
    try:
        return [picture.image for i, picture in enumerate(iter(source.read, None)) if i in (5, 75, 87)]
    finally:
        source.close()


def test_a_hedged_label_sharpens_from_exit_to_exit(pictures):
    labels = LabelOptions(hedge=0.7)
    with pipelines.live(FakeSource(pictures), labels=labels, device="cpu", realtime=False) as run:
        cat, coffee, rocket = list(run)
    hierarchy = bundled_hierarchy()
    ladder = [hierarchy.below(answer.label) for answer in rocket.exits]
    assert ladder[0] > ladder[-1]  # from an artifact to a device or less
    assert "missile" in ladder[-1]
    for result, right in ((cat, "domestic cat"), (coffee, "beverage"), (rocket, "device")):
        assert hierarchy.below(result.label) <= hierarchy.below(right)
        assert result.exits[-1].label == result.label
        event = result.as_event()
        assert event["exits"][-1]["label"] == event["label"]
        assert event["confidence"] >= event["top"][0][1]


def test_the_surer_the_label_must_be_the_wider_it_is(pictures):
    """What the network answers to one picture, under several demands."""
    loaded = weights.load("imagenet")
    card, deepest = loaded.card, len(loaded.plan) - 1
    engine = open_engine(loaded.net, card.preprocessing, device="cpu", temperatures=card.temperatures)
    engine.start(pictures[0])
    answer = [Prediction(step, engine.run(step), 0.0) for step in range(deepest + 1)][deepest]
    engine.close()
    frame = Frame(pictures[0], "a cat", 0, 0.0, 0.0)
    hierarchy = bundled_hierarchy()
    shown = []
    for hedge in (0.5, 0.7, 0.9, 0.99):
        labels = labelling_from(card.classes, LabelOptions(hedge=hedge), hedging=card.extra["hedging"])
        shown.append(hierarchy.below(labels.settle(frame, answer, final=True).label))
    assert shown[0] < shown[-1]
    for sharper, wider in pairwise(shown):
        assert sharper <= wider


def test_without_hedging_events_have_no_other_keys(pictures):
    with pipelines.live(FakeSource(pictures[:1]), device="cpu", realtime=False) as run:
        event = next(run).as_event()
    assert set(event["exits"][0]) == {"exit", "class_id", "confidence", "done_ms"}


def test_the_bundled_card_holds_a_threshold_for_each_exit_and_target():
    card = weights.load("imagenet").card
    fitted = HedgeCalibration.from_json(card.extra["hedging"])
    assert fitted.targets == TARGETS
    assert len(fitted.thresholds) == len(card.steps)
    for row in fitted.thresholds:
        assert list(row) == sorted(row)
