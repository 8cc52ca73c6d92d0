"""The check that only a GPU can pass, as far as it goes without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import engines_cuda
from scripts import gpu_check

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_fails(capsys):
    assert gpu_check.main([]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "sees no CUDA GPU here, so nothing was checked" in captured.err


def test_the_benchmark_runs_to_its_end_on_a_stand_in(capsys):
    assert gpu_check.rehearse()
    shown = capsys.readouterr().out
    for goal in engines_cuda.GOALS:
        assert goal in shown
    assert "these figures mean nothing" in shown


def test_all_tests_named_are_there():
    for name in gpu_check.TESTS:
        assert (ROOT / name).is_file()


def test_neither_engine_nor_benchmark_wants_more_than_a_bare_gpu_machine_has():
    code = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("av", "openvino", "skimage", "matplotlib", "starlette", "typer", "rich"):
            raise ModuleNotFoundError(f"{name} is refused", name=name)

sys.meta_path.insert(0, Refuse())
import benchmarks.engines_cuda, scripts.gpu_check, stream_ann.weights, stream_ann.engines, stream_ann.scheduler
import tests.fake_cuda, tests.test_cuda_gpu
assert stream_ann.weights.load("imagenet").plan
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=100)
