"""Every claim of SECURITY.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTES = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", NOTES)


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")}


def test_every_test_that_is_named_exists():
    assert len(NAMED) > 40
    missing = [f"{file}::{name}" for file, name in NAMED if name not in functions_of(ROOT / file)]
    assert not missing
    assert NOTES.count("`tests/") == len(NAMED), "one is written in another way"


def test_every_test_of_security_is_named():
    """But for those that only show that what is allowed still works."""
    allowed = {
        "test_every_other_kind_of_file_is_still_read",
        "test_letters_stay_as_they_are",
        "test_whoever_is_being_answered_stays",
        "test_a_line_of_json_stays_one_line",
        "test_pictures_that_cross_to_the_window_are_bytes",
        "test_a_list_of_sources_that_is_none_is_told_in_one_line",
        "test_a_run_takes_its_sources_from_a_list",
    }
    named = {name for _, name in NAMED}
    for path in sorted((ROOT / "tests").glob("test_security_*.py")):
        if path.name != Path(__file__).name:
            assert functions_of(path) - named <= allowed, path.name


def test_every_claim_has_a_test_or_says_that_it_has_none():
    """Bullets of the chapters on what is defended; those without a test tell of what is left to the user."""
    claims = re.findall(r"^- (.*?)(?=^- |^#|\Z)", NOTES, re.MULTILINE | re.DOTALL)
    bare = [claim for claim in claims if "`tests/" not in claim]
    assert len(claims) > 25
    assert len(bare) <= 6, bare
