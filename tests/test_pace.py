"""As many epochs as fit into a time."""

import copy
import dataclasses

import pytest
import torch

from pipelines import train_start
from pipelines.train import train
from stream_ann.errors import UsageError
from stream_ann.nets import ResANN
from stream_ann.preprocess import Preprocessing
from stream_ann.training.augment import Augment
from stream_ann.training.made import synthetic
from stream_ann.training.options import TrainOptions
from stream_ann.training.pace import Pace, rehearse
from tests.net_checks import one_thread as one_thread  # a fixture

PREPROCESSING = Preprocessing((0.5,) * 3, (0.5,) * 3)
ARCH = {"name": "resann", "classes": 3, "n": 1, "c": 4, "s": 1, "resolution_px": 16}
FAST = {"arch": ARCH, "device": "cpu", "batch_size": 16, "plots": False, "weighting": "const"}


@pytest.fixture(scope="module")
def data():
    return synthetic(3, 60, 16, seed=0)


class TestPace:
    @pytest.mark.parametrize(
        ("pace", "seconds", "epochs"),
        [
            (Pace(9, 1), 310 / 29 * 30, 30),  # with the last validation 301 of 310 s
            (Pace(9, 1), 300 / 29 * 30, 29),
            (Pace(9, 1), 0.5, 1),
            (Pace(9, 1), -5, 1),
            (Pace(0.01, 0), 30, 2900),
        ],
    )
    def test_epochs_that_fit(self, pace, seconds, epochs):
        assert pace.epochs_within(seconds) == epochs


class TestRehearsal:
    @pytest.mark.parametrize(
        "changes", [{}, {"average": "swa"}, {"average": "ema"}, {"final_first": 0.5}, {"lr": 900.0}], ids=str
    )
    def test_nothing_is_left_of_it(self, data, changes):
        net = ResANN(classes=3, n=1, c=4, s=1, resolution_px=16)
        before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
        options = TrainOptions(**{"epochs": 7, "batch_size": 16, "device": "cpu", **changes})
        pace = rehearse(net, data, PREPROCESSING, options, augment=Augment())
        assert pace.train_s > 0
        assert pace.validation_s >= 0
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        assert torch.equal(torch.get_rng_state(), random)
        assert options.epochs == 7

    def test_it_speaks_for_all_images(self, data, monkeypatch):
        """A quarter of the images to train on, and a quarter of the others, a fixed time each."""
        from stream_ann.training import pace as module

        seen = {}

        class Timed:
            def __init__(self, net, few, preprocessing, options, *, on_epoch, **_):
                seen["train"], seen["val"], self.on_epoch, self.options = (
                    len(few.train),
                    len(few.val),
                    on_epoch,
                    options,
                )

            def run(self):
                for number in range(self.options.epochs):
                    now[0] += 50.0 if number == 0 else 3.0  # of which 2 to train
                    self.on_epoch(type("Record", (), {"train_s": now[0] - 1.0 if number == 0 else 2.0}))

        now = [0.0]
        monkeypatch.setattr(module, "Trainer", Timed)
        monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
        many = dataclasses.replace(data, train=data.train.subset([0] * 400), val=data.val.subset([0] * 40))
        options = TrainOptions(batch_size=12, device="cpu")
        pace = rehearse(ResANN(classes=3, n=1, c=4, s=1), many, PREPROCESSING, options, augment=Augment())
        assert seen == {"train": 96, "val": 10}
        assert pace.train_s == pytest.approx(2.0 * 400 / 96)
        assert pace.validation_s == pytest.approx(1.0 * 4)

    @pytest.mark.parametrize(("limit_s", "epochs"), [(1e9, 4), (0.0, 2)])
    def test_one_timed_epoch_has_to_do_where_time_is_short(self, data, limit_s, epochs, monkeypatch):
        from stream_ann.training import pace as module

        done = []

        class Watched(module.Trainer):
            def run(self, **options):
                history = super().run(**options)
                done.append(len(history.records))
                return history

        monkeypatch.setattr(module, "Trainer", Watched)
        options = TrainOptions(batch_size=16, device="cpu")
        net = ResANN(classes=3, n=1, c=4, s=1, resolution_px=16)
        assert rehearse(net, data, PREPROCESSING, options, augment=Augment(), limit_s=limit_s).train_s > 0
        assert done == [epochs]

    def test_fewer_images_than_a_batch(self, data):
        options = TrainOptions(batch_size=1000, device="cpu")
        with pytest.raises(UsageError, match="fewer than a batch of 1000"):
            rehearse(ResANN(classes=3, n=1, c=4, s=1), data, PREPROCESSING, options, augment=Augment())


class TestTrain:
    @pytest.fixture
    def paced(self, monkeypatch):
        """An epoch takes ten seconds, says the rehearsal."""
        monkeypatch.setattr(train_start, "rehearse", lambda *_, **__: Pace(9, 1))

    def test_the_run_is_that_with_as_many_epochs(self, data, paced, tmp_path):
        timed = train(data, out=tmp_path / "timed", minutes=0.6, **FAST)
        counted = train(data, out=tmp_path / "counted", epochs=3, **FAST)
        assert len(timed.history.records) == 3
        assert timed.card.file.sha256 == counted.card.file.sha256
        assert timed.card.training["options"] == counted.card.training["options"]
        assert any(note.startswith("epochs 3, 10 s each") for note in timed.notes)

    def test_too_little_time_is_said(self, data, paced, tmp_path):
        result = train(data, out=tmp_path / "out", minutes=0.01, **FAST)
        assert len(result.history.records) == 1
        assert "epochs 1, 10 s each: more than the time that is left" in result.notes

    def test_a_resumed_run_keeps_its_number(self, data, paced, tmp_path, monkeypatch):
        first = train(data, out=tmp_path / "out", minutes=0.6, **FAST)
        monkeypatch.setattr(train_start, "rehearse", lambda *_, **__: pytest.fail("rehearsed again"))
        again = train(data, out=tmp_path / "out", minutes=0.6, resume=True, **FAST)
        assert again.history.records == first.history.records

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"minutes": 0}, "minutes is 0; it must be over 0"),
            ({"minutes": float("nan")}, "minutes is nan"),
            ({"minutes": float("inf")}, "minutes is inf"),
            ({"minutes": 1, "epochs": 2}, "both a time and a number of epochs are given; give one of them"),
        ],
    )
    def test_refused(self, data, tmp_path, options, says):
        with pytest.raises(UsageError, match=says):
            train(data, out=tmp_path / "out", **FAST, **options)

    def test_several_processes_cannot(self, data, tmp_path, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(UsageError, match="several processes cannot find out how many epochs fit"):
            train(data, out=tmp_path / "out", minutes=1, **FAST)
