"""Getting frames in: sources, the reader thread, and the slot in which the newest frame waits.

``source_from("0")`` gives a source, a :class:`Reader` reads it in a thread of its own, and puts its frames into a
:class:`Slot`, from which the scheduler takes them. A new kind of source is a class with the five members of
:class:`Source`.
"""

from __future__ import annotations

from stream_ann.ingest.fake import FakeSource, ScriptedInbox, ScriptedSlot
from stream_ann.ingest.images import DEFAULT_IMAGE_FPS, IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, ImageSource
from stream_ann.ingest.network import NetworkSource
from stream_ann.ingest.options import SourceOptions, Transport, size_px_from
from stream_ann.ingest.pattern import PatternSource
from stream_ann.ingest.reader import Reader, ReaderCounts
from stream_ann.ingest.retries import Retries
from stream_ann.ingest.slot import Inbox, Slot, SlotCounts, Taken
from stream_ann.ingest.source import MAX_PIXELS, Cancellable, Picture, Source
from stream_ann.ingest.spec import DEMO_CLIP, SourceEntry, list_sources, source_from, specs_from
from stream_ann.ingest.url import SourceUrl, redact
from stream_ann.ingest.video import VideoSource
from stream_ann.ingest.webcam import FoundWebcam, WebcamSource, list_webcams

__all__ = [
    "DEFAULT_IMAGE_FPS",
    "DEMO_CLIP",
    "IMAGE_EXTENSIONS",
    "MAX_PIXELS",
    "VIDEO_EXTENSIONS",
    "Cancellable",
    "FakeSource",
    "FoundWebcam",
    "ImageSource",
    "Inbox",
    "NetworkSource",
    "PatternSource",
    "Picture",
    "Reader",
    "ReaderCounts",
    "Retries",
    "ScriptedInbox",
    "ScriptedSlot",
    "Slot",
    "SlotCounts",
    "Source",
    "SourceEntry",
    "SourceOptions",
    "SourceUrl",
    "Taken",
    "Transport",
    "VideoSource",
    "WebcamSource",
    "list_sources",
    "list_webcams",
    "redact",
    "size_px_from",
    "source_from",
    "specs_from",
]
