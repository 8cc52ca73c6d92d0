"""Opening a camera anew, hundreds of times, in one process. Long."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from benchmarks.camera import Faults, RtspCamera, encode_pattern
from benchmarks.flatness import own_mib
from stream_ann.errors import SourceError
from stream_ann.ingest import NetworkSource, SourceOptions, SourceUrl
from stream_ann.sinks import PacketRing

CONNECTIONS = 300


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_lost_connection_leaves_nothing_behind():
    units = encode_pattern(size_px=(640, 360), frames=50)
    seen = []
    with RtspCamera(units, fps=400, faults=Faults(close_after=20)) as camera:
        source = NetworkSource(SourceUrl(camera.url), SourceOptions(connect_timeout_s=20, read_timeout_s=20))
        source.packet_tap = PacketRing(2.0).add
        for number in range(CONNECTIONS + 1):
            with pytest.raises(SourceError):
                _read_to_its_end(source)
            source.close()
            if number % (CONNECTIONS // 3) == 0:
                gc.collect()
                seen.append((own_mib(os.getpid()), len(gc.get_objects()), len(list(Path("/proc/self/fd").iterdir()))))
    (_, _, _), first, _, last = seen
    assert last[0] - first[0] < 16, seen  # a picture has 0.7 MiB: two hundred would be 130
    assert last[1] - first[1] < 100, seen
    assert last[2] == first[2], seen


def _read_to_its_end(source: NetworkSource) -> None:
    source.open()
    while source.read() is not None:
        pass
