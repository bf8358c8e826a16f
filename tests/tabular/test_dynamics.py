"""tabular.dynamics: StackelbergGDA follows the objective's gradients and reaches the closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from slhf.algorithms import Algorithm, StackelbergGDA
from slhf.errors import InvalidParameter, InvalidReference
from tabular import PreferenceMatrix, solve_slhf
from tabular.dynamics import Trace, run
from tabular.dynamics import stackelberg_gda as gda
from tabular.policies import project_to_simplex, total_variation
from tabular.stackelberg import StackelbergGame
from tests.tabular.strategies import CONDORCET, examples, games, policies, seeds, single_games

pytestmark = pytest.mark.numeric

STEPS = st.sampled_from(["simplex", "softmax", "mirror"])


def a_game(P, tau_leader, tau_follower, seed):
    """A game with random references, and a random state in it."""
    refs, now = ((policies(P.p.shape[:-1], s, 0.05), policies(P.p.shape, s + 1, 0.05)) for s in (seed, seed + 2))
    game = StackelbergGame.create(P, tau_leader, tau_follower, *refs)
    return game, gda.State(*(np.log(policy) for policy in now))


def slopes(f, x, step=1e-6):
    """Central differences of a scalar function of an array."""
    result = np.empty_like(x)
    for index in np.ndindex(x.shape):
        move = np.zeros_like(x)
        move[index] = step
        result[index] = (f(x + move) - f(x - move)) / (2 * step)
    return result


def centred(x):
    return x - x.mean(-1, keepdims=True)


@examples(15)
@given(P=single_games(sizes=(2, 4)), seed=seeds)
def test_rewards_are_the_gradients_of_the_objective(P, seed):
    """Up to a constant in the action, which the projection removes."""
    game, state = a_game(P, 0.3, 0.2, seed)
    leader, follower = gda.gradients(game, state)
    policy, reply = np.exp(state.log_policy), np.exp(state.log_follower)
    by_policy = slopes(lambda x: game.objective(np.log(x), state.log_follower), policy)
    by_reply = slopes(lambda x: game.objective(state.log_policy, np.log(x)), reply)
    assert_allclose(centred(leader), centred(by_policy), atol=1e-7)
    assert_allclose(centred(follower), -centred(by_reply), atol=1e-7)


@examples(15)
@given(P=single_games(sizes=(2, 4)), seed=seeds)
def test_softmax_step_is_the_policy_gradient_on_logits(P, seed):
    game, state = a_game(P, 0.3, 0.2, seed)
    spec = StackelbergGDA(0.1, 3, 0.3, 0.2)

    def log_softmax(x):
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    by_policy = slopes(lambda x: game.objective(log_softmax(x), state.log_follower), state.log_policy)
    by_reply = slopes(lambda x: game.objective(state.log_policy, log_softmax(x)), state.log_follower)
    after = gda.step_softmax(spec, game, state)
    assert_allclose(after.log_policy, log_softmax(state.log_policy + 0.1 * by_policy), atol=1e-7)
    assert_allclose(after.log_follower, log_softmax(state.log_follower - 0.3 * by_reply), atol=1e-7)


@examples(50)
@given(v=st.lists(st.floats(-3, 3), min_size=1, max_size=6))
def test_projection_is_the_nearest_point_of_the_simplex(v):
    v = np.array(v)
    x = project_to_simplex(v)
    assert np.all(x >= 0)
    assert x.sum() == pytest.approx(1)
    assert np.all((np.eye(len(v)) - x) @ (v - x) <= 1e-12)  # no vertex lies further in the direction of v
    batch = np.stack([v, v[::-1]])
    assert_allclose(project_to_simplex(batch), [x, x[::-1]], atol=1e-15)


@examples(15)
@given(P=games(sizes=(2, 4)), parameterization=STEPS, seed=seeds)
def test_the_solution_is_a_fixed_point(P, parameterization, seed):
    game, _ = a_game(P, 0.3, 0.2, seed)
    s = solve_slhf(P, 0.3, 0.2, np.exp(game.log_leader_reference), np.exp(game.log_follower_reference))
    spec = StackelbergGDA(0.1, 3, 0.3, 0.2)
    after = gda.STEPS[parameterization](spec, game, gda.State(s.log_policy, s.log_follower))
    assert_allclose(np.exp(after.log_policy), s.policy, atol=1e-13)
    assert_allclose(np.exp(after.log_follower), s.follower, atol=1e-13)


@pytest.mark.parametrize(
    ("parameterization", "tau", "timescale", "steps", "distance"),
    [
        ("simplex", 0.1, 5, 3000, 1e-12),
        ("simplex", 0.1, 1, 6000, 1e-12),
        ("softmax", 0.3, 5, 6000, 1e-12),
        ("softmax", 0.1, 10, 6000, 1e-3),
        ("mirror", 0.3, 5, 2000, 1e-12),
        ("mirror", 0.1, 5, 6000, 1e-12),
    ],
)
def test_reaches_the_closed_form(parameterization, tau, timescale, steps, distance):
    spec = StackelbergGDA(0.05, timescale, tau, tau)
    trace = run(spec, CONDORCET, steps, steps, parameterization)
    assert trace.distances[0] > 0.01
    assert trace.distances[-1] < distance
    assert trace.gaps[-1] < 20 * distance
    assert_allclose(trace.policies[-1], solve_slhf(CONDORCET, tau, tau).policy, atol=2 * distance)


def test_a_faster_follower_helps():
    at_100 = [run(StackelbergGDA(0.05, k, 0.1, 0.1), CONDORCET, 100, 100).distances[-1] for k in (1, 5, 10)]
    assert_allclose(at_100, [0.0801, 0.0424, 0.0371], atol=1e-4)


@pytest.mark.parametrize(("tau", "distances"), [(0.1, (0.19, 0.083, 0.065)), (0.01, (0.78, 0.60, 0.51))])
def test_the_numbers_of_math_section_4(tau, distances):
    """TV to the Leader at t = 100 for kappa = 1, 5, 10, from Dirichlet draws: NumPy's generator 0, pi first."""
    rng = np.random.default_rng(0)
    start = gda.State(np.log(rng.dirichlet(np.ones(3))), np.log(rng.dirichlet(np.ones(3), size=3)))
    game = StackelbergGame.create(CONDORCET, tau, tau)
    for timescale, distance in zip((1, 5, 10), distances, strict=True):
        state = start
        for _ in range(100):
            state = gda.step_simplex(StackelbergGDA(0.05, timescale, tau, tau), game, state)
        assert total_variation(np.exp(state.log_policy), gda.solution(game)) == pytest.approx(distance, abs=0.005)


