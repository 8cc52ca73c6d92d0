"""The pages and streams behind a server's addresses."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from stream_ann.sinks.web.access import Receive, Scope, Send
from stream_ann.sinks.web.feed import Feed, Marks
from stream_ann.sinks.web.metrics import Metrics
from stream_ann.sinks.web.turns import Turns
from stream_ann.stats import LiveStatus

__all__ = ["Hub", "metrics_routes", "page_app"]

REFRESHES_PER_S = 15
LOOKS_SHARE = 0.25
"""So much of what the page may take goes into looking at the run, at most; the rest is for sending."""
MINDED_EVERY = 8
"""So many refreshes after each other the page looks whether frames are lost."""
CAUGHT_UP_S = 3.0
"""Whoever has not been sent anything for so long misses results in the plot."""
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
    """Wakes all streams when there may be something new, makes what is new once for all of them, and counts them.

    Args:
        feed: What there is to send.
    """

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.turns = Turns()
        self.version = 0
        """How often the run was looked at."""
        self.listeners = 0
        """How many streams of events there are."""
        self.streams = 0
        """How many streams there are of any kind."""
        self.ticks = 0
        """How often streams were woken."""
        self.skipped = 0
        """How many refreshes the visitors have missed, all together, so that the page kept to its share."""
        self.stopping = False
        self.seen: dict[object, int] = {}
        """Which version each stream of events was sent last."""
        self._statuses: Sequence[LiveStatus] = ()
        self._looked_s = float("-inf")
        self._cost_s = 0.0  # what the last look has cost, with the messages that were made of it
        self._messages: dict[bool, bytes] = {}
        self._marks: deque[tuple[int, float, Marks]] = deque()
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Wake the streams again and again, until :meth:`stop`."""
        while not self.stopping:
            if self.streams:
                self.ticks += 1
                if self.ticks % MINDED_EVERY == 0:
                    counts = [status.stats.counts for status in self.statuses()]
                    self.turns.mind(sum(c.results for c in counts), sum(c.replaced for c in counts))
                self._wake()
            await asyncio.sleep(1 / REFRESHES_PER_S)

    def statuses(self) -> Sequence[LiveStatus]:
        """The statuses now or, where more is asked than there is time for, those of the last refresh."""
        now_s = time.monotonic()
        lasts_s = max(0.9 / REFRESHES_PER_S, self._cost_s / (LOOKS_SHARE * self.turns.share))
        if now_s - self._looked_s >= lasts_s or self.turns.idle:
            begun_s = time.thread_time()
            self._looked_s = now_s
            self._statuses = self.feed.statuses()
            self._messages.clear()
            self.version += 1
            self._marks.append((self.version, now_s, self.feed.marks()))
            oldest = min(self.seen.values(), default=self.version)
            while self._marks[0][0] < oldest or self._marks[0][1] < now_s - CAUGHT_UP_S:
                self._marks.popleft()
            self._cost_s = time.thread_time() - begun_s
        return self._statuses

    def message(self, *, whole: bool = False) -> bytes:
        """The state now as JSON, made once for all: all that is remembered, or what may be new to somebody."""
        statuses = self.statuses()
        if whole not in self._messages:
            begun_s = time.thread_time()
            page = {"watching": self.listeners, "skipped": self.skipped}
            since = None if whole else self._marks[0][2]
            self._messages[whole] = self.feed.message(statuses, since=since, page=page)
            self._cost_s += time.thread_time() - begun_s
        return self._messages[whole]

    async def wait(self) -> None:
        """Wait until there may be something new."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), QUIET_S)

    def stop(self) -> None:
        """End all streams."""
        self.stopping = True
        self.turns.stop()
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

    def __init__(self, hub: Hub, media_type: str, parts: AsyncGenerator[bytes, None], *, events: bool = False) -> None:
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
            await self._parts.aclose()
            self._hub.streams -= 1
            self._hub.listeners -= self._events


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _events(hub: Hub, sent: Callable[[int], None]) -> AsyncGenerator[bytes, None]:
    """The state now with all that is remembered, and then every change of it, as often as it is this visitor's turn."""
    me = object()
    try:
        await hub.turns.turn()
        begin, sent_at = b"retry: 1000\ndata: ", None
        while not hub.stopping:
            message = hub.message(whole=me not in hub.seen)
            tick = hub.ticks
            if hub.seen.get(me) != hub.version:  # where there is little time, many are sent the same, each only once
                if sent_at is not None:
                    skipped = max(0, tick - sent_at - 1)
                    hub.skipped += skipped
                    sent(skipped)
                hub.seen[me], sent_at = hub.version, tick
                yield begin + message + b"\n\n"
                begin = b"data: "
            while not hub.stopping:
                await hub.wait()
                if hub.ticks != tick:
                    break
                yield b":\n\n"
            await hub.turns.turn()
    finally:
        hub.seen.pop(me, None)


async def _pictures(hub: Hub, number: int) -> AsyncGenerator[bytes, None]:
    """A source's pictures as the parts of a multipart message, each the newest one; nothing where there is none."""
    shown = 0
    head = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n"
    yield head
    while not hub.stopping:
        await hub.turns.turn()
        newest = hub.feed.picture(number, hub.statuses())
        if newest is not None and newest[0] != shown:
            shown, data = newest
            yield data + b"\r\n" + head  # a browser shows a picture only when the head of the next one is there
        else:
            yield b""
        await hub.wait()


def page_app(hub: Hub, metrics: Metrics) -> Starlette:
    """The web page, its streams, the metrics and the health of a run."""
    sources = len(hub.statuses())

    def number_of(request: Request) -> int | None:
        number = request.path_params["number"]
        # compared as text: taken as a number, a very long one would be an error
        return int(number) if number in map(str, range(sources)) else None

    def asset(path: str) -> Route:
        name, media_type = _ASSETS[path]
        content = files("stream_ann.assets").joinpath(name).read_bytes()

        async def answer(request: Request) -> Response:
            return Response(content, media_type=media_type, headers={"cache-control": "no-cache"})

        return Route(path, answer)

    async def events(request: Request) -> Any:
        return _Stream(hub, "text/event-stream; charset=utf-8", _events(hub, metrics.put_refresh), events=True)

    async def stream(request: Request) -> Any:
        number = number_of(request)
        if number is None:
            return PlainTextResponse("There is no such source.\n", 404)
        return _Stream(hub, "multipart/x-mixed-replace; boundary=frame", _pictures(hub, number))

    async def picture(request: Request) -> Response:
        number = number_of(request)
        if number is not None:
            await hub.turns.turn()
        newest = None if number is None else hub.feed.picture(number, hub.statuses())
        if newest is None:
            return PlainTextResponse("There is no picture.\n", 404, {"cache-control": "no-store"})
        return Response(newest[1], media_type="image/jpeg", headers={"cache-control": "no-store"})

    async def state(request: Request) -> Response:
        await hub.turns.turn()
        return Response(hub.message(whole=True), media_type="application/json", headers={"cache-control": "no-store"})

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
