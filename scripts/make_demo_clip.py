"""Make the bundled demo clip and its sidecar from photographs that belong to everyone.

Run from the root of the repository::

    python scripts/make_demo_clip.py

A virtual camera films four photographs that come with scikit-image: it pans, zooms, turns a little and trembles in the
hand, and cuts hard from one to the next, so that the true label changes. The pictures are the same on every run; only
the encoder may differ. Needs scikit-image and a PyAV with libx264.

The photographs and their licences, as stated in the docstrings of ``skimage.data``:

- ``chelsea``: CC0 by the photographer, Stefan van der Walt.
- ``coffee``: CC0 by the photographer, Rachel Michetti; courtesy of Pikolo Espresso Bar.
- ``rocket``: launch photo of DSCOVR on Falcon 9, released into the public domain by SpaceX.
- ``camera``: CC0 by the photographer, Lav Varshney.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

import av  # isort: skip  # after cv2, whose windows hang otherwise

ASSETS = Path(__file__).resolve().parent.parent / "stream_ann" / "assets"
SIZE_PX = (640, 360)
FPS = 25
SEED = 20260801
SHAKE_PX, SHAKE_DEG, SHAKE_ZOOM = 2.2, 0.22, 0.003
"""Standard deviations of the trembling hand, in pixels of the clip, degrees, and parts of the zoom."""


@dataclass(frozen=True)
class Photo:
    """A photograph, who gave it away, and what can be seen in it."""

    author: str
    licence: str
    licence_url: str
    source: str
    labels: dict[int, str]
    """The ImageNet-1k classes that count as right, by number."""


CC0 = ("CC0-1.0", "https://creativecommons.org/publicdomain/zero/1.0/")
PHOTOS = {
    "chelsea": Photo(
        "Stefan van der Walt", *CC0, "skimage.data.chelsea", {281: "tabby", 282: "tiger cat", 285: "Egyptian cat"}
    ),
    "coffee": Photo("Rachel Michetti", *CC0, "skimage.data.coffee", {504: "coffee mug", 967: "espresso", 968: "cup"}),
    "rocket": Photo(
        "SpaceX",
        "public domain",
        "https://www.flickr.com/photos/spacexphotos/16511594820/",
        "skimage.data.rocket",
        {657: "missile", 744: "projectile"},
    ),
    "camera": Photo("Lav Varshney", *CC0, "skimage.data.camera", {759: "reflex camera", 872: "tripod"}),
}


@dataclass(frozen=True)
class View:
    """Where the camera looks: the middle of the view and its width, in parts of the photo's width, and its tilt."""

    x: float
    y: float
    width: float
    tilt_deg: float = 0.0


@dataclass(frozen=True)
class Shot:
    """One take: the camera goes from one view of a photo to another."""

    photo: str
    frames: int
    start: View
    end: View


SHOTS = (
    Shot("chelsea", 40, View(0.50, 0.34, 0.94), View(0.47, 0.30, 0.74, -1.5)),
    Shot("coffee", 38, View(0.43, 0.30, 0.74, -2.0), View(0.50, 0.31, 0.94, 0.5)),
    Shot("rocket", 40, View(0.49, 0.375, 0.60), View(0.51, 0.29, 0.56, 0.8)),
    Shot("camera", 38, View(0.55, 0.54, 0.84, 1.0), View(0.50, 0.41, 0.94, -0.5)),
    Shot("coffee", 34, View(0.46, 0.26, 0.56, 2.0), View(0.48, 0.33, 0.66, -1.0)),
    Shot("chelsea", 36, View(0.60, 0.30, 0.62, 2.0), View(0.42, 0.34, 0.68, -1.0)),
    Shot("rocket", 36, View(0.50, 0.305, 0.40, -1.0), View(0.50, 0.34, 0.80, 0.0)),
    Shot("chelsea", 38, View(0.45, 0.36, 0.80, -1.0), View(0.50, 0.335, 0.95, 0.5)),
)


def eased(part: float) -> float:
    """From 0 to 1 with soft ends, as an arm moves: constant speed in the middle half."""
    ramp = 0.25
    if part < ramp:
        travelled = part**2 / (2 * ramp)
    elif part <= 1 - ramp:
        travelled = part - ramp / 2
    else:
        travelled = 1 - ramp - (1 - part) ** 2 / (2 * ramp)
    return travelled / (1 - ramp)


