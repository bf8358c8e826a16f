"""RLHF: a Bradley-Terry reward fitted to comparisons, then the KL-regularised policy for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from array_api_compat import device, to_device
from numpy.typing import ArrayLike, NDArray

from slhf.certificates import Certificate
from slhf.errors import DisconnectedComparisons, InvalidParameter, NotConverged
from tabular.arrays import AnyArray, array_namespace, solve
from tabular.policies import best_response, best_response_value, check_temperature, log_reference
from tabular.preferences import PreferenceMatrix, check_pair_weights

PairWeights = ArrayLike | AnyArray | Literal["equal"] | None
"""How often each pair was compared; "equal" is once each, None is what the preferences know."""

TOLERANCE = 1e-10
"""Largest score-equation residual of an accepted fit, as a share of an alternative's comparisons."""
ACCURACY = 1e-4
"""How far from the best ones, in nats, the rewards of an accepted fit may be."""
TIES = 1e-9
"""At temperature 0, rewards this close to the best are optimal too: the fit is no more exact."""
MAX_ITERATIONS = 200


@dataclass(frozen=True)
class RLHFSolution:
    """The Bradley-Terry fit of a (batch of) preference matri(ces) and its optimal policy.

    Attributes:
        reward: ``(..., n)``, r, in nats, mean zero.
        policy: ``(..., n)``, proportional to pi_ref exp(r / tau).
        log_policy: its logs; -inf where it is 0.
        value: ``(...)``, E[r] - tau KL(policy || reference), in nats.
        support: ``(..., n)``, True where the policy may be positive: the argmax set at tau = 0.
        certificate: residual = the largest score-equation error as a share of the alternative's
            comparisons (plus l2); gap = the squared Newton decrement per comparison, which bounds the
            log-likelihood (in nats) still to be gained once it is small.
    """

    reward: AnyArray
    policy: AnyArray
    log_policy: AnyArray
    value: AnyArray
    support: AnyArray
    certificate: Certificate


def solve_rlhf(
    P: PreferenceMatrix,
    tau: float = 0.1,
    reference: ArrayLike | AnyArray | None = None,
    pair_weights: PairWeights = None,
    l2: float = 0.0,
) -> RLHFSolution:
    """Fit rewards by maximum likelihood (Bradley and Terry 1952), then maximise E[r] - tau KL(pi || pi_ref).

    The fit maximises, over rewards that sum to zero,
    sum_{i<j} W[i,j] (P[i,j] log sigmoid(r_i - r_j) + P[j,i] log sigmoid(r_j - r_i)) - (l2 / 2) sum_i r_i^2,
    so its score equations are sum_j W[i,j] (P[i,j] - sigmoid(r_i - r_j)) = l2 r_i.

    Args:
        P: preferences of shape ``(..., n, n)``. A pair of weight 0, such as one that never met, needs none.
        tau: temperature >= 0, in nats of reward per nat of KL; 0 restricts the reference to argmax r.
        reference: pi_ref, broadcastable to ``(..., n)``; None is uniform.
        pair_weights: W, symmetric, broadcastable to ``(..., n, n)``: how often each pair was compared;
            the diagonal plays no part. None is ``P.pair_weights``, which counts, rankings and files of them
            know, so that the fit is the maximum likelihood of the data; where P does not know, once each, as
            "equal" is always.
        l2: the coefficient above, in comparisons; any positive value makes the fit exist.

    Raises:
        DisconnectedComparisons: without ``l2``, when the win graph is not strongly connected, so that
            some rewards would be infinitely far apart (Ford 1957).
        InvalidParameter, InvalidReference: a bad temperature, weight or reference.
        MissingPair: a pair that never met has a weight.
        NotConverged: the score equations could not be solved to ``TOLERANCE``, or the data are so nearly
            separable that this leaves the rewards uncertain by more than ``ACCURACY``.
    """
    tau, l2 = check_temperature(tau, "tau"), check_temperature(l2, "l2")
    rates = P.win_rates
    log_ref = log_reference(reference, P.shape[:-1], "reference", full_support=tau > 0, pattern=rates)
    weights = pair_weights_of(pair_weights, P)
    if l2 == 0:
        _check_connected(P, weights)
    xp = array_namespace(rates)
    reward, certificate, error = fit_bradley_terry(rates, weights, l2)
    log_policy = best_response(reward, log_ref, tau, ties=TIES)
    solution = RLHFSolution(
        reward=reward,
        policy=xp.exp(log_policy),
        log_policy=log_policy,
        value=best_response_value(reward, log_ref, tau),
        support=log_policy > -xp.inf,
        certificate=certificate,
    )
    if not (xp.all(certificate.residual <= TOLERANCE) and xp.all(error <= ACCURACY)):
        raise NotConverged(
            f"The Bradley-Terry fit stopped with score-equation residual {float(xp.max(certificate.residual)):.1e} "
            f"(at most {TOLERANCE}) and rewards uncertain by {float(xp.max(error)):.1e} nats (at most {ACCURACY}): "
            f"the data are almost separable; add a little l2, or use `best` from this error.",
            solution,
            certificate,
        )
    return solution


