"""solve_slhf and the game behind it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from numpy.testing import assert_allclose, assert_array_equal

from slhf.errors import InvalidParameter, InvalidReference
from tabular import PreferenceMatrix, compiled, duality_gap, solve_slhf, stackelberg
from tabular.policies import best_response_value
from tabular.stackelberg import StackelbergGame
from tests.tabular.strategies import (
    CONDORCET,
    complete,
    examples,
    games,
    policies,
    seeds,
    single_games,
    temperatures,
    temperatures_or_zero,
)

pytestmark = pytest.mark.numeric


def references(P, seed):
    return policies(P.p.shape[:-1], seed), policies(P.p.shape, seed + 1)


@examples()
@given(P=games(), tau_leader=temperatures_or_zero, tau_follower=temperatures_or_zero, seed=seeds)
def test_solution_is_certified(P, tau_leader, tau_follower, seed):
    s = solve_slhf(P, tau_leader, tau_follower, *references(P, seed))
    assert s.policy.shape == P.p.shape[:-1]
    assert s.follower.shape == P.p.shape
    assert s.value.shape == s.certificate.gap.shape == P.batch_shape
    assert_allclose(s.policy.sum(-1), np.ones(P.batch_shape))
    assert_allclose(s.follower.sum(-1), np.ones(s.policy.shape))
    assert np.all(np.abs(s.certificate.gap) < 1e-11)
    assert np.all(np.abs(s.certificate.residual) < 1e-11)
    assert_array_equal(s.support, s.policy > 0)


@examples()
@given(P=single_games(), tau_leader=temperatures_or_zero, tau_follower=temperatures_or_zero, seed=seeds)
def test_no_pair_of_policies_has_a_negative_gap_and_the_value_lies_between_the_best_responses(
    P, tau_leader, tau_follower, seed
):
    leader_ref, follower_ref = references(P, seed)
    policy, follower = references(P, seed + 2)
    gap = duality_gap(P, policy, follower, tau_leader, tau_follower, leader_ref, follower_ref)
    assert gap >= -1e-14
    game = StackelbergGame.create(P, tau_leader, tau_follower, leader_ref, follower_ref)
    value = solve_slhf(P, tau_leader, tau_follower, leader_ref, follower_ref).value
    assert game.leader_best_response_value(np.log(follower)) >= value - 1e-12
    assert game.follower_best_response_value(np.log(policy)) <= value + 1e-12


@examples(15)
@given(P=single_games(sizes=(2, 4)), tau_leader=temperatures, tau_follower=temperatures, seed=seeds)
def test_objective_is_the_papers(P, tau_leader, tau_follower, seed):
    """Eq. 5 as a loop, and the solution's value as the objective at the solution."""
    leader_ref, follower_ref = references(P, seed)
    policy, follower = references(P, seed + 2)
    game = StackelbergGame.create(P, tau_leader, tau_follower, leader_ref, follower_ref)
    expected = 0.0
    for y in range(P.n):
        expected -= tau_leader * policy[y] * np.log(policy[y] / leader_ref[y])
        for z in range(P.n):
            price = tau_follower * np.log(follower[y, z] / follower_ref[y, z])
            expected += policy[y] * follower[y, z] * (P.p[y, z] + price)
    assert game.objective(np.log(policy), np.log(follower)) == pytest.approx(expected, abs=1e-12)
    s = solve_slhf(P, tau_leader, tau_follower, leader_ref, follower_ref)
    assert game.objective(s.log_policy, s.log_follower) == pytest.approx(s.value, abs=1e-12)


@examples()
@given(P=games(), tau_leader=temperatures_or_zero, tau_follower=temperatures_or_zero, seed=seeds)
def test_permuting_the_actions_permutes_the_solution(P, tau_leader, tau_follower, seed):
    order = np.random.default_rng(seed).permutation(P.n)
    leader_ref, follower_ref = references(P, seed)
    s = solve_slhf(P, tau_leader, tau_follower, leader_ref, follower_ref)
    renamed = solve_slhf(
        PreferenceMatrix(P.p[..., order[:, None], order]),
        tau_leader,
        tau_follower,
        leader_ref[..., order],
        follower_ref[..., order[:, None], order],
    )
    assert_allclose(renamed.policy, s.policy[..., order], atol=1e-12)
    assert_allclose(renamed.follower, s.follower[..., order[:, None], order], atol=1e-12)


