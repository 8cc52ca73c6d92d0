"""Sinks: where results go."""

from __future__ import annotations

from stream_ann.sinks.jsonl import JsonlSink
from stream_ann.sinks.packets import PacketRing
from stream_ann.sinks.recording import RecordingSink
from stream_ann.sinks.sink import Sink
from stream_ann.sinks.snapshots import SnapshotOptions, SnapshotSink
from stream_ann.sinks.terminal import TerminalView, summary_table
from stream_ann.sinks.video import VideoSink
from stream_ann.sinks.window import WindowView, window_problem
from stream_ann.sinks.worker import SinkWorker

__all__ = [
    "JsonlSink",
    "PacketRing",
    "RecordingSink",
    "Sink",
    "SinkWorker",
    "SnapshotOptions",
    "SnapshotSink",
    "TerminalView",
    "VideoSink",
    "WindowView",
    "summary_table",
    "window_problem",
]
