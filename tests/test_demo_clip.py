from __future__ import annotations

import importlib.util
import json
import sys
from itertools import islice, pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from stream_ann.ingest import DEMO_CLIP, Picture, source_from

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "make_demo_clip.py"


@pytest.fixture(scope="module")
def sidecar():
    return json.loads(DEMO_CLIP.with_suffix(".json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    source = source_from("demo")
    source.open()
    try:
        return list(iter(source.read, None))
    finally:
        source.close()


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_demo_clip", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_demo_clip"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["make_demo_clip"]


def test_the_clip_is_what_its_sidecar_says(sidecar, pictures: list[Picture]):
    assert (sidecar["width_px"], sidecar["height_px"]) == (640, 360)
    assert {p.image.shape for p in pictures} == {(360, 640, 3)}
    assert len(pictures) == sidecar["frames"]
    assert [p.pts_s for p in pictures] == pytest.approx([i / sidecar["fps"] for i in range(len(pictures))])
    assert sidecar["duration_s"] == pytest.approx(12, abs=0.5)


def test_the_file_is_small_and_plays_from_its_first_bytes_anywhere():
    assert DEMO_CLIP.stat().st_size < 1_500_000
    data = DEMO_CLIP.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(DEMO_CLIP)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")


def test_the_shots_follow_on_one_another(sidecar):
    first = 0
    for shot in sidecar["shots"]:
        assert shot["first_frame"] == first
        assert shot["last_frame"] > first
        assert shot["start_s"] == pytest.approx(first / sidecar["fps"])
        first = shot["last_frame"] + 1
        assert shot["end_s"] == pytest.approx(first / sidecar["fps"])
    assert first == sidecar["frames"]
    assert len(sidecar["shots"]) >= 6


def test_the_cuts_are_where_the_sidecar_says(sidecar, pictures: list[Picture]):
    small = [cv2.resize(p.image, (64, 36), interpolation=cv2.INTER_AREA).astype(int) for p in pictures]
    change = np.array([np.abs(b - a).mean() for a, b in pairwise(small)])
    cuts = sorted(int(i) + 1 for i in np.argsort(change)[-(len(sidecar["shots"]) - 1) :])
    assert cuts == [shot["first_frame"] for shot in sidecar["shots"][1:]]
    within = np.delete(change, [c - 1 for c in cuts])
    assert within.max() < change[[c - 1 for c in cuts]].min() / 3
    # the camera never stands still: a network sees a new picture in every frame
    assert within.min() > 0.05


def test_the_label_changes_with_every_cut_and_is_one_of_imagenet(sidecar):
    names = pytest.importorskip("torchvision.models._meta")._IMAGENET_CATEGORIES
    right = [{label["class_id"] for label in shot["labels"]} for shot in sidecar["shots"]]
    for before, after in pairwise(right):
        assert before
        assert not before & after
    for shot in sidecar["shots"]:
        for label in shot["labels"]:
            assert label["name"] == names[label["class_id"]]


def test_every_photo_has_a_free_licence_and_its_author_is_named(sidecar, script):
    used = {shot["photo"] for shot in sidecar["shots"]}
    assert used == set(sidecar["photos"])
    for name in used:
        photo = sidecar["photos"][name]
        assert photo["licence"] in ("CC0-1.0", "public domain")
        assert photo["licence_url"].startswith("https://")
        assert photo["author"] in script.__doc__
    for shot in sidecar["shots"]:
        photo = sidecar["photos"][shot["photo"]]
        assert (shot["author"], shot["licence"]) == (photo["author"], photo["licence"])
    with av.open(str(DEMO_CLIP)) as container:
        comment = container.metadata["comment"]
    assert all(f"{name}: {photo['licence']}, {photo['author']}" in comment for name, photo in sidecar["photos"].items())


def test_the_script_makes_this_clip(sidecar, script, pictures: list[Picture]):
    assert script.sidecar() == sidecar
    for i, made in enumerate(islice(script.clip(), 0, 60)):
        if i % 15 == 0 or i == 40:
            error = np.mean((made.astype(float) - pictures[i].image) ** 2)
            assert 10 * np.log10(255**2 / error) > 30, f"frame {i} differs"


def test_the_camera_never_looks_beyond_a_photo(script):
    photo = np.zeros((300, 451, 3), dtype=np.uint8)
    shot = script.Shot("chelsea", 3, script.View(0.5, 0.3, 0.9), script.View(0.9, 0.3, 0.9))
    with pytest.raises(ValueError, match=r"frame . of .* looks beyond the photo"):
        list(script.film(photo, shot, np.random.default_rng(0)))
