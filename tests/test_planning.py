"""The dynamic programme of the planned path, against rules that are found and judged by trying everything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ann.scheduler.planning import NOTHING, PROMPTNESS, Problem, solve, successors
from tests.fakes import plan_of_macs


@st.composite
def problems(draw, most_steps=4, most_bins=10):
    """Random plans with members of several steps, random accuracies (not always rising), times and gaps."""
    count = draw(st.integers(1, most_steps))
    members = np.cumsum([0] + [draw(st.integers(0, 1)) for _ in range(count - 1)]).tolist()
    plan = plan_of_macs([1] * count, members=members)
    bins = draw(st.integers(2, most_bins))
    weights = np.array(draw(st.lists(st.integers(0, 5), min_size=bins, max_size=bins)), dtype=float)
    weights[-1] += 1
    pause = draw(st.sampled_from([0.0, 0.05, 0.3]))
    return Problem(
        following=successors(plan),
        accuracies=[draw(st.integers(0, 20)) / 20 for _ in range(count)],
        step_bins=[draw(st.integers(1, 7)) for _ in range(count)],
        gaps=(1 - pause) * weights / weights.sum(),
        pause=pause,
    )


def value_of_everything(p: Problem, late: np.ndarray, start: int) -> float:
    """The best that any sequence of steps and waits can make of a frame that starts at a bin, by trying them all."""
    bins = len(p.gaps)

    def at_least(t: int) -> float:
        return p.pause + float(p.gaps[t:].sum())

    mean = max(1.0, sum(g * q for g, q in enumerate(p.gaps)) + p.pause * bins)

    def promptness(accuracy: float, begin: int, end: int) -> float:
        return PROMPTNESS * accuracy / mean * sum(at_least(t + 1) for t in range(begin, min(end, bins)))

    def run(accuracy: float, j: int, t: int) -> float:
        """Run a step from t on, while ``accuracy`` stands."""
        end = t + p.step_bins[j]
        value = promptness(accuracy, t, end)
        for gap in range(t + 1, min(end, bins)):
            value += p.gaps[gap] * (accuracy + late[end - gap])
        return value + after(j, end)

    def after(i: int, t: int) -> float:
        """Step i was done at t, and the next frame has not come before t."""
        accuracy = p.accuracies[i]
        if t >= bins:
            return p.pause * max(accuracy, *(best_from(j) for j in [i, *p.following[i]]))
        here = p.gaps[t] * accuracy
        waited = promptness(accuracy, t, t + 1) + after(i, t + 1)
        return here + max([waited, *(run(accuracy, j, t) for j in p.following[i])])

    def best_from(i: int) -> float:
        return max([p.accuracies[i], *(best_from(j) for j in p.following[i])])

    value = max(run(0.0, j, start) for j in p.following[-1])
    return value + sum(p.gaps[g] * late[start - g] for g in range(min(start + 1, bins)))


@given(problem=problems(), seed=st.integers(0, 1000))
@settings(max_examples=120, deadline=None)
def test_one_sweep_is_as_good_as_trying_everything(problem, seed):
    longest = max(problem.step_bins)
    late = -np.sort(np.random.default_rng(seed).random(longest + 1))
    late -= late[0]
    solution = solve(problem, sweeps=1, lateness=late)
    expected = [value_of_everything(problem, late, start) for start in range(longest + 1)]
    assert solution.accuracy == pytest.approx(expected[0], abs=1e-9)
    assert solution.lateness == pytest.approx((late + np.array(expected) - expected[0]) / 2, abs=1e-9)


def mean_accuracy(p: Problem, choices: np.ndarray) -> float:
    """What a rule gives in the long run: a Markov chain over how late frames start, each gap walked through."""
    bins, longest, steps = len(p.gaps), max(p.step_bins), len(p.accuracies)
    reward = np.zeros(longest + 1)
    transition = np.zeros((longest + 1, longest + 1))

    def walk(start: int, gap: int) -> tuple[float, int]:
        """The accuracy at the end of a frame's gap, and how late the next one starts."""
        if gap <= start:
            return 0.0, start - gap  # replaced before the engine was free
        last, t = steps, start
        while t < gap:
            j = choices[last, min(t, bins)]
            if j == NOTHING:
                t += 1
                continue
            end = t + p.step_bins[j]
            if end > gap:
                return (0.0 if last == steps else p.accuracies[last]), end - gap
            last, t = j, end
        return p.accuracies[last], 0

    pause_gap = bins + 20 * longest
    for start in range(longest + 1):
        for gap, chance in [*enumerate(p.gaps), (pause_gap, p.pause)]:
            if chance:
                accuracy, late = walk(start, gap)
                reward[start] += chance * accuracy
                transition[start, late] += chance
    many = np.linalg.matrix_power((np.eye(longest + 1) + transition) / 2, 4096)  # lazy, so that no cycle lasts
    return float(many[0] @ reward)  # from a frame in time on


