"""Several processes that train together, started with the environment that torchrun gives them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from stream_ann.errors import UsageError
from stream_ann.nets import build
from stream_ann.preprocess import Preprocessing
from stream_ann.training.augment import Augment
from stream_ann.training.checkpoint import read_checkpoint, tensors_of
from stream_ann.training.distributed import Group, device_for, joined
from stream_ann.training.made import synthetic
from stream_ann.training.options import TrainOptions
from stream_ann.training.trainer import Trainer

TIMEOUT_S = 100
WORKER = """
import json, sys, torch
torch.set_num_threads(1)
from pathlib import Path
from tests.test_train_distributed import run
folder = Path(sys.argv[1])
run(folder / "run", json.loads(sys.argv[2]), seed=7 + int(sys.argv[3]), report=folder / f"{sys.argv[3]}.json")
"""


def run(folder, changes, *, seed=7, report=None):
    """Train a small net whose batch norm statistics are frozen: on CPUs each process would have its own."""
    torch.manual_seed(seed)  # processes that begin with other weights than the first are to take over its weights
    net = build({"name": "resann", "classes": 4, "n": 1, "c": 4, "s": 1, "resolution_px": 16})
    told = []
    trainer = Trainer(
        net,
        synthetic(4, 100, 16, 0),
        Preprocessing((0.5,) * 3, (0.25,) * 3, crop=1.0),
        TrainOptions(epochs=2, batch_size=16, device="cpu", lr=0.05, freeze_norms=True, **changes),
        folder=folder,
        augment=Augment(flip=0.5, crop_padding_px=1),
        on_epoch=told.append,
    )
    history = trainer.run()
    if report is not None:
        report.write_text(json.dumps({**history.as_dict(), "told": len(told)}))
    return trainer.trained(), history


CHANGES = {
    "weighting": "adaloss",
    "alternate": True,
    "self_distill": 0.3,
    "final_first": 0.5,
    "clip": 0.5,
    "average": "ema",
}


def test_two_processes_train_as_one_with_the_joint_batch(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), json.dumps(CHANGES), str(rank)],
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "PYTHONWARNINGS": "ignore",
            },
        )
        for rank in range(2)
    ]
    try:
        codes = [process.wait(TIMEOUT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait(10)
    assert codes == [0, 0]

    net, history = run(None, CHANGES)
    expected = history.as_dict()["epochs"]
    reports = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for report in reports:
        for one, two in zip(report["epochs"], expected, strict=True):
            for key in ("train_loss", "val_loss", "val_accuracy"):
                found, wanted = ([-1 if value is None else value for value in record[key]] for record in (one, two))
                assert found == pytest.approx(wanted, rel=1e-4), key
    # only the first process writes and reports
    assert [report["told"] for report in reports] == [2, 0]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["best.safetensors", "last.safetensors"]
    written = read_checkpoint(tmp_path / "run" / "last.safetensors").part("average")
    for name, tensor in tensors_of(net).items():
        torch.testing.assert_close(written[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


class TestGroup:
    def test_alone_nothing_is_communicated(self):
        group = Group()
        assert group.leads
        assert group.any(True, torch.device("cpu"))
        values = torch.rand(3)
        assert group.mean(values) is values
        assert group.total(values) is values
        net = torch.nn.Linear(2, 2)
        group.align(net)
        group.average_gradients(net.parameters())
        group.wait()

    def test_without_torchrun_a_process_is_alone(self, monkeypatch):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        with joined(torch.device("cpu")) as group:
            assert (group.rank, group.world) == (0, 1)

    def test_half_an_environment_is_refused(self, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.delenv("RANK", raising=False)
        with (
            pytest.raises(UsageError, match="the environment variable RANK is ''; start several processes by torchrun"),
            joined(torch.device("cpu")),
        ):
            pass

    def test_devices(self):
        assert device_for("cpu") == torch.device("cpu")
        if not torch.cuda.is_available():
            assert device_for("auto") == torch.device("cpu")
