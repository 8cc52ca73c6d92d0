"""Units labelled on many machines by Ray (extra 'cluster'): a pool of actors with one engine each.

Ray Data would shuffle blocks of rows between operators and retry them by itself. What a job needs is simpler and
stricter: whole units, handed out one by one, and taken back in order to be committed once. So the actors are used
directly: one that is lost is started again by Ray, its unit is handed out again, and as a unit gives the same answers
wherever it runs, nothing is lost and nothing doubled.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pipelines.labelling.inputs import Video
from pipelines.labelling.opening import Opener
from pipelines.labelling.settings import Settings
from pipelines.labelling.work import Event, Piece, PieceEnd, Unit
from stream_ann import weights as weights_room
from stream_ann.batching import Pace
from stream_ann.errors import MissingExtraError, StreamAnnError, UsageError, WeightsError

__all__ = ["Cluster"]

WAIT_S = 0.2
"""How often it looks whether it is to stop."""
RETRIES = 3
"""A unit that has cost so many workers more is given up: its videos count as failed."""


class LabelWorker:
    """An actor: labels units with an engine of its own.

    Args:
        shared: What decides the labels; all videos of the job, at paths that every machine can read; and the kind of
            device to decode on.
    """

    def __init__(self, shared: tuple[Settings, Sequence[Video], str | None]) -> None:
        settings, videos, hwaccel = shared
        loaded = weights_room.load(settings.weights)
        if loaded.card.file.sha256 != settings.sha256:
            raise WeightsError(f"'{settings.weights}' are other weights on this machine", "copy them to all machines")
        self._pace_s: float | None = None
        opener = Opener(settings, loaded, videos, lambda: self._pace_s, 1, hwaccel)
        self._worker = opener.worker(opener.engine())

    def label(self, unit: Unit, pace_s: float | None) -> list[Event]:
        """All events of a unit."""
        self._pace_s = pace_s
        return list(self._worker.run(unit, threading.Event()))

    def process_id(self) -> int:
        """Number of its process."""
        return os.getpid()


@dataclass(slots=True, eq=False)
class _Given:
    """A unit that was handed out, and what has come of it."""

    unit: Unit
    events: list[Event] | None = None
    actor: Any = None


class Cluster:
    """Labels units on a Ray cluster, a bounded way ahead of whoever takes the answers.

    Args:
        units: The units in order.
        settings: What decides the labels.
        videos: All videos of the job.
        address: ``"auto"`` for the cluster that this machine belongs to, ``"ray://HOST:PORT"``, or ``"local"`` for one
            on this machine alone.
        workers: Number of actors; by default one for each GPU or core of the cluster.
        pace: How long a frame may take now.
        hwaccel: Kind of device to decode on.

    Raises:
        MissingExtraError: If Ray is not installed.
        UsageError: If the address makes no sense.
    """

    def __init__(
        self,
        units: Iterator[Unit],
        settings: Settings,
        videos: Sequence[Video],
        *,
        address: str,
        workers: int | None,
        pace: Pace,
        hwaccel: str | None,
    ) -> None:
        if address not in ("auto", "local") and not address.startswith("ray://"):
            raise UsageError(f"no cluster is at '{address}'", "give auto, local, or ray://HOST:10001")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        self._ray = _ray()
        self._units = units
        self._on_gpu = settings.device.startswith("cuda")
        self._settings = replace(settings, device="cuda" if self._on_gpu else settings.device)
        self._videos = tuple(videos)
        self._address = address
        self._wanted = workers
        self._pace = pace
        self._hwaccel = hwaccel
        self._stop = threading.Event()
        self._ours = False
        self._actors: list[Any] = []
        self._shared: Any = None

    def start(self) -> None:
        """Connect to the cluster and start the actors.

        Raises:
            UsageError: If there is no cluster.
        """
        ray = self._ray
        if not ray.is_initialized():
            self._connect()
        count = self._wanted or max(1, int(ray.cluster_resources().get("GPU" if self._on_gpu else "CPU", 1)))
        # held as long as there are actors: one that is started again is given it anew
        self._shared = ray.put((self._settings, self._videos, self._hwaccel))
        actor = ray.remote(num_cpus=1, num_gpus=int(self._on_gpu), max_restarts=-1, max_task_retries=RETRIES)(
            LabelWorker
        )
        self._actors = [actor.remote(self._shared) for _ in range(count)]

    @property
    def active(self) -> int:
        """How many workers label at a time."""
        return max(1, len(self._actors))

    def process_ids(self) -> list[int]:
        """Number of each actor's process, on its machine."""
        found: list[int] = self._ray.get([actor.process_id.remote() for actor in self._actors])
        return found

    def results(self) -> Iterator[tuple[Unit, Iterator[Event]]]:
        """Each unit in order with its events. Ends early when stopped.

        Raises:
            StreamAnnError: If an actor cannot do its work.
        """
        idle = list(self._actors)
        order: deque[_Given] = deque()
        running: dict[Any, _Given] = {}
        while True:
            while idle and len(order) < 2 * len(self._actors) and not self._stop.is_set():
                unit = next(self._units, None)
                if unit is None:
                    break
                given = _Given(unit, actor=idle.pop())
                order.append(given)
                running[given.actor.label.remote(unit, self._pace())] = given
            if self._stop.is_set() or not order:
                return
            if running:
                ready, _ = self._ray.wait(list(running), num_returns=1, timeout=WAIT_S)
                for ref in ready:
                    given = running.pop(ref)
                    given.events = self._events(ref, given.unit)
                    idle.append(given.actor)
            while order and order[0].events is not None:
                done = order.popleft()
                yield done.unit, iter(done.events or ())

    def stop(self) -> None:
        """Ask to end. Safe to call from any thread and from a signal handler."""
        self._stop.set()

    def close(self) -> None:
        """End the actors, and the cluster if it was started here."""
        self._stop.set()
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []
        self._shared = None
        if self._ours:
            self._ours = False
            self._ray.shutdown()

    def _events(self, ref: Any, unit: Unit) -> list[Event]:
        errors = self._ray.exceptions
        try:
            events: list[Event] = self._ray.get(ref)
        except errors.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, StreamAnnError):
                raise cause from None
            raise
        except errors.ActorUnschedulableError as error:
            raise UsageError("the cluster has no room for a worker", "give fewer --workers") from error
        except errors.RayActorError as error:
            why = getattr(getattr(error, "cause", None), "cause", None)
            if isinstance(why, StreamAnnError):  # it could not even be opened
                raise why from None
            return [_lost(piece, self._videos) for piece in unit.pieces]
        return events

    def _connect(self) -> None:
        options: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
        if self._address == "local":
            options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1", "num_cpus": self._wanted}
        else:
            options["address"] = self._address
        try:
            with _signals_kept():
                self._ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"no Ray cluster answers at '{self._address}'", "start one: ray start --head; or use --cluster local"
            ) from error
        self._ours = True


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise MissingExtraError("cluster", "ray") from error
    return ray


def _lost(piece: Piece, videos: Sequence[Video]) -> PieceEnd:
    what = f"'{videos[piece.video].name}' was given up: {RETRIES + 1} workers were lost while it was labelled"
    return PieceEnd(piece, 0, 0, what, 0.0)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself where it is started in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
