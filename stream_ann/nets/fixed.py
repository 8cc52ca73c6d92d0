"""One exit of an anytime network as a network of its own: what one would run who knew the budget beforehand."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from stream_ann.nets.contract import AnytimeNet, Member, State, Step

__all__ = ["FixedNet"]


class _Chain(Step):
    """Steps of one member in a row as a single one; of the exits, only the last one's logits are computed."""

    def __init__(self, steps: Sequence[Step]) -> None:
        super().__init__()
        self.chain = nn.ModuleList(steps)

    def forward(self, images: Tensor, state: State) -> tuple[State, Tensor]:
        """See :meth:`Step.forward`. There is no step behind it, so the state returned is empty."""
        *before, last = [step for step in self.chain if isinstance(step, Step)]
        for step in before:
            state = step.advance(images, state)
        return (), last(images, state)[1]


class FixedNet(AnytimeNet):
    """The member of one exit, run to that exit alone: no members before it, and no heads on the way.

    It shares its parameters with the net that it was taken from.

    Args:
        net: The anytime network.
        exit: Which exit of its plan, from 0.

    Raises:
        ValueError: If there is no such exit.
    """

    def __init__(self, net: AnytimeNet, exit: int) -> None:
        super().__init__()
        left = exit
        for member in net.members():
            if 0 <= left < len(member.steps):
                break
            left -= len(member.steps)
        else:
            raise ValueError(f"there is no exit {exit}")
        self.classes = net.classes
        self._name = member.name if left + 1 == len(member.steps) else f"{member.name} to exit {left + 1}"
        self._resolution_px = member.resolution_px
        self.step = _Chain(member.steps[: left + 1])
        self.train(net.training)

    def members(self) -> Sequence[Member]:
        """The one member, of one step."""
        return (Member(self._name, self._resolution_px, (self.step,)),)
