"""Outputs of a net over a split, and the figures of the anytime curve."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from stream_ann.errors import OutputError, UsageError
from stream_ann.frames import Prediction
from stream_ann.nets import EANN, AnytimeNet, ResANN
from stream_ann.preprocess import Interpolation, Preprocessing, preprocess
from stream_ann.readout import Average, Best, Latest, Readout
from stream_ann.training.evaluate import (
    Outputs,
    anytime_curve,
    area_under_curve,
    calibration_error,
    collect,
    costs_of,
    score,
    standard_error,
)
from stream_ann.training.split import Batch
from tests.fakes import plan_of_macs

CPU = torch.device("cpu")
PREPROCESSING = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.25), 0.875, "bicubic")


class Pictures:
    """A split of pictures in memory; ``damaged`` ones are left out of the batches, as when they do not decode."""

    def __init__(self, pictures: Tensor, labels: Tensor, classes: int = 3, damaged: tuple[int, ...] = ()) -> None:
        self.pictures, self.labels, self.damaged = pictures, labels, damaged
        self.classes = tuple(f"class {i}" for i in range(classes))
        self.groups = torch.arange(100, 100 + len(labels))
        self.closed = False

    def __len__(self) -> int:
        return len(self.labels)

    def eval_batches(
        self,
        *,
        batch_size: int,
        resolution_px: int,
        device: torch.device,
        crop: float,
        interpolation: Interpolation = "bicubic",
    ) -> Iterator[Batch]:
        assert (crop, interpolation) == (PREPROCESSING.crop, PREPROCESSING.interpolation)
        raw = Preprocessing((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255), crop, interpolation)  # as it is, 0 to 255
        try:
            for start in range(0, len(self), batch_size):
                rows = [i for i in range(start, min(start + batch_size, len(self))) if i not in self.damaged]
                if not rows:
                    continue
                images = preprocess(self.pictures[rows], resolution_px, raw).round().to(torch.uint8)
                yield Batch(images.to(device), self.labels[rows], torch.tensor(rows))
        finally:
            self.closed = True


def pictures(count: int = 7, side_px: int = 40) -> Pictures:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (count, 3, 5, 5), generator=generator).float()
    smooth = torch.nn.functional.interpolate(coarse, size=(side_px, side_px), mode="bilinear")
    return Pictures(smooth.permute(0, 2, 3, 1).to(torch.uint8), torch.arange(count) % 3)


def net_of(*resolutions_px: int) -> AnytimeNet:
    torch.manual_seed(0)
    if len(resolutions_px) == 1:
        return ResANN(classes=3, n=1, c=4, s=1, resolution_px=resolutions_px[0])
    return EANN({"a": ResANN(classes=3, n=1, c=4, s=2, resolution_px=16)}, [("a", px) for px in resolutions_px])


def outputs_of(exits: int = 4, images: int = 60, classes: int = 7, seed: int = 0, sharpness: float = 2.0) -> Outputs:
    """Logits that know more from exit to exit."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (images,), generator=generator)
    logits = torch.randn(exits, images, classes, generator=generator)
    known = torch.linspace(0.5, 2.0, exits)[:, None, None]
    logits += known * torch.nn.functional.one_hot(labels, classes)
    return Outputs(sharpness * logits, labels)