@examples(15)
@given(P=games(batches=((3,), (2, 2))), tau_leader=temperatures_or_zero, tau_follower=temperatures_or_zero, seed=seeds)
def test_a_batch_is_a_loop_and_inputs_are_left_alone(P, tau_leader, tau_follower, seed):
    leader_ref, follower_ref = references(P, seed)
    before = leader_ref.copy(), follower_ref.copy(), P.p.copy()
    batched = solve_slhf(P, tau_leader, tau_follower, leader_ref, follower_ref)
    for index in np.ndindex(P.batch_shape):
        one = solve_slhf(PreferenceMatrix(P.p[index]), tau_leader, tau_follower, leader_ref[index], follower_ref[index])
        for name in ("policy", "follower", "follower_value", "value", "follower_win_rate", "support"):
            assert_allclose(getattr(batched, name)[index], getattr(one, name), rtol=1e-13, atol=1e-15)
    for old, new in zip(before, (leader_ref, follower_ref, P.p), strict=True):
        assert_array_equal(old, new)


@examples()
@given(P=games(), tau=temperatures_or_zero, seed=seeds)
def test_the_leader_earns_at_most_half_against_a_follower_with_its_own_reference(P, tau, seed):
    leader_ref = policies(P.p.shape[:-1], seed)
    s = solve_slhf(P, tau, tau, leader_ref, np.repeat(leader_ref[..., None, :], P.n, axis=-2))
    assert np.all(s.value <= 0.5 + 1e-12)


def test_with_another_follower_reference_it_can_earn_more():
    s = solve_slhf(CONDORCET, 0.1, 100, follower_reference=[0.01, 0.01, 0.98])
    assert s.value > 0.5


@examples()
@given(P=games(), tau_leader=temperatures_or_zero, tau_follower=temperatures_or_zero, seed=seeds)
def test_the_follower_improves_on_its_reference_at_every_action(P, tau_leader, tau_follower, seed):
    leader_ref, follower_ref = references(P, seed)
    s = solve_slhf(P, tau_leader, tau_follower, leader_ref, follower_ref)
    wins = np.sum(s.follower * (1 - P.p), -1) - np.sum(follower_ref * (1 - P.p), -1)
    assert np.all(wins >= -1e-13)


@examples(15)
@given(P=single_games(sizes=(2, 4)), tau_leader=temperatures, tau_follower=temperatures, seed=seeds)
def test_envelope(P, tau_leader, tau_follower, seed):
    """d value / d p(i > j) = pi(i) omega(j|i), entries moved one at a time."""
    refs = references(P, seed)
    s = solve_slhf(P, tau_leader, tau_follower, *refs)

    def value(p):
        game = StackelbergGame(p, tau_leader, tau_follower, np.log(refs[0]), np.log(refs[1]))
        return best_response_value(game.follower_value(), game.log_leader_reference, tau_leader)

    step = 1e-6
    for i, j in np.ndindex(P.p.shape):
        move = np.zeros_like(P.p)
        move[i, j] = step
        slope = (value(P.p + move) - value(P.p - move)) / (2 * step)
        assert slope == pytest.approx(s.policy[i] * s.follower[i, j], abs=1e-6)


@examples()
@given(P=single_games(sizes=(2, 5)), tau_leader=temperatures, tau_follower=temperatures, seed=seeds)
def test_splitting_an_action_into_clones_leaves_the_totals(P, tau_leader, tau_follower, seed):
    leader_ref, follower_ref = references(P, seed)
    original = np.r_[np.arange(P.n), 0]  # the last action is a copy of the first
    split = np.where(original == 0, 0.5, 1.0)
    s = solve_slhf(P, tau_leader, tau_follower, leader_ref, follower_ref)
    cloned = solve_slhf(
        PreferenceMatrix(P.p[original[:, None], original]),
        tau_leader,
        tau_follower,
        leader_ref[original] * split,
        follower_ref[original[:, None], original] * split,
    )
    assert_allclose(np.bincount(original, cloned.policy), s.policy, atol=1e-12)
    assert cloned.value == pytest.approx(s.value, abs=1e-12)


@examples()
@given(P=games(), seed=seeds)
def test_at_high_temperature_both_sides_stay_at_their_references(P, seed):
    leader_ref, follower_ref = references(P, seed)
    s = solve_slhf(P, 1e6, 1e6, leader_ref, follower_ref)
    assert_allclose(s.policy, leader_ref, atol=1e-5)
    assert_allclose(s.follower, follower_ref, atol=1e-5)


