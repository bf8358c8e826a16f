"""Who wins by the majority graph and its margins: winners, sets, scores, cycles, transitivity.

Alternative i beats j when p(i > j) exceeds 1/2 by more than rounding. Every function takes a
:class:`PreferenceMatrix` with batch shape ``...`` and answers for the whole batch.
Sources: Brandt, Conitzer, Endriss, Lang and Procaccia, Handbook of Computational Social Choice (2016), ch. 2-4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slhf.errors import InvalidParameter
from tabular.arrays import Array
from tabular.policies import TIE_TOLERANCE
from tabular.preferences import PreferenceMatrix

Mask = NDArray[np.bool_]

LARGEST_CYCLE_COUNT = 16
"""Counting all simple cycles takes 2^n n^2 steps and counts that fit in 64 bits; more alternatives are refused."""


def majority(P: PreferenceMatrix) -> Mask:
    """``(..., n, n)``: True where i beats j."""
    P.require_numpy("tabular.social_choice")
    return P.margins > TIE_TOLERANCE


def condorcet_winner(P: PreferenceMatrix) -> Mask:
    """``(..., n)``: True for the alternative that beats every other, if there is one."""
    return np.all(majority(P) | np.eye(P.n, dtype=bool), axis=-1)


def weak_condorcet_winner(P: PreferenceMatrix) -> Mask:
    """``(..., n)``: True for every alternative that no other beats; there can be several, or none."""
    return np.all(~majority(P), axis=-2)


def condorcet_loser(P: PreferenceMatrix) -> Mask:
    """``(..., n)``: True for the alternative that every other beats, if there is one."""
    return np.all(majority(P) | np.eye(P.n, dtype=bool), axis=-2)


def smith_set(P: PreferenceMatrix) -> Mask:
    """``(..., n)``: the smallest non-empty set whose members beat everyone outside (Smith 1973).

    These are the alternatives from which paths of "is not beaten by" lead to every other.
    """
    return np.all(reaches(~np.swapaxes(majority(P), -1, -2)), axis=-1)


def schwartz_set(P: PreferenceMatrix) -> Mask:
    """``(..., n)``: the union of the minimal non-empty sets that no outsider beats (Schwartz 1972).

    These are the alternatives that reach, by paths of "beats", everyone who so reaches them. It is
    part of the Smith set, and equal to it where there are no ties.
    """
    paths = reaches(majority(P))
    return np.all(paths | ~np.swapaxes(paths, -1, -2), axis=-1)


def reaches(edges: Mask) -> Mask:
    """``(..., n, n)``: the reflexive and transitive closure (Warshall 1962)."""
    closure = edges | np.eye(edges.shape[-1], dtype=bool)
    for k in range(edges.shape[-1]):
        closure |= closure[..., :, k, None] & closure[..., None, k, :]
    return closure


def copeland_score(P: PreferenceMatrix) -> NDArray[np.int_]:
    """``(..., n)``: duels won minus duels lost."""
    beats = majority(P)
    return beats.sum(-1) - beats.sum(-2)


def borda_score(P: PreferenceMatrix) -> Array:
    """``(..., n)``: the mean of p(i > j) over the others j; 1/2 for a lone alternative."""
    P.require_numpy("tabular.social_choice")
    return (P.p.sum(-1) - 0.5) / (P.n - 1) if P.n > 1 else P.p[..., 0]


def simpson_score(P: PreferenceMatrix) -> Array:
    """``(..., n)``: the worst p(i > j) over the others j; 1/2 for a lone alternative."""
    P.require_numpy("tabular.social_choice")
    return np.where(np.eye(P.n, dtype=bool), np.inf, P.p).min(-1) if P.n > 1 else P.p[..., 0]


def copeland_winners(P: PreferenceMatrix) -> Mask:
    """``(..., n)``: those with the best :func:`copeland_score`."""
    return _best(copeland_score(P))


def borda_winners(P: PreferenceMatrix) -> Mask:
    """``(..., n)``: those with the best :func:`borda_score`."""
    return _best(borda_score(P))


def simpson_set(P: PreferenceMatrix) -> Mask:
    """``(..., n)``: those with the best :func:`simpson_score`: what the SLHF Leader plays at temperature 0."""
    return _best(simpson_score(P))


def _best(score: NDArray[np.int_] | Array) -> Mask:
    return score >= score.max(-1, keepdims=True) - TIE_TOLERANCE


def cycle_edges(P: PreferenceMatrix) -> Mask:
    """``(..., n, n)``: True where i beats j on some majority cycle: j reaches i again by wins."""
    beats = majority(P)
    return beats & np.swapaxes(reaches(beats), -1, -2)


def three_cycles(P: PreferenceMatrix) -> NDArray[np.int_]:
    """``(...)``: how many triples beat each other in a circle; each is counted once."""
    beats = majority(P).astype(np.float64)  # counts are exact in float64, whose matrix product is fast
    return np.rint(np.einsum("...ij,...ji->...", beats @ beats, beats) / 3).astype(int)


def shortest_cycle(P: PreferenceMatrix) -> NDArray[np.int_]:
    """``(...)``: the length of the shortest majority cycle, 0 where there is none.

    Without ties it is 3 or 0; ties can leave longer cycles only.
    """
    beats = majority(P)
    walks, length = beats.copy(), np.zeros(P.batch_shape, dtype=int)
    for k in range(3, P.n + 1):
        walks = np.matmul(walks, beats)
        closes = (walks & np.swapaxes(beats, -1, -2)).any((-2, -1))
        length = np.where((length == 0) & closes, k, length)
    return length


def cycle_counts(P: PreferenceMatrix) -> NDArray[np.int64]:
    """``(..., n + 1)``: at k, the number of simple majority cycles of length k, each counted once.

    Paths are counted by their set of alternatives and their end (Held and Karp 1962).

    Raises:
        InvalidParameter: more than ``LARGEST_CYCLE_COUNT`` alternatives.
    """
    if P.n > LARGEST_CYCLE_COUNT:
        raise InvalidParameter(
            f"Counting all cycles of {P.n} alternatives takes too long (2^n n^2 steps); the limit is "
            f"{LARGEST_CYCLE_COUNT}. three_cycles and shortest_cycle have no limit."
        )
    games = majority(P).astype(np.int64).reshape(-1, P.n, P.n)
    return np.array([_cycle_counts(beats) for beats in games]).reshape(*P.batch_shape, P.n + 1)


def _cycle_counts(beats: NDArray[np.int64]) -> NDArray[np.int64]:
    counts = np.zeros(len(beats) + 1, dtype=np.int64)
    while len(beats) > 2:
        # Cycles through alternative 0; then it is dropped. Bit v of a set stands for alternative v + 1.
        others = len(beats) - 1
        paths = np.zeros((1 << others, others), dtype=np.int64)  # from 0 through the set, ending at the column
        paths[1 << np.arange(others), np.arange(others)] = beats[0, 1:]
        sets = np.arange(1 << others)
        sizes = np.bitwise_count(sets)
        for size in range(2, others + 1):
            for v in range(others):
                now = sets[(sizes == size) & (sets >> v & 1 == 1)]
                paths[now, v] = paths[now ^ (1 << v)] @ beats[1:, v + 1]
        for size in range(2, others + 1):
            counts[size + 1] += (paths[sizes == size] @ beats[1:, 0]).sum()
        beats = beats[1:, 1:]
    return counts


@dataclass(frozen=True)
class Transitivity:
    """How often p(i > j) >= 1/2 and p(j > k) >= 1/2 bound p(i > k), for a batch of games.

    Attributes:
        weak: ``(...)``, the share of such triples with p(i > k) >= 1/2.
        moderate: ``(...)``, with p(i > k) >= min(p(i > j), p(j > k)).
        strong: ``(...)``, with p(i > k) >= max(p(i > j), p(j > k)).
            Each is 1 exactly when that stochastic transitivity holds (also when there are no triples).
    """

    weak: Array
    moderate: Array
    strong: Array


def transitivity(P: PreferenceMatrix) -> Transitivity:
    """Weak, moderate and strong stochastic transitivity (Block and Marschak 1960); memory grows as n^3."""
    P.require_numpy("tabular.social_choice")
    i, j, k = (index.reshape(-1) for index in np.indices((P.n,) * 3))
    distinct = (i != j) & (j != k) & (i != k)
    i, j, k = i[distinct], j[distinct], k[distinct]
    first, second, result = P.p[..., i, j], P.p[..., j, k], P.p[..., i, k] + TIE_TOLERANCE
    premise = np.minimum(first, second) >= 0.5 - TIE_TOLERANCE
    total = premise.sum(-1)

    def share(bound: Array | float) -> Array:
        return np.where(total > 0, (premise & (result >= bound)).sum(-1) / np.maximum(total, 1), 1.0)

    return Transitivity(share(0.5), share(np.minimum(first, second)), share(np.maximum(first, second)))


@dataclass(frozen=True)
class RewardFit:
    """The rewards whose differences come closest to the log-odds of a (batch of) game(s).

    Attributes:
        reward: ``(..., n)``, in nats, mean zero; NaN where the residual is infinite.
        residual: ``(...)``, the largest |log odds of (i > j) - (r_i - r_j)| in nats: 0 exactly for a
            Bradley-Terry model, infinite where some preference is 0 or 1.
        cyclic_share: ``(...)``, the share of the log-odds' squares that no reward explains, in [0, 1].
    """

    reward: Array
    residual: Array
    cyclic_share: Array


def fit_log_odds(P: PreferenceMatrix) -> RewardFit:
    """Split the log-odds into a gradient r_i - r_j and a rest, by least squares.

    With equal weights r_i is the mean of row i (HodgeRank: Jiang, Lim, Yao and Ye 2011). It answers whether
    a reward represents P; the maximum-likelihood reward is :func:`tabular.solve_rlhf`'s.
    """
    P.require_numpy("tabular.social_choice")
    sure = ((P.p == 0) | (P.p == 1)).any((-2, -1))
    inside = np.where(sure[..., None, None], 0.5, P.p)
    odds = np.log(inside) - np.log(np.swapaxes(inside, -1, -2))
    reward = odds.mean(-1)
    rest = odds - (reward[..., :, None] - reward[..., None, :])
    total = np.sum(odds**2, axis=(-2, -1))
    share = np.sum(rest**2, axis=(-2, -1)) / np.where(total > 0, total, 1)
    return RewardFit(
        reward=np.where(sure[..., None], np.nan, reward),
        residual=np.where(sure, np.inf, np.abs(rest).max((-2, -1))),
        cyclic_share=np.where(sure, np.nan, share),
    )
