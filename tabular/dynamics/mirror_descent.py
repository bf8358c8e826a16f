"""Multiplicative updates: mirror descent with the entropy, in log space. q = P(. > pi), mu = pi_ref.

Steps of the symmetric game (:mod:`tabular.dynamics.nash_game`) that use one set of win rates each.
"""

from __future__ import annotations

from slhf.algorithms import INPO, MMD, MPO, SPO, SPPO, NashMD
from slhf.errors import InvalidParameter
from slhf.signals import geometric_mixture
from tabular.dynamics.nash_game import NashGame, State, normalised
from tabular.policies import Array


def mirror_step(log_policy: Array, log_ref: Array, q: Array, rate: float, tau: float) -> Array:
    """``(..., n)``: the log of pi^(1 - eta tau) mu^(eta tau) exp(eta q), normalised."""
    return normalised(geometric_mixture(log_policy, log_ref, mixture=rate * tau) + rate * q)


def step_mwu(spec: SPPO, game: NashGame, state: State) -> State:
    """pi <- pi exp(eta q): multiplicative weights (Freund and Schapire 1999), which exact SPPO is."""
    q = game.win_rates(state.log_policy)
    return state._replace(log_policy=normalised(state.log_policy + spec.learning_rate * q), t=state.t + 1)


def step_regularised(spec: SPO | INPO, game: NashGame, state: State) -> State:
    """pi <- pi^(1 - eta tau) mu^(eta tau) exp(eta q): INPO (arXiv 2407.00617, whose eta is 1 / eta here)."""
    q = game.win_rates(state.log_policy)
    log_policy = mirror_step(state.log_policy, game.log_reference, q, spec.learning_rate, spec.tau)
    return state._replace(log_policy=log_policy, t=state.t + 1)


def step_nash_md(spec: NashMD, game: NashGame, state: State) -> State:
    """Nash-MD (arXiv 2312.00886, Section 4) with constant eta, which settles at a distance of order eta from the Nash.

    At rest pi_mix ~ mu exp((1 - eta tau) P(. > pi_mix) / tau): the KL-Nash at temperature tau / (1 - eta tau).
    """
    return _nash_md(spec.learning_rate, spec.tau, game, state)


def step_nash_md_scheduled(spec: NashMD, game: NashGame, state: State) -> State:
    """Nash-MD with eta_t = 2 / (tau (t + 2)), instead of the spec's: KL(pi*, pi_t) <= 8 / (tau^2 (t + 1))."""
    if spec.tau == 0:
        raise InvalidParameter('NashMD.tau = 0: the schedule eta_t = 2 / (tau (t + 2)) needs a price; use "mirror".')
    return _nash_md(2 / (spec.tau * (state.t + 2)), spec.tau, game, state)


def _nash_md(rate: float, tau: float, game: NashGame, state: State) -> State:
    """pi_mix ~ pi^(1 - eta tau) mu^(eta tau), then pi <- pi_mix exp(eta P(. > pi_mix))."""
    log_mixture = normalised(geometric_mixture(state.log_policy, game.log_reference, mixture=rate * tau))
    log_policy = normalised(log_mixture + rate * game.win_rates(log_mixture))
    return state._replace(log_policy=log_policy, t=state.t + 1)


def step_mmd(spec: MMD | MPO, game: NashGame, state: State) -> State:
    """pi <- [pi magnet^(eta tau) exp(eta q)]^(1 / (1 + eta tau)): magnetic mirror descent (arXiv 2206.05825).

    KL(pi*, pi_t) <= (1 + eta tau)^-t KL(pi*, pi_0) for eta <= tau / max |A|^2.
    """
    rate, weight = spec.learning_rate, spec.learning_rate * spec.tau
    drawn = state.log_policy + weight * state.log_anchor + rate * game.win_rates(state.log_policy)
    return state._replace(log_policy=normalised(drawn / (1 + weight)), t=state.t + 1)


def step_mpo(spec: MPO, game: NashGame, state: State) -> State:
    """MMD whose magnet moves to the policy every ``period`` steps (MPO, arXiv 2410.16714)."""
    state = step_mmd(spec, game, state)
    return state._replace(log_anchor=state.log_policy) if state.t % spec.period == 0 else state
