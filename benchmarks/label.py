"""Offline labelling against decoding alone, against the full plan, against plain loops, and its memory over an hour.

Measures, in one run on this machine:

- frames/s at the first exit, as a part of what decoding and scaling alone do on the same cores;
- frames/s with early exit (``max_drop``, whose thresholds are in the card and were chosen on other images) over those
  of the full plan on every frame, and what it loses, on labelled frames: the demo clip, and photographs where a folder
  is given. The standard error takes frames for independent, which those of the clip's few scenes are not;
- the same over a plain loop (OpenCV's VideoCapture, a torchvision network, batches of 32, eager PyTorch) and over
  ONNX Runtime on the deepest member, each with as many threads as there are cores;
- resident memory of an hour of 1080p at 25 fps over that of a minute, its peak and its median in the second half of the
  run. Every frame is decoded and every tenth labelled; the film's pictures change only every two seconds, so that an
  hour of them is decoded in a minute or two. How much memory a decoder takes does not depend on that;
- whether two workers of a local Ray cluster write the same lines as one process.

Run: python -m benchmarks.label --photographs FOLDER --out benchmarks/results/label.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import pipelines
from benchmarks import report
from pipelines.labelling.feed import Decoding, Feed
from pipelines.labelling.inputs import Video
from pipelines.labelling.opening import cores
from pipelines.labelling.work import PieceEnd, units
from stream_ann import weights
from stream_ann.ingest.pattern import pattern_image
from stream_ann.ingest.spans import Selection
from stream_ann.ingest.spec import DEMO_CLIP
from stream_ann.preprocess import centre_square

FULL_COPIES, EARLY_COPIES = 2, 8
"""How often a film of a few hundred frames is labelled in one job."""
ROUNDS = 3
"""How often the ways are tried in turn."""
MEMORY = """
import re, statistics, sys, pipelines
def kib(what):
    # getrusage would tell the peak of the process that started this one, where that was larger
    return int(re.search(what + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1])
