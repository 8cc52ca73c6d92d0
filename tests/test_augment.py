"""Augmentation: every image by itself, whole batches at once, and the same whenever and wherever it is asked for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as V

from stream_ann.errors import UsageError
from stream_ann.training.augment import Augment, centre_boxes, default_augment, mix, random_boxes
from stream_ann.training.photometric import OPERATIONS, jitter_colour, trivial_augment
from stream_ann.training.randomness import JointBatch, generator, joint_batches
from stream_ann.training.resample import resample_weights, resize_batch, resize_boxes
from tests.datasets import noise


def a_batch(size: int = 64, *, seed: int = 0, number: int = 0, rank: int = 0, world: int = 1) -> JointBatch:
    return JointBatch(number, size, torch.arange(size)[rank::world], rank, world, seed, 0)


def pictures(count: int, side: int = 24) -> torch.Tensor:
    return torch.from_numpy(np.stack([noise(i, side, side) for i in range(count)]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"flip": 1.5}, "flip must be a probability from 0 to 1, got 1.5"),
        ({"crop_padding_px": -1}, "crop_padding_px must be 0 or more, got -1"),
        ({"crop_scale": (0.5, 0.2)}, "crop_scale must be two rising shares"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale must be two rising shares"),
        ({"crop_ratio": (0.0, 1.0)}, "crop_ratio must be two rising positive numbers"),
        ({"crop_scale": (0.5, 1.0), "crop_padding_px": 4}, "exclude each other"),
        ({"colour": 2.0}, "colour must be from 0 to 1, got 2.0"),
        ({"interpolation": "nearest"}, "invalid interpolation 'nearest', allowed are bicubic, bilinear"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, says):
    with pytest.raises(UsageError, match=says.replace("(", r"\(")):
        Augment(**options)


def test_default_variation_suits_the_kind_of_images():
    assert default_augment(32, 32) == Augment(flip=0.5, crop_padding_px=4)
    assert default_augment(64, 56).crop_padding_px == 7
    assert default_augment(0, 224).crop_scale == (0.35, 1.0)
    assert default_augment(32, 224).crop_scale is not None


def test_no_variation_leaves_images_as_they_are():
    images = pictures(4)
    out = Augment().draw(a_batch(4)).apply(images.clone())
    assert torch.equal(out, images.permute(0, 3, 1, 2))
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_flips_mirror_about_half_of_the_images_and_nothing_else():
    images = pictures(400, 8)
    out = Augment(flip=0.5).draw(a_batch(400)).apply(images.clone()).permute(0, 2, 3, 1)
    same = (out == images).all((1, 2, 3))
    mirrored = (out == images.flip(2)).all((1, 2, 3))
    assert (same | mirrored).all()
    assert 150 < int(mirrored.sum()) < 250


def test_padded_crops_are_what_padding_and_cutting_give():
    images = pictures(300, 8)
    out = Augment(crop_padding_px=2).draw(a_batch(300)).apply(images.clone()).permute(0, 2, 3, 1)
    padded = F.pad(images, (0, 0, 2, 2, 2, 2))
    seen = set()
    for row in range(300):
        places = [
            (y, x) for y in range(5) for x in range(5) if torch.equal(padded[row, y : y + 8, x : x + 8], out[row])
        ]
        assert places, row
        seen.update(places)
    assert len(seen) == 25  # every shift comes up


def test_random_boxes_keep_to_scale_ratio_and_picture():
    drawn = torch.rand(2000, 10, 4, generator=generator("augment", 1), dtype=torch.float64).numpy()
    sizes = np.tile(np.array([[300, 400]]), (2000, 1))
    top, left, height, width = random_boxes(sizes, drawn, (0.3, 0.8), (0.75, 4 / 3)).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 300).all()
    assert (left + width <= 400).all()
    share = height * width / (300 * 400)
    assert 0.295 < share.min() < 0.32
    assert 0.75 < share.max() < 0.805
    assert abs(share.mean() - 0.54) < 0.02  # a little under the middle: the largest boxes fit less often
    ratio = width / height
    assert ratio.min() > 0.74
    assert ratio.max() < 1.345
    assert abs(np.log(ratio).mean()) < 0.03  # alike in both directions
    assert 0.45 < (top / np.maximum(1, 300 - height)).mean() < 0.55


def test_a_picture_that_no_box_fits_gives_its_middle():
    drawn = np.full((1, 10, 4), 0.5)
    box = random_boxes(np.array([[20, 1000]]), drawn, (0.9, 1.0), (0.75, 4 / 3))
    assert box.tolist() == [[0, 486, 20, 27]]


def test_centre_boxes_of_unequal_pictures():
    boxes = centre_boxes(np.array([[100, 60], [40, 40]]), 0.5)
    assert boxes.tolist() == [[35, 15, 30, 30], [10, 10, 20, 20]]


def test_all_processes_together_see_the_batch_of_one():
    images = pictures(32)
    augment = Augment(flip=0.5, crop_padding_px=3, colour=0.4, trivial=True)
    whole = augment.draw(a_batch(32)).apply(images.clone())
    for rank in range(4):
        part = augment.draw(a_batch(32, rank=rank, world=4)).apply(images[rank::4].clone())
        assert torch.equal(part, whole[rank::4])


def test_variation_follows_from_seed_epoch_and_batch_alone():
    images = pictures(32)
    augment = Augment(flip=0.5, crop_padding_px=3)
    first = augment.draw(a_batch(32)).apply(images.clone())
    torch.rand(10)
    assert torch.equal(augment.draw(a_batch(32)).apply(images.clone()), first)
    assert not torch.equal(augment.draw(a_batch(32, seed=1)).apply(images.clone()), first)
    assert not torch.equal(augment.draw(a_batch(32, number=1)).apply(images.clone()), first)


def test_batches_cover_each_image_at_most_once_an_epoch():
    batches = list(joint_batches(50, 0, batch_size=8, seed=3))
    indices = torch.cat([b.indices for b in batches])
    assert len(batches) == 6
    assert len(set(indices.tolist())) == 48
    other = torch.cat([b.indices for b in joint_batches(50, 1, batch_size=8, seed=3)])
    assert not torch.equal(indices, other)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "the batch size must be 1 or more, got 0"),
        (
            {"batch_size": 51},
            "there are 50 images to train on, fewer than a batch of 51; use a batch size of 50 or less",
        ),
        ({"batch_size": 9, "world": 2}, "a batch of 9 cannot be shared evenly by 2 processes"),
        ({"batch_size": 8, "rank": 2, "world": 2}, "the rank must be from 0 to 1, got 2"),
        ({"batch_size": 8, "start_batch": -1}, "the first batch must be 0 or more, got -1"),
        ({"batch_size": 8, "seed": -1}, "a seed must not be negative, got -1"),
    ],
)
def test_batches_that_make_no_sense_are_refused_at_once(options, says):
    with pytest.raises(UsageError, match=says):
        joint_batches(50, 0, **{"seed": 0, **options})


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("length", "out"), [(40, 16), (16, 40), (33, 33), (100, 7)])
def test_resampling_matrices_do_what_torch_does(interpolation, length, out):
    row = torch.rand(1, 1, length, 1, generator=generator("augment", 0)).expand(-1, -1, -1, 4) * 255
    wanted = F.interpolate(row, size=(out, 4), mode=interpolation, antialias=True)[0, 0, :, 0]
    weights = resample_weights(torch.tensor([length, 5]), out, length + 3, interpolation)
    assert weights.sum(-1).allclose(torch.ones(2, out))
    assert (weights[1, :, 5:] == 0).all()
    torch.testing.assert_close(weights[0] @ F.pad(row[0, 0, :, 0], (0, 3)), wanted, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_matrix_path_gives_what_the_cpu_path_gives(interpolation):
    pieces = [torch.from_numpy(noise(i, h, w)) for i, (h, w) in enumerate([(30, 50), (64, 20), (16, 16)])]
    one_by_one = resize_boxes(pieces, 24, interpolation)
    assert one_by_one.shape == (3, 24, 24, 3)
    from stream_ann.training import resample

    canvas = torch.zeros(3, 64, 50, 3, dtype=torch.uint8)
    for row, piece in zip(canvas, pieces, strict=True):
        row[: piece.shape[0], : piece.shape[1]] = piece
    sizes = torch.tensor([piece.shape[:2] for piece in pieces])
    at_once = resample._resize_canvas(canvas, sizes, 24, interpolation)
    assert (at_once.int() - one_by_one.int()).abs().max() <= 2
    together = resize_batch(pieces[0][None].expand(2, -1, -1, -1), 24, interpolation)
    assert torch.equal(together[1], one_by_one[0])


def test_neutral_jitter_changes_nothing_and_factors_are_those_of_each_image():
    images = pictures(3).permute(0, 3, 1, 2)
    assert torch.equal(jitter_colour(images, torch.ones(3, 3)), images)
    factors = torch.tensor([[0.5, 1, 1], [1, 0.5, 1], [1, 1, 0.5]])
    out = jitter_colour(images, factors).int()
    wanted = [
        V.adjust_brightness(images[0], 0.5),
        V.adjust_contrast(images[1], 0.5),
        V.adjust_saturation(images[2], 0.5),
    ]
    for row, want in zip(out, wanted, strict=True):
        assert (row - want.int()).abs().max() <= 1


def reference(name: str, image: torch.Tensor, amount: float, signed: float) -> Any:
    """What torchvision's TrivialAugmentWide does for one operation."""
    turned = signed * 0.99
    zero = [0.0, 0.0]
    match name:
        case "shear-x" | "shear-y":
            degrees = math.degrees(math.atan(turned))
            shear = [degrees, 0.0] if name == "shear-x" else [0.0, degrees]
            return V.affine(image, 0.0, [0, 0], 1.0, shear, center=[0, 0])
        case "translate-x":
            return V.affine(image, 0.0, [int(32 * signed), 0], 1.0, zero)
        case "translate-y":
            return V.affine(image, 0.0, [0, int(32 * signed)], 1.0, zero)
        case "rotate":
            return V.rotate(image, 135 * signed)
        case "brightness":
            return V.adjust_brightness(image, 1 + turned)
        case "colour":
            return V.adjust_saturation(image, 1 + turned)
        case "contrast":
            return V.adjust_contrast(image, 1 + turned)
        case "sharpness":
            return V.adjust_sharpness(image, 1 + turned)
        case "posterize":
            return V.posterize(image, 8 - round(6 * amount))
        case "solarize":
            return V.solarize(image, 255 * (1 - amount))
        case "autocontrast":
            return V.autocontrast(image)
        case "equalize":
            return V.equalize(image)
    return image


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_operations_are_those_of_torchvision(name):
    images = pictures(4, 40).permute(0, 3, 1, 2).contiguous()
    amounts = torch.tensor([[0.0, 0.0], [0.2, 0.2], [0.2, -0.2], [0.9, 0.9]])
    out = OPERATIONS[name](images, amounts)
    for row, image, (amount, signed) in zip(out, images, amounts.tolist(), strict=True):
        want = reference(name, image, amount, signed)
        far = ((row.int() - want.int()).abs() > 1).float().mean()
        # The nearest pixel may be another one where a place falls between two.
        assert far < (0.02 if name in ("shear-x", "shear-y", "rotate") else 1e-6), (name, amount, signed)


