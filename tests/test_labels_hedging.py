"""Hedged labels: the most specific concept that is probable enough."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ann.errors import CardError, UsageError
from stream_ann.frames import Frame, Prediction
from stream_ann.labels import Hierarchy, LabelOptions, labelling_from
from stream_ann.labels.hedging import ANYTHING, TARGETS, Concepts, HedgeCalibration, fit_thresholds, outcomes

TREE = """
animal
  pet
    cat
    beagle
    spaniel
  dog
    beagle
    spaniel
    dingo
  wild
    dingo
    wolf
  wolf
thing
  car
  cup
"""
NAMES = ["cat", "beagle", "spaniel", "dingo", "wolf", "car", "cup"]
CONCEPTS = Concepts.of(NAMES, Hierarchy.parse(TREE))
probabilities = st.lists(st.floats(1 / 1024, 1, width=32), min_size=7, max_size=7).map(
    lambda raw: np.array(raw, np.float32) / np.float32(sum(raw))
)


@pytest.fixture
def tree(tmp_path) -> Path:
    path = tmp_path / "tree.txt"
    path.write_text(TREE)
    return path


def shown(labelling, *answer: float, exit_: int = 0):
    frame = Frame(np.zeros((4, 4, 3), np.uint8), "s", 0, None, 0.0)
    grouped = labelling.group(np.array(answer, np.float32))
    settled = labelling.settle(frame, Prediction(exit_, grouped, 0.0), final=True)
    assert settled.hedged
    return settled.label, pytest.approx(settled.confidence, abs=1e-5)


def settings_of(hedge: float, tree: Path, **more) -> LabelOptions:
    return LabelOptions(hedge=hedge, hierarchy=tree, **more)


class TestConcepts:
    def test_they_are_the_distinct_sets_of_names_the_most_specific_first(self):
        sizes = dict(zip(CONCEPTS.wide, CONCEPTS.sizes, strict=True))
        assert sizes == {"wild": 2, "thing": 2, "pet": 3, "dog": 3, "animal": 5, ANYTHING: 7}

    def test_one_answer_widens_as_more_is_asked_for(self):
        answer = np.array([0.25, 0.5, 0.15, 0.05, 0.03, 0.01, 0.01], np.float32)
        labels = [CONCEPTS.choose(answer, t) for t in (0.4, 0.6, 0.95, 0.99)]
        assert [name for name, _ in labels] == ["beagle", "pet", "animal", ANYTHING]
        assert [p for _, p in labels] == pytest.approx([0.5, 0.9, 0.98, 1.0])

    def test_a_class_under_two_concepts_counts_once(self):
        """Beagles and spaniels are pets and dogs, and animals once."""
        name, p = CONCEPTS.choose(np.array([0, 0.5, 0.5, 0, 0, 0, 0], np.float32), 0.9)
        assert (name, p) in (("pet", 1.0), ("dog", 1.0))
        even = np.full(7, 1 / 7, np.float32)
        assert CONCEPTS.covers[CONCEPTS.wide.index("animal")] @ even == pytest.approx(5 / 7)

    @given(probabilities)
    def test_wider_is_more_probable(self, answer):
        sums = CONCEPTS.covers @ answer
        for i, one in enumerate(CONCEPTS.covers):
            for j, other in enumerate(CONCEPTS.covers):
                if (one <= other).all():
                    assert sums[i] <= sums[j] + 1e-6

    @given(probabilities, st.lists(st.floats(0.01, 0.99), min_size=2, max_size=8).map(sorted))
    def test_what_is_shown_is_probable_enough_and_nothing_more_specific_is(self, answer, thresholds):
        size = {**dict.fromkeys(NAMES, 1), **dict(zip(CONCEPTS.wide, CONCEPTS.sizes, strict=True))}
        every = dict(zip(NAMES, answer, strict=True)) | dict(zip(CONCEPTS.wide, CONCEPTS.covers @ answer, strict=True))
        chosen = [CONCEPTS.choose(answer, t) for t in thresholds]
        for (name, p), threshold in zip(chosen, thresholds, strict=True):
            assert p >= threshold - 1e-5
            assert not [n for n, q in every.items() if q >= threshold + 1e-5 and size[n] < size[name]]
        for (earlier, _), (later, _) in pairwise(chosen):
            assert size[earlier] <= size[later]

    @given(st.lists(probabilities, min_size=1, max_size=5), st.data())
    @settings(max_examples=50)
    def test_outcomes_are_those_of_choosing(self, answers, data):
        labels = np.array([data.draw(st.integers(0, 6)) for _ in answers])
        thresholds = np.array([0.2, 0.45, 0.7, 0.9])
        right, sizes = outcomes(CONCEPTS, np.stack(answers), labels, thresholds)
        known = {name: {name} for name in NAMES} | {
            concept: {NAMES[i] for i in np.flatnonzero(row)}
            for concept, row in zip(CONCEPTS.wide, CONCEPTS.covers, strict=True)
        }
        for i, answer in enumerate(answers):
            for j, threshold in enumerate(thresholds):
                covered = known[CONCEPTS.choose(answer, threshold)[0]]
                assert sizes[i, j] == len(covered)
                assert right[i, j] == (NAMES[labels[i]] in covered)


class TestLabels:
    def test_the_label_sharpens_as_the_network_gets_surer(self, tree):
        labelling = labelling_from(NAMES, settings_of(0.7, tree))
        assert shown(labelling, 0.2, 0.2, 0.1, 0.1, 0.1, 0.2, 0.1) == ("animal", 0.7)
        assert shown(labelling, 0.2, 0.3, 0.3, 0.1, 0.0, 0.1, 0.0) == ("pet", 0.8)
        assert shown(labelling, 0.1, 0.8, 0.1, 0.0, 0.0, 0.0, 0.0) == ("beagle", 0.8)
        assert shown(labelling, 0.2, 0.1, 0.1, 0.1, 0.1, 0.2, 0.2) == (ANYTHING, 1.0)

    def test_the_answer_still_has_every_class(self, tree):
        labelling = labelling_from(NAMES, settings_of(0.9, tree))
        assert labelling.names == tuple(NAMES)

    def test_groups_fall_under_what_covers_all_of_them(self, tree):
        labelling = labelling_from(
            NAMES, settings_of(0.6, tree, classes=["my dogs=beagle,dingo", "cat", "wolf", "other"])
        )
        assert shown(labelling, 0.1, 0.3, 0.0, 0.2, 0.3, 0.1, 0.0) == ("animal", 0.9)  # neither pet nor wild
        assert shown(labelling, 0.1, 0.4, 0.0, 0.3, 0.1, 0.1, 0.0) == ("my dogs", 0.7)
        assert shown(labelling, 0.2, 0.2, 0.4, 0.1, 0.1, 0.0, 0.0) == ("animal", 0.6)  # spaniels are other here
        assert shown(labelling, 0.1, 0.1, 0.4, 0.0, 0.0, 0.1, 0.3) == ("other", 0.8)

    def test_a_group_by_a_concepts_name_is_that_group(self, tree):
        labelling = labelling_from(NAMES, settings_of(0.6, tree, classes=["animal=cat,beagle", "wolf", "dingo"]))
        assert shown(labelling, 0.2, 0.2, 0.0, 0.3, 0.3, 0.0, 0.0)[0] == "wild"
        assert shown(labelling, 0.3, 0.2, 0.0, 0.3, 0.2, 0.0, 0.0)[0] == ANYTHING

    def test_thresholds_of_the_card_are_used_by_exit(self):
        classes = ["beagle", "basset", "tabby"]  # of which the hierarchy of ImageNet knows every one
        fitted = HedgeCalibration((0.5, 0.7), ((0.55, 0.95), (0.3, 0.45)))
        labelling = labelling_from(classes, LabelOptions(hedge=0.6), hedging=fitted.as_json())
        assert shown(labelling, 0.5, 0.42, 0.08, exit_=0) == ("domestic animal", 1.0)
        assert shown(labelling, 0.5, 0.42, 0.08, exit_=1) == ("beagle", 0.5)

    def test_a_hierarchy_of_ones_own_goes_by_the_probabilities(self, tree):
        fitted = HedgeCalibration((0.5,), ((0.99,),))
        labelling = labelling_from(NAMES, settings_of(0.5, tree), hedging=fitted.as_json())
        assert shown(labelling, 0.6, 0.4, 0, 0, 0, 0, 0) == ("cat", 0.6)

    def test_classes_without_a_hierarchy(self):
        with pytest.raises(UsageError, match="there is no hierarchy for hedged labels; give one with --hierarchy"):
            labelling_from(["rose", "tulip"], LabelOptions(hedge=0.7))

    @pytest.mark.parametrize("hedge", [0.0, 1.0, -0.5, 70.0, float("nan")])
    def test_values_that_make_no_sense(self, hedge):
        with pytest.raises(UsageError, match="hedge must be over 0 and under 1"):
            LabelOptions(hedge=hedge)


def drawn(count: int, sharpness: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers of a network that is too sure of itself, and what is true."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(count, 7)) * 2
    true = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    labels = (true.cumsum(axis=1) > random.random((count, 1))).argmax(axis=1)
    claimed = np.exp(scores * sharpness)
    return (claimed / claimed.sum(1, keepdims=True)).astype(np.float32), labels


class TestThresholds:
    @pytest.mark.parametrize("sharpness", [0.4, 1.0, 2.5])
    def test_labels_are_right_as_often_as_asked_for_on_other_images(self, sharpness):
        """Whether the network is too sure of itself, honest, or too modest."""
        thresholds = fit_thresholds(CONCEPTS, *drawn(3000, sharpness, 0))
        answers, labels = drawn(10_000, sharpness, 1)
        right = outcomes(CONCEPTS, answers, labels, np.array(thresholds))[0].mean(axis=0)
        for target, share in zip(TARGETS, right, strict=True):
            error = (target * (1 - target) / len(labels)) ** 0.5
            assert share >= target - error, f"right {share:.3f} of {target}"
        # and no wider than needed
        assert right[TARGETS.index(0.8)] <= 0.86

    def test_without_them_an_overconfident_network_breaks_the_promise(self):
        """What the thresholds are for: if this fails, the test above shows nothing."""
        answers, labels = drawn(3000, 2.5, 1)
        assert outcomes(CONCEPTS, answers, labels, np.array([0.9]))[0].mean() < 0.86

    def test_they_rise_with_the_target(self):
        thresholds = fit_thresholds(CONCEPTS, *drawn(500, 1.0, 0))
        assert list(thresholds) == sorted(thresholds)

    def test_few_images_allow_few_promises(self):
        thresholds = fit_thresholds(CONCEPTS, *drawn(5, 1.0, 0), targets=(0.5, 0.99))
        assert thresholds[1] == 1.0  # always right: something

    def test_between_targets_the_higher_one_counts(self):
        fitted = HedgeCalibration((0.5, 0.7), ((0.2, 0.4), (0.3, 0.6)))
        assert [fitted.threshold(0, t) for t in (0.1, 0.5, 0.51, 0.7)] == [0.2, 0.2, 0.4, 0.4]
        assert fitted.threshold(1, 0.7) == 0.6
        assert fitted.threshold(1, 0.9) == 0.9
        assert fitted.threshold(7, 0.5) == 0.3  # an exit that was added since: as the last one

    def test_they_survive_the_card(self):
        fitted = HedgeCalibration((0.5, 0.7), ((0.2, 0.4), (0.3, 0.6)))
        assert HedgeCalibration.from_json({**fitted.as_json(), "data": "photographs"}) == fitted

    @pytest.mark.parametrize(
        "value",
        [
            [],
            "x",
            {"targets": [0.5]},
            {"targets": [0.5], "thresholds": []},
            {"targets": [0.5], "thresholds": [[0.5, 0.6]]},
            {"targets": [0.5], "thresholds": [["a"]]},
            {"targets": [0.7, 0.5], "thresholds": [[0.5, 0.6]]},
            {"targets": [0.5], "thresholds": [[float("nan")]]},
        ],
    )
    def test_a_malformed_card(self, value):
        with pytest.raises(CardError, match="'hedging' must hold rising targets"):
            HedgeCalibration.from_json(value)
