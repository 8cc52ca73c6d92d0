"""Keeping a share of what distilling has changed in the members of an EANN."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stream_ann.errors import UsageError, nearest
from stream_ann.nets import EANN, AnytimeNet, arch_of
from stream_ann.training.own_trunk import in_common, interpolate, own_trunk

__all__ = ["blended", "changed_members", "kept_exits", "on_network_of", "with_trunks"]


@dataclass(frozen=True, slots=True)
class _Place:
    """A member, and what it runs."""

    name: str
    trunk_name: str
    trunk: AnytimeNet
    resolution_px: int


def kept_exits(before: EANN, after: EANN) -> dict[int, int]:
    """The exits that answer as they did: by the number of one in ``after``, its number in ``before``.

    Args:
        before: An EANN.
        after: One with as many members, in which some have been trained or been given exits.

    Returns:
        All exits of the members whose tensors are what they were; of a member that only got new exits, the last one.
    """
    old, new = before.plan().steps, after.plan().steps
    kept: dict[int, int] = {}
    for number, (then, now) in enumerate(zip(_places(before), _places(after), strict=True)):
        if _holds(now.trunk, then.trunk.state_dict()):
            theirs = [i for i, step in enumerate(old) if step.member == number]
            own = [i for i, step in enumerate(new) if step.member == number]
            kept |= dict(zip(own, theirs, strict=True)) if len(own) == len(theirs) else {own[-1]: theirs[-1]}
    return kept


def changed_members(before: EANN, after: EANN) -> tuple[str, ...]:
    """Names, in ``before``, of the members that answer otherwise in ``after``, or have more exits there.

    Raises:
        UsageError: The two do not have the same members: as many, of the same networks, at the same resolutions.
    """
    names = []
    for then, now in _pairs(before, after):
        if not (_holds(now.trunk, then.trunk.state_dict()) and _holds(then.trunk, now.trunk.state_dict())):
            names.append(then.name)
    return tuple(names)


def blended(
    before: EANN, after: EANN, share: float, *, members: Sequence[str] | None = None, new_exits: bool = True
) -> EANN:
    """An EANN that has gone part of the way from how it was to how distilling left it (Wortsman et al., 2109.01903).

    Every floating-point tensor of the members that have changed is ``share`` of the way from the one to the other.
    Those of new exits, which only ``after`` has, are taken as they are.

    Args:
        before: The EANN before; its trunks are used where a member stays as it was, and not changed.
        after: The EANN after; nothing of it is used but copies.
        share: How much of the way is gone, 0 to 1.
        members: Which of the changed members go that way, by their names in ``before``; None for all. The others are as
            they were.
        new_exits: Whether they have the exits that only ``after`` has.

    Returns:
        The EANN, in evaluation mode. Convolutions and classifiers that trunks have in common are stored once.

    Raises:
        UsageError: The two do not have the same members, a name is not that of a member that changed, or ``share`` is
            not a share.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"share is {share}", "it must be from 0 to 1")
    changed = changed_members(before, after)
    for name in changed if members is None else members:
        if name not in changed:
            raise UsageError(f"no member that was changed is called '{name}'", nearest(name, changed))
    chosen = set(changed if members is None else members)
    own: dict[str, AnytimeNet] = {}
    for then, now in _pairs(before, after):
        if then.name in chosen:
            trunk = _between(before, then, now, share, new_exits)
            if not (_holds(trunk, then.trunk.state_dict()) and _holds(then.trunk, trunk.state_dict())):
                own[then.name] = trunk
    return with_trunks(before, own, after)


def on_network_of(net: AnytimeNet, member: str, source: str) -> EANN:
    """An EANN in which a member runs the network of another one, with batch norms of its own.

    Convolutions and classifiers become the other member's, and are stored once; what depends on the resolution most,
    the batch norms, stays (Wang et al., "Resolution Switchable Networks", ECCV 2020). That is close to what the member
    was where the two networks come from one, and a start for training them together.

    Args:
        net: An EANN; not changed, but its other trunks are used.
        member: Name of the member that changes.
        source: Name of the member whose network it gets.

    Returns:
        The EANN, in evaluation mode, with the members as they are called in ``net``.

    Raises:
        UsageError: There are no such members, their networks differ in kind, or they have all that in common already.
    """
    with torch.random.fork_rng(devices=[]):  # copies begin at random, and are then filled
        trunk, other = (own_trunk(net, name)[0] for name in (member, source))
    assert isinstance(net, EANN)
    kinds = [arch_of(which)["name"] for which in (trunk, other)]
    if kinds[0] != kinds[1]:
        raise UsageError(f"{member} runs {kinds[0]} and {source} {kinds[1]}", "name two members of one architecture")
    theirs = dict(other.named_modules(remove_duplicate=False))
    parts = [part for part in in_common(trunk) if part in theirs and _alike(trunk.get_submodule(part), theirs[part])]
    if not set(parts) - set(_equal_parts(trunk, other)):
        raise UsageError(f"{member} and {source} run one network already", "name members of different networks")
    for part in parts:
        trunk.get_submodule(part).load_state_dict(theirs[part].state_dict())
    return with_trunks(net, {member: trunk.eval()})


