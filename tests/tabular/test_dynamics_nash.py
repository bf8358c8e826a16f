"""tabular.dynamics: the algorithms of the symmetric game and of RLHF, against the exact solutions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, logit

from slhf.algorithms import EGPO, INPO, MMD, MPO, OMWU, RLOO, SPO, SPPO, NashMD, OnlineDPO, OnlineIPO, StackelbergGDA
from slhf.errors import InvalidParameter, InvalidReference
from tabular import PreferenceMatrix, solve_nlhf, solve_rlhf
from tabular.dynamics import DYNAMICS, nash_game, run
from tabular.dynamics.nash_game import State
from tabular.policies import best_response_value, kl, log_of
from tests.tabular.strategies import CONDORCET, complete, examples, games, policies, seeds, single_games

pytestmark = pytest.mark.numeric

RPS = PreferenceMatrix([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]])
OFF_CENTRE = [0.5, 0.3, 0.2]


def uniform_games(n, count):
    """``count`` games with independent uniform preferences, the k-th from seed k."""
    return PreferenceMatrix(complete(np.array([np.random.default_rng(k).uniform(size=(n, n)) for k in range(count)])))


def kl_to(target, trace):
    """``(K, ...)``: KL(target || policy) at the recorded steps."""
    return kl(target, np.log(trace.policies))


FIXED = {
    "RLOO": (RLOO(0.7, 0.2), "softmax"),
    "Nash-MD-PG, self-play": (NashMD(0.7, 0.2, mixture=0), "softmax"),
    "SPO, softmax": (SPO(0.7, 0.2), "softmax"),
    "SPO, mirror": (SPO(0.7, 0.2), "mirror"),
    "SPPO": (SPPO(0.7), "mirror"),
    "SPPO, softmax": (SPPO(0.7), "softmax"),
    "OMWU": (OMWU(0.7), "mirror"),
    "OGDA": (OMWU(0.2), "simplex"),
    "INPO": (INPO(0.7, 0.2), "mirror"),
    "EGPO": (EGPO(0.7, 0.2), "mirror"),
    "MMD": (MMD(0.7, 0.2), "mirror"),
    "MPO": (MPO(0.7, 0.2, period=2), "mirror"),
    "online IPO": (OnlineIPO(0.1, 0.2), "softmax"),
}
"""The algorithms that rest at the exact solution."""
OTHERS = {
    "Nash-MD": (NashMD(0.7, 0.2), "mirror"),
    "Nash-MD, scheduled": (NashMD(0.7, 0.2), "scheduled"),
    "Nash-MD-PG": (NashMD(0.7, 0.2, mixture=0.3), "softmax"),
    "online DPO": (OnlineDPO(2, 0.2), "softmax"),
}
ALL = FIXED | OTHERS
ALL_FORMS = pytest.mark.parametrize(("spec", "form"), ALL.values(), ids=ALL)


def test_every_form_is_among_those_tested():
    here = {(type(spec), form) for spec, form in ALL.values()}
    there = {(StackelbergGDA, form) for form in DYNAMICS[StackelbergGDA].steps}  # in test_dynamics.py
    assert here | there == {(spec, form) for spec, dynamics in DYNAMICS.items() for form in dynamics.steps}


@pytest.mark.parametrize(("spec", "form"), FIXED.values(), ids=FIXED)
def test_the_exact_solution_is_a_fixed_point(spec, form):
    P = uniform_games(4, 30)
    dynamics = DYNAMICS[type(spec)]
    game = dynamics.game.create_game(spec, P, policies((30, 4), 0, 0.05), None)
    exact = dynamics.game.solution(game)
    anchor = log_of(exact) if isinstance(spec, OMWU | MPO) else game.log_reference
    at_rest = State(log_of(exact), anchor, 1)
    after = dynamics.steps[form](spec, game, at_rest)
    assert_allclose(np.exp(after.log_policy), exact, atol=1e-9)
    assert_allclose(np.exp(after.log_anchor), np.exp(anchor), atol=1e-9)
    assert_allclose(dynamics.game.gap(game, at_rest), 0, atol=1e-9)


@pytest.mark.parametrize("name", ["SPO, softmax", "SPO, mirror", "INPO", "EGPO", "MMD", "online IPO"])
@examples(8)
@given(P=games(), seed=seeds)
def test_the_kl_nash_is_a_fixed_point_in_every_kind_of_game(name, P, seed):
    spec, form = FIXED[name]
    game = nash_game.create_game(spec, P, policies(P.p.shape[:-1], seed, 0.01), None)
    exact = solve_nlhf(P, spec.tau, np.exp(game.log_reference)).log_policy
    after = DYNAMICS[type(spec)].steps[form](spec, game, State(exact, game.log_reference, 1))
    assert_allclose(np.exp(after.log_policy), np.exp(exact), atol=1e-12)


@ALL_FORMS
def test_a_batch_is_a_loop_and_inputs_are_left_alone(spec, form):
    P, reference = PreferenceMatrix(uniform_games(4, 6).p.reshape(3, 2, 4, 4)), policies((3, 2, 4), 1, 0.05)
    before = reference.copy()
    trace = run(spec, P, 12, 6, form, reference)
    assert trace.policies.shape == trace.averages.shape == (3, 3, 2, 4)
    assert trace.gaps.shape == trace.distances.shape == (3, 3, 2)
    for i, j in np.ndindex(3, 2):
        one = run(spec, PreferenceMatrix(P.p[i, j]), 12, 6, form, reference[i, j])
        for name in ("policies", "averages", "gaps", "distances"):
            assert_allclose(getattr(trace, name)[:, i, j], getattr(one, name), atol=1e-9)
    assert_array_equal(reference, before)


@ALL_FORMS
def test_permuting_the_actions_permutes_the_run(spec, form):
    P, order = uniform_games(5, 4), np.array([3, 0, 4, 1, 2])
    trace = run(spec, P, 12, 12, form)
    renamed = run(spec, PreferenceMatrix(P.p[:, order[:, None], order]), 12, 12, form)
    assert_allclose(renamed.policies, trace.policies[..., order], atol=1e-12)


@ALL_FORMS
def test_a_run_starts_at_the_reference_and_moves(spec, form):
    trace = run(spec, CONDORCET, 3, 1, form, OFF_CENTRE)
    assert_allclose(trace.policies[0], OFF_CENTRE)
    assert_allclose(trace.averages, np.cumsum(trace.policies, axis=0) / np.arange(1, 5)[:, None])
    assert np.all(np.abs(np.diff(trace.policies, axis=0)).max(-1) > 1e-4)
    assert trace.state.t == 3


@examples(20)
@given(P=games(), seed=seeds)
def test_the_gap_is_what_the_best_opponent_gains(P, seed):
    """Both players pay their KL, so an opponent rho earns E[p(rho > pi)] - tau KL(rho) + tau KL(pi) beyond 1/2."""
    now, reference = (policies(P.p.shape[:-1], seed + k, 0.01) for k in (0, 1))
    for spec, tau in ((MMD(tau=0.3), 0.3), (SPPO(), 0.0)):
        game = nash_game.create_game(spec, P, reference, None)
        found = nash_game.gap(game, State(np.log(now), np.log(now), 0))
        earned = best_response_value(P.prefer(now), np.log(reference), tau)
        assert_allclose(found, earned + tau * kl(np.log(now), np.log(reference)) - 0.5, atol=1e-12)
        assert np.all(found > -1e-12)


# The formulas of the papers, in probabilities.


def normalised(weights):
    return weights / weights.sum(-1, keepdims=True)


@examples(20)
@given(P=single_games(), seed=seeds)
def test_one_step_is_the_papers_formula(P, seed):
    mu, pi = policies((P.n,), seed, 0.05), policies((P.n,), seed + 1, 0.05)
    rate, tau, q = 0.7, 0.2, P.prefer(pi)

    def after(spec, form="mirror", t=0, anchor=mu):
        game = nash_game.create_game(spec, P, mu, None)
        state = DYNAMICS[type(spec)].steps[form](spec, game, State(np.log(pi), np.log(anchor), t))
        assert state.t == t + 1
        return np.exp(state.log_policy)

    def nash_md(eta):
        mixture = normalised(pi ** (1 - eta * tau) * mu ** (eta * tau))
        return normalised(mixture * np.exp(eta * P.prefer(mixture)))

    regularised = normalised(np.exp(rate * q) * mu ** (rate * tau) * pi ** (1 - rate * tau))
    half = P.prefer(regularised)
    base = normalised(policies((P.n,), seed + 2, 0.05))
    expected = {
        "SPPO": (after(SPPO(rate)), normalised(pi * np.exp(rate * q))),
        "INPO": (after(INPO(rate, tau)), regularised),
        "SPO": (after(SPO(rate, tau)), regularised),
        "EGPO": (after(EGPO(rate, tau)), normalised(pi ** (1 - rate * tau) * mu ** (rate * tau) * np.exp(rate * half))),
        "MMD": (
            after(MMD(rate, tau), anchor=base),
            normalised((pi * base ** (rate * tau) * np.exp(rate * q)) ** (1 / (1 + rate * tau))),
        ),
        "OMWU": (after(OMWU(rate), anchor=base), normalised(base * np.exp(2 * rate * q))),
        "Nash-MD": (after(NashMD(rate, tau)), nash_md(rate)),
        "scheduled": (after(NashMD(rate, tau), "scheduled", t=8), nash_md(2 / (tau * 10))),
    }
    for name, (found, formula) in expected.items():
        assert_allclose(found, formula, atol=1e-12, err_msg=name)


def test_omwu_counts_the_last_win_rates_twice():
    """The other way to write it: pi_{t+1} ~ pi_t exp(eta (2 q_t - q_{t-1})), with q_{-1} = 0."""
    policy, before = np.array(OFF_CENTRE), 0
    for now in run(OMWU(0.4), CONDORCET, 8, leader_reference=OFF_CENTRE).policies:
        assert_allclose(now, policy, atol=1e-13)
        q = CONDORCET.prefer(policy)
        policy, before = normalised(policy * np.exp(0.4 * (2 * q - before))), q


# Last iterates and averages in the game without KL price.


def test_sppo_is_multiplicative_weights():
    """Weights that have grown by e^(eta q) in every round; and log pi/pi_t fits eta (P(. > pi_t) - 1/2) exactly."""
    P = uniform_games(5, 3)
    trace = run(SPPO(0.3), P, 20)
    q = P.prefer(trace.policies)
    weights = np.exp(0.3 * np.cumsum(q, axis=0))
    assert_allclose(trace.policies[1:], normalised(weights[:-1]), atol=1e-13)
    residual = np.diff(np.log(trace.policies), axis=0) - 0.3 * (q[:-1] - 0.5)
    assert_allclose(residual, residual.mean(-1, keepdims=True) * np.ones(5), atol=1e-12)
    assert_allclose(run(SPO(0.3), P, 20, parameterization="mirror").policies, trace.policies, rtol=1e-12)


@examples(10)
@given(P=single_games(), seed=seeds)
def test_softmax_sppo_is_a_gradient_step_on_its_regression(P, seed):
    """Of E_{y ~ pi_t}[(log pi/pi_t(y) - eta (P(y > pi_t) - 1/2))^2], half its length, from pi_t."""
    now, rate = policies((P.n,), seed, 0.05), 0.4
    target = rate * (P.prefer(now) - 0.5)

    def loss(logits):
        return now @ (logits - np.log(np.exp(logits).sum()) - np.log(now) - target) ** 2

    slope = [(loss(np.log(now) + m) - loss(np.log(now) - m)) / 2e-5 for m in 1e-5 * np.eye(P.n)]
    after = run(SPPO(rate), P, 1, 1, "softmax", now).policies[-1]
    assert_allclose(after, normalised(now * np.exp(-0.5 * np.array(slope))), atol=1e-9)


def test_on_rock_paper_scissors_mwu_spirals_out_and_omwu_in():
    third = np.log(np.full(3, 1 / 3))
    mwu = run(SPPO(0.3), RPS, 1000, leader_reference=OFF_CENTRE)
    away = kl_to(third, mwu)
    assert np.all(np.diff(away) > 0)
    assert away[-1] > 10 * away[0]
    assert mwu.distances[-1] > 2 * mwu.distances[0]
    assert np.abs(mwu.averages[-1] - 1 / 3).max() < 0.02
    for form, steps in (("mirror", 2000), ("simplex", 500)):
        optimistic = run(OMWU(0.5), RPS, steps, steps, form, OFF_CENTRE)
        assert optimistic.distances[-1] < 1e-8
        assert optimistic.gaps[-1] < 1e-8


@pytest.mark.parametrize("P", [RPS, uniform_games(6, 10)], ids=["rps", "random"])
def test_the_average_of_mwu_approaches_nash_as_one_over_root_t(P):
    """With D = max log(1 / mu) and eta = sqrt(8 D / T), T policies' average has exploitability <= sqrt(D / 2T).

    (Cesa-Bianchi and Lugosi 2006, Theorem 2.2.)
    """
    mu = normalised(0.3 ** np.arange(P.n))
    D = -np.log(mu.min())
    for T in (50, 200, 800):
        trace = run(SPPO(np.sqrt(8 * D / T)), P, T - 1, T, leader_reference=mu)
        exploitability = (P.prefer(trace.averages[-1]) - 0.5).max(-1)
        assert np.all(exploitability <= np.sqrt(D / (2 * T)))
        assert np.all(exploitability > -1e-12)
    assert np.sqrt(D / (2 * T)) < trace.gaps[0].max() / 2


@pytest.mark.parametrize("P", [RPS, uniform_games(6, 10)], ids=["rps", "random"])
def test_the_average_of_onpo_approaches_nash_as_one_over_t(P):
    """Two optimistic players' regrets add up to a constant: exploitability <= D / (eta T), D as above, any T."""
    mu, rate = normalised(0.3 ** np.arange(P.n)), 0.5
    D = -np.log(mu.min())
    for T in (50, 200, 800, 3200):
        optimistic, plain = (run(spec, P, T - 1, T, leader_reference=mu) for spec in (OMWU(rate), SPPO(rate)))
        exploitability, larger = ((P.prefer(t.averages[-1]) - 0.5).max(-1) for t in (optimistic, plain))
        assert np.all(exploitability <= D / (rate * T))
    assert np.max(larger) > 1.4 * D / (rate * T)  # multiplicative weights do not keep this bound


