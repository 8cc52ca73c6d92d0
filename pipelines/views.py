"""Where a live run is shown: which view a machine can have, and opening it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from pipelines.live import LiveRun
from stream_ann.errors import MissingExtraError, OutputError, UsageError, nearest
from stream_ann.frames import FrameResult
from stream_ann.overlay import Overlay, draw_statuses
from stream_ann.sinks import TerminalView, WindowView, window_problem
from stream_ann.states import StateChange
from stream_ann.stats import LiveStatus
from stream_ann.text import clean

__all__ = ["Serving", "ViewName", "Views", "choose_view", "say"]

ViewName = Literal["auto", "window", "web", "terminal", "none"]


@dataclass(frozen=True, slots=True)
class Serving:
    """Where the web page and the metrics are served."""

    host: str = "127.0.0.1"
    """The address to listen on; every one but the machine's own loopback needs a token."""
    port: int | None = None
    """The page's port; 0 for a free one, None for the usual one or, where that is taken, a free one."""
    token: str | None = None
    """What visitors must know; made up where it is needed and not given."""
    metrics_port: int | None = None
    """A port for the metrics alone, without a page; 0 for a free one, None for none."""


def say(console: Console, line: str) -> None:
    """Print one line of talk, whatever characters are in it."""
    console.print(clean(line), markup=False, highlight=False, soft_wrap=True)


def choose_view(view: str, *, terminal: bool) -> tuple[ViewName, str]:
    """The view to open, and why it is this one where nobody chose it.

    Whoever sits before a desktop and its terminal wants to see the picture. Over a remote connection a window would
    crawl, or open where nobody sits; and whoever redirects the output does not watch it.

    Args:
        view: What was asked for.
        terminal: Whether there is a terminal to draw in.

    Raises:
        UsageError: If no view has that name.
    """
    for name in get_args(ViewName):
        if view == name != "auto":
            return name, ""
    if view != "auto":
        raise UsageError(f"no view is called '{view}'", nearest(view, get_args(ViewName)))
    if not terminal:
        return "none", "view: none, as this is no terminal; --view web shows the run in a browser"
    problem = window_problem()
    why = "this is a remote connection" if os.environ.get("SSH_CONNECTION") else problem[0] if problem else ""
    if why:
        return "terminal", f"view: terminal, as {why}; --view web shows the pictures in a browser"
    return "window", "view: window, as there is a display (q or Esc ends the run); --view terminal draws here instead"


class Views:
    """The views of a run, open while the context is.

    Args:
        run: The run.
        console: Where the terminal view is drawn, and addresses are printed.
        view: One of :data:`ViewName`.
        serving: Where the page and the metrics are served.
        drops: Gives how many results each output has lost, for the metrics.

    Attributes:
        shown: Whether anybody can see the run.

    Raises:
        UsageError: If the view does not exist, or an address makes no sense.
        MissingExtraError: If the view needs packages that are not installed.
        OutputError: If the view cannot be opened.
    """

    def __init__(
        self,
        run: LiveRun,
        *,
        console: Console,
        view: str = "auto",
        serving: Serving | None = None,
        drops: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._stack = ExitStack()
        self._put: list[Callable[[FrameResult], None]] = []
        self._ends: list[Callable[[], None]] = []
        self._put_state: list[Callable[[StateChange], None]] = []
        name, why = choose_view(view, terminal=console.is_terminal and not console.is_dumb_terminal)
        self.shown = name != "none"
        serving = serving or Serving()
        if serving.port is not None and name != "web":
            raise UsageError("--web-port does nothing without a page", "add --view web, or leave it out")
        if why:
            say(console, why)
        try:
            self._open(run, name, console, serving, drops, fall_back=view == "auto")
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def end(self) -> None:
        """Have whatever is served end soon, and do not wait for it."""
        for end in self._ends:
            end()

    def put(self, result: FrameResult) -> None:
        """Show a result; does not wait."""
        for put in self._put:
            put(result)

    def put_state(self, change: StateChange) -> None:
        """Show that a source has passed into another state; does not wait. Safe to call from any thread."""
        for put in self._put_state:
            put(change)

    def _open(
        self,
        run: LiveRun,
        name: ViewName,
        console: Console,
        serving: Serving,
        drops: Callable[[], Mapping[str, int]],
        *,
        fall_back: bool,
    ) -> None:
        if name == "web" or serving.metrics_port is not None:
            self._serve(run, console, serving, drops, page=name == "web")
        if name == "window":
            try:
                self._open_window(run, console)
            except OutputError as error:
                if not fall_back:
                    raise
                say(console, f"view: terminal; {error}")
                name = "terminal"
        if name == "terminal":
            self._stack.enter_context(TerminalView(run.name, run.plan.exit_names, run.statuses, console=console))

    def _open_window(self, run: LiveRun, console: Console) -> None:
        title = f"{clean(run.name)} - stream_ann"
        picture = _Picture(run)

        def failed(error: OutputError) -> None:
            self.shown = False
            say(console, f"warning: {error}")

        self._stack.enter_context(WindowView(title, picture.draw, on_quit=run.stop, on_error=failed))

    def _serve(
        self,
        run: LiveRun,
        console: Console,
        serving: Serving,
        drops: Callable[[], Mapping[str, int]],
        *,
        page: bool,
    ) -> None:
        try:
            from stream_ann.sinks.web import Access, MetricsServer, WebView
            from stream_ann.sinks.web.metrics import Metrics
        except ModuleNotFoundError as error:
            raise MissingExtraError("web", error.name or "starlette") from error
        names = run.plan.exit_names
        metrics = Metrics(run.statuses, names, drops)
        self._put.append(metrics.put)
        self._put_state.append(metrics.put_state)
        token = serving.token
        if page:
            access = Access(serving.host, serving.port, token)
            token = access.token
            web = WebView(run.statuses, names, access=access, metrics=metrics)
            self._stack.enter_context(web)
            self._put.append(web.put)
            self._ends.append(web.end)
            say(console, f"web page: {web.url}")
        if serving.metrics_port is not None:
            access = Access(serving.host, serving.metrics_port, token)
            server = MetricsServer(run.statuses, names, access=access, metrics=metrics)
            self._stack.enter_context(server)
            self._ends.append(server.end)
            say(console, f"metrics: {server.url}")


class _Picture:
    """What the window shows: drawn anew where something has changed."""

    def __init__(self, run: LiveRun) -> None:
        self._run = run
        self._overlay = Overlay(run.plan.exit_names)
        self._last: object = None

    def draw(self) -> NDArray[np.uint8] | None:
        """The picture now, uint8 [H, W, 3] RGB; None where it would be the same as the last one."""
        statuses = self._run.statuses()
        now_s = time.monotonic()
        shown = [(status.frame, len(status.exits), status.state, self._second(status, now_s)) for status in statuses]
        if shown == self._last:
            return None
        self._last = shown
        return draw_statuses(self._overlay, statuses, now_s)

    def _second(self, status: LiveStatus, now_s: float) -> int:
        """Where the age of the frame is shown, it is counted in seconds."""
        return 0 if status.frame is None else int(now_s - status.frame.arrival_s)
