"""Keeping a share of what distilling has changed: the blend, its card, its command, and what each share is worth."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import shares
from benchmarks.shares import Gain, figures, hits_of, recommended
from pipelines.blend import blend, check_descent
from pipelines.tie import tie
from stream_ann import weights as weights_room
from stream_ann.card import Validation
from stream_ann.errors import UsageError
from stream_ann.nets import EANN, Lite, build
from stream_ann.preprocess import Preprocessing
from stream_ann.training.blending import blended, changed_members, kept_exits, on_network_of
from stream_ann.training.own_trunk import in_common, own_trunk, with_own_trunks
from stream_ann.weights.tensor_file import to_bytes
from tests.test_cli import run

CLASSES = ("a", "b", "c", "d", "e")
SAVED: dict[str, Any] = {
    "title": "blended in tests",
    "description": "",
    "classes": CLASSES,
    "preprocessing": Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "licence": "MIT",
}


def trained(net: EANN, member: str, exits: list[int], *, only_new: bool = False) -> Lite:
    """A trunk of a member's own, as if it had been trained: every tensor but the classifier moved by noise.

    The noise of a convolution is the same in every trunk, as that of trunks which have them in common.
    """
    torch.manual_seed(1)
    trunk, fresh = own_trunk(net, member, exits=exits, one_classifier=True)
    assert isinstance(trunk, Lite)
    norm_noise = torch.Generator().manual_seed(len(member) + trunk.resolution_px)
    conv_noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in trunk.state_dict(keep_vars=True).items():
            if tensor.is_floating_point() and "linear" not in name and (name in fresh or not only_new):
                drawn = conv_noise if tensor.ndim == 4 else norm_noise
                tensor.add_(0.02 * torch.randn(tensor.shape, generator=drawn).abs())
    return trunk.eval()


@pytest.fixture(scope="module")
def before() -> EANN:
    """Three members of one network, and a last one of another."""
    torch.manual_seed(0)
    places = [("lite0", 32), ("lite0", 48), ("lite0", 56), ("last", 64)]
    return EANN({"lite0": Lite(0, classes=5), "last": Lite(0, classes=5)}, places).eval()


@pytest.fixture(scope="module")
def after(before) -> EANN:
    """The first two trained together, with an exit each; the last one has one more exit."""
    small, middle = (trained(before, name, [4]) for name in ("lite0@32", "lite0@48"))
    last = trained(before, "last@64", [10], only_new=True)
    trunks = {"lite0": before.trunks["lite0"], "last": last, "lite0-32": small, "lite0-48": middle}
    tied = {
        "lite0-32": ("lite0", ["heads.15.linear"]),
        "lite0-48": ("lite0-32", in_common(middle)),
    }
    return EANN(trunks, [("lite0-32", 32), ("lite0-48", 48), ("lite0", 56), ("last", 64)], tied).eval()


@pytest.fixture(scope="module")
def files(before, after, tmp_path_factory) -> tuple[Path, Path]:
    """The cards of both, the first one's with all that calibration finds out."""
    root = tmp_path_factory.mktemp("files")
    training: dict[str, Any] = {"kind": "converted", "command": "none", "data": "none"}
    old = weights_room.save(
        before,
        root / "old",
        training=training,
        accuracies=[0.2, 0.4, 0.6, 1.0],
        validation=Validation("agreement", "none", 100, "none"),
        readout_weights=[1, 2, 4, 8],
        **SAVED,
    )
    steps = [dataclasses.replace(step, temperature=1.5, threshold=0.25) for step in old.steps]
    weights_room.write_card(dataclasses.replace(old, steps=tuple(steps)), root / "old.json")
    told = {
        "kind": "trained",
        "method": "distilled together",
        "command": "stream-ann distill",
        "data": "pictures",
        "members": ["lite0@32", "lite0@48", "last@64"],
        "teacher": {"name": "old", "exit": "last@64"},
        "share": 0.5,
        "agreement_held_out": [0.1] * 7,
        "init": {"name": "old", "sha256": old.file.sha256, **training},
    }
    weights_room.save(after, root / "new", training=told, **SAVED)
    return root / "old.json", root / "new.json"


