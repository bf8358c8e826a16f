"""The closed form of SLHF with its certificate, compiled: what :mod:`tabular.stackelberg` does, game by game.

Functions take matrices and numbers of rows, not rows: making an array of each would take longer than working on it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tabular.policies import TIE_TOLERANCE

compiled = njit(cache=True, error_model="numpy", nogil=True, fastmath={"contract", "reassoc"})


@compiled
def solve_all(p, log_leader, log_follower, tau_leader, tau_follower, replies, policies, numbers):  # type: ignore[no-untyped-def]
    """:func:`solve` for games ``(games, n, n)``; references have one axis more, of length games or 1.

    Filled in are ``replies`` ``(2, games, n, n)``, ``policies`` ``(3, games, n)`` and ``numbers`` ``(4, games)``.
    """
    games, n, _ = p.shape
    rows = np.empty((2 * n + 7, n))
    for game in range(games):
        leader, follower = log_leader[game % len(log_leader)], log_follower[game % len(log_follower)]
        found = solve(p[game], leader, follower, tau_leader, tau_follower, rows)
        for j in range(n):
            for y in range(n):
                replies[0, game, y, j], replies[1, game, y, j] = rows[y, j], rows[n + y, j]
            for i in range(3):
                policies[i, game, j] = rows[2 * n + i, j]
        for i in range(4):
            numbers[i, game] = found[i]


@compiled
def solve(p, log_leader, log_follower, tau_leader, tau_follower, rows):  # type: ignore[no-untyped-def]
    """Solve one game ``p`` ``(n, n)`` with references ``(1, n)`` and ``(n or 1, n)``.

    Filled in are ``rows`` ``(2 n + 7, n)``: log omega*, omega*, log pi*, pi* and V, and four for intermediate results.

    Returns:
        The value, the Follower's win rate, the gap and the residual; NaNs where a reference lacks support that
        temperature 0 needs.
    """
    n, residual, references = len(p), 0.0, len(log_follower)
    log_policy, policy, value, earnings, preference = 2 * n, 2 * n + 1, 2 * n + 2, 2 * n + 3, 2 * n + 4
    for y in range(n):
        reference = y if references > 1 else 0
        worth = -_respond(p, y, -1.0, log_follower, reference, tau_follower, rows, y, n + y)
        if np.isnan(worth):
            return np.nan, np.nan, np.nan, np.nan
        rows[value, y], rows[earnings, y], rows[preference, y] = worth, 0.0, 0.0
        for i in range(n):
            price = tau_follower * (rows[y, i] - log_follower[reference, i]) if tau_follower > 0 else 0.0
            rows[earnings, y] += rows[n + y, i] * (p[y, i] + price)
            rows[preference, y] += rows[n + y, i] * p[y, i]
            excess = p[y, i] + price - worth
            residual = max(residual, abs(excess) if tau_follower > 0 or rows[y, i] > -np.inf else -excess)
    worth = _respond(rows, value, 1.0, log_leader, 0, tau_leader, rows, log_policy, policy)
    most = _respond(rows, earnings, 1.0, log_leader, 0, tau_leader, rows, 2 * n + 5, 2 * n + 6)
    win_rate, payoff = 0.0, 0.0
    for y in range(n):
        price, plays = 0.0, rows[log_policy, y] > -np.inf
        if plays:
            price = tau_leader * (rows[log_policy, y] - log_leader[0, y])
            payoff += rows[policy, y] * (rows[value, y] - price)
        win_rate += rows[policy, y] * (1 - rows[preference, y])
        excess = most - rows[earnings, y] + price
        residual = max(residual, abs(excess) if tau_leader > 0 or plays else -excess)
    return worth, win_rate, most - payoff, residual


@compiled
def _respond(scores, row, sign, log_refs, reference, tau, policies, log_policy, policy):  # type: ignore[no-untyped-def]
    """:func:`tabular.policies.respond` to ``sign * scores[row]``: two rows of ``policies``, and its value or NaN."""
    n, best, top, mass = scores.shape[1], -np.inf, -np.inf, 0.0
    if tau > 0:
        for i in range(n):
            policies[log_policy, i] = sign / tau * scores[row, i] + log_refs[reference, i]
    else:
        for i in range(n):
            best = max(best, sign * scores[row, i])
        for i in range(n):
            kept = sign * scores[row, i] >= best - TIE_TOLERANCE
            policies[log_policy, i] = log_refs[reference, i] if kept else -np.inf
    for i in range(n):
        top = max(top, policies[log_policy, i])
    if top == -np.inf:
        return np.nan
    for i in range(n):
        policies[policy, i] = np.exp(policies[log_policy, i] - top)
        mass += policies[policy, i]
    log_mass, share = top + np.log(mass), 1 / mass
    for i in range(n):
        policies[policy, i] *= share
        policies[log_policy, i] -= log_mass
    return tau * log_mass if tau > 0 else best
