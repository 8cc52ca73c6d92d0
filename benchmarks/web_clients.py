"""Visitors of a run's web page, as browsers behave and as they misbehave. For soaks and loads."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

__all__ = ["KINDS", "Visitors"]

_TIMEOUT_S = 15.0


class Visitors:
    """Visitors, each in a thread, as long as the context lasts.

    Args:
        port: Where the page is.
        kinds: What kind each of them is, of :data:`KINDS`.
        sources: How many sources the page has.
        seed: Where chance begins.
        metrics_port: Where the metrics are, if not there.
    """

    def __init__(
        self, port: int, kinds: tuple[str, ...], *, sources: int = 1, seed: int = 0, metrics_port: int | None = None
    ) -> None:
        self.port, self.sources = port, sources
        self.metrics_port = port if metrics_port is None else metrics_port
        self.over = threading.Event()
        self.bytes = 0
        """How much all of them have received."""
        self.messages = 0
        """How many messages of state the watching ones have received."""
        self.visits = 0
        """How often one of them has connected."""
        self.refused = 0
        """How often one was turned away, or not let in."""
        self._lock = threading.Lock()
        chances = [random.Random(seed + i) for i in range(len(kinds))]  # noqa: S311 - nothing is kept secret with them
        self._threads = [
            threading.Thread(target=self._visit, args=(KINDS[kind], chance), name=f"visitor {kind}", daemon=True)
            for kind, chance in zip(kinds, chances, strict=True)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(5)

    def get(self, path: str, *, port: int | None = None) -> socket.socket:
        """Ask for something; the connection on which the answer comes."""
        connection = socket.create_connection(("127.0.0.1", port or self.port), timeout=_TIMEOUT_S)
        connection.settimeout(_TIMEOUT_S)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        self.count(visits=1)
        return connection

    def whole(self, path: str, *, port: int | None = None) -> bytes:
        """A whole answer."""
        parts = []
        with self.get(path, port=port) as connection:
            while data := connection.recv(65536):
                parts.append(data)
        answer = b"".join(parts)
        self.count(received=len(answer), refused=int(b" 503 " in answer[:16]))
        return answer

    def count(self, *, received: int = 0, messages: int = 0, visits: int = 0, refused: int = 0) -> None:
        """Add to what has been counted."""
        with self._lock:
            self.bytes += received
            self.messages += messages
            self.visits += visits
            self.refused += refused

    def _visit(self, behave: Callable[[Visitors, random.Random], None], chance: random.Random) -> None:
        while not self.over.is_set():
            try:
                behave(self, chance)
            except OSError:  # the server has no room, or has gone
                self.count(refused=1)
                self.over.wait(0.5)


def _watch(visitors: Visitors, chance: random.Random) -> None:
    """A page that is open: its events, and the pictures of a source beside them, for a minute or so."""
    until_s = time.monotonic() + chance.uniform(30, 90)
    number = chance.randrange(visitors.sources)
    with visitors.get("/events") as events:
        if visitors.sources <= 2:
            with visitors.get(f"/sources/{number}/stream.mjpg") as pictures:
                _read_both(visitors, events, pictures, until_s)
            return
        events.settimeout(0.5)
        while time.monotonic() < until_s and not visitors.over.is_set():
            if not _read(visitors, events):
                return
            visitors.whole(f"/sources/{chance.randrange(visitors.sources)}/picture.jpg?{chance.random()}")


def _read_both(visitors: Visitors, events: socket.socket, pictures: socket.socket, until_s: float) -> None:
    events.settimeout(0.5)
    pictures.settimeout(0.5)
    while time.monotonic() < until_s and not visitors.over.is_set():
        if not _read(visitors, events) or not _read(visitors, pictures):
            return


def _read(visitors: Visitors, connection: socket.socket) -> bool:
    """Take what is there; False where the server has hung up."""
    try:
        data = connection.recv(1 << 18)
    except TimeoutError:
        return True
    visitors.count(received=len(data), messages=data.count(b"\ndata: "), refused=int(data.startswith(b"HTTP/1.1 503")))
    return bool(data)


def _crawl(visitors: Visitors, chance: random.Random) -> None:
    """Reads the pictures far more slowly than they come."""
    with visitors.get("/sources/0/stream.mjpg") as pictures:
        for _ in range(chance.randrange(30, 90)):
            if visitors.over.wait(0.5) or not pictures.recv(1500):
                return


def _hang(visitors: Visitors, chance: random.Random) -> None:
    """Asks for the pictures, never reads one, and does not hang up for long."""
    with visitors.get("/sources/0/stream.mjpg"):
        visitors.over.wait(chance.uniform(20, 60))


def _flap(visitors: Visitors, chance: random.Random) -> None:
    """Connects, looks, and resets the connection in the middle of a picture."""
    path = chance.choice(("/events", "/sources/0/stream.mjpg", "/state", "/nothing", "/"))
    connection = visitors.get(path)
    with suppress(OSError):
        visitors.count(received=len(connection.recv(chance.randrange(1, 100_000))))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    visitors.over.wait(chance.uniform(0.1, 1.0))


def _ask(visitors: Visitors, chance: random.Random) -> None:
    """Asks for single things, as a monitoring system does."""
    for path in ("/state", "/sources/0/picture.jpg", "/", "/view.js", "/healthz"):
        visitors.whole(path)
    visitors.whole("/metrics", port=visitors.metrics_port)
    visitors.over.wait(1.0)


KINDS: dict[str, Callable[[Visitors, random.Random], None]] = {
    "watching": _watch,
    "crawling": _crawl,
    "hanging": _hang,
    "flapping": _flap,
    "asking": _ask,
}
"""Kinds of visitors."""
