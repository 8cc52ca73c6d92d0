"""URLs as they may be shown to anyone."""

from __future__ import annotations

import re

__all__ = ["is_url", "redact"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SECRET = re.compile(
    r"((?:pass(?:word|wd|phrase|code)?|pwd|token|secret|(?:api|access|auth|private)?_?key|auth|sig(?:nature)?|credentials?)"
    r"=)[^&;#]+",
    re.IGNORECASE,
)
_HIDDEN = "***"


def is_url(text: str) -> bool:
    """Whether a text begins like a URL, with a scheme and two slashes."""
    return _SCHEME.match(text) is not None


def redact(url: str) -> str:
    """A URL without its secrets: ``rtsp://cam:***@host/live``.

    Passwords are often pasted as they are, with ``@``, ``/``, ``?`` or ``#`` in them, and then nobody can say for sure
    where they end. So whatever stands between the first colon behind the scheme and the *last* ``@`` is hidden:
    rather a part of the path too many than a part of a password. A user name without a password is hidden too, for
    access tokens are written that way, and so are parameters such as ``?password=`` or ``&token=``.

    Args:
        url: A URL, or any other text, which is given back as it is.
    """
    scheme = _SCHEME.match(url)
    if scheme is None:
        return url
    start, rest = scheme.group(), url[scheme.end() :]
    head, at, tail = rest.rpartition("@")
    user, colon, _ = head.partition(":")
    if at and colon:
        rest = f"{user}:{_HIDDEN}@{tail}" if re.search(r"[/?#]", user) is None else f"{_HIDDEN}@{tail}"
    else:
        # no password, so an '@' belongs to a user name only if it stands before the path
        authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
        if "@" in authority:
            rest = f"{_HIDDEN}@{rest[authority.rindex('@') + 1 :]}"
    return start + _SECRET.sub(rf"\g<1>{_HIDDEN}", rest)
