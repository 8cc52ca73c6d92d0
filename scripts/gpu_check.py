"""Everything that only a GPU can tell: the CUDA tests, then the CUDA benchmark. One command, at most 8 minutes.

Run: python -m scripts.gpu_check --out benchmarks/results/engines_cuda.json

It needs neither PyAV nor an installed package: torch, torchvision, OpenCV, NumPy, safetensors, pytest, pytest-timeout
and hypothesis are enough. Ends with 0 if all tests pass, with 1 if one does not or there is no GPU; goals that are
missed are said, and are no failure. ``--dry-run`` goes through the same on a stand-in for the GPU, to try the script:
its figures mean nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
TESTS = ["tests/test_cuda_gpu.py", "tests/test_engines.py", "tests/test_preprocess.py"]
TESTS_LIMIT_S = 240
BENCHMARK_LIMIT_S = 230


def main(arguments: list[str] | None = None) -> int:
    """Run the check; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "engines_cuda.json")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--dry-run", action="store_true", help="go through it on a stand-in for the GPU")
    args = parser.parse_args(arguments)
    if not args.dry_run and not torch.cuda.is_available():
        print(f"gpu-check: torch {torch.__version__} sees no CUDA GPU here, so nothing was checked", file=sys.stderr)
        return 1
    begun_s = time.monotonic()
    if not args.dry_run:
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}", flush=True)
    passed = _tests(args.dry_run)
    print(f"tests {'passed' if passed else 'FAILED'} after {time.monotonic() - begun_s:.0f} s", flush=True)
    measured = _benchmark(args.out, args.weights, args.dry_run)
    print(f"gpu-check: {'all is well' if passed and measured else 'FAILED'}, {time.monotonic() - begun_s:.0f} s")
    return 0 if passed and measured else 1


def _tests(dry_run: bool) -> bool:
    """Whether all CUDA tests pass; a dry run only collects them."""
    # Warnings of whatever versions are here would hide what this is about.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
    command += [*TESTS, "-k", "cuda or gpu"]
    if dry_run:
        command += ["--collect-only"]
    environment = os.environ | ({} if dry_run else {"REQUIRE_CUDA": "1"})
    try:
        return _run(command, environment, TESTS_LIMIT_S)
    except subprocess.TimeoutExpired:
        print(f"the tests took more than {TESTS_LIMIT_S} s", file=sys.stderr)
        return False


def _benchmark(out: Path, name: str, dry_run: bool) -> bool:
    """Whether the benchmark ran to its end, in a process of its own, because a GPU that hangs must not hang this."""
    if dry_run:
        return rehearse()
    command = [sys.executable, "-m", "benchmarks.engines_cuda", "--weights", name, "--out", str(out)]
    try:
        return _run(command, dict(os.environ), BENCHMARK_LIMIT_S)
    except subprocess.TimeoutExpired:
        print(f"the benchmark took more than {BENCHMARK_LIMIT_S} s", file=sys.stderr)
        return False


def _run(command: list[str], environment: dict[str, str], limit_s: float) -> bool:
    """Whether a command ends well; it is stopped when its time is up."""
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=limit_s, check=False)  # noqa: S603
    return done.returncode == 0


def rehearse() -> bool:
    """The benchmark on the stand-in that the tests have, with a small network."""
    from benchmarks import engines_cuda, report
    from stream_ann.nets import build
    from stream_ann.preprocess import Preprocessing
    from tests.fake_cuda import FakeDevice

    small = {"name": "resann", "classes": 7, "n": 1, "c": 4, "s": 2}
    net = build({"name": "eann", "trunks": {"small": small}, "members": [["small", 32], ["small", 48]]}).eval()
    settings = engines_cuda.Settings(frames=3, seconds=0.2, streams=(1, 2), height_px=90, width_px=120)
    results = engines_cuda.measure(
        net, Preprocessing((0.5,) * 3, (0.5,) * 3), torch.device("cpu"), settings, lambda: FakeDevice(haste=0.8)
    )
    with tempfile.TemporaryDirectory() as folder:
        report.write(Path(folder) / "rehearsal.json", "engines_cuda", results, {})
    print(engines_cuda.summary(results))
    print("(a rehearsal on the CPU: these figures mean nothing)")
    return True


if __name__ == "__main__":
    sys.exit(main())
