"""Weights: written, found, verified and read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage import data

import stream_ann
from stream_ann import weights
from stream_ann.card import Card, Validation
from stream_ann.errors import (
    CardError,
    CorruptWeightsError,
    OutputError,
    UnknownWeightsError,
    UsageError,
    WeightsError,
)
from stream_ann.nets import EANN, AnytimeNet, ResANN
from stream_ann.preprocess import Preprocessing, preprocess
from stream_ann.weights import finding, loading, tensor_file
from stream_ann.weights.convert import convert_pretrained

CLASSES = ("rose", "tulip", "daisy")
PREPROCESSING = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def tiny_net(seed: int = 0, *, classes: int = 3) -> AnytimeNet:
    """Two members at 16 and 32 px that share a trunk with two exits, and a third one of its own."""
    torch.manual_seed(seed)
    small = ResANN(classes=classes, n=1, c=4, s=2, resolution_px=16)
    large = ResANN(classes=classes, n=1, c=8, s=3, resolution_px=32)
    net = EANN({"small": small, "large": large}, [("small", 16), ("small", 32), ("large", 32)])
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training: no statistic is 0 or 1
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(1e-6, 2.0)
    return net.eval()


def photograph(name: str) -> NDArray[np.uint8]:
    image = getattr(data, name)()
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def save(net: AnytimeNet, path: Path, **changes: Any) -> Card:
    fields: dict[str, Any] = {
        "title": "Three flowers",
        "description": "For tests.",
        "classes": CLASSES,
        "preprocessing": PREPROCESSING,
        "training": {"kind": "trained", "command": "stream-ann train", "data": "none", "seed": 0},
        "licence": "Apache-2.0",
    }
    return weights.save(net, path, **(fields | changes))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good weights called 'flowers', to be copied."""
    folder = tmp_path_factory.mktemp("original")
    save(tiny_net(), folder / "flowers")
    return folder


@pytest.fixture
def flowers(original: Path, tmp_path: Path) -> Path:
    """The card of good weights called 'flowers', alone in a folder of this test's own."""
    return Path(shutil.copytree(original, tmp_path / "one")) / "flowers.json"


@pytest.fixture
def refused(flowers: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., WeightsError]:
    """Asserts that the weights are refused before memory for their tensors is allocated, by load and by verify."""

    def allocated(*_: object) -> None:
        raise AssertionError("got as far as allocating the tensors")

    def refuse(kind: type[WeightsError], message: str, path: Path | str = flowers) -> WeightsError:
        monkeypatch.setattr(loading, "fill", allocated)
        with pytest.raises(kind, match=message) as caught:
            weights.load(path)
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)
        assert caught.value.remedy
        last = weights.verify(path)[-1]
        assert last.error == str(caught.value)
        assert not last.ok
        return caught.value

    return refuse


