"""Small inputs that claim to be immense: refused for a fraction of the memory that they ask for."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import corpus
from tests.fuzz.campaign import reproduce
from tests.fuzz.targets import TARGETS


def png(width_px: int, height_px: int) -> bytes:
    """A PNG of one colour that claims a size, as small as its data may be."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1 << 20), 9)) + chunk(b"IEND", b"")


def gif(_: Path) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6) + b"," + struct.pack(
        "<HHHHB", 0, 0, 65535, 65535, 0
    ) + b"\x02\x02\x4c\x01\x00;"  # fmt: skip


def bmp(_: Path) -> bytes:
    return (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 1000, 0, 0, 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(946)
    )


def avi(folder: Path) -> bytes:
    """A real clip whose stream format says 60,000 x 60,000."""
    data = bytearray(corpus.videos(folder)["huffyuv.avi"])
    at = data.index(b"strf") + 8
    data[at + 4 : at + 12] = struct.pack("<ii", 60000, 60000)
    return bytes(data)


def tensors(header: object) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(64)


BOMBS: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "a PNG of 60,000 x 60,000": ("image", lambda _: png(60_000, 60_000)),
    "a PNG of 2 billion x 1": ("image", lambda _: png(2**31 - 1, 1)),
    "the same as a video": ("container", lambda _: png(30_000, 30_000)),
    "a GIF of 65,535 x 65,535": ("image", gif),
    "that as a video": ("container", gif),
    "that as label reads it": ("labelled-video", gif),
    "a BMP of 60,000 x 60,000": ("image", bmp),
    "an AVI of 60,000 x 60,000": ("container", avi),
    "a header of 10^15 bytes": ("weights", lambda _: struct.pack("<Q", 10**15) + bytes(64)),
    "a tensor of 10^15 bytes": (
        "weights",
        lambda _: tensors({"a": {"dtype": "U8", "shape": [10**15], "data_offsets": [0, 10**15]}}),
    ),
    "a checkpoint of 10^15 bytes": ("checkpoint", lambda _: struct.pack("<Q", 10**15) + bytes(64)),
    "a card nested 100,000 deep": ("card", lambda _: b'{"a":' * 100_000),
    "a report nested 100,000 deep": ("report", lambda _: b"[" * 100_000),
    "an event nested 100,000 deep": ("trace", lambda _: b"[" * 100_000 + b"\n1\n"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_it_is_refused_for_little_memory(name, pool, tmp_path):
    target, make = BOMBS[name]
    tally = reproduce(TARGETS[target], make(tmp_path), pool)
    assert not tally.faults, [fault.detail for fault in tally.faults.values()]
    assert not tally.taken, "it was taken"