def test_mirror_steps_bear_small_temperatures_and_long_steps():
    """At tau = .01 each form at its best step size of .05, .5 and 1: only the mirror form arrives in 3000 steps."""
    left = {
        form: min(run(StackelbergGDA(rate, 5, 0.01, 0.01), CONDORCET, 3000, 3000, form).distances[-1] for rate in rates)
        for form, rates in (("simplex", (0.05, 0.5, 1)), ("softmax", (0.05, 0.5, 1)), ("mirror", (1,)))
    }
    assert left["mirror"] < 1e-12
    assert left["softmax"] > 1e-3
    assert left["simplex"] > 1e-4


@pytest.mark.parametrize("parameterization", gda.STEPS)
@examples(12)
@given(P=games(sizes=(2, 5)), seed=seeds)
def test_converges_from_any_references(parameterization, P, seed):
    refs = policies(P.p.shape[:-1], seed, 0.2), policies(P.p.shape, seed + 1, 0.2)
    spec = StackelbergGDA(0.2 if parameterization == "simplex" else 1.0, 2, 0.5, 0.5)
    trace = run(spec, P, 800, 800, parameterization, *refs)
    assert np.all(trace.distances[-1] < 1e-6)
    assert np.all(np.abs(trace.gaps[-1]) < 1e-6)


def test_probabilities_projected_to_zero_are_pushed_back():
    """Long steps in rock-paper-scissors: projections hit 0 and the run goes on, finite, towards the solution."""
    P = PreferenceMatrix([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]])
    spec = StackelbergGDA(0.3, 5, 0.3, 0.3)
    game = StackelbergGame.create(P, 0.3, 0.3)
    state, hit = gda.init(game), 0
    for _ in range(50):
        state = gda.step_simplex(spec, game, state)
        hit += np.isneginf(state.log_follower).any()
        assert np.isfinite(gda.gap(game, state))
    assert hit > 0
    assert gda.gap(game, state) < 0.4


