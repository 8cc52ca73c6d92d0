"""Small real files of every kind, made here, for damage to begin with."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from tests.videos import encode, numbered

__all__ = ["clip", "images", "kept", "packet_places", "videos"]

_SIZE_PX = (64, 48)
_FRAMES = 6
_X264 = {"preset": "ultrafast", "g": "3"}
_VIDEOS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("h264.mp4", "libx264", "yuv420p", {"g": "3"}),
    ("h264.mkv", "libx264", "yuv420p", _X264),
    ("h264.ts", "libx264", "yuv420p", _X264),
    ("h264.flv", "libx264", "yuv420p", _X264),
    ("h264.h264", "libx264", "yuv420p", _X264),
    ("ten.mp4", "libx264", "yuv420p10le", _X264),
    ("hevc.mp4", "libx265", "yuv420p", {"preset": "ultrafast", "x265-params": "log-level=none:pools=none"}),
    ("vp8.webm", "libvpx", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}),
    ("vp9.webm", "libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}),
    ("mpeg2.ts", "mpeg2video", "yuv420p", {}),
    ("mpeg2.mpg", "mpeg2video", "yuv420p", {}),
    ("mpeg4.avi", "mpeg4", "yuv420p", {}),
    ("mjpeg.avi", "mjpeg", "yuvj420p", {}),
    ("msmpeg4.avi", "msmpeg4v2", "yuv420p", {}),
    ("huffyuv.avi", "huffyuv", "yuv422p", {}),
    ("wmv2.asf", "wmv2", "yuv420p", {}),
    ("prores.mov", "prores_ks", "yuv422p10le", {}),
    ("qtrle.mov", "qtrle", "rgb24", {}),
    ("png.mov", "png", "rgb24", {}),
    ("ffv1.mkv", "ffv1", "yuv420p", {}),
    ("sorenson.flv", "flv", "yuv420p", {}),
    ("anim.gif", "gif", "rgb8", {}),
)
_IMAGES: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("rgb.jpg", "JPEG", "RGB", {}),
    ("progressive.jpg", "JPEG", "RGB", {"progressive": True}),
    ("grey.jpg", "JPEG", "L", {}),
    ("cmyk.jpg", "JPEG", "CMYK", {}),
    ("rgb.png", "PNG", "RGB", {}),
    ("palette.png", "PNG", "P", {"transparency": 3}),
    ("alpha.png", "PNG", "RGBA", {}),
    ("bits.png", "PNG", "1", {}),
    ("sixteen.png", "PNG", "I;16", {}),
    ("lossy.webp", "WEBP", "RGB", {}),
    ("lossless.webp", "WEBP", "RGBA", {"lossless": True}),
    ("palette.gif", "GIF", "P", {}),
    ("rgb.bmp", "BMP", "RGB", {}),
    ("palette.bmp", "BMP", "P", {}),
    ("raw.tiff", "TIFF", "RGB", {}),
    ("lzw.tiff", "TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("jpeg.tiff", "TIFF", "RGB", {"compression": "jpeg"}),
    ("deflate.tiff", "TIFF", "L", {"compression": "tiff_adobe_deflate"}),
    ("float.tiff", "TIFF", "F", {}),
    ("rgb.jp2", "JPEG2000", "RGB", {}),
    ("rgb.tga", "TGA", "RGB", {"compression": "tga_rle"}),
    ("rgb.ppm", "PPM", "RGB", {}),
    ("rgb.avif", "AVIF", "RGB", {}),
)


def kept(folder: Path, name: str, make: Callable[[Path], object]) -> bytes:
    """A file of the corpus, made where it is not there yet."""
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"unfinished-{name}"
        make(unfinished)
        unfinished.rename(path)
    return path.read_bytes()


def clip(folder: Path) -> bytes:
    """One of the videos, of a second and a half."""
    return kept(folder, "clip.avi", lambda path: encode(path, numbered(_FRAMES, _SIZE_PX), codec="mpeg4", fps=4))


def videos(folder: Path) -> dict[str, bytes]:
    """Videos of six small frames by name, of every container and codec that is met."""

    def make(codec: str, pix_fmt: str, options: dict[str, str]) -> Callable[[Path], object]:
        return lambda path: encode(path, numbered(_FRAMES, _SIZE_PX), codec=codec, pix_fmt=pix_fmt, options=options)

    found = {name: kept(folder, name, make(codec, *others)) for name, codec, *others in _VIDEOS}  # type: ignore[arg-type]
    found["fragments.mp4"] = kept(
        folder,
        "fragments.mp4",
        lambda path: encode(
            path,
            numbered(_FRAMES, _SIZE_PX),
            options=_X264,
            container_options={"movflags": "frag_keyframe+empty_moov"},
        ),
    )
    return found


def packet_places(folder: Path) -> dict[str, list[tuple[int, int]]]:
    """Where the packets are in the videos of the corpus: position and size, in bytes."""

    def make(path: Path) -> None:
        found = {}
        for name in videos(folder):
            with av.open(str(folder / name)) as container:
                packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size and p.pos is not None]
            found[name] = [place for place in packets if place[0] >= 0]
        path.write_text(json.dumps(found))

    places: dict[str, list[tuple[int, int]]] = json.loads(kept(folder, "places.json", make))
    return {name: [(start, size) for start, size in found] for name, found in places.items() if found}


def images(folder: Path) -> dict[str, bytes]:
    """Images by name, of every format and mode that is met."""
    picture = numbered(1, (40, 24))[0]

    def make(form: str, mode: str, options: dict[str, Any]) -> Callable[[Path], object]:
        def write(path: Path) -> None:
            if mode in ("I;16", "F"):
                values = picture[..., 0].astype(np.uint16 if mode == "I;16" else np.float32) * 200
                image = Image.fromarray(values)
            else:
                image = Image.fromarray(picture).convert(mode)
            exif = Image.Exif()
            exif[0x0112] = 6  # lies on its side
            file = io.BytesIO()
            image.save(file, form, **options, **({"exif": exif} if form in ("JPEG", "PNG", "WEBP", "AVIF") else {}))
            path.write_bytes(file.getvalue())

        return write

    return {name: kept(folder, name, make(form, *others)) for name, form, *others in _IMAGES}  # type: ignore[arg-type]
