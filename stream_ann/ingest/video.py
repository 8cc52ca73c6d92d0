"""Video files, decoded by libav through PyAV."""

from __future__ import annotations

import os
import stat
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Literal

from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from stream_ann.errors import DecodeError, SourceError, SourceNotFoundError, UnsupportedSourceError
from stream_ann.ingest.decoder import Decoder
from stream_ann.ingest.libav import decoding, opening
from stream_ann.ingest.missing import what_is_missing
from stream_ann.ingest.pictures import Turning, rgb_image
from stream_ann.ingest.source import Picture, shown_path
from stream_ann.ingest.tapping import Tapping
from stream_ann.packets import PacketTap

__all__ = ["VideoSource"]

MAX_READ_ERRORS = 16
"""So many failures in a row to find the next packet mean that the rest of the file cannot be read."""
_MAX_PENDING = 1024
_ONE_TO_ONE = frozenset({"av1", "ffv1", "h264", "hevc", "libdav1d", "mjpeg", "png", "prores", "vp9", "vvc"})
"""Decoders of formats in which every packet holds one frame to be shown, unless it is interlaced."""


class VideoSource:
    """The pictures of a video file with their true timestamps, upright, in RGB whatever the file's pixel format.

    Transparency is ignored. A frame whose data are damaged raises :class:`~stream_ann.errors.DecodeError`, and so does
    each one that the decoder leaves out because an earlier one that it builds on is damaged; reading goes on behind it.

    Args:
        path: The file.
        name: What to call it; by default the path as given.

    Attributes:
        packet_tap: Where its compressed packets go, see :class:`~stream_ann.packets.PacketSource`.
    """

    live = False
    _reads_all = True
    """Whether it reads all packets of the file."""

    def __init__(self, path: str | os.PathLike[str], *, name: str | None = None) -> None:
        self._path = Path(path)
        self.paths = (self._path,)
        """The file that is read."""
        self.name = shown_path(path) if name is None else name
        self.packet_tap: PacketTap | None = None
        self._decoder: Decoder | None = None

    def open(self) -> None:
        """Open the file and find its video.

        Raises:
            SourceNotFoundError: If there is no such file.
            UnsupportedSourceError: If it is not a video that can be decoded here.
            SourceError: If it cannot be read.
        """
        self.close()
        self._check_file()
        self._frames: deque[VideoFrame] = deque()
        self._held: Picture | None = None
        self._given = self._lost = self._read_errors = 0
        self._last_pts_s: float | None = None
        self._skip_to: int | None = None
        # one for all frames, as each frame's own would set up a scaler anew
        self._reformatter, self._turning = VideoReformatter(), Turning()
        self._over = False
        self._at_end = False
        self._missing: str | None = None
        self._decoder = self._open_decoder("AUTO")
        self._tapping = Tapping(self._decoder.stream)
        self._ledger = _Ledger(strict=self._decoder.stream.codec_context.name in _ONE_TO_ONE)

    def read(self) -> Picture | None:
        """The next picture; None at the end of the file.

        Raises:
            DecodeError: If a frame is damaged.
            SourceError: If the file cannot be read any further; behind the last frame, if it is cut short.
        """
        if self._decoder is None:
            raise SourceError(f"'{self.name}' is not open")
        while True:
            if self._lost:
                self._lost -= 1
                raise DecodeError(f"a frame of '{self.name}' builds on damaged data")
            if self._held is not None:
                picture, self._held = self._held, None
                return picture
            if self._over:
                return None
            if self._frames:
                self._accept(self._frames.popleft(), self._decoder)
            elif not self._feed(self._decoder) and not self._look_again(self._decoder) and not self._lost:
                if not self._given:
                    raise UnsupportedSourceError(
                        f"no frame of '{self.name}' can be decoded", "try to play it elsewhere"
                    )
                missing, self._missing = self._missing, None
                if missing is not None:
                    raise SourceError(f"'{self.name}' {missing}", "check that it was copied completely")
                return None

    def close(self) -> None:
        """Close the file."""
        decoder, self._decoder = self._decoder, None
        if decoder is not None:
            self._frames.clear()
            decoder.close()

    def _open_decoder(self, thread_type: Literal["AUTO", "SLICE"]) -> Decoder:
        return Decoder(self._path, self.name, thread_type)

    def _convert(self, frame: VideoFrame, pts_s: float | None) -> Picture | None:
        """The picture of a decoded frame; None leaves it out. Where it sets ``_over``, the video ends before it."""
        return Picture(rgb_image(frame, self._reformatter, self._turning, self.name), pts_s)

    def _check_file(self) -> None:
        """Tell apart what libav would call invalid data, or wait on for ever."""
        try:
            status = self._path.stat()
        except FileNotFoundError as error:
            raise SourceNotFoundError(f"there is no file '{self.name}'", "check the path") from error
        except OSError as error:
            raise SourceError(f"'{self.name}' cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            raise UnsupportedSourceError(f"'{self.name}' is not a file", "give a video file")
        if status.st_size == 0:
            raise UnsupportedSourceError(f"'{self.name}' is empty (0 bytes)", "check that it was copied completely")

    def _feed(self, decoder: Decoder) -> bool:
        """Decode one more packet; False when there are none. The last one, empty, makes it hand out the rest."""
        try:
            with opening(self.name):
                packet = next(decoder.packets, None)
        except UnsupportedSourceError as error:  # invalid data; the demuxer looks for the next packet by itself
            self._read_errors += 1
            if self._read_errors > MAX_READ_ERRORS:
                raise SourceError(f"'{self.name}' cannot be read any further", "check that it is complete") from error
            decoder.packets = decoder.demux()
            raise DecodeError(f"'{self.name}' holds data that cannot be read") from error
        if packet is None:
            self._ended(decoder)
            return False
        self._read_errors = 0
        if not self._given and packet.has_sidedata("encryption_info"):
            raise UnsupportedSourceError(f"'{self.name}' is encrypted", "decrypt it first")
        if packet.is_corrupt and decoder.torn_is_useless:
            raise DecodeError(f"'{self.name}' ends in the middle of a frame")
        known = self._skip_to is not None and packet.pts is not None and packet.pts <= self._skip_to
        if not known:
            self._ledger.sent(packet)
        if self._skip_to is None:  # what is decoded once more was offered before
            self._tapping.offer(packet, self.packet_tap)
        try:
            with decoding(self.name):
                # few at a time, except for the decoder's last ones; each is converted and dropped before the next
                self._frames.extend(packet.decode())
        except DecodeError:
            # what fails in the last call is counted by what is missing then
            if packet.size and not known and self._ledger.failed():
                raise
        return True

    def _ended(self, decoder: Decoder) -> None:
        """Look, at the first end, whether it is the true one."""
        if self._at_end:
            return
        self._at_end = True
        with suppress(OSError):  # a file that is gone by now was read to its end
            self._missing = what_is_missing(
                self._path, decoder, everything=self._reads_all, open_again=lambda: self._open_decoder("SLICE")
            )

    def _accept(self, frame: VideoFrame, decoder: Decoder) -> None:
        """Hold the frame's picture ready, after the frames lost before it."""
        if frame.pts is not None:
            if self._skip_to is not None and frame.pts <= self._skip_to:
                return
            # fields may come in packets of their own, two for a frame
            self._ledger.strict &= not frame.interlaced_frame
            self._lost += self._ledger.came_out(frame.pts, key_frame=frame.key_frame)
        pts_s = self._last_pts_s = self._time_s(frame, decoder.stream)
        if frame.is_corrupt:
            self._lost += 1
            return
        self._given += 1
        self._held = self._convert(frame, pts_s)

    def _look_again(self, decoder: Decoder) -> bool:
        """Decode the end once more where frames are missing from it; False when nothing more is to be had.

        A decoder that works on several frames at a time (thread type FRAME, which AUTO prefers) drops whole ones
        together with a damaged one at the end. One that works on a single frame gives them.
        """
        missing, after = self._ledger.missing(), self._ledger.last_out
        if missing and self._skip_to is None and after is not None:
            try:
                again = self._open_decoder("SLICE")
                with opening(self.name):
                    again.container.seek(after, stream=again.stream)
            except SourceError:
                pass  # it cannot seek, or is gone: then they are lost
            else:
                decoder.close()
                self._decoder, self._skip_to = again, after
                self._ledger.begin_again()
                return True
        self._lost = missing
        self._ledger = _Ledger(strict=False)
        return False

    def _time_s(self, frame: VideoFrame, stream: VideoStream) -> float | None:
        """The frame's timestamp; without one, as long after the frame before as the nominal rate says."""
        time_base = frame.time_base or stream.time_base
        if frame.pts is not None and time_base:
            return float(frame.pts * time_base)
        rate = stream.guessed_rate
        if not rate:
            return None
        return 0.0 if self._last_pts_s is None else self._last_pts_s + float(1 / rate)


class _Ledger:
    """Which packets went into the decoder and never came out, told by their timestamps.

    Decoders swallow frames that build on a damaged one, many without a word. How many is clear at the next key frame
    that comes out, and at the end; before that, frames may come out of order. But some formats have packets that were
    never meant to be shown, so that there a gap counts only behind an error.

    Args:
        strict: Whether every packet holds one frame to be shown.
    """

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.last_out: int | None = None
        """Timestamp of the latest frame that came out."""
        self._pending: set[int] = set()
        self._reported = 0
        self._reported_before = 0
        self._suspicious = False

    def sent(self, packet: Packet[VideoStream]) -> None:
        """A packet goes into the decoder."""
        if packet.pts is not None and not packet.is_discard and len(self._pending) < _MAX_PENDING:
            self._pending.add(packet.pts)

    def failed(self) -> bool:
        """The decoder raised an error. Whether it is to be reported, that is, was not before."""
        self._suspicious = True
        if self._reported_before:
            self._reported_before -= 1
            return False
        self._reported += 1
        return True

    def came_out(self, pts: int, *, key_frame: bool) -> int:
        """A frame came out. How many are now known to be missing before it that no error was reported for."""
        self.last_out = pts if self.last_out is None else max(pts, self.last_out)
        self._pending.discard(pts)
        before = {p for p in self._pending if p < pts}
        self._suspicious |= self.strict and bool(before)
        if self._suspicious and not key_frame:
            return 0
        self._pending -= before
        if not self._suspicious:
            return 0
        unreported = max(0, len(before) - self._reported)
        self._reported = max(0, self._reported - len(before))
        self._suspicious = self._reported > 0
        return unreported

    def missing(self) -> int:
        """How many are missing at the end that no error was reported for."""
        return max(0, len(self._pending) - self._reported) if self.strict or self._suspicious else 0

    def begin_again(self) -> None:
        """What came behind the latest frame is sent once more; errors reported for it will not be again."""
        if self.last_out is not None:
            self._pending = {p for p in self._pending if p <= self.last_out}
        self._reported_before = self._reported
        self._suspicious = True
