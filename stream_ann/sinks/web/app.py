"""The pages and streams behind a server's addresses."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from stream_ann.sinks.web.access import Receive, Scope, Send
from stream_ann.sinks.web.feed import Feed
from stream_ann.sinks.web.metrics import Metrics
from stream_ann.stats import LiveStatus

__all__ = ["Hub", "metrics_routes", "page_app"]

REFRESHES_PER_S = 15
MOST_SHARE = 0.25
"""The page takes at most so much of one processor core: with many visitors it is refreshed less often."""
SLOWEST_REFRESH_S = 1.0
MOST_STREAMS = 224
"""Pictures and events that are sent at the same time, at most: a page takes two, and one more for a second source."""
SLOWEST_SEND_S = 10.0
"""Whoever does not take a single message in this time has gone."""
QUIET_S = 5.0
"""After so long without news a comment is sent, which finds out who has gone."""

_ASSETS = {
    "/": ("view.html", "text/html"),
    "/view.css": ("view.css", "text/css"),
    "/view.js": ("view.js", "text/javascript"),
    "/view.svg": ("view.svg", "image/svg+xml"),
}


class Hub:
    """Wakes all streams when there is something new, and counts them.

    Args:
        feed: What there is to send.
    """

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.statuses = feed.statuses()
        self.message = b""
        """The newest state as JSON, for the streams of events."""
        self.version = 0
        self.listeners = 0
        """How many streams of events there are."""
        self.streams = 0
        """How many streams there are of any kind."""
        self.pause_s = 1 / REFRESHES_PER_S
        """The time between two refreshes at the moment, in seconds."""
        self.stopping = False
        self._looked_s = time.monotonic()
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Look at the run again and again as long as anybody watches, until :meth:`stop`.

        What the last refresh has cost, with all that was sent and encoded for it, says when the next one comes.
        """
        while not self.stopping:
            begun_s = time.thread_time()
            if self.streams:
                self.look()
                self._wake()
            await asyncio.sleep(self.pause_s)
            needed_s = (time.thread_time() - begun_s) / MOST_SHARE
            self.pause_s = min(SLOWEST_REFRESH_S, max(1 / REFRESHES_PER_S, needed_s))

    def recent(self) -> Sequence[LiveStatus]:
        """The statuses now or, where refreshes have become rare, those of the last one."""
        if time.monotonic() - self._looked_s >= self.pause_s - 1 / REFRESHES_PER_S:
            self.look()
        return self.statuses

    def look(self) -> None:
        """Look at the run now."""
        self.statuses = self.feed.statuses()
        self._looked_s = time.monotonic()
        if self.listeners:
            self.message = self.feed.message(self.statuses)
            self.version += 1

    async def wait(self) -> None:
        """Wait until there may be something new."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), QUIET_S)

    def stop(self) -> None:
        """End all streams."""
        self.stopping = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class _Stream:
    """A response without end: part after part, and none of them held for a reader that is slow.

    A part is made when the reader has taken the one before it, so that a slow one misses some, and never has more than
    one waiting for it.

    Args:
        hub: Says when there is something new.
        media_type: What is sent.
        parts: The parts; an empty one is not sent, and only finds out whether the reader has gone.
        events: Whether they are events.
    """

    def __init__(self, hub: Hub, media_type: str, parts: AsyncIterator[bytes], *, events: bool = False) -> None:
        self._hub = hub
        self._media_type = media_type
        self._parts = parts
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._hub.streams >= MOST_STREAMS:
            busy = PlainTextResponse("Too many are watching already.\n", 503, {"retry-after": "10"})
            await busy(scope, receive, send)
            return
        self._hub.streams += 1
        self._hub.listeners += self._events
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            headers = [(b"content-type", self._media_type.encode()), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for part in self._parts:
                if gone.done():
                    return
                if not part:
                    continue
                async with asyncio.timeout(SLOWEST_SEND_S):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except (TimeoutError, OSError):
            pass  # it has gone, or does not read
        finally:
            gone.cancel()
            self._hub.streams -= 1
            self._hub.listeners -= self._events


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _events(hub: Hub) -> AsyncIterator[bytes]:
    """The state now with all that is remembered, and then every change of it."""
    yield b"retry: 1000\ndata: " + hub.feed.message(hub.feed.statuses(), whole=True) + b"\n\n"
    seen = hub.version
    while not hub.stopping:
        await hub.wait()
        if hub.version != seen:
            seen = hub.version
            yield b"data: " + hub.message + b"\n\n"
        else:
            yield b":\n\n"


async def _pictures(hub: Hub, number: int) -> AsyncIterator[bytes]:
    """A source's pictures as the parts of a multipart message, each the newest one; nothing where there is none."""
    shown = 0
    yield b"--frame\r\n"
    while not hub.stopping:
        newest = hub.feed.picture(number, hub.statuses)
        if newest is not None and newest[0] != shown:
            shown, data = newest
            head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
            yield head + data + b"\r\n--frame\r\n"  # browsers show a picture when the boundary behind it is there
        else:
            yield b""
        await hub.wait()


