"""Network cameras and videos: RTSP, MJPEG and files over HTTP, HLS; through libav."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import PurePosixPath

import av
import av.logging
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from stream_ann.containers import NETWORK_PROTOCOLS
from stream_ann.errors import (
    DecodeError,
    DisconnectedError,
    SourceError,
    SourceTimeoutError,
    UnsupportedSourceError,
)
from stream_ann.ingest.decode_log import DecodeLog
from stream_ann.ingest.h264 import FrameGaps
from stream_ann.ingest.images import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from stream_ann.ingest.libav import connecting, decoding, receiving
from stream_ann.ingest.options import SourceOptions
from stream_ann.ingest.pictures import Turning, rgb_image, video_stream
from stream_ann.ingest.retries import Retries
from stream_ann.ingest.source import MAX_PIXELS, Picture, check_size
from stream_ann.ingest.tapping import Tapping
from stream_ann.ingest.url import SourceUrl
from stream_ann.packets import PacketTap

__all__ = ["SCHEMES", "NetworkSource"]

SCHEMES = ("rtsp", "rtsps", "http", "https")
"""What a network source's URL may begin with."""
HLS_PATIENCE_S = 20.0
"""How long a live playlist may take to name its next segment, in seconds: a segment lasts 2 to 10."""
_QUICK_START = {"probesize": "32768", "analyzeduration": "1"}
"""Enough to find the stream's kind; more would make the picture appear a second later (0 microseconds means 5 s)."""
_UNTIMED = frozenset({"mpjpeg", "mjpeg"})
"""Formats whose timestamps libav makes up."""
_MAX_DAMAGED = 64

_log = logging.getLogger(__name__)


