"""A run as the web page sees it, without a network or a camera, and a client for it."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stream_ann.frames import Counts, FrameResult
from stream_ann.states import SourceState, StateChange
from stream_ann.stats import Latency, LiveStatus, StatsSnapshot
from tests.sink_tools import make_result

EXITS = ("small", "large")


class FakeRun:
    """Statuses to be set by a test."""

    def __init__(self, *names: str) -> None:
        self.names = names or ("camera",)
        self.polls = 0
        stats = StatsSnapshot(Counts(), None, None, 0.0, (0, 0))
        self.now = {name: LiveStatus(stats, None, "", 0.0, (), source=name) for name in self.names}

    def statuses(self) -> Sequence[LiveStatus]:
        self.polls += 1
        return tuple(self.now.values())

    def state(self, name: str, state: SourceState, why: str = "", attempt: int = 0) -> StateChange:
        change = StateChange(name, state, time.monotonic(), why, attempt)
        self.now[name] = replace(self.now[name], state=change)
        return change

    def lose(self, count: int) -> None:
        """So many frames more of the first source were replaced."""
        before = self.now[self.names[0]]
        counts = replace(before.stats.counts, replaced=before.stats.counts.replaced + count)
        self.now[self.names[0]] = replace(before, stats=replace(before.stats, counts=counts))

    def answer(self, name: str | None = None, **options: Any) -> FrameResult:
        """A finished frame, which is also what the status shows then."""
        name = name or self.names[0]
        before = self.now[name]
        count = before.stats.counts.results + 1
        options.setdefault("image", np.full((36, 64, 3), count * 40 % 256, np.uint8))
        result = make_result(index=count - 1, arrival_s=time.monotonic(), **options)
        result = replace(result, frame=replace(result.frame, source=name))
        latency = Latency(result.first_ms, result.final_ms, result.final_ms)
        stats = StatsSnapshot(Counts(count, count, 0, 0), latency, latency, 25.0, (0, count))
        self.now[name] = replace(
            before,
            stats=stats,
            result=result,
            label=result.label,
            confidence=result.confidence,
            exits=result.exits,
            top=result.top,
            frame=result.frame,
        )
        return result


class Client:
    """Asks a server on this machine."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (names in lower case) and body; underscores in names of headers become hyphens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): v for name, v in headers.items()})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        return json.loads(self.get(path)[2])

    def stream(self, path: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """A response to be read bit by bit."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET", path)
        return connection, connection.getresponse()
