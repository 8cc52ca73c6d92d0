"""The table of what was tried, how often, and what was lost."""

from __future__ import annotations

import json

from benchmarks.faults import together
from scripts import update_readme


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


def test_all_reports_make_one_table(tmp_path, monkeypatch):
    for name, times, lost in (("faults", 100, 0), ("fuzz", 1_000_000, 3)):
        rows = [{"tried": name, "times": times, "lost": lost, "note": "holds"}]
        report = {"command": f"python -m benchmarks.{name}", "results": {"rows": rows}}
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    monkeypatch.setattr(update_readme, "RESULTS", tmp_path)
    text = update_readme.faults_section()
    assert "| faults | 100 | nothing | holds |" in text
    assert "| fuzz | 1,000,000 | 3 | holds |" in text
    assert text.endswith("`python -m benchmarks.faults`, `python -m benchmarks.fuzz`.")
