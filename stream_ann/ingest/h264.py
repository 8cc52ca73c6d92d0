"""Telling from H.264's frame numbers that a whole frame was lost, which its decoder passes over in silence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["FrameGaps"]

_SLICE, _IDR_SLICE, _SPS = 1, 5, 7
_HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 144, 244})
_HEAD_BYTES = 64
"""More than what is read of a NAL unit, which may be megabytes long."""


@dataclass(frozen=True, slots=True)
class _Sequence:
    """What matters of a sequence parameter set (ITU-T H.264, 7.3.2.1)."""

    frame_number_bits: int
    separate_planes: bool
    gaps_allowed: bool


class FrameGaps:
    """Follows the numbers that frames carry: each is its predecessor's plus one, or the same behind one that no other
    frame builds on (ITU-T H.264, 7.4.3). Another number means that a frame that others build on is missing.

    Args:
        extradata: The stream's parameter sets, where they came beside it; each key frame may bring others.
    """

    def __init__(self, extradata: bytes | None) -> None:
        self._sequence: _Sequence | None = None
        self._last: int | None = None
        for nal in _nal_units(extradata or b""):
            self._read_sequence(nal)

    def lost(self, packet: bytes | memoryview) -> bool:
        """Whether a frame is missing before this one.

        Args:
            packet: One coded frame, with start codes. Anything else is let pass.
        """
        try:
            return self._lost(bytes(packet))
        except (IndexError, ValueError):  # cut short: the decoder will complain of that itself
            return False

    def _lost(self, packet: bytes) -> bool:
        for nal in _nal_units(packet):
            self._read_sequence(nal)
            kind = nal[0] & 0x1F
            if kind not in (_SLICE, _IDR_SLICE):
                continue
            sequence = self._sequence
            if sequence is None or sequence.gaps_allowed:
                return False
            bits = _Bits(nal)
            for _ in range(3):  # first macroblock, slice type, parameter set
                bits.unsigned()
            if sequence.separate_planes:
                bits.take(2)
            number = bits.take(sequence.frame_number_bits)
            last, builds_on = self._last, nal[0] & 0x60 != 0
            if builds_on:
                self._last = number
            if kind == _IDR_SLICE or last is None:
                return False
            return number not in (last, (last + 1) % (1 << sequence.frame_number_bits))
        return False

    def _read_sequence(self, nal: bytes) -> None:
        if nal and nal[0] & 0x1F == _SPS:
            self._sequence = _sequence_from(nal)


def _sequence_from(nal: bytes) -> _Sequence | None:
    bits = _Bits(nal)
    profile = bits.take(8)
    bits.take(16)
    bits.unsigned()
    separate_planes = False
    if profile in _HIGH_PROFILES:
        chroma_format = bits.unsigned()
        if chroma_format == 3:
            separate_planes = bool(bits.take(1))
        bits.unsigned()
        bits.unsigned()
        bits.take(1)
        if bits.take(1):
            return None  # scaling matrices: no camera sends any, and they are long to read past
    frame_number_bits = bits.unsigned() + 4
    order_type = bits.unsigned()
    if order_type == 0:
        bits.unsigned()
    elif order_type == 1:
        bits.take(1)
        bits.unsigned()
        bits.unsigned()
        for _ in range(bits.unsigned()):
            bits.unsigned()
    bits.unsigned()
    return _Sequence(frame_number_bits, separate_planes, gaps_allowed=bool(bits.take(1)))


def _nal_units(data: bytes) -> Iterator[bytes]:
    """The first bytes of each NAL unit that follows a start code, without the bytes that keep start codes unique."""
    for unit in data.split(b"\0\0\1")[1:]:
        head = unit[:_HEAD_BYTES].replace(b"\0\0\3", b"\0\0")
        if head:
            yield head


class _Bits:
    """Reads a NAL unit's bits behind its first byte."""

    def __init__(self, nal: bytes) -> None:
        self._value = int.from_bytes(nal[1:], "big")
        self._left = 8 * (len(nal) - 1)

    def take(self, count: int) -> int:
        """The next so many bits as a number.

        Raises:
            IndexError: If there are not so many.
        """
        self._left -= count
        if self._left < 0:
            raise IndexError("the NAL unit is too short")
        return self._value >> self._left & ((1 << count) - 1)

    def unsigned(self) -> int:
        """The next number in Exp-Golomb code, ``ue(v)``."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)
