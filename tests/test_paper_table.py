"""The comparison of training methods: its arithmetic, and the whole of it on made-up data."""

from __future__ import annotations

import json

import pytest

from benchmarks.paper_report import summarise
from benchmarks.paper_table import PRESETS, jobs_of, main, quarters


def made_run(method, accuracy, seed=0, macs=(10, 20, 30, 40)):
    return {
        "method": method,
        "seed": seed,
        "accuracy": list(accuracy),
        "cumulative_macs": list(macs),
        "data": "made up",
        "images": {"train": 1, "val": 1},
        "options": {"epochs": 1},
    }


OPTS = [made_run(f"opt:{i + 1}", [0.5 + 0.1 * i if j == i else 0.0 for j in range(4)]) for i in range(4)]


class TestSummary:
    def test_relative_increase_is_over_the_network_trained_for_that_exit_alone(self):
        summary = summarise([*OPTS, made_run("const", [0.4, 0.6, 0.58, 0.76])])
        (row,) = summary["methods"]
        # errors 0.6 0.4 0.42 0.24 over OPT's 0.5 0.4 0.3 0.2
        assert row["relative_error_increase"] == pytest.approx([0.2, 0.0, 0.4, 0.2])
        assert row["mean_accuracy"] == pytest.approx((0.4 + 0.6 + 0.58 + 0.76) / 4)
        assert row["final_accuracy"] == pytest.approx(0.76)
        assert row["over_msdnet"] is None

    def test_seeds_are_averaged(self):
        runs = [made_run("const", [0.4] * 4, seed=0), made_run("const", [0.6] * 4, seed=1)]
        (row,) = summarise([*OPTS, *runs])["methods"]
        assert row["seeds"] == 2
        assert row["final_accuracy"] == pytest.approx(0.5)
        assert row["final_accuracy_std"] == pytest.approx(0.141421, abs=1e-5)

    def test_the_peer_is_asked_for_its_best_answer_within_the_cost(self):
        peer = made_run("msdnet", [0.3, 0.5], macs=(15, 35))
        (row,) = summarise([*OPTS, made_run("const", [0.4, 0.6, 0.7, 0.8]), peer])["methods"]
        # nothing at 10; 0.3 at 20 and 30; 0.5 at 40
        assert row["over_msdnet_each"] == [None, *map(pytest.approx, (0.3, 0.4, 0.3))]
        assert row["over_msdnet"] == pytest.approx((0.3 + 0.4 + 0.3) / 3)
        assert row["over_msdnet_least"] == pytest.approx(0.3)

    def test_a_peer_that_costs_too_much_is_not_compared(self):
        (row,) = summarise([*OPTS, made_run("const", [0.4] * 4), made_run("msdnet", [0.9], macs=(50,))])["methods"]
        assert row["over_msdnet"] is None
        assert row["over_msdnet_least"] is None

    def test_the_best_on_average_comes_first(self):
        runs = [made_run("const", [0.4] * 4), made_run("sieve", [0.6] * 4)]
        assert [row["method"] for row in summarise([*OPTS, *runs])["methods"]] == ["sieve", "const"]


def test_quarters_are_the_exits_nearest_in_cost():
    assert quarters([10, 20, 30, 40]) == [0, 1, 2, 3]
    assert quarters([30, 60, 100]) == [0, 1, 1, 2]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_names_jobs_that_can_be_built(preset):
    jobs = jobs_of(PRESETS[preset], 10, epochs=1, seeds=2, device="cpu")
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    assert sum("msdnet" in name for name in names) == 2


def test_the_smoke_preset_runs_and_is_not_run_twice(tmp_path, capsys):
    main(["--preset", "smoke", "--out", str(tmp_path), "--device", "cpu"])
    runs = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*-seed*.json")}
    assert len(runs) == 7
    table = json.loads((tmp_path / "table.json").read_text())
    assert {row["method"] for row in table["methods"]} == {"const", "sieve+alternate", "boosted+equilibrium"}
    assert table["msdnet"] is not None
    assert "| const | 1 |" in (tmp_path / "table.md").read_text()
    capsys.readouterr()
    main(["--preset", "smoke", "--out", str(tmp_path), "--device", "cpu"])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*-seed*.json")} == runs
    assert "| const | 1 |" in capsys.readouterr().out
