"""StackelbergGDA (arXiv 2512.16626, Alg. 1) with exact expectations instead of samples.

The Leader ascends and the Follower descends the SLHF objective f at once, the Follower kappa times as
fast. Both gradients are made of the rewards that ``llm`` trains on, up to constants in the action,
which neither form of the step can see:
    df/dpi(y) = sum_y' omega(y'|y) R_L(y, y'),    -df/domega(y'|y) = pi(y) R_F(y, y').

- ``step_simplex``: gradient steps on the probabilities, projected back to the simplex. Where the
  projection gives exactly 0 the reward's log is minus infinity, so there logs are floored at
  ``LOG_FLOOR``: a finite push back inside. This moves the fixed point by at most n exp(LOG_FLOOR) in
  total variation. A probability below eta tau / 2 is a stiff direction, in which the steps oscillate.
- ``step_softmax``: the exact policy gradient on logits. The Follower's gradient at y is weighted by
  pi(y), so it is slow where the Leader seldom goes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_softmax

from slhf.algorithms import StackelbergGDA
from slhf.signals import follower_reward, leader_reward
from tabular.policies import Array, best_response
from tabular.preferences import PreferenceMatrix
from tabular.stackelberg import StackelbergGame

LOG_FLOOR = math.log(1e-12)


class State(NamedTuple):
    """Where the dynamics is: ``log_policy`` ``(..., n)`` and ``log_follower`` ``(..., n, n)``."""

    log_policy: Array
    log_follower: Array


def create_game(
    spec: StackelbergGDA, P: PreferenceMatrix, leader_reference: ArrayLike | None, follower_reference: ArrayLike | None
) -> StackelbergGame:
    """The game that the spec's temperatures make of P."""
    return StackelbergGame.create(P, spec.tau_leader, spec.tau_follower, leader_reference, follower_reference)


def init(game: StackelbergGame) -> State:
    """Both sides at their references."""
    return State(game.log_leader_reference, game.log_follower_reference)


def gradients(game: StackelbergGame, state: State) -> tuple[Array, Array]:
    """What each side climbs: df/dpi ``(..., n)`` and -df/domega ``(..., n, n)``, up to constants in the action."""
    leader_ratio = np.maximum(state.log_policy, LOG_FLOOR) - np.maximum(game.log_leader_reference, LOG_FLOOR)
    follower_ratio = np.maximum(state.log_follower, LOG_FLOOR) - np.maximum(game.log_follower_reference, LOG_FLOOR)
    leader = leader_reward(
        game.p, follower_ratio, leader_ratio[..., None], tau_leader=game.tau_leader, tau_follower=game.tau_follower
    )
    follower = follower_reward(game.p, follower_ratio, tau_follower=game.tau_follower)
    return np.sum(np.exp(state.log_follower) * leader, axis=-1), np.exp(state.log_policy)[..., None] * follower


def step_simplex(spec: StackelbergGDA, game: StackelbergGame, state: State) -> State:
    """pi <- Proj(pi + eta df/dpi), omega <- Proj(omega - kappa eta df/domega)."""
    leader, follower = gradients(game, state)
    policy = project_to_simplex(np.exp(state.log_policy) + spec.learning_rate * leader)
    reply = project_to_simplex(np.exp(state.log_follower) + spec.timescale * spec.learning_rate * follower)
    with np.errstate(divide="ignore"):
        return State(np.log(policy), np.log(reply))


def step_softmax(spec: StackelbergGDA, game: StackelbergGame, state: State) -> State:
    """The same steps on logits: the gradient times the Jacobian diag(p) - p p^T of the softmax."""
    leader, follower = gradients(game, state)
    return State(
        _logit_step(state.log_policy, leader, spec.learning_rate),
        _logit_step(state.log_follower, follower, spec.timescale * spec.learning_rate),
    )


def _logit_step(log_policy: Array, gradient: Array, rate: float) -> Array:
    policy = np.exp(log_policy)
    centred = gradient - np.sum(policy * gradient, axis=-1, keepdims=True)
    return log_softmax(log_policy + rate * policy * centred, axis=-1)


def project_to_simplex(v: Array) -> Array:
    """The nearest point of the simplex, along the last axis (Held, Wolfe and Crowder 1974)."""
    descending = -np.sort(-v, axis=-1)
    excess = np.cumsum(descending, axis=-1) - 1
    size = np.arange(1, v.shape[-1] + 1)
    kept = np.sum(descending * size > excess, axis=-1, keepdims=True)
    threshold = np.take_along_axis(excess, kept - 1, axis=-1) / kept
    return np.maximum(v - threshold, 0)


STEPS = {"simplex": step_simplex, "softmax": step_softmax}
"""The step of each parameterisation."""


def gap(game: StackelbergGame, state: State) -> Array:
    """``(...)``: the duality gap, in units of preference."""
    return game.duality_gap(state.log_policy, state.log_follower)


def solution(game: StackelbergGame) -> Array:
    """``(..., n)``: the Leader's exact policy, where the dynamics should end."""
    return np.exp(best_response(game.follower_value(), game.log_leader_reference, game.tau_leader))