def edit_card(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def replace_file(card_path: Path, content: bytes) -> None:
    """Put other content into the weights file and make size and checksum in the card fit it."""
    card_path.with_suffix(".safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit_card(card_path, lambda card: card["file"].update(sha256=digest, bytes=len(content)))


def safetensors_of(header: Any, payload: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload


def parts_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


class TestRoundTrip:
    def test_logits_survive_up_to_the_rounding_of_float16(self, tmp_path):
        net = tiny_net()
        save(net, tmp_path / "flowers")
        loaded = weights.load(tmp_path / "flowers.json")
        images = torch.randn(2, 3, 32, 32)
        with torch.inference_mode():
            for before, after in zip(net(images), loaded.net(images), strict=True):
                torch.testing.assert_close(after, before, rtol=0.01, atol=0.01)

    def test_a_second_round_changes_nothing(self, tmp_path):
        first = save(tiny_net(), tmp_path / "flowers")
        loaded = weights.load(tmp_path)
        (tmp_path / "again").mkdir()
        second = save(loaded.net, tmp_path / "again" / "flowers")
        assert first == second

    def test_types(self, flowers):
        stored = tensor_file_header(flowers)
        vectors = [t.dtype for t in stored.values() if len(t.shape) == 1]
        assert {t.dtype for t in stored.values() if len(t.shape) >= 2} == {"F16"}
        assert vectors
        assert set(vectors) == {"F32"}
        loaded = weights.load(flowers)
        assert {p.dtype for p in loaded.net.parameters()} == {torch.float32}
        for name, tensor in loaded.net.state_dict().items():
            if name.endswith(("running_mean", "running_var")):  # kept to the last bit
                assert torch.equal(tensor, tiny_net().state_dict()[name])

    def test_what_is_loaded(self, flowers):
        loaded = weights.load(flowers)
        assert not loaded.net.training
        assert not any(t.is_meta for t in [*loaded.net.parameters(), *loaded.net.buffers()])
        assert all(p.requires_grad for p in loaded.net.parameters())
        assert loaded.plan == loaded.net.plan()
        assert loaded.plan.exit_names == tuple(step.name for step in loaded.card.steps)
        assert loaded.card.classes == CLASSES
        assert loaded.path == flowers

    def test_shared_tensors_are_stored_once_and_stay_shared(self, flowers):
        stored = tensor_file_header(flowers)
        distinct = {id(p) for p in tiny_net().parameters()} | {id(b) for b in tiny_net().buffers()}
        assert len(stored) == len(list(tiny_net().parameters())) + len(list(tiny_net().buffers()))
        assert distinct
        first, second, _ = weights.load(flowers).net.members()
        assert all(a is b for a, b in zip(first.steps, second.steps, strict=True))

    def test_tied_parameters_of_different_modules_stay_tied(self, tmp_path):
        class Tied(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
                self.b.weight = self.a.weight

        tied, sketch = Tied(), Tied().to("meta")
        sketch.b.weight = sketch.a.weight
        path = tmp_path / "tied.safetensors"
        path.write_bytes(tensor_file.to_bytes(tied))  # type: ignore[arg-type]
        assert set(parts_of(path.read_bytes())[0]) == {"__metadata__", "a.weight", "a.bias", "b.bias"}
        tensor_file.fill(sketch, path)  # type: ignore[arg-type]
        assert sketch.a.weight is sketch.b.weight
        assert isinstance(sketch.a.weight, torch.nn.Parameter)
        torch.testing.assert_close(sketch.a.weight, tied.a.weight, rtol=1e-3, atol=1e-4)

    def test_the_random_generator_is_left_alone(self, flowers):
        before = torch.get_rng_state()
        weights.load(flowers)
        assert torch.equal(torch.get_rng_state(), before)

    def test_the_file_may_be_changed_after_loading(self, flowers):
        loaded = weights.load(flowers)
        before = {name: tensor.clone() for name, tensor in loaded.net.state_dict().items()}
        flowers.with_suffix(".safetensors").write_bytes(b"")
        for name, tensor in loaded.net.state_dict().items():
            assert torch.equal(tensor, before[name])

    def test_a_file_that_is_cut_short_while_it_is_read_is_an_error_and_no_crash(self, flowers, monkeypatch):
        def read_then_cut(*args, **kwargs):
            stored = read_header(*args, **kwargs)
            os.truncate(flowers.with_suffix(".safetensors"), 2000)
            return stored

        read_header = tensor_file.read_header
        monkeypatch.setattr(tensor_file, "read_header", read_then_cut)
        with pytest.raises(CorruptWeightsError, match="is being written"):
            weights.load(flowers)

    def test_card_fields_are_kept(self, tmp_path):
        validation = Validation("top-1", "flowers", 30, "stream-ann evaluate")
        exits = len(tiny_net().plan())
        accuracies = [None, *(i / 10 for i in range(1, exits))]
        card = save(
            tiny_net(),
            tmp_path / "flowers.safetensors",
            accuracies=accuracies,
            validation=validation,
            readout_weights=[2.0**i for i in range(exits)],
            sources=["me"],
        )
        assert weights.read_card(tmp_path / "flowers.json") == card
        assert card.name == "flowers"
        assert card.accuracies == tuple(accuracies)
        assert card.validation == validation

    def test_other_float_types_can_be_read(self, flowers):
        for tensors_as in (torch.float32, torch.bfloat16):
            import safetensors.torch

            content = flowers.with_suffix(".safetensors").read_bytes()
            tensors = safetensors.torch.load(content)
            tensors = {k: v.to(tensors_as) if v.is_floating_point() else v for k, v in tensors.items()}
            replace_file(flowers, safetensors.torch.save(tensors))
            assert {p.dtype for p in weights.load(flowers).net.parameters()} == {torch.float32}


def tensor_file_header(card_path: Path) -> dict[str, tensor_file.StoredTensor]:
    path = card_path.with_suffix(".safetensors")
    with open(path, "rb") as file:
        return tensor_file.read_header(file, path.stat().st_size, origin=str(path))


class TestCorruptFile:
    @pytest.mark.parametrize("position", [0, 3, 9, 200, -1, -5000])
    def test_a_flipped_bit_anywhere(self, flowers, refused, position):
        path = flowers.with_suffix(".safetensors")
        content = bytearray(path.read_bytes())
        content[position] ^= 1
        path.write_bytes(content)
        refused(CorruptWeightsError, r"has SHA-256 [0-9a-f]{12}…, its card says")

    @pytest.mark.parametrize("left", [0, 1, 7, 8, 9, 500, -1])
    def test_truncated(self, flowers, refused, left):
        path = flowers.with_suffix(".safetensors")
        content = path.read_bytes()
        path.write_bytes(content[:left])
        refused(CorruptWeightsError, rf"has {len(content[:left])} bytes, its card says {len(content)}")

    @pytest.mark.parametrize("left", [0, 1, 7, 8, 9, 500, -1])
    def test_truncated_with_a_card_that_fits(self, flowers, refused, left):
        content = flowers.with_suffix(".safetensors").read_bytes()[:left]
        replace_file(flowers, content)
        if content:
            refused(CorruptWeightsError, "is damaged or not safetensors: it has .* bytes")
        else:
            refused(CardError, r"'file.bytes' must be a whole number of at least 1, got 0")

    @pytest.mark.parametrize(
        ("length", "message"),
        [
            (2**63, "less than its header needs"),
            (2**64 - 1, "less than its header needs"),
            (1, "its header is not (JSON|an object)"),
            (0, "its header is not JSON"),
        ],
    )
    def test_header_length_lies(self, flowers, refused, length, message):
        content = flowers.with_suffix(".safetensors").read_bytes()
        replace_file(flowers, length.to_bytes(8, "little") + content[8:])
        refused(CorruptWeightsError, message)

    def test_huge_header(self, flowers, refused):
        replace_file(flowers, safetensors_of(b"{" + b" " * (4 << 20)))
        refused(CorruptWeightsError, "its header has 4194305 bytes, at most 4194304 are allowed")

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            (b"{", "its header is not JSON"),
            (b"[" * 100_000, "its header is not JSON"),
            (b"\xff\xfe", "its header is not JSON"),
            ([], "its header is not an object"),
            ({"x": 1}, "describes tensor 'x' in a way that cannot be read"),
            ({"x": {"dtype": "F16", "shape": [1]}}, "describes tensor 'x' in a way"),
            ({"x": {"dtype": "Q4", "shape": [1], "data_offsets": [0, 2]}}, "describes tensor 'x' in a way"),
            ({"x": {"dtype": ["F16"], "shape": [1], "data_offsets": [0, 2]}}, "describes tensor 'x' in a way"),
            ({"x": {"dtype": "F16", "shape": [-1], "data_offsets": [0, 2]}}, "describes tensor 'x' in a way"),
            ({"x": {"dtype": "F16", "shape": [True], "data_offsets": [0, 2]}}, "describes tensor 'x' in a way"),
            ({"x": {"dtype": "F16", "shape": [2**70], "data_offsets": [0, 2]}}, "describes tensor 'x' in a way"),
            ({"x": {"dtype": "F16", "shape": [1] * 9, "data_offsets": [0, 2]}}, "describes tensor 'x' in a way"),
            ({"x": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2, 4]}}, "describes tensor 'x' in a way"),
            (b'{"x": {"dtype": "F16", "shape": [NaN], "data_offsets": [0, 2]}}', "describes tensor 'x' in a way"),
            ({"x": {"dtype": "F16", "shape": [2**40], "data_offsets": [0, 2]}}, "and type F16 has 2 bytes"),
            ({"x": {"dtype": "F16", "shape": [1], "data_offsets": [2, 0]}}, "and type F16 has -2 bytes"),
            ({"x": {"dtype": "F16", "shape": [2**39], "data_offsets": [0, 2**40]}}, "its header describes 1099511627"),
            ({"x": {"dtype": "F16", "shape": [1], "data_offsets": [2, 4]}}, "begins at byte 2 of the data, not at 0"),
            (
                {n: {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]} for n in "xy"},
                "tensor 'y' begins at byte 0 of the data, not at 2",
            ),
        ],
    )
    def test_headers_that_cannot_be_true(self, flowers, refused, header, message):
        replace_file(flowers, safetensors_of(header, b"\x00\x00"))
        refused(CorruptWeightsError, f"is damaged or not safetensors: .*{message}")

    def test_a_pickle_in_disguise_is_not_executed(self, flowers, refused, tmp_path):
        class Bomb:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.mkdir, (str(tmp_path / "exploded"),)

        replace_file(flowers, pickle.dumps(Bomb()))
        refused(CorruptWeightsError, "is damaged or not safetensors")
        assert not (tmp_path / "exploded").exists()

    def test_value_that_is_not_finite(self, flowers):
        header, payload = parts_of(flowers.with_suffix(".safetensors").read_bytes())
        begin = next(v["data_offsets"][0] for v in header.values() if v.get("dtype") == "F32")
        nan = np.float32("nan").tobytes()
        replace_file(flowers, safetensors_of(header, payload[:begin] + nan + payload[begin + 4 :]))
        with pytest.raises(CorruptWeightsError, match=r"tensor '.*' in '.*' holds a value that is not finite"):
            weights.load(flowers)
        assert weights.verify(flowers)[-1].name == "values of the tensors"

    def test_missing(self, flowers, refused):
        flowers.with_suffix(".safetensors").unlink()
        refused(CorruptWeightsError, "weights file '.*flowers.safetensors' is missing")

    def test_a_folder_or_a_pipe_in_its_place(self, flowers, refused):
        path = flowers.with_suffix(".safetensors")
        path.unlink()
        path.mkdir()
        refused(CorruptWeightsError, "flowers.safetensors' is not a regular file")
        path.rmdir()
        if hasattr(os, "mkfifo"):
            os.mkfifo(path)
            refused(CorruptWeightsError, "flowers.safetensors' is not a regular file")

    def test_a_symbolic_link_is_followed(self, flowers, tmp_path):
        path = flowers.with_suffix(".safetensors")
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        assert weights.load(flowers).card.name == "flowers"

    def test_without_verify_only_the_checksum_is_left_out(self, flowers):
        path = flowers.with_suffix(".safetensors")
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)
        weights.load(flowers, verify=False)
        path.write_bytes(content[:-1])
        with pytest.raises(CorruptWeightsError, match="its card says"):
            weights.load(flowers, verify=False)


