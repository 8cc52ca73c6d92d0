"""The live view in a terminal, and the summary at the end of a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.box import ROUNDED
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.panel import Panel
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from stream_ann.errors import UsageError
from stream_ann.states import TROUBLED
from stream_ann.stats import Latency, LiveStatus, StatsSnapshot
from stream_ann.text import clean, format_age, format_carried, format_count, format_ms

__all__ = ["TerminalView", "summary_table"]

REFRESHES_PER_S = 12
SKY, ORANGE = Style(color="#56b4e9"), Style(color="#e69f00")  # Okabe and Ito, "Color Universal Design", 2008
DIM, BOLD = Style(dim=True), Style(bold=True)
TWO_COLUMNS = 72
"""From this many columns on, latencies and counters stand side by side."""
ONE_NOTE = 48
"""From this many columns on, there is room for what of an answer is not the frame's own."""
MOST_DEPTHS = 12
"""In the summary of a longer plan, exits at which no frame ended are left out."""


class TerminalView:
    """Shows a live run in a terminal: the label, the ladder of exits as it fills, latencies and frame counters.

    A context manager. The view is drawn while the context is open, by a thread of its own, and its last state stays on
    the screen. Where the console is no terminal, nothing is printed. Labels and names are shown as they are: markup in
    them means nothing, and control characters are removed.

    Args:
        source: Name of the source, fit to be shown.
        plan_names: Name of each exit of the plan, in order.
        poll: Gives the present status, or that of each of several sources, which then have a line each; called by the
            view's thread about 12 times a second. Must not wait.
        console: Where to draw, usually standard error.

    Attributes:
        error: What ``poll`` or drawing failed with, if it did. The run goes on, the view stands still.

    Raises:
        UsageError: If there is no exit.
    """

    def __init__(
        self,
        source: str,
        plan_names: Sequence[str],
        poll: Callable[[], LiveStatus | Sequence[LiveStatus]],
        *,
        console: Console,
    ) -> None:
        if not plan_names:
            raise UsageError("a view needs the name of at least one exit, got none")
        self._source = clean(source)
        self._names = [clean(name) for name in plan_names]
        self._poll = poll
        self._console = console
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._live: Live | None = None
        self._last: RenderableType = ""
        self.error: Exception | None = None

    def __enter__(self) -> TerminalView:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            # Standard output belongs to data; only what is printed to standard error is lifted above the view.
            self._live = Live(
                get_renderable=self._render,
                console=self._console,
                auto_refresh=False,
                redirect_stdout=False,
                vertical_overflow="crop",
            )
            self._live.start(refresh=True)
            self._thread = threading.Thread(
                target=self._run, args=(self._live,), name="stream-ann terminal view", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join(1.0)
        if self._live is not None:
            try:
                self._live.stop()
            except OSError as failure:  # the terminal has gone
                self.error = self.error or failure

    def _run(self, live: Live) -> None:
        while not self._done.wait(1 / REFRESHES_PER_S):
            try:
                live.refresh()
            except Exception as error:
                self.error = self.error or error
                return

    def _render(self) -> RenderableType:
        if self.error is None:
            try:
                polled = self._poll()
                statuses = [polled] if isinstance(polled, LiveStatus) else polled
                view = _view if len(statuses) == 1 else _lines
                # Where Ctrl-C is echoed behind a full line, everything moves down by one and the view's first line
                # stays behind for good; in an empty line it is painted over.
                self._last = Group(
                    view(statuses, self._source, self._names, self._console.width, self._console.height), ""
                )
            except Exception as error:
                self.error = error
        return self._last


def summary_table(snapshot: StatsSnapshot, exit_names: Sequence[str], elapsed_s: float) -> RenderableType:
    """What a run has done, for its end: frames, latencies, and how deep the frames got.

    Args:
        snapshot: The figures at the end.
        exit_names: Name of each exit of the plan, in order.
        elapsed_s: How long the run took, in seconds.
    """
    counts = snapshot.counts
    frames = Table.grid(padding=(0, 2))
    frames.add_column(style=DIM)
    frames.add_column(justify="right")
    rows = [
        ("frames in", counts.frames_in),
        ("answered", counts.results),
        ("replaced", counts.replaced),
        ("corrupt", counts.corrupt),
    ]
    for name, count in rows:
        frames.add_row(name, str(count))
    rate = counts.results / elapsed_s if elapsed_s > 0 else 0.0
    frames.add_row("results/s", f"{rate:.1f}")
    frames.add_row("elapsed", f"{elapsed_s:.1f} s")

    latencies = Table.grid(padding=(0, 2))
    for _ in range(4):
        latencies.add_column(justify="right")
    latencies.add_row(*(Text(heading, DIM) for heading in ("ms", "p50", "p99", "max")))
    for name, latency in (("first", snapshot.first), ("final", snapshot.final)):
        values = ("-",) * 3 if latency is None else (latency.p50_ms, latency.p99_ms, latency.max_ms)
        latencies.add_row(Text(name, DIM), *(v if isinstance(v, str) else format_ms(v) for v in values))

    depths = Table.grid(padding=(0, 2))
    depths.add_column(no_wrap=True, overflow="ellipsis", max_width=24)
    depths.add_column(min_width=6, max_width=24)
    depths.add_column(justify="right", no_wrap=True)
    total = sum(snapshot.last_exit_counts)
    depths.add_row(Text("deepest exit", DIM), "", Text("frames", DIM))
    for name, count in zip(exit_names, snapshot.last_exit_counts, strict=False):
        if count == 0 and len(exit_names) > MOST_DEPTHS:
            continue
        share = count / total if total else 0.0
        depths.add_row(Text(clean(name)), _Bar(share, SKY), f"{share:.0%}")
    return _SideBySide([frames, latencies, depths])


@dataclass(frozen=True, slots=True)
class _SideBySide:
    """Tables beside each other where the console is wide enough, else one below the other."""

    tables: Sequence[Table]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width >= TWO_COLUMNS:
            grid = Table.grid(padding=(0, 5))
            grid.add_row(*self.tables)
            yield grid
            return
        for i, table in enumerate(self.tables):
            if i:
                yield ""
            yield table


@dataclass(frozen=True, slots=True)
class _Bar:
    """A horizontal bar, as wide as there is room."""

    share: float
    style: Style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        share = min(max(self.share, 0.0), 1.0) if self.share == self.share else 0.0
        full, rest = ("=", "-") if options.ascii_only else ("━", "─")
        filled = round(share * width)
        yield Segment(full * filled, self.style)
        yield Segment(rest * (width - filled), DIM)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(4, options.max_width)


@dataclass(frozen=True, slots=True)
class _Mark:
    """The mark of a rung: hollow, filled, or the deepest one reached."""

    kind: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        marks = ".*>" if options.ascii_only else "○●◆"
        yield Segment(marks[self.kind], (DIM, SKY, ORANGE)[self.kind])

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, 1)