def fit_bradley_terry(p: AnyArray, weights: AnyArray, l2: float) -> tuple[AnyArray, Certificate, AnyArray]:
    """Damped Newton for the fit in :func:`solve_rlhf`.

    Every game goes on until a full Newton step cannot improve its likelihood: from there on only
    rounding is left.

    Returns:
        Rewards ``(..., n)``; how well they fit; and ``(...)``, how far from the best they may be, in nats: the
        Newton step that is left, and what rounding in the score equations makes of it. Where the data are almost
        separable the equations hold to all digits over many nats, so their residual cannot tell.
    """
    xp, batch, where = array_namespace(p), p.shape[:-2], {"device": device(p)}
    reward = xp.zeros(p.shape[:-1], dtype=xp.float64, **where)
    iterations = xp.zeros(batch, dtype=xp.int64, **where)
    active = xp.ones(batch, dtype=xp.bool, **where)
    wins, total = weights * p, xp.sum(weights, axis=(-2, -1))
    expected = win_probability(reward)
    likelihood = log_likelihood(reward, expected, wins, l2)
    for step_number in range(MAX_ITERATIONS + 1):
        gradient = score(reward, expected, p, weights, l2)
        curvature = _anchored(information(expected, weights, l2))
        step = solve(curvature, gradient[..., None])[..., 0]
        decrement = xp.sum(step * gradient, axis=-1)
        # The decrement is twice what a Newton step should gain; below rounding there is nothing to gain.
        active = active & (decrement > 1e-30 * total)
        if not xp.any(active) or step_number == MAX_ITERATIONS:
            break
        iterations = iterations + xp.astype(active, xp.int64)
        scale = xp.astype(active, xp.float64)
        for _ in range(40):
            trial = reward + scale[..., None] * step
            expected = win_probability(trial)
            after = log_likelihood(trial, expected, wins, l2)
            worse = active & ~(after >= likelihood - 1e-15 * (1 + xp.abs(likelihood)))
            if not xp.any(worse):
                break
            scale = xp.where(worse, scale / 2, scale)
        reward, likelihood = trial, after
    tiny, eps = np.finfo(float).tiny, np.finfo(float).eps
    asked = xp.sum(weights, axis=-1) + l2
    residual = xp.max(xp.abs(gradient / xp.clip(asked, tiny, None)), axis=-1)
    inverse = solve(curvature, xp.broadcast_to(xp.eye(p.shape[-1], dtype=xp.float64, **where), p.shape))
    rounding = xp.matmul(xp.abs(inverse), eps / 2 * asked[..., None])[..., 0]
    error = xp.max(xp.abs(step) + rounding, axis=-1)
    gap = decrement / xp.clip(total / 2, tiny, None)
    reward = reward - xp.mean(reward, axis=-1, keepdims=True)
    return reward, Certificate(gap, residual, iterations, "newton"), error


def win_probability(reward: AnyArray) -> AnyArray:
    """``(..., n, n)``: sigmoid(r_i - r_j)."""
    xp, difference = array_namespace(reward), reward[..., :, None] - reward[..., None, :]
    smaller = xp.exp(-xp.abs(difference))  # at most 1: nothing overflows
    return xp.where(difference >= 0, 1.0, smaller) / (1 + smaller)


def log_likelihood(reward: AnyArray, expected: AnyArray, wins: AnyArray, l2: float) -> AnyArray:
    """``(...)``: the penalised log-likelihood of :func:`solve_rlhf`, in nats.

    Args:
        reward: ``(..., n)``.
        expected: ``(..., n, n)``, its :func:`win_probability`.
        wins: ``(..., n, n)``, W P: how often i beat j.
        l2: the penalty.
    """
    xp = array_namespace(reward)
    logs = xp.log(xp.clip(expected, np.finfo(float).tiny, None))
    return xp.sum(xp.vecdot(wins, logs), axis=-1) - l2 / 2 * xp.vecdot(reward, reward)


