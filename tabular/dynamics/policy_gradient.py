"""Policy gradients on softmax logits, exact or from sampled actions, with the rewards that ``llm`` trains on.

For a reward R the gradient of E[R] on the logits is pi (R - E R). Sampled, it is the mean over k actions
of (R_i - b_i)(1[y_i] - pi), with a baseline b_i that does not depend on y_i.
"""

from __future__ import annotations

import numpy as np

from slhf.algorithms import RLOO, SPO, SPPO, NashMD
from slhf.signals import geometric_mixture, leave_one_out, policy_reward
from tabular.dynamics.nash_game import NashGame, State, normalised
from tabular.dynamics.reward_game import RewardGame
from tabular.dynamics.sampling import Actions, sample
from tabular.policies import Array, log_ratio


def exact_gradient(log_policy: Array, reward: Array) -> Array:
    """``(..., n)``: pi (R - E R), for rewards ``(..., n)``."""
    policy = np.exp(log_policy)
    return policy * (reward - np.sum(policy * reward, axis=-1, keepdims=True))


def reinforce(log_policy: Array, actions: Actions, reward: Array) -> Array:
    """``(..., n)``: the gradient estimate from actions ``(..., k)`` and their rewards ``(..., k)``."""
    return score_mean(log_policy, actions, reward - baseline(reward))


def score_mean(log_policy: Array, actions: Actions, advantage: Array) -> Array:
    """``(..., n)``: the mean of advantage (1[y] - pi) over actions ``(..., k)`` with advantages ``(..., k)``."""
    chosen = actions[..., None] == np.arange(log_policy.shape[-1])
    return np.mean(advantage[..., None] * (chosen - np.exp(log_policy)[..., None, :]), axis=-2)


def baseline(reward: Array) -> Array | float:
    """Leave-one-out means along the last axis, or 1/2 for a single sample."""
    return leave_one_out(reward) if reward.shape[-1] > 1 else 0.5


def ascend(log_policy: Array, gradient: Array, rate: float) -> Array:
    """``(..., n)``: the log policy after a step along a gradient on its logits."""
    return normalised(log_policy + rate * gradient)


def _advance(state: State, gradient: Array, rate: float) -> State:
    return state._replace(log_policy=ascend(state.log_policy, gradient, rate), t=state.t + 1)


# RLOO (arXiv 2402.14740): R = r - tau log(pi/pi_ref).


def rloo_reward(game: RewardGame, state: State) -> Array:
    """``(..., n)``: R(y)."""
    return policy_reward(game.optimum.reward, state.log_policy - game.log_reference, tau=game.tau)


def step_rloo(spec: RLOO, game: RewardGame, state: State) -> State:
    """RLOO with exact expectations: the policy gradient of E[r] - tau KL."""
    return _advance(state, exact_gradient(state.log_policy, rloo_reward(game, state)), spec.learning_rate)


def step_rloo_sampled(spec: RLOO, game: RewardGame, state: State, rng: np.random.Generator) -> State:
    """RLOO with k = ``samples`` actions."""
    y = sample(state.log_policy, spec.samples, rng)
    reward = np.take_along_axis(rloo_reward(game, state), y, -1)
    return _advance(state, reinforce(state.log_policy, y, reward), spec.learning_rate)


# Nash-MD-PG (arXiv 2312.00886, Section 7): R = p(y > y') - tau log(pi/pi_ref), y' of the opponent held fixed.
# SPO (arXiv 2401.04056) is self-play: the opponent is pi. SPPO's (arXiv 2405.00675) regression of log pi/pi_t on
# eta (P(. > pi_t) - 1/2) has at pi = pi_t the gradient -2 eta E[(P(y > pi) - 1/2)(1[y] - pi)]: SPO's, without price.


def opponent(spec: NashMD | SPO | SPPO, game: NashGame, state: State) -> Array:
    """``(..., n)``: the log of pi^(1 - m) pi_ref^m, normalised; m = 0 in self-play."""
    mixture = spec.mixture if isinstance(spec, NashMD) else 0.0
    return normalised(geometric_mixture(state.log_policy, game.log_reference, mixture=mixture))


def step_nash_pg(spec: NashMD | SPO | SPPO, game: NashGame, state: State) -> State:
    """Nash-MD-PG, SPO and one gradient step (of length 1/2) on SPPO's regression, with exact expectations."""
    q = game.win_rates(opponent(spec, game, state))
    ratio = log_ratio(state.log_policy, game.log_reference)
    return _advance(state, exact_gradient(state.log_policy, policy_reward(q, ratio, tau=game.tau)), spec.learning_rate)


def nash_pg_estimate(game: NashGame, state: State, y: Actions, replies: Actions) -> Array:
    """``(..., n)``: the gradient estimate from k actions ``(..., k)``, each against its own opponent's ``(..., k)``."""
    wins = np.take_along_axis(np.take_along_axis(game.P.p, y[..., None], -2), replies[..., None], -1)[..., 0]
    ratio = np.take_along_axis(state.log_policy - game.log_reference, y, -1)
    return reinforce(state.log_policy, y, policy_reward(wins, ratio, tau=game.tau))


def step_nash_pg_sampled(spec: NashMD, game: NashGame, state: State, rng: np.random.Generator) -> State:
    """Nash-MD-PG with k = ``samples`` actions."""
    y = sample(state.log_policy, spec.samples, rng)
    replies = sample(opponent(spec, game, state), spec.samples, rng)
    return _advance(state, nash_pg_estimate(game, state, y, replies), spec.learning_rate)


def spo_estimate(game: NashGame, state: State, y: Actions) -> Array:
    """``(..., n)``: the gradient estimate from k >= 2 actions ``(..., k)``, each against all the others.

    r_i = mean over j != i of p(y_i > y_j) has mean P(y_i > pi), given y_i. The r_i of a prompt add up to k / 2,
    so leave-one-out baselines would only blow r_i - 1/2 up, k / (k - 1) times; the KL has them.
    """
    k = y.shape[-1]
    wins = np.take_along_axis(np.take_along_axis(game.P.p, y[..., None], -2), y[..., None, :], -1)
    beaten = (wins.sum(-1) - 0.5) / (k - 1)  # p(y_i > y_i) = 1/2
    ratio = np.take_along_axis(state.log_policy - game.log_reference, y, -1)
    return score_mean(state.log_policy, y, beaten - 0.5 - game.tau * (ratio - leave_one_out(ratio)))


def step_spo_sampled(spec: SPO | SPPO, game: NashGame, state: State, rng: np.random.Generator) -> State:
    """SPO with k = ``samples`` actions, and one gradient step on SPPO's regression over them."""
    y = sample(state.log_policy, spec.samples, rng)
    return _advance(state, spo_estimate(game, state, y), spec.learning_rate)