def trembling(frames: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Smooth noise of unit variance, [frames, 4], from sines between 0.5 and 4 Hz that get weaker with frequency."""
    time_s = np.arange(frames)[:, None, None] / FPS
    hertz = rng.uniform(0.5, 4.0, size=(1, 4, 6))
    waves = np.sin(2 * np.pi * (hertz * time_s + rng.uniform(size=(1, 4, 6)))) / hertz
    return np.asarray(waves.sum(axis=2) / np.sqrt((0.5 / hertz**2).sum(axis=2)))


def load(name: str) -> NDArray[np.uint8]:
    """A photo as uint8 [H, W, 3] RGB, enlarged so that close views are smooth."""
    photo = np.asarray(getattr(skimage.data, name)())
    if photo.ndim == 2:
        photo = np.repeat(photo[..., None], 3, axis=2)
    return np.asarray(cv2.resize(photo, None, fx=3, fy=3, interpolation=cv2.INTER_LANCZOS4), dtype=np.uint8)


def film(photo: NDArray[np.uint8], shot: Shot, rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """The frames of a shot, uint8 [H, W, 3] RGB.

    Raises:
        ValueError: If the camera would look beyond the edge of the photo.
    """
    shake = trembling(shot.frames, rng)
    height, width = photo.shape[:2]
    out_w, out_h = SIZE_PX
    corners = np.array([[0, 0, 1], [out_w, 0, 1], [0, out_h, 1], [out_w, out_h, 1]], dtype=float)
    for i in range(shot.frames):
        part = eased(i / (shot.frames - 1))
        a, b = shot.start, shot.end
        # zooming is even to the eye when the width changes by the same factor in every frame
        view_width = a.width * (b.width / a.width) ** part * (1 + SHAKE_ZOOM * shake[i, 3])
        scale = view_width * width / out_w
        x = (a.x + (b.x - a.x) * part) * width + scale * SHAKE_PX * shake[i, 0]
        y = (a.y + (b.y - a.y) * part) * width + scale * SHAKE_PX * shake[i, 1]
        angle = np.deg2rad(a.tilt_deg + (b.tilt_deg - a.tilt_deg) * part + SHAKE_DEG * shake[i, 2])
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        to_photo = np.array(
            [
                [cos, -sin, x - cos * out_w / 2 + sin * out_h / 2],
                [sin, cos, y - sin * out_w / 2 - cos * out_h / 2],
            ]
        )
        seen = corners @ to_photo.T
        if seen.min() < 0 or (seen > (width - 1, height - 1)).any():
            raise ValueError(f"frame {i} of {shot} looks beyond the photo: {seen.round().tolist()} of {width}x{height}")
        # each pixel of the clip averages as much of the photo as it covers
        softness = max(0.0, (scale - 1) / 2)
        soft = cv2.GaussianBlur(photo, (0, 0), softness) if softness > 0.3 else photo
        frame = cv2.warpAffine(soft, to_photo, SIZE_PX, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
        yield np.asarray(frame, dtype=np.uint8)


def clip() -> Iterator[NDArray[np.uint8]]:
    """All frames of the clip, uint8 [360, 640, 3] RGB."""
    for number, shot in enumerate(SHOTS):
        yield from film(load(shot.photo), shot, np.random.default_rng([SEED, number]))


def sidecar() -> dict[str, Any]:
    """What can be seen in the clip, when, and whose it is."""
    shots = []
    first = 0
    for shot in SHOTS:
        photo = PHOTOS[shot.photo]
        end = first + shot.frames
        shots.append(
            {
                "start_s": first / FPS,
                "end_s": end / FPS,
                "first_frame": first,
                "last_frame": end - 1,
                "photo": shot.photo,
                "author": photo.author,
                "licence": photo.licence,
                "labels": [{"class_id": number, "name": name} for number, name in photo.labels.items()],
            }
        )
        first = end
    return {
        "clip": "demo.mp4",
        "width_px": SIZE_PX[0],
        "height_px": SIZE_PX[1],
        "fps": FPS,
        "frames": first,
        "duration_s": first / FPS,
        "seed": SEED,
        "made_by": "scripts/make_demo_clip.py",
        "photos": {
            name: {"author": p.author, "licence": p.licence, "licence_url": p.licence_url, "source": p.source}
            for name, p in PHOTOS.items()
        },
        "label_set": "ImageNet-1k",
        "shots": shots,
    }


def encode(path: Path) -> None:
    """Write the clip as H.264 in mp4, with its index in front."""
    comment = "; ".join(f"{name}: {photo.licence}, {photo.author}" for name, photo in PHOTOS.items())
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        container.metadata["title"] = "stream_ann demo clip"
        container.metadata["comment"] = comment
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "21", "preset": "veryslow", "tune": "film"})
        stream.width, stream.height = SIZE_PX
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # with several, the bits depend on how they interleave
        for i, picture in enumerate(clip()):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def main() -> None:
    """Write ``demo.mp4`` and ``demo.json``."""
    parser = argparse.ArgumentParser(description="Make the demo clip and its sidecar.")
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder to write to (default: %(default)s)")
    out: Path = parser.parse_args().out
    encode(out / "demo.mp4")
    (out / "demo.json").write_text(json.dumps(sidecar(), indent=2) + "\n", encoding="utf-8")
    size = (out / "demo.mp4").stat().st_size
    print(f"{out / 'demo.mp4'}: {sum(s.frames for s in SHOTS)} frames, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
