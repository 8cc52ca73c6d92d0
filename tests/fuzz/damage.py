"""Damage as hypothesis strategies: to bytes, to JSON, to lines of text."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hypothesis import strategies as st

__all__ = ["any_text", "damaged_bytes", "damaged_json", "damaged_lines", "damaged_pieces", "joined", "split"]

_INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
                10**15, 2**62, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
_KINDS = ("bit", "byte", "number", "delete", "repeat", "insert", "cut", "zero", "splice", "noise")
_MOST_CHANGES = 6
_MOST_BYTES = 1 << 20
"""Damage does not let a file grow beyond this."""


@st.composite
def damaged_bytes(draw: st.DrawFn, originals: Sequence[bytes], *, most: int = _MOST_CHANGES) -> bytes:
    """One of the originals with a few changes, more of them near its beginning, where the headers are."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, most))):
        _change(draw, data, originals)
        del data[_MOST_BYTES:]
    return bytes(data)


def _change(draw: st.DrawFn, data: bytearray, originals: Sequence[bytes]) -> None:
    kind = draw(st.sampled_from(_KINDS))
    reach = min(len(data), 1 << draw(st.integers(5, 24)))
    at = draw(st.integers(0, max(0, reach - 1)))
    size = min(1 << draw(st.integers(0, 10)), max(0, len(data) - at))
    match kind:
        case "bit" if data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        case "byte" if data:
            data[at] = draw(st.integers(0, 255))
        case "number":
            width = draw(st.sampled_from((1, 2, 4, 8)))
            value = draw(st.sampled_from(_INTERESTING)) % (1 << 8 * width)
            data[at : at + width] = value.to_bytes(width, draw(st.sampled_from(("big", "little"))))
        case "delete":
            del data[at : at + size]
        case "repeat":
            data[at:at] = data[at : at + size] * draw(st.sampled_from((1, 2, 50)))
        case "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        case "cut":
            del data[at:]
        case "zero":
            data[at : at + size] = bytes(size)
        case "splice":
            other = draw(st.sampled_from(originals))
            begin = draw(st.integers(0, max(0, len(other) - 1)))
            data[at : at + size] = other[begin : begin + size]
        case "noise":
            data[at : at + size] = draw(st.randoms(use_true_random=False)).randbytes(size)


_DEEP = 20_000
_ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, -1e308, 2**31, 2**63, 2**64, 10**15, 10**400, float("nan"),
    float("inf"), "", " ", "0", "a", "/etc/passwd", "../../x", "\x1b[2J", "\u202e", "\ud800", "x" * 5000, "\0", "NaN",
    [], [0], [[]], {}, {"": 0}, [None] * 200, [1] * 200, ["a", "a"],
)  # fmt: skip


@st.composite
def damaged_json(draw: st.DrawFn, originals: Sequence[Any], *, bytes_too: bool = True) -> bytes:
    """One of the originals, as JSON, with odd values, keys left out or there twice, too deep, or with damaged bytes."""
    document = json.loads(json.dumps(draw(st.sampled_from(originals))))
    holder = {"": document}
    for _ in range(draw(st.integers(1, 4))):
        _change_json(draw, holder)
    text = json.dumps(holder.get(""), ensure_ascii=draw(st.booleans()))
    how = draw(st.integers(0, 19))
    if how == 0:
        text = draw(st.sampled_from(("[" * _DEEP, '{"a":' * _DEEP, "[" * _DEEP + "]" * _DEEP, "", "null", "9" * 5000)))
    elif how == 1:
        text = text.replace("{", '{"name": 1, "name": 2, "format": 1, ', 1)
    elif how == 2:
        text = text.replace('""', "[" * _DEEP + "]" * _DEEP, 1).replace("null", "[" * _DEEP + "]" * _DEEP, 1)
    data = text.encode("utf-8", "surrogatepass")
    if bytes_too and how > 14:
        data = draw(damaged_bytes([data], most=2))
    return data


