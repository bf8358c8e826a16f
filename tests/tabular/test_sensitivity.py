"""Derivatives of the solutions, against differences of the solvers themselves."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from slhf.errors import InvalidParameter, InvalidPreferences
from tabular import (
    PreferenceMatrix,
    condition,
    influence,
    nlhf_sensitivity,
    rlhf_sensitivity,
    slhf_sensitivity,
    solve_nlhf,
    solve_rlhf,
    solve_slhf,
)
from tabular.sensitivity import LARGEST_CONDITION
from tests.tabular.strategies import CONDORCET, examples, games, policies, seeds, single_games, temperatures

pytestmark = pytest.mark.numeric


def inside(P):
    """The same game with room for every preference to move both ways."""
    return PreferenceMatrix.from_margins(0.9 * P.margins)


def random_direction(shape, seed):
    """Antisymmetric, entries in [-1, 1]."""
    d = np.triu(np.random.default_rng(seed).uniform(-1, 1, size=shape), 1)
    return d - np.swapaxes(d, -1, -2)


def difference(solve, P, direction, step):
    """The slope of ``solve`` along the direction, to fourth order in the step."""

    def at(t):
        return np.asarray(solve(PreferenceMatrix.from_margins(P.margins + t * direction)))

    return (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)


def assert_slope(derivative, solve, P, direction, tau):
    expected = difference(solve, P, direction, 1e-3 * tau)
    assert_allclose(derivative, expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max() + 1e-9)


@examples(40)
@given(P=games(), tau_leader=temperatures, tau_follower=temperatures, seed=seeds)
def test_slhf(P, tau_leader, tau_follower, seed):
    P = inside(P)
    arguments = tau_leader, tau_follower, policies(P.p.shape[:-1], seed), policies(P.p.shape, seed + 1)
    found, d = slhf_sensitivity(P, *arguments), random_direction(P.p.shape, seed + 2)
    tau = min(tau_leader, tau_follower)
    assert_slope(found.policy.along(d), lambda P: solve_slhf(P, *arguments).policy, P, d, tau)
    assert_slope(found.follower.along(d), lambda P: solve_slhf(P, *arguments).follower, P, d, tau)
    assert_slope(found.follower_value.along(d), lambda P: solve_slhf(P, *arguments).follower_value, P, d, tau)
    assert_slope(found.value.along(d)[..., 0], lambda P: solve_slhf(P, *arguments).value, P, d, tau)


@examples(40)
@given(P=games(), tau=temperatures, seed=seeds)
def test_nlhf(P, tau, seed):
    P, reference = inside(P), policies(P.p.shape[:-1], seed)
    found, d = nlhf_sensitivity(P, tau, reference), random_direction(P.p.shape, seed + 2)
    assert_slope(found.policy.along(d), lambda P: solve_nlhf(P, tau, reference).policy, P, d, tau)


@examples(40)
@given(P=games(), tau=temperatures, l2=st.sampled_from([0.0, 0.1]), seed=seeds)
def test_rlhf(P, tau, l2, seed):
    P = inside(P)
    weights = np.random.default_rng(seed).uniform(0.1, 2, size=P.p.shape)
    arguments = tau, policies(P.p.shape[:-1], seed), weights + np.swapaxes(weights, -1, -2), l2
    found, d = rlhf_sensitivity(P, *arguments), random_direction(P.p.shape, seed + 2)
    assert_slope(found.reward.along(d), lambda P: solve_rlhf(P, *arguments).reward, P, d, tau)
    assert_slope(found.policy.along(d), lambda P: solve_rlhf(P, *arguments).policy, P, d, tau)
    assert_allclose(found.reward.gain.sum(-2), np.zeros(P.p.shape[:-1]), atol=1e-10)


def test_pairs_never_asked_do_not_matter_to_rlhf():
    asked = 1 - np.eye(3)
    asked[0, 2] = asked[2, 0] = 0
    found = rlhf_sensitivity(CONDORCET, 1, pair_weights=asked)
    assert_allclose(found.policy.jacobian()[:, 0, 2], 0)
    assert np.abs(found.policy.jacobian()[:, 0, 1]).max() > 0.1


@examples()
@given(P=games(sizes=(2, 5)), tau=temperatures, seed=seeds)
def test_jacobian_gradient_and_along_are_the_same_derivative(P, tau, seed):
    for found in (
        slhf_sensitivity(P, tau, tau).policy,
        slhf_sensitivity(P, tau, tau).value,
        nlhf_sensitivity(P, tau).policy,
        rlhf_sensitivity(inside(P), tau).reward,
    ):
        jacobian, d = found.jacobian(), random_direction(P.p.shape, seed)
        assert_allclose(np.einsum("...kij,...ij->...k", jacobian, np.triu(d)), found.along(d), atol=1e-9)
        weights = np.random.default_rng(seed).normal(size=jacobian.shape[:-2])
        assert_allclose(np.einsum("...k,...kij->...ij", weights, jacobian), found.gradient(weights), atol=1e-9)


@examples()
@given(P=single_games(), tau_leader=temperatures, tau_follower=temperatures, seed=seeds)
def test_envelope(P, tau_leader, tau_follower, seed):
    """d value / d p(i > j) = pi(i) omega(j|i), and minus the same with i and j exchanged along a pair."""
    refs = policies(P.p.shape[:-1], seed), policies(P.p.shape, seed + 1)
    found = slhf_sensitivity(P, tau_leader, tau_follower, *refs)
    single = found.solution.policy[:, None] * found.solution.follower
    assert_allclose(found.value.gain[0, :, None] * found.value.exposure, single, atol=1e-15)
    assert_allclose(found.value.jacobian()[0], single - single.T, atol=1e-15)


@examples(20)
@given(P=single_games(sizes=(2, 4)), tau=temperatures, seed=seeds)
def test_the_condition_number_is_the_worst_vertex(P, tau, seed):
    P = inside(P)
    i, j = np.triu_indices(P.n, 1)
    vertices = np.zeros((2 ** len(i), P.n, P.n))
    vertices[:, i, j] = list(product([1, -1], repeat=len(i)))
    vertices -= np.swapaxes(vertices, -1, -2)
    for found in (slhf_sensitivity(P, tau, tau), nlhf_sensitivity(P, tau), rlhf_sensitivity(P, tau)):
        worst = condition(found.policy)
        changes = np.abs(found.policy.along(vertices)).sum(-1) / 2
        assert worst.number == pytest.approx(changes.max(), rel=1e-9, abs=1e-12)
        assert np.abs(found.policy.along(worst.direction)).sum() / 2 == pytest.approx(worst.number, rel=1e-9)
        assert np.abs(worst.direction).max() <= 1


def test_condition_of_a_batch_and_of_a_large_game():
    P = PreferenceMatrix(np.stack([CONDORCET.p, inside(CONDORCET).p]))
    batch = condition(nlhf_sensitivity(P, 0.1).policy)
    for g in range(2):
        one = condition(nlhf_sensitivity(PreferenceMatrix(P.p[g]), 0.1).policy)
        assert batch.number[g] == pytest.approx(one.number)
        assert_allclose(batch.direction[g], one.direction)
    n = LARGEST_CONDITION + 1
    with pytest.raises(InvalidParameter, match="at most 16"):
        condition(nlhf_sensitivity(PreferenceMatrix(np.full((n, n), 0.5)), 0.1).policy)


def test_influence_names_the_pair_that_matters():
    """The Leader's choice between A and B turns on their worst duels, A against C and B against A."""
    table = influence(CONDORCET, slhf_sensitivity(CONDORCET, 0.05, 0.01).policy)
    assert sorted(zip(table["first"], table["second"], strict=True)) == list(combinations("ABC", 2))
    assert table.influence.is_monotonic_decreasing
    last = table.iloc[-1]
    assert (last["first"], last["second"]) == ("B", "C")
    jacobian = slhf_sensitivity(CONDORCET, 0.05, 0.01).policy.jacobian()
    row = table[(table["first"] == "A") & (table["second"] == "C")].iloc[0]
    assert row.preference == pytest.approx(0.4)
    assert row.influence == pytest.approx(np.abs(jacobian[:, 0, 2]).sum() / 2)
    assert (row.gains, row.loses) == ("A", "B")


def test_what_cannot_be_asked_is_refused():
    for call in (
        lambda: slhf_sensitivity(CONDORCET, 0, 0.1),
        lambda: slhf_sensitivity(CONDORCET, 0.1, 0),
        lambda: nlhf_sensitivity(CONDORCET, 0),
        lambda: rlhf_sensitivity(CONDORCET, 0),
    ):
        with pytest.raises(InvalidParameter, match="= 0: the solution jumps"):
            call()
    found = nlhf_sensitivity(CONDORCET, 0.1).policy
    for direction in (np.ones((3, 3)), np.ones(3)):
        with pytest.raises(InvalidPreferences, match="antisymmetric"):
            found.along(direction)
    with pytest.raises(InvalidParameter, match="one game"):
        influence(PreferenceMatrix(CONDORCET.p[None]), found)
