"""Labels on the demo clip, with the bundled network."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import pipelines
from cli import app
from stream_ann.errors import UsageError
from stream_ann.labels import LabelOptions


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
