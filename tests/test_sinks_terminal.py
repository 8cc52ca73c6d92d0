"""The terminal view: what it shows, where it shows nothing, and that nothing in a label can steer the terminal."""

from __future__ import annotations

import io
import sys
import threading
import time
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from stream_ann.errors import UsageError
from stream_ann.frames import Counts
from stream_ann.sinks import TerminalView, summary_table
from stream_ann.states import StateChange
from stream_ann.stats import LiveStatus, StatsSnapshot
from tests.sink_tools import make_result, make_stats

NAMES = ["lite0@96", "lite1@160", "lite2@224"]
NOTHING_YET = LiveStatus(StatsSnapshot(Counts(), None, None, 0.0, (0, 0, 0)), None, "", 0.0, ())


def status(label: str = "Egyptian cat", *, reached: int = 2) -> LiveStatus:
    result = make_result(label=label, reached=reached)
    return LiveStatus(make_stats(depths=(10, 116, 0)), result, label, 0.87, result.exits)


def terminal(width: int = 100, height: int = 30, *, colour: bool = False) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    console = Console(
        file=out,
        force_terminal=True,
        width=width,
        height=height,
        color_system="truecolor" if colour else None,
        legacy_windows=False,
        _environ={"TERM": "xterm-256color"},
    )
    return console, out


def shown(state: LiveStatus | list[LiveStatus], names=NAMES, source="demo", **size) -> str:
    """The last picture of the view, without the sequences that move the cursor."""
    console, out = terminal(**size)
    view = TerminalView(source, names, lambda: state, console=console)
    console.print(view._render())
    assert view.error is None
    return out.getvalue()


@pytest.mark.parametrize(
    ("width", "note"), [(100, "63 % from earlier frames, deepest 12 back"), (60, "63 % from earlier frames"), (40, "")]
)
def test_what_of_an_answer_earlier_frames_have_said_is_told(width, note):
    plain = status()
    frame = replace(plain.result.frame, index=20)
    joined = replace(plain, frame=frame, carried=0.63, key_frame=8)
    text = shown(joined, width=width)
    assert note in text
    assert ("deepest" in text) == ("deepest" in note)
    assert "Egyptian cat" in text
    assert "earlier" not in shown(replace(plain, frame=frame), width=width)
    several = shown([replace(joined, source="a"), replace(plain, source="b")], width=100)
    assert several.count("63 % from earlier frames") == 1


def test_the_view_shows_label_ladder_latencies_and_counters():
    text = shown(status())
    for expected in (
        "demo", "Egyptian cat", "87 %", *NAMES, "50 %", "70 %", "2.5 ms", "6.5 ms", "4.2 ms p50", "5.2 ms p99",
        "28.1 ms p50", "31.9 ms p99", "29.9 results/s",
    ):  # fmt: skip
        assert expected in text
    words = text.replace("│", " ").split()
    for name, count in {"in": "130", "answered": "126", "replaced": "3", "corrupt": "1"}.items():
        assert words[words.index(name) + 1] == count


@pytest.mark.parametrize("height", [12, 30])
def test_the_cursor_waits_in_an_empty_line_where_an_echoed_ctrl_c_moves_nothing(height):
    for state in (status(), [status(), replace(status(), source="other")]):
        lines = shown(state, height=height).split("\n")
        assert lines[-2:] == ["", ""], "the view's own and that of the print"
        assert len(lines) - 1 <= height


def test_a_rung_fills_when_its_exit_is_reached_and_the_deepest_has_another_mark():
    for reached in (1, 2, 3):
        lines = [line for line in shown(status(reached=reached)).splitlines() if "lite" in line]
        assert [line[2] for line in lines] == ["●"] * (reached - 1) + ["◆"] + ["○"] * (3 - reached)
        assert ["━" in line for line in lines] == [True] * reached + [False] * (3 - reached)


def test_hedged_labels_stand_beside_their_exits_where_there_is_room():
    state = status("Egyptian cat", reached=2)
    exits = tuple(replace(e, label=label) for e, label in zip(state.exits, ("[b]animal", "cat"), strict=True))
    hedged = replace(state, exits=exits)
    first, second, third = [line for line in shown(hedged).splitlines() if "lite" in line]
    assert "[b]animal" in first
    assert " cat " in second
    assert first.index("━") == second.index("━") == third.index("─")  # the bars stay where they are
    assert "animal" not in shown(hedged, width=60)
    for width in (1, 40, 72, 80, 200):
        assert all(cell_len(line) <= width for line in shown(hedged, width=width).splitlines())


