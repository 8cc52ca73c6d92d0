"""Cleaning and shortening text from outside."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ann.text import clean, format_count, format_ms, shorten


@pytest.mark.parametrize(
    ("dirty", "expected"),
    [
        ("Egyptian cat", "Egyptian cat"),
        ("  two\t words\r\n", "two words"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;new title\x07name", "name"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b2Jcleared", "cleared"),
        ("bell\x07, null\x00, delete\x7f", "bell, null, delete"),
        ("txt\u202egnp.exe", "txtgnp.exe"),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),  # Persian, with a joiner that is part of its spelling
        ("broken \udc80 name", "broken \ufffd name"),
        ("[bold]kept[/bold]", "[bold]kept[/bold]"),
        ("a\u2028b\u00a0c", "a b c"),
        ("", ""),
    ],
)
def test_clean(dirty, expected):
    assert clean(dirty) == expected


@given(st.text())
def test_clean_leaves_one_harmless_line(text):
    cleaned = clean(text)
    assert "\x1b" not in cleaned
    assert all(unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") for c in cleaned)
    assert clean(cleaned) == cleaned


@given(st.text(min_size=1), st.integers(0, 30))
def test_shortened_text_fits_and_says_that_it_is_shortened(text, room):
    short = shorten(text, lambda candidate: len(candidate) <= room)
    assert len(short) <= room
    assert short == text or short.endswith("…") or room == 0


def test_shorten_keeps_as_much_as_fits_and_never_parts_a_letter_from_its_accent():
    assert shorten("German pointer", lambda t: len(t) <= 9) == "German p…"
    assert shorten("German pointer", lambda t: len(t) <= 8) == "German…"
    assert shorten("abe\u0301fg", lambda t: len(t) <= 4) == "ab…"


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [(0.04, "0.0"), (4.21, "4.2"), (99.94, "99.9"), (99.96, "100"), (12_345.6, "12.3k"), (float("nan"), "-")],
)
def test_format_ms(milliseconds, expected):
    assert format_ms(milliseconds) == expected


@given(st.integers(0, 10**14))
def test_counts_are_short_and_near(count):
    text = format_count(count)
    assert len(text) <= 5
    factor = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}.get(text[-1])
    value = float(text[:-1]) * factor if factor else float(text)
    assert value == pytest.approx(count, rel=0.05)