class TestCardThatDoesNotFit:
    def test_missing_card(self, flowers, refused):
        flowers.unlink()
        refused(CardError, "have no card: there is no '.*flowers.json'", flowers.with_suffix(".safetensors"))

    def test_no_json(self, flowers, refused):
        flowers.write_bytes(b"PK\x03\x04")
        refused(CardError, "weights card '.*flowers.json' is not valid JSON")

    def test_huge_card(self, flowers, refused):
        with open(flowers, "ab") as file:
            file.truncate((16 << 20) + 1)
        refused(CardError, "flowers.json' has 16777217 bytes; at most 16777216 are allowed")

    def test_folder_in_its_place(self, flowers, refused):
        flowers.unlink()
        flowers.mkdir()
        refused(CardError, "flowers.json' is not a regular file")

    def test_file_outside_the_folder(self, flowers, refused):
        save(tiny_net(), flowers.parent.parent / "outside")
        edit_card(flowers, lambda card: card["file"].update(name="../outside.safetensors"))
        refused(CardError, "'file.name' must be the name of a .safetensors file beside the card, without a path")

    def test_card_of_other_weights(self, flowers, refused):
        save(tiny_net(1), flowers.parent / "trees")
        shutil.copy(flowers, flowers.parent / "trees.json")
        path = flowers.parent / "trees.safetensors"
        refused(CardError, "trees.json' is not about '.*trees.safetensors' but about 'flowers.safetensors'", path)

    def test_other_shape(self, flowers, refused):
        header, payload = parts_of(flowers.with_suffix(".safetensors").read_bytes())
        name = next(n for n, v in header.items() if n != "__metadata__" and len(v["shape"]) == 4)
        shape = list(header[name]["shape"])
        header[name]["shape"] = shape[::-1]
        replace_file(flowers, safetensors_of(header, payload))
        message = f"tensor '{name}' has shape {shape[::-1]}, the card's network needs {shape}"
        refused(CardError, re.escape(message))

    def test_other_type(self, flowers, refused):
        header, payload = parts_of(flowers.with_suffix(".safetensors").read_bytes())
        name = next(n for n, v in header.items() if v.get("dtype") == "F32")
        header[name]["dtype"] = "I32"
        replace_file(flowers, safetensors_of(header, payload))
        refused(CardError, f"tensor '{name}' has type I32, the card's network needs F16 or BF16 or F32")

    def test_missing_and_superfluous_tensor(self, flowers, refused):
        header, payload = parts_of(flowers.with_suffix(".safetensors").read_bytes())
        name = next(n for n in header if n != "__metadata__")
        header["other"] = header.pop(name)
        replace_file(flowers, safetensors_of(header, payload))
        refused(CardError, f"the card's network needs a tensor '{name}', which is not there")
        header[name] = header.pop("other")
        header["other"] = {"dtype": "F16", "shape": [0], "data_offsets": [len(payload), len(payload)]}
        replace_file(flowers, safetensors_of(header, payload))
        refused(CardError, "tensor 'other' is not part of the card's network")

    def test_class_count(self, flowers, refused):
        edit_card(flowers, lambda card: card["classes"].append("orchid"))
        refused(CardError, "flowers.json' names 4 classes, its network has 3")

    @pytest.mark.parametrize(("key", "value"), [("name", "other"), ("resolution_px", 17), ("macs", 1), ("member", 0)])
    def test_step(self, flowers, refused, key, value):
        steps = json.loads(flowers.read_text())["steps"]
        number = next(i for i, step in enumerate(steps) if step["member"] == 1)
        was = steps[number][key]
        edit_card(flowers, lambda card: card["steps"][number].update({key: value}))
        refused(CardError, rf"'steps\[{number}\].{key}' is {value!r}, its network has {was!r}")

    def test_number_of_steps(self, flowers, refused):
        edit_card(flowers, lambda card: card["steps"].pop())
        refused(CardError, r"lists \d steps, its network has \d")

    def test_unknown_architecture(self, flowers, refused):
        edit_card(flowers, lambda card: card["arch"].update(name="eannn"))
        refused(CardError, "weights card '.*flowers.json': arch.name is 'eannn'; did you mean 'eann'")

    def test_gigantic_architecture(self, flowers, refused):
        edit_card(flowers, lambda card: card["arch"]["trunks"]["large"].update(c=128, n=64, classes=100_000))
        refused(CardError, "weights card '.*flowers.json': ")

    def test_architecture_that_is_another_one(self, flowers, refused):
        edit_card(flowers, lambda card: card["arch"]["trunks"]["large"].update(c=16))
        refused(CardError, r"'steps\[\d\].macs' is \d+, its network has \d+")


