"""URLs as they may be shown to anyone, and as libav can use them."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from stream_ann.errors import UsageError
from stream_ann.text import clean

__all__ = ["SourceUrl", "is_url", "redact"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SECRET = re.compile(
    r"((?:pass(?:word|wd|phrase|code)?|pwd|token|secret|(?:api|access|auth|private)?_?key|auth|sig(?:nature)?|credentials?)"
    r"=)([^&;#]+)",
    re.IGNORECASE,
)
_HIDDEN = "***"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s/?#@:\[\]]+)(?::([0-9]{1,5}))?(?=[/?#]|$)")
_CERTAIN_HOST = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+\]|localhost|[^\s/?#@:]+\.[^\s/?#@:]+|[^\s/?#@:]+(?=:[0-9]))(?=[:/?#]|$)"
)
_IN_USERINFO = "!$&'()*+,;=:-._~%"
"""Characters that may stand in user and password as they are (RFC 3986), and the sign of those that are escaped."""


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
        # where more than a name stands before the colon, it belongs to a port or a path, and the name may be a token
        rest = f"{user}:{_HIDDEN}@{tail}" if re.search(r"[/?#@]", user) is None else f"{_HIDDEN}@{tail}"
    else:
        # no password, so an '@' belongs to a user name only if it stands before the path
        authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
        if "@" in authority:
            rest = f"{_HIDDEN}@{rest[authority.rindex('@') + 1 :]}"
    return start + _SECRET.sub(rf"\g<1>{_HIDDEN}", rest)


class SourceUrl:
    """A URL whose secrets show nowhere: ``str()``, ``repr()`` and every format of it are redacted.

    A password may be written as it is, with ``@``, ``/``, ``?`` or ``#`` in it, as long as it is clear where the host
    begins: behind the last ``@`` that is followed by something with a dot, a port, or brackets. In doubt, escape them:
    ``%40``, ``%2F``, ``%3F``, ``%23``.

    Args:
        text: The URL as the user wrote it.

    Raises:
        UsageError: If it has no host, a port that is none, or is not UTF-8.
    """

    __slots__ = ("_address", "_secrets", "_shown", "has_user", "host", "path", "scheme")

    def __init__(self, text: str) -> None:
        found = _SCHEME.match(text)
        if found is None:
            raise UsageError(f"'{clean(text)}' is no URL", "write it with its scheme, such as rtsp://")
        self._shown = clean(redact(text))
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"'{self._shown}' holds bytes that are not UTF-8", "write them as %FF, with their hexadecimal digits"
            ) from None
        self.scheme = found.group()[:-3].lower()
        """Its scheme, in lower case."""
        userinfo, rest = _split_userinfo(text[found.end() :])
        host = _HOST.match(rest)
        if host is None or int(host[2] or 0) > 65535:
            raise UsageError(
                f"'{self._shown}' has no host and port that can be understood",
                "write @, /, ? and # in a password as %40, %2F, %3F and %23",
            )
        self.host = host[1].strip("[]")
        """Name or number of the machine. Not to be shown: in a URL that was misread it may be part of a password."""
        self.has_user = bool(userinfo)
        """Whether a user or a password is in it."""
        self.path = re.split(r"[?#]", rest[host.end() :], maxsplit=1)[0]
        """Its path, without parameters. Not to be shown either."""
        escaped = _escaped(userinfo)
        self._address = f"{self.scheme}://{escaped}@{rest}" if userinfo else f"{self.scheme}://{rest}"
        self._secrets = _forms(text, userinfo, rest)

    @property
    def secret(self) -> str:
        """The URL with everything in it, user and password escaped. For libav alone."""
        return self._address

    def hide(self, text: str) -> str:
        """A text of libav's without this URL's secrets, in whatever form it repeats them."""
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return " ".join(redact(word) for word in text.split(" "))

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"SourceUrl({self._shown!r})"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a SourceUrl is not written anywhere: it may hold a password")


def _split_userinfo(rest: str) -> tuple[str, str]:
    """What stands before the ``@`` that ends user and password, and what stands behind it."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    ends = [i for i, character in enumerate(rest) if character == "@"]
    proper = authority.rfind("@")
    if not ends or (proper < 0 and ":" not in rest[: ends[-1]]):  # an '@' in a path, and nobody's
        return "", rest
    if ends[-1] != proper:  # an '@' in the path, or in a password with '/' in it: the one that a host surely follows
        certain = [i for i in ends if i >= proper and _CERTAIN_HOST.match(rest, i + 1)]
        if proper < 0 and not certain and _HOST.match(rest):
            return "", rest
        if certain or proper < 0:
            proper = (certain or ends)[-1]
    return rest[:proper], rest[proper + 1 :]


def _escaped(userinfo: str) -> str:
    """User and password with whatever may not stand there escaped, and what is escaped already as it is."""
    return quote(re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", userinfo), safe=_IN_USERINFO)


def _forms(text: str, userinfo: str, rest: str) -> tuple[str, ...]:
    """Every form in which the secrets of a URL may turn up, longest first."""
    user, colon, password = userinfo.partition(":")
    hidden = {password} if colon else {user}
    if re.search(r"[/?#@]", user):  # misread: more than a name, and a token may be in it
        hidden.add(user)
    if userinfo and "@" in rest:  # nobody can say whether it is not a part of the password, as in redact()
        hidden.add(rest.rpartition("@")[0])
    hidden |= {match[2] for match in _SECRET.finditer(rest)}
    forms = {text}
    for part in hidden:
        forms |= {part, unquote(part), quote(unquote(part), safe=""), _escaped(part)}
    return tuple(sorted((form for form in forms if len(form) > 2), key=len, reverse=True))