class TestCollect:
    def test_gives_what_the_net_gives(self):
        split, net = pictures(), net_of(32)
        outputs = collect(net, split, PREPROCESSING, device=CPU, batch_size=3)  # type: ignore[arg-type]
        with torch.inference_mode():
            expected = torch.stack(net.eval()(preprocess(split.pictures, 32, PREPROCESSING)))
        torch.testing.assert_close(outputs.logits, expected, rtol=1e-4, atol=1e-4)
        assert outputs.labels.tolist() == split.labels.tolist()
        assert outputs.groups is not None
        assert outputs.groups.tolist() == split.groups.tolist()
        assert (outputs.exits, len(outputs), outputs.classes) == (3, 7, 3)

    def test_members_get_their_own_resolution(self):
        split, net = pictures(), net_of(16, 32)
        outputs = collect(net, split, PREPROCESSING, device=CPU)  # type: ignore[arg-type]
        per_member = []
        with torch.inference_mode():
            for member in net.eval().members():
                state: tuple[Tensor, ...] = ()
                images = preprocess(split.pictures, member.resolution_px, PREPROCESSING)
                for step in member.steps:
                    state, logits = step(images, state)
                    per_member.append(logits)
        torch.testing.assert_close(outputs.logits, torch.stack(per_member), rtol=1e-4, atol=1e-4)
        assert (outputs.logits[0] - outputs.logits[2]).abs().max() > 1e-3, "the members share a trunk, not a picture"

    def test_images_left_out_as_damaged_shift_no_label(self):
        whole, split = pictures(), pictures()
        split.damaged = (1, 2, 3, 6)  # a batch of three becomes one of one
        split.labels = whole.labels = torch.tensor([0, 1, 1, 1, 2, 0, 2])
        outputs = collect(net_of(32), split, PREPROCESSING, device=CPU, batch_size=3)  # type: ignore[arg-type]
        complete = collect(net_of(32), whole, PREPROCESSING, device=CPU)  # type: ignore[arg-type]
        assert outputs.labels.tolist() == [0, 2, 0]
        assert outputs.groups is not None
        assert outputs.groups.tolist() == [100, 104, 105]
        torch.testing.assert_close(outputs.logits, complete.logits[:, [0, 4, 5]], rtol=1e-4, atol=1e-4)

    def test_modes_of_all_modules_are_restored(self):
        net = net_of(32).train()
        frozen = next(m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)).eval()
        before = frozen.running_mean.clone() if frozen.running_mean is not None else None
        collect(net, pictures(), PREPROCESSING, device=CPU)  # type: ignore[arg-type]
        assert not frozen.training
        assert all(m.training for m in net.modules() if m is not frozen)
        assert before is not None
        assert torch.equal(before, frozen.running_mean)  # type: ignore[arg-type]

    def test_many_logits_go_to_a_file_without_a_name(self, tmp_path):
        small = collect(net_of(32), pictures(), PREPROCESSING, device=CPU)  # type: ignore[arg-type]
        mapped = collect(net_of(32), pictures(), PREPROCESSING, device=CPU, memory_bytes=0, folder=tmp_path)  # type: ignore[arg-type]
        assert list(tmp_path.iterdir()) == []
        assert torch.equal(mapped.logits, small.logits)

    def test_no_room_for_that_file(self, tmp_path):
        with pytest.raises(OutputError, match=r"cannot make a temporary file of 0\.0 GiB in '.*/missing'.*TMPDIR"):
            collect(
                net_of(32),
                pictures(),  # type: ignore[arg-type]
                PREPROCESSING,
                device=CPU,
                memory_bytes=0,
                folder=tmp_path / "missing",
            )

    def test_reports_progress(self):
        told: list[tuple[int, int]] = []
        collect(
            net_of(32),
            pictures(),  # type: ignore[arg-type]
            PREPROCESSING,
            device=CPU,
            batch_size=3,
            on_progress=lambda *done: told.append(done),
        )
        assert told == [(0, 7), (3, 7), (6, 7), (7, 7)]

    def test_an_image_counts_once_for_each_resolution(self):
        told: list[tuple[int, int]] = []
        net = net_of(16, 32)
        collect(net, pictures(), PREPROCESSING, device=CPU, on_progress=lambda *done: told.append(done))  # type: ignore[arg-type]
        assert told == [(0, 14), (7, 14), (14, 14)]

    def test_an_interrupt_ends_the_batches_and_restores_the_net(self):
        def interrupt(done: int, total: int) -> None:
            if done:
                raise KeyboardInterrupt

        split, net = pictures(), net_of(32).train()
        with pytest.raises(KeyboardInterrupt):
            collect(net, split, PREPROCESSING, device=CPU, batch_size=3, on_progress=interrupt)  # type: ignore[arg-type]
        assert split.closed
        assert net.training

    def test_an_exit_that_is_not_finite_is_named(self):
        net = net_of(32)
        with torch.no_grad():
            next(net.steps[1].parameters()).fill_(math.nan)
        with pytest.raises(UsageError, match="exit 'resann@32 2' gives logits that are not finite"):
            collect(net, pictures(), PREPROCESSING, device=CPU)  # type: ignore[arg-type]

    def test_nothing_to_evaluate(self):
        with pytest.raises(UsageError, match="there are no images to evaluate on"):
            collect(net_of(32), pictures(0), PREPROCESSING, device=CPU)  # type: ignore[arg-type]
        damaged = pictures(2)
        damaged.damaged = (0, 1)
        with pytest.raises(UsageError, match="none of the images could be read"):
            collect(net_of(32), _Empty(damaged), PREPROCESSING, device=CPU)  # type: ignore[arg-type]

    def test_other_classes(self):
        split = Pictures(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), classes=4)
        with pytest.raises(UsageError, match="the data has 4 classes, the net 3"):
            collect(net_of(32), split, PREPROCESSING, device=CPU)  # type: ignore[arg-type]