def test_mpo_reaches_the_game_without_price():
    """MMD alone stops at the KL-Nash; moving its magnet goes on to the lottery."""
    spec = {"learning_rate": 1, "tau": 0.1}
    for P, steps in ((RPS, 1500), (uniform_games(5, 10), 8000)):
        reference = policies((P.n,), 3, 0.1)
        moving = run(MPO(**spec, period=50), P, steps, steps, leader_reference=reference)
        still = run(MMD(**spec), P, steps, steps, leader_reference=reference)
        exploitability = (P.prefer(still.policies[-1]) - 0.5).max(-1)
        assert np.all(still.gaps[-1] < 1e-12)
        assert np.all(exploitability > 5e-3)
        assert np.all(moving.gaps[-1] < 1e-6)
        assert np.all(moving.distances[-1] < 1e-4)


def test_the_magnet_of_mpo_moves_every_period():
    spec, game = MPO(0.5, 0.5, period=3), nash_game.create_game(MPO(), CONDORCET, OFF_CENTRE, None)
    states = [nash_game.init(game)]
    for _ in range(7):
        states.append(DYNAMICS[MPO].steps["mirror"](spec, game, states[-1]))
    magnets = [states[k].log_policy for k in (0, 0, 0, 3, 3, 3, 6, 6)]
    assert_array_equal([state.log_anchor for state in states], magnets)


