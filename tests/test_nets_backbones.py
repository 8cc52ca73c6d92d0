"""torchvision's networks with exits: the same answers as untouched, weights brought in, other resolutions."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import models

from stream_ann.errors import CardError, UsageError
from stream_ann.nets import EANN, Backbone, ResANN, backbones, build
from stream_ann.nets.backbones import TokenHead, resized_positions
from tests.net_checks import check_folding, check_modes, check_round_trips, check_steps, enliven, lively, pictures, same
from tests.net_checks import one_thread as one_thread  # a fixture

NETWORKS = {  # of every family the smallest: exits by stage, exits by block
    "resnet18": (4, 8),
    "resnext50_32x4d": (4, 16),
    "convnext_tiny": (4, 18),
    "efficientnet_b0": (7, 16),
    "efficientnet_v2_s": (6, 40),
    "mobilenet_v2": (5, 17),
    "mobilenet_v3_small": (4, 11),
    "regnet_x_400mf": (4, 22),
    "regnet_y_400mf": (4, 16),
    "vit_b_32": (4, 12),
}
SMALL = ("resnet18", "efficientnet_b0", "mobilenet_v3_small", "regnet_y_400mf")
"""Those that every check is made with; the others take their time."""


@functools.lru_cache(maxsize=2)
def backbone(network: str, **arguments: Any) -> Backbone:
    """A backbone in evaluation mode, that tests must not change."""
    return lively(Backbone(network, **{"classes": 7, "resolution_px": 64, **arguments}))


def untouched(network: str, classes: int = 7) -> Any:
    """torchvision's own, for 64 px where that matters."""
    torch.manual_seed(3)
    options = {"image_size": 64} if network.startswith("vit") else {}
    net = models.get_model(network, weights=None, num_classes=classes, **options)
    enliven(net, classes, 64)
    return net


@pytest.mark.parametrize("network", NETWORKS)
class TestEveryFamily:
    @torch.no_grad()
    def test_the_last_exit_is_the_untouched_network(self, network: str):
        net = Backbone(network, classes=7, resolution_px=64, cut="block", head="pooled").eval()
        theirs = untouched(network)
        images = pictures(64)
        expected = theirs(images)
        assert not same([net(images)[-1]], [expected], 1e-2)
        assert net.load_torchvision(theirs) == ()
        assert same([net(images)[-1]], [expected])
        assert not same([expected[0]], [expected[1]], 1e-3)

    def test_exits_are_where_they_were_asked_for(self, network: str):
        with torch.device("meta"):
            by_stage, by_block = (Backbone(network, classes=7, cut=cut) for cut in ("stage", "block"))
        assert (len(by_stage.steps), len(by_block.steps)) == NETWORKS[network]
        assert len(by_block.blocks) == len(by_block.steps)
        assert set(by_stage.state_dict()) < set(by_block.state_dict())

    def test_the_trunk_costs_what_torchvision_says(self, network: str):
        weights = models.get_model_weights(network).DEFAULT
        resolution_px = weights.transforms().crop_size[0]
        with torch.device("meta"):
            net = Backbone(network, resolution_px=resolution_px).eval()
        auxiliary, state = 0, ()
        for step in net.steps[:-1]:
            state, _ = step(torch.empty(1, 3, resolution_px, resolution_px, device="meta"), state)
            auxiliary += head_macs(net, state[0])
        trunk = net.plan().cumulative_macs[-1] - auxiliary
        assert trunk / 1e9 == pytest.approx(weights.meta["_ops"], abs=0.006)

    def test_steps(self, network: str):
        check_steps(backbone(network))


def head_macs(net: Backbone, features: Tensor) -> int:
    """The cost of an auxiliary head behind ``features``, by hand."""
    if features.ndim == 3:
        return features.shape[2] * net.classes
    _, channels, height, width = features.shape
    return (height * width * channels + net.classes) * net.head_width


@pytest.mark.parametrize("network", SMALL)
class TestContract:
    def test_round_trips(self, network: str):
        check_round_trips(backbone(network))

    def test_folding_leaves_no_batch_norm(self, network: str):
        check_folding(backbone(network), left=0)

    def test_modes(self, network: str):
        check_modes(Backbone(network, classes=7, resolution_px=32))

    def test_it_trains_every_weight(self, network: str):
        net = Backbone(network, classes=7, resolution_px=32, head="pooled").train()
        torch.stack([logits.square().sum() for logits in net(pictures(32))]).sum().backward()  # type: ignore[no-untyped-call]
        assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []


