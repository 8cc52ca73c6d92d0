"""Data sets: what is read, what is refused, and that batches are the same whenever and however they are read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from stream_ann.errors import SourceError, SourceNotFoundError, UnsupportedSourceError, UsageError
from stream_ann.preprocess import Preprocessing, preprocess
from stream_ann.training import Augment, Batch, Data, Split, holdout, open_data, synthetic
from stream_ann.training import data as data_module
from stream_ann.training.images import in_threads, load_image, shrink, why_unusable
from stream_ann.training.memory import MemorySplit, PixelStore
from stream_ann.training.streaming import StreamedSplit
from tests.datasets import image_folder, noise, picture, train_val_folder

CPU = torch.device("cpu")
VARIED = Augment(flip=0.5, crop_scale=(0.3, 1.0))
TINY = 1000
"""A memory limit under which everything is streamed."""


def train(split: Split, epoch: int = 0, **options: Any) -> list[Batch]:
    given: dict[str, Any] = {
        "batch_size": 4,
        "resolution_px": 16,
        "seed": 0,
        "device": CPU,
        "augment": VARIED,
        **options,
    }
    return list(split.train_batches(epoch, **given))


def evaluate(split: Split, **options: Any) -> list[Batch]:
    given: dict[str, Any] = {"batch_size": 4, "resolution_px": 16, "device": CPU, "crop": 1.0, **options}
    return list(split.eval_batches(**given))


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, n), getattr(other, n)) for n in ("images", "labels", "indices"))


@pytest.fixture(params=["memory", "streamed"])
def opened(request, tmp_path):
    """A set of three classes and unequal images, once in memory, once streamed."""
    train_val_folder(tmp_path / "set", {"a": 5, "b": 6, "c": 7}, {"a": 2, "b": 2, "c": 3})
    found = open_data(tmp_path / "set", memory_limit=TINY if request.param == "streamed" else None, workers=0)
    assert isinstance(found.train, StreamedSplit if request.param == "streamed" else MemorySplit)
    return found


def test_folder_with_train_and_val(opened):
    assert opened.name == "set"
    assert opened.classes == ("a", "b", "c")
    assert opened.skipped == ()
    assert opened.resolution_px == 0
    assert opened.train.labels.tolist() == [0] * 5 + [1] * 6 + [2] * 7
    assert opened.val.labels.tolist() == [0] * 2 + [1] * 2 + [2] * 3
    assert len(opened.train) == 18


def test_train_batches_have_the_shapes_and_labels_they_should(opened):
    batches = train(opened.train)
    assert len(batches) == 4  # the last, incomplete one is dropped
    for batch in batches:
        assert batch.images.shape == (4, 3, 16, 16)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.dtype == batch.indices.dtype == torch.int64
        assert torch.equal(batch.labels, opened.train.labels[batch.indices])
        for image, label, index in zip(batch.images, batch.labels.tolist(), batch.indices.tolist(), strict=True):
            number = index - [0, 5, 11][label]
            want = torch.from_numpy(picture(label, number)[0, 0])
            assert (image.float().mean((1, 2)) - want).abs().max() <= 1


def test_an_epoch_can_be_taken_up_at_any_batch(opened):
    whole = train(opened.train, epoch=3)
    for start in (1, 3):
        rest = train(opened.train, epoch=3, start_batch=start)
        assert len(rest) == len(whole) - start
        assert all(same(one, other) for one, other in zip(rest, whole[start:], strict=True))
    assert train(opened.train, start_batch=4) == []
    assert not same(train(opened.train, epoch=4)[0], whole[0])
    assert not same(train(opened.train, epoch=3, seed=1)[0], whole[0])


def test_processes_share_the_batches_of_one(opened):
    whole = train(opened.train)
    parts = [train(opened.train, rank=rank, world=2) for rank in range(2)]
    for joint, *shares in zip(whole, *parts, strict=True):
        for rank, share in enumerate(shares):
            assert torch.equal(share.images, joint.images[rank::2])
            assert torch.equal(share.indices, joint.indices[rank::2])


def test_streamed_and_kept_images_give_the_same_batches(tmp_path):
    for number in range(6):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        Image.fromarray(noise(number, 40 + number, 60)).save(tmp_path / "ab"[number % 2] / f"{number}.png")
    kept, streamed = (open_data(tmp_path, val_fraction=0.4, memory_limit=m, workers=0) for m in (None, TINY))
    for augment in (VARIED, Augment(crop_padding_px=2, flip=0.5)):
        for one, other in zip(train(kept.train, augment=augment), train(streamed.train, augment=augment), strict=True):
            assert same(one, other)
    for one, other in zip(evaluate(kept.val, crop=0.8), evaluate(streamed.val, crop=0.8), strict=True):
        assert same(one, other)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_worker_processes_give_the_same_batches(tmp_path):
    image_folder(tmp_path, {"a": 12, "b": 12})
    alone, helped = (open_data(tmp_path, memory_limit=TINY, workers=workers) for workers in (0, 2))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    pairs = zip(train(alone.train), train(helped.train), strict=True)
    assert all(same(one, other) for one, other in pairs)
    assert torch.equal(torch.get_rng_state(), state)  # what the network draws is not disturbed
    unfinished = helped.train.train_batches(0, batch_size=4, resolution_px=16, seed=0, device=CPU, augment=VARIED)
    next(unfinished)
    del unfinished  # its processes end with it


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_evaluation_sees_what_a_live_frame_would_become(opened, interpolation):
    batches = evaluate(opened.val, crop=0.7, interpolation=interpolation)
    assert [len(b.indices) for b in batches] == [4, 3]
    assert torch.cat([b.indices for b in batches]).tolist() == list(range(7))
    assert torch.equal(torch.cat([b.labels for b in batches]), opened.val.labels)
    pixels = noise(3, 50, 70)
    split = MemorySplit(PixelStore.of_list([pixels, noise(4, 30, 30)]), torch.tensor([0, 1]), ("a", "b"))
    batch = evaluate(split, crop=0.7, interpolation=interpolation)[0]
    neutral = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), crop=0.7, interpolation=interpolation)
    live = preprocess(pixels, 16, neutral)[0] * 255
    assert torch.equal(batch.images[0], live.round().to(torch.uint8))


def test_images_of_one_size_come_out_untouched():
    images = torch.from_numpy(np.stack([noise(i, 16, 16) for i in range(8)]))
    split = MemorySplit(PixelStore.of_batch(images), torch.arange(8) % 2, ("a", "b"))
    assert torch.equal(evaluate(split)[1].images.permute(0, 2, 3, 1), images[4:])
    for _ in range(2):  # augmentation works on copies
        for batch in train(split, augment=Augment(flip=1.0)):
            assert torch.equal(batch.images.permute(0, 2, 3, 1).flip(2), images[batch.indices])


def test_a_subset_numbers_its_images_anew(opened):
    subset = opened.train.subset([17, 0, 6])
    assert subset.labels.tolist() == [2, 0, 1]
    batch = evaluate(subset)[0]
    assert batch.indices.tolist() == [0, 1, 2]
    assert batch.labels.tolist() == [2, 0, 1]
    whole = torch.cat([b.images for b in evaluate(opened.train)])
    assert torch.equal(batch.images, whole[[17, 0, 6]])
    inner = subset.subset(torch.tensor([2]))
    assert inner.labels.tolist() == [1]
    assert torch.equal(evaluate(inner)[0].images[0], whole[6])


def test_one_folder_is_parted_alike_for_every_class(tmp_path):
    image_folder(tmp_path, {"a": 10, "b": 20, "c": 3})
    found = open_data(tmp_path, val_fraction=0.2, seed=5)
    assert found.val.labels.tolist() == [0] * 2 + [1] * 4 + [2]
    assert len(found.train) == 26
    again, other = (open_data(tmp_path, val_fraction=0.2, seed=seed) for seed in (5, 6))
    pixels = [torch.cat([b.images for b in evaluate(d.val)]) for d in (found, again, other)]
    assert torch.equal(pixels[0], pixels[1])
    assert not torch.equal(pixels[0], pixels[2])


def test_train_alone_is_parted_and_a_class_may_be_called_train(tmp_path):
    image_folder(tmp_path / "one" / "train", {"a": 4, "b": 4})
    assert open_data(tmp_path / "one").classes == ("a", "b")
    image_folder(tmp_path / "two", {"train": 4, "test": 4})
    assert open_data(tmp_path / "two").classes == ("test", "train")


def test_other_names_for_val_and_files_that_are_no_images(tmp_path):
    image_folder(tmp_path / "train", {"a": 2, "b": 2})
    image_folder(tmp_path / "valid", {"a": 1, "b": 1})
    image_folder(tmp_path / "test", {"a": 3, "b": 3})
    (tmp_path / "train" / "a" / "notes.txt").write_text("x")
    (tmp_path / "train" / "a" / "._0000.png").write_text("x")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "b" / "deeper").mkdir()
    Image.fromarray(noise(0, 20, 20)).save(tmp_path / "train" / "b" / "deeper" / "x.JPG")
    found = open_data(tmp_path)
    assert (len(found.train), len(found.val)) == (5, 2)
    assert found.skipped == ()


def test_chosen_classes_keep_their_order_and_limits_hold(tmp_path):
    train_val_folder(tmp_path, {"a": 5, "b": 6, "c": 7}, {"a": 2, "b": 2, "c": 3})
    found = open_data(tmp_path, classes=["c", "a"], limit_per_class=2)
    assert found.classes == ("c", "a")
    assert found.train.labels.tolist() == [0, 0, 1, 1]
    colour = evaluate(found.train)[0].images[0].float().mean((1, 2))
    hue = torch.from_numpy(picture(2, 0)[0, 0]).float()
    assert torch.nn.functional.cosine_similarity(colour, hue, dim=0) > 0.999


def test_damaged_images_are_named_and_left_out(tmp_path):
    image_folder(tmp_path / "train", {"a": 4, "b": 4}, suffix=".jpg")
    image_folder(tmp_path / "val", {"a": 2, "b": 2})
    whole = (tmp_path / "train" / "a" / "0000.jpg").read_bytes()
    (tmp_path / "train" / "a" / "0001.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "train" / "b" / "0002.jpg").write_bytes(b"not an image")
    (tmp_path / "val" / "b" / "0001.png").write_bytes(b"")
    for limit in (None, TINY):
        found = open_data(tmp_path, memory_limit=limit, workers=0)
        assert [s.split(": ")[0] for s in found.skipped] == ["train/a/0001.jpg", "train/b/0002.jpg", "val/b/0001.png"]
        assert "truncated" in found.skipped[0].lower()
        assert "not an image" in found.skipped[1]
        assert found.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert found.val.labels.tolist() == [0, 0, 1]


def test_nothing_that_decodes_is_an_error(tmp_path):
    image_folder(tmp_path, {"a": 3, "b": 3})
    for number in range(3):
        (tmp_path / "b" / f"{number:04d}.png").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"no file of class 'b' decodes, e.g. b/0000.png: not an image"):
        open_data(tmp_path)
    for number in range(3):
        (tmp_path / "a" / f"{number:04d}.png").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"none of 6 files in '.*' decodes, e.g. a/0000.png: not an image"):
        open_data(tmp_path)


def test_damage_found_while_streaming_is_noted_and_worked_around(tmp_path):
    train_val_folder(tmp_path, {"a": 8, "b": 8}, {"a": 2, "b": 2})
    found = open_data(tmp_path, memory_limit=TINY, workers=0)
    assert found.skipped == ()
    for part in ("train", "val"):
        (tmp_path / part / "a" / "0001.png").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"left out an image that does not decode: .*0001.png"):
        batches = train(found.train)
    assert all(len(b.images) == 4 for b in batches)
    indices = torch.cat([b.indices for b in batches]).tolist()
    assert 1 not in indices
    assert indices.count(2) == 2  # its neighbour stands in for it
    assert isinstance(found.train, StreamedSplit)
    assert len(found.train.damaged) == 1
    with pytest.warns(UserWarning, match="left out an image"):
        assert torch.cat([b.indices for b in evaluate(found.val)]).tolist() == [0, 2, 3]


@pytest.mark.parametrize(
    ("train_counts", "val_counts", "says"),
    [
        ({}, {"a": 1}, "train' is empty; give a folder that holds one folder of images per class"),
        ({"a": 2}, {"a": 2}, "has one class only, 'a'; training needs two classes or more"),
        ({"a": 2, "b": 2}, {"a": 2}, "val' lacks class 'b'; give every class images to evaluate on"),
        ({"a": 2, "b": 2}, {"a": 2, "b": 2, "z": 1}, "val' has class 'z', which train lacks"),
        ({"a": 2, "b": 0}, {"a": 2, "b": 2}, "train' has nothing in class 'b'; add images, or remove the folder"),
        ({"a": 2, "b": 2}, {"a": 2, "b": 0}, "val' has nothing in class 'b'"),
        ({"a": 0, "b": 0}, {"a": 2, "b": 2}, "no class folder of '.*train' holds images or clips"),
    ],
)
def test_folders_that_cannot_be_trained_on_are_refused(tmp_path, train_counts, val_counts, says):
    train_val_folder(tmp_path, train_counts, val_counts)
    tmp_path.joinpath("train").mkdir(exist_ok=True)
    with pytest.raises(SourceError, match=says):
        open_data(tmp_path)


def test_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(SourceNotFoundError, match=r"no folder 'cifar11', nor a data set .*did you mean 'cifar10'\?"):
        open_data("cifar11")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UnsupportedSourceError, match=r"'.*file' is a file"):
        open_data(tmp_path / "file")


def test_val_without_classes_is_refused(tmp_path):
    image_folder(tmp_path / "train", {"a": 2, "b": 2})
    (tmp_path / "val").mkdir()
    with pytest.raises(SourceError, match="val' has no class folders; fill it, or remove it"):
        open_data(tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"classes": ["a", "bb"]}, r"has no class 'bb'; (did you mean|known: )"),
        ({"classes": ["a", "a"]}, "a class is named twice: a, a"),
        ({"classes": ["a"]}, "training needs two classes or more, got a"),
        ({"limit_per_class": 0}, "the limit per class must be 1 or more, got 0"),
        ({"val_fraction": 1.0}, "the fraction held out must be over 0 and under 1, got 1.0"),
        ({"short_side_px": 0}, "short_side_px must be 1 or more, got 0"),
        ({"frames_per_clip": 0}, "frames_per_clip must be 1 or more, got 0"),
        ({"workers": -1}, "workers must be 0 or more, got -1"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, options, says):
    image_folder(tmp_path, {"a": 2, "b": 2})
    with pytest.raises(UsageError, match=says):
        open_data(tmp_path, **options)


def test_a_class_of_one_image_cannot_be_parted(tmp_path):
    image_folder(tmp_path, {"a": 4, "b": 1})
    with pytest.raises(SourceError, match="class 'b' has one image only, so that none can be held out"):
        open_data(tmp_path)


def test_fewer_images_than_a_batch_are_refused_before_the_first(opened):
    with pytest.raises(
        UsageError, match="there are 18 images to train on, fewer than a batch of 19; use a batch size of"
    ):
        opened.train.train_batches(0, batch_size=19, resolution_px=16, seed=0, device=CPU, augment=VARIED)


def test_holdout_keeps_groups_whole_and_classes_in_proportion():
    labels = torch.tensor([0] * 12 + [1] * 24)
    groups = torch.arange(36) // 3 * 7  # numbers need not be dense
    split = MemorySplit(PixelStore.of_batch(torch.zeros(36, 4, 4, 3, dtype=torch.uint8)), labels, "ab", groups=groups)
    rest, held = holdout(split, 0.25, 1)
    assert not set(rest.groups.tolist()) & set(held.groups.tolist())
    assert held.labels.tolist() == [0] * 3 + [1] * 6
    assert len(rest) + len(held) == 36
    assert torch.equal(holdout(split, 0.25, 1)[1].groups, held.groups)
    assert len({tuple(holdout(split, 0.25, seed)[1].groups.tolist()) for seed in range(8)}) > 1


def test_holdout_leaves_single_images_and_refuses_when_nothing_is_left():
    def made(labels: torch.Tensor) -> MemorySplit:
        return MemorySplit(PixelStore.of_batch(torch.zeros(len(labels), 4, 4, 3, dtype=torch.uint8)), labels, "abc")

    rest, held = holdout(made(torch.tensor([0, 1, 1, 2, 2])), 0.5, 0)
    assert rest.labels.tolist() == [0, 1, 2]
    assert held.labels.tolist() == [1, 2]
    with pytest.raises(UsageError, match="no class has two images or clips"):
        holdout(made(torch.tensor([0, 1, 2])), 0.5, 0)
    with pytest.raises(UsageError, match=r"over 0 and under 1, got 0"):
        holdout(made(torch.tensor([0, 0])), 0, 0)


def test_synthetic_images_can_be_told_apart():
    found = synthetic(4, 200, 16, 0)
    assert isinstance(found, Data)
    assert found.resolution_px == 16
    assert (len(found.train), len(found.val)) == (200, 50)
    assert torch.bincount(found.train.labels).tolist() == [50] * 4

    def features(split: Split) -> torch.Tensor:
        batches = evaluate(split, batch_size=256)
        pixels = torch.cat([b.images for b in batches]).float()
        steps = torch.stack([pixels.diff(dim=2).abs().mean((1, 2, 3)), pixels.diff(dim=3).abs().mean((1, 2, 3))], 1)
        colours = pixels.mean((2, 3))
        return torch.cat([colours / colours.sum(1, keepdim=True) * 100, steps], 1)

    known, asked = features(found.train), features(found.val)
    nearest = found.train.labels[torch.cdist(asked, known).argmin(1)]
    assert (nearest == found.val.labels).float().mean() > 0.8
    again = synthetic(4, 200, 16, 0)
    assert same(evaluate(again.val)[0], evaluate(found.val)[0])
    assert not same(evaluate(synthetic(4, 200, 16, 1).val)[0], evaluate(found.val)[0])


@pytest.mark.parametrize(
    ("classes", "images", "side", "says"),
    [
        (1, 10, 16, "two classes or more, got 1"),
        (4, 3, 16, "too few for 4"),
        (2, 10, 3, "4 pixels wide or more, got 3"),
    ],
)
def test_synthetic_refuses_what_makes_no_sense(classes, images, side, says):
    with pytest.raises(UsageError, match=says):
        synthetic(classes, images, side, 0)


def encoded(tmp_path: Path, pixels: NDArray[np.uint8], mode: str, suffix: str) -> Path:
    path = tmp_path / f"image{suffix}"
    Image.fromarray(pixels).convert(mode).save(path)
    return path


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", ".png"), ("P", ".png"), ("RGBA", ".png"), ("CMYK", ".jpg"), ("L", ".jpg"), ("1", ".png"), ("RGB", ".webp")],
)
def test_every_kind_of_pixel_becomes_rgb(tmp_path, mode, suffix):
    pixels = np.full((20, 30, 3), 200, np.uint8)
    loaded = load_image(encoded(tmp_path, pixels, mode, suffix), 100)
    assert isinstance(loaded, np.ndarray)
    assert loaded.shape == (20, 30, 3)
    assert loaded.dtype == np.uint8
    if mode not in ("1", "P"):  # whose few colours are dithered
        assert np.abs(loaded.astype(int) - 200).max() <= 3


def test_sixteen_bits_and_transparent_palettes(tmp_path):
    deep = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    for name in ("deep.png", "deep.tif"):
        loaded = load_image(tmp_path / name, 100)
        assert isinstance(loaded, np.ndarray)
        assert np.array_equal(loaded[..., 1], deep >> 8)
    palette = Image.fromarray(noise(0, 20, 20)).quantize(8)
    palette.save(tmp_path / "clear.png", transparency=bytes(range(8)))
    assert isinstance(load_image(tmp_path / "clear.png", 100), np.ndarray)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    assert load_image(tmp_path / "float.tif", 100) == "floating-point pixels have no range that is known"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path, orientation):
    from PIL import ImageOps

    image = Image.fromarray(noise(1, 20, 30))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as stored:
        want = np.array(ImageOps.exif_transpose(stored))
    assert np.array_equal(load_image(tmp_path / "x.png", 100), want)
    assert want.shape[:2] == ((30, 20) if orientation > 4 else (20, 30))


def test_large_photographs_are_reduced_to_the_size_kept(tmp_path):
    pixels = noise(2, 600, 900)
    Image.fromarray(pixels).save(tmp_path / "x.jpg", quality=95)
    loaded = load_image(tmp_path / "x.jpg", 100)
    assert isinstance(loaded, np.ndarray)
    assert loaded.shape == (100, 150, 3)
    want = np.array(Image.fromarray(pixels).resize((150, 100), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(loaded - want).mean() < 1
    assert shrink(pixels, 700) is pixels


def test_files_are_judged_by_header_and_end(tmp_path):
    Image.fromarray(noise(0, 64, 64)).save(tmp_path / "x.jpg")
    whole = (tmp_path / "x.jpg").read_bytes()
    assert why_unusable(tmp_path / "x.jpg") == ""
    (tmp_path / "padded.jpg").write_bytes(whole + b"\0" * 8000)  # some cameras do
    assert why_unusable(tmp_path / "padded.jpg") == ""
    (tmp_path / "cut.jpg").write_bytes(whole[:-100])
    assert "truncated" in why_unusable(tmp_path / "cut.jpg").lower()
    Image.fromarray(noise(0, 64, 64)).save(tmp_path / "x.bmp")
    (tmp_path / "cut.bmp").write_bytes((tmp_path / "x.bmp").read_bytes()[:-100])
    assert why_unusable(tmp_path / "x.bmp") == ""
    assert "truncated" in why_unusable(tmp_path / "cut.bmp").lower()
    assert why_unusable(tmp_path / "gone.jpg") == "No such file or directory"


def test_threads_do_all_items_tell_progress_and_end_early():
    found, told = {}, []
    assert in_threads(lambda x: x * x, range(50), lambda n, r: found.update({n: r}) is None, lambda *p: told.append(p))
    assert found == {n: n * n for n in range(50)}
    assert told[-1] == (50, 50)
    taken: list[int] = []

    def until_ten(number: int, result: int) -> bool:
        taken.append(number)
        return len(taken) < 10

    assert not in_threads(lambda x: x, range(5000), until_ten, None)
    assert len(taken) == 10


def test_images_beyond_the_limit_are_streamed_although_headers_promised_less(tmp_path, monkeypatch):
    image_folder(tmp_path, {"a": 6, "b": 6})
    monkeypatch.setattr("stream_ann.training.loading._stored_bytes", lambda path, short: 1)
    assert isinstance(open_data(tmp_path, memory_limit=12_000, workers=0).train, StreamedSplit)
    assert isinstance(open_data(tmp_path, workers=0).train, MemorySplit)


def test_the_memory_limit_is_two_gigabytes_or_less():
    assert 0 < data_module.memory_limit_bytes() <= 2 * 2**30


def test_few_workers_where_shared_memory_is_short(monkeypatch, tmp_path):
    from stream_ann.training import streaming

    class Usage:
        free = 64 << 20

    monkeypatch.setattr(streaming, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage)
    assert streaming._workers(8, 19 << 20) == 1
    assert streaming._workers(8, 1 << 20) == 8
    assert streaming._workers(0, 1 << 20) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_the_gpu_are_those_of_the_cpu(opened):
    gpu = torch.device("cuda", 0)
    work = torch.randn(4096, 4096, device=gpu)
    for _ in range(50):  # the batches are queued behind it, and none is looked at before the last is
        work = torch.tanh(work @ work)
    queued = list(train(opened.train, device=gpu))
    for one, other in zip(train(opened.train), queued, strict=True):
        assert other.images.device == gpu
        assert torch.equal(one.labels, other.labels.cpu())
        assert (one.images.int() - other.images.cpu().int()).abs().max() <= 2
    for one, other in zip(evaluate(opened.val, crop=0.8), evaluate(opened.val, crop=0.8, device=gpu), strict=True):
        assert (one.images.int() - other.images.cpu().int()).abs().max() <= 2
