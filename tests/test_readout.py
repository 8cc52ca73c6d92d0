from __future__ import annotations

import numpy as np
import pytest

from stream_ann.errors import UsageError
from stream_ann.frames import Prediction
from stream_ann.readout import Average, Best, Latest, readout_named


def prediction(exit_, *probabilities):
    return Prediction(exit_, np.array(probabilities, dtype=np.float32), done_s=float(exit_))


SHALLOW = prediction(0, 0.8, 0.2)
MIDDLE = prediction(1, 0.4, 0.6)
DEEP = prediction(2, 0.3, 0.7)


def test_latest_is_the_one_done_last():
    assert Latest().answer([SHALLOW, MIDDLE]) is MIDDLE


def test_best_is_ordered_by_validated_accuracy_and_the_later_of_equals():
    assert Best([0.5, 0.9, 0.7]).answer([SHALLOW, MIDDLE, DEEP]) is MIDDLE
    assert Best([0.5, 0.9, 0.7]).answer([SHALLOW]) is SHALLOW
    assert Best([0.5, 0.9, 0.9]).answer([SHALLOW, MIDDLE, DEEP]) is DEEP


def test_average_weighs_the_exits_that_are_done():
    mixed = Average([1, 2, 4]).answer([SHALLOW, MIDDLE])
    assert mixed.probabilities == pytest.approx([(0.8 + 2 * 0.4) / 3, (0.2 + 2 * 0.6) / 3])
    assert mixed.probabilities.dtype == np.float32
    assert (mixed.exit, mixed.done_s) == (1, 1.0)


def test_average_of_skipped_exits_uses_their_own_weights():
    mixed = Average([1, 2, 4]).answer([SHALLOW, DEEP])
    assert mixed.probabilities == pytest.approx([(0.8 + 4 * 0.3) / 5, (0.2 + 4 * 0.7) / 5])


@pytest.mark.parametrize("weights", [[], [1, 0], [1, -1], [1, float("nan")]])
def test_average_refuses_weights_that_are_none(weights):
    with pytest.raises(ValueError, match="positive and finite"):
        Average(weights)


class TestByName:
    def test_every_name_gives_its_readout(self):
        assert isinstance(readout_named("latest", exits=2), Latest)
        assert isinstance(readout_named("best", exits=2, accuracies=[0.1, 0.2]), Best)
        assert isinstance(readout_named("average", exits=2), Average)

    def test_average_without_weights_doubles_from_exit_to_exit(self):
        mixed = readout_named("average", exits=2).answer([SHALLOW, MIDDLE])
        assert mixed.probabilities == pytest.approx([(0.8 + 2 * 0.4) / 3, (0.2 + 2 * 0.6) / 3])

    def test_best_needs_every_accuracy(self):
        with pytest.raises(UsageError, match="needs the validated accuracy of every exit"):
            readout_named("best", exits=2, accuracies=[0.1, None])

    def test_unknown_name_gets_the_nearest(self):
        with pytest.raises(UsageError, match="did you mean 'latest'"):
            readout_named("lastest", exits=2)