class TestWeights:
    def test_every_tensor_has_torchvisions_name(self):
        net = backbone("resnet18")
        names = net.torchvision_names
        assert sorted(names.values()) == sorted(untouched("resnet18").state_dict())
        assert names["stem.0.weight"] == "conv1.weight"
        assert names["blocks.0.conv1.1.running_var"] == "layer1.0.bn1.running_var"
        assert names["heads.7.2.bias"] == "fc.bias"
        assert not any(name.startswith("heads.1.") for name in names)

    def test_a_state_dict_will_do(self):
        net = Backbone("mobilenet_v3_small", classes=7, resolution_px=64).eval()
        theirs = untouched("mobilenet_v3_small")
        assert net.load_torchvision(theirs.state_dict()) == ()
        with torch.no_grad():
            assert same([net(pictures(64))[-1]], [theirs(pictures(64))])

    def test_the_weights_are_copied_not_shared(self):
        net = Backbone("mobilenet_v3_small", classes=7, resolution_px=32)
        theirs = untouched("mobilenet_v3_small")
        net.load_torchvision(theirs)
        ours = {tensor.data_ptr() for tensor in net.state_dict().values()}
        assert not ours & {tensor.data_ptr() for tensor in theirs.state_dict().values()}
        assert all(parameter.requires_grad for parameter in net.parameters())

    @pytest.mark.parametrize("network", ["resnet18", "mobilenet_v3_small"])
    def test_a_classifier_for_other_classes_stays(self, network: str):
        net = Backbone(network, classes=3, resolution_px=32)
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        theirs = untouched(network)
        left_out = net.load_torchvision(theirs)
        last = {"resnet18": "fc", "mobilenet_v3_small": "classifier.3"}[network]
        assert left_out == (f"{last}.weight", f"{last}.bias")
        for name, tensor in net.state_dict().items():
            counterpart = net.torchvision_names.get(name)
            taken = counterpart is not None and counterpart not in left_out
            expected = theirs.state_dict()[counterpart] if taken else before[name]
            assert torch.equal(tensor, expected), name

    def test_weights_of_another_network_are_refused_and_nothing_is_changed(self):
        net = Backbone("resnet18", classes=7, resolution_px=32)
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        good = untouched("resnet18").state_dict()
        fewer = {name: tensor for name, tensor in good.items() if name != "layer2.0.bn1.weight"}
        remedy = "; give the weights of torchvision's resnet18"
        for weights, message in [
            (fewer, "the weights have no 'layer2.0.bn1.weight'"),
            ({**good, "extra": torch.zeros(1)}, "the weights have a 'extra' that resnet18 has not"),
            (
                {**good, "conv1.weight": torch.zeros(64, 1, 7, 7)},
                r"'conv1.weight' has shape \[64, 1, 7, 7\], not \[64, 3, 7, 7\]",
            ),
            ({**good, "fc.weight": torch.zeros(7, 9)}, r"'fc.weight' has shape \[7, 9\], not \[7, 512\]"),
        ]:
            with pytest.raises(UsageError, match=message + re.escape(remedy)):
                net.load_torchvision(weights)
        assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())

    def test_published_weights_are_fetched_by_name_and_only_then(self, monkeypatch: pytest.MonkeyPatch):
        fetched = []

        def fetch(self: Any, *arguments: Any, **options: Any) -> Any:
            fetched.append((str(self), options))
            return untouched("mobilenet_v3_small", classes=1000).state_dict()

        monkeypatch.setattr(models.WeightsEnum, "get_state_dict", fetch)
        net = Backbone("mobilenet_v3_small", resolution_px=32)
        assert fetched == []
        assert net.load_torchvision("DEFAULT") == ()
        assert fetched == [("MobileNet_V3_Small_Weights.IMAGENET1K_V1", {"check_hash": True, "weights_only": True})]
        with pytest.raises(UsageError, match="no weights 'IMAGENET1K_V9' for mobilenet_v3_small; did you"):
            net.load_torchvision("IMAGENET1K_V9")


