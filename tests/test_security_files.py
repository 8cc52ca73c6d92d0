"""Hostile weights, and files that somebody else has put where something is to be written."""

from __future__ import annotations

import ast
import json
import os
import stat
from pathlib import Path

import pytest
import torch
from torchvision import models

from stream_ann import weights
from stream_ann.engines import openvino_cache
from stream_ann.errors import UsageError, WeightsError
from stream_ann.nets import build
from stream_ann.nets.backbones import Backbone
from stream_ann.training.checkpoint import Checkpoint, write_checkpoint
from stream_ann.whole_files import whole_file
from tests.small_weights import save_small_weights

ROOT = Path(__file__).resolve().parent.parent
CODE = [*sorted(p for d in ("stream_ann", "pipelines", "commands") for p in (ROOT / d).rglob("*.py")), ROOT / "cli.py"]
FORBIDDEN = {
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "torch.jit.load",
    "torch.hub.load",
    "yaml.load",
    "marshal.loads",
    "shelve.open",
    "joblib.load",
    "np.load",
    "numpy.load",
    "os.system",
    "os.popen",
    "eval",
    "exec",
    "compile",
    "tempfile.mktemp",
    "urllib.request.urlopen",
    "urllib.request.urlretrieve",
    "requests.get",
}


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("pwned",)


class TestCode:
    """What is nowhere in the code, so that nothing can reach it."""

    @pytest.mark.parametrize("path", CODE, ids=lambda p: str(p.relative_to(ROOT)))
    def test_nothing_that_is_read_can_run(self, path: Path):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                options = {k.arg: k.value for k in node.keywords}
                assert name not in FORBIDDEN, f"{path}:{node.lineno} calls {name}"
                if name == "torch.load" or name.endswith(".get_state_dict"):
                    safe = options.get("weights_only")
                    assert isinstance(safe, ast.Constant), f"{path}:{node.lineno}"
                    assert safe.value is True, f"{path}:{node.lineno} unpickles anything"
                shell = options.get("shell")
                assert shell is None, f"{path}:{node.lineno} starts a shell"
                assert "allow_pickle" not in options, f"{path}:{node.lineno}"
                assert "trust_remote_code" not in options, f"{path}:{node.lineno}"

    def test_pictures_that_cross_to_the_window_are_bytes(self):
        for name in ("window.py", "window_child.py"):
            text = (ROOT / "stream_ann" / "sinks" / name).read_text()
            assert "pickle" not in text
            assert "multiprocessing" not in text


class TestWeights:
    @pytest.fixture
    def card(self, tmp_path: Path) -> Path:
        return save_small_weights(tmp_path).with_suffix(".json")

    @pytest.mark.parametrize(
        "name",
        ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..\\x.safetensors", "C:x.safetensors", "x\x00"],
        ids=ascii,
    )
    def test_a_card_leads_nowhere_but_to_the_file_beside_it(self, card: Path, name: str):
        content = json.loads(card.read_text())
        content["file"]["name"] = name
        card.write_text(json.dumps(content))
        with pytest.raises(WeightsError, match=r"'file\.name' must be"):
            weights.load(card)

    @pytest.mark.parametrize("shape", [[1 << 40], [1 << 20, 1 << 20], [1 << 61, 4], [0, 1 << 61]])
    def test_a_shape_costs_nothing_before_it_is_checked(self, card: Path, shape: list[int]):
        file = card.with_suffix(".safetensors")
        header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode()
        file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        content = json.loads(card.read_text())
        content["file"] |= {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        card.write_text(json.dumps(content))
        with pytest.raises(WeightsError, match="has 4 bytes"):
            weights.load(card)

    def test_published_weights_that_somebody_has_replaced_run_nothing(self, tmp_path: Path, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        url = models.get_model_weights("resnet18").DEFAULT.url
        file = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
        file.parent.mkdir(parents=True)
        torch.save({"a": Bomb()}, file)
        net = build({"name": "torchvision", "network": "resnet18", "classes": 3, "resolution_px": 32})
        assert isinstance(net, Backbone)
        with pytest.raises(UsageError, match="holds more than tensors"):
            net.load_torchvision("DEFAULT")
        assert not Path("pwned").exists()
        assert url.startswith("https://")

    def test_another_content_of_the_same_size_is_refused(self, card: Path):
        file = card.with_suffix(".safetensors")
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        with pytest.raises(WeightsError, match="SHA-256"):
            weights.load(card)


class TestOutputs:
    def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(self, tmp_path: Path):
        victim, path = tmp_path / "victim", tmp_path / "out"
        victim.write_text("precious")
        path.symlink_to(victim)
        with whole_file(path) as file:
            file.write(b"new")
        assert victim.read_text() == "precious"
        assert not path.is_symlink()

    def test_nor_is_one_in_the_place_of_a_checkpoint_that_is_being_written(self, tmp_path: Path):
        victim, path = tmp_path / "victim", tmp_path / "last.safetensors"
        victim.write_text("precious")
        path.with_name(path.name + ".partial").symlink_to(victim)
        write_checkpoint(Checkpoint({"a": torch.zeros(1)}, {}), path)
        assert victim.read_text() == "precious"
        assert path.is_file()

    @pytest.mark.parametrize("umask", [0o077, 0o027, 0o022])
    def test_files_allow_what_the_user_lets_files_allow(self, tmp_path: Path, umask: int):
        before = os.umask(umask)
        try:
            with whole_file(tmp_path / "out") as file:
                file.write(b"new")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o666 & ~umask

    def test_a_kept_model_that_others_could_have_written_is_not_run(self, tmp_path: Path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

        class Compiled:
            def export_model(self) -> object:
                return type("Bytes", (), {"getvalue": lambda self: b"model"})()

        openvino_cache.write("key", Compiled())
        kept = openvino_cache.cache_folder() / "key.blob"
        assert stat.S_IMODE(kept.parent.stat().st_mode) & 0o077 == 0
        assert openvino_cache.read("key") is not None
        kept.chmod(0o666)
        assert openvino_cache.read("key") is None
        kept.chmod(0o600)
        kept.parent.chmod(0o777)
        assert openvino_cache.read("key") is None
        kept.parent.chmod(0o700)
        monkeypatch.setattr(os, "geteuid", lambda: kept.stat().st_uid + 1)
        assert openvino_cache.read("key") is None


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()
