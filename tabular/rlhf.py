"""RLHF: a Bradley-Terry reward fitted to comparisons, then the KL-regularised policy for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from slhf.certificates import Certificate
from slhf.errors import DisconnectedComparisons, InvalidParameter, NotConverged
from tabular.policies import Array, best_response, best_response_value, check_temperature, log_reference
from tabular.preferences import PreferenceMatrix, check_pair_weights

PairWeights = ArrayLike | Literal["equal"] | None
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

    reward: Array
    policy: Array
    log_policy: Array
    value: Array
    support: NDArray[np.bool_]
    certificate: Certificate


def solve_rlhf(
    P: PreferenceMatrix,
    tau: float = 0.1,
    reference: ArrayLike | None = None,
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
        InvalidPreferences: P holds another array than numpy's.
        MissingPair: a pair that never met has a weight.
        NotConverged: the score equations could not be solved to ``TOLERANCE``, or the data are so nearly
            separable that this leaves the rewards uncertain by more than ``ACCURACY``.
    """
    P.require_numpy("solve_rlhf")
    tau, l2 = check_temperature(tau, "tau"), check_temperature(l2, "l2")
    log_ref = log_reference(reference, P.shape[:-1], "reference", full_support=tau > 0)
    weights = pair_weights_of(pair_weights, P)
    if l2 == 0:
        _check_connected(P, weights)
    reward, certificate, error = fit_bradley_terry(P.win_rates, weights, l2)
    log_policy = best_response(reward, log_ref, tau, ties=TIES)
    solution = RLHFSolution(
        reward=reward,
        policy=np.exp(log_policy),
        log_policy=log_policy,
        value=best_response_value(reward, log_ref, tau),
        support=log_policy > -np.inf,
        certificate=certificate,
    )
    if not (np.all(certificate.residual <= TOLERANCE) and np.all(error <= ACCURACY)):
        raise NotConverged(
            f"The Bradley-Terry fit stopped with score-equation residual {np.max(certificate.residual):.1e} (at most "
            f"{TOLERANCE}) and rewards uncertain by {np.max(error):.1e} nats (at most {ACCURACY}): the data are "
            f"almost separable; add a little l2, or use `best` from this error.",
            solution,
            certificate,
        )
    return solution


def fit_bradley_terry(p: Array, weights: Array, l2: float) -> tuple[Array, Certificate, Array]:
    """Damped Newton for the fit in :func:`solve_rlhf`.

    Every game goes on until a full Newton step cannot improve its likelihood: from there on only
    rounding is left.

    Returns:
        Rewards ``(..., n)``; how well they fit; and ``(...)``, how far from the best they may be, in nats: the
        Newton step that is left, and what rounding in the score equations makes of it. Where the data are almost
        separable the equations hold to all digits over many nats, so their residual cannot tell.
    """
    reward = np.zeros(p.shape[:-1])
    iterations = np.zeros(p.shape[:-2], dtype=int)
    active = np.ones(p.shape[:-2], dtype=bool)
    wins, total = weights * p, weights.sum((-2, -1))
    expected = win_probability(reward)
    likelihood = log_likelihood(reward, expected, wins, l2)
    for step_number in range(MAX_ITERATIONS + 1):
        gradient = score(reward, expected, p, weights, l2)
        curvature = _anchored(information(expected, weights, l2))
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        decrement = np.sum(step * gradient, axis=-1)
        # The decrement is twice what a Newton step should gain; below rounding there is nothing to gain.
        active &= decrement > 1e-30 * total
        if not active.any() or step_number == MAX_ITERATIONS:
            break
        iterations += active
        scale = active.astype(float)
        for _ in range(40):
            trial = reward + scale[..., None] * step
            expected = win_probability(trial)
            after = log_likelihood(trial, expected, wins, l2)
            worse = active & ~(after >= likelihood - 1e-15 * (1 + np.abs(likelihood)))
            if not worse.any():
                break
            scale = np.where(worse, scale / 2, scale)
        reward, likelihood = trial, after
    tiny, eps = np.finfo(float).tiny, np.finfo(float).eps
    asked = weights.sum(-1) + l2
    residual = np.abs(gradient / np.maximum(asked, tiny)).max(-1)
    rounding = np.matmul(np.abs(np.linalg.inv(curvature)), eps / 2 * asked[..., None])[..., 0]
    error = np.max(np.abs(step) + rounding, axis=-1)
    gap = decrement / np.maximum(total / 2, tiny)
    return reward - reward.mean(-1, keepdims=True), Certificate(gap, residual, iterations, "newton"), error


