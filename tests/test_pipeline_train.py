from __future__ import annotations

import json
import os
import signal
import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from pipelines.architectures import arch_named, resolution_named, short_names
from pipelines.train import given_command, train
from pipelines.train_members import train_members
from stream_ann import weights as weights_room
from stream_ann.errors import OutputError, TrainingError, UnknownWeightsError, UsageError
from stream_ann.machine import machine
from stream_ann.nets import build
from stream_ann.preprocess import Preprocessing
from stream_ann.training.made import synthetic
from stream_ann.training.recipes import fitting_batch_size, recipe
from stream_ann.training.transfer import arch_for_classes, fit_classifiers, for_classes

TINY = {"name": "resann", "n": 1, "c": 4, "s": 1, "resolution_px": 16, "classes": 4}
FAST = {"epochs": 2, "batch_size": 16, "device": "cpu"}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of 20 photographs, the colour of which says what they are."""
    root = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for number, name in enumerate(("blue", "green", "red")):
        (root / name).mkdir()
        for i in range(20):
            picture = random.integers(0, 120, (40, 50, 3))
            picture[..., 2 - number] += 120
            Image.fromarray(picture.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Weights for five other classes, of a net with three exits and of two members that share its trunk."""
    out = tmp_path_factory.mktemp("pretrained") / "base"
    torch.manual_seed(0)
    trunk = {**TINY, "classes": 5}
    net = build({"name": "eann", "trunks": {"t": trunk}, "members": [["t", 16], ["t", 24]]})
    weights_room.save(
        net,
        out,
        title="base",
        description="for a test",
        classes=list("abcde"),
        preprocessing=Preprocessing((0.5,) * 3, (0.5,) * 3),
        training={"kind": "trained"},
        licence="Apache-2.0",
        sources=["somebody"],
    )
    return out.with_suffix(".json")


