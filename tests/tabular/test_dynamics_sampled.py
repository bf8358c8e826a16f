"""tabular.dynamics from samples: unbiased, reproducible, and ending where the exact steps do."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from slhf.algorithms import EGPO, INPO, MMD, MPO, OMWU, RLOO, SPO, SPPO, NashMD, OnlineDPO, OnlineIPO, StackelbergGDA
from slhf.errors import InvalidParameter
from tabular import PreferenceMatrix, solve_nlhf, solve_slhf
from tabular.dynamics import DYNAMICS, nash_game, pairwise_losses, policy_gradient, reward_game, run, sampling
from tabular.dynamics import stackelberg_gda as gda
from tabular.dynamics.nash_game import State
from tests.tabular.strategies import CONDORCET, complete, policies

pytestmark = pytest.mark.numeric

N = 3
P = PreferenceMatrix(complete(np.random.default_rng(0).uniform(0.1, 0.9, size=(N, N))))
REFERENCE, NOW = policies((N,), 1, 0.1), policies((N,), 2, 0.1)
STATE = State(np.log(NOW), np.log(REFERENCE), 0)


def all_draws(k):
    """``(N^k, k)``: every sequence of k actions."""
    return np.array(list(product(range(N), repeat=k)))


def each(game, count):
    """The NashGame once per draw."""
    return nash_game.NashGame(
        PreferenceMatrix(np.tile(P.p, (count, 1, 1))), game.tau, np.tile(game.log_reference, (count, 1))
    )


@pytest.mark.parametrize("k", [1, 2, 3])
def test_reinforce_is_unbiased(k):
    """Averaged over all draws of k actions, for rewards that depend on the action."""
    reward, y = np.array([0.3, -1.0, 2.0]), all_draws(k)
    found = policy_gradient.reinforce(np.tile(np.log(NOW), (len(y), 1)), y, reward[y])
    exact = policy_gradient.exact_gradient(np.log(NOW), reward)
    assert_allclose(NOW[y].prod(-1) @ found, exact, atol=1e-14)
    objective = [(np.exp(np.log(NOW) + m) / np.exp(np.log(NOW) + m).sum()) @ reward for m in 1e-6 * np.eye(N)]
    assert_allclose(exact, (np.array(objective) - NOW @ reward) / 1e-6, atol=1e-5)


@pytest.mark.parametrize("samples", [2, 3])
def test_the_sampled_rloo_step_averages_to_the_exact_gradient(samples):
    game = reward_game.create_game(RLOO(tau=0.4), P, REFERENCE, None)
    reward, y = policy_gradient.rloo_reward(game, STATE), all_draws(samples)
    found = policy_gradient.reinforce(np.tile(STATE.log_policy, (len(y), 1)), y, reward[y])
    after = policy_gradient.step_rloo(RLOO(0.1, 0.4), game, STATE)
    expected = policy_gradient.ascend(STATE.log_policy, NOW[y].prod(-1) @ found, 0.1)
    assert_allclose(after.log_policy, expected, atol=1e-14)


@pytest.mark.parametrize(("samples", "mixture"), [(1, 0.0), (1, 0.3), (2, 0.3)])
def test_the_sampled_nash_md_step_averages_to_the_exact_gradient(samples, mixture):
    spec = NashMD(0.1, 0.4, mixture, samples)
    game = nash_game.create_game(spec, P, REFERENCE, None)
    opponent = np.exp(policy_gradient.opponent(spec, game, STATE))
    draws = all_draws(2 * samples)
    y, replies = draws[:, :samples], draws[:, samples:]
    chance = NOW[y].prod(-1) * opponent[replies].prod(-1)
    log_policies = np.tile(STATE.log_policy, (len(y), 1))
    found = policy_gradient.nash_pg_estimate(each(game, len(y)), STATE._replace(log_policy=log_policies), y, replies)
    after = policy_gradient.step_nash_pg(spec, game, STATE)
    expected = policy_gradient.ascend(STATE.log_policy, chance @ found, 0.1)
    assert chance.sum() == pytest.approx(1)
    assert_allclose(after.log_policy, expected, atol=1e-14)


@pytest.mark.parametrize(("k", "m"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_the_sampled_stackelberg_gradients_average_to_the_exact_ones(k, m):
    reply_reference, reply_now = policies((N, N), 3, 0.1), policies((N, N), 4, 0.1)
    draws = all_draws(k + k * m)
    y, replies = draws[:, :k], draws[:, k:].reshape(-1, k, m)
    chance = NOW[y].prod(-1) * reply_now[y[..., None], replies].prod((-1, -2))
    count = len(draws)
    spec = StackelbergGDA(0.1, 3, 0.4, 0.3, k, m)
    one = gda.create_game(spec, P, REFERENCE, reply_reference)
    many = gda.create_game(spec, PreferenceMatrix(np.tile(P.p, (count, 1, 1))), REFERENCE, reply_reference)
    state = gda.State(np.log(NOW), np.log(reply_now))
    states = gda.State(np.tile(np.log(NOW), (count, 1)), np.tile(np.log(reply_now), (count, 1, 1)))
    leader, follower = gda.estimates(many, states, y, replies)
    after = gda.step_softmax(spec, one, state)
    assert chance.sum() == pytest.approx(1)
    assert_allclose(after.log_policy, policy_gradient.ascend(state.log_policy, chance @ leader, 0.1), atol=1e-14)
    mean = np.tensordot(chance, follower, 1)
    assert_allclose(after.log_follower, policy_gradient.ascend(state.log_follower, mean, 0.3), atol=1e-14)


def test_samples_follow_the_policy():
    both = np.log(np.stack([NOW, REFERENCE]))
    drawn = sampling.sample(both, 40_000, np.random.default_rng(0))
    assert drawn.shape == (2, 40_000)
    shares = (drawn[..., None] == np.arange(N)).mean(1)
    assert_allclose(shares, [NOW, REFERENCE], atol=4 * 0.5 / np.sqrt(40_000))
    never = np.array([-np.inf, 0.0, -np.inf])
    assert np.all(sampling.sample(never, 50, np.random.default_rng(0)) == 1)


@pytest.mark.parametrize("samples", [2, 3])
@pytest.mark.parametrize("spec", [SPO(0.1, 0.4), SPO(0.1), SPPO(0.1)], ids=["SPO, price", "SPO", "SPPO"])
def test_the_sampled_spo_step_averages_to_the_exact_gradient(spec, samples):
    game, y = nash_game.create_game(spec, P, REFERENCE, None), all_draws(samples)
    states = STATE._replace(log_policy=np.tile(STATE.log_policy, (len(y), 1)))
    found = policy_gradient.spo_estimate(each(game, len(y)), states, y)
    after = policy_gradient.step_nash_pg(spec, game, STATE)
    expected = policy_gradient.ascend(STATE.log_policy, NOW[y].prod(-1) @ found, 0.1)
    assert_allclose(after.log_policy, expected, atol=1e-14)


@pytest.mark.parametrize("pairs", [1, 2])
@pytest.mark.parametrize("spec", [OnlineIPO(tau=0.4), OnlineDPO(tau=2.0)], ids=lambda spec: spec.name)
def test_pairs_average_to_the_exact_gradient(spec, pairs):
    slope = pairwise_losses.ipo_slope if isinstance(spec, OnlineIPO) else pairwise_losses.dpo_slope
    game, draws = nash_game.create_game(spec, P, REFERENCE, None), all_draws(2 * pairs)
    states = STATE._replace(log_policy=np.tile(STATE.log_policy, (len(draws), 1)))
    found = pairwise_losses.estimate(slope, each(game, len(draws)), states, draws[:, :pairs], draws[:, pairs:])
    assert_allclose(NOW[draws].prod(-1) @ found, pairwise_losses.gradient(slope, game, STATE), atol=1e-14)


def every_outcome(spec, form, monkeypatch):
    """``(count,)`` chances and the State of a sampled step, for all that its opponents can draw; and the exact one."""
    game = nash_game.create_game(spec, P, REFERENCE, None)
    calls = 2 if isinstance(spec, EGPO) else 1
    draws = all_draws(calls * spec.samples)
    chance, left = np.ones(len(draws)), list(np.split(draws, calls, axis=1))

    def sample(log_policy, k, _):
        nonlocal chance
        drawn = left.pop(0)
        assert drawn.shape[-1] == k
        chance = chance * np.take_along_axis(np.exp(log_policy), drawn, -1).prod(-1)
        return drawn

    monkeypatch.setattr(sampling, "sample", sample)
    states = State(*(np.tile(x, (len(draws), 1)) for x in (STATE.log_policy, np.log(NOW[::-1]))), 3)
    dynamics = DYNAMICS[type(spec)]
    found = dynamics.sampled[form](spec, each(game, len(draws)), states, None)
    exact = dynamics.steps[form](spec, game, STATE._replace(log_anchor=np.log(NOW[::-1]), t=3))
    assert not left
    assert chance.sum() == pytest.approx(1)
    return chance, found, exact


def relative(log_policy):
    """Logits up to their normalisation."""
    return log_policy - log_policy[..., :1]


@pytest.mark.parametrize(
    ("spec", "form"),
    [
        (SPO(0.5, 0.3, 2), "mirror"), (SPPO(0.5, 3), "mirror"), (OMWU(0.5, 2), "mirror"), (INPO(0.5, 0.3, 2), "mirror"),
        (MMD(0.5, 0.3, 2), "mirror"), (MPO(0.5, 0.3, 2, 2), "mirror"), (NashMD(0.5, 0.3, samples=2), "mirror"),
        (NashMD(0.5, 0.3, samples=2), "scheduled"),
    ],
    ids=lambda value: getattr(value, "name", value),
)  # fmt: skip
def test_against_samples_logits_move_on_average_as_in_the_exact_step(spec, form, monkeypatch):
    chance, found, exact = every_outcome(spec, form, monkeypatch)
    assert np.ptp(found.log_policy, axis=0).min() > 1e-3
    for name in ("log_policy", "log_anchor"):
        assert_allclose(chance @ relative(getattr(found, name)), relative(getattr(exact, name)), atol=1e-14)


def test_ogda_is_unbiased_inside_the_simplex_and_biased_at_its_border(monkeypatch):
    for rate, biased in ((0.02, False), (1.0, True)):
        chance, found, exact = every_outcome(OMWU(rate, 2), "simplex", monkeypatch)
        error = np.abs(chance @ np.exp(found.log_policy) - np.exp(exact.log_policy)).max()
        assert (error > 0.01) if biased else (error < 1e-14)
        assert np.any(np.isneginf(found.log_policy)) == biased


def test_the_bias_of_sampled_egpo_is_of_third_order(monkeypatch):
    bias = []
    for rate in (0.2, 0.1, 0.05):
        chance, found, exact = every_outcome(EGPO(rate, 0.3, 1), "mirror", monkeypatch)
        bias.append(np.abs(chance @ relative(found.log_policy) - relative(exact.log_policy)).max())
    assert bias[-1] > 1e-8
    assert_allclose(np.divide(bias[:-1], bias[1:]), 8, rtol=0.1)


SPECS = [
    StackelbergGDA(0.05, 5, 0.3, 0.3, 4, 2), RLOO(0.05, 0.3, 4), NashMD(0.05, 0.3, 0.125, 4), SPO(0.05, 0.3, 4),
    SPPO(0.05, 4), OMWU(0.05, 4), INPO(0.05, 0.3, 4), EGPO(0.05, 0.3, 4), MMD(0.05, 0.3, 4), MPO(0.05, 0.3, 10, 4),
    OnlineIPO(0.05, 0.3, 4), OnlineDPO(0.5, 0.3, 4),
]  # fmt: skip
FORMS = [(spec, form) for spec in SPECS for form in DYNAMICS[type(spec)].sampled]


def test_every_algorithm_can_sample():
    assert {type(spec) for spec in SPECS} == set(DYNAMICS)
    for spec, dynamics in DYNAMICS.items():
        expected = {"softmax"} if spec is StackelbergGDA else set(dynamics.steps)
        assert set(dynamics.sampled) == expected


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_seed_fixes_the_run(spec):
    batch = PreferenceMatrix(np.stack([CONDORCET.p, P.p]))
    first, again, other = (run(spec, batch, 20, 5, seed=seed) for seed in (0, 0, 1))
    assert_array_equal(first.policies, again.policies)
    assert np.abs(first.policies[-1] - other.policies[-1]).max(-1).min() > 1e-4
    exact = run(spec, batch, 20, 5, next(iter(DYNAMICS[type(spec)].sampled)))
    assert np.abs(first.policies[-1] - exact.policies[-1]).max() > 1e-4


def test_one_game_with_many_seeds_is_a_batch():
    """Copies of a game draw independently: sampled runs scatter around the exact one, which all copies share."""
    copies = PreferenceMatrix(np.broadcast_to(CONDORCET.p, (400, 3, 3)))
    spec = INPO(0.02, 0.3, 2)
    sampled, exact = run(spec, copies, 30, 30, seed=0), run(spec, copies, 30, 30)
    assert len(np.unique(sampled.policies[-1], axis=0)) == 400
    assert_allclose(exact.policies[-1], np.broadcast_to(exact.policies[-1][0], (400, 3)), rtol=1e-12)
    spread = sampled.policies[-1].std(0) / np.sqrt(400)
    assert_allclose(sampled.policies[-1].mean(0), exact.policies[-1][0], atol=4 * spread.max())


@pytest.mark.parametrize(("spec", "form"), FORMS, ids=lambda value: getattr(value, "name", value))
def test_steps_draw_afresh_and_as_many_samples_as_the_spec_says(spec, form, monkeypatch):
    draws, original = [], sampling.sample

    def recording(log_policy, k, rng):
        draws.append(original(log_policy, k, rng))
        return draws[-1]

    for module in (policy_gradient, gda, pairwise_losses, sampling):
        monkeypatch.setattr(module, "sample", recording)
    run(spec, PreferenceMatrix(np.tile(CONDORCET.p, (10, 1, 1))), 2, seed=0, parameterization=form)
    twice = isinstance(spec, (OnlineIPO, OnlineDPO, EGPO)) or (isinstance(spec, NashMD) and form == "softmax")
    asked = [4, 2] if isinstance(spec, StackelbergGDA) else [4, 4] if twice else [4]
    assert [draw.shape[-1] for draw in draws] == 2 * asked
    for first, second in zip(draws[: len(asked)], draws[len(asked) :], strict=True):
        assert np.any(first != second)


def test_nash_md_samples_its_opponent_from_the_mixture():
    """Over many games, one sampled step moves the logits as the exact one does on average."""
    count, spec = 100_000, NashMD(1e-3, 0.4, mixture=1.0)
    reference = np.array([0.05, 0.05, 0.9])
    one = nash_game.create_game(spec, P, reference, None)
    state = STATE._replace(log_policy=np.log([0.45, 0.45, 0.1]))
    many = State(np.tile(state.log_policy, (count, 1)), np.tile(state.log_anchor, (count, 1)), 0)
    sampled = policy_gradient.step_nash_pg_sampled(spec, each(one, count), many, np.random.default_rng(0))
    self_play = NashMD(1e-3, 0.4, mixture=0.0)
    expected, other = (policy_gradient.step_nash_pg(s, one, state).log_policy for s in (spec, self_play))
    error = np.abs(sampled.log_policy.mean(0) - expected).max()
    assert error < 0.2 * np.abs(other - expected).max()


def test_the_follower_is_sampled_given_the_answer():
    """Only the rows of answers that were drawn move."""
    spec = StackelbergGDA(0.5, 1, 0.3, 0.3, 1, 2)
    game = gda.create_game(spec, P, None, None)
    after = gda.step_softmax_sampled(spec, game, gda.init(game), np.random.default_rng(0))
    moved = np.abs(after.log_follower - game.log_follower_reference).max(-1) > 1e-12
    assert moved.sum() == 1


@pytest.mark.parametrize(
    ("spec", "tolerance"),
    [
        (StackelbergGDA(0.1, 5, 0.3, 0.3, 4, 2), 1e-3), (RLOO(0.1, 0.5, 4), 1e-3), (NashMD(0.02, 0.3, 0, 8), 0.02),
        (SPO(0.02, 0.3, 8), 0.02), (OnlineIPO(0.002, 0.3, 8), 0.02),
    ],
    ids=lambda value: getattr(value, "name", ""),
)  # fmt: skip
def test_sampled_runs_reach_the_solution(spec, tolerance):
    """Where rewards are equal at the solution (RLOO, SLHF) the noise dies out with the advantages."""
    trace = run(spec, CONDORCET, 3000, 1000, "softmax", seed=0)
    assert trace.distances[0] > 0.04
    assert trace.distances[-1] < tolerance


@pytest.mark.parametrize("spec", [INPO(0.02, 0.1, 8), EGPO(0.02, 0.1, 8), MMD(0.02, 0.1, 8)], ids=lambda s: s.name)
def test_against_samples_averages_reach_the_kl_nash(spec):
    """The last policies keep wandering, by the order of sqrt(eta / k)."""
    trace = run(spec, CONDORCET, 6000, 100, seed=0)
    exact = solve_nlhf(CONDORCET, 0.1).policy
    assert np.abs(trace.policies[20:].mean(0) - exact).sum() / 2 < 0.005
    assert trace.distances[0] > 0.05
    assert 1e-4 < trace.distances[-20:].mean() < 0.03


def test_sampled_runs_reach_the_followers_solution_too():
    spec = StackelbergGDA(0.1, 5, 0.3, 0.3, 4, 2)
    trace = run(spec, CONDORCET, 3000, 3000, "softmax", seed=1)
    assert_allclose(np.exp(trace.state.log_follower), solve_slhf(CONDORCET, 0.3, 0.3).follower, atol=1e-2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: run(StackelbergGDA(), CONDORCET, 1, parameterization="mirror", seed=0),
            "available as softmax from samples",
        ),
        (lambda: SPO(samples=1), r"SPO\.samples = 1"),
        (lambda: SPPO(samples=1), r"SPPO\.samples = 1"),
        (lambda: run(RLOO(), CONDORCET, 1, seed=-1), "seed = -1"),
        (lambda: run(RLOO(), CONDORCET, 1, seed=0.5), "seed = 0.5"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(InvalidParameter, match=message):
        call()
