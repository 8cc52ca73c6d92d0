"""Public sets in their formats on disk, and labelled video clips."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stream_ann.errors import SourceError, UsageError
from stream_ann.training import Split, holdout, open_data
from stream_ann.training.clips import load_clip, sample_frames
from stream_ann.training.named import data_home
from tests.datasets import cifar, clip_folder, fashion_mnist, grey_frames, image_folder, imagenette, picture, write_clip

CPU = torch.device("cpu")


def evaluate(split: Split, resolution_px: int = 32) -> torch.Tensor:
    batches = split.eval_batches(batch_size=64, resolution_px=resolution_px, device=CPU, crop=1.0)
    return torch.cat([b.images for b in batches])


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar(tmp_path, monkeypatch, classes):
    found = open_data(f"cifar{classes}", root=cifar(tmp_path, monkeypatch, classes), download=False)
    assert found.name == f"cifar{classes}"
    assert found.classes == tuple(f"class{i}" for i in range(classes))
    assert found.resolution_px == 32
    assert len(found.train) == (100 if classes == 10 else 20)
    assert found.val.labels.tolist() == [i % classes for i in range(20)]
    pixel = evaluate(found.val)[3, :, 5, 9]
    assert pixel.tolist() == picture(3, 0)[0, 0].tolist()


def test_cifar_reduced(tmp_path, monkeypatch):
    root = cifar(tmp_path, monkeypatch, 10)
    found = open_data("cifar10", root=root, download=False, classes=["class7", "class2"], limit_per_class=4)
    assert found.classes == ("class7", "class2")
    assert sorted(found.train.labels.tolist()) == [0] * 4 + [1] * 4
    assert sorted(found.val.labels.tolist()) == [0, 0, 1, 1]
    for image, label in zip(evaluate(found.train), found.train.labels.tolist(), strict=True):
        assert image[:, 5, 9].tolist() == picture((7, 2)[label], 0)[0, 0].tolist()
    with pytest.raises(UsageError, match="'cifar10' has no class 'clas7'; did you mean 'class7'"):
        open_data("cifar10", root=root, download=False, classes=["clas7", "class2"])


def test_fashion_mnist_becomes_rgb(tmp_path):
    found = open_data("fashion-mnist", root=fashion_mnist(tmp_path), download=False)
    assert found.classes[9] == "Ankle boot"
    assert found.resolution_px == 28
    assert (len(found.train), len(found.val)) == (40, 20)
    assert (evaluate(found.val, 28)[4] == 80).all()


def test_imagenette_has_names_for_its_folders(tmp_path):
    found = open_data("imagenette", root=imagenette(tmp_path), download=False)
    assert found.classes[:2] == ("tench", "English springer")
    assert found.name == "imagenette"
    assert (len(found.train), len(found.val)) == (20, 20)
    chosen = open_data("imagenette", root=tmp_path, download=False, classes=["church", "tench"])
    assert chosen.classes == ("church", "tench")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion-mnist", "imagenette"])
def test_a_set_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(SourceError, match=f"{name} is not in '.*', or is damaged; allow the download"):
        open_data(name, root=tmp_path, download=False)


def test_a_download_that_fails_is_one_line_and_stdout_stays_clean(tmp_path, monkeypatch, capsys):
    from torchvision import datasets

    def refuse(self):
        print("Downloading")
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(datasets.CIFAR10, "download", refuse)
    with pytest.raises(
        SourceError, match=r"cifar10 cannot be downloaded to '.*': Network is unreachable; check the net"
    ):
        open_data("cifar10", root=tmp_path / "new")
    assert capsys.readouterr().out == ""


def test_sets_are_kept_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("STREAM_ANN_DATA", str(tmp_path / "sets"))
    assert data_home() == tmp_path / "sets"
    monkeypatch.delenv("STREAM_ANN_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_home() == tmp_path / "stream_ann" / "data"


def test_clips_are_never_torn_apart(tmp_path):
    found = open_data(clip_folder(tmp_path, {"a": 4, "b": 4}), val_fraction=0.25, frames_per_clip=5)
    assert found.classes == ("a", "b")
    assert torch.bincount(found.train.labels).tolist() == [15, 15]
    assert torch.bincount(found.val.labels).tolist() == [5, 5]
    assert not set(found.train.groups.tolist()) & set(found.val.groups.tolist())
    rest, held = holdout(found.train, 0.34, 0)
    assert not set(rest.groups.tolist()) & set(held.groups.tolist())
    for image, label in zip(evaluate(found.val), found.val.labels.tolist(), strict=True):
        colour = image.float().mean((1, 2))
        distance = [(colour - torch.from_numpy(picture(c, 5)[0, 0])).abs().sum() for c in (0, 1)]
        assert int(np.argmin(distance)) == label


def test_clips_with_a_val_folder_and_damaged_ones(tmp_path):
    clip_folder(tmp_path / "train", {"a": 2, "b": 2})
    clip_folder(tmp_path / "val", {"a": 1, "b": 1})
    (tmp_path / "train" / "a" / "bad.mp4").write_bytes(b"not a video")
    found = open_data(tmp_path, frames_per_clip=3)
    assert found.skipped == ("train/a/bad.mp4: not a video, or damaged",)
    assert len(found.train) == 12
    assert found.val.groups.tolist() == [0] * 3 + [1] * 3


def test_one_clip_of_a_class_cannot_be_parted(tmp_path):
    with pytest.raises(SourceError, match="class 'b' has one clip only, so that none can be held out"):
        open_data(clip_folder(tmp_path, {"a": 2, "b": 1}))


def test_all_clips_damaged_is_an_error_and_kinds_are_not_mixed(tmp_path):
    for name in "ab":
        (tmp_path / "bad" / name).mkdir(parents=True)
        (tmp_path / "bad" / name / "x.mp4").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"none of 2 files in '.*' decodes, e.g. a/x.mp4"):
        open_data(tmp_path / "bad")
    clip_folder(tmp_path / "both", {"a": 1, "b": 1})
    image_folder(tmp_path / "both", {"a": 1})
    with pytest.raises(SourceError, match="holds both images and video clips; keep one kind"):
        open_data(tmp_path / "both")


def test_frames_that_do_not_fit_are_kept_smaller_down_to_a_limit(tmp_path):
    frames = grey_frames(6, 240, 320)
    for name in "ab":
        for number in range(2):
            write_clip(tmp_path / name / f"{number}.mp4", frames)
    whole = 4 * 3 * 240 * 320 * 3
    assert len(open_data(tmp_path, frames_per_clip=3, memory_limit=whole // 4).train) == 6
    with pytest.raises(
        UsageError, match="3 frames of each of 4 clips take more than 0 MiB; take fewer frames per clip"
    ):
        open_data(tmp_path, frames_per_clip=3, memory_limit=whole // 10)


def brightness(images: list[NDArray[np.uint8]]) -> list[int]:
    return [round(float(image.mean())) for image in images]


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "mpeg4"), (".mkv", "mpeg4"), (".avi", "mjpeg")])
def test_frames_are_sampled_from_the_middles_of_equal_parts(tmp_path, suffix, codec):
    path = write_clip(tmp_path / f"x{suffix}", grey_frames(40), codec=codec)
    found = brightness(sample_frames(path, 4))
    assert np.abs(np.array(found) - [20 + 4 * n for n in (5, 15, 25, 35)]).max() <= 2
    assert len(sample_frames(path, 100)) == 40


def test_long_clips_are_sought_through_and_give_the_same_frames(tmp_path, monkeypatch):
    from stream_ann.training import clips

    path = write_clip(tmp_path / "x.mp4", grey_frames(100, start=10, step=2), gop=5)
    sought = brightness(sample_frames(path, 4))
    decoded = []
    plain = clips._decoded

    def counted(container):
        for frame in plain(container):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(clips, "_decoded", counted)
    assert brightness(sample_frames(path, 4)) == sought
    assert len(decoded) < 40
    monkeypatch.setattr(clips, "_skips", lambda *args: False)
    assert brightness(sample_frames(path, 4)) == sought
    assert np.abs(np.array(sought) - [10 + 2 * n for n in (12, 37, 62, 87)]).max() <= 3


def test_a_bare_stream_without_times_is_counted(tmp_path):
    path = write_clip(tmp_path / "x.m4v", grey_frames(20), codec="mpeg4")
    found = brightness(sample_frames(path, 2))
    assert np.abs(np.array(found) - [20 + 4 * n for n in (5, 15)]).max() <= 6


def test_a_clip_cut_short_gives_what_is_left_and_one_of_zeros_nothing(tmp_path):
    path = write_clip(tmp_path / "x.mkv", grey_frames(40))
    data = path.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    cut = load_clip(tmp_path / "cut.mkv", 4, 320)
    assert isinstance(cut, list)
    assert len(cut) == 4
    path = write_clip(tmp_path / "x.mp4", grey_frames(40))
    spoilt = bytearray(path.read_bytes())
    start, end = spoilt.index(b"mdat") + 4, spoilt.index(b"moov") - 4
    spoilt[start:end] = bytes(end - start)  # the index is whole, the frames are not
    (tmp_path / "empty.mp4").write_bytes(spoilt)
    assert load_clip(tmp_path / "empty.mp4", 4, 320) == "only 0 of 4 frames can be decoded"
    assert load_clip(tmp_path / "gone.mkv", 4, 320) == "No such file or directory"


def test_clips_are_reduced_like_photographs(tmp_path):
    path = write_clip(tmp_path / "x.mp4", grey_frames(4, 120, 160))
    found = load_clip(path, 2, 60)
    assert isinstance(found, list)
    assert [image.shape for image in found] == [(60, 80, 3)] * 2


def test_clips_of_phones_held_upright_are_turned(tmp_path):
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:, 32:] = 200  # bright on the right
    path = write_clip(tmp_path / "x.mp4", [frame] * 3)
    data = path.read_bytes()
    plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    clockwise = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    track = data.index(b"tkhd")
    assert plain in data[track : track + 100]
    path.write_bytes(data[:track] + data[track:].replace(plain, clockwise, 1))
    (image,) = sample_frames(path, 1)
    assert image.shape == (64, 48, 3)
    assert image[:28].mean() < 20  # what was on the right is below
    assert image[36:].mean() > 180
