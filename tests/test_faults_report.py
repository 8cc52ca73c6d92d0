"""The table of what was tried, how often, and what was lost."""

from __future__ import annotations

import json

from benchmarks.faults import together
from scripts import readme_faults, results


def test_rows_that_differ_in_details_are_added_up():
    rows = [
        {"tried": "kill -9 during `label` (CSV)", "times": 50, "lost": 0, "note": "the same bytes"},
        {"tried": "Ctrl-C during `live`: stalled", "times": 2, "lost": 1, "note": "gone"},
        {"tried": "kill -9 during `label` (WebVTT)", "times": 50, "lost": 2, "note": "the same bytes"},
    ]
    assert together(rows) == [
        {"tried": "Ctrl-C during `live`", "times": 2, "lost": 1, "note": "gone"},
        {"tried": "kill -9 during `label`", "times": 100, "lost": 2, "note": "the same bytes"},
    ]


def test_what_came_late_or_ended_in_a_library_is_told_apart():
    late = {"tried": "Ctrl-C during `live`: stalled", "times": 2, "lost": 0, "note": "gone", "late": ["SIGINT: 2.5 s"]}
    (row,) = together([late, {**late, "late": []}])
    assert row["times"] == 4
    assert row["note"] == "gone; 1 took longer, while other programs had the processor"
    assert row["late"] == ["Ctrl-C during `live`: stalled: SIGINT: 2.5 s"]


def test_the_table_is_short():
    rows = [
        {"tried": "Ctrl-C while `live` starts", "times": 2, "lost": 0, "note": "gone in 2 s"},
        {"tried": "damaged input: images", "times": 1000, "lost": 0, "note": "400 taken, 600 refused"},
        {"tried": "Ctrl-C during `label`", "times": 3, "lost": 1, "note": "gone in 2 s; 1 late"},
        {"tried": "kill -9 during `label`", "times": 5, "lost": 0, "note": "the same bytes"},
        {"tried": "damaged input: URLs", "times": 2000, "lost": 2, "note": "1,100 taken, 898 refused"},
        {"tried": "read-only folder", "times": 4, "lost": 0, "note": "one line"},
    ]
    assert readme_faults.gathered(rows) == [
        ["Ctrl-C: `label`, `live`", "5", "1", "gone in 2 s; 1 late"],
        ["damaged input of 2 kinds", "3,000", "2", "1,500 taken, 1,498 refused with an error of the project's"],
        ["kill -9 during `label`", "5", "nothing", "the same bytes"],
        ["read-only folder", "4", "nothing", "one line"],
    ]


def test_all_reports_make_one_table(tmp_path, monkeypatch):
    for name, times, lost in (("faults", 100, 0), ("fuzz", 1_000_000, 3)):
        rows = [{"tried": name, "times": times, "lost": lost, "note": "holds"}]
        report = {"command": f"python -m benchmarks.{name}", "results": {"rows": rows}}
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    text = readme_faults.faults_section()
    assert "| faults | 100 | nothing | holds |" in text
    assert "| fuzz | 1,000,000 | 3 | holds |" in text
    assert text.endswith("`python -m benchmarks.faults`, `python -m benchmarks.fuzz`.")