def _change_json(draw: st.DrawFn, holder: dict[str, Any]) -> None:
    """Change one value, at any depth: each level is left or gone into by chance."""
    parent: Any = holder
    key: Any = next(iter(holder), None)
    if key is None:
        return
    while isinstance(inner := parent[key], dict | list) and inner and draw(st.integers(0, 7)):
        parent = inner
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        key = draw(st.sampled_from(keys))
    match draw(st.sampled_from(("odd", "odd", "odd", "gone", "near", "twin", "any"))):
        case "odd":
            parent[key] = copy.deepcopy(draw(st.sampled_from(_ODD_VALUES)))
        case "gone" if parent is not holder:
            del parent[key]
        case "near" if isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
            with suppress(OverflowError):  # it has become too large for a float before
                parent[key] += draw(st.sampled_from((-1, 1, 0.5, 10**6)))
        case "near" if isinstance(parent[key], str):
            parent[key] += draw(any_text(max_size=4))
        case "twin" if isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        case "twin" if parent is not holder:
            parent[draw(any_text(max_size=4))] = copy.deepcopy(parent[key])
        case "any":
            parent[key] = draw(_any_json)


_any_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


def any_text(*, max_size: int = 40) -> st.SearchStrategy[str]:
    """Any text, surrogates, control and format characters among it."""
    odd = st.sampled_from("\0\t\n\r\x1b\x7f\x85\u2028\u202e\ufeff\ud800\udcff%@:/?#[]{}*~$=,;'\"\\ ")
    return st.text(st.one_of(st.characters(), odd, odd), max_size=max_size)


@st.composite
def damaged_lines(draw: st.DrawFn, originals: Sequence[bytes]) -> bytes:
    """One of the originals with lines moved, left out, there twice or changed, and with other line ends."""
    lines = draw(st.sampled_from(originals)).split(b"\n")
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(lines) - 1)) if lines else 0
        match draw(st.sampled_from(("gone", "twice", "new", "swap", "indent"))):
            case "gone" if lines:
                del lines[at]
            case "twice" if lines:
                lines.insert(at, lines[at])
            case "new":
                lines.insert(at, draw(any_text()).encode("utf-8", "surrogatepass"))
            case "swap" if lines:
                lines[at], lines[0] = lines[0], lines[at]
            case "indent" if lines:
                lines[at] = draw(st.sampled_from((b" ", b"\t", b"    "))) + lines[at]
    data = draw(st.sampled_from((b"\n", b"\n", b"\r\n", b"\0", b"\r"))).join(lines)
    return draw(damaged_bytes([data], most=2)) if draw(st.booleans()) else data


@st.composite
def damaged_pieces(draw: st.DrawFn, originals: Sequence[Sequence[bytes]]) -> bytes:
    """The messages of a dialogue, :func:`joined`: some damaged, left out, there twice, or in another order."""
    pieces = list(draw(st.sampled_from(originals)))
    every = [piece for original in originals for piece in original]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(pieces) - 1)))
        match draw(st.sampled_from(("damage", "damage", "damage", "gone", "twice", "other"))):
            case "gone" if len(pieces) > 1:
                del pieces[at]
            case "twice" if pieces:
                pieces.insert(at, pieces[at])
            case "other":
                pieces[at] = draw(st.sampled_from(every))
            case _:
                pieces[at] = draw(damaged_bytes([pieces[at]], most=4))
    return joined(pieces)


def joined(pieces: Sequence[bytes]) -> bytes:
    """Several messages as one input, to be taken apart by :func:`split`."""
    return b"".join(len(piece).to_bytes(4, "big") + piece for piece in pieces)


def split(data: bytes) -> list[bytes]:
    """The messages of an input."""
    pieces = []
    while data:
        size = int.from_bytes(data[:4], "big")
        pieces.append(data[4 : 4 + size])
        data = data[4 + size :]
    return pieces
