"""What is read from files that are data: weights and their cards, manifests, reports, traces, checkpoints, lists."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from rich.console import Console

from pipelines.architectures import arch_named
from pipelines.benchmarking.compare import compare
from pipelines.benchmarking.results import read_times
from pipelines.benchmarking.streams import class_map, video_film
from pipelines.labelling.inputs import find_videos, output_names
from stream_ann import weights
from stream_ann.errors import UsageError
from stream_ann.labels import LabelOptions, labelling_from
from stream_ann.labels.hedging import HedgeCalibration
from stream_ann.labels.hierarchy import Hierarchy
from stream_ann.manifest import Manifest
from stream_ann.streaming import read_trace
from stream_ann.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from stream_ann.weights.card_json import card_from_json, card_to_json
from stream_ann.weights.tensor_file import to_bytes
from tests.fuzz import corpus
from tests.fuzz.damage import any_text, damaged_bytes, damaged_json, damaged_lines
from tests.fuzz.target import Target
from tests.small_weights import save_small_weights

__all__ = ["CLASSES", "TARGETS", "small_weights"]

CLASSES = ("ant", "bee", "cat", "dog", "eel")
"""Those of the small weights."""
_TREE = b"animal\n  insect\n    ant\n    bee\n  mammal\n    cat\n    dog\n  eel\n"
_originals: dict[str, bytes] = {}
"""Undamaged files that a check needs beside the input, kept when its inputs are made."""
_PAIRS = b"ant\tinsect\nbee\tinsect\ninsect\tanimal\ncat\tanimal\ndog\tanimal\neel\n# a comment\n"


def small_weights(folder: Path) -> tuple[bytes, bytes]:
    """Card and tensors of weights that cost nothing."""
    card = folder / "small.json"
    if not card.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made = save_small_weights(folder)
        assert made == card
    return card.read_bytes(), card.with_suffix(".safetensors").read_bytes()


def _cards(folder: Path) -> st.SearchStrategy[bytes]:
    return damaged_json([json.loads(small_weights(folder)[0])])


def _card(data: bytes, folder: Path) -> None:
    card = card_from_json(data, origin="input.json")
    assert card_from_json(card_to_json(card), origin="again") == card
    assert all("\x1b" not in line for line in card.summary())
    path = folder / "input.json"
    path.write_bytes(data)
    (folder / "small.safetensors").write_bytes(b"")
    for check in weights.verify(path):
        assert check.error is None or "\n" not in check.error
    weights.load(path)


def _stored(folder: Path) -> st.SearchStrategy[bytes]:
    """Tensors of 16 or 8 bits whose header, or whose bytes, are damaged."""
    _originals["card"], whole = small_weights(folder)
    rounded = to_bytes(weights.load(folder / "small.json").net, bits=8)

    def with_other_header(whole: bytes) -> st.SearchStrategy[bytes]:
        size = struct.unpack("<Q", whole[:8])[0]
        header, rest = json.loads(whole[8 : 8 + size]), whole[8 + size :]
        return damaged_json([header]).map(lambda text: struct.pack("<Q", len(text)) + text + rest)

    return st.one_of(damaged_bytes([whole, rounded]), *map(with_other_header, (whole, rounded)))


def _weights(data: bytes, folder: Path) -> None:
    """The card says that the file is as it should be, so that what is in it is looked at."""
    path = folder / "small.safetensors"
    path.write_bytes(data)
    card = json.loads(_originals["card"])
    card["file"] |= {"bytes": max(1, len(data)), "sha256": hashlib.sha256(data).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(card))
    weights.verify(path)
    loaded = weights.load(path, verify=False)
    assert all(value.isfinite().all() for value in loaded.net.state_dict().values() if value.is_floating_point())


def _checkpoints(folder: Path) -> st.SearchStrategy[bytes]:
    about = {"epoch": 3, "options": {"lr": 0.1}, "history": [{"loss": 0.5}]}
    whole = corpus.kept(
        folder,
        "last.safetensors",
        lambda path: write_checkpoint(Checkpoint({"net.a": torch.ones(2, 3), "net.b": torch.zeros(4)}, about), path),
    )

    def with_about(text: bytes) -> bytes:
        header = json.dumps({"__metadata__": {"stream_ann.checkpoint": text.decode("utf-8", "replace")}}).encode()
        return struct.pack("<Q", len(header)) + header

    return st.one_of(damaged_bytes([whole]), damaged_json([{"format": 1, **about}]).map(with_about))


def _checkpoint(data: bytes, folder: Path) -> None:
    path = folder / "last.safetensors"
    path.write_bytes(data)
    read_checkpoint(path)


def _manifests(folder: Path) -> st.SearchStrategy[bytes]:
    def make(path: Path) -> None:
        made = Manifest.create(path, {"format": 1, "videos": [{"path": "a.mp4", "bytes": 3}], "settings": {"k": 5}})
        for unit in range(4):
            made.commit({"unit": unit, "next": [0, unit], "outputs": {"a.jsonl": 100 * unit}})
        made.close()

    return damaged_lines([corpus.kept(folder, "manifest.jsonl", make)])


def _manifest(data: bytes, folder: Path) -> None:
    path = folder / "manifest.jsonl"
    path.write_bytes(data)
    opened = Manifest.open(path)
    try:
        opened.commit({"unit": 9})
    finally:
        opened.close()
    again = Manifest.open(path)
    again.close()
    assert again.records == opened.records


_FIGURES = {"p50_ms": 4.0, "p90_ms": 5.0, "p99_ms": 6.0, "max_ms": 7.0}
_TIMES = {"imagenet": {"start_ms": [0.1, 0.2], "steps_ms": [[1, 2], [2, 3]], "between_ms": [0.01, 0.02]}}
_REPORT: dict[str, Any] = {
    "weights": "imagenet",
    "machine": {"cpu": "a", "cores": 2},
    "stream": {"name": "demo", "frames": 250},
    "options": {"fps": [5, 30], "seed": 0},
    "seed": 0,
    "times": _TIMES,
    "runs": [
        {
            "fps": fps,
            "contender": name,
            "clock": clock,
            "accuracy": {"value": 0.7, "error": 0.02},
            "first": _FIGURES,
            "final": _FIGURES,
            "mean_exit": 3.1,
        }
        for fps in (5.0, 30.0)
        for name in ("anytime in-order", "lite0")
        for clock in ("real", "simulated")
    ],
}


def _report(data: bytes, folder: Path) -> None:
    good, bad = folder / "good.json", folder / "input.json"
    good.write_text(json.dumps(_REPORT))
    bad.write_bytes(data)
    console = Console(file=(folder / "shown.txt").open("w", encoding="utf-8", errors="surrogateescape"), width=200)
    refusal: UsageError | None = None
    try:
        console.print(compare(good, bad))
    except UsageError as error:
        refusal = error
    finally:
        console.file.close()
    read_times(bad)
    if refusal is not None:
        raise refusal


_EVENT = {"source": "demo", "frame": 3, "pts_s": 0.12, "arrival_s": 17.25, "label": "cat", "top": [["cat", 0.9]]}
_TRACE = b"".join(json.dumps(_EVENT | {"frame": i, "arrival_s": 17.25 + i / 25}).encode() + b"\n" for i in range(9))
_SHOTS = {"shots": [{"start_s": i, "end_s": i + 1, "labels": [{"name": CLASSES[i]}]} for i in range(3)]}


def _trace(data: bytes, folder: Path) -> None:
    path = folder / "trace.txt"
    path.write_bytes(data)
    gaps = read_trace(path)
    assert gaps.min() >= 0
    assert abs(gaps.mean() - 1) < 1e-6


def _sidecars(folder: Path) -> st.SearchStrategy[bytes]:
    _originals["clip"] = corpus.clip(folder)
    return damaged_json([_SHOTS])


def _shots(data: bytes, folder: Path) -> None:
    clip, sidecar = folder / "clip.avi", folder / "input.json"
    clip.write_bytes(_originals["clip"])
    sidecar.write_bytes(data)
    video_film(clip, sidecar, CLASSES, {})


def _class_map(data: bytes, folder: Path) -> None:
    path = folder / "map.txt"
    path.write_bytes(data)
    for numbers in class_map(path, CLASSES).values():
        assert all(0 <= number < len(CLASSES) for number in numbers)


def _groups(data: bytes, folder: Path) -> None:
    """What is restricted: from a file, or from the command line, with and without a hierarchy."""
    path = folder / "groups.txt"
    path.write_bytes(data)
    tree = folder / "tree.txt"
    tree.write_bytes(_TREE)
    hierarchy = tree if len(data) % 2 else None
    text = data.decode("utf-8", "surrogateescape")
    specs = ("@" + str(path),) if len(data) % 5 else tuple(text.split("\n"))
    labelling = labelling_from(CLASSES, LabelOptions(classes=specs, hierarchy=hierarchy))
    assert len(set(labelling.names)) == len(labelling.names)
    sums = labelling.group(torch.softmax(torch.arange(5.0), 0).numpy())
    assert sums.shape == (len(labelling.names),)
    assert abs(sums.sum() - 1) < 1e-3


def _hierarchy(data: bytes, folder: Path) -> None:
    path = folder / "tree.txt"
    path.write_bytes(data)
    hierarchy = Hierarchy.read(path)
    hierarchy.check_covers(CLASSES)
    labelling_from(CLASSES, LabelOptions(hedge=0.7, hierarchy=path))


def _list(data: bytes, folder: Path) -> None:
    path = folder / "list.txt"
    path.write_bytes(data)
    found = find_videos([], lists=[path])
    assert len({video.name for video in found}) == len(found)
    names = output_names(found, ".jsonl")
    assert len(set(names)) == len(names)
    for name in names:
        assert not name.is_absolute()
        assert ".." not in name.parts


def _arch(data: bytes, folder: Path) -> None:
    path = folder / "arch.json"
    path.write_bytes(data)
    arch_named(str(path), classes=5)
    text = data.decode("utf-8", "replace")
    arch_named(text, classes=5)


def _hedging(data: bytes, folder: Path) -> None:
    del folder
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    HedgeCalibration.from_json(value)


_LIST = b"# videos\na.mp4\nfolder/b.mkv\n../c.webm\n/d/e.mov\n~/f.avi\n"
_GROUPS = b"pet=cat,dog\nant\nother\n# rest\nbugs=ant,bee\ninsect/*\n"
_MAP = b"n001\tant\nn002\t2\n3\tdogs\tdog\n# rest\nfish\teel\n"
_ARCH = {"arch": {"name": "resann", "classes": 5, "n": 1, "c": 8, "s": 1, "resolution_px": 32}}
_HEDGING = {"targets": [0.5, 0.7, 0.9], "thresholds": [[0.4, 0.6, 0.8], [0.3, 0.5, 0.7]]}


def _lines(original: bytes) -> st.SearchStrategy[bytes]:
    text = st.lists(any_text(), max_size=6).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass"))
    return st.one_of(damaged_lines([original]), damaged_lines([original]), text)


TARGETS = (
    Target("card", "weights cards", _cards, _card, 80),
    Target("weights", "weights files: headers and tensors", _stored, _weights, 80),
    Target("checkpoint", "checkpoints of training runs", _checkpoints, _checkpoint, 30),
    Target("manifest", "manifests of label", _manifests, _manifest, 50),
    Target("report", "reports of bench", lambda _: damaged_json([_REPORT]), _report, 30),
    Target("trace", "events and traces of arrivals", lambda _: damaged_lines([_TRACE]), _trace, 50),
    Target("shots", "labels beside a video", _sidecars, _shots, 10),
    Target("class-map", "class maps", lambda _: _lines(_MAP), _class_map, 40),
    Target("groups", "groups of classes", lambda _: _lines(_GROUPS), _groups, 40),
    Target("hierarchy", "hierarchies", lambda _: damaged_lines([_TREE, _PAIRS]), _hierarchy, 40),
    Target("list", "lists of videos", lambda _: _lines(_LIST), _list, 40),
    Target("arch", "architectures", lambda _: damaged_json([_ARCH, _ARCH["arch"]]), _arch, 20),
    Target("hedging", "thresholds of hedged labels", lambda _: damaged_json([_HEDGING]), _hedging, 20),
)