def _between(before: EANN, then: _Place, now: _Place, share: float, new_exits: bool) -> AnytimeNet:
    """What a member runs that has gone part of the way."""
    blocks = arch_of(now.trunk if new_exits else then.trunk).get("exits")
    one_classifier = new_exits and bool(arch_of(now.trunk).get("one_classifier"))
    with torch.random.fork_rng(devices=[]):  # heads that are new begin at random, and are then filled
        start, fresh = own_trunk(before, then.name, exits=blocks, one_classifier=one_classifier)
    trunk, trained = copy.deepcopy(start), now.trunk.state_dict()
    wanted = trunk.state_dict()
    if any(key not in trained or trained[key].shape != tensor.shape for key, tensor in wanted.items()):
        raise UsageError(f"member '{then.name}' has other layers in the two", "blend weights with what came of them")
    trunk.load_state_dict({key: trained[key] for key in wanted})
    interpolate(trunk, start, share, fresh)
    return trunk.eval()


def with_trunks(net: EANN, own: Mapping[str, AnytimeNet], called: EANN | None = None) -> EANN:
    """An EANN like another one, in which some members run other trunks.

    Convolutions and classifiers that trunks of one architecture have in common become one, and are stored once.

    Args:
        net: The EANN; its other trunks are used, not copied.
        own: The trunk of each member, by the member's name.
        called: An EANN with the same members, whose trunks' names are taken where they are free; by default ``net``.

    Returns:
        The EANN, in evaluation mode.
    """
    before, after = net, net if called is None else called
    places = _places(before)
    trunks = {place.trunk_name: place.trunk for place in places if place.name not in own}
    trunks = {name: trunks[name] for name in before.arch["trunks"] if name in trunks}
    ties: dict[str, tuple[str, Sequence[str]]] = {
        name: (source, parts)
        for name, (source, parts) in before.arch.get("tied", {}).items()
        if name in trunks and source in trunks
    }
    members = []
    for then, now in zip(places, _places(after), strict=True):
        name = then.trunk_name
        if then.name in own:
            name, trunk = now.trunk_name, own[then.name]
            while name in trunks:
                name = f"{name}-{then.resolution_px}"
            common = {source: _equal_parts(trunk, other) for source, other in trunks.items()}
            best = max(common, key=lambda source: len(common[source]), default=None)
            if best is not None and common[best]:
                ties[name] = (best, common[best])
            trunks[name] = trunk
        members.append((name, then.resolution_px))
    return EANN(trunks, members, ties).eval()


def _equal_parts(trunk: AnytimeNet, other: AnytimeNet) -> list[str]:
    """Names of the convolutions and classifiers that are the same in two trunks."""
    if arch_of(trunk)["name"] != arch_of(other)["name"]:
        return []
    theirs = dict(other.named_modules(remove_duplicate=False))
    equal = []
    for part in in_common(trunk):
        tensors = trunk.get_submodule(part).state_dict()
        if part in theirs and _holds(theirs[part], tensors):
            equal.append(part)
    return equal


def _pairs(before: EANN, after: EANN) -> list[tuple[_Place, _Place]]:
    """Each member as it was and as it is, checked."""
    old, new = _places(before), _places(after)
    networks = [[(arch_of(p.trunk)["name"], p.resolution_px) for p in places] for places in (old, new)]
    if networks[0] != networks[1]:
        shown = (", ".join(p.name for p in places) for places in (old, new))
        remedy = "blend weights with what distilling made of them"
        raise UsageError(f"the members differ: {' and '.join(f'({names})' for names in shown)}", remedy)
    return list(zip(old, new, strict=True))


def _places(net: EANN) -> list[_Place]:
    found = []
    for member, (name, resolution_px) in zip(net.members(), net.arch["members"], strict=True):
        trunk = net.trunks[name]
        assert isinstance(trunk, AnytimeNet)
        found.append(_Place(member.name, name, trunk, resolution_px))
    return found


def _alike(module: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two modules have tensors of the same names and shapes."""
    shapes = [{key: tensor.shape for key, tensor in which.state_dict().items()} for which in (module, other)]
    return shapes[0] == shapes[1]


def _holds(module: torch.nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a module has all these tensors, by name, as they are."""
    own = module.state_dict()
    return all(
        key in own and own[key].shape == tensor.shape and torch.equal(own[key].cpu(), tensor.cpu())
        for key, tensor in tensors.items()
    )
