"""The frame-rate benchmark: what accuracy does a frame rate leave, on this machine?"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.benchmarking.advice import advise
from pipelines.benchmarking.answers import KeptAnswers, answer_table, right_on
from pipelines.benchmarking.cameras import streams_together
from pipelines.benchmarking.contenders import Network, OpenEngine, anytime_network, fixed_networks, rival_network
from pipelines.benchmarking.load import exit_times_s, single_stream, streams_in_reality, streams_on_paper
from pipelines.benchmarking.machine import Meter
from pipelines.benchmarking.options import BACKGROUND, DEFAULT_DURATION_S, BenchOptions
from pipelines.benchmarking.paper import Line, Paper
from pipelines.benchmarking.play import Manner, play
from pipelines.benchmarking.quiet import quiet_of
from pipelines.benchmarking.results import BenchReport, ClockName, Entry, Usage, read_times
from pipelines.benchmarking.streams import LabelledFilm, class_map, folder_film, video_film, with_truths
from pipelines.benchmarking.timing import Timings, pooled, recording_of, timings_in, timings_of
from stream_ann import weights as weights_room
from stream_ann.errors import UsageError
from stream_ann.machine import about_machine
from stream_ann.readout import readout_named
from stream_ann.scheduler import Background, InOrder, chosen_path, path_named
from stream_ann.streaming import (
    AnswerTable,
    Film,
    Mean,
    RunLog,
    TimeTable,
    arrivals_at,
    figures_of,
    jittered_gaps,
    read_trace,
    streaming_correct,
)
from stream_ann.weights import Weights

__all__ = ["BenchOptions", "bench"]

TIMING_PICTURES = 16
JITTER_GAPS = 1000
LOAD_PICTURES = 32

Told = Callable[[str, int, int], None]


def bench(
    source: str | os.PathLike[str] | None = None,
    options: BenchOptions | None = None,
    *,
    on_progress: Told | None = None,
) -> BenchReport:
    """Measure streaming accuracy and latency at several frame rates, against fixed networks on the same stream.

    Args:
        source: A labelled recording or folder of photographs; by default those of ``options.labels``, or the demo clip.
        options: What is measured, and how.
        on_progress: Called with what is done, how much of it, and of how much.

    Raises:
        UsageError: An option makes no sense, or no label fits the network.
        SourceError: The recording or the photographs cannot be read.
        WeightsError: The weights cannot be used.
        DeviceError: The device cannot be used.
        MissingExtraError: A rival needs something that is not installed.
    """
    options = options if options is not None else BenchOptions()
    loaded = weights_room.load(options.weights)
    told: Told = on_progress if on_progress is not None else (lambda what, done, total: None)
    return _Bench(source, options, loaded, told).run()


@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """A network that was opened and timed."""

    engine: OpenEngine | None
    """Its engine; None where its times are known and its answers are another's."""
    timings: Timings | None
    """How long the work on a frame took before all runs; None where its times are known."""
    times: TimeTable
    """The same as distributions, on a machine of the speed asked for."""
    frame_s: NDArray[np.float64]
    """Times from a frame's beginning until each exit, float64 [N, exits], in seconds."""


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """A run in real time."""

    fps: float
    line: Line
    log: RunLog
    usage: Usage
    timings: Timings
    """How long the work on a frame took in it."""


