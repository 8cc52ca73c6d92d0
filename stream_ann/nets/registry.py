"""Networks by name: from the plain data in a weights card to a net, and back.

A new network needs its class, whose constructor takes keyword arguments and checks them, an ``arch`` property that
gives its name and those arguments back, and one call::

    register("resann", ResANN)
register("denseann", DenseANN)
register("msdnet", MSDNet)
register("torchvision", Backbone)
register("boosted", _make_boosted)
"""

from __future__ import annotations

import functools
import inspect
import itertools
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import torch

from stream_ann.errors import CardError, UsageError, nearest
from stream_ann.nets.backbones import Backbone
from stream_ann.nets.boosted import Boosted
from stream_ann.nets.contract import AnytimeNet
from stream_ann.nets.dense import DenseANN
from stream_ann.nets.eann import EANN, MAX_MEMBERS, MAX_TRUNKS
from stream_ann.nets.lite import NATIVE_RESOLUTION_PX, Lite
from stream_ann.nets.msdnet import MSDNet
from stream_ann.nets.resann import ResANN

__all__ = ["MAX_VALUES", "arch_of", "architectures", "build", "register"]

MAX_VALUES = 200_000_000
"""Most parameters and buffer values that :func:`build` allocates: 800 MB in float32."""

MAX_TIED_PARTS = 256
"""Most parts that one trunk has in common with another."""

_makers: dict[str, Callable[..., AnytimeNet]] = {}


def register(name: str, make: Callable[..., AnytimeNet]) -> None:
    """Let :func:`build` make nets of a new architecture.

    Args:
        name: What stands under ``"name"`` in a weights card.
        make: The net's class or another callable. Its keyword arguments are the card's other keys, as JSON gives them;
            it must check their types and ranges, since cards are untrusted, and raise UsageError.

    Raises:
        UsageError: The name is taken.
    """
    if name in _makers:
        raise UsageError(f"there is an architecture '{name}' already", "take another name")
    _makers[name] = make


def architectures() -> tuple[str, ...]:
    """The names that :func:`build` knows, sorted."""
    return tuple(sorted(_makers))


def build(arch: Mapping[str, Any], *, device: str | torch.device = "cpu") -> AnytimeNet:
    """Make a net, with fresh weights, from plain data.

    Args:
        arch: ``"name"``, one of :func:`architectures`, and the arguments of that net's class, e.g.
            ``{"name": "resann", "classes": 10, "n": 3, "c": 16, "s": 3, "resolution_px": 32}``. An EANN has
            ``"trunks"``, each an architecture of its own by name, and ``"members"``, a list of [trunk, resolution_px].
        device: Where its tensors are made; ``"meta"`` makes them without data.

    Raises:
        CardError: A key is unknown or missing, a value is of the wrong type or out of range, or the net would have more
            than ``MAX_VALUES`` values. Nothing large is allocated before all that is known.
    """
    with torch.device("meta"):
        sketch = _make(arch, "arch")
    values = sum(tensor.numel() for tensor in itertools.chain(sketch.parameters(), sketch.buffers()))
    if values > MAX_VALUES:
        raise CardError(f"arch: the net would have {values:,} values", f"at most {MAX_VALUES:,} are allowed")
    if torch.device(device).type == "meta":
        return sketch
    with torch.device(device):
        return _make(arch, "arch")


def arch_of(net: AnytimeNet) -> dict[str, Any]:
    """What :func:`build` makes a net like ``net`` from, as plain JSON data, every default written out.

    Raises:
        UsageError: The net has no ``arch``.
    """
    arch = getattr(net, "arch", None)
    if not isinstance(arch, dict):
        raise UsageError(f"a {type(net).__name__} has no arch", "give its class an arch property (a dict)")
    return arch


def _make(arch: object, where: str) -> AnytimeNet:
    """Make the net that ``arch`` describes; ``where`` is its place in the card, for messages."""
    if not isinstance(arch, Mapping):
        raise CardError(f"{where} is {reprlib.repr(arch)}", "it must be an object with a 'name'")
    name = arch.get("name")
    if not isinstance(name, str) or name not in _makers:
        raise CardError(f"{where}.name is {reprlib.repr(name)}", nearest(str(name)[:100], architectures()))
    make = _makers[name]
    given = {key: value for key, value in arch.items() if key != "name"}
    accepted = inspect.signature(make).parameters
    for key in given:
        if key not in accepted:
            raise CardError(f"{where} has an unknown key {reprlib.repr(key)}", nearest(str(key)[:100], accepted))
    for key, parameter in accepted.items():
        if key not in given and parameter.default is inspect.Parameter.empty:
            raise CardError(f"{where} has no '{key}'", f"'{name}' needs it")
    try:
        return make(**given)
    except UsageError as error:
        raise CardError(f"{where}: {error.what}", error.remedy) from error


def _make_eann(trunks: Any, members: Any, tied: Any = None) -> EANN:
    # Checked before any trunk is made: each takes some time, even without data.
    if not isinstance(trunks, Mapping) or not 1 <= len(trunks) <= MAX_TRUNKS:
        raise UsageError(f"trunks is {reprlib.repr(trunks)}", f"it must be an object of 1 to {MAX_TRUNKS} trunks")
    pairs = isinstance(members, list | tuple) and 1 <= len(members) <= MAX_MEMBERS
    if not pairs or not all(isinstance(m, list | tuple) and len(m) == 2 and isinstance(m[0], str) for m in members):
        remedy = f"it must be a list of 1 to {MAX_MEMBERS} pairs [trunk, resolution_px]"
        raise UsageError(f"members is {reprlib.repr(members)}", remedy)
    _check_tied({} if tied is None else tied)
    nets = {}
    for name, arch in trunks.items():
        where = f"arch.trunks[{reprlib.repr(name)}]"
        if isinstance(arch, Mapping) and arch.get("name") == "eann":
            raise CardError(f"{where}.name is 'eann'", "an EANN cannot be a trunk of another one")
        nets[name] = _make(arch, where)
    return EANN(nets, [(name, resolution_px) for name, resolution_px in members], tied)


def _check_tied(tied: Any) -> None:
    """Raise UsageError unless ``tied`` is an object of [trunk, [parts]] by trunk: the names are checked by the EANN."""
    fits = isinstance(tied, Mapping) and len(tied) <= MAX_TRUNKS
    for value in tied.values() if fits else ():
        fits &= isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], str)
        fits = fits and isinstance(value[1], list | tuple) and len(value[1]) <= MAX_TIED_PARTS
        fits = fits and all(isinstance(part, str) for part in value[1])
    if not fits:
        raise UsageError(f"tied is {reprlib.repr(tied)}", "it must be an object of [trunk, [parts of it]] by trunk")


def _make_boosted(net: Any, shrink: Any = 0.5) -> Boosted:
    # With these as its net, a card could nest without end.
    if isinstance(net, Mapping) and net.get("name") in ("boosted", "eann"):
        remedy = "boost a net of one member; to boost an EANN's members, boost its trunks"
        raise UsageError(f"net.name is '{net['name']}'", remedy)
    return Boosted(_make(net, "arch.net"), shrink=shrink)


for _variant in range(len(NATIVE_RESOLUTION_PX)):
    register(f"efficientnet-lite{_variant}", functools.partial(Lite, _variant))
register("resann", ResANN)
register("denseann", DenseANN)
register("msdnet", MSDNet)
register("torchvision", Backbone)
register("boosted", _make_boosted)
register("eann", _make_eann)
