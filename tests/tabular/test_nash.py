"""solve_nlhf at positive temperature: the KL-regularised Nash equilibrium."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp

from slhf.errors import InvalidParameter, InvalidReference, NotConverged
from tabular import PreferenceMatrix, compiled, nash, solve_nlhf
from tests.tabular.strategies import CONDORCET, examples, games, policies, seeds, single_games, temperatures

pytestmark = pytest.mark.numeric


def exploitability(A, policy, tau, reference):
    """What the best opponent gains, by its definition: two log-sum-exps and no cancellation."""
    advantage = np.einsum("...ij,...j->...i", A, policy)
    kl = np.sum(policy * np.log(policy / reference), -1)
    return tau * logsumexp(np.log(reference) + advantage / tau, axis=-1) + tau * kl


@examples()
@given(P=games(sizes=(2, 8)), tau=temperatures, seed=seeds)
def test_solution_is_the_fixed_point(P, tau, seed):
    reference = policies(P.p.shape[:-1], seed)
    s = solve_nlhf(P, tau, reference)
    indifferent = tau * (s.log_policy - np.log(reference)) - P.prefer(s.policy)
    assert np.all(np.ptp(indifferent, axis=-1) < 1e-12)
    assert np.all(s.certificate.residual < 1e-12)
    assert_allclose(s.policy.sum(-1), np.ones(P.batch_shape))
    assert np.all(s.support)
    assert np.all(s.value == 0.5)


@examples()
@given(P=games(), tau=temperatures, seed=seeds)
def test_the_gap_is_the_exploitability_and_bounds_the_distance(P, tau, seed):
    reference = policies(P.p.shape[:-1], seed)
    s = solve_nlhf(P, tau, reference)
    assert np.all(s.certificate.gap >= 0)
    assert np.all(s.certificate.gap <= 1e-20)
    assert_allclose(exploitability(P.margins, s.policy, tau, reference), s.certificate.gap, atol=1e-14)
    other = policies(P.p.shape[:-1], seed + 1)
    f = exploitability(P.margins, other, tau, reference)
    assert np.all(f >= 0)
    assert np.all(np.abs(other - s.policy).sum(-1) <= np.sqrt(2 * f / tau) + 1e-12)


@examples()
@given(P=games(), tau=temperatures, seed=seeds)
def test_the_divergence_of_any_policy_is_its_exploitability(P, tau, seed):
    """The certificate's formula, away from the solution, where it is not just 0."""
    reference, policy = policies(P.p.shape[:-1], seed), policies(P.p.shape[:-1], seed + 1)
    error = nash._log_error(P.margins, np.log(reference), np.log(policy), 1 / tau)
    expected = exploitability(P.margins, policy, tau, reference)
    assert_allclose(tau * nash._divergence(np.log(policy), error), expected, rtol=1e-10, atol=1e-14)


@examples(12)
@given(P=single_games(sizes=(2, 5)), tau=temperatures, seed=seeds)
def test_agrees_with_cvxpy(P, tau, seed):
    reference = policies((P.n,), seed, floor=0.02)
    x = cp.Variable(P.n, nonneg=True)
    f = cp.log_sum_exp(np.log(reference) + P.margins @ x / tau) + cp.sum(cp.rel_entr(x, reference))
    problem = cp.Problem(cp.Minimize(f), [cp.sum(x) == 1])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    assert problem.value == pytest.approx(0, abs=1e-8)
    assert_allclose(x.value, solve_nlhf(P, tau, reference).policy, atol=1e-4)


@examples(12)
@given(P=single_games(), tau=temperatures.filter(lambda tau: tau >= 0.1), seed=seeds)
def test_agrees_with_converged_magnetic_mirror_descent(P, tau, seed):
    """pi ~ [pi pi_ref^(eta tau) e^(eta q)]^(1 / (1 + eta tau)), linear for eta <= tau / max |A|^2."""
    reference = policies((P.n,), seed)
    eta, log_policy = tau / 0.25, np.log(reference)
    for _ in range(int(40 / np.log1p(eta * tau)) + 1):
        q = P.prefer(np.exp(log_policy))
        log_policy = (log_policy + eta * tau * np.log(reference) + eta * q) / (1 + eta * tau)
        log_policy -= logsumexp(log_policy)
    assert_allclose(np.exp(log_policy), solve_nlhf(P, tau, reference).policy, atol=1e-7)


@examples()
@given(P=games(), tau=temperatures, seed=seeds)
def test_permuting_scaling_and_cloning(P, tau, seed):
    reference = policies(P.p.shape[:-1], seed)
    s = solve_nlhf(P, tau, reference).policy
    order = np.random.default_rng(seed).permutation(P.n)
    renamed = solve_nlhf(PreferenceMatrix(P.p[..., order[:, None], order]), tau, reference[..., order])
    assert_allclose(renamed.policy, s[..., order], atol=1e-11)

    scaled = solve_nlhf(PreferenceMatrix.from_margins(P.margins * 0.3), tau * 0.3, reference)
    assert_allclose(scaled.policy, s, atol=1e-11)

    original = np.r_[np.arange(P.n), 0]  # the last action is a copy of the first
    split = reference[..., original] * np.where(original == 0, 0.5, 1)
    cloned = solve_nlhf(PreferenceMatrix(P.p[..., original[:, None], original]), tau, split).policy
    totals = np.concatenate([cloned[..., :1] + cloned[..., -1:], cloned[..., 1:-1]], -1)
    assert_allclose(totals, s, atol=1e-11)


