"""Parameters that two networks have in common."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence

from torch import nn

from stream_ann.errors import UsageError

__all__ = ["tie"]


def tie(net: nn.Module, source: nn.Module, parts: Sequence[str]) -> None:
    """Let parts of ``net`` use the parameters of the same parts of ``source``: from then on they are one and the same.

    The modules stay apart, and so do their buffers (the statistics of batch norms, a hundredth of a network): a
    parameter stays shared when a net moves to another device, a buffer would not.

    Args:
        net: Whose parameters are replaced.
        source: Whose parameters are used.
        parts: Names of modules that both have, e.g. ``"stem"`` or ``"heads.15.linear"``.

    Raises:
        UsageError: A part is missing in one of them, or differs in its parameters.
    """
    for part in parts:
        try:
            own, other = (dict(which.get_submodule(part).named_modules()) for which in (net, source))
        except AttributeError as error:
            what = f"both networks do not have a part {reprlib.repr(part)}"
            raise UsageError(what, "name a module of both") from error
        shapes = [{n: p.shape for n, p in which.get_submodule(part).named_parameters()} for which in (net, source)]
        if not part or own.keys() != other.keys() or shapes[0] != shapes[1]:
            raise UsageError(f"the two parts {reprlib.repr(part)} differ in shape", "tie parts that are alike")
        for name, module in own.items():
            for key, _ in list(module.named_parameters(recurse=False)):
                setattr(module, key, getattr(other[name], key))