class TestVerify:
    def test_every_check_is_named(self, flowers):
        checks = weights.verify(flowers)
        assert all(check.ok and check.error is None for check in checks)
        assert [check.name for check in checks] == [
            "card found",
            "card valid",
            "size of the weights file",
            "SHA-256",
            "header of the weights file",
            "network",
            "class count",
            "plan",
            "names, shapes and types of the tensors",
            "values of the tensors",
        ]

    def test_unknown_name(self):
        (check,) = weights.verify("nothing-like-it")
        assert check.name == "card found"
        assert check.error is not None
        assert check.error.startswith("no weights are called 'nothing-like-it'")


class TestFinding:
    @pytest.fixture(autouse=True)
    def _folders(self, flowers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(weights.FOLDERS_VARIABLE, os.pathsep.join([str(tmp_path / "none"), "", str(flowers.parent)]))

    def test_by_name_in_the_folders_of_the_environment_variable(self, flowers):
        assert weights.locate("flowers") == flowers
        assert weights.load("flowers").path == flowers

    def test_the_first_folder_wins_and_comes_before_the_bundled_one(self, flowers, tmp_path, monkeypatch):
        first = tmp_path / "first"
        first.mkdir()
        save(tiny_net(2), first / "flowers")
        save(tiny_net(2), first / "imagenet")
        monkeypatch.setenv(weights.FOLDERS_VARIABLE, os.pathsep.join([str(first), str(flowers.parent)]))
        assert weights.locate("flowers") == first / "flowers.json"
        assert weights.locate("imagenet") == first / "imagenet.json"

    def test_by_path(self, flowers, monkeypatch):
        assert weights.locate(flowers) == flowers
        assert weights.locate(str(flowers.with_suffix(".safetensors"))) == flowers
        assert weights.locate(flowers.parent) == flowers
        monkeypatch.chdir(flowers.parent.parent)
        assert weights.locate("one") == Path("one/flowers.json")
        assert weights.locate("one/flowers.json") == Path("one/flowers.json")
        monkeypatch.chdir(flowers.parent)
        assert weights.locate("flowers.safetensors") == Path("flowers.json")

    def test_name_with_dots(self, flowers):
        save(tiny_net(), flowers.parent / "flowers-1.5.2")
        assert weights.load("flowers-1.5.2").card.file.name == "flowers-1.5.2.safetensors"

    def test_unknown_name(self):
        with pytest.raises(UnknownWeightsError, match="no weights are called 'flovers'; did you mean 'flowers'"):
            weights.load("flovers")

    @pytest.mark.parametrize("name", ["", "\0", "x" * 5000, "..", "."])
    def test_odd_names(self, name, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UnknownWeightsError, match=r"no weights are called|holds no weights"):
            weights.load(name)

    @pytest.mark.parametrize("name", ["flowers.json", "flowers.safetensors", "/x/flowers", "x/flowers.json", "../x\0y"])
    def test_unknown_path(self, name, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UnknownWeightsError, match="there are no weights at '"):
            weights.load(name)

    def test_folder_with_none_or_several(self, flowers, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(UnknownWeightsError, match="empty' holds no weights"):
            weights.load(tmp_path / "empty")
        save(tiny_net(), flowers.parent / "trees")
        with pytest.raises(
            UnknownWeightsError, match=r"holds 2 weights files; name one of them: flowers\.safetensors, t"
        ):
            weights.load(flowers.parent)

    def test_left_overs_of_a_killed_save_are_not_weights(self, flowers):
        (flowers.parent / ".flowers.safetensors.123.tmp").write_bytes(b"half")
        assert weights.load(flowers.parent).path == flowers

    def test_available_lists_broken_ones_with_their_error(self, flowers):
        folder = flowers.parent
        for name in ("no-card", "no-weights", "no-json", "short"):
            save(tiny_net(), folder / name)
        (folder / "no-card.json").unlink()
        (folder / "no-weights.safetensors").unlink()
        (folder / "no-json.json").write_text("{")
        (folder / "short.safetensors").write_bytes(b"short")
        (folder / "settings.json").write_text('{"unrelated": true}')
        (folder / "notes.txt").write_text("unrelated")
        listed = {entry.name: entry for entry in weights.available() if entry.path.parent == folder}
        assert list(listed) == ["flowers", "no-card", "no-json", "no-weights", "short"]
        good = listed["flowers"]
        card = weights.read_card("flowers")
        assert good == loading.Listed(
            "flowers", flowers, "Three flowers", 3, len(card.steps), card.total_macs, card.file.bytes, None
        )
        messages = {
            "no-card": "have no card",
            "no-json": "is not valid JSON",
            "no-weights": "is missing",
            "short": "has 5 bytes, its card says",
        }
        for name, message in messages.items():
            assert message in str(listed[name].error)


class TestSaving:
    def test_nothing_but_the_two_files_is_left(self, flowers):
        assert sorted(p.name for p in flowers.parent.iterdir()) == ["flowers.json", "flowers.safetensors"]

    def test_same_content_every_time(self, flowers, tmp_path):
        save(tiny_net(), tmp_path / "flowers")
        for suffix in (".json", ".safetensors"):
            assert (tmp_path / f"flowers{suffix}").read_bytes() == flowers.with_suffix(suffix).read_bytes()

    @pytest.mark.parametrize("renames_done", [0, 1])
    def test_killed_before_or_between_the_renames(self, flowers, refused, monkeypatch, renames_done):
        class Killed(BaseException):
            pass

        real, done = os.replace, 0

        def replace(source: Path, target: Path) -> None:
            nonlocal done
            if done == renames_done:
                raise Killed
            done += 1
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            save(tiny_net(seed=1), flowers.parent / "flowers")
        if renames_done == 0:
            assert weights.load(flowers).card.name == "flowers"  # the old state
        else:
            refused(CorruptWeightsError, r"has SHA-256 [0-9a-f]{12}…, its card says [0-9a-f]{12}…")

    def test_first_save_killed_between_the_renames(self, tmp_path, monkeypatch):
        def replace(source: Path, target: Path) -> None:
            if target.suffix == ".json":
                raise KeyboardInterrupt
            os.rename(source, target)

        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            save(tiny_net(), tmp_path / "flowers")
        with pytest.raises(CardError, match=r"flowers\.safetensors' have no card"):
            weights.load(tmp_path)

    def test_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(OutputError, match=r"cannot write '.*flowers.safetensors': No such file or directory"):
            save(tiny_net(), tmp_path / "none" / "flowers")

    def test_no_space_left(self, flowers, monkeypatch):
        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"cannot write '.*flowers.safetensors': No space left on device"):
            save(tiny_net(seed=1), flowers)
        monkeypatch.undo()
        assert weights.load(flowers.parent).card == weights.read_card(flowers)
        assert len(list(flowers.parent.iterdir())) == 2

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 70000.0])
    def test_values_that_cannot_be_stored(self, tmp_path, value):
        net = tiny_net()
        weight = next(p for p in net.parameters() if p.ndim == 4)
        with torch.no_grad():
            weight[0, 0, 0, 0] = value
        with pytest.raises(UsageError, match="holds a value that is not finite as float16"):
            save(net, tmp_path / "flowers")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"classes": ("a", "b")}, "2 class names for a net of 3 classes"),
            ({"accuracies": [0.5]}, r"1 accuracies for a net of \d exits"),
        ],
    )
    def test_counts(self, tmp_path, changes, message):
        with pytest.raises(UsageError, match=message):
            save(tiny_net(), tmp_path / "flowers", **changes)

    def test_bad_card_is_not_written(self, tmp_path):
        with pytest.raises(CardError, match="'classes' has 'rose' twice"):
            save(tiny_net(), tmp_path / "flowers", classes=("rose", "tulip", "rose"))
        assert not list(tmp_path.iterdir())

    def test_net_that_its_arch_does_not_describe(self, tmp_path):
        net = tiny_net()
        net.extra = torch.nn.Linear(2, 2)
        with pytest.raises(UsageError, match="the EANN is not what its arch describes"):
            save(net, tmp_path / "flowers")

    def test_buffer_that_would_be_lost(self, tmp_path):
        net = tiny_net()
        net.register_buffer("scale", torch.ones(1), persistent=False)
        with pytest.raises(UsageError, match="buffer 'scale' is not in the net's state dict"):
            save(net, tmp_path / "flowers")

    def test_card_alone_is_replaced_whole(self, flowers):
        card = weights.read_card(flowers)
        weights.write_card(dataclasses.replace(card, title="Other"), flowers)
        assert weights.load(flowers).card.title == "Other"


