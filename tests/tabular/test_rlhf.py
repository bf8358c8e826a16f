"""solve_rlhf: the Bradley-Terry fit and the policy it leads to."""

from __future__ import annotations

import choix
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit

from slhf.errors import DisconnectedComparisons, InvalidParameter, NotConverged
from tabular import PreferenceMatrix, rlhf, solve_nlhf, solve_rlhf, solve_slhf
from tests.tabular.strategies import CONDORCET, examples, games, policies, seeds, single_games

pytestmark = pytest.mark.numeric

CONNECTED = ("uniform", "near tie", "clones")


def random_weights(P, seed):
    weights = np.random.default_rng(seed).uniform(0.1, 5, size=P.p.shape)
    return weights + np.swapaxes(weights, -1, -2)


@examples()
@given(P=games(kinds=CONNECTED), seed=seeds, l2=st.sampled_from([0.0, 0.1, 10.0]))
def test_score_equations_hold(P, seed, l2):
    weights = random_weights(P, seed)
    s = solve_rlhf(P, pair_weights=weights, l2=l2)
    off_diagonal = weights * (1 - np.eye(P.n))
    error = np.sum(off_diagonal * (P.p - expit(s.reward[..., :, None] - s.reward[..., None, :])), -1) - l2 * s.reward
    assert np.all(np.abs(error) < 1e-9)
    assert np.all(s.certificate.residual < 1e-11)
    assert np.all(np.abs(s.certificate.gap) < 1e-20)
    assert_allclose(s.reward.sum(-1), np.zeros(P.batch_shape), atol=1e-9)


@examples()
@given(P=games(), seed=seeds, l2=st.sampled_from([0.0, 0.3]))
def test_gradient_and_hessian(P, seed, l2):
    weights = random_weights(P, seed) * (1 - np.eye(P.n))
    reward, step = np.random.default_rng(seed).normal(size=P.p.shape[:-1]), 1e-5

    def likelihood(r):
        return rlhf.log_likelihood(r, rlhf.win_probability(r), weights * P.p, l2)

    def gradient(r):
        return rlhf.score(r, rlhf.win_probability(r), P.p, weights, l2)

    hessian = rlhf.information(rlhf.win_probability(reward), weights, l2)
    for i, e in enumerate(step * np.eye(P.n)):
        slope = (likelihood(reward + e) - likelihood(reward - e)) / (2 * step)
        assert_allclose(slope, gradient(reward)[..., i], rtol=1e-6, atol=1e-7)
        curvature = (gradient(reward + e) - gradient(reward - e)) / (2 * step)
        assert_allclose(-curvature, hessian[..., i], rtol=1e-6, atol=1e-7)


@examples()
@given(P=games(kinds=CONNECTED))
def test_under_uniform_weights_the_order_is_bordas(P):
    reward, borda = solve_rlhf(P).reward, P.p.sum(-1)
    difference = borda[..., :, None] - borda[..., None, :]
    agrees = np.sign(reward[..., :, None] - reward[..., None, :]) == np.sign(difference)
    assert np.all(agrees | (np.abs(difference) < 1e-9))


@examples()
@given(n=st.integers(2, 8), scale=st.sampled_from([0.1, 1, 5]), seed=seeds)
def test_rewards_of_a_bradley_terry_game_are_recovered_and_all_concepts_agree(n, scale, seed):
    r = np.random.default_rng(seed).normal(scale=scale, size=n)
    P = PreferenceMatrix.bradley_terry(r)
    s = solve_rlhf(P, tau=0, pair_weights=random_weights(P, seed))
    assert_allclose(s.reward, r - r.mean(), atol=1e-6 * scale)
    best = np.eye(n)[np.argmax(r)]
    assert_allclose(s.policy, best)
    assert_allclose(solve_slhf(P, 0, 0).policy, best)
    assert_allclose(solve_nlhf(P).policy, best, atol=1e-12)


@examples(60)
@given(P=single_games(kinds=("coarse", "mallows", "cyclic")), seed=seeds)
def test_the_fit_exists_iff_every_alternative_reaches_every_other_by_wins(P, seed):
    asked = np.triu(np.random.default_rng(seed).uniform(size=P.p.shape) < 0.8, 1)
    asked = (asked + asked.T).astype(float)
    reach = ((asked * P.p) > 0) | np.eye(P.n, dtype=bool)
    for k in range(P.n):
        reach |= reach[:, [k]] & reach[[k], :]
    if reach.all():
        assert np.isfinite(solve_rlhf(P, pair_weights=asked).reward).all()
        return
    with pytest.raises(DisconnectedComparisons) as caught:
        solve_rlhf(P, pair_weights=asked)
    components = caught.value.components
    assert sorted(i for group in components for i in group) == list(range(P.n))
    for group in components:
        assert all(reach[i, j] and reach[j, i] for i in group for j in group)
    assert np.isfinite(solve_rlhf(P, pair_weights=asked, l2=0.1).reward).all()


def test_components_are_named():
    p = CONDORCET.p.copy()
    p[:, 2], p[2] = 1, 0
    p[2, 2] = 0.5
    with pytest.raises(DisconnectedComparisons, match=r"of game \(1,\) .*A, B \| C|of game \(1,\) .*C \| A, B"):
        solve_rlhf(PreferenceMatrix([CONDORCET.p, p], "ABC"))