def answers(net: EANN) -> list[torch.Tensor]:
    torch.manual_seed(0)
    with torch.no_grad():
        return net(torch.rand(2, 3, 64, 64))


class TestBlended:
    def test_every_tensor_is_so_much_of_the_way(self, before, after):
        made = blended(before, after, 0.25)
        assert made.plan().exit_names == after.plan().exit_names
        for trunk in ("lite0-32", "lite0-48"):
            start, end = before.trunks["lite0"].state_dict(), after.trunks[trunk].state_dict()
            for name, tensor in made.trunks[trunk].state_dict().items():
                if name in start and tensor.is_floating_point():
                    torch.testing.assert_close(tensor, 0.75 * start[name] + 0.25 * end[name])
                else:
                    assert tensor.equal(end[name]), name
        assert not made.trunks["lite0-32"].stem[0].weight.equal(after.trunks["lite0-32"].stem[0].weight)

    def test_what_trunks_have_in_common_is_stored_once_and_moved_once(self, before, after):
        made = blended(before, after, 0.5)
        small, middle = made.trunks["lite0-32"], made.trunks["lite0-48"]
        assert small.blocks[3].expand[0].weight is middle.blocks[3].expand[0].weight
        assert small.blocks[3].expand[1].weight is not middle.blocks[3].expand[1].weight
        assert small.heads["4"].linear.weight is before.trunks["lite0"].heads["15"].linear.weight
        assert len(to_bytes(made)) == len(to_bytes(after))

    def test_the_ends_are_what_is_blended(self, before, after):
        assert to_bytes(blended(before, after, 1.0)) == to_bytes(after)
        back = blended(before, after, 0.0, new_exits=False)
        assert back.arch == before.arch
        assert to_bytes(back) == to_bytes(before)

    def test_members_that_are_not_named_are_as_they_were(self, before, after):
        made = blended(before, after, 1.0, members=["lite0@48"])
        assert made.plan().exit_names == ("lite0@32", "lite0@48 1", "lite0@48 2", "lite0@56", "last@64")
        then, now, whole = answers(before), answers(made), answers(after)
        for i, j in ((0, 0), (3, 2), (4, 3)):
            assert now[i].equal(then[j])
        for i, j in ((1, 2), (2, 3)):
            torch.testing.assert_close(now[i], whole[j])

    def test_new_exits_can_be_left_out(self, before, after):
        made = blended(before, after, 0.25, new_exits=False)
        assert made.plan().exit_names == before.plan().exit_names
        assert changed_members(before, made) == ("lite0@32", "lite0@48")
        assert made.trunks["last"] is before.trunks["last"]  # nothing but an exit was new in it
        torch.testing.assert_close(answers(made)[0], answers(blended(before, after, 0.25))[1])

    def test_a_name_that_is_taken_is_not_taken_again(self, before, after):
        own = trained(before, "lite0@32", [])
        trunks = {"lite0": own, "rest": before.trunks["lite0"], "last": before.trunks["last"]}
        other = EANN(trunks, [("lite0", 32), ("rest", 48), ("rest", 56), ("last", 64)]).eval()
        made = blended(before, other, 1.0)
        assert [name for name, _ in made.arch["members"]] == ["lite0-32", "lite0", "lite0", "last"]
        for now, then in zip(answers(made), answers(other), strict=True):
            torch.testing.assert_close(now, then)

    def test_exits_that_answer_as_before(self, before, after):
        assert kept_exits(before, before) == {0: 0, 1: 1, 2: 2, 3: 3}
        # that of the untouched member, and the last one of the member with a new exit
        assert kept_exits(before, after) == {4: 2, 6: 3}
        other = trained(before, "last@64", [])
        retrained = EANN({"lite0": before.trunks["lite0"], "last": other}, before.arch["members"])
        assert kept_exits(before, retrained) == {0: 0, 1: 1, 2: 2}

    def test_refusals(self, before, after):
        with pytest.raises(UsageError, match=r"share is 1\.5"):
            blended(before, after, 1.5)
        with pytest.raises(UsageError, match="no member that was changed is called 'lite0@56'"):
            blended(before, after, 0.5, members=["lite0@56"])
        fewer = EANN({"lite0": before.trunks["lite0"]}, [("lite0", 32)])
        with pytest.raises(UsageError, match="the members differ"):
            blended(before, fewer, 0.5)


