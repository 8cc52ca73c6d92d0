"""EANN: a sequence of anytime networks, each about twice as expensive as the one before."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from stream_ann.errors import UsageError, nearest
from stream_ann.nets.checks import resolution
from stream_ann.nets.contract import AnytimeNet, Member
from stream_ann.nets.tying import tie

__all__ = ["EANN", "MAX_MEMBERS", "MAX_TRUNKS"]

MAX_TRUNKS = 8
MAX_MEMBERS = 32


class EANN(AnytimeNet):
    """Members that run one after another, the answer being the newest one's (Hu et al., arXiv 1708.06832v2).

    A member is a trunk at a resolution. Several members may share a trunk: the same weights at a growing resolution are
    members of a growing cost. The trunk is then registered, stored and moved once, and its steps are the same objects
    at every resolution. Trunks of their own may still have parts in common: a trunk that was fine-tuned for one
    resolution, but for its first blocks and its classifier, needs to store the others only.

    Args:
        trunks: The trunks by name: lower-case letters, digits, ``_`` and ``-``. Each is a net of one member, whose own
            resolution is ignored; all have the same classes.
        members: (name of a trunk, resolution in pixels) of each member in the order in which they run.
        tied: By the name of a trunk, what it has in common with an earlier one: that one's name, and the names of
            modules (``"stem"``, ``"blocks.0"``) whose parameters it takes over, see :func:`stream_ann.nets.tying.tie`.

    Raises:
        UsageError: No or too many trunks or members, a bad name, a trunk that does not fit, one that is unknown or not
            used, a member that occurs twice, or parts that cannot be tied.
    """

    def __init__(
        self,
        trunks: Mapping[str, AnytimeNet],
        members: Sequence[tuple[str, int]],
        tied: Mapping[str, tuple[str, Sequence[str]]] | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= len(trunks) <= MAX_TRUNKS:
            raise UsageError(f"an EANN of {len(trunks)} trunks", f"it must have 1 to {MAX_TRUNKS}")
        if not 1 <= len(members) <= MAX_MEMBERS:
            raise UsageError(f"an EANN of {len(members)} members", f"it must have 1 to {MAX_MEMBERS}")
        registered = nn.ModuleDict()
        for name, trunk in trunks.items():
            # The names of ModuleDict's own methods ("keys", "pop") cannot be given to a module in it.
            if not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", name) or hasattr(registered, name):
                remedy = "take lower-case letters, digits, '_' and '-', a letter first, and no name of a torch method"
                raise UsageError(f"trunk name {reprlib.repr(name)} cannot be used", remedy)
            if len(trunk.members()) != 1:
                raise UsageError(f"trunk '{name}' has {len(trunk.members())} members", "a trunk must have one")
            registered[name] = trunk
        classes = {name: trunk.classes for name, trunk in trunks.items()}
        if len(set(classes.values())) != 1:
            shown = ", ".join(f"{name} {count}" for name, count in classes.items())
            raise UsageError(f"the trunks differ in their number of classes: {shown}", "give them the same classes")

        checked: list[tuple[str, int]] = []
        for name, resolution_px in members:
            if name not in trunks:
                raise UsageError(f"member of an unknown trunk {reprlib.repr(name)}", nearest(str(name), trunks))
            member = (name, resolution(resolution_px, f"resolution of a member of '{name}'"))
            if member in checked:
                raise UsageError(f"member {name}@{resolution_px} occurs twice", "list each member once")
            checked.append(member)
        idle = sorted(set(trunks) - {name for name, _ in checked})
        if idle:
            raise UsageError(f"trunk '{idle[0]}' has no member", "leave it out, or list a member of it")

        self.classes = next(iter(classes.values()))
        self.trunks = registered
        self._members = tuple(checked)
        self._tied = {name: (source, tuple(parts)) for name, (source, parts) in (tied or {}).items() if parts}
        earlier = list(trunks)
        for name, (source, parts) in self._tied.items():
            if name not in trunks or source not in earlier[: earlier.index(name)]:
                what = f"trunk {reprlib.repr(name)} is tied to {reprlib.repr(source)}"
                raise UsageError(what, "tie a trunk to one that comes before it")
            tie(trunks[name], trunks[source], parts)

    def members(self) -> Sequence[Member]:
        """The members, named e.g. ``"lite0@96"``: that of a trunk ``"lite0"``, or of one of its own, ``"lite0-96"``."""
        steps = {name: trunk.members()[0].steps for name, trunk in self._trunks().items()}
        names = _member_names(self._members)
        return tuple(Member(n, px, steps[name]) for n, (name, px) in zip(names, self._members, strict=True))

    @property
    def arch(self) -> dict[str, Any]:
        """What :func:`stream_ann.nets.build` makes this net from, as plain JSON data."""
        from stream_ann.nets.registry import arch_of  # the registry imports this module

        arch: dict[str, Any] = {
            "name": "eann",
            "trunks": {name: arch_of(trunk) for name, trunk in self._trunks().items()},
            "members": [[name, resolution_px] for name, resolution_px in self._members],
        }
        if self._tied:
            arch["tied"] = {name: [source, list(parts)] for name, (source, parts) in self._tied.items()}
        return arch

    def _trunks(self) -> dict[str, AnytimeNet]:
        return {name: trunk for name, trunk in self.trunks.items() if isinstance(trunk, AnytimeNet)}


def _member_names(members: Sequence[tuple[str, int]]) -> list[str]:
    """``trunk@resolution``, without a resolution at the end of a trunk's name where that leaves the names different."""
    whole = [f"{name}@{px}" for name, px in members]
    short = [f"{name.removesuffix(f'-{px}')}@{px}" for name, px in members]
    return short if len(set(short)) == len(short) else whole
