"""A server in a thread of its own, which ends when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import uvicorn
from starlette.applications import Starlette

from stream_ann.errors import OutputError
from stream_ann.frames import FrameResult
from stream_ann.sinks.files import reason_of
from stream_ann.sinks.web.access import DEFAULT_PORT, Access, Guard
from stream_ann.sinks.web.app import Hub, metrics_routes, page_app
from stream_ann.sinks.web.connection import MOST_ANSWERED, MOST_HEADER_BYTES, Connection
from stream_ann.sinks.web.feed import Feed
from stream_ann.sinks.web.metrics import Metrics
from stream_ann.stats import LiveStatus

__all__ = ["MetricsServer", "WebView"]

STARTS_WITHIN_S = 10.0
ENDS_WITHIN_S = 1.8
GRACE_S = 1
"""So long may answers that are under way take once the server is to end."""


class _Server:
    """Listens from the beginning on, and serves while the context is open."""

    _thread_name = "stream-ann server"

    def __init__(
        self,
        poll: Callable[[], Sequence[LiveStatus]],
        exit_names: Sequence[str],
        *,
        access: Access,
        metrics: Metrics | None = None,
    ) -> None:
        self._feed = Feed(poll, exit_names)
        self._metrics = metrics or Metrics(poll, exit_names)
        self._access = access
        self._socket = _listen(access)
        self.port: int = self._socket.getsockname()[1]
        """The port that is listened on."""
        self.error: Exception | None = None
        """What the server failed with, if it did. The run goes on without it."""
        self._server: uvicorn.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hub: Hub | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self._thread_name, daemon=True)

    @property
    def url(self) -> str:
        """The address to open; with the token, where it was made up here."""
        return self._access.url(self.port)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(STARTS_WITHIN_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def end(self) -> None:
        """Have all streams end, and the server, and do not wait for it. Can be repeated."""
        loop, server, hub = self._loop, self._server, self._hub
        if loop is not None and server is not None:

            def end() -> None:
                server.should_exit = True
                if hub is not None:
                    hub.stop()

            with contextlib.suppress(RuntimeError):  # the loop is closed already
                loop.call_soon_threadsafe(end)

    def close(self) -> None:
        """End all streams, and the server. Can be repeated."""
        self.end()
        if self._thread.ident is not None:
            self._thread.join(ENDS_WITHIN_S)
        self._socket.close()

    def _app(self) -> tuple[Starlette, Hub | None]:
        raise NotImplementedError

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:  # the stream is worth more than its page
            self.error = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        app, self._hub = self._app()
        config = uvicorn.Config(
            Guard(app, self._access, f"stream-ann-{self.port}"),
            log_config=None,
            access_log=False,
            lifespan="off",
            http=Connection,
            ws="none",
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MOST_ANSWERED,
            h11_max_incomplete_event_size=MOST_HEADER_BYTES,
            timeout_graceful_shutdown=GRACE_S,
        )
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
        self._server = uvicorn.Server(config)
        self._loop = asyncio.get_running_loop()
        watching = None if self._hub is None else asyncio.create_task(self._hub.run())
        self._ready.set()
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            if watching is not None:
                watching.cancel()


class WebView(_Server):
    """The web page of a run: pictures, labels, exits and latencies of all its sources, as they come.

    A context manager: the page is served while the context is open. It listens from its making on.

    Args:
        poll: Gives the present status of every source; called by the server's thread. Must not wait.
        exit_names: Name of each exit of the plan, in order.
        access: Where to listen, and who may look.
        metrics: What ``/metrics`` gives; by default only what ``poll`` says.

    Raises:
        OutputError: If the address cannot be listened on.
    """

    _thread_name = "stream-ann web view"

    def put(self, result: FrameResult) -> None:
        """Take in one result; neither waits nor raises."""
        self._feed.put(result)

    def _app(self) -> tuple[Starlette, Hub | None]:
        hub = Hub(self._feed)
        return page_app(hub, self._metrics), hub


class MetricsServer(_Server):
    """``/metrics`` and ``/healthz`` alone, without a page.

    Args:
        poll: Gives the present status of every source; called by the server's thread. Must not wait.
        exit_names: Name of each exit of the plan, in order.
        access: Where to listen, and who may look.
        metrics: What ``/metrics`` gives; by default only what ``poll`` says.

    Raises:
        OutputError: If the address cannot be listened on.
    """

    _thread_name = "stream-ann metrics"

    @property
    def url(self) -> str:
        """The address for Prometheus; with the token, where it was made up here."""
        return self._access.url(self.port, path="/metrics")

    def _app(self) -> tuple[Starlette, Hub | None]:
        return Starlette(routes=metrics_routes(self._feed, self._metrics)), None


def _listen(access: Access) -> socket.socket:
    family = socket.AF_INET6 if ":" in access.host else socket.AF_INET
    ports = (DEFAULT_PORT, 0) if access.port is None else (access.port,)
    for port in ports:
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((access.host, port))
            listening.listen(128)
        except OSError as error:
            listening.close()
            if port != ports[-1] and error.errno == errno.EADDRINUSE:
                continue
            raise OutputError(
                f"cannot listen on {access.host}:{port}: {reason_of(error)}",
                "choose another port (0 takes a free one) or another address",
            ) from error
        return listening
    raise AssertionError("no port was tried")