# Last iterates in the KL-regularised game.


@pytest.mark.parametrize("tau", [1.0, 0.3, 0.1])
def test_mmd_converges_at_its_proven_rate(tau):
    P = uniform_games(6, 20)
    rate = tau / np.abs(P.margins).max() ** 2
    found = kl_to(solve_nlhf(P, tau).log_policy, run(MMD(rate, tau), P, 200))
    bound = (1 + rate * tau) ** -np.arange(201.0)[:, None] * found[0]
    assert np.all(found <= bound + 1e-14)


def test_the_last_policy_of_egpo_converges_linearly():
    P = uniform_games(10, 8)
    found = kl_to(solve_nlhf(P, 0.01).log_policy, run(EGPO(0.5, 0.01), P, 2500, 500))
    assert np.all((found[2] > 1e-7) & (found[2] < 1e-5))  # t = 1000
    factors = found[2:] / found[1:-1]
    assert np.all(factors < 0.01)
    assert_allclose(factors[1:], factors[:-1], rtol=0.7)


@pytest.mark.parametrize(
    ("spec", "form", "steps"),
    [
        (INPO(0.5, 0.3), "mirror", 300),
        (EGPO(0.5, 0.3), "mirror", 300),
        (MMD(0.5, 0.3), "mirror", 300),
        (SPO(0.5, 0.3), "mirror", 300),
        (SPO(2.0, 0.3), "softmax", 2000),
        (NashMD(2.0, 0.3, mixture=0), "softmax", 2000),
        (OnlineIPO(0.15, 0.3), "softmax", 2000),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_converges_to_the_kl_nash_from_any_reference(spec, form, steps):
    P, reference = uniform_games(3, 12), policies((12, 3), 5, 0.2)
    trace = run(spec, P, steps, steps, form, reference)
    exact = solve_nlhf(P, 0.3, reference).policy
    assert np.all(np.abs(trace.policies[0] - exact).sum(-1) > 1e-3)
    assert_allclose(trace.policies[-1], exact, atol=1e-6)
    assert np.all(trace.distances[-1] < 1e-6)
    assert np.all(trace.gaps[-1] < 1e-10)


# Nash-MD.

FLOORS = pytest.mark.parametrize(("rate", "floor"), [(0.5, 8.9e-5), (0.05, 8.4e-7), (0.005, 8.4e-9)])
GAME_OF_THE_FLOORS = PreferenceMatrix(uniform_games(10, 7).p[6])
"""tau = .1. Found by a search for MATH section 4's three numbers; others have floors of the same size."""


def where_nash_md_settles(P, rate, tau):
    """Solving the two updates for a fixed point: the mixture is the KL-Nash at tau / (1 - eta tau)."""
    mixture = solve_nlhf(P, tau / (1 - rate * tau)).policy
    return normalised(mixture * np.exp(rate * P.prefer(mixture)))


@FLOORS
def test_nash_md_with_a_constant_step_has_a_biased_fixed_point(rate, floor):
    P, tau = GAME_OF_THE_FLOORS, 0.1
    biased = where_nash_md_settles(P, rate, tau)
    game = nash_game.create_game(NashMD(tau=tau), P, None, None)
    after = DYNAMICS[NashMD].steps["mirror"](NashMD(rate, tau), game, State(np.log(biased), np.log(biased), 0))
    assert_allclose(np.exp(after.log_policy), biased, atol=1e-13)
    assert kl(solve_nlhf(P, tau).log_policy, np.log(biased)) == pytest.approx(floor, rel=0.01)


@pytest.mark.parametrize(("rate", "steps"), [(0.5, 1000), (0.05, 6000)])
def test_nash_md_with_a_constant_step_settles_there(rate, steps):
    P, tau = PreferenceMatrix(np.stack([GAME_OF_THE_FLOORS.p, uniform_games(10, 1).p[0]])), 0.1
    trace = run(NashMD(rate, tau), P, steps, steps)
    assert_allclose(trace.policies[-1], where_nash_md_settles(P, rate, tau), atol=1e-10)
    assert np.all(trace.distances[-1] > 1e-4)


@pytest.mark.parametrize("tau", [1.0, 0.3, 0.1])
def test_nash_md_with_its_schedule_keeps_its_bound(tau):
    """KL(pi*, pi_T) <= 8 / (tau^2 (T + 1)), with room: measured, it falls below .01 / (tau (T + 1))^2."""
    P = uniform_games(10, 10)
    trace = run(NashMD(tau=tau), P, 1500, 10, "scheduled")
    found = kl_to(solve_nlhf(P, tau).log_policy, trace)
    T = trace.steps[1:, None] + 1
    assert np.all(found[1:] <= 8 / (tau**2 * T))
    assert np.all(found[-1] < 0.01 / (tau * T[-1]) ** 2)


@pytest.mark.parametrize("mixture", [0.0, 0.125, 0.5])
def test_nash_md_pg_is_stationary_where_the_mixture_is_a_kl_nash(mixture):
    tau, reference = 0.2, np.array(OFF_CENTRE)
    trace = run(NashMD(1, tau, mixture), CONDORCET, 2000, 2000, "softmax", reference)
    opponent = solve_nlhf(CONDORCET, tau / (1 - mixture), reference).policy
    expected = normalised(reference * np.exp(CONDORCET.prefer(opponent) / tau))
    assert_allclose(trace.policies[-1], expected, atol=1e-10)
    assert (trace.distances[-1] > 1e-3) == (mixture > 0)


# Pairwise losses.


def pairwise_loss(spec, P, mu, pi, logits):
    """The online loss at ``logits``, pairs and labels drawn by pi: written out pair by pair."""
    log_ratio = logits - np.log(np.exp(logits).sum()) - np.log(mu)
    total = 0.0
    for y, z in np.ndindex(P.n, P.n):
        for winner, loser, chance in ((y, z, P.p[y, z]), (z, y, P.p[z, y])):
            margin = log_ratio[winner] - log_ratio[loser]
            if isinstance(spec, OnlineIPO):
                loss = (margin - 1 / (2 * spec.tau)) ** 2
            else:
                loss = -np.log(expit(spec.tau * margin))
            total += pi[y] * pi[z] * chance * loss
    return total


@pytest.mark.parametrize("spec", [OnlineIPO(1e-3, 0.2), OnlineDPO(1e-2, 0.2)], ids=lambda spec: spec.name)
def test_pairwise_steps_descend_their_losses(spec):
    P, mu, pi = PreferenceMatrix(uniform_games(4, 1).p[0]), policies((4,), 1, 0.05), policies((4,), 2, 0.05)
    game = nash_game.create_game(spec, P, mu, None)
    after = DYNAMICS[type(spec)].steps["softmax"](spec, game, State(np.log(pi), np.log(pi), 0)).log_policy
    moves = 1e-5 * np.eye(4)
    slope = [
        (pairwise_loss(spec, P, mu, pi, np.log(pi) + m) - pairwise_loss(spec, P, mu, pi, np.log(pi) - m)) / 2e-5
        for m in moves
    ]
    expected = normalised(pi * np.exp(-spec.learning_rate * np.array(slope)))
    assert_allclose(np.exp(after), expected, atol=1e-9)


def test_online_ipo_is_the_self_play_policy_gradient_four_over_tau_times():
    P, tau = uniform_games(5, 6), 0.2
    ipo = run(OnlineIPO(0.02, tau), P, 50)
    pg = run(SPO(0.02 * 4 / tau, tau), P, 50, parameterization="softmax")
    assert_allclose(ipo.policies, pg.policies, atol=1e-12)


@pytest.mark.parametrize("p", [0.5, 0.6, 0.9])
def test_with_two_actions_online_dpo_finds_the_kl_nash_only_at_one_half(p):
    P, tau, reference = PreferenceMatrix([[0.5, p], [1 - p, 0.5]]), 0.5, np.array([0.4, 0.6])
    odds = np.log(reference[0] / reference[1])
    dpo, ipo = (
        run(spec, P, 4000, 4000, leader_reference=reference) for spec in (OnlineDPO(2, tau), OnlineIPO(0.1, tau))
    )
    assert_allclose(dpo.policies[-1][0], expit(odds + logit(p) / tau), atol=1e-6)
    assert_allclose(ipo.policies[-1][0], expit(odds + (p - 0.5) / tau), atol=1e-6)
    assert ipo.distances[-1] < 1e-6
    assert (dpo.distances[-1] > 0.01) == (p != 0.5)


def test_online_dpo_settles_at_a_bradley_terry_fit_of_its_own_pairs():
    P, tau = uniform_games(3, 6), 1.0
    trace = run(OnlineDPO(4, tau), P, 3000, 3000)
    log_ratio = np.log(3 * trace.policies[-1])
    fitted = expit(tau * (log_ratio[..., :, None] - log_ratio[..., None, :]))
    assert_allclose(((P.p - fitted) * trace.policies[-1][..., None, :]).sum(-1), 0, atol=1e-6)
    assert np.all(trace.distances[-1] > 0.02)


def test_on_bradley_terry_preferences_online_dpo_is_rlhf():
    P = PreferenceMatrix.bradley_terry([0.5, 0.2, -0.7])
    dpo = run(OnlineDPO(4, 0.8), P, 3000, 3000, leader_reference=OFF_CENTRE)
    assert_allclose(dpo.policies[-1], solve_rlhf(P, 0.8, OFF_CENTRE).policy, atol=1e-8)


# RLHF.


def test_rloo_reaches_the_rlhf_policy():
    P, reference = uniform_games(4, 8), policies((8, 4), 2, 0.1)
    trace = run(RLOO(2, 1.0), P, 2000, 200, leader_reference=reference)
    exact = solve_rlhf(P, 1.0, reference)
    assert_allclose(trace.policies[-1], exact.policy, atol=1e-9)
    assert np.all(trace.distances[0] > 0.05)
    assert np.all(trace.gaps > -1e-12)
    assert np.all(np.diff(trace.gaps, axis=0) < 1e-12)
    earned = (reference * exact.reward).sum(-1)  # at the reference the KL costs nothing
    assert_allclose(trace.gaps[0], exact.value - earned, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: run(NashMD(tau=0), CONDORCET, 1, parameterization="scheduled"), InvalidParameter, "needs a price"),
        (lambda: run(MMD(), CONDORCET, 1, parameterization="softmax"), InvalidParameter, "mmd is available as mirror"),
        (lambda: run(MMD(), CONDORCET, 1, follower_reference=[1, 0, 0]), InvalidParameter, "mmd has no Follower"),
        (lambda: run(RLOO(), CONDORCET, 1, follower_reference=[1, 0, 0]), InvalidParameter, "rloo has no Follower"),
        (lambda: run(SPPO(), CONDORCET, 1, leader_reference=[1, 0, 0]), InvalidReference, "leader_reference"),
        (lambda: run(INPO(50, 1), CONDORCET, 2000, 500), InvalidParameter, r"INPO.* diverged by step 500"),
        (lambda: MMD(tau=0), InvalidParameter, r"MMD\.tau = 0"),
        (lambda: MPO(period=0), InvalidParameter, r"MPO\.period = 0"),
        (lambda: OnlineDPO(tau=-1), InvalidParameter, r"OnlineDPO\.tau = -1"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the run that diverges
def test_bad_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