run = pipelines.label(sys.argv[1], weights=sys.argv[2], max_exit=0, workers=1, stride=10)
seen = [kib("VmRSS") for _ in run]
print(len(seen), kib("VmHWM"), round(statistics.median(seen[len(seen) // 2 :])))
"""


def film(
    path: Path, seconds: int, *, size_px: tuple[int, int] = (1920, 1080), fps: int = 25, still_frames: int = 1
) -> Path:
    """Encode a pattern that moves every ``still_frames`` once for ten seconds, and repeat its packets."""
    width, height = size_px
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "g": str(fps * 2), "bf": "0"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        once = []
        for i in range(fps * 10):
            frame = av.VideoFrame.from_ndarray(pattern_image(i // still_frames, width, height), format="rgb24")
            frame.pts = i
            once += list(stream.encode(frame))
        once += list(stream.encode(None))
        data = [(bytes(p), p.pts, p.is_keyframe, p.time_base) for p in once]
        for turn in range(max(1, seconds // 10)):
            for payload, pts, key, time_base in data:
                packet = av.Packet(payload)
                packet.stream, packet.time_base, packet.is_keyframe = stream, time_base, key
                step = 1 / (fps * time_base)
                packet.pts = packet.dts = (pts or 0) + round(turn * fps * 10 * step)
                container.mux(packet)
    return path


def decode_alone(path: Path, side_px: int, crop: float) -> float:
    """Frames/s of decoding and scaling in as many threads as there are cores, nothing else."""
    videos = [Video(path, path.name, Path(path.name))]
    work = units(videos, Selection())
    taking = threading.Lock()
    decoding = Decoding(side_px, lambda h, w: centre_square(h, w, crop), Selection())
    counts = [0] * cores()

    def lane(number: int) -> None:
        while True:
            with taking:
                unit = next(work, None)
            if unit is None:
                return
            with Feed(unit, videos, decoding, threading.Event()) as feed:
                counts[number] += sum(not isinstance(item, PieceEnd) for item in feed)

    threads = [threading.Thread(target=lane, args=(i,)) for i in range(cores())]
    begun_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - begun_s)


def labelled(path: Path, name: str, *, copies: int = 1, **options: Any) -> tuple[float, list[Any]]:
    """Frames/s between the first result and the last, so that loading is left out, and the frames.

    Results come in batches, in the order of the frames: of a few hundred that leave early the first comes when most of
    the work is done. With ``copies`` the same file is labelled so many times in one job; the frames are those of one.
    """
    with tempfile.TemporaryDirectory() as folder:
        for copy in range(copies):
            shutil.copyfile(path, Path(folder) / f"{copy:03}{path.suffix}")
        run = pipelines.label(folder, weights=name, **options)
        found = [next(run)]
        begun_s = time.perf_counter()
        found += list(run)
        per_s = (len(found) - 1) / (time.perf_counter() - begun_s)
    return per_s, found[: len(found) // copies]


def demo_truth() -> dict[int, set[int]]:
    """Classes that are right for each frame of the demo clip."""
    shots = json.loads(DEMO_CLIP.with_suffix(".json").read_text())["shots"]
    return {
        i: {label["class_id"] for label in shot["labels"]}
        for shot in shots
        for i in range(shot["first_frame"], shot["last_frame"] + 1)
    }


def photographs(folder: Path, classes: tuple[str, ...], target: Path) -> tuple[Path, dict[int, set[int]]] | None:
    """Photographs in a folder for each class, as a film with a frame for each, and their classes."""
    known = {name.casefold(): i for i, name in enumerate(classes)}
    pictures = [
        (path, known[path.parent.name.casefold()])
        for path in sorted(folder.glob("*/*"))
        if path.parent.name.casefold() in known and path.suffix.lower() in (".jpg", ".jpeg", ".png")
    ]
    if not pictures:
        return None
    truth = {}
    with av.open(str(target), "w") as container:
        stream = container.add_stream("mjpeg", rate=25, options={"qmin": "2", "qmax": "2"})
        stream.width = stream.height = 320
        stream.pix_fmt = "yuvj444p"
        for i, (path, class_id) in enumerate(pictures):
            image = np.asarray(Image.open(path).convert("RGB"))
            side = min(image.shape[:2])
            top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
            square = cv2.resize(image[top : top + side, left : left + side], (320, 320), interpolation=cv2.INTER_AREA)
            frame = av.VideoFrame.from_ndarray(square.astype(np.uint8), format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
            truth[i] = {class_id}
        container.mux(stream.encode(None))
    return target, truth


def early_exit(path: Path, name: str, truth: dict[int, set[int]], max_drop: float) -> dict[str, Any]:
    """The full plan on every frame against early exit; all frames count, since the thresholds were chosen on others."""
    full_per_s, full = labelled(path, name, copies=FULL_COPIES, confidence=float("inf"))
    per_s, early = labelled(path, name, copies=EARLY_COPIES, max_drop=max_drop)
    was, now = (np.array([f.class_id in truth[f.index] for f in found if f.index in truth]) for found in (full, early))
    lost = was.astype(float) - now
    return {
        "frames": len(full),
        "labelled": len(lost),
        "max_drop": max_drop,
        "full_frames_per_s": round(full_per_s, 2),
        "full_accuracy": round(float(was.mean()), 4),
        "early_frames_per_s": round(per_s, 2),
        "early_accuracy": round(float(now.mean()), 4),
        "drop_points": round(100 * float(lost.mean()), 2),
        "drop_error_points": round(100 * float(lost.std()) / len(lost) ** 0.5, 2),
        "mean_exit": round(float(np.mean([frame.exit for frame in early])), 3),
        "speed_up": round(per_s / full_per_s, 3),
    }


def batches_of(path: Path, side_px: int, crop: float, size: int = 32) -> Iterator[NDArray[np.uint8]]:
    """Frames as OpenCV gives them, their centre squares resized, in batches, uint8 [B, S, S, 3] RGB."""
    capture = cv2.VideoCapture(str(path))
    batch: list[NDArray[np.uint8]] = []
    while True:
        good, image = capture.read()
        if not good:
            break
        top, left, side = centre_square(image.shape[0], image.shape[1], crop)
        square = image[top : top + side, left : left + side]
        square = cv2.resize(square, (side_px, side_px), interpolation=cv2.INTER_AREA)
        batch.append(np.asarray(cv2.cvtColor(square, cv2.COLOR_BGR2RGB), dtype=np.uint8))
        if len(batch) == size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def plain_loop(path: Path, network: str, side_px: int) -> float:
    """Frames/s of OpenCV, torchvision and eager PyTorch. The speed does not depend on the weights, which are random."""
    import torchvision

    torch.set_num_threads(cores())
    net = torchvision.models.get_model(network, weights=None).eval()
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    count = 0
    with torch.inference_mode():
        net(torch.zeros(32, 3, side_px, side_px))
        begun_s = time.perf_counter()
        for batch in batches_of(path, side_px, 0.875):
            images = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
            torch.softmax(net((images - mean) / std), dim=1).argmax(dim=1).tolist()
            count += len(batch)
    return count / (time.perf_counter() - begun_s)


def onnx_loop(path: Path, loaded: weights.Weights) -> float:
    """Frames/s of OpenCV and ONNX Runtime on the deepest member alone."""
    import onnxruntime

    member = loaded.net.members()[-1]

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = torch.nn.ModuleList(member.steps)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            state: tuple[torch.Tensor, ...] = ()
            for step in self.steps:
                state, logits = step(images, state)
            return torch.softmax(logits, dim=1)

    side_px, preprocessing = member.resolution_px, loaded.card.preprocessing
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "net.onnx"
        torch.onnx.export(
            Whole().eval(),
            (torch.zeros(32, 3, side_px, side_px),),
            str(target),
            input_names=["images"],
            dynamic_axes={"images": {0: "batch"}},
            dynamo=False,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores()
        session = onnxruntime.InferenceSession(str(target), options, providers=["CPUExecutionProvider"])
        count = 0
        session.run(None, {"images": np.zeros((32, 3, side_px, side_px), dtype=np.float32)})
        begun_s = time.perf_counter()
        for batch in batches_of(path, side_px, preprocessing.crop):
            images = (batch.astype(np.float32) / 255 - preprocessing.mean) / preprocessing.std
            session.run(None, {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32)})
            count += len(batch)
        return count / (time.perf_counter() - begun_s)


def memory(path: Path, name: str) -> dict[str, int]:
    """Resident memory of a process that labels a film at the first exit with one worker, in KiB."""
    command = [sys.executable, "-c", MEMORY, str(path), name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ})
    frames, peak, steady = map(int, done.stdout.split())
    return {"labelled": frames, "peak_kib": peak, "steady_kib": steady}


def same_on_ray(path: Path, name: str, folder: Path) -> bool:
    """Whether two workers of a local Ray cluster write the lines of one process, sorted."""
    lines = []
    for cluster in (None, "local"):
        out = folder / f"{cluster}.jsonl"
        list(pipelines.label(path, out=out, weights=name, confidence=0.8, stride=3, cluster=cluster, workers=2))
        lines.append(sorted(out.read_text().splitlines()))
    return lines[0] == lines[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--photographs", type=Path, help="a folder of photographs for each class, by class name")
    parser.add_argument("--max-drop", type=float, default=3.0, help="percentage points that early exit may lose")
    parser.add_argument("--network", default="efficientnet_b0", help="torchvision network of the plain loop")
    parser.add_argument("--network-px", type=int, default=224)
    parser.add_argument("--long-s", type=int, default=3600)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes, to see that it runs")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    loaded = weights.load(args.weights)
    crop = loaded.card.preprocessing.crop
    results: dict[str, Any] = {"weights_sha256": loaded.card.file.sha256, "cores": cores()}

    def note(key: str, value: Any) -> None:
        results[key] = value
        print(f"{key}: {value}", flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        film_s = 20 if args.quick else 120
        hd = film(folder / "hd.mp4", film_s)
        alone = decode_alone(hd, loaded.plan.steps[0].resolution_px, crop)
        first, _ = labelled(hd, args.weights, max_exit=0)
        note("decode_alone_frames_per_s", round(alone, 2))
        note("first_exit_frames_per_s", round(first, 2))
        note("first_exit_over_decode", round(first / alone, 3))
        demo = early_exit(DEMO_CLIP, args.weights, demo_truth(), args.max_drop)
        note("early_exit_demo", demo)
        if args.photographs is not None:
            made = photographs(args.photographs, loaded.card.classes, folder / "photographs.mov")
            found = None if made is None else early_exit(made[0], args.weights, made[1], args.max_drop)
            note("early_exit_photographs", found)
        # in turn, since the machine's pace changes from minute to minute
        rounds = [
            (
                labelled(DEMO_CLIP, args.weights, copies=EARLY_COPIES, max_drop=args.max_drop)[0],
                plain_loop(DEMO_CLIP, args.network, args.network_px),
                onnx_loop(DEMO_CLIP, loaded),
            )
            for _ in range(1 if args.quick else ROUNDS)
        ]
        note("rounds", [[round(per_s, 2) for per_s in turn] for turn in rounds])
        note("over_plain_loop", round(statistics.median(ours / loop for ours, loop, _ in rounds), 3))
        note("over_onnx_runtime", round(statistics.median(ours / onnx for ours, _, onnx in rounds), 3))
        note("same_on_ray", same_on_ray(DEMO_CLIP, args.weights, folder))
        hd.unlink()
        short_s, long_s = (60, 120) if args.quick else (60, args.long_s)
        peaks = {}
        for seconds in (short_s, long_s):
            path = film(folder / "memory.mp4", seconds, still_frames=50)
            peaks[seconds] = memory(path, args.weights)
            path.unlink()
        note("memory", {f"{seconds} s of 1080p at 25 fps": peak for seconds, peak in peaks.items()})
        for kind in ("peak", "steady"):
            ratio = peaks[long_s][f"{kind}_kib"] / peaks[short_s][f"{kind}_kib"]
            note(f"memory_{kind}_long_over_short", round(ratio, 4))
    report.write(args.out, "label", results, vars(args))


if __name__ == "__main__":
    main()
