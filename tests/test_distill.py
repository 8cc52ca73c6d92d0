"""Distilling a member of an EANN, from crops that a teacher has answered to weights with a card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.distill import distill
from pipelines.distill_exits import NewExits, distill_exits
from pipelines.distill_together import distill_together
from pipelines.train import TrainResult
from stream_ann import weights as weights_room
from stream_ann.engines.folding import fold_batch_norms
from stream_ann.errors import CardError, TrainingError, UsageError
from stream_ann.nets import EANN, Lite, arch_of, build
from stream_ann.nets import lite as lite_module
from stream_ann.nets.heads import ConvHead
from stream_ann.training.augment import Augment
from stream_ann.training.data import open_data
from stream_ann.training.options import TrainOptions
from stream_ann.training.own_trunk import interpolate, own_trunk, with_own_trunks
from stream_ann.training.stagewise import agreement, fit_exit, mixed_with, mixing_weights
from stream_ann.training.taught import TaughtCrops, centre_crops, read_crops, varied_crops, write_crops
from tests.datasets import image_folder
from tests.small_weights import save_small_eann
from tests.test_cli import run

SMALL: dict[str, Any] = {"batch_size": 8, "epochs": 2, "crops": 1, "val_fraction": 0.25, "device": "cpu"}


def eann() -> EANN:
    torch.manual_seed(0)
    return EANN({"lite0": Lite(0, classes=5)}, [("lite0", 32), ("lite0", 64)]).eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_small_eann(tmp_path_factory.mktemp("base") / "base", (32, 64))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return image_folder(tmp_path_factory.mktemp("pictures"), {"red": 8, "green": 8, "blue": 8})


def by_brightness(squares: np.ndarray) -> np.ndarray:
    """A teacher whose answer says which crop it has seen."""
    mean = squares.astype(np.float32).mean((1, 2, 3))
    return np.stack([mean, -mean, mean / 2, mean * 0, mean * 0], axis=1)


class TestCrops:
    def test_each_crop_lies_beside_the_answer_to_it(self, tmp_path):
        for number, name in enumerate(("a", "b")):
            (tmp_path / name).mkdir()
            for i in range(12):
                ramp = np.linspace(0, 200 + i + 20 * number, 60).astype(np.uint8)
                Image.fromarray(np.broadcast_to(ramp[None, :, None], (40, 60, 3)).copy()).save(
                    tmp_path / name / f"{i}.png"
                )
        split = open_data(tmp_path, val_fraction=0.25).train
        augment = Augment(flip=0.5, crop_scale=(0.2, 1.0))
        made = varied_crops(
            split, by_brightness, crops=2, resolution_px=16, teacher_px=32, augment=augment, seed=0, batch_size=6
        )
        assert made.pixels.shape == (36, 16, 16, 3)
        assert made.pixels.dtype == torch.uint8
        seen = made.pixels.float().mean((1, 2, 3))
        assert torch.allclose(seen, made.answers[:, 0].float(), atol=1.0)
        assert len(set(made.answers[:, 0].tolist())) > 30  # crops differ
        again = varied_crops(
            split, by_brightness, crops=2, resolution_px=16, teacher_px=32, augment=augment, seed=0, batch_size=6
        )
        assert again.pixels.equal(made.pixels)

    def test_centre_crops_are_in_the_order_of_the_images(self, folder):
        split = open_data(folder, val_fraction=0.25).val
        told = []
        made = centre_crops(
            split,
            by_brightness,
            crop=1.0,
            interpolation="bicubic",
            resolution_px=16,
            teacher_px=16,
            batch_size=4,
            on_progress=lambda done, total: told.append((done, total)),
        )
        whole = next(split.eval_batches(batch_size=len(split), resolution_px=16, device=torch.device("cpu"), crop=1.0))
        assert made.pixels.equal(whole.images.permute(0, 2, 3, 1))
        assert told[-1] == (len(split), len(split))

    def test_kept_crops_are_those_of_the_same_arguments_only(self, tmp_path):
        crops = TaughtCrops(torch.zeros(3, 8, 8, 3, dtype=torch.uint8), torch.arange(6.0).reshape(3, 2).half())
        path = tmp_path / "deep" / "crops.safetensors"
        write_crops(crops, path, about={"seed": 0})
        assert read_crops(path, about={"seed": 0}).answers.equal(crops.answers)
        with pytest.raises(TrainingError, match="made otherwise"):
            read_crops(path, about={"seed": 1})

    def test_labels_are_what_the_teacher_thinks_most_likely(self):
        crops = TaughtCrops(torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.tensor([[0.0, 2.0], [3.0, 1.0]]))
        assert crops.split(["a", "b"]).labels.tolist() == [1, 0]


class TestOwnTrunk:
    def test_the_copy_answers_as_the_member_did_and_its_new_exit_is_fresh(self):
        net = eann()
        trunk, fresh = own_trunk(net, "lite0@32", exits=[4])
        assert trunk.members()[0].resolution_px == 32
        assert {name.split(".")[:2][1] for name in fresh} == {"4"}
        images = torch.randn(2, 3, 32, 32)
        trunk.eval()
        with torch.no_grad():
            old = net.members()[0].steps[-1](images, ())[1]
            assert torch.allclose(trunk(images)[-1], old, atol=1e-6)

    @pytest.mark.parametrize(
        ("member", "exits", "what"),
        [("lite0@96", [4], "no member is called 'lite0@96'"), ("lite0@32", [15], "exits is")],
    )
    def test_refusals(self, member, exits, what):
        with pytest.raises((UsageError, CardError), match=what):
            own_trunk(eann(), member, exits=exits)

    def test_other_members_keep_theirs_and_common_parts_are_one(self):
        net = eann()
        trunk, _ = own_trunk(net, "lite0@32")
        made = with_own_trunks(net, {"lite0@32": trunk}, ["stem", "blocks.0"], {"lite0@32": "low"})
        assert made.plan().exit_names == ("low@32", "lite0@64")
        assert trunk.stem[0].weight is net.trunks["lite0"].stem[0].weight
        assert trunk.blocks[1].expand[0].weight is not net.trunks["lite0"].blocks[1].expand[0].weight
        rebuilt = build(arch_of(made))
        assert rebuilt.trunks["low"].stem[0].weight is rebuilt.trunks["lite0"].stem[0].weight
        assert arch_of(rebuilt) == arch_of(made)

    def test_folding_leaves_common_parts_as_they_answer(self):
        net = eann()
        trunk, _ = own_trunk(net, "lite0@32")
        made = with_own_trunks(net, {"lite0@32": trunk}, ["stem", "blocks.0"], {"lite0@32": "low"})
        images = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            before = made(images)
            after = fold_batch_norms(made)(images)
        for one, other in zip(before, after, strict=True):
            assert torch.allclose(one, other, atol=1e-4)

    def test_the_last_trunk_of_a_name_is_replaced(self):
        net = eann()
        single = EANN({"lite0": net.trunks["lite0"]}, [("lite0", 32)])
        trunk, _ = own_trunk(single, "lite0@32", exits=[4])
        made = with_own_trunks(single, {"lite0@32": trunk}, ["stem"], {"lite0@32": "lite0"})
        assert made.plan().exit_names == ("lite0@32 1", "lite0@32 2")
        assert "tied" not in arch_of(made)

    def test_a_trunk_that_is_trained_again_still_has_the_common_parts(self):
        net = eann()
        trunk, _ = own_trunk(net, "lite0@32")
        first = with_own_trunks(net, {"lite0@32": trunk}, ["stem", "blocks.0", "blocks.1"], {"lite0@32": "low"})
        again, _ = own_trunk(first, "low@32")
        made = with_own_trunks(first, {"low@32": again}, ["stem", "blocks.0"], {"low@32": "low"})
        assert arch_of(made)["tied"] == {"low": ["lite0", ["stem", "blocks.0"]]}
        with pytest.raises(UsageError, match="which other members run"):
            with_own_trunks(first, {"low@32": again}, (), {"low@32": "lite0"})

    @pytest.mark.parametrize(
        "tied",
        [
            {"low": ["lite0", ["stem.9"]]},
            {"low": ["lite0", [""]]},
            {"low": ["lite0", ["blocks.1.expand.conv", 3]]},
            {"low": ["nobody", ["stem"]]},
            {"lite0": ["low", ["stem"]]},
            {"low": "lite0"},
            ["low"],
        ],
    )
    def test_cards_with_impossible_ties_are_refused(self, tied):
        lite = {"name": "efficientnet-lite0", "classes": 3}
        arch = {"name": "eann", "trunks": {"lite0": lite, "low": lite}, "members": [["low", 32], ["lite0", 64]]}
        build({**arch, "tied": {"low": ["lite0", ["stem"]]}}, device="meta")
        with pytest.raises(CardError, match=r"tie|both networks"):
            build({**arch, "tied": tied}, device="meta")

    def test_parts_of_another_shape_cannot_be_tied(self):
        lite = {"name": "efficientnet-lite0", "classes": 3}
        trunks = {"lite0": lite, "low": {**lite, "name": "efficientnet-lite2"}}
        arch = {"name": "eann", "trunks": trunks, "members": [["low", 32], ["lite0", 64]]}
        with pytest.raises(CardError, match="differ in shape"):
            build({**arch, "tied": {"low": ["lite0", ["blocks.6"]]}}, device="meta")

    def test_interpolation_goes_part_of_the_way_back(self):
        start, end = Lite(0, classes=3), Lite(0, classes=3)
        before, after = start.stem[0].weight.clone(), end.stem[0].weight.clone()
        interpolate(end, start, 0.25, fresh=["heads.15.linear.weight"])
        assert torch.allclose(end.stem[0].weight, 0.75 * before + 0.25 * after, atol=1e-6)
        assert not torch.allclose(end.heads["15"].linear.weight, start.heads["15"].linear.weight, atol=1e-3)


@pytest.fixture(scope="module")
def distilled(base, folder, tmp_path_factory) -> TrainResult:
    """A member of ``base`` that was distilled, its crops in the folder ``taught`` above its own."""
    root = tmp_path_factory.mktemp("distilled")
    own: dict[str, Any] = {"exits": [4], "called": "low", "keep_blocks": 2, "taught": root / "taught"}
    return distill([f"{folder}:8"], out=root / "better", weights=base, member="lite0@32", **own, **SMALL)


class TestDistill:
    def test_weights_whose_other_members_are_as_they_were(self, base, distilled):
        out = distilled.path.parent
        assert all(check.ok for check in weights_room.verify(out))
        old, new = weights_room.load(base), weights_room.load(out)
        assert new.plan.exit_names == ("low@32 1", "low@32 2", "lite0@64")
        assert new.card == distilled.card
        assert new.card.readout_weights == (0.5, 1.0, 2.0)
        assert new.card.accuracies == (None, None, 0.5)
        assert new.card.training["method"] == "distilled"
        assert new.card.training["crops"] == 18
        assert str(out.parent) not in (out / "better.json").read_text()
        # what was kept is stored once
        low, lite0 = new.net.trunks["low"], new.net.trunks["lite0"]
        assert low.stem[0].weight is lite0.stem[0].weight
        assert low.heads["15"].linear.weight is lite0.heads["15"].linear.weight
        assert not low.blocks[2].expand[0].weight.equal(lite0.blocks[2].expand[0].weight)
        before = old.net.trunks["lite0"].state_dict()
        for name, tensor in lite0.state_dict().items():
            assert tensor.equal(before[name]), name
        epochs = json.loads((out / "history.json").read_text())["epochs"]
        assert epochs[1]["train_loss"][1] < epochs[0]["train_loss"][1]

    def test_crops_are_made_once_and_none_of_the_change_need_be_kept(self, base, folder, distilled, tmp_path):
        taught = distilled.path.parent.parent / "taught"
        files = {path: path.stat().st_mtime_ns for path in taught.iterdir()}
        assert len(files) == 2
        words = ["--weights", base, "--member", "lite0@32", "--taught", taught, "--share", "0", "--epochs", "1"]
        words += ["--batch-size", "8", "--crops", "1", "--val-fraction", "0.25", "--device", "cpu"]
        code, stdout, err = run("distill", f"{folder}:8", "--out", tmp_path / "second", *words)
        assert code == 0, err
        assert {path: path.stat().st_mtime_ns for path in taught.iterdir()} == files
        made, old = weights_room.load(stdout.strip()), weights_room.load(base)
        for key, tensor in old.net.trunks["lite0"].named_parameters():
            assert torch.equal(made.net.trunks["lite0-32"].get_parameter(key), tensor), key
        assert "agreement_held_out" in made.card.training
        code, _, err = run("distill", f"{folder}:8", "--out", tmp_path / "third", *words, "--crops", "2")
        assert code == 1
        assert "made otherwise" in err

    def test_refusals(self, base, folder, tmp_path):
        options = {**SMALL, "out": tmp_path / "out", "weights": base, "member": "lite0@32"}
        with pytest.raises(UsageError, match="no images"):
            distill([], **options)
        with pytest.raises(UsageError, match="share is 2"):
            distill([folder], **options, share=2)
        with pytest.raises(UsageError, match="blocks to keep"):
            distill([folder], **options, keep_blocks=16)
        with pytest.raises(UsageError, match="no member is called"):
            distill([folder], **{**options, "member": "lite0@33"})


@pytest.fixture(scope="class")
def small_lites() -> Iterator[None]:
    """EfficientNet-Lites as they are, but narrow, and with as few blocks as there are stages.

    What is told of several members depends on neither, and whole ones of four members take minutes on a busy machine:
    to be copied, counted, written and read, far more than to be trained.
    """
    stages = tuple(
        (min(expansion, 2), channels // 2, 1, stride, kernel_px)
        for expansion, channels, _, stride, kernel_px in lite_module._STAGES
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lite_module, "_STAGES", stages)
        patch.setattr(lite_module, "_HEAD_CHANNELS", 160)
        yield


@pytest.fixture(scope="class")
def three(small_lites, tmp_path_factory) -> Path:
    """Three members of one network and a last one of another."""
    torch.manual_seed(0)
    net = EANN(
        {"lite0": Lite(0, classes=5), "lite1": Lite(1, classes=5)},
        [("lite0", 32), ("lite0", 48), ("lite0", 64), ("lite1", 72)],
    )
    with torch.no_grad():
        net.get_parameter("trunks.lite1.heads.11.linear.weight").mul_(10)  # surer, to be learnt from
    target = tmp_path_factory.mktemp("three") / "three"
    weights_room.save(
        net.eval(),
        target,
        title="three",
        description="",
        classes=list("abcde"),
        preprocessing=weights_room.load(save_small_eann(target.parent / "other", (32, 64))).card.preprocessing,
        training={"kind": "trained", "command": "none", "data": "none", "seed": 0},
        licence="MIT",
        readout_weights=[1.0, 2.0, 4.0, 8.0],
    )
    return target.with_suffix(".json")


MEMBERS = {"lite0@32": [2], "lite0@48": [2], "lite1@72": [6, 9]}


@pytest.fixture(scope="class")
def together(three, folder, tmp_path_factory) -> TrainResult:
    out = tmp_path_factory.mktemp("together") / "out"
    options: dict[str, Any] = {
        "batch_size": 6,
        "epochs": 3,
        "val_fraction": 0.25,
        "device": "cpu",
        "mixup": 0.5,
        "lr": 2e-2,
    }
    return distill_together([folder], out=out, weights=three, members=MEMBERS, **options)


class TestTogether:
    def test_members_that_are_not_named_and_the_last_exit_answer_as_before(self, three, together):
        old, new = weights_room.load(three), weights_room.load(together.path.parent)
        assert all(check.ok for check in weights_room.verify(together.path.parent))
        names = ("lite0@32 1", "lite0@32 2", "lite0@48 1", "lite0@48 2", "lite0@64")
        assert new.plan.exit_names == (*names, "lite1@72 1", "lite1@72 2", "lite1@72 3")
        assert new.card.readout_weights == (0.5, 1.0, 1.0, 2.0, 4.0, 2.0, 4.0, 8.0)
        images = torch.rand(2, 3, 72, 72)
        before, after = old.net(images), new.net(images)
        assert after[4].equal(before[2])
        torch.testing.assert_close(after[7], before[3])
        for i, j in ((1, 0), (3, 1)):
            assert not torch.allclose(after[i], before[j], atol=1e-3)

    def test_what_members_of_one_network_have_in_common_is_stored_once(self, three, together):
        old, new = weights_room.load(three).net.trunks, weights_room.load(together.path.parent).net.trunks
        small, middle, whole, last = (new[name] for name in ("lite0-32", "lite0-48", "lite0", "lite1"))
        assert middle.blocks[3].expand[0].weight is small.blocks[3].expand[0].weight
        assert middle.blocks[3].expand[1].weight is not small.blocks[3].expand[1].weight
        assert middle.heads["2"].expand[0].weight is small.heads["2"].expand[0].weight
        # one classifier for all heads of one network, as it was
        for trunk in (small, middle):
            assert trunk.heads["2"].linear.weight is whole.heads["6"].linear.weight
        assert whole.heads["6"].linear.weight.equal(old["lite0"].heads["6"].linear.weight)
        assert last.heads["9"].linear.weight is last.heads["11"].linear.weight
        for name, tensor in old["lite1"].state_dict().items():
            assert tensor.equal(last.state_dict()[name]), name
        assert not small.blocks[3].expand[0].weight.equal(old["lite0"].blocks[3].expand[0].weight)

    def test_the_members_learn_what_the_last_one_says(self, together):
        first, last = together.history.records[0], together.history.records[-1]
        for i in range(6):
            assert last.train_loss[i] < 0.5 * first.train_loss[i]
        assert last.val_accuracy[-1] == 1
        assert together.card.training["method"] == "distilled together"

    def test_the_command(self, three, folder, tmp_path):
        words = ["--weights", three, "--batch-size", "6", "--epochs", "1", "--val-fraction", "0.25", "--share", "0"]
        words += ["--device", "cpu", "--member", "lite0@32:2", "--member", "lite0@48:2"]
        code, stdout, err = run("distill", folder, "--out", tmp_path / "out", *words)
        assert code == 0, err
        made, old = weights_room.load(stdout.strip()), weights_room.load(three)
        before = old.net.trunks["lite0"].state_dict()
        for name in ("lite0-32", "lite0-48"):
            for key, tensor in made.net.trunks[name].state_dict().items():
                assert "heads.2." in key or tensor.equal(before[key]), key
        code, _, err = run("distill", folder, "--out", tmp_path / "two", *words, "--member", "lite0@32")
        assert code == 1
        assert "a member is named twice" in err
        code, _, err = run("distill", folder, "--out", tmp_path / "two", *words, "--exits", "4")
        assert code == 2 or "--exits for several members" in err

    def test_members_with_networks_of_their_own_are_trained_further_by_other_teachers(self, together, folder, tmp_path):
        """On a CPU: the teachers' answers are kept, and what the members have in common stays in common."""
        options: dict[str, Any] = {"batch_size": 6, "epochs": 2, "val_fraction": 0.25, "device": "cpu", "lr": 5e-3}
        made = distill_together(
            [folder],
            out=tmp_path / "out",
            weights=together.path,
            members={"lite0@32": None, "lite0@48": None},
            crops=2,
            teacher_members=["lite0@64", "lite1@40"],
            **options,
        )
        training = made.card.training
        assert training["teacher"]["exit"] == "lite0@64, lite1@40"
        assert training["crops"] == 36
        old, new = weights_room.load(together.path), weights_room.load(made.path.parent)
        assert all(check.ok for check in weights_room.verify(made.path.parent))
        assert new.plan.exit_names == old.plan.exit_names
        small, middle, whole = (new.net.trunks[name] for name in ("lite0-32", "lite0-48", "lite0"))
        assert middle.blocks[3].expand[0].weight is small.blocks[3].expand[0].weight
        assert middle.blocks[3].expand[1].weight is not small.blocks[3].expand[1].weight
        assert small.heads["2"].linear.weight is whole.heads["6"].linear.weight
        assert not small.blocks[3].expand[0].weight.equal(old.net.trunks["lite0-32"].blocks[3].expand[0].weight)
        losses = [record.train_loss for record in made.history.records]
        assert losses[1][1] < losses[0][1]

    def test_refusals(self, three, folder, tmp_path):
        options: dict[str, Any] = {"out": tmp_path / "out", "weights": three, "device": "cpu"}
        with pytest.raises(UsageError, match="say how many crops are kept"):
            distill_together([folder], members={"lite0@32": None, "lite0@48": None}, teacher=three, **options)
        given = {"members": {"lite0@32": None, "lite0@48": None}, "crops": 1, "teacher_members": ["lite2@40"]}
        with pytest.raises(UsageError, match="no member 'lite2@40' to learn from"):
            distill_together([folder], **given, **options)
        with pytest.raises(UsageError, match="nothing is new in the last member"):
            distill_together([folder], members={"lite0@32": None, "lite1@72": None}, **options)
        with pytest.raises(UsageError, match="no member is called"):
            distill_together([folder], members={"lite0@33": None}, **options)


