"""What a video file should have given and has not: libav reads a file that is cut short to where it is cut, and ends.

Only what is certain counts, since many honest files have headers that say too much: sound that is longer than the
pictures, edit lists, rates that vary, lengths that nobody filled in at the end of a recording.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from stream_ann.errors import SourceError
from stream_ann.ingest.decode_log import DecodeLog
from stream_ann.ingest.decoder import Decoder
from stream_ann.ingest.libav import opening

__all__ = ["what_is_missing"]

_MOV = "mov,mp4,m4a,3gp,3g2,mj2"
_TS = "mpegts"
_TS_PACKETS = (188, 192, 204)
"""Bytes in a packet of a transport stream: plain, with a time in front, with a checksum behind."""
_RESYNCING = frozenset({"avi", "flv", "matroska,webm", _TS})
"""Containers in which libav looks for the next packet behind what it cannot read, and tells of that in its log only."""

_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067


def what_is_missing(path: Path, decoder: Decoder, *, everything: bool, open_again: Callable[[], Decoder]) -> str | None:
    """What a file that was read to its end lacks, in a few words; None where nothing is known to be missing.

    Args:
        path: The file.
        decoder: What read it, still open and at its end.
        everything: Whether all of its packets were read, from the first one on.
        open_again: Opens the file once more, to read its packets.
    """
    kind = decoder.container.format.name
    entries = decoder.stream.index_entries
    if kind == _MOV:
        size = path.stat().st_size
        shown = [entry for entry in entries if not entry.is_discard]
        gone = sum(entry.pos + entry.size > size for entry in shown)
        if gone and decoder.stream.frames:
            return f"is cut short: {gone} of its {len(shown)} frames are not in it"
        if gone:  # in fragments, each of which knows its own frames only
            return "is cut short"
        return "is cut short or damaged: its last part cannot be read" if _breaks_off(path) else None
    if _ends_too_early(path, kind) or (decoder.seen.last_is_torn and decoder.torn_is_useless):
        return "is cut short"
    if kind == "avi" and everything:
        wanted = sum(entry.size > 0 for entry in entries)
        if decoder.seen.count < wanted:
            return f"is damaged: {wanted - decoder.seen.count} of its {wanted} frames are missing"
    # of a part that somebody else has read, nothing is known
    doubtful = decoder.seen.gap or not everything
    if kind in _RESYNCING and doubtful and (decoder.seen.torn or _complains(open_again)):
        return "is damaged: a part of it cannot be read, and the frames there are missing"
    return None


def _ends_too_early(path: Path, kind: str) -> bool:
    """Whether the outermost part of a container says that it goes on behind the end of the file."""
    size = path.stat().st_size
    if kind == _TS:
        return all(size % packet for packet in _TS_PACKETS)
    with path.open("rb") as file:
        if kind == "avi":
            return _riff_end(file, size) > size
        if kind == "matroska,webm":
            return _segment_end(file) > size
        return kind == "flv" and not _ends_in_a_tag(file, size)


def _riff_end(file: BinaryIO, size: int) -> int:
    """Where the last RIFF chunk should end; 0 where that was never filled in."""
    end = 0
    while end + 8 <= size:
        file.seek(end)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF" or length in (0, 0xFFFFFFFF):
            break
        end += 8 + length + length % 2
    # the byte that makes a length even is often left out at the very end
    return end - 1 if end == size + 1 else end


def _ends_in_a_tag(file: BinaryIO, size: int) -> bool:
    """Whether the last tag of an FLV file is whole: behind each stands how long it was."""
    file.seek(size - 4)
    length = int.from_bytes(file.read(4), "big")
    if not 11 <= length <= size - 4:
        return False
    file.seek(size - 4 - length + 1)
    return int.from_bytes(file.read(3), "big") == length - 11


def _segment_end(file: BinaryIO) -> int:
    """Where the segment of a Matroska file should end; 0 where that is not known, as in what was sent live."""
    if _number(file, keep_marker=True) != _EBML:
        return 0
    length = _number(file)
    if length is None:
        return 0
    file.seek(length, os.SEEK_CUR)
    if _number(file, keep_marker=True) != _SEGMENT:
        return 0
    length = _number(file)
    return 0 if length is None else file.tell() + length


def _number(file: BinaryIO, *, keep_marker: bool = False) -> int | None:
    """A number of EBML, the first set bit of which says how many bytes it has; None for an unknown one."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    width = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(width - 1), "big")
    if keep_marker:
        return value
    value &= (1 << 7 * width) - 1
    return None if value == (1 << 7 * width) - 1 else value


def _breaks_off(path: Path) -> bool:
    """Whether the boxes of an mp4 in fragments end in something that is none."""
    size, at, fragments = path.stat().st_size, 0, False
    with path.open("rb") as file:
        while at + 8 <= size:
            file.seek(at)
            head = file.read(16)
            length, name = int.from_bytes(head[:4], "big"), head[4:8]
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            fragments |= name == b"moof"
            if not (name.isalnum() and name.isascii()):
                return fragments
            if length == 0:  # up to the end
                return False
            if length < 8:
                return fragments
            at += length
    return fragments and at != size


def _complains(open_again: Callable[[], Decoder]) -> bool:
    """Whether libav's demuxer has something to complain about when it reads the file once more."""
    log = DecodeLog()
    log.open()
    try:
        with DecodeLog.listen() as lines:
            try:
                again = open_again()
            except SourceError:  # it was there just now
                return False
            try:
                with opening("it"):
                    for _ in again.packets:
                        pass
            except SourceError:
                return True
            finally:
                again.close()
        return any(part == again.container.format.name for _, part, _ in lines)
    finally:
        log.close()