class TestVisionTransformer:
    @torch.no_grad()
    def test_positions_of_another_resolution_are_interpolated_as_torchvision_does(self):
        from torchvision.models.vision_transformer import interpolate_embeddings

        positions = torch.randn(1, 1 + 7 * 7, 12)
        state = interpolate_embeddings(96, 32, {"encoder.pos_embedding": positions})
        assert torch.allclose(resized_positions(positions, 3), state["encoder.pos_embedding"], atol=1e-6)
        with pytest.raises(UsageError, match="positional embeddings of 6 patches; they must be of a square"):
            resized_positions(torch.zeros(1, 7, 12), 3)

    @torch.no_grad()
    def test_weights_of_another_resolution_fit(self):
        net = Backbone("vit_b_32", classes=7, resolution_px=96).eval()
        theirs = untouched("vit_b_32").state_dict()
        assert net.load_torchvision(theirs) == ()
        assert torch.equal(net.state_dict()["stem.positions"], resized_positions(theirs["encoder.pos_embedding"], 3))

    @torch.no_grad()
    def test_it_runs_at_any_resolution(self):
        net = backbone("vit_b_32")
        native = net.stem(pictures(64))
        assert native.shape == (2, 5, 768)
        assert net.stem(pictures(96)).shape == (2, 10, 768)
        # Pixels beyond the last whole patch are left out.
        assert torch.allclose(net.stem(pictures(95)), net.stem(pictures(95)[:, :, :64, :64]), atol=1e-5)
        members = EANN({"vit": net}, [("vit", 64), ("vit", 96)])
        assert [len(answers) for answers in (members(pictures(96)),)] == [8]

    def test_its_exits_look_at_the_class_token(self):
        net = backbone("vit_b_32")
        assert all(isinstance(head, TokenHead) for head in net.heads.values())
        tokens = torch.randn(1, 5, 768)
        head = net.heads["2"]
        elsewhere = torch.cat((tokens[:, :1], torch.randn(1, 4, 768)), 1)
        assert torch.equal(head(tokens), head(elsewhere))
        assert not torch.equal(head(tokens), head(torch.randn(1, 5, 768)))


def test_beside_another_trunk_in_an_eann():
    net = EANN(
        {"small": ResANN(classes=7, n=1, c=4, s=3), "large": Backbone("mobilenet_v3_small", classes=7)},
        [("small", 32), ("large", 32), ("large", 64)],
    )
    lively(net)
    check_steps(net)
    check_round_trips(net)


def test_the_networks_are_those_of_the_families_and_no_others():
    names = backbones()
    assert names == tuple(sorted(names))
    families = {re.match("[a-z]+", name).group() for name in names}  # type: ignore[union-attr]
    assert families == {"resnet", "resnext", "wide", "convnext", "efficientnet", "mobilenet", "regnet", "vit"}
    assert len(names) >= 44
    assert not {"vgg16", "quantized_resnet50", "maskrcnn_resnet50_fpn", "r3d_18"} & set(names)


def test_torchvision_is_imported_only_when_it_is_used():
    code = "import sys, stream_ann.nets; assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"network": "resnet51"}, "there is no backbone 'resnet51'; did you mean 'resnet"),
        ({"network": "vgg16"}, "there is no backbone 'vgg16'"),
        ({"network": "quantized_resnet50"}, "there is no backbone 'quantized_resnet50'"),
        ({"network": "resnet18 "}, "there is no backbone 'resnet18 '"),
        ({"network": ["resnet18"]}, "there is no backbone"),
        ({"network": None}, "there is no backbone 'None'"),
        ({"classes": 0}, "classes is 0; it must be a whole number from 1"),
        ({"resolution_px": 31}, "resolution_px is 31; it must be a whole number from 32 to 1024"),
        (
            {"network": "vit_b_16", "resolution_px": 100},
            "100; for vit_b_16 it must be a multiple of 16",
        ),
        ({"cut": "layer"}, "cut is 'layer'; it must be one of stage, block"),
        ({"head": "mlp"}, "head is 'mlp'; it must be one of conv, pooled"),
        ({"head_width": 4}, "head_width is 4; it must be a whole number from 8 to 2048"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, Any], message: str):
    arguments = {"network": "resnet18", **wrong}
    with pytest.raises(UsageError, match=message):
        Backbone(**arguments)
    with pytest.raises(CardError, match=message):
        build({"name": "torchvision", **arguments})


def test_a_card_cannot_ask_for_endless_memory():
    with pytest.raises(CardError, match=r"the net would have [0-9,]+ values; at most 200,000,000 are allowed"):
        build({"name": "torchvision", "network": "regnet_y_128gf"})
