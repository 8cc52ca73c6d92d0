"""The frame-rate benchmark: what accuracy does a frame rate leave, on this machine?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pipelines.benchmarking.answers import answer_table, right_on
from pipelines.benchmarking.contenders import Network, OpenEngine, anytime_network, fixed_networks, rival_network
from pipelines.benchmarking.machine import Meter, about_machine
from pipelines.benchmarking.play import Manner, measure_times, play, simulate
from pipelines.benchmarking.results import BenchReport, Entry, read_times
from pipelines.benchmarking.streams import FilmOptions, LabelledFilm, class_map, folder_film, video_film, with_truths
from stream_ann import weights as weights_room
from stream_ann.errors import UsageError, nearest
from stream_ann.readout import readout_named
from stream_ann.scheduler import InOrder, path_named
from stream_ann.sinks.files import check_writable, output_error
from stream_ann.streaming import (
    AnswerTable,
    Film,
    RunLog,
    TimeTable,
    arrivals_at,
    figures_of,
    jittered_gaps,
    read_trace,
    streaming_correct,
)
from stream_ann.weights import Weights
from stream_ann.whole_files import whole_file

__all__ = ["DEFAULT_FPS", "BenchOptions", "bench", "check_folder", "report_progress", "write_report"]

DEFAULT_FPS = (2.0, 5.0, 15.0, 30.0, 60.0, 120.0, 240.0, 480.0)
"""Frame rates, from slower than any network to faster than all."""
DEFAULT_DURATION_S = 10.0
"""How long a run in real time lasts at each rate."""
TIMING_PICTURES = 16
JITTER_GAPS = 1000


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What is measured, and how."""

    fps: tuple[float, ...] = DEFAULT_FPS
    """Frame rates."""
    weights: str | os.PathLike[str] = "imagenet"
    """Name of bundled weights, or path."""
    device: str = "auto"
    """``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``."""
    engine: str = "auto"
    """``"auto"`` or the name of an engine."""
    threads: int | None = None
    """Threads on the CPU; by default one core is left to the decoder."""
    labels: str | None = None
    """A folder of labelled photographs, a sidecar of the source, or ``"agreement"``; by default the sidecar beside."""
    class_map: str | os.PathLike[str] | None = None
    """File that says which class a folder's name means."""
    film: FilmOptions = field(default_factory=FilmOptions)
    """How a film is made of photographs."""
    policies: tuple[str, ...] = ("in-order",)
    """Ways of scheduling the anytime network; the first is the one that is judged."""
    readout: str = "latest"
    """Which answer the exits give together."""
    against: tuple[str, ...] = ("fixed",)
    """``"fixed"`` for every exit as a fixed network, names of torchvision networks, files of networks."""
    arrivals: str | os.PathLike[str] = "regular"
    """``"regular"``, ``"jittered"``, or a file with a recorded trace."""
    duration_s: float | None = None
    """How long each run lasts, in seconds of its own clock; by default 10 s, on paper alone the whole film."""
    simulate: bool = False
    """Whether to leave out the runs in real time."""
    times: str | os.PathLike[str] | None = None
    """On paper: an earlier report whose step times are taken; by default they are measured."""
    speed: float = 1.0
    """On paper: a machine so many times as fast."""
    accuracies: Literal["card", "measured"] = "card"
    """By which accuracy of each exit a policy plans: the card's, or that on the film itself."""
    timing_frames: int = 40
    """On how many frames each network's steps are timed."""
    seed: int = 0
    """Seed of everything that is drawn."""

    def __post_init__(self) -> None:
        if not self.fps or not all(0 < rate <= 10_000 for rate in self.fps):
            shown = ", ".join(f"{rate:g}" for rate in self.fps) or "none"
            raise UsageError(f"frame rates {shown}", "give one or more above 0 and up to 10,000, such as --fps 5,15,30")
        if len(set(self.fps)) != len(self.fps):
            raise UsageError("a frame rate is given twice", "give each once")
        if self.duration_s is not None and not 0 < self.duration_s <= 1e5:
            raise UsageError(f"a duration of {self.duration_s:g} s", "give one above 0 and up to 100,000")
        if not 0 < self.speed <= 1e4:
            raise UsageError(f"a speed of {self.speed:g}", "give how many times as fast: 0.5 for half")
        if (self.times is not None or self.speed != 1) and not self.simulate:
            raise UsageError("other step times hold on paper only", "add --simulate")
        if not self.policies:
            raise UsageError("no policy is given", "give in-order or planned")
        if self.timing_frames < 2:
            raise UsageError(f"timing on {self.timing_frames} frames", "give 2 or more")
        if self.accuracies not in ("card", "measured"):
            raise UsageError(
                f"no accuracies are called '{self.accuracies}'", nearest(self.accuracies, ["card", "measured"])
            )