def test_probabilities_below_the_floor_rest_at_zero():
    """The exact solution gives 1e-22 to losing actions; the dynamics rests with 0 there, 1e-12 away at most."""
    P = PreferenceMatrix([[0.5, 1], [0, 0.5]])
    s = solve_slhf(P, 0.01, 0.01)
    assert s.policy[1] < 1e-20
    with np.errstate(divide="ignore"):
        at_rest = gda.State(*(np.log(np.where(x < 1e-12, 0, x)) for x in (s.policy, s.follower)))
    game = StackelbergGame.create(P, 0.01, 0.01)
    after = gda.step_simplex(StackelbergGDA(0.01, 2, 0.01, 0.01), game, at_rest)
    assert_allclose(np.exp(after.log_policy), s.policy, atol=2e-12)
    assert_allclose(np.exp(after.log_follower), s.follower, atol=2e-12)


@examples(10)
@given(P=games(batches=((3,), (2, 2))), parameterization=STEPS, seed=seeds)
def test_a_batch_is_a_loop_and_inputs_are_left_alone(P, parameterization, seed):
    refs = policies(P.p.shape[:-1], seed), policies(P.p.shape, seed + 1)
    before = [array.copy() for array in refs]
    spec = StackelbergGDA(0.1, 3, 0.2, 0.2)
    trace = run(spec, P, 20, 10, parameterization, *refs)
    assert trace.policies.shape == (3, *P.p.shape[:-1])
    assert trace.gaps.shape == trace.distances.shape == (3, *P.batch_shape)
    for index in np.ndindex(P.batch_shape):
        one = run(
            spec, PreferenceMatrix(P.p[index]), 20, 10, parameterization, *(reference[index] for reference in refs)
        )
        assert_allclose(trace.policies[(slice(None), *index)], one.policies, atol=1e-13)
    for old, new in zip(before, refs, strict=True):
        assert_array_equal(old, new)


@examples(10)
@given(P=single_games(), parameterization=STEPS, seed=seeds)
def test_permuting_the_actions_permutes_the_run(P, parameterization, seed):
    order = np.random.default_rng(seed).permutation(P.n)
    spec = StackelbergGDA(0.1, 3, 0.2, 0.2)
    trace = run(spec, P, 30, 30, parameterization)
    renamed = run(spec, PreferenceMatrix(P.p[order[:, None], order]), 30, 30, parameterization)
    assert_allclose(renamed.policies, trace.policies[:, order], atol=1e-11)


def test_the_trace_records_what_was_asked():
    trace = run(StackelbergGDA(), CONDORCET, 25, 10)
    assert isinstance(trace, Trace)
    assert trace.steps.tolist() == [0, 10, 20, 25]
    assert_allclose(trace.policies[0], np.full(3, 1 / 3))
    assert_allclose(trace.policies[-1], np.exp(trace.state.log_policy))
    assert_allclose(trace.distances, np.abs(trace.policies - solve_slhf(CONDORCET).policy).sum(-1) / 2)
    assert run(StackelbergGDA(), CONDORCET, 0).steps.tolist() == [0]
    assert run(StackelbergGDA(), CONDORCET, 3).steps.tolist() == [0, 1, 2, 3]


@dataclass(frozen=True)
class Unheard(Algorithm):
    name = "unheard"
    learning_rate: float = 1.0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: run(Unheard(), CONDORCET, 1), InvalidParameter, "no tabular dynamics; available: .*StackelbergGDA"),
        (
            lambda: run(StackelbergGDA(), CONDORCET, 1, parameterization="logit"),
            InvalidParameter,
            "'logit': stackelberg_gda is available as simplex, softmax",
        ),
        (lambda: run(StackelbergGDA(), CONDORCET, -1), InvalidParameter, "steps = -1"),
        (lambda: run(StackelbergGDA(), CONDORCET, 1.5), InvalidParameter, "steps = 1.5"),
        (lambda: run(StackelbergGDA(), CONDORCET, 1, 0), InvalidParameter, "record_every = 0"),
        (lambda: run(StackelbergGDA(), CONDORCET, 1, leader_reference=[1, 0, 0]), InvalidReference, "leader_reference"),
    ],
)
def test_bad_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