def win_probability(reward: Array) -> Array:
    """``(..., n, n)``: sigmoid(r_i - r_j)."""
    return expit(reward[..., :, None] - reward[..., None, :])


def log_likelihood(reward: Array, expected: Array, wins: Array, l2: float) -> Array:
    """``(...)``: the penalised log-likelihood of :func:`solve_rlhf`, in nats.

    Args:
        reward: ``(..., n)``.
        expected: ``(..., n, n)``, its :func:`win_probability`.
        wins: ``(..., n, n)``, W P: how often i beat j.
        l2: the penalty.
    """
    logs = np.log(np.maximum(expected, np.finfo(float).tiny))
    return np.einsum("...ij,...ij->...", wins, logs) - l2 / 2 * np.sum(reward**2, axis=-1)


def score(reward: Array, expected: Array, p: Array, weights: Array, l2: float) -> Array:
    """``(..., n)``: the gradient of :func:`log_likelihood` in the rewards."""
    return np.einsum("...ij,...ij->...i", weights, p - expected) - l2 * reward


def information(expected: Array, weights: Array, l2: float) -> Array:
    """``(..., n, n)``: minus the Hessian of :func:`log_likelihood`, a weighted graph Laplacian plus l2 I."""
    hessian = -weights * expected * np.swapaxes(expected, -1, -2)  # sigmoid(-x) = 1 - sigmoid(x), to the last digit
    np.einsum("...ii->...i", hessian)[...] = l2 - hessian.sum(-1)
    return hessian


def _anchored(hessian: Array) -> Array:
    """``(..., n, n)``: :func:`information` made regular.

    Rewards are defined up to a constant: a rank-one term fixes it without touching the rest. A ridge of the size
    of rounding keeps the system solvable where the data are separable but for rounding.
    """
    n = hessian.shape[-1]
    trace = np.trace(hessian, axis1=-2, axis2=-1)[..., None, None]
    trace = np.where(trace > 0, trace, 1)  # one alternative has no curvature at all
    return hessian + trace / n**2 + 4 * np.finfo(float).eps * trace * np.eye(n)


def pair_weights_of(pair_weights: PairWeights, P: PreferenceMatrix) -> Array:
    """Validated ``(..., n, n)`` weights with a zero diagonal; :func:`solve_rlhf` says what they may be."""
    known = P.pair_weights if pair_weights is None else pair_weights
    if known is None or isinstance(known, str):
        if known not in (None, "equal"):
            raise InvalidParameter(f'pair_weights = {known!r}: give an (n, n) array, or "equal".')
        P.require_complete()
        return np.broadcast_to(1 - np.eye(P.n), P.shape)
    weights = check_pair_weights(known, P.win_rates)
    if np.any((weights > 0) & ~P.known):
        P.require_complete()
    return weights


def _check_connected(P: PreferenceMatrix, weights: Array) -> None:
    """The maximum-likelihood rewards are finite iff the graph "i ever beat j" is strongly connected."""
    beaten = (weights > 0) & (P.win_rates > 0)
    doubtful = ~(beaten | np.eye(P.n, dtype=bool)).all((-2, -1))
    for where in map(tuple, np.argwhere(doubtful)):
        count, component = connected_components(beaten[where], connection="strong")
        if count > 1:
            groups = [tuple(int(i) for i in np.flatnonzero(component == k)) for k in range(count)]
            named = " | ".join(", ".join(P.labels[i] for i in group) for group in groups)
            game = f" of game {tuple(int(i) for i in where)}" if where else ""
            raise DisconnectedComparisons(
                f"The comparisons{game} do not connect all alternatives by wins in both directions, so no finite "
                f"Bradley-Terry rewards fit them best. Groups: {named}. Compare pairs across groups, or pass l2 > 0.",
                groups,
            )