@examples()
@given(P=single_games(kinds=("uniform", "coarse", "mallows", "clones")), seed=seeds)
def test_at_temperature_zero_the_leader_restricts_its_reference_to_the_simpson_set(P, seed):
    leader_ref, follower_ref = references(P, seed)
    s = solve_slhf(P, 0, 0, leader_ref, follower_ref)
    worst = P.p.min(1)
    best = np.isclose(worst, worst.max(), atol=1e-12, rtol=0)
    assert_array_equal(s.support, best)
    assert_allclose(s.policy, np.where(best, leader_ref, 0) / leader_ref[best].sum())
    assert s.value == pytest.approx(worst.max())
    replies = np.isclose(P.p, worst[:, None], atol=1e-12, rtol=0)
    assert_allclose(s.follower, np.where(replies, follower_ref, 0) / np.sum(follower_ref * replies, 1, keepdims=True))
    assert (s.value > 0.5 - 1e-12) == np.any((P.p >= 0.5 - 1e-12).all(1))  # iff a weak Condorcet winner


@examples()
@given(P=single_games(kinds=("coarse", "clones")), seed=seeds)
def test_limit_within_the_simpson_set(P, seed):
    """tau_L = tau_F -> 0 gives pi_ref(y) / m(y), with m(y) the reference mass of the best replies to y."""
    leader_ref, follower_ref = references(P, seed)
    worst = P.p.min(1)
    replies = np.isclose(P.p, worst[:, None], atol=1e-12)
    weight = np.where(np.isclose(worst, worst.max()), leader_ref / np.sum(follower_ref * replies, 1), 0)
    s = solve_slhf(P, 1e-5, 1e-5, leader_ref, follower_ref)
    assert_allclose(s.policy, weight / weight.sum(), atol=1e-8)


def test_a_condorcet_winner_leads_with_value_half():
    P = PreferenceMatrix.from_rankings(["ABC", "ABC", "CBA"])
    s = solve_slhf(P, 0, 0)
    assert_allclose(s.policy, [1, 0, 0])
    assert s.value == 0.5


def test_scores_that_differ_by_rounding_are_ties():
    third = 0.1 + 0.2  # .30000000000000004
    P = PreferenceMatrix([[0.5, 0.3, 0.9], [0.7, 0.5, third], [0.1, 1 - third, 0.5]])
    s = solve_slhf(P, 0, 0)
    assert s.support.tolist() == [True, True, False]
    assert_allclose(s.policy, [0.5, 0.5, 0])
    assert s.certificate.worst() < 1e-15


def test_references_are_normalised_to_the_last_digit():
    reference = np.array([0.2, 0.3, 0.5]) * (1 + 5e-10)
    game = StackelbergGame.create(CONDORCET, 0.1, 0.1, leader_reference=reference)
    assert np.exp(game.log_leader_reference).sum() == pytest.approx(1, abs=1e-15)


def test_one_side_at_temperature_zero():
    s = solve_slhf(CONDORCET, 0, 0.1)
    assert_allclose(s.policy, [1, 0, 0])
    assert s.value == s.follower_value.max()
    t = solve_slhf(CONDORCET, 0.1, 0)
    weights = np.exp(np.array([0.4, 0.35, 0.25]) / 0.1)
    assert_allclose(t.policy, weights / weights.sum())


def test_extreme_temperatures_stay_finite():
    s = solve_slhf(CONDORCET, 1e-9, 1e-9)
    assert_allclose(s.policy, [1, 0, 0])
    assert np.isfinite(s.log_policy).all()
    assert s.value == pytest.approx(0.4, abs=1e-8)
    assert abs(s.certificate.gap) < 1e-15


def test_at_temperature_zero_references_may_have_zeros_but_must_be_able_to_choose():
    assert_allclose(solve_slhf(CONDORCET, 0, 0, leader_reference=[0.5, 0.5, 0]).policy, [1, 0, 0])
    with pytest.raises(InvalidReference, match="no probability to any optimal action"):
        solve_slhf(CONDORCET, 0, 0, leader_reference=[0, 0.5, 0.5])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tau_leader": -0.1}, InvalidParameter, "tau_leader = -0.1: must not be negative"),
        ({"tau_follower": np.inf}, InvalidParameter, "tau_follower = inf: must be a finite number"),
        ({"tau_follower": 1e-13}, InvalidParameter, "cannot tell it from 0"),
        ({"tau_leader": "0.1"}, InvalidParameter, "tau_leader = '0.1'"),
        ({"leader_reference": [0.5, 0.5]}, InvalidReference, r"leader_reference has shape \(2,\)"),
        ({"leader_reference": [0.5, 0.2, 0.2]}, InvalidReference, "leader_reference sums to 0.9"),
        ({"leader_reference": [0.5, 0.5, 0]}, InvalidReference, r"leader_reference\(2,\) = 0"),
        ({"leader_reference": [1.5, -0.5, 0]}, InvalidReference, r"leader_reference\(1,\) = -0.5"),
        ({"follower_reference": np.full((2, 3), 1 / 3)}, InvalidReference, r"follower_reference has shape \(2, 3\)"),
        ({"follower_reference": np.full((3, 3), 1 / 2)}, InvalidReference, r"follower_reference\(0,\) sums to 1.5"),
        ({"follower_reference": "uniform"}, InvalidReference, "follower_reference cannot be read"),
    ],
)
def test_bad_arguments_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        solve_slhf(CONDORCET, **options)


