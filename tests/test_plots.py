"""Plots: what is in them, and how they are written."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import torch
from PIL import Image

from stream_ann.errors import MissingExtraError, OutputError, UsageError
from stream_ann.training.calibrate import calibrate
from stream_ann.training.evaluate import Outputs, anytime_curve
from stream_ann.training.plots import Series, accuracy_plot, check_plot, evaluation_plot, learning_plot, save
from tests.fakes import plan_of_macs

SERIES = Series("net", [40e6, 120e6, 900e6], [0.4, 0.6, 0.7], [0.01, 0.01, 0.01], names=["a", "b", "c$^1$"])
PLAN = plan_of_macs([10**7, 2 * 10**7, 10**8], classes=6)


def outputs() -> Outputs:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 6, (900,), generator=generator)
    logits = torch.randn(3, 900, 6, generator=generator)
    logits += torch.tensor([1.0, 2.0, 3.0])[:, None, None] * torch.nn.functional.one_hot(labels, 6)
    return Outputs(logits, labels)


class TestAccuracyPlot:
    def test_draws_every_point_on_a_logarithmic_axis(self):
        axes = accuracy_plot([SERIES], title="a title").axes[0]
        assert axes.get_xscale() == "log"
        assert axes.get_xlabel() == "cost of an image (MMACs, logarithmic)"
        assert axes.get_ylabel() == "top-1 accuracy (%)"
        line = axes.lines[0]
        assert np.allclose(line.get_xdata(), [40, 120, 900])
        assert np.allclose(line.get_ydata(), [40, 60, 70])
        assert line.get_drawstyle() == "steps-post"
        assert [t.get_text() for t in axes.texts] == ["a", "b", "c$^1$"]

    def test_series_differ_in_more_than_colour(self):
        series = [Series(str(i), [1.0, 2.0], [0.1, 0.2]) for i in range(7)]
        legend = accuracy_plot(series).axes[0].get_legend()
        assert legend is not None
        handles = legend.get_lines()
        assert len({h.get_color() for h in handles}) == 7
        assert len({(h.get_marker(), str(h.get_linestyle())) for h in handles}) == 7
        assert [t.get_text() for t in legend.get_texts()] == [str(i) for i in range(7)]

    def test_milliseconds(self):
        axes = accuracy_plot([Series("net", [1.5, 4.0], [0.4, 0.6])], unit="ms").axes[0]
        assert axes.get_xlabel() == "time of an image (ms, logarithmic)"
        assert np.allclose(axes.lines[0].get_xdata(), [1.5, 4.0])

    def test_nothing_to_draw(self):
        with pytest.raises(ValueError, match="there is no series to draw"):
            accuracy_plot([])

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"kind": "bars"}, "invalid kind 'bars', allowed are anytime, line, points, star"),
            ({"errors": [0.1]}, r"as many accuracies, errors and names as costs, got \[2, 2, 1\]"),
            ({"costs": [0.0, 1.0]}, "costs must be positive and not fall"),
            ({"costs": [2.0, 1.0]}, "costs must be positive and not fall"),
        ],
    )
    def test_bad_series(self, changes, message):
        with pytest.raises(ValueError, match=message):
            Series(**{"label": "net", "costs": [1.0, 2.0], "accuracies": [0.1, 0.2], **changes})


class TestEvaluationPlot:
    def test_shows_readouts_and_early_exit(self):
        curve = anytime_curve(outputs(), PLAN)
        early = calibrate(outputs(), PLAN, max_drop=1.0).early_exit
        axes = evaluation_plot(curve, early, title="net").axes[0]
        legend = axes.get_legend()
        assert legend is not None
        # "best" is the same as "latest" here, and would hide it.
        assert [t.get_text() for t in legend.get_texts()] == [
            "anytime, latest exit",
            "anytime, average of exits",
            "early exit by confidence",
            "early exit, at most 1 points lost",
        ]
        stars = [line for line in axes.lines if line.get_marker() == "*" and len(line.get_xdata())]  # type: ignore[arg-type]
        assert np.allclose(np.asarray(stars[0].get_xdata(), float), early.macs / 1e6)
        assert np.allclose(np.asarray(stars[0].get_ydata(), float), 100 * early.top1)

    def test_without_early_exit(self):
        axes = evaluation_plot(anytime_curve(outputs(), PLAN, readouts=["latest"])).axes[0]
        assert len([t for t in axes.texts if t.get_text() in PLAN.exit_names]) == 3


def test_of_many_series_no_two_look_alike():
    series = [Series(f"method {i}", [1e6, 2e6], [0.1, 0.2]) for i in range(14)]
    axes = accuracy_plot(series).axes[0]
    looks = {
        (line.get_color(), line.get_linestyle(), line.get_marker()) for line in axes.lines if line.get_label()[0] != "_"
    }
    assert len(looks) == 14


class TestLearningPlot:
    def test_a_line_for_each_exit(self):
        axes = learning_plot([1, 2, 3], [[0.1, 0.2], [0.3, 0.4], [0.35, 0.5]], ["first", "last"]).axes[0]
        assert [line.get_label() for line in axes.lines] == ["first", "last"]
        assert np.allclose(axes.lines[1].get_ydata(), [20, 40, 50])

    def test_of_many_exits_the_first_and_last_are_named(self):
        axes = learning_plot([1], [[0.5] * 20], [str(i) for i in range(20)]).axes[0]
        legend = axes.get_legend()
        assert legend is not None
        assert [t.get_text() for t in legend.get_texts()] == ["0", "19"]

    def test_what_does_not_fit(self):
        with pytest.raises(ValueError, match="1 rows of accuracies for 2 epochs"):
            learning_plot([1, 2], [[0.1]], ["a"])
        with pytest.raises(ValueError, match="0 rows of accuracies for 0 epochs"):
            learning_plot([], [], ["a"])


class TestSave:
    def test_png(self, tmp_path):
        save(accuracy_plot([SERIES], title="a title", subtitle="below"), tmp_path / "plot.png")
        with Image.open(tmp_path / "plot.png") as image:
            assert image.size == (1280, 800)
            pixels = np.asarray(image.convert("RGB"))
        assert (pixels == [0x00, 0x72, 0xB2]).all(axis=2).sum() > 500, "the line is there in its colour"
        assert [p.name for p in tmp_path.iterdir()] == ["plot.png"]

    def test_other_formats(self, tmp_path):
        figure = accuracy_plot([SERIES])
        save(figure, tmp_path / "plot.svg")
        ET.parse(tmp_path / "plot.svg")
        save(figure, tmp_path / "plot.PDF")
        assert (tmp_path / "plot.PDF").read_bytes().startswith(b"%PDF")

    def test_the_same_figure_gives_the_same_file(self, tmp_path):
        for name in ("one.png", "two.png"):
            save(accuracy_plot([SERIES]), tmp_path / name)
        assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()

    def test_a_failure_leaves_the_old_file(self, tmp_path, monkeypatch):
        target = tmp_path / "plot.png"
        target.write_bytes(b"old")
        figure = accuracy_plot([SERIES])

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(type(figure), "savefig", full)
        with pytest.raises(OutputError, match=r"cannot write '.*plot\.png': No space left on device"):
            save(figure, target)
        assert target.read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir()] == ["plot.png"]

    def test_no_folder(self, tmp_path):
        with pytest.raises(OutputError, match=r"cannot write '.*missing/plot\.png'"):
            save(accuracy_plot([SERIES]), tmp_path / "missing" / "plot.png")

    def test_other_endings(self):
        with pytest.raises(UsageError, match=r"cannot write a plot as 'plot\.pgn'; .*png"):
            check_plot("plot.pgn")
        with pytest.raises(UsageError, match=r"cannot write a plot as 'plot'; add \.png"):
            check_plot("plot")


def test_without_matplotlib(monkeypatch):
    for name in [m for m in sys.modules if m == "matplotlib" or m.startswith("matplotlib.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"'matplotlib', which is not installed; .*stream-ann\[plots\]"):
        check_plot("plot.png")


def test_matplotlib_is_imported_only_to_plot_and_no_backend_is_chosen():
    code = (
        "import sys; import stream_ann.training.plots as plots; assert 'matplotlib' not in sys.modules;"
        "plots.check_plot('a.png'); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
