"""Who takes part in the benchmark: the anytime network under each policy, and the fixed networks it has to beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from stream_ann.engines import open_engine
from stream_ann.errors import UsageError, nearest
from stream_ann.nets import Backbone, FixedNet, Plan, backbones
from stream_ann.preprocess import Preprocessing
from stream_ann.scheduler import Engine
from stream_ann.weights import Weights

__all__ = ["Network", "OpenEngine", "anytime_network", "fixed_networks", "rival_network"]

TORCHVISION = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop=0.875, interpolation="bilinear")
"""What torchvision's published classification networks are evaluated with, up to their resize sizes."""

Kind = Literal["anytime", "fixed", "rival"]


class OpenEngine(Engine, Protocol):
    """An engine that has to be closed."""

    def close(self) -> None:
        """Let go of the device. May be called more than once."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A network that is measured and run."""

    name: str
    """What it is called in tables."""
    kind: Kind
    """The one that is judged; one exit of it as a network of its own; or another network altogether."""
    plan: Plan
    """Its steps."""
    open: Callable[[], OpenEngine]
    """Opens an engine for it, which the caller closes."""
    exits: tuple[int, ...] | None
    """Which exits of the anytime network give its answers; None: it has answers of its own."""
    steps: tuple[int, ...] = ()
    """Of one exit as a network of its own: the steps of the anytime network that lead to it."""


def anytime_network(loaded: Weights, *, device: str, engine: str, threads: int | None, lanes: int = 1) -> Network:
    """The network that is judged, with so many frames in the works at once."""

    def opened() -> OpenEngine:
        return open_engine(
            loaded.net,
            loaded.card.preprocessing,
            device=device,
            engine=engine,
            threads=threads,
            temperatures=loaded.card.temperatures,
            lanes=lanes,
        )

    return Network(loaded.card.name, "anytime", loaded.plan, opened, tuple(range(len(loaded.plan))))


def fixed_networks(loaded: Weights, *, device: str, engine: str, threads: int | None) -> list[Network]:
    """Every exit as a fixed network on the same engine: its own member run to that exit, and nothing else."""
    networks = []
    for exit_, name in enumerate(loaded.plan.exit_names):
        net = FixedNet(loaded.net, exit_)
        begin = max(i for i in range(exit_ + 1) if loaded.plan.steps[i].first)

        def opened(net: FixedNet = net, exit_: int = exit_) -> OpenEngine:
            return open_engine(
                net,
                loaded.card.preprocessing,
                device=device,
                engine=engine,
                threads=threads,
                temperatures=[loaded.card.temperatures[exit_]],
            )

        networks.append(Network(f"fixed {name}", "fixed", net.plan(), opened, (exit_,), tuple(range(begin, exit_ + 1))))
    return networks


def rival_network(spec: str, loaded: Weights, *, device: str, engine: str, threads: int | None) -> Network:
    """Another network on the same stream.

    Args:
        spec: The name of a torchvision network, whose published weights torchvision then downloads, or with weights of
            one's own ``NAME=FILE.pth``; or the path of an ONNX (.onnx) or OpenVINO (.xml) file that takes
            float [1, 3, H, W], preprocessed as the card says, and gives float [1, classes].
        loaded: The network that is judged, for the classes and the preprocessing.
        device: Where it runs.
        engine: What runs it, but for files, which OpenVINO runs.
        threads: Torch threads on the CPU.

    Raises:
        UsageError: There is no such network, or it knows another number of classes.
    """
    if Path(spec).suffix.lower() in (".onnx", ".xml"):
        from pipelines.benchmarking.model_file import FileEngine

        file = Path(spec)
        probe = FileEngine(file, loaded.card.preprocessing, classes=len(loaded.card.classes), threads=threads)
        probe.close()

        def from_file() -> OpenEngine:
            return FileEngine(file, loaded.card.preprocessing, classes=len(loaded.card.classes), threads=threads)

        return Network(file.name, "rival", probe.plan, from_file, None)
    name, _, weights = spec.partition("=")
    if name not in backbones():
        raise UsageError(f"no rival is called '{name}'", nearest(name, ["fixed", *backbones()]))
    backbone = Backbone(name, classes=len(loaded.card.classes))
    _fill(backbone, name, weights)
    net = FixedNet(backbone.eval(), len(backbone.plan()) - 1)

    def opened() -> OpenEngine:
        return open_engine(net, TORCHVISION, device=device, engine=engine, threads=threads)

    return Network(name, "rival", net.plan(), opened, None)


def _fill(backbone: Backbone, name: str, weights: str) -> None:
    """Give a torchvision network its weights."""
    import pickle

    import torch

    if not weights:
        try:
            left_out: Sequence[str] = backbone.load_torchvision("DEFAULT")
        except OSError as error:
            what = f"the published weights of '{name}' cannot be downloaded"
            raise UsageError(what, f"download them elsewhere, and give --against {name}=FILE.pth") from error
    else:
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise UsageError(f"'{weights}' holds no weights that can be read", "give a state dict") from error
        left_out = backbone.load_torchvision(state)
    if left_out:
        what = f"the weights of '{name}' are for another number of classes"
        raise UsageError(what, f"the network that is judged knows {backbone.classes}")
