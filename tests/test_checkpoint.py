from __future__ import annotations

import errno
import os
import resource

import pytest
import torch
from torch import nn

from stream_ann.errors import OutputError, TrainingError
from stream_ann.training.checkpoint import (
    Checkpoint,
    difference,
    keep_checkpoint,
    optimizer_tensors,
    read_checkpoint,
    restore_net,
    restore_optimizer,
    tensors_of,
    write_checkpoint,
)


def some(size=10):
    return Checkpoint({"net.a": torch.arange(size), "average.b": torch.rand(2, 3)}, {"at": {"epoch": 3}, "x": 0.1})


class TestFiles:
    def test_what_is_written_is_read(self, tmp_path):
        written = some()
        write_checkpoint(written, tmp_path / "new" / "last.safetensors")
        read = read_checkpoint(tmp_path / "new" / "last.safetensors")
        assert read.about == {"format": 1, "at": {"epoch": 3}, "x": 0.1}
        assert torch.equal(read.part("net")["a"], torch.arange(10))
        assert torch.equal(read.part("average")["b"], written.tensors["average.b"])

    def test_channels_last_tensors_keep_their_values(self, tmp_path):
        value = torch.rand(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
        write_checkpoint(Checkpoint({"net.w": value}, {}), tmp_path / "c.safetensors")
        assert torch.equal(read_checkpoint(tmp_path / "c.safetensors").tensors["net.w"], value)

    def test_a_full_disk_leaves_the_old_one_valid(self, tmp_path):
        path = tmp_path / "last.safetensors"
        write_checkpoint(some(), path)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))  # writes fail with EFBIG beyond this
        try:
            with pytest.raises(OutputError, match=r"last.safetensors' cannot be written: .*one before is still valid"):
                write_checkpoint(some(100_000), path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert len(read_checkpoint(path).tensors["net.a"]) == 10
        assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]

    @pytest.mark.parametrize("links", [True, False])
    def test_what_is_kept_stays_when_a_newer_one_is_written(self, tmp_path, monkeypatch, links):
        last, best = tmp_path / "last.safetensors", tmp_path / "best.safetensors"
        if not links:

            def unsupported(*_: object) -> None:
                raise OSError(errno.EPERM, "no links here")

            monkeypatch.setattr(os, "link", unsupported)
        for size in (10, 20):
            write_checkpoint(some(size), last)
            keep_checkpoint(last, best)
            assert os.path.samefile(last, best) == links
        write_checkpoint(some(30), last)
        assert len(read_checkpoint(best).tensors["net.a"]) == 20
        assert len(read_checkpoint(last).tensors["net.a"]) == 30
        assert sorted(p.name for p in tmp_path.iterdir()) == ["best.safetensors", "last.safetensors"]

    def test_a_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match="nothing was written; make room, or give another folder"):
            write_checkpoint(some(), tmp_path / "file" / "last.safetensors")

    def test_missing(self, tmp_path):
        with pytest.raises(TrainingError, match=r"there is no checkpoint '.*last.safetensors'"):
            read_checkpoint(tmp_path / "last.safetensors")

    def test_torn(self, tmp_path):
        path = tmp_path / "last.safetensors"
        write_checkpoint(some(), path)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(TrainingError, match="cannot be read"):
            read_checkpoint(path)

    def test_other_tensors(self, tmp_path):
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
        with pytest.raises(TrainingError, match="holds tensors, but is no checkpoint"):
            read_checkpoint(tmp_path / "w.safetensors")

    def test_a_later_format(self, tmp_path):
        write_checkpoint(Checkpoint({}, {"format": 2}), tmp_path / "w.safetensors")
        with pytest.raises(TrainingError, match="has format 2, this version reads 1"):
            read_checkpoint(tmp_path / "w.safetensors")


class TestNetsAndOptimizers:
    def net(self):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def step(self, net, optimizer, seed):
        torch.manual_seed(seed)
        net(torch.rand(2, 3, 5, 5).contiguous(memory_format=torch.channels_last)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    @pytest.mark.parametrize(
        "make",
        [
            lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True, fused=True),
            lambda ps: torch.optim.AdamW(ps, lr=0.1, fused=True),
        ],
        ids=["sgd", "adamw"],
    )
    def test_a_restored_pair_goes_on_alike(self, make):
        one, two = (self.net().to(memory_format=torch.channels_last) for _ in range(2))
        opt_one, opt_two = make(one.parameters()), make(two.parameters())
        self.step(one, opt_one, 1)
        restore_net(two, tensors_of(one), origin="here")
        taken = {k: v.clone(memory_format=torch.contiguous_format) for k, v in optimizer_tensors(opt_one, one).items()}
        restore_optimizer(opt_two, two, taken, origin="here")
        assert set(taken) == set(optimizer_tensors(opt_two, two))
        for net, optimizer in ((one, opt_one), (two, opt_two)):
            self.step(net, optimizer, 2)
        for name, tensor in tensors_of(one).items():
            assert torch.equal(tensor, tensors_of(two)[name]), name

    def test_a_missing_a_superfluous_and_a_misshapen_tensor(self):
        net = self.net()
        tensors = dict(tensors_of(net))
        with pytest.raises(TrainingError, match="'here' does not fit the net: it has a superfluous tensor 'x'"):
            restore_net(net, {**tensors, "x": torch.zeros(1)}, origin="here")
        with pytest.raises(TrainingError, match=r"'0.weight' has shape \[1\], the net's has \[4, 3, 3, 3\]"):
            restore_net(net, {**tensors, "0.weight": torch.zeros(1)}, origin="here")
        del tensors["1.running_mean"]
        with pytest.raises(TrainingError, match=r"it lacks tensor '1.running_mean'"):
            restore_net(net, tensors, origin="here")

    def test_a_foreign_optimizer_state(self):
        net = self.net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        with pytest.raises(TrainingError, match=r"optimizer state '0\.weight/momentum_buffer'"):
            restore_optimizer(optimizer, net, {"0.weight/momentum_buffer": torch.zeros(3)}, origin="here")


@pytest.mark.parametrize(
    ("theirs", "mine", "expected"),
    [
        ({"n": 1, "m": [1, 2]}, {"n": 1, "m": (1, 2)}, None),
        ({"n": 1}, {"n": 2}, ".n is 1, not 2"),
        ({"a": {"b": [1, {"c": 3}]}}, {"a": {"b": [1, {"c": 4}]}}, ".a.b[1].c is 3, not 4"),
        ({"a": 1}, {"a": 1, "b": 2}, ".b is None, not 2"),
        ({"a": [1]}, {"a": [1, 2]}, ".a is [1], not [1, 2]"),
    ],
)
def test_difference(theirs, mine, expected):
    assert difference(theirs, mine) == expected
