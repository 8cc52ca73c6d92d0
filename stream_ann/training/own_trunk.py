"""A trunk of its own for a member of an EANN: to be trained for its resolution, and with more exits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from stream_ann.errors import UsageError, nearest
from stream_ann.nets import EANN, AnytimeNet, build
from stream_ann.training.checkpoint import tensors_of

__all__ = [
    "count_norms",
    "frozen",
    "in_common",
    "interpolate",
    "own_trunk",
    "part_of",
    "with_members",
    "with_own_trunks",
]


def own_trunk(
    net: AnytimeNet, member: str, *, exits: Sequence[int] | None = None, one_classifier: bool = False
) -> tuple[AnytimeNet, frozenset[str]]:
    """A copy of the trunk that a member runs, made for the member's resolution.

    Args:
        net: An EANN.
        member: The member's name, e.g. ``"lite0@96"``.
        exits: Numbers of the blocks that the copy has auxiliary heads behind; None for the ones that it has.
        one_classifier: Whether additional heads end in the classifier of the last one.

    Returns:
        The copy, on the CPU, and the names of the parameters that are new in it: those of additional heads.

    Raises:
        UsageError: There is no such member, or exits cannot be added to its network.
    """
    name, resolution_px = _member(net, member)
    arch = dict(net.arch["trunks"][name]) if isinstance(net, EANN) else {}
    arch["resolution_px"] = resolution_px
    if exits is not None:
        if "exits" not in arch:
            raise UsageError(f"exits cannot be added to a {arch['name']}", "take a member whose card lists exits")
        arch["exits"] = list(exits)
        if one_classifier and exits:
            arch["one_classifier"] = True
    assert isinstance(net, EANN)
    trunk, old = build(arch), net.trunks[name].state_dict()
    copied = set()
    with torch.no_grad():
        for key, tensor in trunk.state_dict(keep_vars=True).items():
            if key in old and old[key].shape == tensor.shape:
                tensor.copy_(old[key])
                copied.add(id(tensor))
    return trunk, frozenset(key for key, tensor in tensors_of(trunk).items() if id(tensor) not in copied)


def frozen(trunk: AnytimeNet, blocks: int) -> tuple[str, ...]:
    """Keep the stem, some blocks, and the last classifier of a trunk as they are: their parameters need no gradient.

    The classifier holds one vector for each class. What is trained on some classes only cannot spoil those of others.

    Args:
        trunk: The trunk.
        blocks: How many of the first blocks are kept; 0 for none, and neither the stem.

    Returns:
        The names of the parts that stay, which :func:`with_own_trunks` can leave to another trunk.

    Raises:
        UsageError: There are not as many blocks, or the network has no stem and blocks.
    """
    names = dict(trunk.named_modules(remove_duplicate=False))
    known = [key for key in names if key.startswith("blocks.") and key.count(".") == 1]
    if blocks >= max(1, len(known)):
        raise UsageError(f"{blocks} blocks to keep as they are", f"the network has {len(known)}: leave some to train")
    linear = [key for key, module in names.items() if isinstance(module, nn.Linear)]
    parts = [*(["stem"] if blocks else []), *(f"blocks.{i}" for i in range(blocks)), *linear[-1:]]
    for part in parts:
        trunk.get_submodule(part).requires_grad_(False)
    return tuple(parts)


def in_common(trunk: AnytimeNet) -> tuple[str, ...]:
    """Names of the parts of a trunk that do not depend much on the resolution: all convolutions and classifiers.

    What is left are the batch norms. With those of their own, members of several resolutions can share a network that
    is trained for all of them (Wang et al., "Resolution Switchable Networks", ECCV 2020).
    """
    parts = trunk.named_modules(remove_duplicate=False)
    return tuple(name for name, part in parts if isinstance(part, nn.Conv2d | nn.Linear))


def with_own_trunks(
    net: AnytimeNet, own: Mapping[str, AnytimeNet], shared: Sequence[str] = (), names: Mapping[str, str] | None = None
) -> EANN:
    """An EANN like another one, in which some members run other trunks.

    Trunks that replace one and the same have all but their batch norms in common. Those that replace trunks which had
    something in common still have that; what a replaced trunk has in common with one that other members still run is
    what ``shared`` says.

    Args:
        net: The EANN; its other trunks are used, not copied.
        own: The trunk of each member, by the member's name.
        shared: Parts of the replaced trunks that stayed as they were: they are stored once.
        names: What trunks are called, by the member's name; by default the old one with the resolution, or as the old
            one if no other member runs that.

    Raises:
        UsageError: There is no such member, or a name is taken.
    """
    replaced = {_member(net, member): (member, trunk) for member, trunk in own.items()}
    assert isinstance(net, EANN)
    places = [(str(name), int(px)) for name, px in net.arch["members"]]
    staying = {name for name, px in places if (name, px) not in replaced}
    before = {name: (source, list(parts)) for name, (source, parts) in net.arch.get("tied", {}).items()}
    trunks: dict[str, AnytimeNet] = {}
    for name in net.arch["trunks"]:
        kept = net.trunks[name]
        if name in staying and isinstance(kept, AnytimeNet):
            trunks[name] = kept
    tied = {name: (source, parts) for name, (source, parts) in before.items() if {name, source} <= staying}
    members: list[tuple[str, int]] = []
    firsts: dict[str, str] = {}  # the first trunk that replaces each
    for name, px in places:
        if (name, px) not in replaced:
            members.append((name, px))
            continue
        member, trunk = replaced[name, px]
        alone = sum(other == name for other, _ in places) == 1
        called = (names or {}).get(member) or (name if alone else f"{name}-{px}")
        if called in trunks:
            raise UsageError(f"there is a trunk '{called}' already, which other members run", "choose another name")
        if name in firsts:
            tied[called] = (firsts[name], list(in_common(trunk)))
        elif name in staying:
            tied[called] = (name, list(shared))
        elif name in before:
            source, parts = before[name]
            if source in staying:
                tied[called] = (source, [part for part in parts if part in shared])
            elif source in firsts:
                tied[called] = (firsts[source], parts)
        firsts.setdefault(name, called)
        trunks[called] = trunk
        members.append((called, px))
    return EANN(trunks, members, tied).eval()


def part_of(net: EANN, numbers: Sequence[int]) -> EANN:
    """An EANN of some members of another one, by their numbers from 0 and in that order, with the same trunks."""
    return with_members(net, [(str(name), int(px)) for i, (name, px) in enumerate(net.arch["members"]) if i in numbers])


def with_members(net: EANN, members: Sequence[tuple[str, int]]) -> EANN:
    """An EANN of the same trunks, used and not copied, with other members: each a trunk and a resolution in pixels."""
    names = {name for name, _ in members}
    trunks = {name: trunk for name, trunk in net.trunks.items() if name in names and isinstance(trunk, AnytimeNet)}
    ties = net.arch.get("tied", {}).items()
    tied = {name: (source, parts) for name, (source, parts) in ties if {name, source} <= names}
    return EANN(trunks, members, tied)


def interpolate(net: AnytimeNet, start: AnytimeNet, share: float, fresh: Iterable[str] = ()) -> None:
    """Move the weights of a fine-tuned net part of the way back to where they started (Wortsman et al., 2109.01903).

    What fine-tuning on a narrow set of images forgets of others, it forgets fast; what it gains, it mostly keeps.

    Args:
        net: The net, changed in place.
        start: What it was fine-tuned from; tensors that this does not have, or of another shape, stay.
        share: How much of the way from ``start`` is kept, 0 to 1.
        fresh: Names of tensors that began anew, and stay.
    """
    old, spared = tensors_of(start), set(fresh)
    with torch.no_grad():
        for name, tensor in tensors_of(net).items():
            if name in old and name not in spared and old[name].shape == tensor.shape and tensor.is_floating_point():
                tensor.copy_(torch.lerp(old[name], tensor, share))


def count_norms(trunk: AnytimeNet, fresh: Iterable[str], batches: Iterable[Tensor]) -> None:
    """Let the batch norms of new heads see what comes in, so that they can be frozen from the start.

    Args:
        trunk: The trunk; evaluation mode afterwards.
        fresh: Names of its new parameters.
        batches: Normalised images, float32 [B, 3, R, R].
    """
    owners = {name.rpartition(".")[0] for name in fresh}
    norms = [m for name, m in trunk.named_modules() if name in owners and isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    trunk.eval()
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    with torch.no_grad():
        for images in batches:
            trunk(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    trunk.eval()


def _member(net: AnytimeNet, member: str) -> tuple[str, int]:
    """Trunk and resolution of a member."""
    if not isinstance(net, EANN):
        raise UsageError(f"a {type(net).__name__} has no members to choose from", "take an EANN, such as imagenet")
    places = [(str(name), int(px)) for name, px in net.arch["members"]]
    members = {known.name: place for known, place in zip(net.members(), places, strict=True)}
    if member not in members:
        raise UsageError(f"no member is called '{member}'", nearest(member, members))
    return members[member]
