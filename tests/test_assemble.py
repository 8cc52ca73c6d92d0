"""Networks that were trained one by one, assembled into an EANN."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.assemble import assemble
from pipelines.evaluate import evaluate
from pipelines.train import train
from stream_ann import weights as weights_room
from stream_ann.errors import UsageError
from tests.datasets import image_folder
from tests.net_checks import stepped

FAST: dict[str, Any] = {"device": "cpu", "epochs": 1, "batch_size": 10, "plots": False, "val_fraction": 0.25}


def arch(n: int, **more: Any) -> dict[str, Any]:
    return {"name": "resann", "classes": 3, "n": n, "c": 4, "s": 1, "resolution_px": 16, **more}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return image_folder(tmp_path_factory.mktemp("data") / "shapes", {"a": 40, "b": 40, "c": 40})


@pytest.fixture(scope="module")
def members(data, tmp_path_factory) -> Path:
    """Two networks, each by a recipe of its own: the larger one is boosted."""
    folder = tmp_path_factory.mktemp("members")
    train(data, out=folder / "small", arch=arch(1), weighting="adaloss", **FAST)
    train(data, out=folder / "large", arch=arch(3, first=4), boost=True, equilibrium=True, weighting="const", **FAST)
    return folder


class TestAssemble:
    def test_every_exit_answers_as_it_did_alone(self, members, tmp_path):
        card, path = assemble([members / "small", members / "large"], out=tmp_path / "both")
        whole = weights_room.load(path)
        assert path == tmp_path / "both" / "both.json"
        assert whole.card == card
        images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        alone = [
            logits for name in ("small", "large") for logits in stepped(weights_room.load(members / name).net, images)
        ]
        for found, expected in zip(stepped(whole.net, images), alone, strict=True):
            assert torch.equal(found, expected)

    def test_the_card_says_how_each_came_about_and_what_its_exits_are_worth(self, members, tmp_path):
        card, _ = assemble([members / "small", members / "large"], out=tmp_path, name="both")
        small, large = (weights_room.load(members / name).card for name in ("small", "large"))
        assert card.training["members"] == {"small": dict(small.training), "large": dict(large.training)}
        assert (card.training["data"], card.training["val_fraction"]) == (small.training["data"], 0.25)
        assert card.accuracies == small.accuracies + large.accuracies
        assert card.validation is not None
        assert card.validation.command == f"stream-ann evaluate both {small.training['data']}"
        assert [step.name for step in card.steps][:4] == ["small@16 1", "small@16 2", "small@16 3", "large@16 1"]

    def test_accuracies_on_other_images_are_left_out(self, members, tmp_path):
        base = weights_room.load(members / "small")
        other = dataclasses.replace(base.card.validation, images=7)
        weights_room.save(
            base.net,
            tmp_path / "small",
            title="t",
            description="d",
            classes=base.card.classes,
            preprocessing=base.card.preprocessing,
            training=base.card.training,
            licence=base.card.licence,
            accuracies=base.card.accuracies,
            validation=other,
        )
        card, _ = assemble([tmp_path / "small.json", members / "large"], out=tmp_path / "both")
        assert card.validation is None
        assert set(card.accuracies) == {None}

    def test_evaluate_finds_the_rest(self, data, members, tmp_path):
        _, path = assemble([members / "small", members / "large"], out=tmp_path / "both")
        evaluate(path, data, device="cpu", into_card=True, fit_readout=True)
        card = weights_room.load(path).card
        assert card.readout_weights is not None
        assert all(step.temperature is not None for step in card.steps)


class TestRefused:
    @pytest.mark.parametrize(
        ("names", "says"),
        [
            (["small"], "an EANN of fewer than two networks; name at least two, cheapest first"),
            (["small", "small"], "two members are called 'small'; train one of them under another --name"),
            (["large", "small"], "put the cheaper first"),
        ],
    )
    def test_what_does_not_go_together(self, names, says, members, tmp_path):
        with pytest.raises(UsageError, match=says):
            assemble([members / name for name in names], out=tmp_path / "both")
        assert not (tmp_path / "both").exists()

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"classes": ("x", "y", "z")}, "'small' and 'other' tell other classes apart"),
            ({"licence": "MIT"}, "'small' is under NOASSERTION, 'other' under MIT"),
            ({"crop": 0.5}, "'small' and 'other' want their images prepared in other ways"),
        ],
    )
    def test_cards_that_differ(self, change, says, members, tmp_path):
        base = weights_room.load(members / "large")
        crop = change.get("crop", base.card.preprocessing.crop)
        weights_room.save(
            base.net,
            tmp_path / "other",
            title="t",
            description="d",
            classes=change.get("classes", base.card.classes),
            preprocessing=dataclasses.replace(base.card.preprocessing, crop=crop),
            training=base.card.training,
            licence=change.get("licence", base.card.licence),
        )
        with pytest.raises(UsageError, match=says):
            assemble([members / "small", tmp_path / "other.json"], out=tmp_path / "both")

    def test_a_member_is_not_overwritten(self, members, tmp_path):
        before = (members / "small" / "small.json").read_bytes()
        with pytest.raises(UsageError, match=r"small.json' is one of the members; choose another name or folder"):
            assemble([members / "small", members / "large"], out=members / "small")
        assert (members / "small" / "small.json").read_bytes() == before
