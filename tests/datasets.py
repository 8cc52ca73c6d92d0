"""Makers of small data sets on disk, in the formats that real ones come in."""

from __future__ import annotations

import colorsys
import hashlib
import pickle
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image
from torchvision import datasets


def picture(label: int, number: int, height_px: int = 40, width_px: int = 52) -> NDArray[np.uint8]:
    """A flat colour that tells the class, a brightness that tells the number. uint8 [H, W, 3]."""
    rgb = colorsys.hsv_to_rgb((label * 0.31) % 1, 0.8, 0.4 + 0.02 * (number % 30))
    return np.broadcast_to(np.round(np.array(rgb) * 255).astype(np.uint8), (height_px, width_px, 3)).copy()


def noise(seed: int, height_px: int, width_px: int) -> NDArray[np.uint8]:
    """Smooth random colours, uint8 [H, W, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width_px, height_px), Image.Resampling.BICUBIC))


def image_folder(
    root: Path, counts: dict[str, int], *, suffix: str = ".png", height_px: int = 40, width_px: int = 52
) -> Path:
    """``root/CLASS/0000.png`` and so on, so many for each class."""
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            # Every other image is a little wider, as photographs are.
            pixels = picture(label, number, height_px, width_px + (number % 2))
            Image.fromarray(pixels).save(root / name / f"{number:04d}{suffix}")
    return root


def train_val_folder(root: Path, train: dict[str, int], val: dict[str, int]) -> Path:
    """``root/train/CLASS`` and ``root/val/CLASS``."""
    image_folder(root / "train", train)
    image_folder(root / "val", val)
    return root


def write_clip(
    path: Path, frames: list[NDArray[np.uint8]], *, fps: int = 10, codec: str = "mpeg4", gop: int = 12
) -> Path:
    """A video of these frames, uint8 [H, W, 3] each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.bit_rate = 4_000_000
        stream.gop_size = gop
        stream.time_base = Fraction(1, fps)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def grey_frames(
    count: int, height_px: int = 48, width_px: int = 64, start: int = 20, step: int = 4
) -> list[NDArray[np.uint8]]:
    """Frames whose brightness tells their number: start + step * number."""
    return [np.full((height_px, width_px, 3), start + step * number, np.uint8) for number in range(count)]


def clip_folder(root: Path, clips: dict[str, int], *, frames: int = 12) -> Path:
    """``root/CLASS/clip0.mp4`` and so on, so many for each class."""
    for label, (name, count) in enumerate(clips.items()):
        for number in range(count):
            write_clip(root / name / f"clip{number}.mp4", [picture(label, i, 48, 64) for i in range(frames)])
    return root


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def cifar(root: Path, monkeypatch: pytest.MonkeyPatch, classes: int, *, per_batch: int = 20) -> Path:
    """CIFAR-10 (or 100) as its authors' python version has it: pickles of rows of 3072 bytes, channel by channel.

    Torchvision compares the files with the checksums of the real ones, which are set to those of these.
    """
    kind = datasets.CIFAR10 if classes == 10 else datasets.CIFAR100
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)

    def write(name: str, content: dict[str, object]) -> str:
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        return _md5(folder / name)

    def batch(name: str) -> list[str]:
        labels = [number % classes for number in range(per_batch)]
        rows = np.stack([picture(label, 0, 32, 32).transpose(2, 0, 1).reshape(-1) for label in labels])
        rows[:, 0] = random.integers(0, 256, per_batch)
        if classes == 10:
            return [name, write(name, {"data": rows, "labels": labels, "batch_label": name, "filenames": []})]
        coarse = [label // 5 for label in labels]
        return [name, write(name, {"data": rows, "fine_labels": labels, "coarse_labels": coarse, "filenames": []})]

    names = [f"class{number}" for number in range(classes)]
    meta = dict(kind.meta)
    meta["md5"] = write(meta["filename"], {meta["key"]: names})
    monkeypatch.setattr(kind, "meta", meta)
    monkeypatch.setattr(kind, "train_list", [batch(name) for name, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [batch(name) for name, _ in kind.test_list])
    return root


def fashion_mnist(root: Path, *, train: int = 40, test: int = 20) -> Path:
    """FashionMNIST in the IDX format: a big-endian header, then bytes."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", train), ("t10k", test)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = np.broadcast_to((labels * 20)[:, None, None], (count, 28, 28)).astype(np.uint8)
        header = struct.pack(">IIII", 0x00000803, count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x00000801, count) + labels.tobytes())
    return root


def imagenette(root: Path, *, per_class: int = 2) -> Path:
    """Imagenette with shorter sides of 320 pixels: ``imagenette2-320/{train,val}/WORDNET-ID/*.JPEG``."""
    ids = list(datasets.Imagenette._WNID_TO_CLASS)
    for part in ("train", "val"):
        image_folder(root / "imagenette2-320" / part, dict.fromkeys(ids, per_class), suffix=".JPEG")
    return root
