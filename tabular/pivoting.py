"""A maximal lottery by principal pivoting, compiled: the method for many games, and for games that are not large.

With slacks w = -A x the lotteries are the solutions x >= 0, w >= 0, x not 0, and x'w = -x'A x = 0 comes for free.
One action k is played at x_k = 1 to begin with. The others' slacks are negative where they beat k; adding theta d
to them, with d > 0 and theta large, mends that, and theta is then lowered to 0. Each time some slack or probability
would turn negative, it changes sides with the one that its growth drives to 0 first: the self-dual simplex method
(Dantzig 1963, Lemke 1965). As A is antisymmetric so is the tableau at every step: the two always change sides
together, and one product serves both. Should nothing stop that growth, the growth itself is a lottery without k.

What comes out is a vertex. It is not trusted: see :func:`tabular.lotteries.any_lotteries`.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tabular.policies import Array

SMALLEST_PIVOT, ROUNDING = 1e-11, 1e-13
"""Entries of the tableau too small to divide by, and how negative rounding makes a zero; the largest margin is 1."""
SMALLEST_PROBABILITY = 1e-12
"""Anything below is a zero with rounding errors."""

compiled = njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc"})


def pivoted_lotteries(margins: Array) -> tuple[Array, NDArray[np.int_]]:
    """A vertex of the lotteries of each game of ``margins`` ``(games, n, n)``.

    The first call of a process loads the compiled code, and the first call on a machine compiles it (some
    seconds); numba keeps it beside this file, or in its cache directory.

    Returns:
        policies ``(games, n)`` and pivots ``(games,)``, -1 where there would have been too many.
    """
    policies = np.empty(margins.shape[:-1])
    pivots = np.empty(len(margins), dtype=np.int_)
    _solve(np.ascontiguousarray(margins), policies, pivots)
    return policies, pivots


@compiled
def _solve(margins, policies, pivots):  # type: ignore[no-untyped-def]
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
    """Fill in the tableau, and a direction d in which strong actions come into play before weak ones.

    Any d > 0 would do; this one saves a fifth of the pivots that equal entries take on random games. Its last
    factor tells equals apart: generic d mean that ties do not matter before theta = 0.

    Returns:
        the action to begin with, the Borda winner.
    """
    n = len(margins)
    scale, deviation = 0.0, 0.0
    for i in range(n):
        total = 0.0
        for j in range(n):
            total += margins[i, j]
            scale = max(scale, abs(margins[i, j]))
        direction[i] = total
        deviation += total * total / n
    first = np.argmax(direction)
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
    """Let both unknowns of index r, and both of s, change sides between basic and nonbasic."""
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
