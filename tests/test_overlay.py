"""The overlay's promises: nothing fails, all is legible, the picture stays visible, nothing is said by colour alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from stream_ann.errors import UsageError
from stream_ann.overlay import Overlay
from stream_ann.overlay import drawing as overlay_module
from stream_ann.overlay.drawing import ORANGE, SKY
from stream_ann.painting import blend, pill, shorten_to, text_mask, text_width_px
from tests.sink_tools import make_result, make_stats, picture

Picture = NDArray[np.uint8]

ASTRONAUT: Picture = data.astronaut()  # type: ignore[no-untyped-call]
SIZES = [(48, 36), (64, 48), (36, 64), (160, 120), (320, 240), (640, 360), (480, 854), (1000, 100), (1920, 1080)]


def names(count: int) -> list[str]:
    return [f"lite{i}@{96 + 32 * i}" for i in range(count)]


def flat(size: tuple[int, int], level: int) -> Picture:
    return np.full((size[1], size[0], 3), level, np.uint8)


def changed(before: Picture, after: Picture) -> NDArray[np.bool_]:
    return np.asarray((before != after).any(axis=2))


def parts(drawn: Picture, colour: tuple[int, int, int], *, least_px: int = 12) -> list[tuple[int, int, int, int]]:
    """Connected areas of exactly one colour as (left, top, width, height), from left to right."""
    mask = (drawn == np.array(colour, np.uint8)).all(axis=2).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    return sorted((int(x), int(y), int(w), int(h)) for x, y, w, h, area in stats[1:] if area >= least_px)


def test_the_frame_is_left_untouched_and_the_picture_is_new():
    image = picture(640, 360)
    image.setflags(write=False)
    before = image.copy()
    drawn = Overlay(names(4)).draw(make_result(image), make_stats())
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert not np.shares_memory(drawn, image)
    assert (image == before).all()
    drawn[:] = 0  # the caller may paint on


def test_what_earlier_frames_have_said_is_told(monkeypatch):
    written: list[str] = []
    write = overlay_module._write
    monkeypatch.setattr(overlay_module, "_write", lambda *args, **more: written.append(args[3]) or write(*args, **more))
    plain = make_result(picture(1280, 720))
    Overlay(names(4)).draw(plain, make_stats())
    assert "carried" not in written
    frame = replace(plain.frame, index=20)
    for share, told in ((0.634, "63 %"), (0.999, "99 %"), (0.001, "1 %")):
        written.clear()
        Overlay(names(4)).draw(replace(plain, frame=frame, carried=share, key_frame=8), make_stats())
        assert {"carried", told, "deepest", "12 back"} <= set(written)


@pytest.mark.parametrize("size", [*SIZES, (3840, 2160), (1, 1), (7, 500), (500, 7)], ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("exits", [1, 4, 30])
def test_every_size_and_length_of_plan_works(size, exits):
    image = flat(size, 200)
    for stats in (None, make_stats()):
        drawn = Overlay(names(exits)).draw(make_result(image, reached=exits), stats)
        assert drawn.shape == image.shape
        assert changed(image, drawn).mean() <= 0.5


def test_no_height_is_too_small():
    # what a damaged stream claims its size to be is drawn on like any other
    overlay = Overlay(names(4))
    for height in range(1, 100):
        for width in (24, 33, 640):
            assert overlay.draw(make_result(flat((width, height), 200))).shape == (height, width, 3)


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_something_is_shown_at_every_usual_size_and_only_at_the_bottom(size):
    image = flat(size, 200)
    rows = np.asarray(changed(image, Overlay(names(4)).draw(make_result(image), make_stats())).any(axis=1))
    assert rows.any()
    assert not rows[: int(len(rows) * 0.5)].any()


def test_the_usual_sizes_keep_most_of_the_picture():
    for width, height in [(640, 360), (1280, 720), (1920, 1080), (480, 854)]:
        image = flat((width, height), 200)
        drawn = Overlay(names(6)).draw(make_result(image), make_stats())
        assert changed(image, drawn).mean() < 0.31


def luminance(colour: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Relative luminance of sRGB values 0 to 255 (WCAG 2.2)."""
    c = np.asarray(colour, np.float64) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return np.asarray(linear @ np.array([0.2126, 0.7152, 0.0722]))


