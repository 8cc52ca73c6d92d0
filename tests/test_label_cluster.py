"""Labelling on a Ray cluster: a local one, with real workers, one of which is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import pipelines
from pipelines.labelling import work
from pipelines.labelling.cluster import Cluster
from stream_ann.errors import UsageError
from tests.labelling import some_videos, tiny_weights


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of Ray's own sockets and log files
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_killed_worker_loses_nothing_and_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(work, "WANTED_FRAMES", 8)
    tiny = tiny_weights(tmp_path / "weights")
    some_videos(tmp_path / "videos", (40, 7, 60))
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"")
    alone, together = tmp_path / "alone.jsonl", tmp_path / "together.jsonl"
    list(pipelines.label(tmp_path / "videos", out=alone, weights=tiny, confidence=0.6))
    run = pipelines.label(tmp_path / "videos", out=together, cluster="local", workers=2, weights=tiny, confidence=0.6)
    with run:
        first = next(run)
        assert isinstance(run._executor, Cluster)
        workers = run._executor.process_ids()
        assert len(set(workers)) == 2
        os.kill(workers[0], signal.SIGKILL)
        rest = list(run)
        status = run.status()
    assert together.read_bytes() == alone.read_bytes()
    assert len(rest) + 1 == 107
    assert first.index == 0
    assert [Path(v.name).name for v in status.failed] == ["broken.mp4"]
    assert status.complete


def test_a_cluster_must_be_somewhere(tmp_path: Path):
    with pytest.raises(UsageError, match="no cluster is at 'nowhere'"):
        pipelines.label("demo", cluster="nowhere")