@examples(15)
@given(P=games(batches=((3,), (2, 2))), tau=temperatures, seed=seeds)
def test_a_batch_is_a_loop_and_inputs_are_left_alone(P, tau, seed):
    reference = policies(P.p.shape[:-1], seed)
    before = reference.copy(), P.p.copy()
    compiled.load()  # now, not between the two: the same steps are asked for
    s = solve_nlhf(P, tau, reference)
    for index in np.ndindex(P.batch_shape):
        one = solve_nlhf(PreferenceMatrix(P.p[index]), tau, reference[index])
        assert_allclose(s.policy[index], one.policy, rtol=1e-11)
        assert_allclose(s.certificate.iterations[index], one.certificate.iterations, atol=2)  # one round, by rounding
    assert_array_equal(before[0], reference)
    assert_array_equal(before[1], P.p)


@examples()
@given(P=games(), seed=seeds)
def test_at_high_temperature_the_reference_stays(P, seed):
    reference = policies(P.p.shape[:-1], seed)
    assert_allclose(solve_nlhf(P, 1e6, reference).policy, reference, atol=1e-5)


@pytest.mark.parametrize("n", [3, 20, 100])
@pytest.mark.parametrize("tau", [1, 1e-2, 1e-4, 1e-6])
def test_small_temperatures_and_skewed_references_are_solved(n, tau):
    """Plain damped Newton fails here: references down to 1e-12, tau down to 1e-6."""
    rng = np.random.default_rng(n)
    upper = np.triu(rng.uniform(size=(4, n, n)), 1)
    P = PreferenceMatrix(upper + np.swapaxes(np.triu(1 - upper, 1), -1, -2) * (1 - np.eye(n)) + np.eye(n) / 2)
    reference = rng.dirichlet(np.full(n, 0.3), size=4) + 1e-12
    s = solve_nlhf(P, tau, reference / reference.sum(-1, keepdims=True))
    assert np.all(s.certificate.gap <= tau * 1e-18)
    assert np.all(s.certificate.iterations <= 500)


@examples(60)
@given(P=games(sizes=(1, 12)), power=st.integers(-6, 6), seed=seeds)
def test_every_temperature_is_certified(P, power, seed):
    tau, reference = 10.0**power, policies(P.p.shape[:-1], seed)
    s = solve_nlhf(P, tau, reference)
    distance = np.sqrt(2 * s.certificate.gap / tau)  # in L1; rounding in P allows no less than about 1e-16 / tau
    assert np.all(distance <= 1e-13 + 1e-15 / tau)
    indifferent = tau * (s.log_policy - np.log(reference)) - P.prefer(s.policy)
    assert np.all(np.ptp(indifferent, axis=-1) <= 1e-12 * max(1, tau))


def test_a_large_game():
    rng = np.random.default_rng(0)
    margins = np.triu(rng.uniform(-0.5, 0.5, size=(1000, 1000)), 1)
    s = solve_nlhf(PreferenceMatrix.from_margins(margins - margins.T), 0.01)
    assert s.certificate.gap <= 1e-20
    assert s.certificate.iterations <= 16


def test_a_batch_in_parts_is_the_batch(monkeypatch):
    rng = np.random.default_rng(0)
    margins = np.triu(rng.uniform(-0.5, 0.5, size=(2, 5, 4, 4)), 1)
    P = PreferenceMatrix.from_margins(margins - np.swapaxes(margins, -1, -2))
    reference = policies((2, 5, 4), 1)
    whole = solve_nlhf(P, 0.01, reference)
    monkeypatch.setattr(nash, "ENTRIES_AT_ONCE", 3 * 16)
    parts = solve_nlhf(P, 0.01, reference)
    assert_allclose(parts.policy, whole.policy, rtol=1e-12)
    assert_allclose(parts.certificate.iterations, whole.certificate.iterations, atol=2)  # one round, by rounding


def test_newton_step_uses_the_true_jacobian():
    """Against central differences of log pi - log pi_ref - A pi / tau in the logits."""
    A, log_ref = CONDORCET.margins, np.log(policies((3,), 0))
    logits, inverse_tau = np.log(policies((3,), 1)), 7.0

    def equation(theta):
        policy = np.exp(theta) / np.exp(theta).sum()
        return theta - log_ref - inverse_tau * A @ policy

    step = 1e-6
    columns = [(equation(logits + step * e) - equation(logits - step * e)) / (2 * step) for e in np.eye(3)]
    expected = logits - np.linalg.solve(np.array(columns).T, equation(logits))
    reach = np.abs(A).max(0)
    actual, _ = nash.newton_step(A[None], reach[None], log_ref[None], logits[None], np.array([inverse_tau]))
    assert_allclose(actual[0], expected - logsumexp(expected), atol=1e-8)


def test_it_does_not_converge_in_silence(monkeypatch):
    monkeypatch.setattr(nash, "MAX_STEPS", 3)
    with pytest.raises(NotConverged, match=r"up to .* from the equilibrium") as caught:
        solve_nlhf(CONDORCET, 0.01)
    assert caught.value.best.policy.shape == (3,)
    assert caught.value.certificate.gap > 1e-6
    expected = exploitability(CONDORCET.margins, caught.value.best.policy, 0.01, np.full(3, 1 / 3))
    assert caught.value.certificate.gap == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tau": -1}, InvalidParameter, "tau = -1: must not be negative"),
        ({"tau": 0.1, "reference": [1, 0, 0]}, InvalidReference, r"reference\(1,\) = 0"),
        ({"tau": 0.1, "reference": [0.5, 0.5]}, InvalidReference, "shape"),
        ({"selection": "best"}, InvalidParameter, "choose one of any, max_entropy, exact"),
        ({"tau": 0.1, "selection": "exact"}, InvalidParameter, "unique"),
        ({"reference": [0.2, 0.3, 0.5]}, InvalidParameter, "plays no part"),
    ],
)
def test_bad_arguments_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        solve_nlhf(CONDORCET, **options)