def in_order(p: Problem) -> np.ndarray:
    choices = np.full((len(p.accuracies) + 1, len(p.gaps) + 1), NOTHING)
    for i in range(len(p.accuracies) - 1):
        choices[i] = i + 1
    choices[-1] = 0
    return choices


@given(problem=problems(most_bins=14))
@settings(max_examples=40, deadline=None)
def test_in_the_long_run_never_worse_than_in_order(problem):
    planned = solve(problem, sweeps=200)
    assert mean_accuracy(problem, planned.choices) >= mean_accuracy(problem, in_order(problem)) - 2 * PROMPTNESS


@given(problem=problems())
@settings(max_examples=40, deadline=None)
def test_the_accuracy_promised_is_the_one_kept(problem):
    planned = solve(problem, sweeps=200)
    assert mean_accuracy(problem, planned.choices) == pytest.approx(planned.accuracy, abs=2 * PROMPTNESS)


@given(problem=problems())
@settings(max_examples=40, deadline=None)
def test_rules_keep_to_the_plan(problem):
    choices = solve(problem, sweeps=4).choices
    assert (choices[-1] != NOTHING).all()  # every frame taken runs a first step at once
    for row, allowed in zip(choices, problem.following, strict=True):
        assert set(row.tolist()) <= {NOTHING, *allowed}


def regular(gap: int, step_bins: list[int], accuracies: list[float], **more) -> Problem:
    gaps = np.zeros(gap + 1)
    gaps[gap] = 1.0
    plan = plan_of_macs([1] * len(step_bins))
    return Problem(successors(plan), accuracies, step_bins, gaps, 0.0, **more)


def sequence(problem: Problem) -> list[tuple[int, int]]:
    """The steps of a frame that starts in time, with the bins at which they begin."""
    choices, t, last, steps = solve(problem, sweeps=64).choices, 0, -1, []
    while t < len(problem.gaps):
        if choices[last, t] == NOTHING:
            t += 1
            continue
        last = choices[last, t]
        steps.append((int(last), t))
        t += problem.step_bins[last]
    return steps


class TestRegularCamera:
    def test_a_cheap_member_at_once_and_then_the_largest_that_will_finish(self):
        assert sequence(regular(35, [4, 8, 16, 30], [0.4, 0.6, 0.7, 0.8])) == [(0, 0), (3, 4)]
        assert sequence(regular(30, [4, 8, 16, 32], [0.4, 0.6, 0.7, 0.8])) == [(0, 0), (1, 4), (2, 12)]
        assert sequence(regular(21, [4, 8, 16, 32], [0.4, 0.6, 0.7, 0.8])) == [(0, 0), (2, 4)]

    def test_the_largest_alone_where_that_is_all_there_is_time_for(self):
        assert sequence(regular(33, [4, 8, 16, 30], [0.4, 0.6, 0.7, 0.8])) == [(3, 0)]

    def test_a_step_that_would_only_make_the_next_frame_late_is_left_alone(self):
        assert sequence(regular(20, [4, 8, 40], [0.4, 0.6, 0.9])) == [(0, 0), (1, 4)]

    def test_no_exit_that_is_worse_than_the_one_before(self):
        assert sequence(regular(60, [4, 8, 16], [0.5, 0.3, 0.4])) == [(0, 0)]

    def test_after_the_usual_gap_a_pause_is_used(self):
        problem = regular(20, [4, 8, 40], [0.4, 0.6, 0.9])
        problem = replace(problem, gaps=problem.gaps * 0.98, pause=0.02)
        choices = solve(problem, sweeps=64).choices
        assert choices[1, 12] == NOTHING
        assert choices[1, -1] == 2

    def test_a_deadline_forbids_what_would_end_after_it_but_for_the_first_step(self):
        problem = regular(40, [4, 8, 16, 30], [0.4, 0.6, 0.7, 0.8])
        assert sequence(replace(problem, latest=[21 - s for s in problem.step_bins])) == [(0, 0), (2, 4)]
        assert sequence(replace(problem, latest=[2 - s for s in problem.step_bins])) == [(0, 0)]
