"""Maximal lotteries by principal pivoting, and their certificates, compiled: :mod:`tabular.pivoting`, game by game."""

from __future__ import annotations

import numpy as np
from numba import njit

from tabular.pivoting import ROUNDING, SMALLEST_PIVOT, SMALLEST_PROBABILITY, TOLERANCE

compiled = njit(cache=True, error_model="numpy", nogil=True, fastmath={"contract", "reassoc"})


@compiled
def pivoted_lotteries(margins, policies, pivots):  # type: ignore[no-untyped-def]
    """:func:`tabular.pivoting.pivoted_lotteries`: fills in the last two."""
    games, n = policies.shape
    tableau, direction = np.empty((n, n)), np.empty(n)
    for game in range(games):
        first = _start(margins[game], tableau, direction)
        in_play = np.zeros(n, dtype=np.bool_)
        pivots[game], entering = _follow(tableau, direction, first, in_play, 20 * n + 100)
        # The solution is the basic values times x_first = 1, or the direction in which nothing stops `entering`.
        column = first if entering < 0 else entering
        for i in range(n):
            policies[game, i] = tableau[i, column] if in_play[i] and i != first else 0.0
        if not in_play[column]:
            policies[game, column] = 1.0
        for _ in range(2):  # once for the scale, once without rounding errors
            total = policies[game].sum()
            for i in range(n):
                share = policies[game, i] / total
                policies[game, i] = share if share > SMALLEST_PROBABILITY else 0.0


@compiled
def _start(margins, tableau, direction):  # type: ignore[no-untyped-def]
    """:func:`tabular.pivoting.start`: fills in the tableau and the direction; the action to begin with."""
    n = len(margins)
    scale, deviation = 0.0, 0.0
    for i in range(n):
        total = 0.0
        for j in range(n):
            total += margins[i, j]
            scale = max(scale, abs(margins[i, j]))
        direction[i] = total
        deviation += total * total / n
    first, strongest = 0, direction.max() - TOLERANCE * scale
    while direction[first] < strongest:
        first += 1
    unit, spread = -1 / scale if scale > 0 else -1.0, 1 / np.sqrt(deviation) if deviation > 0 else 0.0
    for i in range(n):
        for j in range(n):
            tableau[i, j] = margins[i, j] * unit
        direction[i] = np.exp(-min(max(direction[i] * spread, -4.0), 4.0)) * (1 + 0.1 * (0.6180339887 * i % 1))
    direction[first] = 0
    return first


@compiled
def _follow(tableau, direction, first, in_play, most):  # type: ignore[no-untyped-def]
    """Lower theta to 0: the number of pivots, and -1 or the index of what grows without limit."""
    n = len(tableau)
    ratio = np.empty(n)
    for pivot in range(most):
        # Row i is minus column i, and contiguous. The constants are column `first`, whose direction is 0.
        for i in range(n):
            shortage, d = tableau[first, i], direction[i]
            ratio[i] = shortage / d if (shortage > ROUNDING) & (d > ROUNDING) else 0.0
        r = np.argmax(ratio)
        theta = ratio[r]
        if theta == 0:
            return pivot, -1
        for i in range(n):
            decrease, value = tableau[r, i], theta * direction[i] - tableau[first, i]
            ratio[i] = value / decrease if decrease > SMALLEST_PIVOT else np.inf
        ratio[first] = np.inf
        s = np.argmin(ratio)
        if ratio[s] == np.inf:
            return pivot, r
        _exchange(tableau, direction, r, s)
        in_play[r], in_play[s] = not in_play[r], not in_play[s]
    return -1, -1


@compiled
def _exchange(tableau, direction, r, s):  # type: ignore[no-untyped-def]
    """:func:`tabular.pivoting.exchange`."""
    n = len(tableau)
    inverse = 1 / tableau[r, s]
    row_r, row_s = tableau[r].copy(), tableau[s].copy()
    d_r, d_s = direction[r], direction[s]
    for i in range(n):
        a, b = -row_r[i] * inverse, row_s[i] * inverse
        for j in range(n):
            tableau[i, j] += a * row_s[j] + b * row_r[j]
        direction[i] += a * d_s + b * d_r
        tableau[i, i] = 0  # rounding left there could become a pivot
    direction[r], direction[s] = d_s * inverse, -d_r * inverse
    for j in range(n):
        tableau[r, j] = row_s[j] * inverse
        tableau[s, j] = -row_r[j] * inverse
        tableau[j, r], tableau[j, s] = -tableau[r, j], -tableau[s, j]
    tableau[r, r], tableau[s, s] = 0, 0
    tableau[r, s], tableau[s, r] = -inverse, inverse


@compiled
def exploitability(margins, policies, gap, residual, proved):  # type: ignore[no-untyped-def]
    """:func:`tabular.lotteries.exploitability`: fills in what it returns."""
    for game in range(len(margins)):
        best, worst, scale, total = -np.inf, np.inf, 0.0, 0.0
        for i in range(policies.shape[1]):
            advantage = 0.0
            for j in range(policies.shape[1]):
                advantage += margins[game, i, j] * policies[game, j]
                scale = max(scale, abs(margins[game, i, j]))
            best = max(best, advantage)
            if policies[game, i] != 0:
                worst = min(worst, advantage)
            total += abs(policies[game, i])
        is_policy = abs(total - 1) <= TOLERANCE and policies[game].min() >= 0
        gap[game], residual[game] = (best, best - worst) if is_policy else (np.inf, np.inf)
        proved[game] = residual[game] <= TOLERANCE * scale
