"""The nets' parts: 'same' padding, starting weights, exit placement, shared trunks, costs, wrong arguments."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stream_ann.errors import CardError, UsageError
from stream_ann.nets import EANN, AnytimeNet, Lite, Member, ResANN, State, Step, architectures, build, registry
from stream_ann.nets.layers import SameConv2d, conv_norm

# (in, out, expansion, kernel, stride) of each block of EfficientNet-Lite0, written out.
LITE0_BLOCKS = [
    (32, 16, 1, 3, 1),
    (16, 24, 6, 3, 2),
    (24, 24, 6, 3, 1),
    (24, 40, 6, 5, 2),
    (40, 40, 6, 5, 1),
    (40, 80, 6, 3, 2),
    (80, 80, 6, 3, 1),
    (80, 80, 6, 3, 1),
    (80, 112, 6, 5, 1),
    (112, 112, 6, 5, 1),
    (112, 112, 6, 5, 1),
    (112, 192, 6, 5, 2),
    (192, 192, 6, 5, 1),
    (192, 192, 6, 5, 1),
    (192, 192, 6, 5, 1),
    (192, 320, 6, 3, 1),
]


def lite0_macs(resolution_px: int, classes: int, exits: tuple[int, ...] = (), head_width: int = 0) -> list[int]:
    """Multiply-accumulates of each step of Lite0, by hand."""
    side = math.ceil(resolution_px / 2)
    macs = side**2 * 32 * 3 * 9
    steps = []
    for i, (n_in, n_out, expansion, kernel, stride) in enumerate(LITE0_BLOCKS):
        middle = n_in * expansion
        if expansion != 1:
            macs += side**2 * n_in * middle
        side = math.ceil(side / stride)
        macs += side**2 * (middle * kernel**2 + middle * n_out)
        if i in exits:
            steps.append(macs + side**2 * n_out * head_width + head_width * classes)
            macs = 0
    return [*steps, macs + side**2 * 320 * 1280 + 1280 * classes]


class TestCosts:
    def test_lite0_at_odd_sizes_is_the_hand_count(self):
        # 97, 49, 25, 13, 7, 4: every strided convolution sees an odd size, where no superfluous row is computed.
        net = build({"name": "efficientnet-lite0", "resolution_px": 97}, device="meta")
        assert [step.macs for step in net.plan().steps] == lite0_macs(97, 1000)

    @pytest.mark.parametrize("resolution_px", [96, 160, 224])
    def test_lite0_at_even_sizes_costs_one_row_and_column_more_per_strided_convolution(self, resolution_px: int):
        net = build({"name": "efficientnet-lite0", "resolution_px": resolution_px}, device="meta")
        (found,) = (step.macs for step in net.plan().steps)
        (expected,) = lite0_macs(resolution_px, 1000)
        assert expected <= found <= expected * 1.01

    def test_lite0_at_224_px_is_the_published_count(self):
        assert lite0_macs(224, 1000)[0] == pytest.approx(0.385e9, rel=0.002)
        assert sum(p.numel() for p in build({"name": "efficientnet-lite0"}, device="meta").parameters()) == 4_652_008

    @pytest.mark.parametrize(
        ("variant", "parameters"), [(1, 5_416_680), (2, 6_092_072), (3, 8_197_096), (4, 13_006_568)]
    )
    def test_the_scaling_rule_gives_the_published_numbers_of_parameters(self, variant: int, parameters: int):
        net = build({"name": f"efficientnet-lite{variant}"}, device="meta")
        assert sum(p.numel() for p in net.parameters()) == parameters

    def test_each_step_is_counted_with_its_own_head(self):
        net = build(
            {"name": "efficientnet-lite0", "classes": 11, "resolution_px": 97, "exits": [1, 8], "head_width": 24},
            device="meta",
        )
        plan = net.plan()
        assert [step.macs for step in plan.steps] == lite0_macs(97, 11, (1, 8), 24)
        assert plan.exit_names == ("lite0@97 1", "lite0@97 2", "lite0@97 3")
        assert [step.first for step in plan.steps] == [True, False, False]

    def test_resann_is_the_hand_count(self):
        plan = ResANN(classes=10, n=2, c=4, s=2, resolution_px=32).plan()
        stem = 32**2 * 3 * 4 * 9
        same = [32**2 * 9 * 2 * 4 * 4, 16**2 * 9 * 2 * 8 * 8, 8**2 * 9 * 2 * 16 * 16]
        down = [16**2 * 9 * (4 * 8 + 8 * 8), 8**2 * 9 * (8 * 16 + 16 * 16)]
        assert [step.macs for step in plan.steps] == [
            stem + 2 * same[0] + 4 * 10,
            down[0] + same[1] + 8 * 10,
            down[1] + same[2] + 16 * 10,
        ]
        assert plan.classes == 10

    def test_a_fourth_stage_and_a_late_first_predictor_are_the_hand_count(self):
        plan = ResANN(classes=10, n=[1, 2, 1, 1], c=4, s=1, first=3, resolution_px=32).plan()
        stem = 32**2 * 3 * 4 * 9
        units = [
            32**2 * 9 * 2 * 4 * 4,
            16**2 * 9 * (4 * 8 + 8 * 8),
            16**2 * 9 * 2 * 8 * 8,
            8**2 * 9 * (8 * 16 + 16 * 16),
            4**2 * 9 * (16 * 32 + 32 * 32),
        ]
        assert [step.macs for step in plan.steps] == [
            stem + sum(units[:3]) + 8 * 10,
            units[3] + 16 * 10,
            units[4] + 32 * 10,
        ]

    def test_strided_heads_are_the_hand_count(self):
        plan = ResANN(classes=10, n=[1, 1, 2], c=4, s=1, resolution_px=32, head="strided", head_width=8).plan()
        trunk = [
            32**2 * 9 * (3 * 4 + 2 * 4 * 4),
            16**2 * 9 * (4 * 8 + 8 * 8),
            8**2 * 9 * (8 * 16 + 16 * 16),
            8**2 * 9 * (2 * 16 * 16),
        ]
        heads = [
            9 * (16**2 * 4 * 8 + 8**2 * 8 * 8) + 8 * 10,
            9 * (8**2 * 8 * 8 + 4**2 * 8 * 8) + 8 * 10,
            9 * (4**2 * 16 * 8 + 2**2 * 8 * 8) + 8 * 10,
            16 * 10,  # the last unit has seen the whole image: pooling is enough
        ]
        assert [step.macs for step in plan.steps] == [a + b for a, b in zip(trunk, heads, strict=True)]

    def test_a_shared_trunk_is_counted_at_each_resolution(self):
        with torch.device("meta"):
            net = EANN({"lite0": Lite(0)}, [("lite0", 33), ("lite0", 97), ("lite0", 65)])
        plan = net.plan()
        assert [step.macs for step in plan.steps] == [lite0_macs(px, 1000)[0] for px in (33, 97, 65)]
        assert plan.exit_names == ("lite0@33", "lite0@97", "lite0@65")
        assert [(step.member, step.resolution_px, step.first) for step in plan.steps] == [
            (0, 33, True),
            (1, 97, True),
            (2, 65, True),
        ]

    def test_counting_leaves_the_net_alone(self):
        net = ResANN(classes=3, n=1, c=4, s=1).train()
        before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in net.state_dict().items()}
        net.plan()
        assert net.training
        assert all(step.training for step in net.steps)
        for name, tensor in net.state_dict().items():
            assert tensor.device.type == "cpu"
            assert tensor.data_ptr() == before[name][0]
            assert torch.equal(tensor, before[name][1]), name
        assert all(p.requires_grad for p in net.parameters())

    def test_a_plan_is_kept_until_the_net_changes(self):
        net = ResANN(classes=3, n=1, c=4, s=1)
        plan = net.plan()
        assert net.plan() is plan
        head = net.heads.get_submodule("2")
        head.linear = nn.Linear(16, 3, bias=False)
        assert net.plan() is not plan
        net.half()
        with torch.inference_mode():
            assert net.plan() == plan

    def test_logits_of_another_shape_are_refused(self):
        net = ResANN(classes=3, n=1, c=4, s=1)
        net.heads.get_submodule("1").linear = nn.Linear(8, 4)
        with pytest.raises(UsageError, match=r"step 'resann@32 2' gives logits of shape \[1, 4\].*must be \[1, 3\]"):
            net.plan()

    def test_two_steps_of_one_name_are_refused(self):
        class Twice(AnytimeNet):
            def __init__(self) -> None:
                super().__init__()
                self.classes, self.trunk = 3, ResANN(classes=3, n=1, c=4, s=3)

            def members(self) -> list[Member]:
                return [*self.trunk.members()] * 2

        with pytest.raises(UsageError, match="two steps are named 'resann@32'; give"):
            Twice().plan()


class TestSamePadding:
    @pytest.mark.parametrize("kernel_px", [3, 5])
    @pytest.mark.parametrize("groups", [1, 4])
    def test_is_tensorflows_at_every_size(self, kernel_px: int, groups: int):
        torch.manual_seed(0)
        conv = SameConv2d(4, 8, kernel_px, groups=groups, bias=True)
        for height in range(1, 8):
            for width in (2, 5):
                images = torch.randn(1, 4, height, width)
                padding: list[int] = []
                for size in (width, height):  # F.pad starts with the last dimension
                    total = max((math.ceil(size / 2) - 1) * 2 + kernel_px - size, 0)
                    padding += [total // 2, total - total // 2]
                expected = F.conv2d(F.pad(images, padding), conv.weight, conv.bias, stride=2, groups=groups)
                assert torch.allclose(conv(images), expected, atol=1e-6), (height, width)

    def test_is_asymmetric_at_even_sizes(self):
        conv = SameConv2d(1, 1, 3)
        with torch.no_grad():
            conv.weight.zero_()[0, 0, 0, 0] = 1.0  # picks the top left pixel of each window
        image = torch.arange(16.0).view(1, 1, 4, 4)
        assert conv(image).tolist() == [[[[0, 2], [8, 10]]]]


class TestStartingWeights:
    def test_convolutions_have_he_variance_and_biases_are_zero(self):
        torch.manual_seed(0)
        net = Lite(0, classes=50, exits=[3])
        for name, layer in net.named_modules():
            if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 4000:
                fan_out = layer.kernel_size[0] ** 2 * layer.out_channels / layer.groups
                assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.05), name
                assert layer.bias is None
            if isinstance(layer, nn.Linear):
                assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.05), name
                assert not layer.bias.detach().any()

    @pytest.mark.parametrize("net", [Lite(0, classes=10, resolution_px=64), ResANN(classes=10, n=4, c=8)], ids=type)
    def test_an_untrained_net_knows_nothing(self, net: AnytimeNet):
        with torch.no_grad():
            for logits in net.train()(torch.randn(8, 3, 64, 64)):
                loss = F.cross_entropy(logits, torch.arange(8))
                assert float(loss) == pytest.approx(math.log(10), abs=0.3)


class TestExits:
    @pytest.mark.parametrize(
        ("n", "s", "expected"),
        [
            (3, 3, [2, 5, 8]),
            (3, 4, [0, 4, 8]),
            (2, 1, [0, 1, 2, 3, 4, 5]),
            (1, 3, [2]),
            ([1, 4, 2], 3, [0, 3, 6]),
            ([3, 1, 1], 5, [4]),
        ],
    )
    def test_resann_counts_its_predictors_from_the_end(self, n: int | list[int], s: int, expected: list[int]):
        net = ResANN(classes=2, n=n, c=4, s=s)
        assert [int(i) for i in net.heads._modules] == expected
        assert len(net.steps) == len(expected)

    def test_resann_doubles_its_channels_and_halves_its_resolution(self):
        net = ResANN(classes=2, n=1, c=4, s=1, resolution_px=32)
        state: State = ()
        shapes = []
        for step in net.steps:
            state, _ = step(torch.zeros(1, 3, 32, 32), state)
            shapes.append(tuple(state[0].shape[1:]))
        assert shapes == [(4, 32, 32), (8, 16, 16), (16, 8, 8)]

    @pytest.mark.parametrize(("stem", "side"), [("3x3", 64), ("3x3/2", 32), ("3x3/4", 16), ("7x7/4", 16)])
    def test_stems_shrink_by_what_they_say(self, stem: Any, side: int):
        net = ResANN(classes=2, n=1, c=4, s=1, resolution_px=64, stem=stem)
        (features,), _ = net.steps[0](torch.zeros(1, 3, 64, 64), ())
        assert features.shape == (1, 4, side, side)

    def test_lite_puts_its_exits_where_they_were_asked_for(self):
        net = Lite(1, classes=2, exits=[0, 7], head_width=8)
        assert [len(step.get_submodule("body")._modules) for step in net.steps] == [2, 7, 13]
        assert net.block_count(1) == 21


class TestEANN:
    def test_members_of_one_trunk_share_every_tensor(self):
        trunk = ResANN(classes=3, n=1, c=4, s=1)
        net = EANN({"a": trunk}, [("a", 16), ("a", 32), ("a", 48)])
        assert len(net.state_dict()) == len(trunk.state_dict())
        assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in trunk.parameters())
        small, middle, large = net.members()
        assert small.steps == middle.steps == large.steps == trunk.steps
        assert len(net.steps) == 9
        assert len(set(net.steps)) == 3

    def test_the_trunks_own_resolution_is_ignored(self):
        net = EANN({"a": ResANN(classes=3, n=1, c=4, s=3, resolution_px=64)}, [("a", 16)])
        assert [(m.name, m.resolution_px) for m in net.members()] == [("a@16", 16)]

    @pytest.mark.parametrize(
        ("names", "members", "message"),
        [
            ([], [], "an EANN of 0 trunks; it must have 1 to 8"),
            (["a"], [], "an EANN of 0 members; it must have 1 to 32"),
            (["a"], [("b", 32)], "member of an unknown trunk 'b'; known: a"),
            (["lite0"], [("lite", 32)], "unknown trunk 'lite'; did you mean 'lite0'"),
            (["a"], [("a", 32), ("a", 32)], "member a@32 occurs twice"),
            (["a", "b"], [("a", 32)], "trunk 'b' has no member; leave it out"),
            (["a"], [("a", 4)], "resolution of a member of 'a' is 4; it must be a whole number from 8 to 1024"),
            (["a.b"], [("a.b", 32)], "trunk name 'a.b' cannot be used"),
            (["keys"], [("keys", 32)], "trunk name 'keys' cannot be used"),
            (["A"], [("A", 32)], "trunk name 'A' cannot be used; take lower-case letters"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, names: list[str], members: list[tuple[str, int]], message: str):
        with pytest.raises(UsageError, match=message):
            EANN({name: ResANN(classes=3, n=1, c=4, s=3) for name in names}, members)

    def test_trunks_that_do_not_fit_together_are_refused(self):
        small, other = ResANN(classes=3, n=1, c=4, s=3), ResANN(classes=4, n=1, c=4, s=3)
        with pytest.raises(UsageError, match="differ in their number of classes: a 3, b 4"):
            EANN({"a": small, "b": other}, [("a", 32), ("b", 32)])
        two = EANN({"a": small}, [("a", 16), ("a", 32)])
        with pytest.raises(UsageError, match="trunk 'c' has 2 members; a trunk must have one"):
            EANN({"c": two}, [("c", 32)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Lite(5), "variant is 5; it must be a whole number from 0 to 4"),
        (lambda: Lite(0, classes=0), "classes is 0; it must be a whole number from 1 to 100000"),
        (lambda: Lite(0, resolution_px=4), "resolution_px is 4; it must be a whole number from 8 to 1024"),
        (lambda: Lite(0, exits=[15]), r"exits is \[15\]; it must be a list of rising whole numbers from 0 to 14"),
        (lambda: Lite(0, exits=[4, 2]), r"exits is \[4, 2\]; it must be a list of rising"),
        (lambda: Lite(0, exits=[2, 2]), r"exits is \[2, 2\]; it must be a list of rising"),
        (lambda: Lite(0, head_width=0), "head_width is 0; it must be a whole number from 8 to 2048"),
        (lambda: Lite(0, dropout=1.0), "dropout is 1.0; it must be a number from 0.0 to 0.9"),
        (lambda: ResANN(classes=2, n=0), "n is 0; it must be a whole number from 1 to 64"),
        (lambda: ResANN(classes=2, c=3), "c is 3; it must be a whole number from 4 to 128"),
        (lambda: ResANN(classes=2, n=2, s=7), "s is 7; it must be a whole number from 1 to 6"),
        (lambda: ResANN(classes=2, stem="5x5"), "stem is '5x5'; it must be one of 3x3, 3x3/2, 3x3/4, 7x7/4"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments_are_named(make: Any, message: str):
    with pytest.raises(UsageError, match=message):
        make()


SMALL = {"name": "resann", "classes": 3, "n": 1, "c": 4, "s": 3}


class TestBuild:
    @pytest.mark.parametrize(
        ("arch", "message"),
        [
            ([], r"arch is \[\]; it must be an object with a 'name'"),
            ({}, "arch.name is None; known: "),
            ({"name": "resnan"}, "arch.name is 'resnan'; did you mean 'resann'"),
            ({"name": ["resann"]}, r"arch.name is \['resann'\]"),
            ({**SMALL, "zoom": 3}, "arch has an unknown key 'zoom'; known: classes, n, c, s"),
            ({**SMALL, "classe": 3}, "unknown key 'classe'; did you mean 'classes'"),
            ({"name": "efficientnet-lite0", "variant": 1}, "arch has an unknown key 'variant'"),
            ({"name": "resann", "n": 3}, "arch has no 'classes'; 'resann' needs it"),
            ({"name": "eann", "trunks": {"a": SMALL}}, "arch has no 'members'"),
            ({**SMALL, "classes": "3"}, "arch: classes is '3'; it must be a whole number"),
            ({**SMALL, "classes": True}, "arch: classes is True"),
            ({**SMALL, "classes": 3.0}, "arch: classes is 3.0"),
            ({**SMALL, "n": 10**9}, "arch: n is 1000000000; it must be a whole number from 1 to 64"),
            ({**SMALL, "n": [1, 2]}, "arch: n has 2 values; give one whole number, or 3 or 4: one for each stage"),
            ({**SMALL, "n": [1, 2, 65]}, r"arch: n is \[1, 2, 65\]; it must be a list of 1 to 4 whole numbers"),
            ({**SMALL, "n": "123"}, "arch: n is '123'; it must be a whole number from 1 to 64"),
            ({**SMALL, "n": [1, 1, 1], "s": 4}, "arch: s is 4; it must be a whole number from 1 to 3"),
            ({**SMALL, "n": [1, 1, 1], "first": 4}, "arch: first is 4; it must be a whole number from 1 to 3"),
            ({**SMALL, "head": "wide"}, "arch: head is 'wide'; it must be one of pooled, strided"),
            ({**SMALL, "head": "strided", "head_width": 4}, "arch: head_width is 4"),
            ({**SMALL, "stem": 3}, "arch: stem is 3"),
            ({**SMALL, "resolution_px": 10**6}, "arch: resolution_px is 1000000"),
            ({"name": "efficientnet-lite0", "exits": "12"}, "arch: exits is '12'"),
            ({"name": "efficientnet-lite0", "exits": {"0": 1}}, "arch: exits is {'0': 1}"),
            ({"name": "efficientnet-lite0", "exits": list(range(100_000))}, r"exits is \[0, 1, 2, 3, 4, 5, ...\]; it"),
            ({"name": "efficientnet-lite0", "exits": [[]]}, r"exits is \[\[\]\]"),
            ({"name": "efficientnet-lite0", "dropout": float("nan")}, "dropout is nan"),
            ({"name": "eann", "trunks": [], "members": []}, r"trunks is \[\]; it must be an object of 1 to 8"),
            ({"name": "eann", "trunks": {str(i): SMALL for i in range(9)}, "members": []}, "object of 1 to 8 trunks"),
            ({"name": "eann", "trunks": {"a": SMALL}, "members": [["a"]]}, r"members is \[\['a'\]\]; it must be a li"),
            ({"name": "eann", "trunks": {"a": SMALL}, "members": [["a", 32]] * 33}, "list of 1 to 32 pairs"),
            ({"name": "eann", "trunks": {"a": SMALL}, "members": [[[], 32]]}, r"members is \[\[\[\], 32\]\]"),
            ({"name": "eann", "trunks": {"a": SMALL}, "members": [["a", "b"]]}, "arch: resolution of a member of 'a'"),
            ({"name": "eann", "trunks": {"a": 3}, "members": [["a", 32]]}, r"arch.trunks\['a'\] is 3"),
            (
                {"name": "eann", "trunks": {"a": {**SMALL, "c": -1}}, "members": [["a", 32]]},
                r"arch.trunks\['a'\]: c is -1; it must be a whole number from 4 to 128",
            ),
            (
                {"name": "eann", "trunks": {"a": {"name": "eann"}}, "members": [["a", 32]]},
                r"arch.trunks\['a'\].name is 'eann'; an EANN cannot be a trunk",
            ),
        ],
    )
    def test_a_card_that_makes_no_sense_is_refused(self, arch: Any, message: str):
        with pytest.raises(CardError, match=message):
            build(arch)

    def test_a_card_cannot_ask_for_endless_memory(self):
        with pytest.raises(CardError, match=r"the net would have [0-9,]+ values; at most 200,000,000 are allowed"):
            build({"name": "resann", "classes": 100_000, "n": 64, "c": 128, "s": 1})

    def test_on_meta_nothing_is_allocated(self):
        net = build(SMALL, device="meta")
        assert all(t.is_meta for t in net.state_dict().values())

    def test_a_new_architecture_takes_a_class_and_one_call(self, monkeypatch: pytest.MonkeyPatch):
        class Mean(Step):
            def __init__(self, classes: int) -> None:
                super().__init__()
                self.linear = nn.Linear(3, classes)

            def forward(self, images: Tensor, state: State) -> tuple[State, Tensor]:
                logits: Tensor = self.linear(images.mean((2, 3)))
                return (), logits

        class MeanColour(AnytimeNet):
            def __init__(self, *, classes: int) -> None:
                super().__init__()
                self.classes, self.step = classes, Mean(classes)
                self.arch = {"name": "mean-colour", "classes": classes}

            def members(self) -> list[Member]:
                return [Member("mean", 8, (self.step,))]

        monkeypatch.setattr(registry, "_makers", dict(registry._makers))
        registry.register("mean-colour", MeanColour)
        assert "mean-colour" in architectures()
        net = build({"name": "mean-colour", "classes": 5})
        assert registry.arch_of(net) == {"name": "mean-colour", "classes": 5}
        assert [(step.name, step.macs) for step in net.plan().steps] == [("mean", 15)]
        with pytest.raises(UsageError, match="there is an architecture 'mean-colour' already"):
            registry.register("mean-colour", MeanColour)

    def test_a_net_without_arch_is_named(self):
        with pytest.raises(UsageError, match="a AnytimeNet has no arch; give its class"):
            registry.arch_of(AnytimeNet())


class TestDepthwise:
    @pytest.mark.parametrize("stride", [1, 2])
    def test_it_is_trained_in_float32_on_a_cpu(self, stride):
        """In bfloat16 its gradients take longer than everything else."""
        layer = conv_norm(8, 8, 5, stride=stride, groups=8, same=True)
        features = torch.randn(2, 8, 12, 12)
        exact = layer.conv(features)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            trained = layer.conv(features.bfloat16())
            full = conv_norm(8, 8, 3).conv(features)
            with torch.no_grad():
                answered = layer.conv(features)
        assert trained.dtype == torch.float32
        assert full.dtype == answered.dtype == torch.bfloat16
        torch.testing.assert_close(trained, exact, atol=0.05, rtol=0.05)
        trained.square().sum().backward()
        assert layer.conv.weight.grad.dtype == torch.float32
