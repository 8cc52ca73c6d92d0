"""Who may look: addresses, tokens, and requests that a stranger's page has made a browser send."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from stream_ann.errors import UsageError

__all__ = ["DEFAULT_PORT", "Access", "Guard"]

DEFAULT_PORT = 8765

LEAST_TOKEN = 8
REFUSAL_DELAY_S = 0.3
"""So long does a wrong token wait for its answer."""

HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Access:
    """Where a server listens, and what a visitor has to know.

    Args:
        host: The address to listen on. Every address but the machine's own loopback needs a token.
        port: The port; 0 for a free one, None for :data:`DEFAULT_PORT` or, where that is taken, a free one.
        token: What visitors must know; where it is needed and not given, one is made up.

    Attributes:
        made_up: Whether the token was made up here, so that it has to be shown.

    Raises:
        UsageError: If the port or the token cannot be used.
    """

    def __init__(self, host: str = "127.0.0.1", port: int | None = None, token: str | None = None) -> None:
        if port is not None and not 0 <= port <= 65535:
            raise UsageError(f"a port is 0 to 65535, got {port}")
        if token is not None and (len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable()):
            raise UsageError(
                f"a web token has at least {LEAST_TOKEN} printable ASCII characters",
                "leave it out to have one made up",
            )
        self.host = host.removeprefix("[").removesuffix("]")
        self.port = port
        self.made_up = token is None and not _is_loopback(self.host)
        self.token = secrets.token_urlsafe(18) if self.made_up else token

    def url(self, port: int, *, path: str = "/") -> str:
        """The address to open. A token is part of it only where nobody knows it yet.

        Args:
            port: The port that is listened on.
            path: The path in it.
        """
        host = self.host
        if host in ("", "0.0.0.0", "::"):  # noqa: S104 - compared with, not listened on
            host = socket.gethostname()
        shown = f"[{host}]" if ":" in host else host
        query = f"?token={quote(self.token or '', safe='')}" if self.made_up else ""
        return f"http://{shown}:{port}{path}{query}"

    def knows(self, token: str) -> bool:
        """Whether this is the token, compared in constant time."""
        return self.token is None or hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())

    def serves(self, name: str) -> bool:
        """Whether the server may be called by this name, lower case and without port.

        Addresses and the machine's own names: a stranger's name that was made to point here (DNS rebinding) is none.
        """
        own = socket.gethostname().lower()
        if name in {"localhost", self.host.lower(), own, own.split(".")[0], f"{own.split('.')[0]}.local"}:
            return True
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True


class Guard:
    """ASGI middleware: lets nobody in who must not come in, and tells browsers to load nothing from elsewhere.

    Args:
        app: What it guards.
        access: Who may come in.
        cookie: Name of the cookie that browsers come back with once they have shown the token.
    """

    def __init__(self, app: App, access: Access, cookie: str) -> None:
        self._app = app
        self._access = access
        self._cookie = cookie
        # Browsers send a cookie to every port of a machine: what others there may see of it ends with this run.
        self._pass = secrets.token_urlsafe(24)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(headers)
        if refusal is not None:
            await _answer(send_with_headers, *refusal)
            return
        if self._access.token is not None:
            offered = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            if offered and self._access.knows(offered) and scope["path"] == "/":
                # Out of the address, so that it is neither in the history nor in a picture of the screen.
                cookie = f"{self._cookie}={self._pass}; Path=/; HttpOnly; SameSite=Lax"
                await _answer(send_with_headers, 303, "", (b"location", b"/"), (b"set-cookie", cookie.encode()))
                return
            if not self._may_enter(headers):
                await asyncio.sleep(REFUSAL_DELAY_S)
                text = "A token is needed: open the address with ?token=..., or send it as 'Authorization: Bearer ...'."
                await _answer(send_with_headers, 401, text, (b"www-authenticate", b"Bearer"))
                return
        await self._app(scope, receive, send_with_headers)

    def _refusal(self, headers: dict[bytes, str]) -> tuple[int, str] | None:
        host = headers.get(b"host", "")
        if not self._access.serves(_name_of(host)):
            return 421, "This server is not known by that name: use its address."
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return 403, "Other pages may not look."
        site = headers.get(b"sec-fetch-site", "none")
        if site not in ("none", "same-origin") and headers.get(b"sec-fetch-mode") != "navigate":
            return 403, "Other pages may not look."
        return None

    def _may_enter(self, headers: dict[bytes, str]) -> bool:
        kind, _, token = headers.get(b"authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self._access.knows(token.strip())
        try:
            cookie = SimpleCookie(headers.get(b"cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode("utf-8", "replace"), self._pass.encode())


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()


async def _answer(send: Send, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    start = {"type": "http.response.start", "status": status}
    start["headers"] = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store"), *headers]
    await send(start)
    await send({"type": "http.response.body", "body": text.encode() + (b"\n" if text else b"")})