@pytest.mark.parametrize("n", [3, 300])
@pytest.mark.parametrize("tau", [0.0, 0.1])
def test_the_certificate_measures_the_policies_that_are_returned(monkeypatch, n, tau):
    """A Follower that strays from its best reply, without a word to the certificate, is found out."""
    respond = stackelberg.respond

    def careless(score, log_ref, tau, **options):
        best = respond(score, log_ref, tau, **options)
        if score.shape[-2:] != (n, n) and score.ndim < 3:
            return best
        return best._replace(log_policy=log_ref + 0.0, policy=np.exp(log_ref))

    p = complete(np.random.default_rng(0).uniform(size=(2, n, n)))
    monkeypatch.setattr(stackelberg, "respond", careless)
    monkeypatch.setattr(compiled.SLHF, "for_games", lambda *_: None)  # its loops have a reply of their own
    certificate = solve_slhf(PreferenceMatrix(p), tau, tau).certificate
    assert np.all(certificate.gap > 0.01)
    assert np.all(certificate.residual > 0.01)


@pytest.mark.parametrize("shape", [(300, 300), (3, 200, 200), (20, 70, 70), (2, 3000, 4, 4)])
@pytest.mark.parametrize("tau", [0.0, 1e-4, 0.1])
def test_blocks_do_not_show(shape, tau):
    """Games larger than a block have the answers of the whole computed at once."""
    P = PreferenceMatrix(complete(np.random.default_rng(1).integers(0, 5, size=shape) / 4))
    reference = policies(shape[-2:], 0)
    s = solve_slhf(P, tau, tau, follower_reference=reference)
    whole = stackelberg._follower_side(P.p, np.broadcast_to(np.log(reference), shape), tau)
    assert_allclose(s.follower, whole.follower, atol=1e-14)
    assert_allclose(s.log_follower, whole.log_follower, atol=1e-10)
    assert_allclose(s.follower_value, whole.value, atol=1e-14)
    assert s.certificate.gap.shape == shape[:-2]
    assert np.all(np.abs(s.certificate.gap) < 1e-12)
    assert np.all(s.certificate.residual < 1e-12)


def test_an_unable_reference_is_named_by_its_place_in_the_batch():
    P = PreferenceMatrix(np.full((30, 60, 60), 0.5))
    p = P.p.copy()
    p[29, 59, 0], p[29, 0, 59] = 0.1, 0.9
    reference = np.r_[0, np.full(59, 1 / 59)]
    with pytest.raises(InvalidReference, match=r"game \(29, 59\)"):
        solve_slhf(PreferenceMatrix(p), 0, 0, follower_reference=reference)


def test_at_temperature_zero_actions_outside_the_reference_are_free():
    """0 times an infinite divergence is 0: the gap is that of the uniform reference."""
    P = PreferenceMatrix([[0.5, 0.6], [0.4, 0.5]])
    for tau_leader, tau_follower in ((0, 0), (0, 0.1), (0.1, 0)):
        outside = None if tau_leader else [1, 0], None if tau_follower else [[1, 0], [1, 0]]
        inside = None, None
        gap = [duality_gap(P, [0, 1], [[0, 1], [0, 1]], tau_leader, tau_follower, *r) for r in (outside, inside)]
        assert np.isfinite(gap).all()
        assert_allclose(*gap)


def test_one_block_starts_no_threads(monkeypatch):
    def refuse(threads):
        raise AssertionError("a pool for one block")

    monkeypatch.setattr(stackelberg, "ThreadPoolExecutor", refuse)
    solve_slhf(PreferenceMatrix(np.full((stackelberg.BLOCK // 64, 8, 8), 0.5)))
    with pytest.raises(AssertionError, match="a pool"):
        solve_slhf(PreferenceMatrix(np.full((stackelberg.BLOCK // 64 + 1, 8, 8), 0.5)))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_threads_are_no_more_than_the_cores_that_may_be_used():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from tabular import stackelberg as s"
    done = subprocess.run([sys.executable, "-c", code + "; print(s.THREADS)"], capture_output=True, check=True)
    assert done.stdout.strip() == b"1"
