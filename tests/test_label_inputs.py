from __future__ import annotations

import io
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.labelling.inputs import Video, find_videos, output_names
from stream_ann.errors import SourceNotFoundError, UnsupportedSourceError, UsageError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a/one.mp4", "a/deep/two.MKV", "b/one.mp4", "b/notes.txt", "b/.hidden.mp4", "drawn/one.mp4"):
        path = tmp_path / "t" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "t"


def found(tree: Path, *inputs: str | Path, **options) -> list[str]:
    return [str(v.path.relative_to(tree)) for v in find_videos(inputs, **options)]


class TestFinding:
    def test_folders_are_searched_with_all_in_them(self, tree):
        assert found(tree, tree) == ["a/deep/two.MKV", "a/one.mp4", "b/one.mp4", "drawn/one.mp4"]
        assert found(tree, tree, apart_from=[tree / "drawn"]) == ["a/deep/two.MKV", "a/one.mp4", "b/one.mp4"]

    def test_globs(self, tree):
        assert found(tree, f"{tree}/*/one.mp4") == ["a/one.mp4", "b/one.mp4", "drawn/one.mp4"]
        assert found(tree, f"{tree}/a/**/*.MKV") == ["a/deep/two.MKV"]
        with pytest.raises(SourceNotFoundError, match="nothing matches"):
            find_videos([f"{tree}/*.avi"])

    def test_each_video_comes_once_however_it_is_named(self, tree, monkeypatch):
        monkeypatch.chdir(tree)
        (tree / "link.mp4").symlink_to(tree / "b" / "one.mp4")
        names = [v.name for v in find_videos(["b/one.mp4", "./b/../b/one.mp4", "link.mp4", Path("a/one.mp4"), "a"])]
        assert names == ["b/one.mp4", "a/one.mp4", "a/deep/two.MKV"]

    def test_lists(self, tree, monkeypatch):
        (tree / "list.txt").write_text("# mine\na/one.mp4\n\nb/missing.mp4\r\n")
        wanted = ["a/one.mp4", "b/missing.mp4"]
        assert found(tree, f"@{tree}/list.txt") == wanted
        assert found(tree, lists=[tree / "list.txt"]) == wanted
        text = b"\0".join(os.fsencode(tree / name) for name in wanted)
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text)))
        assert found(tree, "-") == wanted
        with pytest.raises(SourceNotFoundError, match="there is no list"):
            find_videos(["@nothing.txt"])

    def test_nothing_is_told(self, tree):
        with pytest.raises(SourceNotFoundError, match=r"no file or folder .* check the path"):
            find_videos([tree / "c"])
        for camera in ("0", "rtsp://camera/1", "pattern:64x48@5"):
            with pytest.raises(SourceNotFoundError, match="for a camera: stream-ann live"):
                find_videos([camera])
        (tree / "empty").mkdir()
        with pytest.raises(UnsupportedSourceError, match="no video in the folder"):
            find_videos([tree / "empty"])
        with pytest.raises(UsageError, match="nothing to label"):
            find_videos([])


def test_outputs_have_names_of_their_own():
    relatives = ["clip.mp4", "clip.mkv", "a/clip.mp4", "other.mp4", "Other.mp4", "clip.mp4"]
    videos = [Video(Path(f"/{i}/{r}"), str(i), Path(r)) for i, r in enumerate(relatives)]
    names = [str(name) for name in output_names(videos, ".csv")]
    assert names == ["clip.mp4.csv", "clip.mkv.csv", "a/clip.csv", "other.mp4.csv", "Other.mp4.2.csv", "clip.mp4.2.csv"]
