from __future__ import annotations

import pytest
import torch

from stream_ann.errors import UsageError
from stream_ann.nets import build
from stream_ann.preprocess import Preprocessing
from stream_ann.training.assemble import assemble
from stream_ann.training.augment import Augment
from stream_ann.training.distributed import Group
from stream_ann.training.eann_bound import measured_competitive_ratio, paper_bound, simulate
from stream_ann.training.made import synthetic
from stream_ann.training.options import TrainOptions
from stream_ann.training.trainer import Trainer
from stream_ann.training.validation import validate


class TestPaperBound:
    def test_values_of_the_paper(self):
        two, four = paper_bound(2), paper_bound(4)
        assert (two.sup, two.mean) == (3.0, pytest.approx(2.443, abs=1e-3))
        assert (four.sup, four.mean) == (pytest.approx(2.333, abs=1e-3), pytest.approx(1.671, abs=2e-3))

    @pytest.mark.parametrize("b", [1, 0.5])
    def test_members_must_grow(self, b):
        with pytest.raises(UsageError, match="it must be more than 1"):
            paper_bound(b)

    @pytest.mark.parametrize("b", [2, 4])
    def test_a_simulated_eann_approaches_it_from_below(self, b):
        bound = paper_bound(b)
        few, many = simulate(b, members=3), simulate(b, members=16)
        assert few.sup < many.sup
        assert many.sup == pytest.approx(bound.sup, rel=5e-3)
        assert many.mean == pytest.approx(bound.mean, rel=5e-3)
        assert few.mean < bound.mean
        assert few.sup < bound.sup

    def test_it_does_not_matter_how_accuracy_grows_with_cost(self):
        one = simulate(2, members=10)
        two = simulate(2, members=10, accuracy_at=lambda cost: cost**0.1)
        assert (one.sup, one.mean) == (pytest.approx(two.sup, rel=1e-4), pytest.approx(two.mean, rel=1e-4))


class TestMeasured:
    def test_the_oracle_itself_is_one_competitive_at_its_own_costs(self):
        # up to a budget of 2 as good as the first network, which is the best below a cost of 2
        found = measured_competitive_ratio([1, 2], [0.5, 0.6], [1, 2], [0.5, 0.6])
        assert found.sup == 1.0
        assert found.mean == pytest.approx(1.5 / 2)

    def test_by_hand(self):
        # Answers: 0.5 from 2 to 6, 0.7 from 6 to 10, and 0.6 never shows. OPT is better than 0.5 from cost 2 on,
        # better than 0.7 from cost 8 on.
        found = measured_competitive_ratio([2, 6, 7], [0.5, 0.7, 0.6], [8, 1, 2, 4], [0.8, 0.5, 0.6, 0.7], up_to=10)
        assert found.sup == 6 / 2
        area = (6**2 - 2**2) / 2 / 2 + (10**2 - 6**2) / 2 / 8
        assert found.mean == pytest.approx(area / 8)

    def test_better_than_all_networks_known(self):
        found = measured_competitive_ratio([4], [0.9], [1, 2], [0.5, 0.6])
        assert found.sup == found.mean == 2

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (([2, 1], [0.5, 0.6], [1], [0.5]), "costs must rise"),
            (([], [], [1], [0.5]), "a plan of 0 costs"),
            (([1], [0.5], [], []), "an oracle of 0 costs"),
            (([1], [0.5], [1, 2], [0.5]), "an oracle of 2 costs and 1 accuracies"),
        ],
    )
    def test_numbers_that_do_not_go_together(self, arguments, complaint):
        with pytest.raises(UsageError, match=complaint):
            measured_competitive_ratio(*arguments)

    def test_budgets_must_go_to_the_end(self):
        with pytest.raises(UsageError, match="budgets up to 1 for a plan of cost 2"):
            measured_competitive_ratio([2], [0.5], [1], [0.5], up_to=1)


def small(n, c=4):
    torch.manual_seed(n)
    return build({"name": "resann", "classes": 4, "n": n, "c": c, "s": 1, "resolution_px": 16})


class TestAssemble:
    def test_copies_weights_and_orders_exits(self):
        members = {"small": small(1), "large": small(3)}
        net = assemble(members)
        assert net.plan().exit_names[2:4] == ("small@16 3", "large@16 1")
        images = torch.rand(2, 3, 16, 16)
        assert torch.equal(net(images)[2], members["small"].eval()(images)[2])
        assert net.trunks["small"] is not members["small"]
        assert not net.training

    def test_refuses_costs_that_do_not_grow(self):
        with pytest.raises(UsageError, match=r"member 'b' costs .* million multiply-accumulates, 'a' .*cheaper first"):
            assemble({"a": small(3), "b": small(1)})

    def test_refuses_none_and_nets_of_several_members(self):
        with pytest.raises(UsageError, match="an EANN of no members"):
            assemble({})
        eann = assemble({"small": small(1), "large": small(3)})
        with pytest.raises(UsageError, match="'all' has 2 members"):
            assemble({"all": eann})


def test_trained_members_against_networks_trained_for_one_depth():
    """Members of doubling cost, trained, assembled, and measured against OPT on the same images."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    data = synthetic(4, 320, 16, 0)
    preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3, crop=1.0)
    cpu = torch.device("cpu")

    def trained(net, weighting):
        options = TrainOptions(epochs=2, batch_size=32, lr=0.1, device="cpu", weighting=weighting)
        run = Trainer(net, data, preprocessing, options, augment=Augment(flip=0.5, crop_padding_px=1))
        run.run()
        return run.trained()

    def accuracies(net):
        return validate(net, data.val, preprocessing, device=cpu, batch_size=80, amp="float32", group=Group())[1]

    eann = assemble({"first": trained(small(1, c=8), "sieve"), "second": trained(small(2, c=8), "sieve-member")})
    plan = eann.plan()
    opt_costs, opt_accuracies = [], []
    for n, exit_number in ((1, 1), (2, 2), (2, 6)):
        net = trained(small(n, c=8), f"opt:{exit_number}")
        opt_costs.append(net.plan().cumulative_macs[exit_number - 1])
        opt_accuracies.append(accuracies(net)[exit_number - 1])
    found = measured_competitive_ratio(plan.cumulative_macs, accuracies(eann), opt_costs, opt_accuracies)
    torch.set_num_threads(threads)
    assert 2.0 < plan.cumulative_macs[-1] / sum(step.macs for step in plan.steps[:3]) < 4.0
    assert max(accuracies(eann)) > 0.5
    # A run this small says little about the method; the figure must be possible, though: no answer can be worse than
    # that of the cheapest network after the whole plan, nor better than the best one before the first exit.
    assert plan.cumulative_macs[0] / max(opt_costs) <= found.mean <= found.sup
    assert found.sup <= plan.cumulative_macs[-1] / min(opt_costs)
