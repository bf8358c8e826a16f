"""Gradient descent on pairwise losses over the policy's own pairs, with exact expectations.

With the margin h(y, y') = log(pi/mu)(y) - log(pi/mu)(y'), the loss is E[l(h(y, y'), p(y > y'))] over
y, y' ~ pi, the draw held fixed. Because h(y, y') depends on the logit of y with +1 and on that of y' with -1,
the gradient on the logits is sum_y' w(y, y') - w(y', y), with w = pi(y) pi(y') dl/dh(y, y').
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import expit

from slhf.algorithms import OnlineDPO, OnlineIPO
from tabular.dynamics.nash_game import NashGame, State, normalised
from tabular.dynamics.sampling import Actions, sample
from tabular.policies import Array

Slope = Callable[[Array, Array, float], Array]
"""dl/dh, from margins h, preferences p and tau."""


def ipo_slope(margin: Array, p: Array, tau: float) -> Array:
    """dl/dh of l = E[(h - (2 I - 1) / (2 tau))^2], I ~ Bernoulli(p): IPO (arXiv 2310.12036)."""
    return 2 * (margin - (p - 0.5) / tau)


def dpo_slope(margin: Array, p: Array, tau: float) -> Array:
    """dl/dh of l = -p log sigmoid(tau h) - (1 - p) log sigmoid(-tau h): DPO (arXiv 2305.18290)."""
    return tau * (expit(tau * margin) - p)


def step_ipo(spec: OnlineIPO, game: NashGame, state: State) -> State:
    """Online IPO (arXiv 2403.08635): 4 / tau times the self-play policy gradient, so stationary at the KL-Nash."""
    return _descend(spec, state, gradient(ipo_slope, game, state))


def step_ipo_sampled(spec: OnlineIPO, game: NashGame, state: State, rng: np.random.Generator) -> State:
    """Online IPO on k = ``samples`` pairs."""
    return _descend(spec, state, estimate(ipo_slope, game, state, *_pairs(spec, state, rng)))


def step_dpo(spec: OnlineDPO, game: NashGame, state: State) -> State:
    """Online iterative DPO: stationary at a Bradley-Terry fit weighted by pi(y) pi(y'), not at the KL-Nash.

    With two actions log(pi/mu)(0) - log(pi/mu)(1) = logit(p) / tau; at the KL-Nash it is (p - 1/2) / tau.
    """
    return _descend(spec, state, gradient(dpo_slope, game, state))


def step_dpo_sampled(spec: OnlineDPO, game: NashGame, state: State, rng: np.random.Generator) -> State:
    """Online iterative DPO on k = ``samples`` pairs."""
    return _descend(spec, state, estimate(dpo_slope, game, state, *_pairs(spec, state, rng)))


def gradient(slope: Slope, game: NashGame, state: State) -> Array:
    """``(..., n)``: the gradient on the logits of the expected loss."""
    log_ratio, policy = state.log_policy - game.log_reference, np.exp(state.log_policy)
    margin = log_ratio[..., :, None] - log_ratio[..., None, :]
    weighted = policy[..., :, None] * policy[..., None, :] * slope(margin, game.P.p, game.tau)
    return weighted.sum(-1) - weighted.sum(-2)


def estimate(slope: Slope, game: NashGame, state: State, y: Actions, other: Actions) -> Array:
    """``(..., n)``: its mean over k pairs, actions ``(..., k)`` against ``(..., k)``; unbiased."""
    log_ratio = state.log_policy - game.log_reference
    margin = np.take_along_axis(log_ratio, y, -1) - np.take_along_axis(log_ratio, other, -1)
    p = np.take_along_axis(np.take_along_axis(game.P.p, y[..., None], -2), other[..., None], -1)[..., 0]
    actions = np.arange(log_ratio.shape[-1])
    moves = (y[..., None] == actions) - (other[..., None] == actions).astype(float)
    return np.mean(slope(margin, p, game.tau)[..., None] * moves, axis=-2)


def _pairs(spec: OnlineIPO | OnlineDPO, state: State, rng: np.random.Generator) -> tuple[Actions, Actions]:
    return sample(state.log_policy, spec.samples, rng), sample(state.log_policy, spec.samples, rng)


def _descend(spec: OnlineIPO | OnlineDPO, state: State, slopes: Array) -> State:
    return state._replace(log_policy=normalised(state.log_policy - spec.learning_rate * slopes), t=state.t + 1)
