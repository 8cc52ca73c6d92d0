"""What several files of tests break: small weights, videos and pictures, made once for each file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.tools import two_classes
from tests.labelling import some_videos, tiny_weights
from tests.small_weights import save_small_weights


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return save_small_weights(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    some_videos(folder)
    return folder


@pytest.fixture(scope="module")
def flowers(tmp_path_factory) -> Path:
    return two_classes(tmp_path_factory.mktemp("data") / "flowers")
