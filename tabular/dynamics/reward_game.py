"""The one-player game of RLHF: E[r] - tau KL(pi || pi_ref), with r the Bradley-Terry fit of all pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from slhf.algorithms import RLOO
from tabular.dynamics import nash_game
from tabular.dynamics.nash_game import State
from tabular.policies import Array, kl, log_reference, refuse_follower
from tabular.preferences import PreferenceMatrix
from tabular.rlhf import RLHFSolution, solve_rlhf


@dataclass(frozen=True)
class RewardGame:
    """A (batch of) one-player game(s), validated.

    Attributes:
        optimum: the fitted reward ``(..., n)`` and the policy that is best for it.
        tau: the price of the KL, in nats of reward per nat of KL.
        log_reference: ``(..., n)``, log pi_ref.
    """

    optimum: RLHFSolution
    tau: float
    log_reference: Array


def create_game(
    spec: RLOO, P: PreferenceMatrix, leader_reference: ArrayLike | None, follower_reference: ArrayLike | None
) -> RewardGame:
    """Fit the reward; errors are those of :func:`tabular.rlhf.solve_rlhf`."""
    refuse_follower(follower_reference, spec.name)
    log_ref = log_reference(leader_reference, P.p.shape[:-1], "leader_reference", full_support=True)
    return RewardGame(solve_rlhf(P, spec.tau, np.exp(log_ref)), spec.tau, log_ref)


init = nash_game.init


def gap(game: RewardGame, state: State) -> Array:
    """``(...)``: how much more the optimum earns, in nats of reward."""
    reward = np.sum(np.exp(state.log_policy) * game.optimum.reward, axis=-1)
    return game.optimum.value - reward + game.tau * kl(state.log_policy, game.log_reference)


def solution(game: RewardGame) -> Array:
    """``(..., n)``: proportional to pi_ref exp(r / tau)."""
    return game.optimum.policy