class TestOnNetworkOf:
    def test_convolutions_become_the_others_and_norms_stay(self, after):
        made = on_network_of(after, "lite0@56", "lite0@48")
        assert made.plan().exit_names == after.plan().exit_names
        own, theirs, was = (made.trunks["lite0"], after.trunks["lite0-48"], after.trunks["lite0"])
        for name, tensor in own.state_dict().items():
            wanted = theirs if name.endswith((".0.weight", "conv.weight", "linear.weight", "linear.bias")) else was
            assert tensor.equal(wanted.state_dict()[name]), name
        assert changed_members(after, made) == ("lite0@56",)

    def test_they_are_stored_once(self, after):
        made = on_network_of(after, "lite0@56", "lite0@48")
        assert len(to_bytes(made)) < 0.75 * len(to_bytes(after))
        three = [made.trunks[name].blocks[3].expand[0].weight for name in ("lite0-32", "lite0-48", "lite0")]
        assert three[0] is three[1] is three[2]
        torch.testing.assert_close(answers(made)[:4], answers(after)[:4])
        # and stay so where they are trained together
        again = with_own_trunks(made, {name: own_trunk(made, name)[0] for name in ("lite0@32", "lite0@48", "lite0@56")})
        assert len({id(trunk.stem[0].weight) for name, trunk in again.trunks.items() if name != "last"}) == 1

    def test_heads_of_another_width_stay_as_they_are(self):
        torch.manual_seed(0)
        trunks = {f"own{width}": Lite(0, classes=5, exits=[4], head_width=width) for width in (8, 16)}
        net = EANN(trunks, [("own8", 32), ("own16", 48)]).eval()
        made = on_network_of(net, "own16@48", "own8@32")
        small, large = made.trunks["own8"], made.trunks["own16"]
        assert large.blocks[3].expand[0].weight is small.blocks[3].expand[0].weight
        assert large.heads["4"].expand[0].weight.equal(trunks["own16"].heads["4"].expand[0].weight)

    def test_refusals(self, before, after):
        with pytest.raises(UsageError, match="run one network already"):
            on_network_of(before, "lite0@56", "lite0@48")
        with pytest.raises(UsageError, match="no member is called 'lite0@50'"):
            on_network_of(before, "lite0@50", "lite0@48")
        other = EANN({"a": Lite(0, classes=5), "b": Lite(1, classes=5)}, [("a", 32), ("b", 32)])
        with pytest.raises(UsageError, match="runs efficientnet-lite0 and b@32 efficientnet-lite1"):
            on_network_of(other, "a@32", "b@32")
        with pytest.raises(UsageError, match="has no members"):
            on_network_of(Lite(0, classes=5), "a", "b")

    def test_the_command(self, files, tmp_path):
        old, new = files
        code, out, err = run("weights", "tie", new, "lite0@56", "--to", "lite0@48", "--out", tmp_path, "--name", "tied")
        assert code == 0, err
        assert "lite0@56 runs the network of lite0@48" in err
        assert out == f"{tmp_path}/tied.json\n"
        card = weights_room.read_card(out.strip())
        assert all(check.ok for check in weights_room.verify(out.strip()))
        assert card.training["method"] == "tied"
        assert card.training["init"]["name"] == "new"
        assert card.training["members"] == ["lite0@56"]
        code, _, err = run("weights", "tie", new, "lite0@56", "--to", "lite0@48", "--out", new.parent, "--name", "new")
        assert code == 1
        assert "is the weights that are changed" in err
        # what answered as before is still known, what did not is not
        single = tie(old, "last@64", to="lite0@48", out=tmp_path, name="single")[0]
        assert single.accuracies == (0.2, 0.4, 0.6, None)
        assert [step.temperature for step in single.steps] == [1.5, 1.5, 1.5, None]


