"""From a picture to a network's input."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from stream_ann import preprocess as module
from stream_ann.preprocess import Preprocessing, centre_square, preprocess

LITE = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
GREY_LEVELS = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))  # leaves 0..255 as they are
RESOLUTIONS_PX = (96, 160, 224, 260)


def photograph(name: str) -> NDArray[np.uint8]:
    image = getattr(data, name)()
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def as_picture(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor[0].permute(1, 2, 0).double().numpy()


def pillow_resized_then_cut(image: NDArray[np.uint8], resolution_px: int) -> NDArray[np.float64]:
    """The classic order: shorter side to resolution / 0.875, then the centre."""
    height, width = image.shape[:2]
    scale = round(resolution_px / 0.875) / min(height, width)
    size = (round(width * scale), round(height * scale))
    whole = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - resolution_px) // 2, (size[1] - resolution_px) // 2
    return np.asarray(whole.crop((left, top, left + resolution_px, top + resolution_px))).astype(float)


class TestAgainstPillow:
    @pytest.mark.parametrize("resolution_px", RESOLUTIONS_PX)
    @pytest.mark.parametrize("name", ["astronaut", "camera", "chelsea", "coffee", "rocket"])
    def test_is_pillow_on_the_same_square_up_to_one_grey_level(self, name, resolution_px):
        image = photograph(name)
        top, left, side = centre_square(image.shape[0], image.shape[1], 0.875)
        square = Image.fromarray(image[top : top + side, left : left + side])
        expected = np.asarray(square.resize((resolution_px, resolution_px), Image.Resampling.BICUBIC)).astype(float)
        ours = as_picture(preprocess(image, resolution_px, GREY_LEVELS))
        assert np.abs(ours - expected).max() <= 1.001

    @pytest.mark.parametrize("name", ["astronaut", "camera", "coffee"])
    def test_is_the_classic_order_where_both_boxes_are_whole(self, name):
        # 224 / 0.875 = 256, whose border of 16 px is whole, as are those of 448 px in 512 and of 350 in 400.
        image = photograph(name)
        difference = np.abs(as_picture(preprocess(image, 224, GREY_LEVELS)) - pillow_resized_then_cut(image, 224))
        assert difference.mean() < 0.03
        assert difference[2:-2, 2:-2].max() <= 1  # at its edge, the classic order still sees what it then cuts off

    @pytest.mark.parametrize("resolution_px", RESOLUTIONS_PX)
    @pytest.mark.parametrize("size", [(512, 512), (300, 451), (360, 640), (1080, 1920), (427, 640)])
    def test_looks_where_the_classic_order_looks_up_to_one_pixel_of_the_result(self, size, resolution_px):
        height, width = size
        top, left, side = centre_square(height, width, 0.875)
        scale = round(resolution_px / 0.875) / min(size)
        classic_top = (round(height * scale) - resolution_px) // 2
        classic_left = (round(width * scale) - resolution_px) // 2
        assert abs(top * scale - classic_top) < 1
        assert abs(left * scale - classic_left) < 1
        assert abs(side * scale - resolution_px) < 1.5

    def test_float_path_of_other_devices_is_the_8_bit_path(self):
        image = photograph("coffee")
        square = torch.from_numpy(image[:350, :350].copy()).permute(2, 0, 1)[None]
        for resolution_px in RESOLUTIONS_PX:
            in_8_bits = module._resize(square, resolution_px, "bicubic").float()
            in_floats = module._resize_float(square.float(), resolution_px, "bicubic")
            assert (in_8_bits - in_floats).abs().mean() < 0.25
            assert in_floats.min() >= 0
            assert in_floats.max() <= 255

    def test_float_path_reduces_huge_pictures_in_two_goes(self):
        rows, columns = torch.meshgrid(torch.linspace(0, 255, 2001), torch.linspace(255, 0, 2001), indexing="ij")
        huge = torch.stack([rows, columns, (rows + columns) / 2])[None]  # reduced by 62, in blocks of 4 and then by 16
        expected = module._resize(huge.round().to(torch.uint8), 32, "bicubic").float()
        reduced = module._resize_float(huge, 32, "bicubic")
        assert reduced.shape == (1, 3, 32, 32)
        assert (reduced - expected).abs().max() <= 2


class TestResult:
    def test_shape_type_and_memory_format(self):
        result = preprocess(photograph("chelsea"), 96, LITE)
        assert result.shape == (1, 3, 96, 96)
        assert result.dtype == torch.float32
        assert result.is_contiguous(memory_format=torch.channels_last)

    def test_values_are_normalised_with_the_mean_and_std_of_each_channel(self):
        image = np.empty((40, 40, 3), dtype=np.uint8)
        image[:] = (0, 102, 255)
        per_channel = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        for preprocessing in (LITE, per_channel):
            result = preprocess(image, 16, preprocessing)
            expected = (np.array([0, 0.4, 1]) - preprocessing.mean) / preprocessing.std
            torch.testing.assert_close(
                result, torch.tensor(expected, dtype=torch.float32)[None, :, None, None].expand(1, 3, 16, 16)
            )

    def test_half_precision_is_rounded_once(self):
        image = photograph("coffee")
        assert torch.equal(preprocess(image, 64, LITE, dtype=torch.float16), preprocess(image, 64, LITE).half())

    def test_a_batch_is_its_pictures_one_by_one(self):
        image = photograph("coffee")
        batch = np.stack([image, image[::-1], image[:, ::-1]])
        together = preprocess(batch, 96, LITE)
        one_by_one = torch.cat([preprocess(picture, 96, LITE) for picture in batch])
        assert together.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(together, one_by_one)

    def test_bilinear_differs_from_bicubic(self):
        image = photograph("coffee")
        smooth = preprocess(image, 96, dataclasses.replace(LITE, interpolation="bilinear"))
        assert not torch.equal(smooth, preprocess(image, 96, LITE))

    @pytest.mark.parametrize("crop", [0.3, 0.5, 1.0])
    def test_crop_is_a_fraction_of_the_shorter_side(self, crop):
        image = np.zeros((100, 300, 3), dtype=np.uint8)
        top, left, side = centre_square(100, 300, crop)
        assert side == round(100 * crop)
        image[top : top + side, left : left + side] = 255
        assert preprocess(image, 32, dataclasses.replace(LITE, crop=crop)).eq(1).all()
        assert preprocess(255 - image, 32, dataclasses.replace(LITE, crop=crop)).eq(-1).all()

    def test_full_crop_of_a_picture_of_the_right_size_is_the_picture(self):
        image = photograph("coffee")[:96, :96]
        result = preprocess(image, 96, dataclasses.replace(GREY_LEVELS, crop=1.0))
        np.testing.assert_allclose(as_picture(result), image, atol=1e-3)


class TestAwkwardPictures:
    @pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3), (7, 5), (95, 97), (3001, 17)])
    def test_small_and_thin_pictures_are_enlarged(self, size):
        image = np.full((*size, 3), 77, dtype=np.uint8)
        result = preprocess(image, 96, GREY_LEVELS)
        assert result.shape == (1, 3, 96, 96)
        assert result.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(result, torch.full_like(result, 77))

    @pytest.mark.parametrize(
        "view",
        [
            lambda image: image[::-1],
            lambda image: image[:, ::-1],
            lambda image: image[..., ::-1],
            lambda image: image[::2, ::3],
            lambda image: np.asfortranarray(image),
            lambda image: image.transpose(1, 0, 2),
        ],
        ids=["upside down", "mirrored", "BGR as RGB", "every other", "Fortran order", "transposed"],
    )
    def test_arrays_of_any_strides(self, view):
        image = view(photograph("coffee"))
        assert torch.equal(preprocess(image, 96, LITE), preprocess(np.ascontiguousarray(image), 96, LITE))

    @pytest.mark.parametrize("crop", [0.875, 1.0])
    def test_read_only_arrays_without_a_warning(self, crop):
        image = photograph("coffee")[:100, :100].copy()
        image.setflags(write=False)
        preprocess(image, 100, dataclasses.replace(LITE, crop=crop))  # a warning is an error in these tests

    @pytest.mark.parametrize("resolution_px", [64, 96])
    def test_neither_array_nor_tensor_is_written_to(self, resolution_px):
        image = photograph("coffee")[:96, :96].copy()
        tensor = torch.from_numpy(image.copy())
        preprocess(image, resolution_px, dataclasses.replace(LITE, crop=1.0))
        assert torch.equal(
            preprocess(tensor, resolution_px, dataclasses.replace(LITE, crop=1.0)),
            preprocess(image, resolution_px, dataclasses.replace(LITE, crop=1.0)),
        )
        assert np.array_equal(tensor.numpy(), image)
        assert np.array_equal(image, photograph("coffee")[:96, :96])

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    @pytest.mark.parametrize("size", [(400, 600), (30, 20), (4320, 7680)])
    def test_cuda_gives_the_picture_of_the_cpu(self, size):
        image = torch.from_numpy(photograph("coffee")).permute(2, 0, 1)[None]
        picture = torch.nn.functional.interpolate(image, size=size, mode="bilinear")[0].permute(1, 2, 0)
        on_cuda = preprocess(picture.cuda(), 96, GREY_LEVELS)
        assert on_cuda.is_cuda
        assert (on_cuda.cpu() - preprocess(picture, 96, GREY_LEVELS)).abs().mean() < 1


class TestBadInput:
    @pytest.mark.parametrize(
        "image",
        [
            np.zeros((8, 8, 3), dtype=np.float32),
            np.zeros((8, 8), dtype=np.uint8),
            np.zeros((8, 8, 4), dtype=np.uint8),
            torch.zeros(8, 8, 3),
            torch.zeros(3, 8, 8, dtype=torch.uint8),
        ],
        ids=["float", "grey", "alpha", "float tensor", "channels first"],
    )
    def test_other_types_and_shapes(self, image):
        with pytest.raises(ValueError, match=r"image must be uint8 \[H, W, 3\] or \[B, H, W, 3\], got"):
            preprocess(image, 96, LITE)

    def test_no_pixels(self):
        with pytest.raises(ValueError, match=r"image has no pixels, its shape is \[0, 8, 3\]"):
            preprocess(np.zeros((0, 8, 3), dtype=np.uint8), 96, LITE)

    def test_resolution(self):
        with pytest.raises(ValueError, match="resolution_px must be positive, got 0"):
            preprocess(np.zeros((8, 8, 3), dtype=np.uint8), 0, LITE)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"mean": (0.5, 0.5)}, r"mean must be three finite numbers, got \(0.5, 0.5\)"),
            ({"std": (0.5, 0.5, float("nan"))}, "std must be three finite numbers"),
            ({"std": (0.5, 0.0, 0.5)}, r"std must be positive, got \(0.5, 0.0, 0.5\)"),
            ({"crop": 0.0}, "crop must be over 0 and at most 1, got 0.0"),
            ({"crop": 1.5}, "crop must be over 0 and at most 1, got 1.5"),
            ({"interpolation": "nearest"}, "invalid interpolation 'nearest', allowed are bicubic, bilinear"),
        ],
    )
    def test_preprocessing(self, change, message):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(LITE, **change)