class TestTrain:
    def test_from_scratch_to_weights_that_can_be_used(self, folder, tmp_path):
        out = tmp_path / "colours"
        result = train(folder, out=out, arch=TINY, val_fraction=0.25, **{**FAST, "epochs": 4}, lr=0.05)
        assert sorted(p.name for p in out.iterdir()) == [
            "anytime.png",
            "checkpoints",
            "colours.json",
            "colours.safetensors",
            "history.csv",
            "history.json",
            "learning.png",
        ]
        assert all(check.ok for check in weights_room.verify(out))
        loaded = weights_room.load(out)
        assert loaded.card == result.card
        assert loaded.card.classes == ("blue", "green", "red")
        assert loaded.card.accuracies == pytest.approx([f.top1 for f in result.curve.of("latest")])
        assert loaded.card.validation.images == 15
        assert loaded.card.validation.command.endswith("--val-fraction 0.25")
        assert loaded.card.training["kind"] == "trained"
        assert loaded.card.training["options"]["weighting"] == "sieve"
        assert loaded.card.training["device"] == f"{machine()['processor']}, 1 thread"
        assert str(tmp_path) not in out.joinpath("colours.json").read_text()
        history = json.loads((out / "history.json").read_text())
        assert len(history["epochs"]) == 4
        assert history["options"]["lr"] == 0.05
        assert max(loaded.card.accuracies) > 0.6

    def test_fine_tuning_keeps_the_trunk_and_fits_new_heads(self, folder, pretrained, tmp_path):
        result = train(folder, out=tmp_path / "out", init=pretrained, **FAST)
        base, tuned = weights_room.load(pretrained), weights_room.load(tmp_path / "out")
        assert tuned.card.classes == ("blue", "green", "red")
        assert tuned.card.licence == "Apache-2.0"
        assert tuned.card.sources == ("somebody",)
        assert tuned.card.training["init"] == {"name": "base", "sha256": base.card.file.sha256}
        assert tuned.card.preprocessing == base.card.preprocessing
        before, after = base.net.state_dict(), tuned.net.state_dict()
        for name, tensor in after.items():
            if "running" in name:
                assert torch.equal(tensor, before[name]), name  # frozen
            elif ".linear." not in name and "num_batches" not in name:
                assert 0 < (tensor - before[name]).abs().max() < 0.05, name  # a lower rate
        assert result.history.records[0].val_accuracy[-1] > 0.8

    def test_weights_for_the_same_classes_keep_their_heads(self, folder, pretrained, tmp_path):
        train(folder, out=tmp_path / "one", init=pretrained, **FAST, plots=False)
        result = train(folder, out=tmp_path / "two", init=tmp_path / "one", **FAST, plots=False)
        assert any("whose classes are the same: its heads are kept" in note for note in result.notes)
        one, two = (weights_room.load(tmp_path / name).net.state_dict() for name in ("one", "two"))
        name = "trunks.t.heads.2.linear.weight"
        assert 0 < (one[name] - two[name]).abs().max() < 0.05

    def test_boosted_from_a_teacher_with_every_switch(self, folder, pretrained, tmp_path):
        train(folder, out=tmp_path / "teacher", init=pretrained, **FAST, plots=False)
        train(
            folder,
            out=tmp_path / "out",
            arch=TINY,
            boost=True,
            teacher=tmp_path / "teacher",
            distill=0.3,
            self_distill=0.2,
            equilibrium=True,
            alternate=True,
            average="ema",
            mixup=0.2,
            plots=False,
            **FAST,
        )
        assert weights_room.load(tmp_path / "out").card.arch["name"] == "boosted"

    def test_data_that_is_open_and_defaults_for_small_images(self, tmp_path):
        result = train(synthetic(3, 60, 16, 0), out=tmp_path / "out", epochs=1, device="cpu", plots=False)
        assert result.card.arch["name"] == "resann"
        assert result.card.arch["resolution_px"] == 16
        assert result.card.preprocessing.crop == 1.0
        assert any(
            note.startswith("60 images to train on, 15 to validate on, on cpu; epochs 1") for note in result.notes
        )

    def test_says_what_it_does(self, folder, tmp_path):
        with open(tmp_path / "log", "w") as file:
            train(folder, out=tmp_path / "out", arch=TINY, console=Console(file=file, width=200), **FAST)
        lines = (tmp_path / "log").read_text().splitlines()
        assert lines[0] == "training resann@16 3 from scratch, 3 exits, 3 classes"
        assert "validated accuracy in percent of: resann@16 1, resann@16 2, resann@16 3" in lines
        assert any(line.startswith("epoch 1/2  loss ") for line in lines)
        assert lines[-1].endswith("out.safetensors' and '.json'")

    def test_draws_a_bar_on_a_terminal(self, folder, tmp_path):
        with open(tmp_path / "log", "w") as file:
            console = Console(file=file, width=200, force_terminal=True)
            train(folder, out=tmp_path / "out", arch=TINY, console=console, **{**FAST, "batch_size": 4}, plots=False)
        assert "images/s" in (tmp_path / "log").read_text()

    def test_a_small_batch_for_few_images(self, tmp_path):
        result = train(synthetic(2, 10, 16, 0), out=tmp_path / "out", arch=TINY, **FAST, plots=False)
        assert "batch size reduced from 16 to 10: there are no more images" in result.notes

    def test_plots_are_left_out_without_matplotlib(self, folder, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
            monkeypatch.setitem(sys.modules, name, None)
        result = train(folder, out=tmp_path / "out", arch=TINY, **FAST)
        assert any("no plots: this needs 'matplotlib'" in note for note in result.notes)
        assert not (tmp_path / "out" / "learning.png").exists()

    def test_interrupted_and_resumed(self, folder, tmp_path):
        whole = train(folder, out=tmp_path / "whole", arch=TINY, name="w", **FAST, plots=False)
        timer = threading.Timer(0, os.kill, (os.getpid(), signal.SIGINT))
        sent = []

        class Watching(Console):
            def print(self, *objects, **options):
                if not sent and str(objects[0]).startswith("epoch 1/"):
                    sent.append(True)
                    timer.start()
                    timer.join()

        first = train(folder, out=tmp_path / "out", arch=TINY, name="w", console=Watching(), **FAST, plots=False)
        assert first.history.interrupted
        assert first.path is None
        assert not (tmp_path / "out" / "w.json").exists()
        assert "go on with --resume" in first.notes[-1]
        with pytest.raises(UsageError, match=r"there is a training run in .* already; resume it"):
            train(folder, out=tmp_path / "out", arch=TINY, **FAST)
        with pytest.raises(TrainingError, match=r"its options\.lr is .*, not 0\.5"):
            train(folder, out=tmp_path / "out", arch=TINY, resume=True, lr=0.5, **FAST)
        second = train(folder, out=tmp_path / "out", arch=TINY, name="w", resume=True, **FAST, plots=False)
        assert second.card.file.sha256 == whole.card.file.sha256

    @pytest.mark.parametrize(
        ("arguments", "error", "complaint"),
        [
            ({"arch": TINY, "init": "imagenet"}, UsageError, "both an architecture and weights"),
            ({"init": "imagenet", "boost": True}, UsageError, "boosting weights that were not trained so"),
            ({"init": "imagnet"}, UnknownWeightsError, "did you mean 'imagenet'"),
            ({"arch": "resnet17"}, UsageError, "no architecture is called 'resnet17'; did you mean 'resnet1"),
            ({"arch": TINY, "wieghting": "sieve"}, UsageError, r"no training option .*did you mean 'weighting'"),
            ({"arch": TINY, "name": "a/b"}, UsageError, "weights cannot be called 'a/b'"),
            ({"arch": TINY, "epochs": 0}, UsageError, "epochs is 0"),
        ],
    )
    def test_arguments_that_make_no_sense(self, folder, tmp_path, arguments, error, complaint):
        with pytest.raises(error, match=complaint):
            train(folder, out=tmp_path / "out", **{"device": "cpu", **arguments})

    def test_a_teacher_for_other_classes(self, folder, pretrained, tmp_path):
        with pytest.raises(UsageError, match="the teacher 'base' was trained for other classes"):
            train(folder, out=tmp_path / "out", arch=TINY, teacher=pretrained, distill=0.5, **FAST)

    def test_an_output_folder_that_cannot_be_made(self, folder, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match="cannot be made"):
            train(folder, out=tmp_path / "file" / "out", arch=TINY, **FAST)


class TestGivenCommand:
    @pytest.mark.parametrize("program", ["/usr/bin/stream-ann", "cli.py", "/somewhere/cli.py"])
    def test_what_was_typed_without_this_machines_folders(self, program, monkeypatch):
        monkeypatch.setattr(sys, "argv", [program, "train", "/home/me/a set", "--resume", "--out", "there"])
        assert given_command() == "stream-ann train 'a set' --out there"

    def test_another_program(self, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["/usr/bin/pytest", "train"])
        assert given_command() == "pipelines.train"
        assert given_command("pipelines.tie") == "pipelines.tie"


class TestMembers:
    def test_trained_one_by_one_and_assembled(self, tmp_path):
        data = synthetic(3, 60, 16, 0)
        archs = {"small": TINY, "large": {**TINY, "n": 2}}
        result = train_members(data, archs, out=tmp_path / "eann", plots=False, **FAST)
        assert [p.name for p in sorted((tmp_path / "eann").iterdir())] == [
            "eann.json",
            "eann.safetensors",
            "member-large",
            "member-small",
        ]
        loaded = weights_room.load(tmp_path / "eann")
        assert loaded.card == result.card
        assert loaded.plan.exit_names[2:4] == ("small@16 3", "large@16 1")
        weightings = [m["options"]["weighting"] for m in loaded.card.training["members"].values()]
        assert weightings == ["sieve", "sieve-member"]
        own = [accuracy for member in result.members for accuracy in member.card.accuracies]
        assert list(loaded.card.accuracies) == own
        again = train_members(data, archs, out=tmp_path / "eann", plots=False, resume=True, **FAST)
        assert again.card.file == result.card.file

    def test_costs_must_grow(self, tmp_path):
        with pytest.raises(UsageError, match="put the cheaper first"):
            train_members(synthetic(3, 60, 16, 0), {"a": TINY, "b": TINY}, out=tmp_path / "e", plots=False, **FAST)

    def test_none(self, tmp_path):
        with pytest.raises(UsageError, match="an EANN of no members"):
            train_members(synthetic(3, 60, 16, 0), {}, out=tmp_path / "e")


class TestArchitectures:
    @pytest.mark.parametrize(
        ("text", "size", "expected"),
        [
            ("resann", 32, {"name": "resann", "classes": 7, "resolution_px": 32, "stem": "3x3"}),
            ("resann", 0, {"name": "resann", "classes": 7, "resolution_px": 128, "stem": "3x3/4"}),
            ("msdnet@64", 32, {"name": "msdnet", "classes": 7, "resolution_px": 64, "stem": "3x3/2"}),
            ("denseann@224", 0, {"name": "denseann", "classes": 7, "resolution_px": 224, "stem": "7x7/4"}),
            ("lite0@96", 0, {"name": "efficientnet-lite0", "classes": 7, "resolution_px": 96}),
            ("resnet18@64", 0, {"name": "torchvision", "network": "resnet18", "classes": 7, "resolution_px": 64}),
            ('{"name": "resann", "n": 1}', 0, {"name": "resann", "n": 1, "classes": 7}),
        ],
    )
    def test_short_names(self, text, size, expected):
        arch = arch_named(text, classes=7, data_resolution_px=size)
        assert arch == expected
        assert build(arch, device="meta").classes == 7

    def test_a_file_and_a_weights_card(self, tmp_path, pretrained):
        path = tmp_path / "net.json"
        path.write_text(json.dumps({"name": "resann", "n": 2, "classes": 3}))
        assert arch_named(str(path), classes=7) == {"name": "resann", "n": 2, "classes": 7}
        found = arch_named(str(pretrained), classes=7)
        assert (found["name"], found["trunks"]["t"]["classes"]) == ("eann", 7)

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("resan", "no architecture is called 'resan'; did you mean 'resann'"),
            ("Res Ann", "architecture 'Res Ann' cannot be read"),
            ("{bad", "the architecture is not JSON"),
            ("nowhere.json", "architecture file 'nowhere.json' cannot be read"),
        ],
    )
    def test_others(self, text, complaint):
        with pytest.raises(UsageError, match=complaint):
            arch_named(text, classes=7)

    def test_resolution(self):
        assert resolution_named("resnet18@160") == 160
        assert resolution_named("resnet18") is None
        assert {"resann", "msdnet", "lite0", "resnet18"} <= set(short_names())