BACKGROUNDS: dict[str, Callable[[int, int], Picture]] = {
    "white": lambda w, h: flat((w, h), 255),
    "black": lambda w, h: flat((w, h), 0),
    "noise": picture,
    "yellow": lambda w, h: np.full((h, w, 3), (255, 255, 0), np.uint8),
    "photo": lambda w, h: np.asarray(cv2.resize(ASTRONAUT, (w, h)), np.uint8),
}


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("size", [(64, 48), (320, 240), (640, 360), (480, 854), (1920, 1080)], ids=str)
def test_all_text_has_contrast(background, size, monkeypatch):
    """Every letter against what it is written on: at least 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    text_ids: set[int] = set()
    kept: list[Picture] = []
    ratios: list[float] = []

    def noted_text_mask(text, size_px):
        mask = text_mask(text, size_px)
        kept.append(mask)
        text_ids.add(id(mask))
        return mask

    def noted_blend(target, left, top, mask, colour, opacity=1.0):
        if id(mask) in text_ids:
            behind = target[max(0, top) : top + mask.shape[0], max(0, left) : left + mask.shape[1]]
            letters = mask[: behind.shape[0], : behind.shape[1]] > 128
            ink, ground = float(luminance(np.array(colour, np.uint8))), luminance(behind[letters])
            ratios.extend(((max(ink, g) + 0.05) / (min(ink, g) + 0.05)) for g in np.unique(ground))
        blend(target, left, top, mask, colour, opacity)

    monkeypatch.setattr(overlay_module, "text_mask", noted_text_mask)
    monkeypatch.setattr(overlay_module, "blend", noted_blend)
    image = BACKGROUNDS[background](*size)
    Overlay(names(4)).draw(make_result(image, reached=3), make_stats())
    assert len(text_ids) >= (1 if size[0] < 100 else 8)
    assert min(ratios) >= 4.5


@pytest.mark.parametrize(("exits", "reached"), [(1, 1), (4, 3), (6, 6), (30, 17), (30, 30)])
@pytest.mark.parametrize("size", [(640, 360), (1280, 720), (480, 854)], ids=str)
def test_there_is_a_filled_rung_for_each_exit_reached(exits, reached, size):
    drawn = Overlay(names(exits)).draw(make_result(flat(size, 90), reached=reached), make_stats())
    assert len(parts(drawn, SKY)) == reached - 1  # the one that the answer comes from looks different


def test_rungs_not_reached_are_hollow():
    image = flat((640, 360), 90)
    some, every = (Overlay(names(4)).draw(make_result(image, reached=n, answer=0), make_stats()) for n in (2, 4))
    left, top, width, height = parts(every, SKY)[-1]
    middle = slice(top + height // 3, top + 2 * height // 3), slice(left + 4, left + width - 4)
    glass = some[top + height // 2, left + width + 3]  # right of the ladder
    assert np.abs(some[middle].astype(int) - glass).max() < 25
    edge = some[top - 1 : top + 2, left + width // 2].astype(int)
    assert (edge - glass).max() > 60


@pytest.mark.parametrize("answer", [0, 1, 2])
def test_the_answers_exit_is_taller_and_under_an_arrow(answer):
    drawn = Overlay(names(4)).draw(make_result(flat((1280, 720), 90), reached=3, answer=answer), make_stats())
    others = parts(drawn, SKY)
    orange = [p for p in parts(drawn, ORANGE, least_px=20) if p[0] > 560]  # right of the confidence
    rung = max(orange, key=lambda p: p[2])
    assert rung[3] > max(p[3] for p in others)
    assert sum(p[0] < rung[0] for p in others) == answer
    arrow = next(p for p in orange if p is not rung)
    assert arrow[1] + arrow[3] <= rung[1]
    assert abs(arrow[0] + arrow[2] / 2 - (rung[0] + rung[2] / 2)) <= 2


def test_each_figure_reaches_the_picture():
    image = flat((640, 360), 120)
    overlay = Overlay(names(4))
    plain = overlay.draw(make_result(image), make_stats())
    for other in (
        make_result(image, label="tabby"),
        make_result(image, confidence=0.5, top=make_result().top),
        make_result(image, top=[("Egyptian cat", 0.4), ("tabby", 0.08), ("lynx", 0.01)]),
        make_result(image, budget_ms=40.0),
        make_result(image, budget_ms=None),
        make_result(image, reached=3, answer=1),
        make_result(image, answer=0),
    ):
        assert changed(plain, overlay.draw(other, make_stats())).any()
    assert changed(plain, overlay.draw(make_result(image), None)).any()


def test_top_k_limits_the_bars():
    image = flat((640, 360), 120)
    heights = [
        int(changed(image, Overlay(names(4), top_k=k).draw(make_result(image))).any(axis=1).sum()) for k in (1, 3)
    ]
    assert heights[0] < heights[1]
    drawn = Overlay(names(4), top_k=0).draw(make_result(image))
    assert not parts(drawn, overlay_module.BLUE)


@pytest.mark.parametrize(
    "label",
    [
        "",
        "x" * 10_000,
        "日本語の犬",
        "собака",
        "كلب",
        "😀 👩‍👩‍👧",
        "broken \udc80",
        "\x1b[31mred\x1b[0m\n",
        "Łódź naïve",
        "\u0301",
    ],
)
def test_labels_of_any_kind_can_be_shown(label):
    for size in ((64, 48), (640, 360)):
        image = flat(size, 120)
        drawn = Overlay([label or "-", "b"]).draw(make_result(image, label=label), make_stats())
        assert changed(image, drawn).any()


def test_control_characters_are_not_shown():
    image = flat((640, 360), 120)
    clean, dirty = (
        Overlay(names(2)).draw(make_result(image, label=label)) for label in ("red cat", "\x1b[31mred\x07\n cat")
    )
    assert (clean == dirty).all()


def test_numbers_that_are_none_do_not_fail():
    nan = float("nan")
    image = flat((640, 360), 120)
    Overlay(names(2)).draw(make_result(image, confidence=nan, budget_ms=nan, top=[("a", nan), ("b", 2.0), ("c", -1.0)]))


def test_long_labels_end_in_an_ellipsis_within_their_room():
    text = "German short-haired pointer"
    for room in range(0, 260, 13):
        short = shorten_to(text, 20, room)
        assert short == "" or text_width_px(short, 20) <= room
        assert short in (text, "") or short.endswith("…")


def test_accents_survive_or_fall_but_letters_stay():
    assert (text_mask("Löwe", 40) > 128).sum() > 0.8 * (text_mask("Lowe", 40) > 128).sum()


def test_blend_clips_and_mixes_exactly():
    canvas = flat((8, 8), 100)
    blend(canvas, -3, -3, pill(6, 6, 0), (200, 0, 255))
    assert (canvas[:3, :3] == (200, 0, 255)).all()
    assert (canvas[3:, :] == 100).all()
    blend(canvas, 20, 20, pill(6, 6, 0), (1, 2, 3))
    half = np.full((1, 1), 128, np.uint8)
    blend(canvas, 7, 7, half, (0, 200, 100))
    assert np.abs(canvas[7, 7].astype(int) - (50, 150, 100)).max() <= 1


def test_wrong_options_are_named():
    with pytest.raises(UsageError, match="at least one exit"):
        Overlay([])
    with pytest.raises(UsageError, match="top_k must be 0 or more, got -1"):
        Overlay(["a"], top_k=-1)