class TestStages:
    """An exit that learns what the answer before it lacks."""

    OPTIONS = TrainOptions(epochs=40, batch_size=32, optimizer="adamw", lr=2e-2, weight_decay=0.0, device="cpu")

    @staticmethod
    def puzzle() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features of four classes, of which the answer before tells but two groups apart, and the truth."""
        drawn = torch.Generator().manual_seed(0)
        truth = torch.randint(0, 4, (256,), generator=drawn)
        # which of its group a class is can be seen in the first channel, the group itself nowhere
        features = 0.1 * torch.rand(256, 8, 2, 2, generator=drawn)
        features[:, 0] += (truth % 2).float()[:, None, None]
        group = torch.stack([truth < 2, truth < 2, truth >= 2, truth >= 2], 1).float()
        before = group / 2
        return features.half(), before.half(), 20 * torch.nn.functional.one_hot(truth, 4).float()

    def head(self) -> ConvHead:
        torch.manual_seed(0)
        return ConvHead(8, 16, 4)

    def test_it_completes_the_answer_before_it_though_it_could_not_answer_alone(self):
        features, before, wanted = self.puzzle()
        head = self.head()
        share = fit_exit(head, features, before, wanted, self.OPTIONS, number=1)
        assert share is not None
        assert 0.1 < share < 0.9
        assert not head.training
        then, now = agreement(before, wanted), agreement(mixed_with(head, features, before, share), wanted)
        alone = agreement(mixed_with(head, features, None, 1.0), wanted)
        assert now.same == 1
        assert now.loss < then.loss  # a mixture cannot be surer than its parts
        assert alone.same < 0.8

    def test_an_exit_that_knows_nothing_gets_little(self):
        features, _, wanted = self.puzzle()
        share = fit_exit(
            self.head(), torch.zeros_like(features), wanted.softmax(-1).half(), wanted, self.OPTIONS, number=1
        )
        assert share is not None
        assert share < 0.1

    def test_the_last_layer_stays_if_it_is_frozen_and_norms_are_those_of_all_features(self):
        features, before, wanted = self.puzzle()
        head = self.head()
        head.linear.requires_grad_(False)
        linear = head.linear.weight.clone()
        assert fit_exit(head, features, before, wanted, self.OPTIONS, number=1) is not None
        assert head.linear.weight.equal(linear)
        conv, norm = head.expand[0], head.expand[1]
        with torch.no_grad():
            seen = conv(features.float())
        torch.testing.assert_close(norm.running_mean, seen.mean((0, 2, 3)), atol=1e-3, rtol=1e-2)
        assert norm.momentum == 0.01

    def test_the_same_seed_gives_the_same_exit(self):
        features, before, wanted = self.puzzle()
        heads = [self.head() for _ in range(2)]
        shares = [fit_exit(head, features, before, wanted, self.OPTIONS, number=1) for head in heads]
        assert shares[0] == shares[1]
        assert heads[0].expand[0].weight.equal(heads[1].expand[0].weight)

    def test_it_ends_when_it_is_told_to(self):
        features, before, wanted = self.puzzle()
        seen: list[int] = []
        stopped = fit_exit(
            self.head(),
            features,
            before,
            wanted,
            self.OPTIONS,
            number=1,
            stopping=lambda: len(seen) == 3,
            on_progress=lambda done, total: seen.append(done),
        )
        assert stopped is None
        assert seen == [1, 2, 3]

    def test_weights_of_the_readout_give_each_exit_its_share(self):
        shares = (1.0, 0.25, 0.5)
        weights = mixing_weights(shares)
        assert [round(weight / sum(weights[: i + 1]), 3) for i, weight in enumerate(weights)] == [1.0, 0.25, 0.5]


NEW = {"lite0@48": [2], "lite1@72": [6, 9]}


@pytest.fixture(scope="class")
def inside(three, folder, tmp_path_factory) -> NewExits:
    options: dict[str, Any] = {"batch_size": 6, "epochs": 2, "crops": 1, "val_fraction": 0.25, "device": "cpu"}
    return distill_exits(
        [folder], out=tmp_path_factory.mktemp("inside"), name="inside", weights=three, members=NEW, **options
    )


class TestExitsInside:
    def test_nothing_else_changes(self, three, inside):
        old, new = weights_room.load(three), weights_room.load(inside.path)
        assert all(check.ok for check in weights_room.verify(inside.path))
        names = ("lite0@32", "lite0@48 1", "lite0@48 2", "lite0@64", "lite1@72 1", "lite1@72 2", "lite1@72 3")
        assert new.plan.exit_names == names
        images = torch.rand(2, 3, 72, 72)
        before, after = old.net(images), new.net(images)
        for i, j in ((0, 0), (2, 1), (3, 2), (6, 3)):
            torch.testing.assert_close(after[i], before[j])
        # the member with an exit still runs the network of the two others
        trunks = new.net.trunks
        assert trunks["lite0"].blocks[3].expand[0].weight is trunks["lite0-48"].blocks[3].expand[0].weight
        assert trunks["lite1"].heads["6"].linear.weight is trunks["lite1"].heads["11"].linear.weight

    def test_each_exit_has_the_share_that_it_learnt_and_each_old_one_what_it_had(self, inside):
        assert [new.name for new in inside.exits] == ["lite0@48 1", "lite1@72 1", "lite1@72 2"]
        weights = inside.card.readout_weights
        shares = [weight / sum(weights[: i + 1]) for i, weight in enumerate(weights)]
        learnt = dict(zip((1, 4, 5), (new.share for new in inside.exits), strict=True))
        wanted = [1.0, learnt[1], 2 / 3, 4 / 7, learnt[4], learnt[5], 8 / 15]
        np.testing.assert_allclose(shares, wanted, atol=2e-3)
        told = inside.card.training["new_exits"]
        assert [entry["exit"] for entry in told] == [new.name for new in inside.exits]
        assert inside.card.training["method"] == "exits distilled"
        assert all(new.after.loss < new.before.loss + 0.05 for new in inside.exits)

    def test_the_command(self, three, folder, tmp_path):
        words = ["--weights", three, "--batch-size", "6", "--epochs", "1", "--val-fraction", "0.25", "--device", "cpu"]
        words += ["--exits-only", "--crops", "1", "--taught", tmp_path / "crops"]
        code, stdout, err = run(
            "distill", folder, "--out", tmp_path / "out", *words, "--member", "lite0@48", "--exits", "2"
        )
        assert code == 0, err
        assert "lite0@48 1: " in err
        assert "of the answer; agreement with the teacher" in err
        assert weights_room.load(stdout.strip()).plan.exit_names[1] == "lite0@48 1"
        code, _, err = run(
            "distill", folder, "--out", tmp_path / "two", *words, "--member", "lite0@48:2", "--share", "0.5"
        )
        assert code == 1
        assert "--share with --exits-only" in err

    def test_refusals(self, three, folder, tmp_path, base):
        options: dict[str, Any] = {"out": tmp_path / "out", "weights": three, "device": "cpu"}
        with pytest.raises(UsageError, match="nothing is new in member lite0@48"):
            distill_exits([folder], members={"lite0@48": None}, **options)
        with pytest.raises(UsageError, match="no member is called"):
            distill_exits([folder], members={"lite0@33": [2]}, **options)
        with pytest.raises(UsageError, match="is the weights that are changed"):
            distill_exits([folder], members=NEW, **options | {"out": three.parent, "name": "three"})
        assert not (tmp_path / "out").exists()
