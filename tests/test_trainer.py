from __future__ import annotations

import errno
import gc
import json
import os
import signal
import subprocess
import sys
import weakref
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stream_ann.errors import DeviceError, TrainingError, UsageError
from stream_ann.nets import EANN, build
from stream_ann.preprocess import Preprocessing
from stream_ann.training import loop
from stream_ann.training.augment import Augment
from stream_ann.training.checkpoint import read_checkpoint, tensors_of
from stream_ann.training.made import synthetic
from stream_ann.training.objective import Objective
from stream_ann.training.optimizer import optimizer_for
from stream_ann.training.options import TrainOptions
from stream_ann.training.stepper import Stepper, train_mode
from stream_ann.training.trainer import Trainer
from stream_ann.training.weightings import AdaLoss

PREPROCESSING = Preprocessing((0.5,) * 3, (0.25,) * 3, crop=1.0)
AUGMENT = Augment(flip=0.5, crop_padding_px=1)
BATCH, IMAGES = 16, 100  # 6 batches an epoch, 4 images left over


@pytest.fixture(autouse=True)
def _one_thread():
    """Nets this small gain nothing from a second thread, which waits for the first wherever the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data():
    return synthetic(4, IMAGES, 16, 0)


def make_net(seed=0, **arch):
    torch.manual_seed(seed)
    return build({"name": "resann", "classes": 4, "n": 1, "c": 4, "s": 1, "resolution_px": 16, **arch})


def options(**changes):
    return TrainOptions(**{"epochs": 3, "batch_size": BATCH, "device": "cpu", "lr": 0.05, **changes})


def trainer(data, folder=None, *, net=None, **changes):
    parts = {key: changes.pop(key) for key in ("teacher", "full_rate", "on_epoch", "on_progress") if key in changes}
    net = make_net() if net is None else net
    return Trainer(net, data, PREPROCESSING, options(**changes), folder=folder, augment=AUGMENT, **parts)


def same(one, two):
    ours, theirs = tensors_of(one), tensors_of(two)
    return all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def untimed(history):
    return [replace(record, train_s=0, images_per_s=0) for record in history.records]


class TestRun:
    def test_learns_at_every_exit(self):
        made = synthetic(4, 320, 16, 0)
        run = Trainer(make_net(c=8), made, PREPROCESSING, options(epochs=5, batch_size=32, lr=0.1), augment=AUGMENT)
        first, *_, last = run.run().records
        assert min(last.val_accuracy) > 0.6  # chance is 0.25
        assert all(b < a for a, b in zip(first.train_loss, last.train_loss, strict=True))
        assert last.score == pytest.approx(sum(last.val_accuracy) / 3)

    def test_reports(self, data):
        epochs, progress = [], []
        history = trainer(data, on_epoch=epochs.append, on_progress=progress.append).run()
        assert history.records == tuple(epochs)
        assert [(r.epoch, r.iteration) for r in epochs] == [(0, 6), (1, 12), (2, 18)]
        assert [(p.epoch, p.batch, p.batches) for p in progress] == [(1, 4, 6)]  # every 10 iterations
        assert progress[0].eta_s > 0
        assert progress[0].images_per_s > 0
        assert len(progress[0].losses) == 3
        assert history.exit_names == ("resann@16 1", "resann@16 2", "resann@16 3")
        assert history.best in epochs
        lines = history.to_csv().splitlines()
        assert len(lines) == 4
        assert lines[0].endswith("val_accuracy resann@16 1,val_accuracy resann@16 2,val_accuracy resann@16 3")
        assert json.loads(json.dumps(history.as_dict()))["epochs"][2]["iteration"] == 18

    def test_leaves_the_programs_random_numbers_alone(self, data):
        torch.manual_seed(5)
        expected = torch.rand(3)
        one = trainer(data, epochs=1)
        torch.manual_seed(5)
        one.run()
        assert torch.equal(torch.rand(3), expected)

    def test_the_seed_decides(self, data):
        nets = [trainer(data, epochs=1, seed=seed) for seed in (1, 1, 2)]
        for one in nets:
            one.run()
        assert same(nets[0].net, nets[1].net)
        assert not same(nets[0].net, nets[2].net)

    def test_memory_stays_flat(self, data):
        live = []

        def count(record):
            gc.collect()
            live.append(sum(type(o) in (torch.Tensor, nn.Parameter) for o in gc.get_objects()))

        trainer(data, epochs=4, average="ema", alternate=True, weighting="adaloss", on_epoch=count).run()
        assert live[1] == live[2] == live[3]

    def test_the_trained_net_is_a_new_one_ready_for_use(self, data):
        one = trainer(data, epochs=1)
        one.run()
        net = one.trained()
        assert net is not one.net
        assert not net.training
        assert same(net, one.net)

    def test_swaps_nothing_in_the_net_but_values(self, data):
        one = trainer(data, epochs=1, equilibrium=True)
        names = list(one.net.state_dict())
        parameters = [id(p) for p in one.net.parameters()]
        one.run()
        assert list(one.net.state_dict()) == names
        assert [id(p) for p in one.net.parameters()] == parameters
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in one.net.modules())


class TestOptions:
    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"epochs": 0}, "epochs is 0; it must be a whole number from 1"),
            ({"batch_size": 1}, "batch-size is 1; it must be a whole number from 2"),
            ({"optimizer": "sdg"}, "optimizer is 'sdg'; did you mean 'sgd'"),
            ({"lr": 0.0}, "lr is 0.0; it must be a number over 0"),
            ({"lr": float("nan")}, "lr is nan"),
            ({"warmup": 0.9}, "warmup is 0.9; it must be a number from 0 to 0.5"),
            ({"clip": -1.0}, "clip is -1.0"),
            ({"average": "mean"}, "average is 'mean'"),
            ({"distill": 2.0}, "distill is 2.0"),
        ],
    )
    def test_values_that_make_no_sense(self, changes, complaint):
        with pytest.raises(UsageError, match=complaint):
            options(**changes)

    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"weighting": "opt:1", "self_distill": 0.5}, "last exit, which weighting 'opt:1' does not train"),
            ({"distill": 0.5}, "distillation without a teacher"),
            ({"distill": 0.5, "teacher": torch.zeros(3, 4)}, r"shape \[3, 4\]; it must be \[100, 4\]"),
            ({"distill": 0.5, "teacher": torch.zeros(100, 4), "mixup": 0.2}, "know nothing of mixed images"),
            ({"distill": 0.5, "teacher": make_net(classes=5)}, "a teacher of 5 classes for a net of 4"),
            ({"full_rate": ["x"]}, "the net has no parameter 'x'"),
            ({"net": make_net(classes=5)}, "data of 4 classes for a net of 5"),
            ({"weighting": "seive"}, "did you mean 'sieve'"),
        ],
    )
    def test_parts_that_do_not_go_together(self, data, changes, complaint):
        with pytest.raises(UsageError, match=complaint):
            trainer(data, **changes)

    def test_a_device_that_is_not_there(self, data):
        with pytest.raises(DeviceError, match="no device is called 'gpu'"):
            trainer(data, device="gpu").run()
        with pytest.raises(DeviceError, match="'cuda:99' is not available"):
            trainer(data, device="cuda:99").run()

    def test_fewer_images_than_a_batch(self, data):
        with pytest.raises(UsageError, match="100 images to train on, fewer than a batch of 128"):
            trainer(data, batch_size=128).run()

    def test_norms_and_biases_have_no_weight_decay_and_new_heads_the_full_rate(self):
        net = make_net()
        fresh = {name for name, _ in net.named_parameters() if ".linear." in name}
        groups = optimizer_for(net, options(weight_decay=0.01, trunk_lr_factor=0.1), fresh).param_groups
        found = {id(p): (group["weight_decay"], group["factor"]) for group in groups for p in group["params"]}
        for name, parameter in net.named_parameters():
            expected = (0.01 if parameter.ndim >= 2 else 0.0, 1.0 if name in fresh else 0.1)
            assert found[id(parameter)] == expected, name

    def test_frozen_norms_keep_their_statistics_and_still_learn(self, data):
        one = trainer(data, epochs=1, freeze_norms=True)
        before = {name: tensor.clone() for name, tensor in tensors_of(one.net).items()}
        one.run()
        for name, tensor in tensors_of(one.net).items():
            changed = not torch.equal(tensor, before[name])
            assert changed == ("running" not in name and "num_batches" not in name), name

    def test_final_first_leaves_the_other_heads_alone_at_first(self, data):
        first, second = trainer(data, epochs=2, final_first=0.5).run().records
        assert [loss is None for loss in first.train_loss] == [True, True, False]
        assert None not in second.train_loss

    @pytest.mark.parametrize(
        "changes",
        [
            {"optimizer": "adamw", "lr": 1e-3, "clip": 1.0, "warmup": 0.2, "schedule": "steps"},
            {"mixup": 0.2, "cutmix": 1.0, "label_smoothing": 0.1},
            {"amp": "bfloat16", "self_distill": 0.3},
            {"equilibrium": True, "weighting": "linear"},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_every_switch_changes_the_outcome(self, data, changes):
        plain, switched = trainer(data, epochs=1), trainer(data, epochs=1, **changes)
        plain.run()
        assert all(loss < 10 for loss in switched.run().records[0].val_loss)
        assert not same(plain.net, switched.net)

    def test_boosted_nets_train(self, data):
        net = build({"name": "boosted", "net": make_net().arch, "shrink": 0.5})
        one = trainer(data, epochs=1, net=net, equilibrium=True)
        one.run()
        assert same(one.trained(), net)

    def test_a_teacher_is_listened_to_image_by_image(self):
        made = synthetic(4, 320, 16, 0)
        wrong = 10 * F.one_hot((made.train.labels + 1) % 4, 4).float()
        run = Trainer(
            make_net(c=8), made, PREPROCESSING, options(epochs=4, batch_size=32, lr=0.1, distill=1.0), teacher=wrong
        )
        assert run.run().records[-1].val_accuracy[-1] < 0.15

    def test_a_net_as_teacher_is_not_trained(self, data):
        teacher = make_net(seed=3, resolution_px=8)
        before = {name: tensor.clone() for name, tensor in tensors_of(teacher).items()}
        with_teacher, without = trainer(data, epochs=1, distill=0.5, teacher=teacher), trainer(data, epochs=1)
        with_teacher.run()
        without.run()
        assert not same(with_teacher.net, without.net)
        assert all(torch.equal(tensor, before[name]) for name, tensor in tensors_of(teacher).items())


class TestAveraging:
    def test_moving_average(self, data):
        one = trainer(data, epochs=1, average="ema", ema_decay=0.5)
        name = "heads.2.linear.weight"
        seen = []
        step = torch.optim.SGD.step
        with pytest.MonkeyPatch.context() as patch:

            def stepped(self, *args, **kwargs):
                step(self, *args, **kwargs)
                seen.append(one.net.get_parameter(name).detach().clone())

            patch.setattr(torch.optim.SGD, "step", stepped)
            one.run()
        average = seen[0]
        for n, value in enumerate(seen[1:], start=1):
            decay = min(0.5, (1 + n) / (10 + n))
            average = decay * average + (1 - decay) * value
        torch.testing.assert_close(one.trained().get_parameter(name), average)
        assert not same(one.trained(), one.net)

    def test_mean_of_the_last_epochs_with_statistics_of_its_own(self, data):
        weights = []
        name = "heads.2.linear.weight"

        def keep(record):
            weights.append(one.net.get_parameter(name).detach().clone())

        one = trainer(data, epochs=4, average="swa", swa_start=0.5, schedule="constant", on_epoch=keep)
        one.run()
        net = one.trained()
        torch.testing.assert_close(net.get_parameter(name), (weights[2] + weights[3]) / 2)
        theirs = tensors_of(one.net)
        statistics = [n for n in theirs if n.endswith("running_var")]
        assert all(not torch.equal(tensors_of(net)[n], theirs[n]) for n in statistics)


class TestMembers:
    """EANNs go forward and backward member by member."""

    def eann(self):
        torch.manual_seed(0)
        return EANN({"a": make_net(1), "b": make_net(2, c=8)}, [("a", 12), ("a", 16), ("b", 16)])

    def batch(self):
        random = torch.Generator().manual_seed(0)
        return torch.randn(6, 3, 16, 16, generator=random), torch.randint(4, (6,), generator=random)

    @pytest.mark.parametrize("self_distill", [0.0, 0.4])
    def test_the_gradient_is_that_of_the_whole_sum(self, self_distill):
        net = self.eann()
        train_mode(net, freeze_norms=True)  # batch norms in training change with the order of the members
        images, labels = self.batch()
        objective = Objective(self_distill=self_distill)
        weights = [0.5, 0.0, 1.0, 0.25, 0.5, 0.25, 0.0, 0.5, 1.0]
        stepper = Stepper(net, PREPROCESSING, objective, amp="float32", compile=False)
        losses = stepper.backward(images, labels, weights)
        by_member = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
        net.zero_grad()

        sized = F.interpolate(images, size=(12, 12), mode="bicubic", antialias=True)
        logits = []
        for member, inputs in zip(net.members(), (sized, images, images), strict=True):
            state = ()
            for step in member.steps:
                state, one = step(inputs, state)
                logits.append(one)
        whole = objective.losses(logits, labels, final=logits[-1], last=True)
        (whole * torch.tensor(weights)).sum().backward()
        counted = [i for i, w in enumerate(weights) if w]
        torch.testing.assert_close(losses[counted], whole[counted].detach())
        assert losses[1].isnan()
        assert losses[6].isnan()
        for name, parameter in net.named_parameters():
            if name in by_member:
                torch.testing.assert_close(by_member[name], parameter.grad, msg=name)
            else:
                assert not parameter.grad.any(), name

    def most_alive(self, net):
        """Most bytes that autograd keeps at any time during one step."""
        alive, most = 0, 0

        class Kept:
            def __init__(self, tensor):
                nonlocal alive, most
                self.tensor = tensor
                size = tensor.numel() * tensor.element_size()
                alive += size
                most = max(most, alive)
                weakref.finalize(self, release, size)

        def release(size):
            nonlocal alive
            alive -= size

        images, labels = self.batch()
        stepper = Stepper(net, PREPROCESSING, Objective(), amp="float32", compile=False)
        exits = sum(len(member.steps) for member in net.members())
        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            stepper.backward(images, labels, [1.0] * exits)
        return most

    def test_only_one_members_activations_are_alive(self):
        net = self.eann()
        alone = max(self.most_alive(trunk) for trunk in net.trunks.values())
        assert self.most_alive(net) < 1.1 * alone

    def test_steps_behind_the_last_weight_do_not_run(self):
        net = make_net()
        net.train()
        ran = []
        for i, step in enumerate(net.steps):
            step.register_forward_hook(lambda *args, i=i: ran.append(i))
        images, labels = self.batch()
        stepper = Stepper(net, PREPROCESSING, Objective(), amp="float32", compile=False)
        stepper.backward(images, labels, [0.0, 1.0, 0.0])
        assert ran == [0, 1]

    def test_an_eann_trains(self, data):
        history = trainer(data, net=self.eann(), epochs=1, self_distill=0.2).run()
        assert len(history.records[0].val_accuracy) == 9


class TestCheckpoints:
    SWITCHES = (
        {"weighting": "adaloss", "alternate": True, "average": "ema", "schedule": "steps"},
        {"optimizer": "adamw", "lr": 1e-3, "average": "swa", "swa_start": 0.4, "final_first": 0.4},
        {"mixup": 0.5, "cutmix": 0.5, "warmup": 0.2, "clip": 1.0, "self_distill": 0.2},
    )

    @pytest.mark.parametrize("changes", SWITCHES, ids=["adaloss+ema", "adamw+swa", "mixup"])
    @pytest.mark.parametrize("stop_at", [3, 6, 10])
    def test_stopped_and_resumed_is_as_never_stopped(self, data, tmp_path, monkeypatch, changes, stop_at):
        monkeypatch.setattr(AdaLoss, "EVERY", 10)  # its weights change within this short run
        whole = trainer(data, **changes)
        expected = whole.run()

        first = trainer(data, tmp_path, **changes)
        step, done = torch.optim.Optimizer.zero_grad, 0

        def counting(self, *args, **kwargs):
            nonlocal done
            step(self, *args, **kwargs)
            done += 1
            if done == stop_at:
                first.stop()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.optim.Optimizer, "zero_grad", counting)
            interrupted = first.run()
        assert interrupted.interrupted
        assert read_checkpoint(tmp_path / "last.safetensors").about["at"]["iteration"] == stop_at

        second = trainer(data, tmp_path, net=make_net(seed=9), **changes)
        found = second.run(resume=True)
        assert same(second.trained(), whole.trained())
        assert same(second.net, whole.net)
        assert untimed(found) == untimed(expected)

    def test_dropout_goes_on_alike_too(self, data, tmp_path):
        def lite():
            torch.manual_seed(0)
            arch = {"name": "efficientnet-lite0", "classes": 4, "resolution_px": 16, "dropout": 0.5, "exits": [2]}
            return build({**arch, "head_width": 8})

        whole = trainer(data, net=lite(), epochs=2)
        whole.run()
        # the first epoch alone, under the same options, and the rest from its checkpoint
        first = trainer(data, tmp_path, net=lite(), epochs=2, on_epoch=lambda record: first.stop())
        assert first.run().interrupted
        second = trainer(data, tmp_path, net=lite(), epochs=2)
        second.run(resume=True)
        assert same(second.net, whole.net)

    def test_killed_in_the_middle_of_an_epoch(self, data, tmp_path):
        """SIGKILL, from outside, during the fourth epoch."""
        script = (
            "import sys, time, torch; torch.set_num_threads(1)\n"
            "from pathlib import Path\n"
            "from stream_ann.training.made import synthetic\n"
            "from tests.test_trainer import trainer\n"
            "def tell(progress):\n"
            "    if progress.epoch == 3:\n"
            "        print('fourth', flush=True); time.sleep(60)\n"
            "trainer(synthetic(4, 100, 16, 0), Path(sys.argv[1]), epochs=6, alternate=True, on_progress=tell).run()\n"
        )
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
        try:
            assert process.stdout.readline() == b"fourth\n"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(10)
            process.stdout.close()
        assert read_checkpoint(tmp_path / "last.safetensors").about["at"] == {"epoch": 3, "batch": 0, "iteration": 18}
        resumed = trainer(data, tmp_path, net=make_net(seed=9), epochs=6, alternate=True)
        history = resumed.run(resume=True)
        whole = trainer(data, epochs=6, alternate=True)
        assert untimed(whole.run()) == untimed(history)
        assert same(whole.net, resumed.net)

    def test_a_long_epoch_has_checkpoints_within(self, data, tmp_path, monkeypatch):
        monkeypatch.setattr(loop, "LOOK_EVERY", 2)
        whole = trainer(data, epochs=2)
        whole.run()
        monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)

        def fail(progress):
            if progress.epoch == 1 and progress.batch == 4:
                raise RuntimeError("killed")

        with pytest.raises(RuntimeError, match="killed"):
            trainer(data, tmp_path, epochs=2, on_progress=fail).run()
        at = read_checkpoint(tmp_path / "last.safetensors").about["at"]
        assert (at["epoch"], at["batch"]) == (1, 2)
        resumed = trainer(data, tmp_path, net=make_net(seed=9), epochs=2)
        resumed.run(resume=True)
        assert same(whole.net, resumed.net)

    def test_a_finished_run_is_resumed_to_its_end(self, data, tmp_path):
        one = trainer(data, tmp_path, epochs=1, average="swa")
        history = one.run()
        two = trainer(data, tmp_path, net=make_net(seed=5), epochs=1, average="swa")
        assert two.run(resume=True).records == history.records
        assert same(two.trained(), one.trained())

    def test_resuming_nothing_begins_a_run(self, data, tmp_path):
        assert len(trainer(data, tmp_path, epochs=1).run(resume=True).records) == 1

    @pytest.mark.parametrize("links", [True, False])
    def test_the_best_epoch_is_kept(self, data, tmp_path, monkeypatch, links):
        def unsupported(*_: object) -> None:
            raise OSError(errno.EPERM, "no links here")

        if not links:
            monkeypatch.setattr(os, "link", unsupported)

        history = trainer(data, tmp_path, epochs=4).run()
        assert history.best is not None
        assert read_checkpoint(tmp_path / "best.safetensors").about["at"]["epoch"] == history.best.epoch + 1
        assert sorted(os.listdir(tmp_path)) == ["best.safetensors", "last.safetensors"]

    def test_a_folder_with_a_run_is_not_overwritten(self, data, tmp_path):
        trainer(data, tmp_path, epochs=1).run()
        with pytest.raises(UsageError, match=r"there is a training run in '.*' already; resume it"):
            trainer(data, tmp_path, epochs=1).run()

    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"net": make_net(c=8)}, r"its arch\.c is 4, not 8"),
            ({"lr": 0.1}, r"its options\.lr is 0\.05, not 0\.1"),
            ({"epochs": 9}, r"its options\.epochs is 1, not 9"),
            ({"weighting": "const"}, r"its options\.weighting is 'sieve', not 'const'"),
        ],
    )
    def test_a_checkpoint_of_another_run_is_refused(self, data, tmp_path, changes, complaint):
        trainer(data, tmp_path, epochs=1).run()
        with pytest.raises(TrainingError, match=f"last.safetensors' is of another run: {complaint}"):
            trainer(data, tmp_path, **{"epochs": 1, **changes}).run(resume=True)

    def test_other_data_are_refused(self, data, tmp_path):
        trainer(data, tmp_path, epochs=1).run()
        with pytest.raises(TrainingError, match=r"its data\.train is 100, not 96"):
            trainer(synthetic(4, 96, 16, 0), tmp_path, epochs=1).run(resume=True)


class TestDivergence:
    def test_names_exit_and_iteration_and_keeps_the_last_good_checkpoint(self, data, tmp_path):
        def poison(record):
            if record.epoch == 1:
                with torch.no_grad():
                    one.net.heads["1"].linear.weight[0, 0] = torch.inf

        one = trainer(data, tmp_path, on_epoch=poison)
        complaint = (
            r"the loss of exit 'resann@16 2' is (nan|inf) in iteration 12 \(epoch 3\); "
            r"the last good checkpoint is '.*last\.safetensors'; train with a lower learning rate"
        )
        with pytest.raises(TrainingError, match=complaint):
            one.run()
        good = read_checkpoint(tmp_path / "last.safetensors")
        assert good.about["at"]["epoch"] == 2
        assert all(t.isfinite().all() for t in good.tensors.values())

    def test_weights_that_are_not_finite_are_never_written(self, data, tmp_path):
        one = trainer(data, tmp_path, epochs=1)
        step = torch.optim.SGD.step

        def last_step(self, *args, **kwargs):
            step(self, *args, **kwargs)
            last_step.count += 1
            if last_step.count == 6:
                one.net.get_parameter("heads.0.linear.bias").data[0] = torch.nan

        last_step.count = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.optim.SGD, "step", last_step)
            with pytest.raises(TrainingError, match=r"weights are not finite after iteration 5 .*no checkpoint yet"):
                one.run()
        assert not (tmp_path / "last.safetensors").exists()
