"""StackelbergGDA (arXiv 2512.16626, Alg. 1) with exact expectations instead of samples.

The Leader ascends and the Follower descends the SLHF objective f at once, the Follower kappa times as
fast. Both gradients are made of the rewards that ``llm`` trains on, up to constants in the action,
which neither form of the step can see::

    df/dpi(y) = sum_y' omega(y'|y) R_L(y, y'),    -df/domega(y'|y) = pi(y) R_F(y, y').

- ``step_simplex``: gradient steps on the probabilities, projected back to the simplex. Where the
  projection gives exactly 0 the reward's log is minus infinity, so there logs are floored at
  ``LOG_FLOOR``: a finite push back inside. This moves the fixed point by at most n exp(LOG_FLOOR) in
  total variation. A probability below eta tau / 2 is a stiff direction, in which the steps oscillate.
- ``step_softmax``: the exact policy gradient on logits. The Follower's gradient at y is weighted by
  pi(y), so it is slow where the Leader seldom goes. Sampled, it is what ``llm`` does.
- ``step_mirror``: the natural gradient, not in the paper. Dividing by the Fisher information leaves the
  rewards themselves on the logits, and cancels pi(y): the Follower learns everywhere at the same speed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from slhf.algorithms import StackelbergGDA
from slhf.signals import follower_reward, leader_reward
from tabular.dynamics.policy_gradient import ascend, exact_gradient, reinforce
from tabular.dynamics.sampling import Actions, sample
from tabular.policies import Array, best_response, log_of, log_ratio, project_to_simplex
from tabular.preferences import PreferenceMatrix
from tabular.stackelberg import StackelbergGame

LOG_FLOOR = math.log(1e-12)


class State(NamedTuple):
    """Where the dynamics is: ``log_policy`` ``(..., n)``, ``log_follower`` ``(..., n, n)`` and the steps taken."""

    log_policy: Array
    log_follower: Array
    t: int = 0


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


def leader_rate(spec: StackelbergGDA, state: State) -> float:
    """eta at every ``leader_interval``-th step, 0 at the others, where the Leader rests."""
    return spec.learning_rate if (state.t + 1) % spec.leader_interval == 0 else 0.0


def step_simplex(spec: StackelbergGDA, game: StackelbergGame, state: State) -> State:
    """pi <- Proj(pi + eta df/dpi), omega <- Proj(omega - kappa eta df/domega)."""
    leader, follower = gradients(game, state)
    policy = project_to_simplex(np.exp(state.log_policy) + leader_rate(spec, state) * leader)
    reply = project_to_simplex(np.exp(state.log_follower) + spec.timescale * spec.learning_rate * follower)
    return State(log_of(policy), log_of(reply), state.t + 1)


def step_softmax(spec: StackelbergGDA, game: StackelbergGame, state: State) -> State:
    """The same steps on logits: the gradient times the Jacobian diag(p) - p p^T of the softmax."""
    leader, follower = gradients(game, state)
    return _climb(spec, state, exact_gradient(state.log_policy, leader), exact_gradient(state.log_follower, follower))


def step_mirror(spec: StackelbergGDA, game: StackelbergGame, state: State) -> State:
    """pi <- pi exp(eta R_L), omega <- omega exp(kappa eta R_F), normalised; R_L averaged over omega."""
    leader_ratio = log_ratio(state.log_policy, game.log_leader_reference)
    follower_ratio = log_ratio(state.log_follower, game.log_follower_reference)
    leader = game.leader_earnings(state.log_follower) - game.tau_leader * leader_ratio
    follower = follower_reward(game.p, follower_ratio, tau_follower=game.tau_follower)
    return _climb(spec, state, leader, follower)


def estimates(game: StackelbergGame, state: State, y: Actions, replies: Actions) -> tuple[Array, Array]:
    """The gradients on the logits, ``(..., n)`` and ``(..., n, n)``, from samples.

    Args:
        game: the game.
        state: what was sampled from.
        y: ``(..., k)``, actions of the Leader.
        replies: ``(..., k, m)``, actions of the Follower, m to each of them.
    """

    def sampled(table: Array) -> Array:
        return np.take_along_axis(np.take_along_axis(table, y[..., None], -2), replies, -1)

    p, follower_ratio = sampled(game.p), sampled(state.log_follower - game.log_follower_reference)
    leader_ratio = np.take_along_axis(state.log_policy - game.log_leader_reference, y, -1)[..., None]
    taus = {"tau_leader": game.tau_leader, "tau_follower": game.tau_follower}
    earned = leader_reward(p, follower_ratio, leader_ratio, **taus).mean(-1)
    answered = np.take_along_axis(state.log_follower, y[..., None], -2)
    moves = reinforce(answered, replies, follower_reward(p, follower_ratio, tau_follower=game.tau_follower))
    chosen = y[..., None] == np.arange(game.p.shape[-1])
    return reinforce(state.log_policy, y, earned), np.einsum("...ky,...kz->...yz", chosen, moves) / y.shape[-1]


def step_softmax_sampled(spec: StackelbergGDA, game: StackelbergGame, state: State, rng: np.random.Generator) -> State:
    """:func:`step_softmax` from ``leader_samples`` actions with ``follower_samples`` replies each."""
    y = sample(state.log_policy, spec.leader_samples, rng)
    answered = np.take_along_axis(state.log_follower, y[..., None], -2)
    leader, follower = estimates(game, state, y, sample(answered, spec.follower_samples, rng))
    return _climb(spec, state, leader, follower)


def _climb(spec: StackelbergGDA, state: State, leader: Array, follower: Array) -> State:
    return State(
        ascend(state.log_policy, leader, leader_rate(spec, state)),
        ascend(state.log_follower, follower, spec.timescale * spec.learning_rate),
        state.t + 1,
    )


STEPS = {"simplex": step_simplex, "softmax": step_softmax, "mirror": step_mirror}
"""The step of each parameterisation."""
SAMPLED_STEPS = {"softmax": step_softmax_sampled}
"""Those that can be taken from samples."""


def gap(game: StackelbergGame, state: State) -> Array:
    """``(...)``: the duality gap, in units of preference."""
    return game.duality_gap(state.log_policy, state.log_follower)


def solution(game: StackelbergGame) -> Array:
    """``(..., n)``: the Leader's exact policy, where the dynamics should end."""
    return np.exp(best_response(game.follower_value(), game.log_leader_reference, game.tau_leader))
