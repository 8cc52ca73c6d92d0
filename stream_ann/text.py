"""Text from outside (labels, source names) made fit to be shown on a picture or in a terminal."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable

__all__ = [
    "clean",
    "format_age",
    "format_count",
    "format_duration",
    "format_ms",
    "plain_json",
    "safe_cell",
    "seconds_from",
    "shorten",
]

_ESCAPES = re.compile(
    r"""
    (?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]                     # CSI: colours, cursor moves
    | (?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f]).*?(?:\x07|\x1b\\|\x9c|$)   # OSC, DCS, SOS, PM, APC: titles, links
    | \x1b[ -/]*[0-~]                                     # every other escape
    """,
    re.VERBOSE | re.DOTALL,
)
_STEERING = re.compile(
    "[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""What could steer a terminal, reverse the writing direction or end a line, other than what JSON escapes by itself."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff0b", "\uff0d", "\uff1d", "\uff20")
"""How a cell begins that a spreadsheet takes for a formula."""
_DURATION = re.compile(r"(?:([\d.]+)\s*h)?\s*(?:([\d.]+)\s*(?:min|m))?\s*(?:([\d.]+)\s*s?)?")
_JOINERS = "\u200c\u200d"
"""Format characters that spell words (Persian, Indic scripts, joined emoji); every other one is dropped."""


def clean(text: str) -> str:
    """``text`` on one line, without anything that could steer a terminal or reverse the writing direction.

    Escape sequences, control and format characters (bidirectional overrides among them) are removed, lone surrogates
    become U+FFFD, and every run of white space becomes one space.
    """
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()
    text = _ESCAPES.sub("", text)
    kept = []
    for character in text:
        if character.isspace():  # before the category: tab and line feed count as control characters
            kept.append(" ")
            continue
        category = unicodedata.category(character)
        if category == "Cs":
            kept.append("\ufffd")
        elif category not in ("Cc", "Cf") or character in _JOINERS:
            kept.append(character)
    return " ".join("".join(kept).split())


def plain_json(text: str) -> str:
    """The same JSON without characters that could steer a terminal: they are written as escapes (``\\u009b``).

    Args:
        text: JSON, in which such characters stand in strings alone.
    """
    if text.isascii() and "\x7f" not in text:
        return text
    return _STEERING.sub(lambda match: json.dumps(match[0])[1:-1], text)


def safe_cell(text: str) -> str:
    """``text`` with an apostrophe before it where a spreadsheet would take it for a formula."""
    return "'" + text if text.lstrip(" ").startswith(_FORMULA) else text


def shorten(text: str, fits: Callable[[str], bool]) -> str:
    """``text`` where it fits, else the longest beginning of it that fits with an ellipsis, else the empty string.

    Args:
        text: What to shorten.
        fits: Says whether a candidate fits; takes every shorter text where it takes a longer one.
    """
    text = text[:1000]  # measuring costs time in proportion, and nothing shows this many characters
    if fits(text):
        return text

    def cut(length: int) -> str:
        while length and (unicodedata.combining(text[length]) or text[length] in _JOINERS):
            length -= 1  # never part a letter from its accents
        return text[:length].rstrip().rstrip(" ,;:-([") + "…"

    low, high = 0, len(text)  # cut(low) fits, or low is 0; cut(high) is not known to fit
    while high - low > 1:
        middle = (low + high) // 2
        if fits(cut(middle)):
            low = middle
        else:
            high = middle
    short = cut(low)
    return short if low or fits(short) else ""


def format_ms(milliseconds: float) -> str:
    """A duration in milliseconds in at most five characters, without its unit: ``4.2``, ``312``, ``12.3k``."""
    if not math.isfinite(milliseconds):
        return "-"
    if abs(milliseconds) < 99.95:
        return f"{milliseconds:.1f}"
    return format_count(round(milliseconds))


def format_age(seconds: float) -> str:
    """How old something is, with its unit: ``80 ms``, ``3.2 s``, ``45 s``, ``12 min``, ``5 h``."""
    if seconds < 1:
        return f"{max(0, round(seconds * 100)) * 10} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def format_carried(share: float, frames_back: int | None) -> str:
    """Which part of an answer earlier frames have said, in a few words; empty where there is none.

    Args:
        share: The part, 0 to 1.
        frames_back: How many frames ago the one came whose deeper exit is part of it; None where none is.
    """
    if not share > 0:
        return ""
    percent = min(99, max(1, round(100 * share)))  # some of it is always the frame's own
    back = "" if frames_back is None else f", deepest {format_count(frames_back)} back"
    return f"{percent} % from earlier frames{back}"


def format_count(count: int) -> str:
    """A number in at most five characters: ``0``, ``9999``, ``12.3k``, ``456k``, ``7.9M``."""
    if abs(count) < 10_000:
        return str(count)
    for factor, unit in ((1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")):
        value = count / factor
        if abs(value) < 99.95:
            return f"{value:.1f}{unit}"
        if abs(value) < 999.5:
            return f"{value:.0f}{unit}"
    return f"{count:.0e}"


def format_duration(seconds: float) -> str:
    """A duration in at most eight characters: ``4.2 s``, ``12 min``, ``3 h 05``, ``12 d``."""
    if not math.isfinite(seconds):
        return "-"
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02}" if minutes < 6000 else f"{minutes // 1440} d"


def seconds_from(text: str) -> float:
    """What a duration such as ``90``, ``90s``, ``45min``, ``2h``, ``1h30min`` or ``1.5 h`` is in seconds.

    Raises:
        ValueError: If it is none.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None or not text.strip():
        raise ValueError(f"'{clean(text)}' is no duration")
    hours, minutes, seconds = (float(part) if part else 0.0 for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds
