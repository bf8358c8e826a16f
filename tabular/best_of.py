"""Best of N by majority, and what else N answers can buy: refinement and resampling at compute parity.

Best of N draws N independent answers and returns the one that wins most against the other N - 1: the one
with the largest sum of p(it > other), which is the expected number of duels it wins under P. Answers drawn
several times tie with themselves; samples that tie for the most wins are equally likely to be returned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, xlogy

from slhf.errors import InvalidParameter
from tabular.policies import TIE_TOLERANCE, Array, log_reference
from tabular.preferences import PreferenceMatrix
from tabular.refinement import Refinement, exploitability

LARGEST_ENUMERATION = 20_000_000
"""How many numbers :func:`best_of` may hold at once, n for each multiset of N answers: 160 MB, a few times over."""


def best_of(P: PreferenceMatrix, policy: ArrayLike, count: int) -> Array:
    """``(..., n)``: how likely each answer is returned by best of ``count``, over all multisets of answers.

    Args:
        P: preferences of shape ``(..., n, n)``.
        policy: where the answers come from, broadcastable to ``(..., n)``.
        count: N, at least 1; there are C(n + N - 1, N) multisets.

    Raises:
        InvalidParameter: too many multisets to go through; :func:`best_of_sampled` estimates instead.
        InvalidReference: ``policy`` is not a distribution.
    """
    probabilities = _policy(P, policy, count)
    size = math.comb(P.n + count - 1, count)
    if size * P.n > LARGEST_ENUMERATION:
        raise InvalidParameter(
            f"{count} answers out of {P.n} make {size:.1e} multisets of {P.n} counts, more than "
            f"{LARGEST_ENUMERATION:.0e} numbers: use best_of_sampled, which draws some and says how sure it is."
        )
    counts = _multisets(P.n, count)
    coefficient = gammaln(count + 1) - gammaln(counts + 1).sum(-1)
    result = np.empty_like(probabilities)
    for index in np.ndindex(P.batch_shape):
        weight = np.exp(coefficient + xlogy(counts, probabilities[index]).sum(-1))
        result[index] = weight @ _returned(P.p[index], counts)
    return result


def best_of_sampled(P: PreferenceMatrix, policy: ArrayLike, count: int, samples: int, seed: int) -> tuple[Array, Array]:
    """:func:`best_of` estimated from ``samples`` >= 2 draws of N answers: means and standard errors, ``(..., n)``.

    Every game of a batch draws from its own stream, addressed by ``seed`` and its place in the batch.
    """
    probabilities = _policy(P, policy, count)
    if samples < 2:
        raise InvalidParameter(f"samples = {samples}: a standard error needs at least 2.")
    mean, error = np.empty_like(probabilities), np.empty_like(probabilities)
    for index in np.ndindex(P.batch_shape):
        counts = np.random.default_rng([seed, *index]).multinomial(count, probabilities[index], size=samples)
        returned = _returned(P.p[index], counts)
        mean[index], error[index] = returned.mean(0), returned.std(0, ddof=1) / math.sqrt(samples)
    return mean, error


def compute_parity(
    P: PreferenceMatrix, chain: Refinement, policies: Mapping[str, ArrayLike], targets: ArrayLike, rounds: int
) -> pd.DataFrame:
    """What N answers buy, N = 1, ..., ``rounds``: from refinement, or independent ones from each of ``policies``.

    A user can look at all N answers (``met``), or be given one: the last, or the best of N by majority.

    Args:
        P: one game.
        chain: the refinement to be compared.
        policies: name -> probabilities ``(n,)``.
        targets: the answers that satisfy the user, as in :meth:`Refinement.met`.
        rounds: the largest N.

    Returns:
        Columns: ``method`` ("refinement", "resampling" or "best of N"); ``policy``, its name, "" for refinement;
        ``answers`` (N); ``met``, P(a target is among the N answers); ``returned``, P(the answer given is a target);
        ``beats_refinement``, P(the answer given > refinement's N-th), 1/2 for refinement itself;
        ``exploitability`` of the answer given, max_y P(y > it) - 1/2.

    Raises:
        InvalidParameter: P is a batch, or as in :func:`best_of`.
    """
    if P.p.ndim > 2 or chain.log_kernel.shape != P.p.shape:
        raise InvalidParameter(
            f"The comparison is about one game and one chain, got P of shape {P.p.shape} and a kernel of shape "
            f"{chain.log_kernel.shape}; take one of each."
        )
    refined = chain.distributions(rounds)
    mask = chain.mask(targets)
    counts = range(1, rounds + 1)

    def rows(method: str, policy: str, met: Array, given: Array) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "method": method,
                "policy": policy,
                "answers": counts,
                "met": met,
                "returned": given @ mask,
                "beats_refinement": np.einsum("ki,ij,kj->k", given, P.p, refined),
                "exploitability": exploitability(P, given),
            }
        )

    tables = [rows("refinement", "", chain.met(mask, rounds), refined)]
    for name, policy in policies.items():
        sampler = Refinement.resampling(_policy(P, policy, rounds))
        met = sampler.met(mask, rounds)
        best = np.stack([best_of(P, policy, count) for count in counts])
        tables += [rows("resampling", name, met, sampler.distributions(rounds)), rows("best of N", name, met, best)]
    return pd.concat(tables, ignore_index=True)


def _policy(P: PreferenceMatrix, policy: ArrayLike, count: int) -> Array:
    if count < 1:
        raise InvalidParameter(f"N = {count}: at least one answer must be drawn.")
    return np.exp(log_reference(policy, P.p.shape[:-1], "policy", full_support=False))


def _multisets(n: int, count: int) -> NDArray[np.int_]:
    """``(C(n + count - 1, count), n)``: how often each answer is among ``count``, by stars and bars."""
    placed = list(combinations_with_replacement(range(count + 1), n - 1))
    bars = np.array(placed, dtype=int).reshape(len(placed), n - 1)
    edge = np.zeros((len(bars), 1), dtype=int)
    return np.diff(bars, axis=1, prepend=edge, append=edge + count)


def _returned(p: Array, counts: NDArray[np.int_]) -> Array:
    """``counts.shape``: how likely each answer is returned, given how often each was drawn."""
    wins = np.where(counts > 0, counts @ p.T, -np.inf)  # against all N: 1/2 more for every sample, itself
    best = wins >= wins.max(-1, keepdims=True) - TIE_TOLERANCE * counts[:1].sum()
    tied = np.where(best, counts, 0)
    return tied / tied.sum(-1, keepdims=True)