@pytest.fixture(scope="module")
def imagenet() -> weights.Weights:
    return stream_ann.load("imagenet")


class TestImagenet:
    """The bundled weights."""

    def test_they_lie_beside_the_package(self):
        assert weights.locate("imagenet") == weights.bundled_folder() / "imagenet.json"
        assert weights.bundled_folder() == Path(stream_ann.__file__).parent.parent / "weights"

    def test_their_card_says_what_they_are(self, imagenet):
        card = imagenet.card
        assert "Lite0 was trained to say" in card.description
        descent, told = [], card.training
        while told:
            descent.append(told.get("method", told["kind"]))
            told = told.get("init", {})
        assert descent == ["distilled together", "tied", *["distilled together"] * 2, "converted"]
        assert card.licence == "Apache-2.0"
        assert len(set(card.classes)) == 1000
        assert None not in (card.readout_weights, *card.accuracies)

    def test_all_bundled_weights_are_small_enough_to_be_committed(self):
        names = finding.names()
        assert "imagenet" in names
        assert sum(weights.read_card(name).file.bytes for name in names) < 32e6

    def test_rounding_to_float16_changes_no_top_1_on_photographs(self, imagenet):
        published = convert_pretrained()
        photographs = [photograph(name) for name in ("astronaut", "camera", "chelsea", "coffee", "rocket")]
        pairs = list(zip(published.members(), imagenet.net.members(), strict=True))
        for before, after in pairs[3:]:  # the others have been trained
            sized = torch.cat([preprocess(p, before.resolution_px, imagenet.card.preprocessing) for p in photographs])
            with torch.inference_mode():
                exact, rounded = (member.steps[0](sized, ())[1] for member in (before, after))
            assert torch.equal(exact.argmax(dim=1), rounded.argmax(dim=1))
            assert (exact - rounded).abs().max() < 0.2  # of logits between -10 and 10

    def test_converting_again_gives_the_same_tensors(self, imagenet, tmp_path):
        again = weights.load(weights.write_pretrained(tmp_path / "made", name="again")).net.trunks
        bundled = imagenet.net.trunks["lite2"].state_dict()
        assert all(tensor.equal(bundled[key]) for key, tensor in again["lite2"].state_dict().items())

    def test_the_trained_members_differ_in_their_batch_norms_alone(self, imagenet):
        first, *others = (imagenet.net.trunks[name] for name in ("lite0-96", "lite0-160", "lite0"))
        for trunk in others:
            for (name, one), (_, other) in zip(first.named_parameters(), trunk.named_parameters(), strict=True):
                assert (one is other) == (one.ndim > 1 or ".linear." in name), name

    def test_they_know_a_cat_when_they_see_one(self, imagenet):
        with torch.inference_mode():
            for member in imagenet.net.members():
                sized = preprocess(photograph("chelsea"), member.resolution_px, imagenet.card.preprocessing)
                (step,) = member.steps
                name = imagenet.card.classes[int(step(sized, ())[1].argmax())]
                assert "cat" in name or name in ("tabby", "lynx")


