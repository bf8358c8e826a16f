"""The symmetric preference game as the NLHF algorithms see it: win rates, exploitability, exact equilibrium.

Every player pays tau KL(pi || pi_ref); at tau = 0 nothing. Which of the two games an algorithm's steps
lead to is fixed by its theory: SPPO, OMWU and MPO go to the one without price.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from slhf.algorithms import MPO, OMWU, SPPO
from tabular.nash import solve_nlhf
from tabular.policies import Array, check_temperature, kl, log_reference, refuse_follower
from tabular.preferences import PreferenceMatrix

WITHOUT_PRICE = (SPPO, OMWU, MPO)
"""The specs whose own game has tau = 0."""


@dataclass(frozen=True)
class NashGame:
    """A (batch of) symmetric game(s), validated.

    Attributes:
        P: preferences of shape ``(..., n, n)``.
        tau: the price of the KL in the game to be solved, in units of preference per nat.
        log_reference: ``(..., n)``, log pi_ref.
    """

    P: PreferenceMatrix
    tau: float
    log_reference: Array

    def win_rates(self, log_policy: Array) -> Array:
        """``(..., n)``: q(y) = P(y > pi)."""
        return self.P.prefer(np.exp(log_policy))


def normalised(logits: Array) -> Array:
    """``(..., n)``: the log of exp(logits), made to sum to one; a quarter of the time of scipy's for small n."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


class State(NamedTuple):
    """Where the dynamics is: ``log_policy`` ``(..., n)``, what else it carries, and the steps taken."""

    log_policy: Array
    log_anchor: Array
    """``(..., n)``: the policy that steps start from or are drawn to, in the algorithms that keep one."""
    t: int


def create_game(
    spec: Any, P: PreferenceMatrix, leader_reference: ArrayLike | None, follower_reference: ArrayLike | None
) -> NashGame:
    """The game that the algorithm is meant to solve; it has no Follower."""
    refuse_follower(follower_reference, spec.name)
    tau = 0.0 if isinstance(spec, WITHOUT_PRICE) else check_temperature(spec.tau, "tau")
    return NashGame(P, tau, log_reference(leader_reference, P.p.shape[:-1], "leader_reference", full_support=True))


def init(game: Any) -> State:
    """At the reference."""
    return State(game.log_reference, game.log_reference, 0)


def gap(game: NashGame, state: State) -> Array:
    """``(...)``: exploitability, what the best opponent of the policy gains, in units of preference.

    max_j (A pi)_j at tau = 0; else tau KL(pi || rho), rho the best response (:mod:`tabular.nash`).
    """
    margins = game.win_rates(state.log_policy) - 0.5
    if game.tau == 0:
        return margins.max(-1)
    response = normalised(game.log_reference + margins / game.tau)
    return np.maximum(game.tau * kl(state.log_policy, response), 0)


def solution(game: NashGame) -> Array:
    """``(..., n)``: the equilibrium; at tau = 0, where there can be many, the one nearest to the reference.

    Copies of a game are solved once.
    """
    n = game.P.n
    reference = np.exp(game.log_reference).reshape(-1, n)
    games = np.concatenate([game.P.p.reshape(-1, n * n), reference], axis=-1)
    distinct, copy_of = np.unique(games, axis=0, return_inverse=True)
    P, reference = PreferenceMatrix(distinct[:, : n * n].reshape(-1, n, n)), distinct[:, n * n :]
    selection: Any = "any" if game.tau > 0 else "max_entropy"
    return solve_nlhf(P, game.tau, reference, selection).policy[copy_of.reshape(-1)].reshape(game.log_reference.shape)
