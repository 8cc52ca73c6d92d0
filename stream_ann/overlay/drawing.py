"""The annotated picture: label, confidence, most probable classes, the ladder of exits, and the run's figures.

Everything lies on one pane of frosted glass at the lower edge and is measured in *em*, the size of the body text, which
grows with the picture. Where the picture is too small for all of it, what matters least is left out first, so that most
of the picture stays visible.

Colours are those of Okabe and Ito ("Color Universal Design", 2008), and none of them says anything alone: an exit that
was reached is filled, one that was not is hollow, and the one that the answer comes from is taller, under an arrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from stream_ann.errors import UsageError
from stream_ann.frames import FrameResult
from stream_ann.overlay.banner import GLASS, GLASS_OPACITY, LEAST_TEXT_PX, WARNING, WHITE, draw_badge, em_px
from stream_ann.painting import (
    Colour,
    blend,
    frost,
    line_height_px,
    pill,
    ring,
    shorten_to,
    text_mask,
    text_width_px,
    triangle,
)
from stream_ann.stats import StatsSnapshot
from stream_ann.text import clean, format_count, format_ms

__all__ = ["Overlay"]

SECONDARY: Colour = (203, 209, 218)
HOLLOW: Colour = (176, 183, 194)
BLUE: Colour = (0, 114, 178)
SKY: Colour = (86, 180, 233)
ORANGE: Colour = (230, 159, 0)


@dataclass(frozen=True, slots=True)
class _Show:
    """What of the overlay is shown."""

    bars: int
    names: bool = True
    times: bool = True
    tiles: bool = True
    ladder: bool = True


@dataclass(frozen=True, slots=True)
class _Box:
    """A rectangle of the picture, in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where everything goes on pictures of one size. All sizes in pixels."""

    em: int
    small: int
    large: int
    pane: _Box
    radius: int
    header: _Box
    bars: tuple[_Box, ...]
    ladder: _Box | None
    tiles: _Box | None
    show: _Show


class Overlay:
    """Draws results onto their frames.

    Args:
        exit_names: Name of each exit of the plan, in order.
        top_k: How many of the most probable classes to show, at most; 0 for none.

    Raises:
        UsageError: If there is no exit, or ``top_k`` is negative.
    """

    def __init__(self, exit_names: Sequence[str], *, top_k: int = 3) -> None:
        if not exit_names:
            raise UsageError("an overlay needs the name of at least one exit, got none")
        if top_k < 0:
            raise UsageError(f"top_k must be 0 or more, got {top_k}")
        self._exit_names = tuple(clean(name) for name in exit_names)
        self._top_k = top_k

    def draw(self, result: FrameResult, stats: StatsSnapshot | None = None) -> NDArray[np.uint8]:
        """The frame of ``result`` with the overlay on it, uint8 [H, W, 3] RGB: a new array of the frame's size.

        Args:
            result: What to show. Its frame is left untouched.
            stats: The run's figures so far; without them no frame counters are shown.
        """
        picture = result.frame.image.copy()
        self.paint(picture, result, stats)
        if result.frame.suspect:
            draw_badge(picture, "suspect picture", WARNING)
        return picture

    def paint(self, picture: NDArray[np.uint8], result: FrameResult, stats: StatsSnapshot | None = None) -> None:
        """Put the overlay alone onto a picture, uint8 [H, W, 3] RGB, in place.

        Where nobody waited for the answer (its times are NaN), no times are shown.
        """
        height, width = picture.shape[:2]
        timed = not math.isnan(result.final_ms)
        tiles = _tiles(result, stats) if timed else []
        bars = min(self._top_k, len(result.top))
        layout = _layout(width, height, bars, self._exit_names, len(tiles), timed)
        if layout is None:
            return
        pane = layout.pane
        frost(picture, pane.left, pane.top, pane.width, pane.height, layout.radius, GLASS, GLASS_OPACITY)
        self._header(picture, layout, result)
        for box, (name, probability) in zip(layout.bars, result.top, strict=False):
            _bar(picture, box, layout.small, clean(name), probability)
        if layout.ladder is not None:
            self._ladder(picture, layout, layout.ladder, result)
        if layout.tiles is not None:
            _draw_tiles(picture, layout.tiles, layout.small, tiles)

    def _header(self, picture: NDArray[np.uint8], layout: _Layout, result: FrameResult) -> None:
        box = layout.header
        percent = _percent(result.confidence)
        gap = layout.em
        room = box.width - text_width_px(percent, layout.large) - gap
        if room < 4 * layout.em:  # too narrow for both: the label matters more
            percent, room = "", box.width
        label, size = clean(result.label), layout.large
        while size > layout.em * 1.2 and text_width_px(label, size) > room:
            size -= 1
        lift = (line_height_px(layout.large) - line_height_px(size)) // 2
        _write(picture, box.left, box.top + lift, shorten_to(label, size, room), size, WHITE)
        if percent:
            right = box.left + box.width
            _write(picture, right, box.top, percent, layout.large, ORANGE, align=1.0)

    def _ladder(self, picture: NDArray[np.uint8], layout: _Layout, box: _Box, result: FrameResult) -> None:
        exits, small, em = len(self._exit_names), layout.small, layout.em
        box = replace(box, width=min(box.width, 12 * em * exits))
        reached = {answer.exit: answer.done_ms for answer in result.exits}
        edges = [box.left + round(i * (box.width + _gap(em)) / exits) for i in range(exits + 1)]
        spans = [(a, max(1, b - _gap(em) - a)) for a, b in pairwise(edges)]
        if box.width < 3 * exits:  # no room for gaps
            edges = [box.left + round(i * box.width / exits) for i in range(exits + 1)]
            spans = [(a, max(1, b - a)) for a, b in pairwise(edges)]
        top = box.top
        if layout.show.names:
            for (left, wide), name in zip(spans, self._exit_names, strict=True):
                text = shorten_to(name, small, wide)
                _write(picture, left + wide // 2, top, text, small, SECONDARY, align=0.5)
            top += line_height_px(small)
        arrow, rung = _arrow_px(em), _rung_px(em)
        raised = arrow // 2
        top += arrow + raised + _air(arrow)
        for i, (left, wide) in enumerate(spans):
            if i == result.exit:
                head = triangle(2 * arrow, arrow)
                blend(picture, left + wide // 2 - arrow, top - raised - _air(arrow) - arrow, head, ORANGE)
                tall = rung + 2 * raised
                blend(picture, left, top - raised, pill(wide, tall, min(wide, tall) * 0.25), ORANGE)
            elif i in reached:
                blend(picture, left, top, pill(wide, rung, min(wide, rung) * 0.25), SKY)
            else:
                shape = ring(wide, rung, min(wide, rung) * 0.25, max(1.0, em / 11))
                blend(picture, left, top, shape, HOLLOW, 0.75)
        if layout.show.times:
            self._times(picture, top + rung + raised, spans, reached, result.exit, small, box)

    def _times(
        self,
        picture: NDArray[np.uint8],
        top: int,
        spans: Sequence[tuple[int, int]],
        reached: dict[int, float],
        answer: int,
        size: int,
        box: _Box,
    ) -> None:
        """Write each exit's time under its rung: the answer's first, and then as many as find room."""
        unit = " ms" if all(wide >= text_width_px("00.0 ms", size) for _, wide in spans) else ""
        taken: list[tuple[int, int]] = []
        ends = [i for i in (answer, max(reached), min(reached)) if i in reached]
        for i in dict.fromkeys([*ends, *sorted(reached)]):
            if i >= len(spans):
                continue
            text = format_ms(reached[i]) + unit
            wide = text_width_px(text, size)
            left = spans[i][0] + spans[i][1] // 2 - wide // 2
            left = max(box.left, min(left, box.left + box.width - wide))
            if any(left < b + size // 3 and left + wide > a - size // 3 for a, b in taken):
                continue
            taken.append((left, left + wide))
            _write(picture, left, top, text, size, WHITE if i == answer else SECONDARY)


def _tiles(result: FrameResult, stats: StatsSnapshot | None) -> list[tuple[str, str]]:
    """The figures as (name, value)."""
    tiles = [("first ms", format_ms(result.first_ms)), ("final ms", format_ms(result.final_ms))]
    if result.budget_ms is not None:
        tiles.append(("budget ms", format_ms(result.budget_ms)))
    if result.carried > 0:  # some of it is always the frame's own
        tiles.append(("carried", f"{min(99, max(1, round(100 * result.carried)))} %"))
    if result.key_frame is not None:
        tiles.append(("deepest", f"{format_count(result.frame.index - result.key_frame)} back"))
    if stats is not None:
        counts = stats.counts
        tiles += [
            ("in", format_count(counts.frames_in)),
            ("answered", format_count(counts.results)),
            ("replaced", format_count(counts.replaced)),
            ("corrupt", format_count(counts.corrupt)),
        ]
    return tiles


def _draw_tiles(picture: NDArray[np.uint8], box: _Box, size: int, tiles: Sequence[tuple[str, str]]) -> None:
    """Each figure under its name, spread over the box, at equal distances from each other."""
    widths = [max(text_width_px(name, size), text_width_px(value, size)) for name, value in tiles]
    gap = (box.width - sum(widths)) / max(1, len(tiles) - 1)
    while gap < size * 0.4 and len(tiles) > 1:
        tiles, widths = tiles[:-1], widths[:-1]
        gap = (box.width - sum(widths)) / max(1, len(tiles) - 1)
    gap = min(gap, size * 3.0)
    left = float(box.left)
    for (name, value), wide in zip(tiles, widths, strict=True):
        _write(picture, round(left), box.top, shorten_to(name, size, box.width), size, SECONDARY)
        _write(picture, round(left), box.top + line_height_px(size), value, size, WHITE)
        left += wide + gap


def _bar(picture: NDArray[np.uint8], box: _Box, size: int, name: str, probability: float) -> None:
    """One class: its name on a bar as long as it is probable, and the probability at the right."""
    percent = _percent(probability)
    number = text_width_px("100 %", size)
    inset = max(2, size // 3)
    track = max(1, box.width - number - inset)
    shape = pill(track, box.height, box.height * 0.25)
    blend(picture, box.left, box.top, shape, HOLLOW, 0.16)
    share = min(max(probability, 0.0), 1.0) if probability == probability else 0.0
    blend(picture, box.left, box.top, shape[:, : round(track * share)], BLUE)
    top = box.top + (box.height - line_height_px(size) + 1) // 2
    _write(picture, box.left + inset, top, shorten_to(name, size, track - 2 * inset), size, WHITE)
    _write(picture, box.left + box.width, top, percent, size, SECONDARY, align=1.0)


def _write(
    picture: NDArray[np.uint8], x: int, top: int, text: str, size: int, colour: Colour, *, align: float = 0.0
) -> None:
    """Write ``text``; ``align`` says which of its points is at ``x``: 0 its left end, 0.5 its middle, 1 its right."""
    if text:
        mask = text_mask(text, size)
        blend(picture, x - round(align * mask.shape[1]), top, mask, colour)


def _percent(probability: float) -> str:
    """A probability as a whole per cent; never 100 % where there is doubt."""
    if not 0.0 <= probability <= 1.0:
        return "- %"
    if 0.995 <= probability < 1.0:
        return "99 %"
    return f"{probability * 100:.0f} %"


def _gap(em: int) -> int:
    return max(1, em // 4)


def _rung_px(em: int) -> int:
    return max(3, round(em * 0.9))


def _air(arrow: int) -> int:
    """Between the arrow and the rung that it points at."""
    return max(1, arrow // 4)


def _arrow_px(em: int) -> int:
    return max(3, round(em * 0.42))


@lru_cache(maxsize=64)
def _layout(width: int, height: int, bars: int, names: tuple[str, ...], tiles: int, times: bool) -> _Layout | None:
    """The fullest layout that leaves most of the picture free; None where not even the label has room."""
    em = em_px(width, height)
    full = _Show(bars, times=times, tiles=tiles > 0)
    ladders = [replace(full, bars=0), replace(full, bars=0, names=False)]
    attempts = [full, replace(full, names=False), *(replace(full, bars=b) for b in range(bars - 1, 0, -1)), *ladders]
    plainest = replace(full, bars=0, names=False, tiles=False)
    attempts += [plainest, replace(plainest, times=False), replace(plainest, times=False, ladder=False)]
    # Small pictures cannot have smaller letters, so they may lose a little more of themselves.
    most = height * (0.34 + 0.14 * min(1.0, max(0.0, (360 - height) / 270)) if width >= height else 0.3)
    for show in attempts:
        layout = _arrange(width, height, em, show, names, tiles)
        if layout.pane.height <= most and layout.header.width >= 2 * em:
            return layout
    if layout.header.width >= 2 * em and layout.pane.top >= 0:
        return layout
    return None


def _arrange(width: int, height: int, em: int, show: _Show, names: tuple[str, ...], tile_count: int) -> _Layout:
    small, large = max(LEAST_TEXT_PX, round(em * 0.84)), max(LEAST_TEXT_PX + 1, round(em * 1.9))
    margin, pad, space = round(em * 0.8), round(em * 0.9), round(em * 0.5)
    if min(width, height * 4 // 3) < 22 * em:
        large = max(LEAST_TEXT_PX, round(em * 1.2))
        margin, pad, space = 2, 4, 2
    if height < 5 * em:
        large, margin, pad = LEAST_TEXT_PX, 1, 2
    inner = width - 2 * margin - 2 * pad
    line = line_height_px(small)
    bar = line + max(1, em // 8)
    bar_step = bar + max(1, em // 5)
    arrow = _arrow_px(em)
    header_height = line_height_px(large)
    bars_height = show.bars * bar_step - (bar_step - bar) if show.bars else 0
    # Two columns where there is room: the answer on the left, how it came about on the right.
    columns = show.ladder and width > height * 1.1 and inner >= 28 * em * (1.0 if show.bars else 0.9)
    left_width = round(inner * 0.43) if columns else inner
    gutter = round(em * 1.6)
    right_width = inner - left_width - gutter if columns else inner
    cell = min(right_width / len(names), 12 * em) - _gap(em)
    names_fit = cell >= 6 * small or all(text_width_px(name, small) <= cell for name in names)
    show = replace(show, names=show.names and names_fit)
    tile_height = 2 * line if show.tiles and tile_count else 0
    ladder_height = 0
    if show.ladder:
        ladder_height = arrow + _air(arrow) + 2 * (arrow // 2) + _rung_px(em) + line * (show.names + show.times)
    left_height = header_height + (space + bars_height if show.bars else 0)
    tiles_inside = columns and right_width >= tile_count * 4.6 * small
    if columns:
        right_height = ladder_height + (space + tile_height if tiles_inside and tile_height else 0)
        body = max(left_height, right_height)
        total = body + (space + tile_height if tile_height and not tiles_inside else 0)
    else:
        body = left_height + (space + ladder_height if ladder_height else 0)
        total = body + (space + tile_height if tile_height else 0)
    pane = _Box(margin, height - margin - total - 2 * pad, width - 2 * margin, total + 2 * pad)
    left, top = pane.left + pad, pane.top + pad
    header = _Box(left, top, left_width, header_height)
    first_bar = top + header_height + space
    if columns:  # end both columns on one line
        first_bar = top + body - bars_height if show.bars else first_bar
        ladder = _Box(left + left_width + gutter, top, right_width, ladder_height)
        tile_left, tile_width = (ladder.left, right_width) if tiles_inside else (left, inner)
    else:
        ladder = _Box(left, top + left_height + space, inner, ladder_height)
        tile_left, tile_width = left, inner
    tiles = _Box(tile_left, top + total - tile_height, tile_width, tile_height)
    return _Layout(
        em=em,
        small=small,
        large=large,
        pane=pane,
        radius=min(round(em * 0.8), pane.height // 3),
        header=header,
        bars=tuple(_Box(left, first_bar + i * bar_step, left_width, bar) for i in range(show.bars)),
        ladder=ladder if show.ladder else None,
        tiles=tiles if tile_height else None,
        show=show,
    )
