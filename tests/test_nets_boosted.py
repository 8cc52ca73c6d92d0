"""Boosting and gradient equilibrium: answers, gradients and costs against the definition, by hand."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stream_ann.errors import CardError, UsageError
from stream_ann.nets import (
    EANN,
    AnytimeNet,
    Boosted,
    DenseANN,
    Lite,
    Member,
    MSDNet,
    ResANN,
    State,
    Step,
    build,
    equilibrium,
)
from tests.net_checks import check_folding, check_modes, check_round_trips, check_steps, lively, pictures, same
from tests.net_checks import one_thread as one_thread  # a fixture

NETS: dict[str, dict[str, Any]] = {
    "resann": {"name": "resann", "classes": 5, "n": 1, "c": 4, "s": 1},
    "denseann": {"name": "denseann", "classes": 5, "depths": [1, 2], "growth": 4, "s": 1},
    "msdnet": {"name": "msdnet", "classes": 5, "exits": 3, "base": 2, "c": 4, "growth": 2, "head_width": 8},
    "lite": {"name": "efficientnet-lite0", "classes": 5, "resolution_px": 32, "exits": [1, 6], "head_width": 8},
    "mobilenet": {"name": "torchvision", "network": "mobilenet_v3_small", "classes": 5, "resolution_px": 32},
}


def boosted(case: str, shrink: float = 0.5) -> Boosted:
    return lively(Boosted(build(NETS[case]), shrink=shrink))


@pytest.mark.parametrize("case", NETS)
class TestBoosted:
    def test_steps(self, case: str):
        check_steps(boosted(case))

    def test_round_trips(self, case: str):
        check_round_trips(boosted(case, shrink=0.25))

    def test_modes(self, case: str):
        net = boosted(case)
        check_modes(net)
        assert not any(module.training for module in net.net.modules())

    @torch.no_grad()
    def test_logits_add_up(self, case: str):
        net = boosted(case)
        images = pictures(32)
        expected: list[Tensor] = []
        for own in net.net(images):
            expected.append(own + 0.5 * expected[-1] if expected else own)
        assert same(net(images), expected)
        assert not same(net(images)[1:], net.net(images)[1:])

    @torch.no_grad()
    def test_shrinking_to_nothing_changes_nothing(self, case: str):
        net = boosted(case, shrink=0.0)
        assert same(net(pictures(32)), net.net(pictures(32)))

    def test_costs_and_names_are_those_of_the_net_inside(self, case: str):
        net = boosted(case)
        assert net.plan() == net.net.plan()
        assert list(net.state_dict()) == list(net.net.state_dict())
        plain = build(NETS[case])
        plain.load_state_dict(net.state_dict())
        Boosted(build(NETS[case])).load_state_dict(plain.state_dict())


class TestBoostedFurther:
    def test_folding_reaches_inside(self):
        check_folding(boosted("lite"), left=0)
        check_folding(boosted("msdnet"), left=0)

    def test_in_training_an_exit_does_not_reach_the_heads_before_it(self):
        net = boosted("resann").train()
        net(pictures(32))[2].square().sum().backward()
        heads = net.get_submodule("heads")
        reached = {name for name, head in heads.named_children() if next(head.parameters()).grad is not None}
        assert reached == {"2"}
        # In evaluation mode the derivative is the true one, through all that an answer is made of.
        net.eval()
        net(pictures(32))[2].square().sum().backward()
        assert all(parameter.grad is not None for parameter in heads.parameters())

    def test_the_gradient_is_that_of_the_correction_at_the_sum(self):
        net = boosted("resann").train()
        images, labels = pictures(32, count=4), torch.tensor([0, 1, 2, 3])
        logits = net(images)
        first, second = (nn.functional.cross_entropy(answer, labels) for answer in logits[:2])
        (first + second).backward()  # type: ignore[no-untyped-call]
        found = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
        net.zero_grad()
        own = net.net(images)
        loss = nn.functional.cross_entropy(own[0], labels)
        loss = loss + nn.functional.cross_entropy(own[1] + (0.5 * own[0]).detach(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        expected = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
        assert found.keys() == expected.keys()
        assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in found)

    def test_in_the_trunks_of_an_eann(self):
        trunks = {"a": Boosted(ResANN(classes=5, n=1, c=4, s=1)), "b": Boosted(DenseANN(classes=5, depths=(2,), s=1))}
        net = lively(EANN(trunks, [("a", 16), ("b", 24), ("a", 32)]))
        check_steps(net)
        check_round_trips(net)
        # Each member starts afresh, and members of one trunk share its steps.
        assert len(set(net.steps)) == 5
        with torch.no_grad():
            assert same(net(pictures(32))[5:], trunks["a"](pictures(32)))

    def test_the_state_carries_the_logits_last(self):
        net = boosted("msdnet")
        state, logits = net.steps[0](pictures(32), ())
        assert state[-1] is logits
        assert len(state) == 4

    def test_a_copy_is_whole(self):
        net = boosted("denseann")
        twin = copy.deepcopy(net)
        with torch.no_grad():
            next(twin.parameters()).zero_()
            assert not same(twin(pictures(32)), net(pictures(32)))
            assert same(twin.net(pictures(32))[:1], twin(pictures(32))[:1])

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: Boosted(boosted("resann")), "the net is boosted already; boost it once"),
            (lambda: Boosted(ResANN(classes=2), shrink=1.5), "shrink is 1.5; it must be a number from 0.0 to 1.0"),
            (
                lambda: Boosted(EANN({"a": ResANN(classes=2)}, [("a", 16), ("a", 32)])),
                "boosting a net of 2 members; boost the trunk of each instead",
            ),
            (lambda: Boosted(Chain(2)), "a Chain has tensors of its own: first; put them into a module of it"),
        ],
    )
    def test_what_cannot_be_boosted_is_named(self, make: Any, message: str):
        with pytest.raises(UsageError, match=message):
            make()

    @pytest.mark.parametrize(
        ("arch", "message"),
        [
            ({}, "arch has no 'net'; 'boosted' needs it"),
            ({"net": 3}, "arch.net is 3; it must be an object"),
            ({"net": {"name": "eann"}}, "arch: net.name is 'eann'; boost a net of one member"),
            ({"net": {"name": "boosted", "net": {}}}, "arch: net.name is 'boosted'"),
            ({"net": {"name": "resann", "classes": -1}}, "arch.net: classes is -1"),
            ({"net": NETS["resann"], "shrink": "much"}, "arch: shrink is 'much'"),
            ({"net": NETS["resann"], "rate": 1}, "arch has an unknown key 'rate'"),
        ],
    )
    def test_cards_are_checked(self, arch: dict[str, Any], message: str):
        with pytest.raises(CardError, match=message):
            build({"name": "boosted", **arch})


class ChainStep(Step):
    """Multiplies what comes in by a number; its exit multiplies that by another."""

    def __init__(self, chain: Chain, place: int) -> None:
        super().__init__()
        self.place = place
        self._chain = (chain,)
        self.head = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.head.weight)

    def forward(self, images: Tensor, state: State) -> tuple[State, Tensor]:
        features = (state[0] if state else images.mean((1, 2, 3)).view(-1, 1)) * self._chain[0].factor(self.place)
        return (features,), self.head(features)


class Chain(AnytimeNet):
    """x -> a x -> b a x -> ..., so that every derivative can be written down."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.classes = 1
        self.first = nn.Parameter(torch.tensor(1.0))
        self.factors = nn.ParameterList([nn.Parameter(torch.tensor(1.0)) for _ in range(length)])
        self.parts = nn.ModuleList([ChainStep(self, i) for i in range(length)])

    def factor(self, place: int) -> Tensor:
        product: Tensor = self.factors[place] * self.first
        return product

    def members(self) -> list[Member]:
        return [Member("chain", 8, tuple(part for part in self.parts if isinstance(part, ChainStep)))]