class TestBlend:
    def test_the_card_says_what_was_done_and_nothing_that_no_longer_holds(self, files, tmp_path):
        old, new = files
        words = ["--share", "0.25", "--without-exits", "--name", "mixed", "--chosen-by", "a guess"]
        code, out, err = run("weights", "blend", old, new, "--out", tmp_path / "deep" / "er", *words)
        assert code == 0, err
        assert "25.0% of the change kept in lite0@32, lite0@48" in err
        assert "lite0@32, lite0@48: accuracy, temperature and threshold no longer hold" in err
        assert out == f"{tmp_path}/deep/er/mixed.json\n"
        assert all(check.ok for check in weights_room.verify(out.strip()))
        card = weights_room.read_card(out.strip())
        assert card.accuracies == (None, None, 0.6, 1.0)
        assert [step.temperature for step in card.steps] == [None, None, 1.5, 1.5]
        assert [step.threshold for step in card.steps] == [None, None, 0.25, 0.25]
        assert card.readout_weights == (1.0, 2.0, 4.0, 8.0)
        training = card.training
        assert training["share"] == 0.125  # of a run that had kept half
        assert training["members"] == ["lite0@32", "lite0@48"]
        assert training["command"] == "stream-ann distill"
        assert training["init"]["name"] == "old"
        assert "agreement_held_out" not in training
        assert training["blend"]["chosen_by"] == "a guess"
        assert training["blend"]["after"]["sha256"] == weights_room.read_card(new).file.sha256
        assert str(tmp_path) not in Path(out.strip()).read_text()

    def test_step_by_step_from_the_same_weights(self, files, tmp_path):
        old, new = files
        first = blend(old, new, out=tmp_path, share=0.5, name="first")
        # as if the run had gone on from what it had made
        card = weights_room.read_card(new)
        init = {"name": "middle", "sha256": "0" * 64, **card.training}
        later = dataclasses.replace(card, training={**card.training, "init": init})
        weights_room.write_card(later, tmp_path / "new.json")
        (tmp_path / "new.safetensors").write_bytes(new.with_suffix(".safetensors").read_bytes())
        second = blend(old, tmp_path / "new.json", out=tmp_path, share=0.5, name="second")
        assert first.card.file.sha256 == second.card.file.sha256
        # and what was blended is still of the same descent
        check_descent(weights_room.load(old), weights_room.load(first.path))

    def test_refusals(self, files, tmp_path):
        old, new = files
        with pytest.raises(UsageError, match="does not say that it was distilled from 'new'"):
            blend(new, old, out=tmp_path, share=0.5)
        with pytest.raises(UsageError, match="nothing of the change would be kept"):
            blend(old, new, out=tmp_path, share=0.0, new_exits=False)
        with pytest.raises(UsageError, match="is one of the weights"):
            blend(old, new, out=new.parent, share=0.5, name="new")
        net = build({"name": "resann", "classes": 5, "n": 1, "c": 8, "s": 1, "resolution_px": 32})
        weights_room.save(net, tmp_path / "single", training={"kind": "trained"}, **SAVED)
        with pytest.raises(UsageError, match="have no members"):
            blend(old, tmp_path / "single.json", out=tmp_path, share=0.5)
        assert {path.stem for path in tmp_path.iterdir()} == {"single"}