def score(reward: AnyArray, expected: AnyArray, p: AnyArray, weights: AnyArray, l2: float) -> AnyArray:
    """``(..., n)``: the gradient of :func:`log_likelihood` in the rewards."""
    return array_namespace(p).vecdot(weights, p - expected) - l2 * reward


def information(expected: AnyArray, weights: AnyArray, l2: float) -> AnyArray:
    """``(..., n, n)``: minus the Hessian of :func:`log_likelihood`, a weighted graph Laplacian plus l2 I."""
    xp = array_namespace(expected)
    hessian = -weights * expected * expected.mT  # sigmoid(-x) = 1 - sigmoid(x), to the last digit
    diagonal = xp.arange(expected.shape[-1], device=device(expected))
    hessian[..., diagonal, diagonal] = l2 - xp.sum(hessian, axis=-1)
    return hessian


def _anchored(hessian: AnyArray) -> AnyArray:
    """``(..., n, n)``: :func:`information` made regular.

    Rewards are defined up to a constant: a rank-one term fixes it without touching the rest. A ridge of the size
    of rounding keeps the system solvable where the data are separable but for rounding.
    """
    xp, n = array_namespace(hessian), hessian.shape[-1]
    trace = xp.linalg.trace(hessian)[..., None, None]
    trace = xp.where(trace > 0, trace, 1.0)  # one alternative has no curvature at all
    ridge = 4 * np.finfo(float).eps * xp.eye(n, dtype=xp.float64, device=device(hessian))
    return hessian + trace / n**2 + trace * ridge


def pair_weights_of(pair_weights: PairWeights, P: PreferenceMatrix) -> AnyArray:
    """Validated ``(..., n, n)`` weights with a zero diagonal; :func:`solve_rlhf` says what they may be."""
    xp = array_namespace(P.win_rates)
    known = P.pair_weights if pair_weights is None else pair_weights
    if known is None or isinstance(known, str):
        if known not in (None, "equal"):
            raise InvalidParameter(f'pair_weights = {known!r}: give an (n, n) array, or "equal".')
        P.require_complete()
        return xp.broadcast_to(1 - xp.eye(P.n, dtype=xp.float64, device=device(P.win_rates)), P.shape)
    weights = check_pair_weights(known, P.win_rates)
    if xp.any((weights > 0) & ~P.known):
        P.require_complete()
    return weights


def _check_connected(P: PreferenceMatrix, weights: AnyArray) -> None:
    """The maximum-likelihood rewards are finite iff the graph "i ever beat j" is strongly connected."""
    xp = array_namespace(P.win_rates)
    beaten = (weights > 0) & (P.win_rates > 0)
    if xp.all(beaten | xp.eye(P.n, dtype=xp.bool, device=device(beaten))):
        return
    beaten = np.asarray(to_device(beaten, "cpu"))
    doubtful = ~(beaten | np.eye(P.n, dtype=bool)).all((-2, -1))
    for where in map(tuple, np.argwhere(doubtful)):
        if not (_reaches_all(beaten[where]) and _reaches_all(beaten[where].T)):
            from scipy.sparse.csgraph import connected_components  # here, for its import takes longer than most games

            count, component = connected_components(beaten[where], connection="strong")
            groups = [tuple(int(i) for i in np.flatnonzero(component == k)) for k in range(count)]
            named = " | ".join(", ".join(P.labels[i] for i in group) for group in groups)
            game = f" of game {tuple(int(i) for i in where)}" if where else ""
            raise DisconnectedComparisons(
                f"The comparisons{game} do not connect all alternatives by wins in both directions, so no finite "
                f"Bradley-Terry rewards fit them best. Groups: {named}. Compare pairs across groups, or pass l2 > 0.",
                groups,
            )


def _reaches_all(edges: NDArray[np.bool_]) -> bool:
    """Whether paths along the edges ``(n, n)`` lead from the first node to every other."""
    reached = new = np.arange(len(edges)) == 0
    while new.any():
        new = edges[new].any(axis=0) & ~reached
        reached = reached | new
    return bool(reached.all())