def _view(statuses: Sequence[LiveStatus], source: str, names: Sequence[str], width: int, height: int) -> RenderableType:
    """One source."""
    (status,) = statuses
    wide = width >= TWO_COLUMNS
    parts: list[RenderableType] = [_headline(status, width), ""]
    left = height - 7 - (2 if wide else 5)  # lines for the ladder, without border, headline, figures and blank lines
    parts.append(_ladder(status, names, width) if len(names) <= max(1, left) else _short_ladder(status, names))
    parts.append("")
    first, final = _latency("first", status.stats.first), _latency("final", status.stats.final)
    stats, counts = status.stats, status.stats.counts
    numbers = [
        ("in", format_count(counts.frames_in)),
        ("answered", format_count(counts.results)),
        ("replaced", format_count(counts.replaced)),
        ("corrupt", format_count(counts.corrupt)),
    ]
    figures = Table.grid(expand=True, padding=(0, 1))
    if wide:
        for _ in range(3):
            figures.add_column(no_wrap=True)
        figures.add_row(first, _pair(*numbers[0]), _pair(*numbers[1]))
        figures.add_row(final, _pair(*numbers[2]), _pair(*numbers[3]))
        parts.append(figures)
    else:
        figures.add_column(no_wrap=True, ratio=1)
        figures.add_column(no_wrap=True, ratio=1)
        figures.add_row(_pair(*numbers[0]), _pair(*numbers[1]))
        figures.add_row(_pair(*numbers[2]), _pair(*numbers[3]))
        parts += [first, final, "", figures]
    return _panel(Group(*parts), source, f"{stats.results_per_s:.1f} results/s{_age(status)}", width)


