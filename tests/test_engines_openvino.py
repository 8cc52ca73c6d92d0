"""OpenVINO: which engine it will be, its cache, its precision, and that it keeps its telemetry to itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.doctor import examine
from stream_ann.engines import engine_choice, open_engine, openvino_cache, openvino_precision
from stream_ann.engines.opening import device_error
from stream_ann.engines.openvino_engine import OpenVinoEngine
from stream_ann.engines.openvino_runtime import capabilities
from stream_ann.engines.openvino_steps import OpenVinoSteps
from stream_ann.errors import DeviceError, MissingExtraError, UsageError
from stream_ann.nets import EANN, AnytimeNet, build
from stream_ann.nets.fixed import FixedNet
from stream_ann.preprocess import Preprocessing

PREPROCESSING = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.5, 0.4, 0.6))
ARCH = {"name": "resann", "classes": 5, "n": 1, "c": 4, "s": 2, "resolution_px": 32}
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def net(seed: int = 0) -> AnytimeNet:
    torch.manual_seed(seed)
    made = build(ARCH).eval()
    for head in made.modules():
        if isinstance(head, torch.nn.Linear):  # answers that differ from each other
            torch.nn.init.normal_(head.weight, 0, 0.5)
    return made


def answers(engine: OpenVinoEngine) -> np.ndarray:
    engine.start(PICTURE)
    return np.stack([engine.run(step) for step in range(len(engine.plan))])


def test_an_error_says_what_was_wrong_not_where():
    error = RuntimeError("Exception from src/a.cpp:1:\nCheck 'x' failed at src/b.cpp:2:\nthe shapes are incompatible\n")
    assert "failed: the shapes are incompatible;" in str(device_error("cpu", error))
    assert "failed: no memory;" in str(device_error("cpu", RuntimeError("no memory\nmore")))


def opened(made: AnytimeNet, *, precision: str = "float32", **options) -> OpenVinoEngine:
    """In float32, because what "auto" means depends on the processor."""
    return OpenVinoEngine(made, PREPROCESSING, threads=1, timing_runs=1, precision=precision, **options)


class TestChoice:
    @pytest.fixture(autouse=True)
    def _no_gpu(self, monkeypatch):
        monkeypatch.setattr("torch.cuda.device_count", lambda: 0)

    @pytest.fixture
    def without(self, monkeypatch):
        monkeypatch.setattr("stream_ann.engines.choice.is_installed", lambda: False)

    def test_it_is_the_engine_of_a_cpu_where_it_is_installed(self):
        choice = engine_choice()
        assert (choice.name, str(choice.device)) == ("openvino", "cpu")
        engine = open_engine(net(), PREPROCESSING, threads=1)
        assert engine.name == "openvino"
        assert engine.description.startswith("openvino 20")
        assert engine.description.endswith((" on cpu, float32, 1 thread", " on cpu, bfloat16, 1 thread"))

    def test_torch_takes_its_place_where_it_is_not(self, without):
        choice = engine_choice("cpu")
        assert choice.name == "torch"
        assert "'openvino', which would be faster, is not installed" in choice.reason
        assert open_engine(net(), PREPROCESSING, threads=1).name == "torch"

    def test_asking_for_what_is_not_installed_says_what_to_install(self, without):
        with pytest.raises(MissingExtraError, match=r"needs 'openvino'.*pip install 'stream-ann\[openvino\]'"):
            engine_choice(engine="openvino")

    def test_torch_can_be_asked_for(self):
        assert engine_choice("cpu", "torch").name == "torch"

    def test_engines_and_devices_that_do_not_go_together(self, monkeypatch):
        with pytest.raises(DeviceError, match="the cuda engine cannot run on 'cpu'"):
            engine_choice("cpu", "cuda")
        monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
        with pytest.raises(DeviceError, match="the openvino engine cannot run on 'cuda'"):
            engine_choice("cuda", "openvino")
        with pytest.raises(UsageError, match="no engine is called 'openvivo'; did you mean 'openvino'"):
            engine_choice(engine="openvivo")

    def test_doctor_says_which_engine_and_why(self, without):
        (finding,) = (f for f in examine() if f.name == "engine")
        assert finding.state == "note"
        assert finding.detail.startswith("torch on cpu with ")
        assert finding.detail.endswith("since the extra 'openvino', which would be faster, is not installed")
        assert finding.remedy == "run: pip install 'stream-ann[openvino]'"

    def test_doctor_is_content_with_the_fastest(self):
        (finding,) = (f for f in examine() if f.name == "engine")
        assert finding.state == "ok"
        assert finding.detail.startswith("openvino on cpu with ")


class TestCache:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path, monkeypatch) -> Path:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        return tmp_path / "stream_ann" / "openvino"

    @pytest.fixture
    def compiled(self, monkeypatch) -> list[int]:
        """The steps that were converted, as they are."""
        seen: list[int] = []
        real = OpenVinoSteps._converted

        def watched(self, step, together):
            seen.append(step)
            return real(self, step, together)

        monkeypatch.setattr(OpenVinoSteps, "_converted", watched)
        return seen

    def test_the_second_opening_compiles_nothing_and_answers_alike(self, folder, compiled):
        first = answers(opened(net()))
        steps = sorted(compiled)
        assert steps == list(range(len(first)))
        assert len(list(folder.glob("*.blob"))) == len(steps)
        compiled.clear()
        np.testing.assert_allclose(answers(opened(net())), first, atol=1e-6)
        assert compiled == []

    def test_other_weights_temperatures_and_pixels_are_other_models(self, compiled):
        exits = len(answers(opened(net())))
        compiled.clear()
        other = answers(opened(net(seed=1)))
        assert len(compiled) == exits
        compiled.clear()
        warm = answers(opened(net(seed=1), temperatures=[2.0] * exits))
        assert len(compiled) == exits
        assert not np.allclose(other, warm, atol=1e-3)
        compiled.clear()
        elsewhere = Preprocessing(mean=(0.1, 0.4, 0.3), std=(0.5, 0.4, 0.6))
        OpenVinoEngine(net(seed=1), elsewhere, threads=1, timing_runs=1, precision="float32")
        assert compiled == [0]  # only the first step sees pixels
        compiled.clear()

    def test_one_network_at_two_resolutions_is_two_models(self, compiled):
        trunk = EANN({"one": net()}, [("one", 16), ("one", 32)]).eval()
        small, large = (FixedNet(trunk, exit_) for exit_ in (1, 3))
        assert answers(opened(small)).shape == (1, 5)
        compiled.clear()
        kept = answers(opened(large))
        assert compiled == [0]
        np.testing.assert_allclose(kept, answers(opened(large, cached=False)), atol=1e-6)

    def test_a_damaged_file_is_made_anew(self, folder, compiled):
        first = answers(opened(net()))
        for path in folder.glob("*.blob"):
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        compiled.clear()
        np.testing.assert_allclose(answers(opened(net())), first, atol=1e-6)
        assert len(compiled) == len(first)

    def test_a_folder_that_cannot_be_written_to_costs_time_and_nothing_else(self, folder, compiled):
        folder.parent.mkdir(parents=True)
        folder.write_text("a file where the folder would be")
        first = answers(opened(net()))
        np.testing.assert_allclose(answers(opened(net())), first, atol=1e-6)
        assert len(compiled) == 2 * len(first)

    def test_what_was_not_used_for_longest_goes_first(self, folder, monkeypatch):
        opened(net())
        sizes = [path.stat().st_size for path in folder.glob("*.blob")]
        monkeypatch.setattr(openvino_cache, "LIMIT_BYTES", sum(sizes) + 1)
        before = set(folder.glob("*.blob"))
        opened(net(seed=1))
        after = set(folder.glob("*.blob"))
        assert sum(path.stat().st_size for path in after) <= sum(sizes) + 1
        assert after - before  # the newest stay


class TestPrecision:
    def test_what_the_processor_lacks_is_refused_when_asked_for(self, monkeypatch):
        monkeypatch.setattr(openvino_precision, "capabilities", lambda: frozenset({"FP32"}))
        with pytest.raises(DeviceError, match="does not compute in bfloat16; use --precision float32 or auto"):
            opened(net(), precision="bfloat16")

    @pytest.mark.parametrize(("off", "expected"), [(0.5, "float32"), (0.01, "bfloat16")])
    def test_bfloat16_is_used_only_where_its_answers_are_near(self, monkeypatch, off, expected):
        """With a processor that is said to have it, and answers that are said to be so far off."""
        monkeypatch.setattr(openvino_precision, "capabilities", lambda: capabilities() | {"BF16"})
        monkeypatch.setitem(openvino_precision.HINTS, "bfloat16", "f32")
        real = openvino_precision.deviation
        calls = []

        def deviation(ours, theirs):
            calls.append(real(ours, theirs))
            return calls[-1] if len(calls) == 1 else off

        monkeypatch.setattr(openvino_precision, "deviation", deviation)
        assert f", {expected}, " in opened(net(), precision="auto").description
        assert len(calls) == 2
        assert calls[0] < openvino_precision.FLOAT32_BOUND

    def test_answers_that_are_not_the_networks_are_refused(self, monkeypatch):
        real = OpenVinoSteps.reference
        monkeypatch.setattr(OpenVinoSteps, "reference", lambda self, picture: np.roll(real(self, picture), 1, axis=1))
        with pytest.raises(DeviceError, match="OpenVINO's answers differ from the network's by"):
            opened(net())

    def test_deviation_is_the_mass_that_lies_elsewhere(self):
        one = np.array([[0.5, 0.5, 0], [1, 0, 0]], dtype=np.float32)
        other = np.array([[0.5, 0.25, 0.25], [1, 0, 0]], dtype=np.float32)
        assert openvino_precision.deviation([one, one], [one, other]) == pytest.approx(0.25)


def test_importing_it_reports_to_nobody():
    code = (
        "import sys; from stream_ann.engines.openvino_runtime import core, openvino; core(); openvino().convert_model;"
        "assert sys.modules['openvino_telemetry'] is None;"
        "from openvino.tools.ovc import telemetry_utils; assert telemetry_utils.tm.__name__.endswith('telemetry_stub')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_only_the_torch_engine_compiles_and_only_with_a_compiler(monkeypatch):
    with pytest.raises(UsageError, match="the openvino engine has nothing to compile"):
        open_engine(net(), PREPROCESSING, device="cpu", engine="openvino", compile=True)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(DeviceError, match="compiling steps needs 'no-such-compiler', which is not installed"):
        open_engine(net(), PREPROCESSING, device="cpu", engine="torch", compile=True)


@pytest.mark.tool("g++")
def test_compiled_steps_answer_as_plain_ones_do(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("CXX", shutil.which("g++") or "g++")
    made = build(ARCH | {"s": 3, "resolution_px": 16}).eval()  # one step, since a compiler takes its time
    plain = open_engine(made, PREPROCESSING, device="cpu", engine="torch", lanes=2)
    compiled = open_engine(made, PREPROCESSING, device="cpu", engine="torch", lanes=2, compile=True)
    assert compiled.description.endswith(", compiled")
    for engine in (plain, compiled):
        for lane in (0, 1):
            engine.start(PICTURE, lane=lane)
    for step in range(len(plain.plan)):
        expected = plain.run_together(step, (0, 1))
        np.testing.assert_allclose(compiled.run_together(step, (0, 1)), expected, atol=1e-5)
