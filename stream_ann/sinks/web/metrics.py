"""The figures of a run, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from stream_ann.clock import Clock, MonotonicClock
from stream_ann.frames import FrameResult
from stream_ann.states import SourceState, StateChange
from stream_ann.stats import LiveStatus
from stream_ann.text import clean

__all__ = ["Metrics"]

BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.033, 0.05, 0.066, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
CONNECTED: frozenset[SourceState] = frozenset({"live", "stalled"})
LOST: frozenset[SourceState] = frozenset({"reconnecting", "refused"})


class Metrics:
    """Counts what is shown by nobody else, and reads the rest from the run when it is asked.

    Safe to use from several threads.

    Args:
        poll: Gives the present status of every source. Must not wait.
        exit_names: Name of each exit of the plan, in order.
        drops: Gives how many results each output has lost, by its name.
        clock: Tells how old a frame is.
    """

    def __init__(
        self,
        poll: Callable[[], Sequence[LiveStatus]],
        exit_names: Sequence[str],
        drops: Callable[[], Mapping[str, int]] = dict,
        clock: Clock | None = None,
    ) -> None:
        self._registry = CollectorRegistry()
        self._names = [clean(name) for name in exit_names]
        self._first = self._latency(
            "stream_ann_first_answer_seconds", "Time from a frame's arrival to its first answer."
        )
        self._final = self._latency(
            "stream_ann_final_answer_seconds", "Time from a frame's arrival to its last answer."
        )
        self._exits = Counter(
            "stream_ann_exits_reached",
            "Frames that have reached an exit.",
            ["source", "exit"],
            registry=self._registry,
        )
        self._reconnects = Counter(
            "stream_ann_reconnects",
            "How often the connection to a source was lost, or gave no picture any more.",
            ["source"],
            registry=self._registry,
        )
        self._refreshes = Counter(
            "stream_ann_page_refreshes",
            "Refreshes of the web page, for each visitor: sent, or skipped so that the engine has what it needs.",
            ["outcome"],
            registry=self._registry,
        )
        self._states: dict[str, SourceState] = {}
        self._registry.register(_Now(poll, drops, clock or MonotonicClock()))

    def put(self, result: FrameResult) -> None:
        """Count a result."""
        source = clean(result.frame.source)
        self._first.labels(source).observe(result.first_ms / 1e3)
        self._final.labels(source).observe(result.final_ms / 1e3)
        for answer in result.exits:
            self._exits.labels(source, self._names[answer.exit]).inc()

    def put_state(self, change: StateChange) -> None:
        """Count a change of a source's state."""
        reconnects = self._reconnects.labels(clean(change.source))
        if change.state in LOST and self._states.get(change.source) in CONNECTED:
            reconnects.inc()
        self._states[change.source] = change.state

    def put_refresh(self, skipped: int) -> None:
        """Count a refresh that a visitor of the page was sent, and those that were skipped before it."""
        self._refreshes.labels("sent").inc()
        self._refreshes.labels("skipped").inc(skipped)

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """All figures, in the text format that an ``Accept`` header asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _latency(self, name: str, help_text: str) -> Histogram:
        return Histogram(name, help_text, ["source"], buckets=BUCKETS_S, registry=self._registry)


class _Now(Collector):
    """What the run itself knows, read at the moment of asking."""

    def __init__(
        self, poll: Callable[[], Sequence[LiveStatus]], drops: Callable[[], Mapping[str, int]], clock: Clock
    ) -> None:
        self._poll = poll
        self._drops = drops
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        """Nothing ahead of time: asking would need a run that is ready."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """The figures now."""
        frames = CounterMetricFamily(
            "stream_ann_frames", "Frames of a source by what became of them.", labels=["source", "outcome"]
        )
        read = CounterMetricFamily("stream_ann_frames_in", "Frames that a source gave.", labels=["source"])
        states = GaugeMetricFamily(
            "stream_ann_source_state",
            "1 for the state that a source is in, 0 for the others.",
            labels=["source", "state"],
        )
        age = GaugeMetricFamily(
            "stream_ann_frame_age_seconds", "Age of the frame that the answer is about.", labels=["source"]
        )
        rate = GaugeMetricFamily(
            "stream_ann_results_per_second", "Answered frames a second, over two seconds.", labels=["source"]
        )
        confidence = GaugeMetricFamily(
            "stream_ann_confidence", "Probability of the present answer, 0 to 1.", labels=["source"]
        )
        for status in self._poll():
            source, counts = clean(status.source), status.stats.counts
            read.add_metric([source], counts.frames_in)
            frames.add_metric([source, "answered"], counts.results)
            frames.add_metric([source, "replaced"], counts.replaced)
            frames.add_metric([source, "corrupt"], counts.corrupt)
            present = "live" if status.state is None else status.state.state
            for state in get_args(SourceState):
                states.add_metric([source, state], float(state == present))
            if status.frame is not None:
                age.add_metric([source], self._clock.now_s() - status.frame.arrival_s)
            rate.add_metric([source], status.stats.results_per_s)
            confidence.add_metric([source], status.confidence)
        drops = CounterMetricFamily("stream_ann_output_dropped", "Results that an output has lost.", labels=["output"])
        for output, count in self._drops().items():
            drops.add_metric([clean(output)], count)
        return (read, frames, states, age, rate, confidence, drops)