class _Bench:
    """One benchmark, step by step."""

    def __init__(
        self, source: str | os.PathLike[str] | None, options: BenchOptions, loaded: Weights, told: Told
    ) -> None:
        self._options, self._loaded, self._told = options, loaded, told
        self._classes = loaded.card.classes
        self._warnings: list[str] = []
        self._other_cores: list[float | None] = []
        self._networks = self._all_networks()
        self._ours = self._networks[0]
        self._known_times = {} if options.times is None else read_times(options.times)
        for network in self._networks if options.times is not None else ():
            self._check_times(network)
        for policy in options.policies:  # whatever is wrong with a policy is said before anything is measured
            self._manner(policy, [Mean(0.5, None)] * len(loaded.plan))
        self._gaps = _gaps(options)
        self._labelled = _film_of(source, options, loaded)

    def run(self) -> BenchReport:
        options = self._options
        with ExitStack() as stack:
            opened = {}
            for number, network in enumerate(self._networks):
                self._told("opening and timing networks", number, len(self._networks))
                opened[network.name] = self._open(network, stack)
            self._told("opening and timing networks", len(self._networks), len(self._networks))
            answers = self._answers(opened)
            film = self._truths(answers[self._ours.name])
            accuracies = right_on(film, answers[self._ours.name])
            lines = [Line(f"{self._ours.name}, {p}", self._ours, self._manner(p, accuracies)) for p in options.policies]
            lines += [Line(network.name, network, Manner(path=InOrder)) for network in self._networks[1:]]
            real = [] if options.simulate else self._real(film, lines, opened)
            after = {} if options.simulate else self._times_again(opened)
            times = _times_of(opened, after, real)
            paper = Paper(film, answers, times, self._classes, self._gaps, options.seed)
            entries = self._entries(paper, lines, real)
            exits = zip(self._ours.plan.exit_names, accuracies, strict=True)
            more: dict[str, Any] = {"exit_accuracy": [{"exit": name, **mean.as_dict()} for name, mean in exits]}
            before = {name: one.timings for name, one in opened.items() if one.timings is not None}
            if before:
                more["quiet"], doubts = quiet_of(before, after, self._other_cores)
                self._warnings += doubts
            more |= self._more(paper, lines, opened)
        return BenchReport(self._about(film), times, tuple(entries), tuple(self._warnings), more)

    @property
    def _film(self) -> Film:
        return self._labelled.film

    @property
    def _duration_s(self) -> float:
        if self._options.duration_s is not None:
            return self._options.duration_s
        return self._film.duration_s if self._options.simulate else DEFAULT_DURATION_S

    def _all_networks(self) -> list[Network]:
        options, loaded = self._options, self._loaded
        where: dict[str, Any] = {"device": options.device, "engine": options.engine, "threads": options.threads}
        networks = [anytime_network(loaded, **where, lanes=2 if BACKGROUND in options.policies else 1)]
        for spec in options.against:
            if spec == "fixed":
                networks += fixed_networks(loaded, **where)
            else:
                networks.append(rival_network(spec, loaded, **where))
        names = [network.name for network in networks]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"'{twice}' takes part twice", "name each rival once")
        return networks

    def _check_times(self, network: Network) -> None:
        whole = self._known_times.get(self._ours.name)
        if network.steps and whole is not None and len(whole.steps_s) == len(self._ours.plan):
            self._known_times.setdefault(network.name, whole.alone(network.steps))  # where only the whole was measured
        table = self._known_times.get(network.name)
        if table is None or len(table.steps_s) != len(network.plan):
            what = f"the report '{self._options.times}' has no step times of '{network.name}' with its steps"
            raise UsageError(what, "measure them with the same --weights and --against")

    def _open(self, network: Network, stack: ExitStack) -> _Opened:
        options = self._options
        engine = None
        if options.times is None or network.exits is None or network is self._ours:
            engine = network.open()
            stack.callback(engine.close)
        if options.times is not None:
            times = self._known_times[network.name].at_speed(options.speed)
            return _Opened(engine, None, times, exit_times_s(times, seed=options.seed))
        assert engine is not None
        timings = self._timed(engine)
        assert timings.frame_s is not None
        return _Opened(engine, timings, pooled([timings]).at_speed(options.speed), timings.frame_s / options.speed)

    def _timed(self, engine: OpenEngine) -> Timings:
        """How long a network's work on a frame takes."""
        count = min(TIMING_PICTURES, len(self._film))
        images = [self._film.picture(i * len(self._film) // count) for i in range(count)]
        with Meter() as meter:
            found = timings_of(engine, images, classes=self._classes, frames=self._options.timing_frames)
        self._other_cores.append(meter.other_cores)
        return found

    def _times_again(self, opened: Mapping[str, _Opened]) -> dict[str, Timings]:
        """What was measured before the runs, measured again after them."""
        found = {}
        for number, (name, one) in enumerate(opened.items()):
            self._told("timing networks again", number, len(opened))
            assert one.engine is not None
            found[name] = self._timed(one.engine)
        self._told("timing networks again", len(opened), len(opened))
        return found

    def _answers(self, opened: Mapping[str, _Opened]) -> dict[str, AnswerTable]:
        found: dict[str, AnswerTable] = {}
        for network in self._networks:
            engine = opened[network.name].engine
            if network.exits is None or network is self._ours:
                assert engine is not None
                told = partial(self._told, f"answers: {network.name}")
                found[network.name] = answer_table(engine, self._film, told, kept=self._kept(network))
            else:
                found[network.name] = found[self._ours.name].only(network.exits)
        return found

    def _kept(self, network: Network) -> KeptAnswers | None:
        """The answers known from an earlier time. Rivals' are not kept: nothing says which weights they have."""
        options, card = self._options, self._loaded.card
        if options.keep is None or network is not self._ours:
            return None
        where = (options.device, options.engine, options.threads, about_machine()["processor"])
        about = f"{card.file.sha256} {card.temperatures} {card.preprocessing} {where}"
        return KeptAnswers(options.keep, about, (len(network.plan), network.plan.classes))

    def _truths(self, table: AnswerTable) -> Film:
        """The film with labels: those given, or the whole plan's answers."""
        if self._options.labels == "agreement" or not self._labelled.labelled:
            if self._options.labels != "agreement":
                self._warnings.append("nothing is labelled: the whole plan's answers are taken for the truth")
            last = table.probabilities[:, -1].argmax(axis=1)
            self._labelled = with_truths(self._labelled, [frozenset({int(c)}) for c in last])
        elif self._labelled.unmatched:
            shown = ", ".join(self._labelled.unmatched[:8])
            more = len(self._labelled.unmatched) - 8
            self._warnings.append(
                f"left out, no class of the network: {shown}{f' and {more} more' if more > 0 else ''}"
            )
        return self._film

    def _manner(self, policy: str, measured: Sequence[Mean]) -> Manner:
        card, plan = self._loaded.card, self._loaded.plan
        truly = self._options.accuracies == "measured"
        by = [mean.value for mean in measured] if truly else card.planning_accuracies
        alone = by if truly else card.accuracies
        chosen = self._options.readout
        name = card.default_readout if chosen is None else chosen
        readout = readout_named(name, exits=len(plan), accuracies=alone, weights=card.readout_weights)
        if policy == BACKGROUND:
            return Manner(readout=readout, background=lambda: Background(by))
        chosen_path(policy, readout=chosen)
        return Manner(path=lambda plan: path_named(policy, plan, by), readout=readout)

    def _real(self, film: Film, lines: Sequence[Line], opened: Mapping[str, _Opened]) -> list[_Run]:
        """Every contender at every rate by the real clock."""
        images = [film.picture(i) for i in range(len(film))]
        runs: list[_Run] = []
        total = len(self._options.fps) * len(lines)
        for fps in self._options.fps:
            arrivals_s = arrivals_at(fps, self._duration_s, self._gaps)
            for line in lines:
                self._told("runs in real time", len(runs), total)
                engine = opened[line.network.name].engine
                assert engine is not None
                with Meter() as meter:
                    log, late_s = play(engine, film, images, arrivals_s, classes=self._classes, manner=line.manner)
                self._other_cores.append(meter.other_cores)
                timings = timings_in(log, len(line.network.plan))
                runs.append(_Run(fps, line, log, meter.usage(len(arrivals_s), late_s), timings))
        self._told("runs in real time", total, total)
        return runs

    def _entries(self, paper: Paper, lines: Sequence[Line], real: Sequence[_Run]) -> list[Entry]:
        """The runs in real time, and each of them, or all there are to be, on paper."""
        entries: list[Entry] = []
        total = len(self._options.fps) * len(lines)
        done = {(run.fps, run.line.name): run for run in real}
        for number, (fps, line) in enumerate((fps, line) for fps in self._options.fps for line in lines):
            self._told("runs on paper", number, total)
            run = done.get((fps, line.name))
            if run is not None:
                entries.append(_entry(fps, line, run.log, "real", run.usage))
                replayed = paper.log(line, fps, self._duration_s, recording=recording_of(run.log))
                entries.append(_entry(fps, line, replayed, "replayed"))
            entries.append(_entry(fps, line, paper.log(line, fps, self._duration_s), "simulated"))
        self._told("runs on paper", total, total)
        return entries

    def _more(self, paper: Paper, lines: Sequence[Line], opened: Mapping[str, _Opened]) -> dict[str, Any]:
        options = self._options
        found: dict[str, Any] = {"single_stream": []}
        for network in self._networks:
            found["single_stream"] += single_stream(network.name, network.plan.exit_names, opened[network.name].frame_s)
        if options.interval_ms is not None:
            found["multi_stream"] = {"interval_ms": options.interval_ms, "results": self._loads(opened)}
        if options.streams is not None:
            played = []
            for number, fps in enumerate(options.fps):
                self._told("many streams", number, len(options.fps))
                played += [streams_together(paper, line, fps, self._duration_s, options.streams) for line in lines]
            self._told("many streams", len(options.fps), len(options.fps))
            found["streams"] = {"count": options.streams, "results": played}
        if options.target_accuracy is not None:
            fps = options.target_fps if options.target_fps is not None else options.fps[0]
            self._told("what it takes", 0, 1)
            found["advice"] = advise(
                paper, lines[0], accuracy=options.target_accuracy, fps=fps, duration_s=self._duration_s
            )
            self._told("what it takes", 1, 1)
        return found

    def _loads(self, opened: Mapping[str, _Opened]) -> list[dict[str, Any]]:
        """How many streams each network can serve, to its first exit and through its whole plan."""
        options = self._options
        assert options.interval_ms is not None
        interval_s = options.interval_ms / 1e3
        images = [self._film.picture(i) for i in range(min(LOAD_PICTURES, len(self._film)))]
        found = []
        for number, network in enumerate(self._networks):
            self._told("streams at an interval", number, len(self._networks))
            one = opened[network.name]
            for exit_ in dict.fromkeys((0, len(network.plan) - 1)):
                line = {"network": network.name, "exit": network.plan.exit_names[exit_]}
                about = streams_on_paper(one.frame_s[:, exit_], interval_s, seed=options.seed)
                found.append(line | {"streams": about, "clock": "simulated"})
                if not options.simulate:
                    assert one.engine is not None
                    steps = range(exit_ + 1)
                    count = streams_in_reality(one.engine, images, steps, interval_s, about=about)
                    found.append(line | {"streams": count, "clock": "real"})
        self._told("streams at an interval", len(self._networks), len(self._networks))
        return found

    def _about(self, film: Film) -> dict[str, Any]:
        options, card = self._options, self._loaded.card
        labels = "given" if self._labelled.labelled else "agreement with the whole plan"
        names = ("fps", "policies", "readout", "against", "duration_s", "simulate", "speed", "accuracies", "device")
        told = {name: getattr(options, name) for name in (*names, "engine", "threads")}
        return {
            "seed": options.seed,
            "weights": {"name": card.name, "sha256": card.file.sha256},
            "stream": {
                "name": film.name,
                "scenes": film.scene_count,
                "pictures": len(film),
                "dwell_s": round(film.dwell_s, 3),
                "labels": labels,
                "unmatched": list(self._labelled.unmatched),
                # the folder of a file says nothing that another machine could use
                "arrivals": os.path.basename(options.arrivals),
            },
            "options": {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()},
            "machine": about_machine(),
        }


def _film_of(source: str | os.PathLike[str] | None, options: BenchOptions, loaded: Weights) -> LabelledFilm:
    classes = loaded.card.classes
    mapping = {} if options.class_map is None else class_map(options.class_map, classes)
    labelled = options.labels != "agreement"
    labels = options.labels if labelled else None
    seconds = options.duration_s  # no more than a run shows
    if seconds is None and not options.simulate:
        seconds = DEFAULT_DURATION_S
    folder: str | os.PathLike[str] | None = None
    if source is not None and os.path.isdir(source):
        folder = source
    elif source is None and labels is not None and not labels.endswith(".json"):
        folder = labels
    if folder is not None:
        film = options.film
        if seconds is not None:
            film = replace(film, scenes=min(film.scenes, math.ceil(seconds / film.dwell_s)))
        return folder_film(folder, classes, mapping, film, labelled=labelled)
    recording = "demo" if source is None else source
    return video_film(recording, labels, classes, mapping, labelled=labelled, seconds=seconds)


def _gaps(options: BenchOptions) -> NDArray[np.float64] | None:
    if options.arrivals == "regular":
        return None
    if options.arrivals == "jittered":
        return jittered_gaps(JITTER_GAPS, options.seed)
    return read_trace(options.arrivals)


def _times_of(
    opened: Mapping[str, _Opened], after: Mapping[str, Timings], real: Sequence[_Run]
) -> dict[str, TimeTable]:
    """How long each network's work takes: before, during and after the runs in real time, if there are any."""
    times = {name: one.times for name, one in opened.items()}
    for name, last in after.items():
        first = opened[name].timings
        assert first is not None
        during = [run.timings for run in real if run.line.network.name == name]
        times[name] = pooled([first, *during, last])
    return times


def _entry(fps: float, line: Line, log: RunLog, clock: ClockName, usage: Usage | None = None) -> Entry:
    plan = line.network.plan
    return Entry(
        fps=fps,
        contender=line.name,
        kind=line.network.kind,
        exit_names=plan.exit_names,
        clock=clock,
        figures=figures_of(log, plan),
        usage=usage,
        right=streaming_correct(log.shown, log.arrivals_s, log.truths, eta=-1),
        scenes=log.scenes,
    )
