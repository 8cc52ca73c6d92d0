from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ann.batching import Allowance, InOrder, Stations


class TestStations:
    @settings(deadline=None, max_examples=150)
    @given(st.data(), st.integers(1, 4), st.integers(1, 7), st.integers(0, 60))
    def test_every_frame_leaves_exactly_once_and_order_is_restored(self, data, members, batch, frames):
        # how many members each frame passes before it is sure
        depth = data.draw(st.lists(st.integers(1, members), min_size=frames, max_size=frames))
        stations: Stations[int] = Stations(members, batch)
        order: InOrder[int] = InOrder()
        passed: Counter[int] = Counter()
        out: list[int] = []

        def run(together):
            assert 1 <= len(together.items) <= batch
            going = []
            for frame in together.items:
                assert passed[frame] == together.station  # no member is skipped, none comes twice
                passed[frame] += 1
                if passed[frame] < depth[frame]:
                    going.append(frame)
                else:
                    out.extend(order.put(frame, frame))
            if going:
                stations.go_on(together.station + 1, going)

        for frame in range(frames):
            stations.add(frame)
            while (together := stations.full()) is not None:
                assert len(together.items) == batch  # while more come, only full batches run
                run(together)
            assert len(stations) < 2 * batch * members
        while (together := stations.rest()) is not None:
            run(together)
        assert out == list(range(frames))
        assert [passed[frame] for frame in range(frames)] == depth
        assert len(stations) == len(order) == 0

    def test_the_deepest_full_batch_runs_first_and_frames_keep_their_order(self):
        stations: Stations[str] = Stations(2, 2)
        stations.add("a")
        assert stations.full() is None
        stations.go_on(1, ["x", "y", "z"])
        stations.add("b")
        found = []
        while (together := stations.full()) is not None:
            found.append((together.station, together.items))
        assert found == [(1, ("x", "y")), (0, ("a", "b"))]
        rest = stations.rest()
        assert rest is not None
        assert (rest.station, rest.items) == (1, ("z",))
        assert stations.rest() is None

    def test_a_full_station_takes_no_more(self):
        stations: Stations[int] = Stations(1, 1)
        stations.add(0)
        with pytest.raises(ValueError, match="run it first"):
            stations.add(1)

    @pytest.mark.parametrize(("count", "batch"), [(0, 1), (1, 0)])
    def test_nonsense_is_refused(self, count, batch):
        with pytest.raises(ValueError, match="at least 1"):
            Stations(count, batch)


def test_a_number_may_come_only_once():
    order: InOrder[str] = InOrder()
    assert list(order.put(1, "b")) == []
    with pytest.raises(ValueError, match="twice"):
        list(order.put(1, "b"))
    assert list(order.put(0, "a")) == ["a", "b"]
    with pytest.raises(ValueError, match="twice"):
        list(order.put(0, "a"))


class TestAllowance:
    def test_without_a_pace_everything_is_affordable(self):
        allowance = Allowance(lambda: None, 1.0)
        allowance.came(3)
        allowance.spent(100.0)
        assert allowance.affordable(3, 5.0) == 3

    def test_frames_pay_for_what_they_bring_along(self):
        allowance = Allowance(lambda: 0.5, 100.0)
        allowance.came(4)  # 2 s
        allowance.spent(0.5)
        assert allowance.affordable(4, 0.5) == 3
        allowance.spent(2.0)
        assert allowance.affordable(4, 0.5) == 0
        allowance.came(4)
        assert allowance.affordable(4, 0.5) == 3

    @settings(deadline=None)
    @given(st.floats(0.001, 1.0), st.lists(st.integers(1, 16), min_size=20, max_size=60))
    def test_on_average_no_more_is_spent_than_came(self, pace_s, batches):
        allowance = Allowance(lambda: pace_s, 1e9)
        spent_s, frames = 0.0, 0
        for count in batches:
            allowance.came(count)
            frames += count
            for each_s in (0.05, 0.2, 0.7):
                count = allowance.affordable(count, each_s)
                allowance.spent(count * each_s)
                spent_s += count * each_s
        assert spent_s <= frames * pace_s + 1e-6

    def test_saved_time_is_kept_within_bounds(self):
        allowance = Allowance(lambda: 1.0, 1.0)
        allowance.came(1_000_000)
        assert allowance.affordable(100, 1.0) == 8
