"""A virtual camera that films photographs: it pans and zooms between two views and trembles in the hand."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Shot", "film_photograph"]

ZOOM = (0.86, 1.0)
"""Height of the view in parts of the photograph's shorter side."""
PAN = 0.06
"""How far the view's middle may be from the photograph's, in parts of its shorter side."""
TILT_DEG = 3.0
SHAKE_PX, SHAKE_DEG = 1.5, 0.2
"""Standard deviations of the trembling hand, in pixels of the picture and degrees."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One take: how the camera goes over a photograph. Made from a seed, so that it is the same every time."""

    seed: tuple[int, ...]
    """What its random choices follow from."""
    pictures: int
    """How many pictures it is made of."""

    def views(self) -> NDArray[np.float64]:
        """Middle (x, y, off the photograph's), height, both in parts of its shorter side, and tilt; float64 [P, 4]."""
        random = np.random.default_rng(self.seed)
        ends = np.empty((2, 4))
        ends[:, :2] = random.uniform(-PAN, PAN, (2, 2))
        ends[:, 2] = random.uniform(*ZOOM, 2)
        ends[:, 3] = random.uniform(-TILT_DEG, TILT_DEG, 2)
        part = np.linspace(0, 1, self.pictures)[:, None] if self.pictures > 1 else np.full((1, 1), 0.5)
        eased = part * part * (3 - 2 * part)  # an arm starts and stops softly
        return np.asarray(ends[0] + (ends[1] - ends[0]) * eased)


def film_photograph(
    photograph: NDArray[np.uint8], shot: Shot, picture: int, size_px: tuple[int, int]
) -> NDArray[np.uint8]:
    """One picture of a shot.

    Args:
        photograph: uint8 [H, W, 3] RGB. Where the camera looks beyond its edge, it is mirrored.
        shot: The shot.
        picture: Which picture of it, from 0.
        size_px: Width and height of the picture.

    Returns:
        uint8 [height, width, 3] RGB.
    """
    width, height = size_px
    x, y, view, tilt_deg = shot.views()[picture]
    shake = np.random.default_rng([*shot.seed, picture]).normal(size=3)
    side = min(photograph.shape[:2])
    scale = view * side / height  # pixels of the photograph to a pixel of the picture
    angle = np.deg2rad(tilt_deg + SHAKE_DEG * shake[2])
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    centre_x = photograph.shape[1] / 2 + x * side + scale * SHAKE_PX * shake[0]
    centre_y = photograph.shape[0] / 2 + y * side + scale * SHAKE_PX * shake[1]
    to_photograph = np.array(
        [
            [cos, -sin, centre_x - cos * width / 2 + sin * height / 2],
            [sin, cos, centre_y - sin * width / 2 - cos * height / 2],
        ]
    )
    softness = max(0.0, (scale - 1) / 2)  # each pixel averages as much of the photograph as it covers
    source = cv2.GaussianBlur(photograph, (0, 0), softness) if softness > 0.3 else photograph
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    filmed = cv2.warpAffine(source, to_photograph, size_px, flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(filmed, dtype=np.uint8)