def _age(status: LiveStatus) -> str:
    """How old the picture is that the answer is about, as the end of a line; nothing where it will not age."""
    if status.frame is None or (status.state is not None and status.state.state == "ended"):
        return ""
    return f", picture {format_age(time.monotonic() - status.frame.arrival_s)} old"


def _lines(statuses: Sequence[LiveStatus], title: str, names: Sequence[str], width: int, height: int) -> RenderableType:
    """Several sources, a line each, as many as there is room for."""
    room = max(1, height - 4)
    shown = statuses if len(statuses) <= room else statuses[: room - 1]
    lines = Table.grid(expand=True, padding=(0, 1))
    lines.add_column(no_wrap=True, overflow="ellipsis", max_width=max(8, width // 4))
    lines.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    lines.add_column(no_wrap=True, justify="right", width=5)
    short = len(names) <= MOST_DEPTHS and width >= TWO_COLUMNS
    if short:
        lines.add_column(no_wrap=True)
    for heading in ("answered", "replaced"):
        lines.add_column(no_wrap=True, justify="right", min_width=len(heading) if width >= TWO_COLUMNS else None)
    if width >= TWO_COLUMNS:
        lines.add_row("", "", "", *([""] if short else []), Text("answered", DIM), Text("replaced", DIM))
    for status in shown:
        counts, state = status.stats.counts, status.state
        away = state is not None and state.state != "live"
        if away:
            label = Text(f"{clean(state.line)}{_age(status)}" if state is not None else "", DIM)
        else:
            label = Text(clean(status.label)) if status.label else Text("waiting for the first frame", DIM)
            if (carried := format_carried(status.carried, None)) and width >= TWO_COLUMNS:
                label.append(f"  {carried}", DIM)
        cells: list[RenderableType] = [Text(clean(status.source), BOLD), label]
        cells.append("" if away or not status.label else Text(_percent(status.confidence), ORANGE))
        if short:
            cells.append(_rungs(status, names))
        lines.add_row(*cells, format_count(counts.results), format_count(counts.replaced))
    rate = sum(status.stats.results_per_s for status in statuses)
    more = len(statuses) - len(shown)
    parts: list[RenderableType] = [lines, *([Text(f"and {more} more", DIM)] if more else [])]
    return _panel(Group(*parts), title, f"{rate:.1f} results/s", width)


def _panel(content: RenderableType, name: str, rate: str, width: int) -> Panel:
    title = Text(name, BOLD, overflow="ellipsis", no_wrap=True)
    title.truncate(max(1, width - 8), overflow="ellipsis")
    return Panel(
        content,
        box=ROUNDED,
        border_style=DIM,
        title=title,
        title_align="left",
        subtitle=Text(rate, DIM),
        subtitle_align="right",
        padding=(0, 1),
    )


def _headline(status: LiveStatus, width: int) -> RenderableType:
    """Label and confidence, with a note of what in it is not this frame's own, where there is room for one."""
    line = Table.grid(expand=True)
    line.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    line.add_column(no_wrap=True, justify="right")
    if status.state is not None and status.state.state in TROUBLED:
        line.add_row(Text(clean(status.state.line), ORANGE + BOLD), "")
    elif not status.label:
        line.add_row(Text("waiting for the first frame", DIM), "")
    else:
        percent = Text(_percent(status.confidence), ORANGE + BOLD)
        if (carried := format_carried(status.carried, status.frames_back)) and width >= ONE_NOTE:
            percent = Text.assemble((carried if width >= TWO_COLUMNS else carried.split(",")[0], DIM), "  ", percent)
        line.add_row(Text(clean(status.label), BOLD), percent)
    return line


def _ladder(status: LiveStatus, names: Sequence[str], width: int) -> RenderableType:
    """One line an exit: mark, name, the label where it is hedged, confidence as a bar and as a number, time."""
    ladder = Table.grid(expand=True, padding=(0, 1))
    ladder.add_column(width=1)
    longest = max(Text(name).cell_len for name in names)
    ladder.add_column(no_wrap=True, overflow="ellipsis", width=min(longest, max(6, width // 3)))
    hedged = width >= TWO_COLUMNS and any(answer.label is not None for answer in status.exits)
    if hedged:  # a width of its own: the bars must not move when a label changes
        ladder.add_column(no_wrap=True, overflow="ellipsis", width=width // 4)
    ladder.add_column(ratio=1, min_width=3)
    ladder.add_column(no_wrap=True, justify="right", width=5)
    ladder.add_column(no_wrap=True, justify="right", width=8)
    reached = {answer.exit: answer for answer in status.exits}
    for i, name in enumerate(names):
        answer = reached.get(i)
        if answer is None:
            ladder.add_row(_Mark(0), Text(name, DIM), *([""] if hedged else []), _Bar(0.0, DIM), "", "")
            continue
        deepest = answer is status.exits[-1]
        ladder.add_row(
            _Mark(2 if deepest else 1),
            Text(name, BOLD if deepest else ""),
            *([Text(clean(answer.label or ""), BOLD if deepest else "")] if hedged else []),
            _Bar(answer.confidence, ORANGE if deepest else SKY),
            Text(_percent(answer.confidence)),
            Text(f"{format_ms(answer.done_ms)} ms"),
        )
    return ladder


def _short_ladder(status: LiveStatus, names: Sequence[str]) -> RenderableType:
    """The ladder in two lines, for terminals with fewer lines than the plan has exits."""
    deepest = status.exits[-1].exit if status.exits else -1
    rungs = _rungs(status, names)
    if not status.exits or deepest >= len(names):
        return Group(rungs, "")
    caption = Text.assemble((names[deepest], BOLD), f"  {format_ms(status.exits[-1].done_ms)} ms")
    caption.no_wrap, caption.overflow = True, "ellipsis"
    return Group(rungs, caption)


def _rungs(status: LiveStatus, names: Sequence[str]) -> RenderableType:
    """The exits as marks beside each other."""
    reached = {answer.exit for answer in status.exits}
    deepest = status.exits[-1].exit if status.exits else -1
    rungs = Table.grid()
    rungs.add_row(*(_Mark(2 if i == deepest else int(i in reached)) for i in range(len(names))))
    return rungs


def _latency(name: str, latency: Latency | None) -> Text:
    p50, p99 = ("-", "-") if latency is None else (format_ms(latency.p50_ms), format_ms(latency.p99_ms))
    return Text.assemble((name, DIM), f" {p50:>5} ms ", ("p50", DIM), f"  {p99:>5} ms ", ("p99", DIM), no_wrap=True)


def _pair(name: str, value: str, width: int = 14) -> Text:
    """A name and its value at the right end of ``width`` columns."""
    return Text.assemble((name, DIM), f"{value:>{width - len(name)}}", no_wrap=True)


def _percent(probability: float) -> str:
    return f"{probability * 100:.0f} %" if probability == probability else "- %"