class NetworkSource:
    """A camera or a video in the network.

    What has an end of its own, a file or a finished HLS playlist, is played like a file. Everything else is live: it is
    decoded as it comes, its end is a lost connection, and it is opened anew as often as its retries say.

    Frames that may be wrong, because data were lost on the way, are marked ``suspect``, up to the next key frame.

    Args:
        url: Its address.
        options: Transport, timeouts and retries.

    Attributes:
        packet_tap: Where its compressed packets go, see :class:`~stream_ann.packets.PacketSource`.
    """

    def __init__(self, url: SourceUrl, options: SourceOptions | None = None) -> None:
        if url.scheme not in SCHEMES:
            raise UnsupportedSourceError(
                f"'{url}' cannot be read: '{url.scheme}' is none of {', '.join(SCHEMES)}",
                "give a file, a webcam such as 0, or a URL of one of these",
            )
        self.name = str(url)
        self.live = not _is_file(url)
        """Whether its pictures come at their own pace: guessed from its ending until it is open."""
        self.paced = not self.live
        """Whether its pictures come faster than they are to be shown: a file's do, and those of an HLS segment."""
        self.packet_tap: PacketTap | None = None
        self._url = url
        self._options = options or SourceOptions()
        self.retries = Retries(self._options.reconnect_attempts)
        """When to connect again."""
        self._cancelled = threading.Event()
        self._complaints = DecodeLog()
        self._decoder_name, self._decoder_delays = "", False
        self._container: InputContainer | None = None
        self._packets: Iterator[Packet[VideoStream]] = iter(())
        self._frames: deque[VideoFrame] = deque()

    def open(self) -> None:
        """Connect, and find the video.

        Raises:
            SourceError: If that fails, of the class that says why; within the connect timeout, but for the time that
                the system takes to find out the machine's number.
        """
        self.close()
        self._complaints.open()
        try:
            with self._complaints.listen() as lines:
                self._open()
        except BaseException:
            self.close()
            raise
        finally:
            self._note(lines)

    def read(self) -> Picture | None:
        """The next picture; None at the end of a file, and once cancelled.

        Raises:
            DecodeError: If a frame is damaged so badly that there is no picture.
            SourceError: If the connection is lost, or no picture came within the read timeout.
        """
        if self._container is None:
            raise SourceError(f"'{self.name}' is not open")
        while not self._cancelled.is_set():
            if self._frames:
                return self._picture(self._frames.popleft())
            if not self._feed():
                return None
        return None

    def close(self) -> None:
        """Leave the camera."""
        container, self._container = self._container, None
        self._packets = iter(())
        self._frames.clear()
        if container is not None:
            container.close()
        self._complaints.close()

    def cancel(self) -> None:
        """Make :meth:`read` end, as soon as libav lets go: at the latest with the timeout that runs."""
        self._cancelled.set()

    def _open(self) -> None:
        options = self._options
        self._read_timeout_s = max(options.read_timeout_s, HLS_PATIENCE_S if _is_playlist(self._url) else 0.0)
        container = connecting(
            self._url,
            lambda: av.open(
                self._url.secret,
                "r",
                options=_libav_options(self._url, options),
                timeout=(options.connect_timeout_s, self._read_timeout_s),
                metadata_errors="replace",
            ),
            timeout_s=options.connect_timeout_s,
        )
        self._container = container
        self._frames.clear()
        stream = self._stream = video_stream(container, self.name)
        check_size(stream.width, stream.height, self.name, error=UnsupportedSourceError)
        self.live = not _has_end(container)
        self.paced = container.format.name == "hls" or not self.live
        decoder = stream.codec_context
        decoder.options = {"max_pixels": str(MAX_PIXELS)}  # for pictures that grow midway
        if self.live:
            # several frames at a time would be as many frames of delay; and only with one thread, which is this one,
            # are the complaints that it hears those about its own frames
            decoder.thread_count = 1
        self._decoder_name, self._decoder_delays = decoder.name, decoder.has_b_frames
        self._timed = container.format.name not in _UNTIMED
        # RTP's times count from the first packet, whose own libav loses. It is the key frame that all others build on
        self._first_at_0 = container.format.name == "rtsp"
        self._packets = container.demux(stream)
        self._tapping = Tapping(stream)
        self._reformatter, self._turning = VideoReformatter(), Turning()
        self._damaged: deque[int | None] = deque(maxlen=_MAX_DAMAGED)
        self._gaps = FrameGaps(decoder.extradata) if self.live and decoder.name == "h264" else None
        self._suspect = self._given = False

    def _feed(self) -> bool:
        """Decode one more packet; False at the end of a file."""
        begun_s = time.monotonic()
        packet = receiving(self._url, lambda: next(self._packets, None), timeout_s=self._read_timeout_s)
        if self.live and time.monotonic() - begun_s >= self._read_timeout_s:
            # when its time is up, libav hands out the packet that it had held back, before it says so
            raise SourceTimeoutError(f"'{self.name}' gave no picture for {self._read_timeout_s:g} s")
        if packet is None:
            if self.live:
                raise DisconnectedError(f"the connection to '{self.name}' was lost")
            return False
        if packet.pts is None and self._first_at_0:
            packet.pts = 0
        self._first_at_0 = False
        self._tapping.offer(packet, self.packet_tap)
        damaged = packet.is_corrupt or (self._gaps is not None and self._gaps.lost(bytes(packet)))
        frames: list[VideoFrame] = []
        failed = False
        with self._complaints.listen() as lines:
            try:
                with decoding(self.name):
                    frames = packet.decode()
            except DecodeError:
                failed = True
        self._frames.extend(frames)
        complained = self._note(lines)
        if damaged or complained or failed:
            self._suspect = True
            self._damaged.append(packet.pts)
        # where each packet holds one frame, none means that it was lost; but not before the first one of a live source,
        # which was joined between two key frames
        swallowed = failed or (complained and not frames and bool(packet.size) and not self._decoder_delays)
        if swallowed and (self._given or not self.live):
            raise DecodeError(f"'{self.name}' sent a frame that cannot be decoded")
        return True

    def _picture(self, frame: VideoFrame) -> Picture:
        if frame.is_corrupt or frame.pts in self._damaged:
            self._suspect = True
        elif frame.key_frame:
            self._suspect = False
        image = rgb_image(frame, self._reformatter, self._turning, self.name)
        self._given = True
        return Picture(image, self._time_s(frame), self._suspect)

    def _time_s(self, frame: VideoFrame) -> float | None:
        time_base = frame.time_base or self._stream.time_base
        if frame.pts is None or not time_base or not self._timed:
            return None
        return float(frame.pts * time_base)

    def _note(self, lines: list[tuple[int, str, str]]) -> bool:
        """Pass what libav has logged on to whoever debugs; whether its decoder complained."""
        for _, part, text in lines:
            _log.debug("%s: %s: %s", self.name, part, self._url.hide(text.strip()))
        return any(part == self._decoder_name for _, part, _ in lines)


def _libav_options(url: SourceUrl, options: SourceOptions) -> dict[str, str]:
    bounds = {"protocol_whitelist": NETWORK_PROTOCOLS[url.scheme.removesuffix("s")]}
    if url.scheme in ("rtsp", "rtsps"):
        return {**bounds, **_QUICK_START, "rtsp_transport": options.transport, "allowed_media_types": "video"}
    if _is_file(url):
        # it goes on where a broken connection stopped
        return {**bounds, "reconnect": "1", "reconnect_delay_max": "2"}
    if _is_playlist(url):
        return {**bounds, "live_start_index": "-1"}
    return {**bounds, **_QUICK_START}


def _ending(url: SourceUrl) -> str:
    return PurePosixPath(url.path).suffix.lower()


def _is_file(url: SourceUrl) -> bool:
    # an MJPEG camera's address often ends in .mjpeg, which is no file's ending here
    return url.scheme in ("http", "https") and _ending(url) in VIDEO_EXTENSIONS | IMAGE_EXTENSIONS


def _is_playlist(url: SourceUrl) -> bool:
    return url.scheme in ("http", "https") and _ending(url) in (".m3u8", ".m3u")


def _has_end(container: InputContainer) -> bool:
    """Whether what was opened ends by itself: a file of known size, or a playlist that is complete."""
    kind = container.format.name
    if kind == "hls":
        return bool(container.duration)
    return kind not in ("rtsp", "mpjpeg") and container.size > 0
