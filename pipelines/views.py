"""Where a live run is shown: which view a machine can have, and opening it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, get_args

from rich.console import Console

from pipelines.live import LiveRun
from stream_ann.errors import MissingExtraError, UsageError, nearest
from stream_ann.frames import FrameResult
from stream_ann.sinks import TerminalView
from stream_ann.states import StateChange
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
        return "none", ""  # whoever redirects the output, or starts it from a script, does not sit before it
    return "terminal", "view: terminal; --view web shows the pictures in a browser"


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
        self._put_state: list[Callable[[StateChange], None]] = []
        name, why = choose_view(view, terminal=console.is_terminal and not console.is_dumb_terminal)
        self.shown = name != "none"
        serving = serving or Serving()
        if why:
            say(console, why)
        if name == "web" or serving.metrics_port is not None:
            self._serve(run, console, serving, drops, page=name == "web")
        if name == "terminal":
            self._stack.enter_context(TerminalView(run.source.name, run.plan.exit_names, run.status, console=console))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def put(self, result: FrameResult) -> None:
        """Show a result; does not wait."""
        for put in self._put:
            put(result)

    def put_state(self, change: StateChange) -> None:
        """Show that a source has passed into another state; does not wait. Safe to call from any thread."""
        for put in self._put_state:
            put(change)

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
            say(console, f"web page: {web.url}")
        if serving.metrics_port is not None:
            access = Access(serving.host, serving.metrics_port, token)
            server = MetricsServer(run.statuses, names, access=access, metrics=metrics)
            self._stack.enter_context(server)
            say(console, f"metrics: {server.url}")
