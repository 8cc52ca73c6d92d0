"""Many browsers that have the page of a run open, in one process that takes as little of the machine as it can.

On another machine they would cost the run nothing but what it sends them. On the same one whatever they take is
missing elsewhere, so there is one thread, which looks into nothing that it need not, and imports only what Python has.
Each visitor has the events open, and after each of them fetches the pictures of the cards that are on his screen
that have not come yet, one after the other on a connection that stays open. How much processor time all of that took
is told, so that another process can burn as much (``--burn``) in a run to compare with.

Run by ``benchmarks/load.py``: python -S -m benchmarks.page_visitors PORT VISITORS SOURCES
(says "ready" once everybody has had an event; answers each line on its standard input with what was received up to
then, as JSON; ends where that ends)
"""

from __future__ import annotations

import json
import os
import resource
import select
import selectors
import socket
import sys
import time

__all__ = ["Page", "burn"]

ON_SCREEN = 8
"""So many cards of a page with more than two sources are on a screen."""
BURN_SLICE_S = 0.004
_MOST_BYTES = 1 << 18
_BUFFER = bytearray(_MOST_BYTES)
_VIEW = memoryview(_BUFFER)


class Page:
    """One open page.

    Args:
        number: Which visitor it is: he looks at cards of his own.
        port: Where the page is served.
        sources: How many sources it has.
        selector: Told of the connections.

    Attributes:
        messages: Events received.
        pictures: Pictures received whole.
        bytes: All that was received.
        refused: Connections that were not let in, or have ended.
    """

    def __init__(self, number: int, port: int, sources: int, selector: selectors.BaseSelector) -> None:
        self.messages = self.pictures = self.bytes = self.refused = 0
        self._cards = [(number * ON_SCREEN + i) % sources for i in range(min(sources, ON_SCREEN))]
        self._wanted: list[int] = []
        self._asked = False
        self._left = 0  # bytes of the picture that are still to come
        self._head = b""
        self._port, self._selector = port, selector
        self._events = self._connect(self._take_events)
        self._events.sendall(_request("/events"))
        self._picture: socket.socket | None = None

    def _connect(self, take: object) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=30)
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, take)
        return connection

    def _take_events(self) -> None:
        count = self._receive(self._events)
        if count:
            found = _BUFFER.count(b"\ndata: ", 0, count)
            self.messages += found
            self.refused += _BUFFER.startswith(b"HTTP/1.1 503")
            if found and not self._wanted:
                self._wanted = self._cards.copy()
                self._ask()
        else:
            self.refused += 1

    def _ask(self) -> None:
        if not self._asked and self._wanted:
            self._asked = True
            if self._picture is None:  # the server hangs up where nothing was asked for some seconds
                self._picture = self._connect(self._take_picture)
            self._picture.sendall(_request(f"/sources/{self._wanted.pop()}/picture.jpg"))

    def _take_picture(self) -> None:
        if self._picture is None:
            return
        count = self._receive(self._picture)
        if count == 0:
            self._picture, self._head, self._left = None, b"", 0
            self.refused += self._asked
            self._asked = False
        elif self._left:
            self._left -= count
        else:
            self._head += _BUFFER[:count]
            begin = self._head.find(b"\r\n\r\n") + 4
            if begin < 4:
                return
            at = self._head.find(b"content-length: ") + 16
            size = int(self._head[at : self._head.find(b"\r", at)])
            self._left = size - (len(self._head) - begin)
            self.pictures += self._head.startswith(b"HTTP/1.1 200")
            self._head = b""
        if not self._left:
            self._asked = False
            self._ask()

    def _receive(self, connection: socket.socket) -> int:
        """Take what is there into the buffer; 0 where the server has hung up."""
        try:
            count = connection.recv_into(_VIEW)
        except OSError:
            count = 0
        if not count:
            self._selector.unregister(connection)
            connection.close()
        self.bytes += count
        return count


def _request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def visit(port: int, visitors: int, sources: int) -> None:
    """Keep pages open until standard input ends."""
    selector = selectors.DefaultSelector()
    pages = [Page(number, port, sources, selector) for number in range(visitors)]
    selector.register(0, selectors.EVENT_READ)
    ready = False
    while True:
        for key, _ in selector.select(5.0):
            if key.data is not None:
                key.data()
                continue
            if not os.read(0, 100):
                return
            found = {
                name: sum(getattr(p, name) for p in pages) for name in ("messages", "pictures", "bytes", "refused")
            }
            print(json.dumps({**found, "cpu_s": _cpu_s()}), flush=True)
        if not ready and all(page.messages or page.refused for page in pages):
            ready = True
            print("ready", flush=True)


def burn(share: float) -> None:
    """Take so much of a core until standard input ends, in short slices."""
    print("ready", flush=True)
    begun_s = time.monotonic()
    while True:
        until_s = time.thread_time() + BURN_SLICE_S
        while time.thread_time() < until_s:
            pass
        ahead_s = _cpu_s() / share - (time.monotonic() - begun_s) if share else 60.0
        if select.select([0], [], [], max(0.0, ahead_s))[0]:
            if not os.read(0, 100):
                return
            print(json.dumps({"cpu_s": _cpu_s()}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--burn":
        burn(float(sys.argv[2]))
    else:
        visit(*(int(argument) for argument in sys.argv[1:4]))
