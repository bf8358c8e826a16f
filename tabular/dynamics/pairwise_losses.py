"""Gradient descent on pairwise losses over the policy's own pairs, with exact expectations.

With the margin h(y, y') = log(pi/mu)(y) - log(pi/mu)(y'), the loss is E[l(h(y, y'), p(y > y'))] over
y, y' ~ pi, the draw held fixed. Because h(y, y') depends on the logit of y with +1 and on that of y' with -1,
the gradient on the logits is sum_y' w(y, y') - w(y', y), with w = pi(y) pi(y') dl/dh(y, y').
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import expit, log_softmax

from slhf.algorithms import OnlineDPO, OnlineIPO
from tabular.dynamics.nash_game import NashGame, State
from tabular.policies import Array


def ipo_slope(margin: Array, p: Array, tau: float) -> Array:
    """dl/dh of l = E[(h - (2 I - 1) / (2 tau))^2], I ~ Bernoulli(p): IPO (arXiv 2310.12036)."""
    return 2 * (margin - (p - 0.5) / tau)


def dpo_slope(margin: Array, p: Array, tau: float) -> Array:
    """dl/dh of l = -p log sigmoid(tau h) - (1 - p) log sigmoid(-tau h): DPO (arXiv 2305.18290)."""
    return tau * (expit(tau * margin) - p)


def step_ipo(spec: OnlineIPO, game: NashGame, state: State) -> State:
    """Online IPO (arXiv 2403.08635): 4 / tau times the self-play policy gradient, so stationary at the KL-Nash."""
    return _descend(ipo_slope, spec.learning_rate, game, state)


def step_dpo(spec: OnlineDPO, game: NashGame, state: State) -> State:
    """Online iterative DPO: stationary at a Bradley-Terry fit weighted by pi(y) pi(y'), not at the KL-Nash.

    With two actions log(pi/mu)(0) - log(pi/mu)(1) = logit(p) / tau; at the KL-Nash it is (p - 1/2) / tau.
    """
    return _descend(dpo_slope, spec.learning_rate, game, state)


def _descend(slope: Callable[[Array, Array, float], Array], rate: float, game: NashGame, state: State) -> State:
    log_ratio, policy = state.log_policy - game.log_reference, np.exp(state.log_policy)
    margin = log_ratio[..., :, None] - log_ratio[..., None, :]
    weighted = policy[..., :, None] * policy[..., None, :] * slope(margin, game.P.p, game.tau)
    gradient = weighted.sum(-1) - weighted.sum(-2)
    return state._replace(log_policy=log_softmax(state.log_policy - rate * gradient, axis=-1), t=state.t + 1)