class TestSeveralSources:
    def several(self, count: int) -> list[LiveStatus]:
        return [replace(status(f"label {i}", reached=1 + i % 3), source=f"camera {i}") for i in range(count)]

    def test_each_has_a_line_with_its_label_depth_and_counters(self):
        text = shown(self.several(3), source="3 sources")
        assert "3 sources" in text
        assert "89.7 results/s" in text  # of all three
        lines = [line for line in text.splitlines() if "camera" in line]
        for i, line in enumerate(lines):
            assert line.strip("│ ").split()[:7] == [
                "camera",
                str(i),
                "label",
                str(i),
                "87",
                "%",
                "●" * i + "◆" + "○" * (2 - i),
            ]
            assert line.strip("│ ").split()[7:] == ["126", "3"]

    def test_one_that_is_away_says_so_instead_of_its_last_label(self):
        one, two = self.several(2)
        text = shown([one, replace(two, state=StateChange("camera 1", "reconnecting", 0.0))])
        assert "label 0" in text
        assert "label 1" not in text
        assert "reconnecting" in text

    def test_more_than_there_is_room_for_are_counted(self):
        lines = shown(self.several(20), height=12).splitlines()
        assert len(lines) <= 12
        assert sum("camera" in line for line in lines) == 7
        assert any("and 13 more" in line for line in lines)

    @pytest.mark.parametrize("width", [10, 20, 40, 60, 71, 72, 80, 200])
    @pytest.mark.parametrize("names", [["a"], NAMES, [f"exit {i}" for i in range(30)]], ids=len)
    def test_every_width_and_length_of_plan_works(self, width, names):
        for line in shown(self.several(3), names, width=width).splitlines():
            assert cell_len(line) <= width


def test_before_the_first_frame():
    text = shown(NOTHING_YET)
    assert "waiting for the first frame" in text
    assert text.count("○") == 3


@pytest.mark.parametrize("width", [1, 10, 20, 40, 60, 71, 72, 80, 200])
@pytest.mark.parametrize("names", [["a"], NAMES, [f"exit {i}" for i in range(30)]], ids=len)
def test_every_width_and_length_of_plan_works(width, names):
    state = replace(status("German short-haired pointer, 犬"), exits=make_result(reached=len(names)).exits)
    for line in shown(state, names, width=width).splitlines():
        assert cell_len(line) <= width


def test_forty_columns_still_say_all_that_matters():
    text = shown(status(), width=40, height=24)
    for expected in ("Egyptian cat", "87 %", *NAMES, "6.5 ms", "31.9 ms p99", "answered", "replaced", "corrupt"):
        assert expected in text


def test_a_plan_longer_than_the_terminal_is_shown_in_short():
    names = [f"exit {i}" for i in range(30)]
    state = replace(status(), exits=make_result(reached=17).exits)
    lines = shown(state, names, height=20).splitlines()
    assert len(lines) < 20
    ladder = next(line for line in lines if "◆" in line)
    assert ladder.strip("│ ") == "●" * 16 + "◆" + "○" * 13
    assert any("exit 16" in line for line in lines)


def test_nothing_in_a_label_or_name_steers_the_terminal():
    dirty = "[red]cat[/red] \x1b]0;title\x07\x1b[2J:smile:\nnew line\u202e"
    text = shown(status(dirty), [dirty, "b", "c"], dirty)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert text.count("[red]cat[/red] :smile:") >= 2


def test_without_utf_8_only_ascii_is_printed():
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(file=out, force_terminal=True, width=80, color_system=None, legacy_windows=False)
    console.print(TerminalView("demo", NAMES, status, console=console)._render())
    console.print(summary_table(make_stats(depths=(10, 116, 0)), NAMES, 4.2))
    out.seek(0)
    text = out.read()
    assert "====" in text
    assert "lite2@224" in text


