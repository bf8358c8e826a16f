"""A maximal lottery by principal pivoting: the method for many games, and for games that are not large.

With slacks w = -A x the lotteries are the solutions x >= 0, w >= 0, x not 0, and x'w = -x'A x = 0 comes for free.
One action k is played at x_k = 1 to begin with. The others' slacks are negative where they beat k; adding theta d
to them, with d > 0 and theta large, mends that, and theta is then lowered to 0. Each time some slack or probability
would turn negative, it changes sides with the one that its growth drives to 0 first: the self-dual simplex method
(Dantzig 1963, Lemke 1965). As A is antisymmetric so is the tableau at every step: the two always change sides
together, and one product serves both. Should nothing stop that growth, the growth itself is a lottery without k.

What comes out is a vertex. It is not trusted: see :func:`tabular.lotteries.any_lotteries`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from array_api_compat import device

from tabular import compiled
from tabular.arrays import AnyArray, array_namespace

TOLERANCE = 1e-9
"""Largest exploitability of an accepted lottery, relative to the game's largest margin."""
SMALLEST_PIVOT, ROUNDING = 1e-11, 1e-13
"""Entries of the tableau too small to divide by, and how negative rounding makes a zero; the largest margin is 1."""
SMALLEST_PROBABILITY = 1e-12
"""Anything below is a zero with rounding errors."""


def pivoted_lotteries(margins: AnyArray) -> tuple[AnyArray, AnyArray]:
    """A vertex of the lotteries of each game of ``margins`` ``(games, n, n)``.

    Returns:
        policies ``(games, n)`` and pivots ``(games,)``, -1 where there would have been too many.
    """
    games, n, _ = margins.shape
    loops = compiled.LOTTERIES.for_games(margins, n * (1e-4 + 1e-8 * games * n * n))
    if loops is not None:
        looped = np.empty((games, n)), np.empty(games, dtype=np.int64)
        loops.pivoted_lotteries(np.ascontiguousarray(margins), *looped)
        return looped
    xp = array_namespace(margins)
    policies = xp.zeros((games, n), dtype=xp.float64, device=device(margins))
    pivots = xp.full((games,), -1, dtype=xp.int64, device=device(margins))
    state, active = start(margins), xp.arange(games, device=device(margins))
    for pivot in range(20 * n + 100):
        r, s, column = choose(state)
        done = s < 0
        if xp.any(done):
            policies[active[done]], pivots[active[done]] = _lottery(state.those(done), column[done]), pivot
            active, r, s, state = active[~done], r[~done], s[~done], state.those(~done)
        if active.shape[0] == 0:
            break
        exchange(state, r, s)
    return policies, pivots


class Tableaus(NamedTuple):
    """The pivoting of several games at once; exchanges write to it.

    Attributes:
        tableau: ``(games, n, n)``, antisymmetric.
        direction: ``(games, n)``, d.
        first: ``(games,)``, the action to begin with, k.
        in_play: ``(games, n)``, True where the probability is basic.
    """

    tableau: AnyArray
    direction: AnyArray
    first: AnyArray
    in_play: AnyArray

    def those(self, chosen: AnyArray) -> Tableaus:
        """A copy of some of the games."""
        return Tableaus(*(part[chosen] for part in self))


def start(margins: AnyArray) -> Tableaus:
    """The first tableaus, with a direction d in which strong actions come into play before weak ones.

    Any d > 0 would do; this one saves a fifth of the pivots that equal entries take on random games. Its last
    factor tells equals apart: generic d mean that ties do not matter before theta = 0. Games begin with the
    (first) Borda winner.
    """
    xp, n = array_namespace(margins), margins.shape[-1]
    borda, scale = xp.sum(margins, axis=-1), xp.max(xp.abs(margins), axis=(-2, -1))
    strongest = (
        borda >= (xp.max(borda, axis=-1) - TOLERANCE * scale)[:, None]
    )  # else rounding would choose among equals
    first = xp.argmax(xp.astype(strongest, xp.int8), axis=-1)
    deviation = xp.sum(borda * borda, axis=-1) / n
    spread = xp.where(deviation > 0, 1 / xp.sqrt(xp.where(deviation > 0, deviation, 1.0)), 0.0)
    index = xp.arange(n, dtype=xp.float64, device=device(margins))
    direction = xp.exp(-xp.clip(borda * spread[:, None], -4.0, 4.0)) * (1 + 0.1 * ((0.6180339887 * index) % 1))
    direction[xp.arange(len(margins), device=device(margins)), first] = 0
    tableau = margins * (-1 / xp.where(scale > 0, scale, 1.0))[:, None, None]
    return Tableaus(tableau, direction, first, xp.zeros(borda.shape, dtype=xp.bool, device=device(margins)))


