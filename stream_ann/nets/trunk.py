"""A net of one member: blocks in a row, with exit heads between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import Tensor, nn

from stream_ann.nets.checks import MAX_CLASSES, resolution, whole
from stream_ann.nets.contract import AnytimeNet, Member, State, Step

__all__ = ["Trunk", "TrunkStep"]


class TrunkStep(Step):
    """Some blocks in a row, and the head behind them. Its state is the features after the last block.

    Args:
        body: The blocks; at a member's first step the stem as well.
        head: From the features to the logits.
    """

    def __init__(self, body: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)
        self.head = head

    def forward(self, images: Tensor, state: State) -> tuple[State, Tensor]:
        """See :meth:`Step.forward`. The state returned is (float [B, channels, H', W'],)."""
        features = self.body(state[0] if state else images)
        return (features,), self.head(features)

    def advance(self, images: Tensor, state: State) -> State:
        """See :meth:`Step.advance`: the blocks without the head."""
        return (self.body(state[0] if state else images),)


class Trunk(AnytimeNet):
    """A net of one member. Subclasses make the parts and describe them in :attr:`arch`.

    The parts are registered as ``stem``, ``blocks.N`` and ``heads.N``, by the number of the block, so that their names
    in a state dict do not depend on where the exits are: weights can be carried over from a net with other exits. The
    steps hold the same modules. Change a part in place; do not put another module into ``blocks``.

    Args:
        label: What the member is called before its resolution, e.g. ``"lite0"``.
        classes: Number of classes.
        resolution_px: Side of the square input images.
        stem: From images to the input of the first block.
        blocks: The blocks in order.
        heads: The head after each block that has one, by the number of the block from 0; the last block must have one.

    Raises:
        UsageError: ``classes`` or ``resolution_px`` is out of range.
    """

    def __init__(
        self,
        label: str,
        *,
        classes: int,
        resolution_px: int,
        stem: nn.Module,
        blocks: Sequence[nn.Module],
        heads: Mapping[int, nn.Module],
    ) -> None:
        super().__init__()
        assert len(blocks) - 1 in heads, "the last block has no head"
        self.label = label
        self.classes = whole("classes", classes, 1, MAX_CLASSES)
        self.resolution_px = resolution(resolution_px)
        self.stem = stem
        self.blocks = nn.ModuleList(blocks)
        self.heads = nn.ModuleDict({str(i): heads[i] for i in sorted(heads)})
        steps, start = [], 0
        for i in sorted(heads):
            body = [*([stem] if start == 0 else []), *blocks[start : i + 1]]
            steps.append(TrunkStep(body, heads[i]))
            start = i + 1
        # A tuple is not registered by nn.Module: the parts above are the one place where the parameters have names.
        self._steps: tuple[Step, ...] = tuple(steps)

    @property
    def arch(self) -> dict[str, Any]:
        """What :func:`stream_ann.nets.build` makes this net from, as plain JSON data."""
        raise NotImplementedError

    def members(self) -> Sequence[Member]:
        """The one member, named e.g. ``"lite0@224"``."""
        return (Member(f"{self.label}@{self.resolution_px}", self.resolution_px, self._steps),)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, of the unregistered steps as well."""
        super().train(mode)
        for step in self._steps:
            step.train(mode)
        return self