@pytest.mark.parametrize(
    ("name", "most_bytes", "data", "photographed", "said"),
    [
        ("tiny-imagenet", 8.5e6, "Tiny-ImageNet", "coffee", "espresso"),
        ("cifar10-jpeg", 1e6, "CIFAR-10, JPEG re-encoded", "chelsea", "cat"),
    ],
)
def test_smaller_bundled_weights_know_something_and_say_what_they_are(name, most_bytes, data, photographed, said):
    loaded = stream_ann.load(name)
    card = loaded.card
    assert card.file.bytes < most_bytes
    assert card.validation is not None
    for told in (card.title, card.training["data"], card.validation.data):
        assert data in told
    assert None not in card.accuracies
    report = Path(__file__).parents[1] / "benchmarks" / "results" / f"{name}.json"
    figures = json.loads(report.read_text())["figures"]
    accuracies = [row["top1"] for row in figures if row["readout"] == card.default_readout]
    assert len(accuracies) == len(card.steps)
    assert accuracies == sorted(accuracies), "a later answer is never worse"
    assert None not in [step.temperature for step in card.steps]
    assert card.steps[-1].threshold == 0
    with torch.inference_mode():
        last = loaded.net(preprocess(photograph(photographed), card.steps[0].resolution_px, card.preprocessing))[-1]
    assert card.classes[int(last.argmax())] == said