class _Empty:
    """A split whose images all turn out to be damaged: it gives no batch at all."""

    def __init__(self, split: Pictures) -> None:
        self.classes, self.labels, self.groups = split.classes, split.labels, split.groups

    def __len__(self) -> int:
        return len(self.labels)

    def eval_batches(self, **_: object) -> Iterator[Batch]:
        return iter(())


class TestOutputs:
    @pytest.mark.parametrize(
        ("logits", "labels", "message"),
        [
            (torch.zeros(2, 3), torch.zeros(3).long(), r"logits must be float32 \[exits, N, classes\]"),
            (torch.zeros(2, 3, 4).double(), torch.zeros(3).long(), "got torch.float64"),
            (torch.zeros(2, 3, 4), torch.zeros(2).long(), r"labels of shape \[2\]"),
            (torch.zeros(2, 3, 4), torch.tensor([0, 4, 0]), "labels must be from 0 to 3"),
            (torch.zeros(2, 0, 4), torch.zeros(0).long(), "there are no logits"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, logits, labels, message):
        with pytest.raises(ValueError, match=message):
            Outputs(logits, labels)


ACCURACIES = (0.5, 0.4, 0.5, 0.3)
WEIGHTS = (1.0, 0.5, 3.0, 2.0)


class TestScore:
    @pytest.mark.parametrize(
        ("name", "readout"),
        [("latest", Latest()), ("best", Best(ACCURACIES)), ("average", Average(WEIGHTS))],
    )
    @pytest.mark.parametrize("temperatures", [None, (0.5, 1.0, 2.0, 4.0)])
    def test_is_what_the_readout_says_of_each_image(self, name, readout: Readout, temperatures):
        outputs = outputs_of()
        scores = score(outputs, readout=name, accuracies=ACCURACIES, weights=WEIGHTS, temperatures=temperatures)
        scales = torch.tensor(temperatures or [1.0] * 4)[:, None]
        for n in range(len(outputs)):
            each = torch.softmax(outputs.logits[:, n] / scales, dim=1).numpy()
            label = int(outputs.labels[n])
            for last in range(4):
                answer = readout.answer([Prediction(e, each[e], 0.0) for e in range(last + 1)])
                assert bool(scores.top1[last, n]) == (answer.class_id == label)
                assert bool(scores.top5[last, n]) == (label in [c for c, _ in answer.top(5)])
                assert float(scores.confidence[last, n]) == pytest.approx(answer.confidence, rel=1e-5)
                assert float(scores.nll[last, n]) == pytest.approx(
                    -math.log(answer.probabilities[label]), rel=1e-4, abs=2e-6
                )

    def test_does_not_depend_on_how_it_is_cut_up(self, monkeypatch):
        whole = score(outputs_of(), readout="average")
        monkeypatch.setattr("stream_ann.training.evaluate._CHUNK_BYTES", 4 * 4 * 7 * 11)
        parts = score(outputs_of(), readout="average")
        assert torch.equal(whole.top5, parts.top5)
        torch.testing.assert_close(whole.nll, parts.nll)

    def test_of_equally_probable_classes_the_first_is_taken(self):
        outputs = Outputs(torch.zeros(1, 8, 8), torch.arange(8))
        scores = score(outputs)
        assert scores.top1[0].tolist() == [True] + [False] * 7
        assert scores.top5[0].tolist() == [True] * 5 + [False] * 3

    def test_the_best_is_by_default_measured_on_the_same_images(self):
        outputs = outputs_of()
        worse_at_the_end = Outputs(outputs.logits[[0, 3, 1]], outputs.labels)
        scores = score(worse_at_the_end, readout="best")
        assert torch.equal(scores.top1[2], scores.top1[1])

    def test_improbable_answers_have_a_finite_loss(self):
        logits = torch.tensor([[[0.0, 500.0]], [[0.0, 400.0]]])
        for readout, expected in (("latest", 400.0), ("average", 400 - math.log(2 / 3))):
            scores = score(Outputs(logits, torch.tensor([0])), readout=readout)  # type: ignore[arg-type]
            assert float(scores.nll[1, 0]) == pytest.approx(expected, rel=1e-6)

    def test_rows(self):
        scores = score(outputs_of())
        some = scores.rows(torch.tensor([3, 1]))
        assert torch.equal(some.confidence, scores.confidence[:, [3, 1]])
        assert torch.equal(some.top1, scores.top1[:, [3, 1]])

    def test_bad_arguments(self):
        with pytest.raises(UsageError, match="no readout is called 'lates'"):
            score(outputs_of(), readout="lates")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="weights must be 4 positive numbers, got"):
            score(outputs_of(), readout="average", weights=[1.0, 2.0, 0.0, 1.0])
        with pytest.raises(ValueError, match="temperatures must be 4 positive numbers"):
            score(outputs_of(), temperatures=[1.0])
        with pytest.raises(ValueError, match="2 accuracies for 4 exits"):
            score(outputs_of(), readout="best", accuracies=[0.1, 0.2])


class TestCalibrationError:
    def test_by_hand(self):
        # Two bins hold images: (8/15, 9/15] two with mean confidence 0.57 and accuracy 0.5, the last bin two more.
        confidence = torch.tensor([0.56, 0.58, 0.95, 0.97])
        correct = torch.tensor([True, False, True, True])
        assert calibration_error(confidence, correct) == pytest.approx((2 * 0.07 + 2 * 0.04) / 4, abs=1e-6)

    def test_within_a_bin_errors_cancel(self):
        confidence = torch.tensor([0.5, 0.5, 0.5, 0.5])
        assert calibration_error(confidence, torch.tensor([True, False, True, False])) == 0

    def test_upper_edges_belong_to_the_bin(self):
        # With two bins 0.5 is in the lower one; in the upper one it would cancel with the 0.9.
        confidence, correct = torch.tensor([0.5, 0.9]), torch.tensor([True, False])
        assert calibration_error(confidence, correct, bins=2) == pytest.approx((0.5 + 0.9) / 2)

    def test_limits_are_in_a_bin(self):
        assert calibration_error(torch.tensor([0.0, 1.0]), torch.tensor([False, True])) == 0


def test_standard_error():
    assert standard_error(0.8, 400) == pytest.approx(0.02)
    assert standard_error(1.0, 5) == 0


def test_costs_cumulative_and_alone():
    plan = plan_of_macs([3, 4, 10, 20], members=[0, 0, 1, 1])
    assert costs_of(plan, [3, 4, 10, 20]) == ((3, 7, 17, 37), (3, 7, 10, 30))
    with pytest.raises(ValueError, match="2 costs for a plan of 4 steps"):
        costs_of(plan, [1, 2])


class TestCurve:
    plan = plan_of_macs([10, 20, 40, 80], classes=7, members=[0, 0, 1, 2])

    def test_figures_are_those_of_the_scores(self):
        outputs = outputs_of()
        calls = []

        def measure() -> tuple[float, ...]:
            calls.append(1)
            return (0.001, 0.002, 0.004, 0.008)

        curve = anytime_curve(outputs, self.plan, weights=WEIGHTS, measure_step_s=measure)
        assert calls == [1]
        assert curve.readouts == ("latest", "best", "average")
        assert (curve.images, curve.classes) == (60, 7)
        scores = score(outputs, readout="average", weights=WEIGHTS)
        last = curve.of("average")[3]
        assert last.top1 == pytest.approx(float(scores.top1[3].double().mean()))
        assert last.top1_error == pytest.approx(math.sqrt(last.top1 * (1 - last.top1) / 60))
        assert last.top5 == pytest.approx(float(scores.top5[3].double().mean()))
        assert last.nll == pytest.approx(float(scores.nll[3].mean()), rel=1e-5)
        assert last.ece == pytest.approx(calibration_error(scores.confidence[3], scores.top1[3]))
        assert [f.macs for f in curve.of()] == [10, 30, 70, 150]
        assert [f.alone_macs for f in curve.of()] == [10, 30, 40, 80]
        assert [f.ms for f in curve.of()] == pytest.approx([1, 3, 7, 15])
        assert [f.alone_ms for f in curve.of()] == pytest.approx([1, 3, 4, 8])
        assert [f.name for f in curve.of("best")] == list(self.plan.exit_names)

    def test_top1_by_counting(self):
        outputs = outputs_of()
        found = [f.top1 for f in anytime_curve(outputs, self.plan, readouts=["latest"]).of()]
        assert found == pytest.approx((outputs.logits.argmax(2) == outputs.labels).double().mean(1).tolist())

    def test_is_plain_json(self):
        curve = anytime_curve(outputs_of(), self.plan, readouts=["latest"])
        document = json.loads(json.dumps(curve.as_dict(), allow_nan=False))
        assert document["figures"][2]["name"] == "step2"
        assert document["figures"][2]["ms"] is None

    def test_area(self):
        curve = anytime_curve(outputs_of(), self.plan)
        latest = curve.of()
        assert curve.area(10, 30) == pytest.approx(latest[0].top1)
        assert curve.area(200, 300, readout="average") == pytest.approx(curve.of("average")[3].top1)

    def test_another_plan(self):
        with pytest.raises(ValueError, match="a plan of 1 exits and 4 classes for outputs of 4 exits and 7 classes"):
            anytime_curve(outputs_of(), plan_of_macs([1]))


class TestArea:
    def test_by_hand(self):
        # A decade each: nothing, then 40, then 70.
        assert area_under_curve([10, 100], [40, 70], 1, 1000) == pytest.approx((0 + 40 + 70) / 3)
        assert area_under_curve([10, 100], [40, 70], 10, 1000) == pytest.approx((40 + 70) / 2)

    def test_only_the_range_counts(self):
        assert area_under_curve([1, 10, 1000], [0.1, 0.5, 0.9], 20, 30) == pytest.approx(0.5)
        assert area_under_curve([50], [0.8], 1, 40) == 0

    def test_the_known_chain_of_four_members(self):
        # EfficientNet-Lite0 at 96, 160, 224 px and Lite2 at 260 px, cumulative MMACs, accuracies of the originals.
        area = area_under_curve([72.155, 269.894, 655.893, 1515.968], [47.6, 78.5, 87.3, 88.2], 60, 1500)
        expected = (
            47.6 * math.log(269.894 / 72.155) + 78.5 * math.log(655.893 / 269.894) + 87.3 * math.log(1500 / 655.893)
        )
        assert area == pytest.approx(expected / math.log(25))
        assert area == pytest.approx(63.6, abs=0.05)

    def test_units_do_not_matter(self):
        a = area_under_curve([3, 20, 90], [0.2, 0.5, 0.6], 2, 100)
        assert area_under_curve([3e6, 20e6, 90e6], [20, 50, 60], 2e6, 100e6) == pytest.approx(100 * a)

    @pytest.mark.parametrize(
        ("costs", "accuracies", "low", "high", "message"),
        [
            ([1, 2], [1], 1, 2, "2 costs for 1 accuracies"),
            ([], [], 1, 2, "0 costs"),
            ([1, 1], [1, 2], 1, 2, "costs must be positive and rising"),
            ([0, 1], [1, 2], 1, 2, "costs must be positive and rising"),
            ([1, 2], [1, 2], 2, 2, "the range must be positive and rising, got 2 to 2"),
            ([1, 2], [1, 2], 0, 2, "the range must be positive and rising"),
        ],
    )
    def test_bad_arguments(self, costs, accuracies, low, high, message):
        with pytest.raises(ValueError, match=message):
            area_under_curve(costs, accuracies, low, high)


def test_figures_are_finite_numbers():
    figures = anytime_curve(outputs_of(), TestCurve.plan).figures
    for f in figures:
        assert np.isfinite([f.top1, f.top1_error, f.top5, f.ece, f.nll]).all()
