"""File names made of what comes from outside: sources, labels, times."""

from __future__ import annotations

import re
import time
import unicodedata

__all__ = ["slug", "stamp"]


def slug(text: str, *, longest: int = 40, end: bool = False) -> str:
    """``text`` as part of a file name: lower case letters, digits and hyphens; ``"x"`` where nothing of it is left.

    Args:
        text: Anything.
        longest: How many characters it may have.
        end: Whether the end of a longer text is kept, as of a path, rather than its beginning.
    """
    plain = unicodedata.normalize("NFKD", text.lower())
    kept = "".join(c for c in plain if not unicodedata.combining(c))
    words = re.sub(r"[^\w]+|_", "-", kept).strip("-")
    return (words[-longest:] if end else words[:longest]).strip("-") or "x"


def stamp(wall_s: float) -> str:
    """A time, in seconds since 1970, as part of a file name: UTC to the millisecond, so that names sort by time."""
    whole, milliseconds = divmod(round(wall_s * 1000), 1000)
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(whole))}.{milliseconds:03d}Z"