def test_the_view_lives_in_a_thread_that_ends_with_it():
    console, out = terminal(colour=True)
    polled = threading.Event()
    polls = 0

    def poll() -> LiveStatus:
        nonlocal polls
        polls += 1
        if polls >= 3:
            polled.set()
        return status()

    stdout, stderr = sys.stdout, sys.stderr
    with TerminalView("demo", NAMES, poll, console=console):
        assert sys.stdout is stdout, "data on standard output is not touched"
        assert polled.wait(2)
    assert sys.stderr is stderr
    assert not [t for t in threading.enumerate() if t.name == "stream-ann terminal view"]
    after = out.getvalue()
    assert "Egyptian cat" in after
    assert "\x1b[?25h" in after[after.rindex("Egyptian cat") :], "the cursor is back"
    before = polls
    time.sleep(0.1)
    assert polls == before


def test_nothing_is_printed_where_there_is_no_terminal():
    polls: list[int] = []

    def poll() -> LiveStatus:
        polls.append(1)
        return status()

    for options in ({"force_terminal": False}, {"force_terminal": True, "_environ": {"TERM": "dumb"}}):
        out = io.StringIO()
        with TerminalView("demo", NAMES, poll, console=Console(file=out, **options)) as view:
            time.sleep(0.1)
        assert out.getvalue() == ""
        assert view.error is None
    assert polls == []


def test_a_poll_that_fails_stops_the_view_and_not_the_run():
    console, out = terminal()
    failed = threading.Event()

    def poll() -> LiveStatus:
        if "Egyptian cat" in out.getvalue():
            failed.set()
            raise RuntimeError("poll broke")
        return status()

    with TerminalView("demo", NAMES, poll, console=console) as view:
        assert failed.wait(2)
    assert str(view.error) == "poll broke"
    assert out.getvalue().count("Egyptian cat") >= 2, "the last good view stays"


def test_an_error_inside_the_view_is_not_swallowed():
    console, _ = terminal()
    with pytest.raises(KeyError, match="mine"), TerminalView("demo", NAMES, status, console=console):
        raise KeyError("mine")


def test_a_view_needs_exits():
    with pytest.raises(UsageError, match="at least one exit"):
        TerminalView("demo", [], status, console=terminal()[0])


@pytest.mark.parametrize("width", [30, 40, 80, 120])
def test_the_summary_says_it_all(width):
    console, out = terminal(width)
    console.print(summary_table(make_stats(depths=(10, 116, 0)), NAMES, 4.2))
    text = out.getvalue()
    for expected in ("130", "126", "9.0", "40.0", "5.2", "31.9", "30.0", "4.2 s", "8%", "92%", "0%"):
        assert expected in text
    assert all(cell_len(line) <= width for line in text.splitlines())


def test_the_summary_of_a_run_without_results():
    console, out = terminal()
    console.print(summary_table(NOTHING_YET.stats, ["[b]a[/b]", "b", "c"], 0.0))
    assert "[b]a[/b]" in out.getvalue()


def test_the_summary_of_a_long_plan_leaves_out_what_never_happened():
    console, out = terminal()
    names = [f"exit-{i:02}" for i in range(30)]
    console.print(summary_table(make_stats(depths=[0] * 12 + [5] + [0] * 17), names, 1.0))
    assert "exit-12" in out.getvalue()
    assert "exit-13" not in out.getvalue()


def test_trouble_takes_the_place_of_the_label_and_the_age_of_the_picture_is_told():
    frame = make_result(arrival_s=time.monotonic() - 12).frame
    lost = StateChange("demo", "reconnecting", 0.0, "the camera does not answer", 3)
    text = shown(replace(status(), state=lost, frame=frame))
    assert "reconnecting (attempt 3): the camera does not answer" in text
    assert "Egyptian cat" not in text
    assert "picture 12 s old" in text
    back = shown(replace(status(), state=StateChange("demo", "live", 0.0), frame=frame))
    assert "Egyptian cat" in back
    assert "old" not in shown(replace(status(), state=StateChange("demo", "ended", 0.0), frame=frame))


def test_of_several_the_one_in_trouble_says_so():
    frame = make_result(arrival_s=time.monotonic() - 12).frame
    lost = replace(status(), source="door", state=StateChange("door", "stalled", 0.0), frame=frame)
    text = shown([replace(status(), source="yard"), lost])
    assert "stalled, picture 12 s old" in text
    assert "Egyptian cat" in text