def bench(
    source: str | os.PathLike[str] | None = None,
    options: BenchOptions | None = None,
    *,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> BenchReport:
    """Measure streaming accuracy and latency at several frame rates, against fixed networks on the same stream.

    Args:
        source: A labelled recording; by default the demo clip, or the photographs of ``options.labels``.
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
    told = on_progress if on_progress is not None else (lambda what, done, total: None)
    return _Bench(source, options, loaded, told).run()


class _Bench:
    """One benchmark, step by step."""

    def __init__(
        self,
        source: str | os.PathLike[str] | None,
        options: BenchOptions,
        loaded: Weights,
        told: Callable[[str, int, int], None],
    ) -> None:
        self._options, self._loaded, self._told = options, loaded, told
        self._classes = loaded.card.classes
        self._warnings: list[str] = []
        self._labelled = _film_of(source, options, loaded)
        self._networks = self._all_networks()
        known = {} if options.times is None else read_times(options.times)
        missing = [n.name for n in self._networks if n.name not in known] if known else []
        if missing:
            raise UsageError(f"the times '{options.times}' lack '{missing[0]}'", "measure them with the same --against")
        self._known_times = known
        for policy in options.policies:  # whatever is wrong with a policy is said before anything is measured
            self._manner(policy, [0.5] * len(loaded.plan))
        self._gaps = _gaps(options)

    def run(self) -> BenchReport:
        options = self._options
        with ExitStack() as stack:
            engines: dict[str, OpenEngine] = {}
            times: dict[str, TimeTable] = {}
            tables: dict[str, AnswerTable] = {}
            ours = self._networks[0]
            for number, network in enumerate(self._networks):
                self._told("opening and timing networks", number, len(self._networks))
                if network.exits is None or network is ours or not (self._known_times and options.simulate):
                    engine = network.open()
                    stack.callback(engine.close)
                    engines[network.name] = engine
                times[network.name] = self._times_of(network, engines.get(network.name))
            for network in self._networks:
                if network.exits is None or network is ours:
                    told = partial(self._told, f"answers of {network.name}")
                    tables[network.name] = answer_table(engines[network.name], self._film, told)
                else:
                    tables[network.name] = tables[ours.name].only(network.exits)
            film = self._truths(tables[ours.name])
            accuracies = right_on(film, tables[ours.name])
            entries = self._entries(film, engines, times, tables, accuracies)
        return BenchReport(
            about=self._about(film),
            times=times,
            entries=tuple(entries),
            warnings=tuple(self._warnings),
            more={"exit_accuracy": [round(a, 5) for a in accuracies]},
        )

    @property
    def _film(self) -> Film:
        return self._labelled.film

    def _all_networks(self) -> list[Network]:
        options, loaded = self._options, self._loaded
        where: dict[str, Any] = {"device": options.device, "engine": options.engine, "threads": options.threads}
        networks = [anytime_network(loaded, **where)]
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

    def _times_of(self, network: Network, engine: OpenEngine | None) -> TimeTable:
        if network.name in self._known_times:
            table = self._known_times[network.name]
            if len(table.steps_s) != len(network.plan):
                what = f"the times '{self._options.times}' are for {len(table.steps_s)} steps of '{network.name}'"
                raise UsageError(what, f"it has {len(network.plan)}: measure them again")
        else:
            assert engine is not None
            count = min(TIMING_PICTURES, len(self._film))
            images = [self._film.picture(i * len(self._film) // count) for i in range(count)]
            table = measure_times(engine, images, classes=self._classes, frames=self._options.timing_frames)
        return table.at_speed(self._options.speed)

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
            self._warnings.append(f"no class of the network: {shown}{f' and {more} more' if more > 0 else ''}")
        return self._film

    def _manner(self, policy: str, accuracies: Sequence[float]) -> Manner:
        card = self._loaded.card
        by = accuracies if self._options.accuracies == "measured" else card.accuracies
        path_named(policy, self._loaded.plan, by)
        return Manner(
            path=lambda plan: path_named(policy, plan, by),
            readout=readout_named(
                self._options.readout, exits=len(self._loaded.plan), accuracies=by, weights=card.readout_weights
            ),
        )

    def _entries(
        self,
        film: Film,
        engines: dict[str, OpenEngine],
        times: dict[str, TimeTable],
        tables: dict[str, AnswerTable],
        accuracies: Sequence[float],
    ) -> list[Entry]:
        options = self._options
        ours = self._networks[0]
        lines: list[tuple[str, Network, Manner]] = [
            (f"{ours.name}, {policy}", ours, self._manner(policy, accuracies)) for policy in options.policies
        ]
        lines += [(network.name, network, Manner(path=InOrder)) for network in self._networks[1:]]
        images: list[NDArray[np.uint8]] = []
        if not options.simulate:
            images = [film.picture(i) for i in range(len(film))]
        duration_s = options.duration_s
        if duration_s is None:
            duration_s = film.duration_s if options.simulate else DEFAULT_DURATION_S
        entries: list[Entry] = []
        for number, fps in enumerate(options.fps):
            arrivals_s = arrivals_at(fps, duration_s, self._gaps)
            for place, (name, network, manner) in enumerate(lines):
                self._told("frame rates", number * len(lines) + place, len(options.fps) * len(lines))
                entry = partial(_entry, fps, name, network)
                if not options.simulate:
                    meter = Meter()
                    with meter:
                        log, late_s = play(
                            engines[network.name], film, images, arrivals_s, classes=self._classes, manner=manner
                        )
                    entries.append(entry(log, usage=meter.usage(len(arrivals_s), late_s)))
                log = simulate(
                    network.plan,
                    tables[network.name],
                    times[network.name],
                    film,
                    arrivals_s,
                    classes=self._classes,
                    manner=manner,
                    seed=(options.seed, number, place),
                )
                entries.append(entry(log, usage=None))
        return entries

    def _about(self, film: Film) -> dict[str, Any]:
        options, card = self._options, self._loaded.card
        labels = "given" if self._labelled.labelled else "agreement with the whole plan"
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
                "arrivals": str(options.arrivals),
            },
            "options": {
                "fps": list(options.fps),
                "policies": list(options.policies),
                "readout": options.readout,
                "against": list(options.against),
                "duration_s": options.duration_s,
                "simulate": options.simulate,
                "speed": options.speed,
                "accuracies": options.accuracies,
                "device": options.device,
                "engine": options.engine,
                "threads": options.threads,
            },
            "machine": about_machine(),
        }


def _film_of(source: str | os.PathLike[str] | None, options: BenchOptions, loaded: Weights) -> LabelledFilm:
    classes = loaded.card.classes
    mapping = {} if options.class_map is None else class_map(options.class_map, classes)
    labels = options.labels
    if source is None and labels not in (None, "agreement"):
        assert labels is not None
        film = options.film
        if not options.simulate:  # no more photographs than a run shows
            duration_s = options.duration_s if options.duration_s is not None else DEFAULT_DURATION_S
            scenes = max(1, round(duration_s / film.dwell_s))
            film = FilmOptions(film.dwell_s, film.motion_fps, min(film.scenes, scenes), film.seed)
        return folder_film(labels, classes, mapping, film)
    sidecar = None if labels in (None, "agreement") else labels
    seconds = None if options.simulate else (options.duration_s or DEFAULT_DURATION_S)
    return video_film(source if source is not None else "demo", sidecar, classes, mapping, seconds=seconds)


def _gaps(options: BenchOptions) -> NDArray[np.float64] | None:
    if options.arrivals == "regular":
        return None
    if options.arrivals == "jittered":
        return jittered_gaps(JITTER_GAPS, options.seed)
    return read_trace(options.arrivals)


def _entry(fps: float, name: str, network: Network, log: RunLog, *, usage: Any) -> Entry:
    return Entry(
        fps=fps,
        contender=name,
        kind=network.kind,
        exit_names=network.plan.exit_names,
        clock="simulated" if usage is None else "real",
        figures=figures_of(log, network.plan),
        usage=usage,
        right=streaming_correct(log.shown, log.arrivals_s, log.truths, eta=-1),
        scenes=log.scenes,
    )


@contextmanager
def report_progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on a terminal, and nothing elsewhere; yields what to call with stage, done and total."""
    if not console.is_terminal:
        yield lambda what, done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield tell


def check_folder(folder: Path) -> None:
    """Make sure, before any long work, that a report can be written to a folder; makes it where it is missing.

    Raises:
        OutputError: It cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    check_writable(folder / "report.json")


def write_report(report: BenchReport, folder: Path) -> list[Path]:
    """Write ``report.json`` and ``report.csv`` into a folder, each whole or not at all.

    Returns:
        The files.

    Raises:
        OutputError: One cannot be written.
    """
    written = []
    for name, content in (("report.json", report.to_json()), ("report.csv", report.to_csv())):
        path = folder / name
        try:
            with whole_file(path) as file:
                file.write(content.encode())
        except OSError as error:
            raise output_error(path, error) from error
        written.append(path)
    return written