def test_trivial_augment_picks_every_operation_and_keeps_the_rest():
    images = pictures(1, 16).permute(0, 3, 1, 2).expand(500, -1, -1, -1).contiguous()
    drawn = torch.rand(500, 3, generator=generator("augment", 5))
    out = trivial_augment(images, drawn)
    assert out.shape == images.shape
    assert out.dtype == torch.uint8
    same = (out == images).all(3).all(2).all(1).float().mean()
    assert 0.05 < same < 0.35  # identity, and operations of strength zero
    assert torch.equal(trivial_augment(images[:7], drawn[:7]), out[:7])  # no image depends on its neighbours


def test_mix_without_either_gives_one_hot_targets():
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 2, 1, 2])
    out, targets = mix(images, labels, 3, mixup=0, cutmix=0, generator=generator("augment", 0))
    assert out is images
    assert torch.equal(targets, torch.eye(3)[labels])


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0), (0, 1.0), (0.4, 1.0)])
def test_mix_blends_images_and_labels_alike(mixup, cutmix):
    labels = torch.arange(8)
    images = torch.eye(8)[:, :3, None, None].expand(8, 3, 16, 16).contiguous()
    state = torch.get_rng_state()
    out, targets = mix(images, labels, 8, mixup=mixup, cutmix=cutmix, generator=generator("augment", 2))
    assert torch.equal(torch.get_rng_state(), state)  # what the network draws is not disturbed
    assert torch.allclose(targets.sum(1), torch.ones(8))
    torch.testing.assert_close(out.mean((2, 3)), targets[:, :3])
    again, _ = mix(images, labels, 8, mixup=mixup, cutmix=cutmix, generator=generator("augment", 2))
    assert torch.equal(out, again)
    other, _ = mix(images, labels, 8, mixup=mixup, cutmix=cutmix, generator=generator("augment", 3))
    assert not torch.equal(out, other)


def test_mix_refuses_negative_parameters():
    with pytest.raises(UsageError, match=r"cutmix must be 0 or more, got -1"):
        mix(torch.rand(2, 3, 4, 4), torch.arange(2), 2, mixup=0, cutmix=-1, generator=generator("augment", 0))