def choose(state: Tableaus) -> tuple[AnyArray, AnyArray, AnyArray]:
    """The two indices of the next exchange, or -1 for the second and the column of the lottery: ``(games,)`` each."""
    tableau, direction, first, _ = state
    xp = array_namespace(tableau)
    game = xp.arange(len(tableau), device=device(tableau))
    # Row i is minus column i. The constants are column `first`, whose direction is 0.
    shortage = tableau[game, first]
    waits = (shortage > ROUNDING) & (direction > ROUNDING)
    ratio = xp.where(waits, shortage / xp.where(waits, direction, 1.0), 0.0)
    r = xp.argmax(ratio, axis=-1)
    theta = ratio[game, r]
    decrease = tableau[game, r]
    falls = decrease > SMALLEST_PIVOT
    ratio = (theta[:, None] * direction - shortage) / xp.where(falls, decrease, 1.0)
    ratio = xp.where(falls, ratio, xp.inf)
    ratio[game, first] = xp.inf
    s = xp.argmin(ratio, axis=-1)
    finished = theta == 0
    stops = ~finished & (ratio[game, s] < xp.inf)
    return r, xp.where(stops, s, -1), xp.where(finished, first, r)


def exchange(state: Tableaus, r: AnyArray, s: AnyArray) -> None:
    """Let both unknowns of index r, and both of s, change sides between basic and nonbasic."""
    tableau, direction, _, in_play = state
    xp, n = array_namespace(tableau), tableau.shape[-1]
    game, all_ = xp.arange(len(tableau), device=device(tableau)), xp.arange(n, device=device(tableau))
    inverse = (1 / tableau[game, r, s])[:, None]
    row_r, row_s = tableau[game, r], tableau[game, s]
    d_r, d_s = direction[game, r], direction[game, s]
    a, b = -row_r * inverse, row_s * inverse
    tableau += a[:, :, None] * row_s[:, None, :]
    tableau += b[:, :, None] * row_r[:, None, :]
    direction += a * d_s[:, None] + b * d_r[:, None]
    tableau[:, all_, all_] = 0  # rounding left there could become a pivot
    direction[game, r], direction[game, s] = d_s * inverse[:, 0], -d_r * inverse[:, 0]
    tableau[game, r], tableau[game, s] = b, a
    tableau[game, :, r], tableau[game, :, s] = -b, -a
    tableau[game, r, r], tableau[game, s, s] = 0, 0
    tableau[game, r, s], tableau[game, s, r] = -inverse[:, 0], inverse[:, 0]
    in_play[game, r], in_play[game, s] = ~in_play[game, r], ~in_play[game, s]


def _lottery(state: Tableaus, column: AnyArray) -> AnyArray:
    """``(games, n)``: the basic values times x_first = 1, or the direction in which nothing stops ``column``."""
    xp = array_namespace(state.tableau)
    game, index = (xp.arange(size, device=device(column)) for size in state.direction.shape)
    kept = state.in_play & (index != state.first[:, None])
    policies = xp.where(kept, state.tableau[game, :, column], 0.0)
    policies[game, column] = xp.where(state.in_play[game, column], policies[game, column], 1.0)
    for _ in range(2):  # once for the scale, once without rounding errors
        policies = policies / xp.sum(policies, axis=-1, keepdims=True)
        policies = xp.where(policies > SMALLEST_PROBABILITY, policies, 0.0)
    return policies
