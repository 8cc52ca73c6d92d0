"""One visitor's connection, with an end to patience."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["MOST_ANSWERED", "MOST_HEADER_BYTES", "Connection"]

MOST_ANSWERED = 256
"""With so many connections, whoever asks is told to come back later."""
MOST_OPEN = 288
"""Further ones are closed at once: each is one of the files that a process may have open, and recordings need some."""
MOST_HEADER_BYTES = 32 << 10
"""Room for the cookies that other servers at this machine's name have left."""
REQUEST_WITHIN_S = 10.0
"""So long may a request take to arrive, from its first byte or, the first one, from the beginning."""
TAKEN_WITHIN_S = 15.0
"""Whoever takes none of what waits for him in this time has gone, or might as well have."""


class Connection(H11Protocol):
    """Uvicorn's connection, which is closed where a request does not become complete, where nobody takes the answer,
    and where there are too many.

    Uvicorn itself waits without end for the rest of a request, and for whatever it has sent to be taken, so that a few
    visitors who send nothing, or a byte now and then, or do not read, would keep everybody else out.
    """

    _patience: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait, or turn the visitor away."""
        super().connection_made(transport)
        if len(self.connections) > MOST_OPEN:
            transport.abort()
            return
        self._patience = self.loop.call_later(REQUEST_WITHIN_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Take in a part of a request."""
        super().data_received(data)
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering:
            self._wait_no_more()
        elif self._patience is None and not self.transport.is_closing():
            self._patience = self.loop.call_later(REQUEST_WITHIN_S, self.transport.abort)

    def pause_writing(self) -> None:
        """More waits to be taken than there should."""
        super().pause_writing()
        if self._stuck is None:
            self._stuck = self.loop.call_later(TAKEN_WITHIN_S, self.transport.abort)

    def resume_writing(self) -> None:
        """It was taken."""
        super().resume_writing()
        self._flows_again()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        self._wait_no_more()
        self._flows_again()
        super().connection_lost(exc)

    def _wait_no_more(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _flows_again(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