class TestShares:
    def test_hits(self):
        logits = torch.tensor([[[3.0, 1, 2], [0, 1, 2]], [[0, 5, 1], [0, 2, 1]]])
        last = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
        hits = hits_of(logits, last, np.array([2, 2]))
        assert hits["agreement"].tolist() == [[1, 0], [0, 1]]
        assert hits["top1"].tolist() == [[1, 1], [1, 1]]  # among the one class that there is
        assert hits_of(logits, last, np.array([0, 2]))["top1"].tolist() == [[1, 1], [0, 1]]

    def test_gains_are_of_paired_images(self):
        against = {"top1": np.array([[1.0, 0, 0, 1], [0, 0, 0, 0]])}
        hits = {"top1": np.array([[1.0, 1, 0, 0], [1, 1, 1, 1]])}
        rows = figures(hits, against, ["old", "new"], [True, False])
        # changes of 0, 1, 0, -1
        assert rows["old"] == {"top1": 50.0, "top1_gain": 0.0, "top1_gain_error": 35.36}
        assert rows["new"] == {"top1": 100.0, "top1_gain": 100.0, "top1_gain_error": 0.0}
        assert rows["mean"] == rows["old"]

    def test_the_rule(self):
        none = [Gain(0.0, 0.0, 0.0)] * 2
        good, better = [Gain(0.02, 0.01, 0.01)] * 2, [Gain(0.03, -0.01, 0.01), Gain(0.03, 0.0, 0.0)]
        harmful = [Gain(0.5, 0.1, 0.01), Gain(0.5, -0.011, 0.01)]
        assert recommended({0.0: none, 0.25: good, 0.5: better, 0.75: harmful}) == 0.5
        assert recommended({0.0: none, 0.25: good, 0.5: good}) == 0.25
        assert recommended({0.0: none, 0.25: [Gain(-0.1, 0.0, 0.0)] * 2, 0.5: harmful}) == 0.0

    def test_the_benchmark(self, files, tmp_path, monkeypatch):
        random = np.random.default_rng(0)
        for name in ("seen", "unseen"):
            for folder in "ab":
                (tmp_path / name / folder).mkdir(parents=True)
                for i in range(4):
                    Image.fromarray(random.integers(0, 255, (40, 30, 3), np.uint8)).save(
                        tmp_path / name / folder / f"{i}.png"
                    )
        words: list[str | Path] = [*files, tmp_path / "seen", f"{tmp_path / 'unseen'}:2"]
        words += ["--shares", "0.5,1", "--threads", "1", "--keep", tmp_path / "kept", "--out", tmp_path / "shares.json"]
        monkeypatch.setattr(sys, "argv", ["shares", *map(str, words)])
        assert shares.main() == 0
        found = json.loads((tmp_path / "shares.json").read_text())
        assert found["benchmark"] == "shares"
        results = found["results"]
        exits = {entry["name"]: entry["counts"] for entry in results["exits"]}
        # the last exit of the last member is as it was
        assert [name for name, counts in exits.items() if counts] == ["lite0@32 2", "lite0@48 2"]
        assert [name for name, counts in exits.items() if not counts] == [
            "lite0@32 1",
            "lite0@48 1",
            "last@64 1",
            "last@64 2",
        ]
        names = [f"{tmp_path.name}/seen", f"{tmp_path.name}/unseen:2"]
        assert [(name, results["sets"][name]["images"]) for name in names] == [(names[0], 8), (names[1], 4)]
        measured = results["sets"][names[0]]["shares"]
        assert list(measured) == ["0", "0.5", "1"]
        assert measured["1"]["last@64 2"]["agreement"] == 100.0
        assert measured["0"]["mean"]["top1_gain"] == 0.0
        assert results["recommended"] in (0.0, 0.5, 1.0)
        assert str(tmp_path) not in json.dumps(found)
        # the last member as it was and with its new exit, and those that change, once for each share
        assert len(list((tmp_path / "kept").iterdir())) == 2 * (2 + 2 * 3)
