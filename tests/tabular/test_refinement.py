"""Refinement as a Markov chain, against enumeration of paths, simulation and linear algebra."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from slhf.errors import InvalidParameter, InvalidReference
from tabular import PreferenceMatrix, Refinement, refinement_curve, solve_nlhf, solve_slhf
from tests.tabular.strategies import CONDORCET, examples, policies, seeds

pytestmark = pytest.mark.numeric

EQUAL = PreferenceMatrix.from_rankings(["ABC", "BCA", "CAB"])


@st.composite
def sparse_chains(draw, largest=5):
    """A start and a kernel with many zeros, so that there are several classes."""
    rng = np.random.default_rng(draw(seeds))
    n = draw(st.integers(2, largest))
    kernel = rng.dirichlet(np.ones(n), size=n) * (rng.uniform(size=(n, n)) < draw(st.sampled_from([0.3, 0.6, 1.0])))
    kernel[kernel.sum(1) == 0, rng.integers(n)] = 1
    start = rng.dirichlet(np.ones(n)) * (np.arange(n) <= rng.integers(n))
    return start / start.sum(), kernel / kernel.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("tau", "expected"),
    [
        (0, (1 / 3, 2 / 3, 1)),
        (0.01, (0.3333, 0.6667, 1.0000)),
        (0.1, (0.3333, 0.6153, 0.8813)),
        (1, (0.3333, 0.5566, 0.7071)),
    ],
)
def test_a_user_is_served_as_the_example_says(tau, expected):
    chain = Refinement.from_solution(solve_slhf(EQUAL, tau, tau))
    assert_allclose(chain.met(0, 3), expected, atol=6e-5)
    nash = Refinement.resampling(solve_nlhf(EQUAL).policy)
    assert_allclose(nash.met(0, 3), (0.3333, 0.5556, 0.7037), atol=6e-5)
    assert nash.expected_answers(0) == pytest.approx(3)


@examples()
@given(chain=sparse_chains(4), target=seeds)
def test_every_path_counted(chain, target):
    start, kernel = chain
    n, rounds = len(start), 4
    targets = np.random.default_rng(target).uniform(size=n) < 0.4
    distributions, transitions, met = np.zeros((rounds, n)), np.zeros((rounds, n, n)), np.zeros(rounds)
    for path in product(range(n), repeat=rounds):
        probability = start[path[0]] * np.prod([kernel[a, b] for a, b in pairwise(path)])
        for k, answer in enumerate(path):
            distributions[k, answer] += probability
            transitions[k, path[0], answer] += probability
            met[k] += probability * any(targets[list(path[: k + 1])])
    refinement = Refinement.create(start, kernel)
    assert_allclose(refinement.distributions(rounds), distributions, atol=1e-12)
    assert_allclose(start[:, None] * refinement.transitions(rounds), transitions, atol=1e-12)
    assert_allclose(refinement.met(targets, rounds), met, atol=1e-12)


@examples(60)
@given(chain=sparse_chains(), target=seeds)
def test_expected_answers_are_the_sum_of_the_chances_to_be_still_waiting(chain, target):
    start, kernel = chain
    n = len(start)
    targets = np.random.default_rng(target).uniform(size=n) < 0.4
    refinement = Refinement.create(start, kernel)
    # Waiting, after many answers, among states that no path leads out of, is for ever.
    waiting = kernel * ~targets[:, None] * ~targets[None, :]
    left = np.where(targets, 0, start)
    expected = 1.0
    for power in [waiting]:
        total = np.eye(n)
        for _ in range(40):  # sum of all powers up to 2^40 by doubling
            total, power = total + total @ power, power @ power
        expected += (left @ total).sum() if (left @ power).sum() < 1e-12 else np.inf
    assert_allclose(refinement.expected_answers(targets), expected, rtol=1e-9)


@examples(60)
@given(chain=sparse_chains())
def test_classes_and_long_run(chain):
    start, kernel = chain
    n = len(start)
    refinement = Refinement.create(start, kernel)
    classes = refinement.classes()
    assert sorted(s for c in classes for s in c.states) == list(range(n))
    paths = np.linalg.matrix_power((kernel > 0) | np.eye(n, dtype=bool), n) > 0
    for c in classes:
        inside = list(c.states)
        outside = [s for s in range(n) if s not in inside]
        assert paths[np.ix_(inside, inside)].all()
        assert not any(paths[s, t] and paths[t, s] for s in inside for t in outside)
        assert c.closed == (not kernel[np.ix_(inside, outside)].any())
        returns = [k for k in range(1, 3 * n * n + 1) if np.linalg.matrix_power(kernel, k)[inside[0], inside[0]] > 0]
        assert c.period == np.gcd.reduce(returns or [0])
        if c.closed:
            assert_allclose(c.stationary @ kernel, c.stationary, atol=1e-14)
            assert c.stationary.sum() == pytest.approx(1)
            assert set(np.flatnonzero(c.stationary)) == set(inside)
        else:
            assert c.stationary is None
    lazy = np.linalg.matrix_power((kernel + np.eye(n)) / 2, 2**20)  # the Cesaro limit, without periods
    assert_allclose(refinement.long_run(), start @ lazy, atol=1e-9)


def test_at_temperature_zero_refinement_walks_the_cycle_and_never_settles():
    chain = Refinement.from_solution(solve_slhf(CONDORCET, 0, 0))
    assert_allclose(chain.distributions(4), [[1, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]])
    (cycle,) = chain.classes()
    assert (cycle.states, cycle.closed, cycle.period) == ((0, 1, 2), True, 3)
    assert_allclose(chain.long_run(), np.full(3, 1 / 3))
    assert_allclose([chain.expected_answers(t) for t in range(3)], [1, 3, 2], rtol=1e-14)


def test_a_condorcet_winner_absorbs():
    P = PreferenceMatrix.from_rankings(["ABC", "ACB", "CBA"], [3, 2, 4])
    chain = Refinement.from_solution(solve_slhf(P, tau_leader=1, tau_follower=0))
    closed = [c for c in chain.classes() if c.closed]
    assert [c.states for c in closed] == [(0,)]
    assert_allclose(chain.long_run(), [1, 0, 0])
    assert chain.expected_answers(0) < 3
    assert chain.expected_answers([1]) == np.inf


def test_a_user_who_may_wait_for_ever_waits_for_ever_in_expectation():
    chain = Refinement.create([1, 0, 0], [[0, 0.5, 0.5], [0, 1, 0], [0, 0, 1]])
    assert_allclose(chain.met(1, 3), [0, 0.5, 0.5])
    assert chain.expected_answers(1) == np.inf
    assert chain.expected_answers([1, 2]) == 2
    assert chain.expected_answers(0) == 1


def test_from_every_first_answer():
    chain = Refinement.create(np.eye(3), solve_slhf(CONDORCET, 0.1, 0.1).follower)
    further = chain.expected_answers(2) - 1  # first-step equations: 0 at the target, else 1 + the mean of the next
    assert_allclose(further, np.where(np.arange(3) == 2, 0, 1 + chain.kernel[0] @ further), rtol=1e-13)


def test_a_single_answer():
    chain = Refinement.create([1], [[1]])
    (only,) = chain.classes()
    assert (only.states, only.closed, only.period, only.stationary.tolist()) == ((0,), True, 1, [1])
    assert chain.long_run() == chain.expected_answers(0) == 1
    assert chain.expected_answers([False]) == np.inf


def test_small_temperatures_do_not_underflow():
    """The Follower leaves A, the Condorcet winner, once in about exp(.1 / tau) rounds."""
    P = PreferenceMatrix.from_margins(np.array([[0, 0.1, 0.1], [-0.1, 0, 0.05], [-0.1, -0.05, 0]]))
    tau = 2e-4
    chain = Refinement.create([1, 0, 0], np.eye(3))
    chain = Refinement(chain.log_start, solve_slhf(P, tau, tau).log_follower)
    # A -> B, or A -> C: either way the next answer is A or, from C, B with a chance of exp(-.05 / tau)
    assert np.log(chain.expected_answers(1)) == pytest.approx(0.1 / tau, rel=1e-3)
    assert np.log(chain.expected_answers(1)) == pytest.approx(np.log(chain.expected_answers(2)), abs=1e-12)
    assert_allclose(np.log(chain.long_run()[1:]), -0.1 / tau, rtol=1e-3)
    assert [c.states for c in chain.classes()] == [(0, 1, 2)]


def test_simulation_agrees():
    chain = Refinement.from_solution(solve_slhf(CONDORCET, 0.3, 0.3))
    rng, runs, rounds = np.random.default_rng(0), 20_000, 40
    uniforms = rng.uniform(size=(rounds, runs))
    answer = (np.cumsum(chain.start)[:, None] < uniforms[0]).sum(0)
    first = np.where(answer == 2, 1, rounds + 1)
    counts = np.bincount(answer, minlength=3)
    for k in range(1, rounds):
        answer = (np.cumsum(chain.kernel, axis=1)[answer] < uniforms[k][:, None]).sum(1)
        first = np.where((answer == 2) & (first > rounds), k + 1, first)
        counts += np.bincount(answer, minlength=3)
    assert_allclose(chain.met(2, 4), [(first <= k).mean() for k in range(1, 5)], atol=0.012)
    assert chain.expected_answers(2) == pytest.approx(first.mean(), abs=0.05)
    assert_allclose(chain.long_run(), counts / counts.sum(), atol=0.01)


def test_a_batch_is_a_loop():
    P = PreferenceMatrix(np.stack([CONDORCET.p, EQUAL.p]))
    s = solve_slhf(P, 0.1, 0.1)
    batch = Refinement.from_solution(s)
    every = np.eye(3, dtype=bool)[:, None]  # all three targets in both games
    assert batch.met(every, 5).shape == (5, 3, 2)
    for g in range(2):
        one = Refinement.create(s.policy[g], s.follower[g])
        assert_allclose(batch.distributions(5)[:, g], one.distributions(5), atol=1e-15)
        assert_allclose(batch.long_run()[g], one.long_run(), rtol=1e-13)
        for t in range(3):
            assert_allclose(batch.met(every, 5)[:, t, g], one.met(t, 5), atol=1e-15)
            assert_allclose(batch.expected_answers(every)[t, g], one.expected_answers(t), rtol=1e-13)


def test_the_curve_says_what_the_preference_says():
    s = solve_slhf(CONDORCET, 0.1, 0.1)
    chain = Refinement.from_solution(s)
    curve = refinement_curve(CONDORCET, chain, [0], 3)
    assert curve.answers.tolist() == [1, 2, 3]
    assert_allclose(curve.met, chain.met(0, 3))
    assert_allclose(curve.returned, chain.distributions(3)[:, 0])
    pi, omega, p = s.policy, s.follower, CONDORCET.p
    first = sum(pi[i] * omega[i, j] * omega[j, k] * p[k, i] for i, j, k in np.ndindex(3, 3, 3))
    last = sum(pi[i] * omega[i, j] * omega[j, k] * p[k, j] for i, j, k in np.ndindex(3, 3, 3))
    assert_allclose(curve.beats_first, [0.5, s.follower_win_rate, first])
    assert_allclose(curve.beats_previous[1:], [s.follower_win_rate, last])
    assert np.isnan(curve.beats_previous[0])
    assert_allclose(curve.beats_policy, chain.distributions(3) @ p @ pi)
    third = pi @ omega @ omega
    assert curve.exploitability[2] == pytest.approx(max(p @ third) - 0.5)
    against_b = refinement_curve(CONDORCET, chain, 0, 2, policy=[0, 1, 0])
    assert_allclose(against_b.beats_policy, chain.distributions(2) @ p[:, 1])


def test_an_improved_answer_can_be_more_exploitable_than_what_it_improves_on():
    """The Follower's reply beats the Leader's answer, and loses by more to the best reply."""
    curve = refinement_curve(CONDORCET, Refinement.from_solution(solve_slhf(CONDORCET, 0, 0)), 0, 4)
    assert_allclose(curve.beats_first, [0.5, 0.6, 0.35, 0.5])  # three improvements lead back to A
    assert_allclose(curve.beats_previous[1:], [0.6, 0.75, 0.65])
    assert_allclose(curve.exploitability, [0.1, 0.25, 0.15, 0.1])


@pytest.mark.parametrize("targets", [3, -1, [], [0.5], [True, False], "A"])
def test_bad_targets_are_refused(targets):
    with pytest.raises(InvalidParameter, match="targets"):
        Refinement.from_solution(solve_slhf(CONDORCET)).met(targets, 2)


def test_bad_chains_are_refused():
    with pytest.raises(InvalidReference, match="kernel"):
        Refinement.create([0.5, 0.5], [[0.5, 0.6], [0.5, 0.5]])
    with pytest.raises(InvalidReference, match="start"):
        Refinement.create([0.5, 0.6], np.eye(2))
    with pytest.raises(InvalidReference, match="kernel"):
        Refinement.create([0.5, 0.5], np.eye(3))
    chain = Refinement.create(policies((2, 3), 0), policies((2, 3, 3), 1))
    with pytest.raises(InvalidParameter, match="one chain"):
        chain.classes()
    with pytest.raises(InvalidParameter, match="one chain"):
        refinement_curve(CONDORCET, chain, 0, 2)
    with pytest.raises(InvalidParameter, match="rounds"):
        chain.distributions(0)