def page_app(hub: Hub, metrics: Metrics) -> Starlette:
    """The web page, its streams, the metrics and the health of a run."""

    def number_of(request: Request) -> int | None:
        number = request.path_params["number"]
        # compared as text: taken as a number, a very long one would be an error
        return int(number) if number in map(str, range(len(hub.statuses))) else None

    def asset(path: str) -> Route:
        name, media_type = _ASSETS[path]
        content = files("stream_ann.assets").joinpath(name).read_bytes()

        async def answer(request: Request) -> Response:
            return Response(content, media_type=media_type, headers={"cache-control": "no-cache"})

        return Route(path, answer)

    async def events(request: Request) -> Any:
        return _Stream(hub, "text/event-stream; charset=utf-8", _events(hub), events=True)

    async def stream(request: Request) -> Any:
        number = number_of(request)
        if number is None:
            return PlainTextResponse("There is no such source.\n", 404)
        return _Stream(hub, "multipart/x-mixed-replace; boundary=frame", _pictures(hub, number))

    async def picture(request: Request) -> Response:
        number = number_of(request)
        newest = None if number is None else hub.feed.picture(number, hub.recent())
        if newest is None:
            return PlainTextResponse("There is no picture.\n", 404, {"cache-control": "no-store"})
        return Response(newest[1], media_type="image/jpeg", headers={"cache-control": "no-store"})

    async def state(request: Request) -> Response:
        message = hub.feed.message(hub.feed.statuses(), whole=True)
        return Response(message, media_type="application/json", headers={"cache-control": "no-store"})

    routes = [asset(path) for path in _ASSETS]
    routes += [
        Route("/events", events),
        Route("/state", state),
        Route("/sources/{number}/stream.mjpg", stream),
        Route("/sources/{number}/picture.jpg", picture),
    ]
    return Starlette(routes=[*routes, *metrics_routes(hub.feed, metrics)])


def metrics_routes(feed: Feed, metrics: Metrics) -> list[Route]:
    """``/metrics`` for Prometheus and ``/healthz`` for whoever restarts what has failed."""

    async def figures(request: Request) -> Response:
        content, content_type = metrics.text(request.headers.get("accept", ""))
        return Response(content, headers={"content-type": content_type, "cache-control": "no-store"})

    async def health(request: Request) -> Response:
        states = {status.source: "live" if status.state is None else status.state.state for status in feed.statuses()}
        live = [state == "live" for state in states.values()]
        well = all(live) if "all" in request.query_params else any(live)
        body = {"status": "ok" if well else "not live", "sources": states}
        return JSONResponse(body, 200 if well else 503, {"cache-control": "no-store"})

    return [Route("/metrics", figures), Route("/healthz", health)]