@examples()
@given(P=games(kinds=CONNECTED), tau=st.sampled_from([1.0, 0.1, 0.01]), seed=seeds)
def test_policy_maximises_the_regularised_reward(P, tau, seed):
    reference = policies(P.p.shape[:-1], seed)
    s = solve_rlhf(P, tau, reference)

    def objective(policy):
        return np.sum(policy * (s.reward - tau * np.log(np.maximum(policy, 1e-300) / reference)), -1)

    assert_allclose(objective(s.policy), s.value, rtol=1e-12, atol=1e-12)
    assert np.all(objective(policies(P.p.shape[:-1], seed + 1)) <= s.value + 1e-12)


@examples()
@given(P=games(kinds=CONNECTED, batches=((), (3,))), seed=seeds)
def test_permutation_batch_and_limits(P, seed):
    reference, order = policies(P.p.shape[:-1], seed), np.random.default_rng(seed).permutation(P.n)
    weights = random_weights(P, seed)
    before = reference.copy(), weights.copy()
    s = solve_rlhf(P, 0.3, reference, weights)
    renamed = PreferenceMatrix(P.p[..., order[:, None], order])
    t = solve_rlhf(renamed, 0.3, reference[..., order], weights[..., order[:, None], order])
    assert_allclose(t.reward, s.reward[..., order], atol=1e-9)
    assert_allclose(t.policy, s.policy[..., order], atol=1e-9)
    for index in np.ndindex(P.batch_shape):
        one = solve_rlhf(PreferenceMatrix(P.p[index]), 0.3, reference[index], weights[index])
        assert_allclose(one.policy, s.policy[index], atol=1e-10)
    assert_array_equal(before[0], reference)
    assert_array_equal(before[1], weights)
    assert_allclose(solve_rlhf(P, 1e7, reference).policy, reference, atol=1e-5)


def test_ties_at_temperature_zero_share_the_reference():
    P = PreferenceMatrix.from_rankings(["ABC", "BCA", "CAB"])
    s = solve_rlhf(P, 0, reference=[0.5, 0.3, 0.2])
    assert_allclose(s.reward, 0, atol=1e-15)
    assert_allclose(s.policy, [0.5, 0.3, 0.2])
    assert s.support.all()


def test_a_clone_can_turn_the_order_around():
    """B is first of three; once C has two more copies, which B beats less often than A does, A is."""
    P = PreferenceMatrix([[0.5, 0.45, 0.8], [0.55, 0.5, 0.75], [0.2, 0.25, 0.5]], "ABC")
    original = [0, 1, 2, 2, 2]
    assert np.argmax(solve_rlhf(P).reward) == 1
    assert np.argmax(solve_rlhf(PreferenceMatrix(P.p[np.ix_(original, original)])).reward) == 0


def test_nearly_separable_data_are_fitted():
    P = PreferenceMatrix.bradley_terry([0, 25, 50])
    assert_allclose(solve_rlhf(P).reward, [-25, 0, 25], atol=1e-6)


def test_it_does_not_converge_in_silence(monkeypatch):
    monkeypatch.setattr(rlhf, "MAX_ITERATIONS", 1)
    with pytest.raises(NotConverged, match="score-equation residual") as caught:
        solve_rlhf(PreferenceMatrix.bradley_terry([0, 1, 5]))
    assert caught.value.best.reward.shape == (3,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": -1}, "tau = -1"),
        ({"l2": -0.5}, "l2 = -0.5"),
        ({"pair_weights": np.ones((2, 2))}, r"broadcast to \(3, 3\)"),
        ({"pair_weights": -np.ones((3, 3))}, "not negative"),
        ({"pair_weights": np.triu(np.ones((3, 3)))}, "symmetric"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(InvalidParameter, match=message):
        solve_rlhf(CONDORCET, **options)


def test_choix_finds_the_same_rewards():
    """300 sets of comparisons, each given to choix one by one, and to solve_rlhf as counts."""
    rng = np.random.default_rng(5)
    for _ in range(300):
        n = int(rng.integers(2, 7))
        wins = rng.integers(1, 4, size=(n, n)) * (1 - np.eye(n, dtype=int))
        data = [(i, j) for i in range(n) for j in range(n) for _ in range(wins[i, j])]
        expected = choix.ilsr_pairwise(n, data, tol=1e-11, max_iter=1000)
        found = solve_rlhf(PreferenceMatrix.from_counts(wins), pair_weights=wins + wins.T).reward
        assert_allclose(found, expected - expected.mean(), atol=1e-8)


@pytest.mark.parametrize("gap", [40.0, 60.0, 100.0, 700.0])
@pytest.mark.parametrize("middle", [[], [0.0], [1.0, 2.0]])
def test_rewards_that_float64_cannot_tell_are_refused(gap, middle):
    """The score equations hold to every digit far from the best rewards, here by up to 335 nats."""
    P = PreferenceMatrix.bradley_terry([0, *middle, gap])
    truth = np.array([0, *middle, gap])
    both = PreferenceMatrix(np.stack([np.full(P.p.shape, 0.5), P.p]))
    with pytest.raises(NotConverged, match="rewards uncertain by"):
        solve_rlhf(both)
    assert np.ptp(solve_rlhf(P, l2=0.01).reward) < np.ptp(truth)


def test_rounding_between_clusters_counts():
    """Inside a cycle preferences fit no rewards, and the rounding there hides what links it to the fourth."""
    p = np.full((4, 4), 0.5)
    for i in range(3):
        p[i, (i + 1) % 3], p[(i + 1) % 3, i] = 0.7, 0.3
    p[3, :3], p[:3, 3] = 1 - 1e-15, 1e-15
    with pytest.raises(NotConverged, match="rewards uncertain by"):
        solve_rlhf(PreferenceMatrix(p))