def gradients(net: AnytimeNet, images: Tensor, weights: list[float] | None = None) -> dict[str, Tensor]:
    net.zero_grad()
    answers = net(images)
    total = torch.stack([w * a.sum() for w, a in zip(weights or [1.0] * len(answers), answers, strict=True)]).sum()
    total.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.fixture
def chain() -> Chain:
    return Chain(4).train()


ONES = torch.ones(1, 3, 8, 8)


class TestEquilibrium:
    def test_each_block_gets_the_mean_over_the_exits_behind_it(self, chain: Chain):
        # With every factor 1 each exit's derivative by each factor before it is 1: the sum counts the exits.
        plain = gradients(chain, ONES)
        assert [plain[f"factors.{i}"].item() for i in range(4)] == [4, 3, 2, 1]
        with equilibrium(chain):
            balanced = gradients(chain, ONES)
        assert [balanced[f"factors.{i}"].item() for i in range(4)] == pytest.approx([1, 1, 1, 1])

    def test_each_exit_has_the_published_weight(self, chain: Chain):
        # What exit j contributes to block i is 1 / (K - i): the product of the scales on the way.
        with equilibrium(chain):
            for exit_number in range(4):
                only = [float(j == exit_number) for j in range(4)]
                found = gradients(chain, ONES, only)
                for block in range(4):
                    expected = 1 / (4 - block) if block <= exit_number else 0.0
                    assert found[f"factors.{block}"].item() == pytest.approx(expected), (exit_number, block)

    def test_the_scales_are_those_of_the_paper(self, chain: Chain):
        # Cut between steps: 1 / (K - i) into the head, (K - i - 1) / (K - i) onwards.
        with equilibrium(chain):
            for i, step in enumerate(chain.steps):
                features = torch.ones(1, 1, requires_grad=True)
                (onwards,), logits = step(ONES, (features,))
                (head_gradient,) = torch.autograd.grad(logits.sum(), features, retain_graph=True)
                assert head_gradient.item() == pytest.approx(1 / (4 - i))
                (onwards_gradient,) = torch.autograd.grad(onwards.sum(), features)
                assert onwards_gradient.item() == pytest.approx((3 - i) / (4 - i))

    def test_the_heads_own_gradients_are_not_scaled(self, chain: Chain):
        plain = gradients(chain, ONES)
        with equilibrium(chain):
            balanced = gradients(chain, ONES)
        for i in range(4):
            assert torch.equal(plain[f"parts.{i}.head.weight"], balanced[f"parts.{i}.head.weight"])

    def test_no_effect_in_evaluation_mode_and_after_removal(self, chain: Chain):
        chain.eval()
        plain = gradients(chain, ONES)
        hooks = [dict(module._forward_hooks) for module in chain.modules()]
        pre_hooks = [dict(module._forward_pre_hooks) for module in chain.modules()]
        balance = equilibrium(chain)
        assert gradients(chain, ONES) == plain
        balance.remove()
        balance.remove()
        chain.train()
        assert gradients(chain, ONES) == plain
        assert [dict(module._forward_hooks) for module in chain.modules()] == hooks
        assert [dict(module._forward_pre_hooks) for module in chain.modules()] == pre_hooks
        with equilibrium(chain):
            assert gradients(chain, ONES) != plain

    def test_it_is_removed_when_training_fails(self, chain: Chain):
        with pytest.raises(ZeroDivisionError), equilibrium(chain):
            raise ZeroDivisionError
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in chain.modules())

    def test_twice_is_refused(self, chain: Chain):
        with equilibrium(chain), pytest.raises(UsageError, match="gradient equilibrium is in force on this net alr"):
            equilibrium(chain)
        with equilibrium(chain):
            pass

    def test_a_step_without_a_head_is_named(self):
        class Bare(Step):
            pass

        class Net(AnytimeNet):
            def members(self) -> list[Member]:
                return [Member("bare", 8, (Bare(),))]

        with pytest.raises(UsageError, match="a Bare has no head; keep the exit's module in its attribute 'head'"):
            equilibrium(Net())

    @pytest.mark.parametrize("case", NETS)
    @pytest.mark.parametrize("boost", [False, True], ids=["plain", "boosted"])
    def test_on_every_net(self, case: str, boost: bool):
        torch.manual_seed(0)
        inner = build(NETS[case])
        net = (Boosted(inner) if boost else inner).train()
        for layer in net.modules():  # so that both passes are the same function
            if isinstance(layer, nn.BatchNorm2d | nn.Dropout):
                layer.eval()
            if isinstance(layer, nn.Linear) and layer.out_features == 5:
                nn.init.normal_(layer.weight)
        images = pictures(32)
        exits = len(net.steps)
        # Weights of the first step's first convolution are in front of every exit.
        name = next(name for name, _ in net.named_parameters() if name.startswith("stem"))
        alone = [gradients(net, images, [float(j == i) for j in range(exits)])[name] for i in range(exits)]
        answers = [logits.detach() for logits in net(images)]
        with equilibrium(net):
            assert all(torch.equal(a, b.detach()) for a, b in zip(answers, net(images), strict=True))
            balanced = gradients(net, images)[name]
        mean = torch.stack(alone).mean(0)
        assert torch.allclose(balanced, mean, rtol=1e-3, atol=1e-4 * float(mean.abs().max()))
        assert not torch.allclose(balanced, torch.stack(alone).sum(0), rtol=1e-2)

    def test_in_an_eann_each_member_is_balanced_by_itself(self):
        net = EANN(
            {"a": ResANN(classes=5, n=1, c=4, s=1), "b": Lite(0, classes=5, exits=[3], head_width=8)},
            [("a", 16), ("b", 32), ("a", 32)],
        ).train()
        with equilibrium(net):
            counts = [len(step._forward_hooks) for step in net.steps]
        assert counts == [1] * 8

    def test_copies_made_before_are_not_touched(self):
        net = MSDNet(classes=5, exits=2, base=1, step=1, c=4, growth=2, head_width=8)
        twin = copy.deepcopy(net)
        with equilibrium(net):
            assert not any(itertools.chain(*(module._forward_hooks for module in twin.modules())))
            with equilibrium(twin):
                pass