class TestTransfer:
    def test_other_classes_in_every_trunk(self):
        arch = {"name": "eann", "trunks": {"a": {"classes": 3, "x": [1]}}, "members": [["a", 8]]}
        assert arch_for_classes(arch, 9)["trunks"]["a"] == {"classes": 9, "x": [1]}
        assert arch["trunks"]["a"]["classes"] == 3

    @pytest.mark.parametrize("classes", [4, 6])
    def test_only_what_depends_on_the_classes_starts_anew(self, classes):
        net = build(TINY)
        made, fresh = for_classes(net, classes)
        assert fresh == {f"heads.{i}.linear.{part}" for i in range(3) for part in ("weight", "bias")}
        assert made.classes == classes
        for name, tensor in made.state_dict().items():
            if name not in fresh:
                assert torch.equal(tensor, net.state_dict()[name])
        assert not torch.equal(made.heads["2"].linear.weight, net.heads["2"].linear.weight[:classes])

    def test_fitted_heads_know_what_the_trunk_sees(self):
        torch.manual_seed(0)
        data = synthetic(4, 200, 16, 0)
        made, fresh = for_classes(build({**TINY, "c": 16}), 4)
        before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
        preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3, crop=1.0)
        told = []
        fit_classifiers(
            made,
            data.train,
            preprocessing,
            fresh,
            device=torch.device("cpu"),
            on_progress=lambda done, total: told.append((done, total)),
        )
        assert told[-1] == (200, 200)
        for name, tensor in made.state_dict().items():
            assert torch.equal(tensor, before[name]) == (name not in fresh), name
        batch = next(data.val.eval_batches(batch_size=50, resolution_px=16, device=torch.device("cpu"), crop=1.0))
        images = (batch.images.float() / 255 - 0.5) / 0.25
        with torch.no_grad():
            accuracies = [(one.argmax(1) == batch.labels).float().mean() for one in made(images)]
        assert min(accuracies) > 0.6  # of an untrained trunk; chance is 0.25


class TestRecipes:
    def test_more_images_fewer_epochs(self):
        few = recipe("scratch", images=1_000, exits=3, members=1, device_type="cpu")
        many = recipe("scratch", images=50_000, exits=3, members=1, device_type="cpu")
        gpu = recipe("scratch", images=50_000, exits=3, members=1, device_type="cuda")
        assert few["epochs"] == 256
        assert (many["epochs"], gpu["epochs"]) == (10, 77)
        assert (few["batch_size"], many["batch_size"]) == (32, 64)
        assert few["lr"] == pytest.approx(0.05)

    def test_members_of_one_exit_count_alike(self):
        assert recipe("finetune", images=500, exits=4, members=4, device_type="cpu")["weighting"] == "const"
        assert recipe("finetune", images=500, exits=9, members=3, device_type="cpu")["weighting"] == "sieve"

    def test_too_few_images(self):
        with pytest.raises(UsageError, match="there are 1 images to train on; add images"):
            fitting_batch_size(32, 1)
