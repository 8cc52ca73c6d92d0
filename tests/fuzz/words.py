"""What users write: URLs with passwords, sources, patterns, sizes."""

from __future__ import annotations

import os
import string
from pathlib import Path
from urllib.parse import quote

from hypothesis import strategies as st

from stream_ann.errors import StreamAnnError, UsageError
from stream_ann.ingest import SourceOptions, SourceUrl, size_px_from, source_from
from stream_ann.ingest.url import redact
from stream_ann.text import clean, seconds_from
from tests.fuzz.damage import any_text, joined, split
from tests.fuzz.target import Target

__all__ = ["TARGETS"]

_PASSWORD = st.text(st.sampled_from(string.ascii_letters + string.digits + "@:/?#%&=+ !$'()*,;[]{}<>|\\^~`\"äß—"),
                    min_size=6, max_size=20)  # fmt: skip
_SCHEMES = ("rtsp", "rtsps", "http", "https", "RTSP", "ftp", "srt", "x+y")
_HOSTS = ("127.0.0.1", "camera", "camera.example", "[::1]", "host:554", "host:99999", "", "a b", "ex@mple.org", "host:")
_TAILS = ("", "/", "/live", "/a@b", "/a:b@c.d/e", "?x=1", "/live?user=me", "#f", "/live/../x", "/%00", "/\r\nX: y")


@st.composite
def _secret_urls(draw: st.DrawFn) -> bytes:
    """A URL and the password in it, in one of the places where passwords are written."""
    # a distinctive middle, so that it is surely the password that turns up and not a word that is there anyway
    password = draw(_PASSWORD) + "Zq7" + draw(_PASSWORD)
    scheme, host, tail = (draw(st.sampled_from(parts)) for parts in (_SCHEMES, _HOSTS, _TAILS))
    match draw(st.sampled_from(("user", "escaped", "token", "query"))):
        case "user":
            url = f"{scheme}://{draw(st.sampled_from(('admin', 'u', '', 'me%40x')))}:{password}@{host}{tail}"
        case "escaped":
            password = quote(password, safe="")
            url = f"{scheme}://admin:{password}@{host}{tail}"
        case "token":
            password = quote(password, safe="")
            url = f"{scheme}://{password}@{host}{tail}"
        case _:
            password = quote(password, safe="")
            name = draw(st.sampled_from(("password", "pwd", "token", "api_key", "auth", "signature", "Pass")))
            url = f"{scheme}://{host or 'h'}/live?{name}={password}{draw(st.sampled_from(('', '&x=1', '#f')))}"
    return joined([url.encode(), password.encode()])


def _secret_url(data: bytes, folder: Path) -> None:
    """The password shows nowhere: not in names, errors, or forms of objects, whatever becomes of the URL."""
    del folder
    url, password = (part.decode() for part in split(data))
    shown = [redact(url)]
    refusal: StreamAnnError | None = None
    try:
        parsed = SourceUrl(url)
        shown += [str(parsed), repr(parsed), f"{parsed}", parsed.hide(f"cannot open {parsed.secret}"), parsed.hide(url)]
        source = source_from(url, SourceOptions(connect_timeout_s=0.5, reconnect_attempts=0))
        shown += [source.name, repr(source)]
    except StreamAnnError as error:
        refusal = error
        shown += [str(error), repr(error), repr(error.__cause__), repr(error.__context__)]
    for text in shown:
        assert "Zq7" not in text, f"the password shows: {text!r}"
        assert password not in text
    if refusal is not None:
        raise refusal


def _words() -> st.SearchStrategy[bytes]:
    forms = st.sampled_from(
        ("demo", "0", "/dev/video0", "pattern:64x48@25", "pattern:", "file:///etc/passwd", "file://[", "~", "~nobody-",
         "*.mp4", "[", "**", "rtsp://", "http://[::1", "1e5", "90m", "1h30m", "1280x720", "../..", "@list", "-", "~\0")
    )  # fmt: skip
    text = st.one_of(any_text(), forms, st.tuples(forms, any_text(max_size=8), forms).map("".join))
    return text.map(lambda value: value.encode("utf-8", "surrogatepass"))


def _spec(data: bytes, folder: Path) -> None:
    """Any text as a source, as a size, as a time; and as something to be shown."""
    del folder
    text = data.decode("utf-8", "surrogatepass")
    shown = clean(text)
    assert "\n" not in shown
    assert not any(c in shown for c in "\x1b\0\r\u202e\u2028")
    shown.encode()
    for parse in (size_px_from, seconds_from):
        try:
            parse(text)
        except (UsageError, ValueError):  # a time is read where options are, which say more
            continue
    source = source_from(text)
    assert isinstance(source.name, str)
    os.fsencode(clean(source.name))


TARGETS = (
    Target("url", "URLs with a password", lambda _: _secret_urls(), _secret_url, 100),
    Target("words", "whatever is written for a source", lambda _: _words(), _spec, 60),
)
