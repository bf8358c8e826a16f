"""Steps that look ahead, so that the last policy converges where plain steps cycle. q(pi) = P(. > pi)."""

from __future__ import annotations

import numpy as np

from slhf.algorithms import EGPO, OMWU
from tabular.dynamics.mirror_descent import mirror_step
from tabular.dynamics.nash_game import NashGame, State, normalised
from tabular.policies import log_of, project_to_simplex


def step_egpo(spec: EGPO, game: NashGame, state: State) -> State:
    """EGPO (arXiv 2503.08942): half a step against pi, then the whole one from the old policy against the half.

    theta <- (1 - eta tau) theta + eta tau theta_ref + eta q, for both.
    """
    rate, tau, now = spec.learning_rate, spec.tau, state.log_policy
    half = mirror_step(now, game.log_reference, game.win_rates(now), rate, tau)
    full = mirror_step(now, game.log_reference, game.win_rates(half), rate, tau)
    return state._replace(log_policy=full, t=state.t + 1)


def step_omwu(spec: OMWU, game: NashGame, state: State) -> State:
    """Optimistic multiplicative weights (arXiv 1807.04252) as ONPO writes them (arXiv 2502.16852).

    base <- base exp(eta q(pi)), pi <- base exp(eta q(pi)): the last q stands for the next one.
    """
    gain = spec.learning_rate * game.win_rates(state.log_policy)
    base = normalised(state.log_anchor + gain)
    return State(normalised(base + gain), base, state.t + 1)


def step_ogda(spec: OMWU, game: NashGame, state: State) -> State:
    """The same with Euclidean projections (optimistic gradient descent-ascent, Popov 1980; arXiv 2006.09517).

    base <- Proj(base + eta q(pi)), pi <- Proj(base + eta q(pi)).
    """
    gain = spec.learning_rate * game.win_rates(state.log_policy)
    base = project_to_simplex(np.exp(state.log_anchor) + gain)
    return State(log_of(project_to_simplex(base + gain)), log_of(base), state.t + 1)
