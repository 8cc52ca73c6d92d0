"""Weights of 8 bits: what is stored, what comes back, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.quantize import quantize
from stream_ann import weights
from stream_ann.card import Validation
from stream_ann.errors import CardError, CorruptWeightsError, UsageError
from stream_ann.nets import build
from tests.net_checks import enliven, pictures, stepped
from tests.test_weights import parts_of, replace_file, safetensors_of, save, tensor_file_header

ARCH = {"name": "resann", "classes": 3, "n": 1, "c": 8, "s": 1, "resolution_px": 32, "head": "strided", "head_width": 8}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    made = build(ARCH)
    enliven(made, 3, 32)
    return made.eval()


@pytest.fixture
def whole(net, tmp_path) -> Path:
    """Weights of 16 bits with everything in their card."""
    path = tmp_path / "whole" / "flowers"
    path.parent.mkdir()
    save(
        net,
        path,
        accuracies=[0.5, 0.6, 0.7],
        validation=Validation("top-1", "flowers", 30, "stream-ann evaluate"),
        readout_weights=[1.0, 2.0, 4.0],
    )
    card = json.loads(path.with_suffix(".json").read_text())
    for i, step in enumerate(card["steps"]):
        step["temperature"], step["threshold"] = 1.0 + i, 0.9
    path.with_suffix(".json").write_text(json.dumps(card))
    return path.with_suffix(".json")


@pytest.fixture
def small(whole, tmp_path) -> Path:
    return quantize(whole, out=tmp_path / "small")[1]


class TestRounded:
    def test_half_the_bytes_and_vectors_as_they_were(self, whole, small):
        before, after = (tensor_file_header(path) for path in (whole, small))
        matrices = {name for name, entry in before.items() if len(entry.shape) >= 2}
        assert {after[name].dtype for name in matrices} == {"I8"}
        assert set(after) == set(before) | {f"{name}:scale" for name in matrices}
        old, new = (weights.load(path).net.state_dict() for path in (whole, small))
        assert all(torch.equal(old[name], new[name]) for name in set(before) - matrices)

    def test_each_weight_is_within_half_a_step_of_its_channel(self, whole, small):
        old, new = (weights.load(path).net.state_dict() for path in (whole, small))
        for name, value in old.items():
            if value.ndim >= 2:
                channels = value.flatten(1)
                step = channels.abs().amax(1, keepdim=True) / 127
                assert ((channels - new[name].flatten(1)).abs() <= 0.501 * step).all()
                assert not torch.equal(value, new[name])

    def test_the_answers_are_nearly_the_same(self, whole, small):
        images = pictures(32, count=4)
        old, new = (stepped(weights.load(path).net, images) for path in (whole, small))
        for a, b in zip(old, new, strict=True):
            torch.testing.assert_close(b.softmax(1), a.softmax(1), rtol=0, atol=0.02)

    def test_a_second_round_changes_nothing(self, small, tmp_path):
        again = quantize(small, out=tmp_path / "again", name="small")[1]
        old, new = (weights.load(path).net.state_dict() for path in (small, again))
        for name, value in old.items():
            torch.testing.assert_close(new[name], value, rtol=1e-6, atol=0)

    def test_a_channel_of_zeros_stays_one(self, net, tmp_path):
        torch.manual_seed(1)
        other = build(ARCH)
        with torch.no_grad():
            other.stem.weight[3] = 0
        save(other, tmp_path / "zeros", bits=8)
        found = weights.load(tmp_path / "zeros.json").net.stem.weight
        assert found[3].abs().max() == 0
        assert found[2].abs().max() > 0

    def test_they_can_be_trained_on_and_saved_at_16_bits(self, small, tmp_path):
        loaded = weights.load(small)
        assert {p.dtype for p in loaded.net.parameters()} == {torch.float32}
        assert all(p.requires_grad for p in loaded.net.parameters())
        save(loaded.net, tmp_path / "more")
        assert {e.dtype for e in tensor_file_header(tmp_path / "more.json").values() if len(e.shape) >= 2} == {"F16"}


class TestCard:
    def test_what_was_measured_with_other_weights_is_left_out(self, whole, small):
        before, after = weights.read_card(whole), weights.read_card(small)
        assert after.name == "small"
        assert (after.validation, set(after.accuracies)) == (None, {None})
        assert [step.threshold for step in after.steps] == [None] * 3
        assert after.temperatures == before.temperatures == (1.0, 2.0, 3.0)
        assert after.readout_weights == before.readout_weights
        rounded = after.training["rounded"]
        assert (rounded["bits"], rounded["from"]) == (8, before.file.sha256)
        assert all(check.ok for check in weights.verify(small))

    def test_the_weights_are_not_overwritten(self, whole):
        with pytest.raises(UsageError, match=r"flowers.json' is the weights that are rounded; choose another name"):
            quantize(whole, out=whole.parent, name="flowers")


def rewritten(path: Path, change) -> None:
    """Change the header and the bytes of a weights file; its card then fits again."""
    header, payload = parts_of(path.with_suffix(".safetensors").read_bytes())
    replace_file(path, safetensors_of(header, change(header, payload) or payload))


class TestRefused:
    def test_without_its_scale(self, small):
        def drop(header, payload):
            entry = header.pop("stem.weight:scale")
            begin, end = entry["data_offsets"]
            for other in header.values():
                if "data_offsets" in other and other["data_offsets"][0] >= end:
                    other["data_offsets"] = [at - (end - begin) for at in other["data_offsets"]]
            return payload[:begin] + payload[end:]

        rewritten(small, drop)
        with pytest.raises(CardError, match=r"tensor 'stem.weight' of 8 bits has no scale for each of its 8 channels"):
            weights.load(small)

    @pytest.mark.parametrize("change", [{"shape": [2, 4]}, {"dtype": "I32"}])
    def test_with_a_scale_of_another_kind(self, change, small):
        rewritten(small, lambda header, payload: header["stem.weight:scale"].update(change))
        with pytest.raises(CardError, match=r"tensor 'stem.weight' of 8 bits has no scale for each of its 8 channels"):
            weights.load(small)

    def test_a_scale_that_nothing_needs(self, whole):
        def add(header, payload):
            header["stem.weight:scale"] = {
                "dtype": "F32",
                "shape": [8],
                "data_offsets": [len(payload), len(payload) + 32],
            }
            return payload + bytes(32)

        rewritten(whole, add)
        with pytest.raises(CardError, match=r"tensor 'stem.weight:scale' is not part of the card's network"):
            weights.load(whole)

    @pytest.mark.parametrize("value", [np.inf, np.nan])
    def test_a_scale_that_is_not_finite(self, value, small):
        def spoil(header, payload):
            begin = header["stem.weight:scale"]["data_offsets"][0]
            return payload[:begin] + np.float32(value).tobytes() + payload[begin + 4 :]

        rewritten(small, spoil)
        with pytest.raises(CorruptWeightsError, match=r"tensor 'stem.weight' in '.*' holds a value that is not finite"):
            weights.load(small)

    def test_a_vector_of_8_bits(self, small):
        name = "heads.0.linear.bias"

        def narrow(header, payload):
            header[name].update(dtype="I8", shape=[12])

        rewritten(small, narrow)
        with pytest.raises(CardError, match=rf"tensor '{name}' has shape \[12\]"):
            weights.load(small)
