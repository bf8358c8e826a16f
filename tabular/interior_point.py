"""A maximal lottery of one large game by an interior-point method.

Lotteries are the x >= 0, x not 0, with slacks w = -A x >= 0. The path w = -A x + theta r, x_i w_i = theta, with
r = e + A e and r'x = n, starts at x = w = e, theta = 1 and ends at a lottery for theta -> 0: Ye, Todd and Mizuno's
embedding (1994), which the antisymmetry of A makes this small, as A is its own dual. Steps are Mehrotra's (1992): per
step one LU factorisation of diag(w / x) - A, which is never singular. x'w = n theta throughout, so no step lets
slacks and probabilities drift apart, and the end is strictly complementary: x_i > 0 = w_i or w_i > 0 = x_i, the former
exactly where some lottery plays i.
"""

from __future__ import annotations

import numpy as np

from tabular.arrays import Array

MAX_STEPS = 100
END = 1e-14
"""Where theta ends. Products x_i w_i are then rounding; from n = 3 to 4000 that takes 5 to 25 steps."""


def central_lottery(margins: Array) -> tuple[Array, Array, int]:
    """The end of the path of one game ``(n, n)``: x and w with x + w > 0, as the largest margin is 1, and the steps."""
    n = len(margins)
    A = margins / (np.abs(margins).max() or 1.0)
    r = 1 + A.sum(axis=1)
    x, w, theta, steps = np.ones(n), np.ones(n), 1.0, 0
    while theta > END and steps < MAX_STEPS:
        factors = _factorise(A, w / x)
        predicted = _direction(A, r, factors, x, w, theta, 0.0, 0.0)
        reduction = max((1 - _length(x, w, *predicted)) ** 3, 1e-6)
        dx, dw = _direction(A, r, factors, x, w, theta, reduction, predicted[0] * predicted[1])
        length = min(1.0, (1 - min(reduction, 0.1)) * _length(x, w, dx, dw))
        x, w, theta = x + length * dx, w + length * dw, theta * (1 - length * (1 - reduction))
        steps += 1
    total = x.sum()
    return x / total, w / total, steps


def _factorise(A: Array, diagonal: Array) -> tuple[Array, Array]:
    """The LU factors of diag(diagonal) - A: as A' = -A, LAPACK reads diag + A by columns."""
    from scipy.linalg.lapack import dgetrf  # here, and below: its import takes longer than most games

    matrix = A.copy()
    np.fill_diagonal(matrix, diagonal)
    lu, pivots, _ = dgetrf(matrix.T, overwrite_a=1)
    return lu, pivots


def _direction(
    A: Array,
    r: Array,
    factors: tuple[Array, Array],
    x: Array,
    w: Array,
    theta: float,
    reduction: float,
    second_order: Array | float,
) -> tuple[Array, Array]:
    """The Newton step (dx, dw) towards x_i w_i = reduction theta, less products of an earlier step."""
    from scipy.linalg.blas import dgemv
    from scipy.linalg.lapack import dgetrs

    fall = (1 - reduction) * theta
    dx, _ = dgetrs(*factors, (reduction * theta - second_order) / x - w + fall * r)
    # A' = -A. scipy's BLAS, as in the factorisation: the idle threads of numpy's own would spin against it.
    return dx, dgemv(1.0, A.T, dx) - fall * r


def _length(x: Array, w: Array, dx: Array, dw: Array) -> float:
    """The longest step up to 1 that leaves x and w not negative."""
    return 1 / max(1.0, float(np.max(-dx / x)), float(np.max(-dw / w)))


def polish(margins: Array, policy: Array) -> Array:
    """The lottery on the support of ``policy`` nearest to it: A_SS pi = 0 solved to the last digits.

    A_SS is antisymmetric and singular, by more than one dimension if there are many lotteries. A small multiple
    of the identity makes the system regular, and changes the result less with each of its uses.
    """
    from scipy.linalg.lapack import dgetrf, dgetrs

    played = np.flatnonzero(policy)
    A = margins[np.ix_(played, played)] / (np.abs(margins).max() or 1.0)
    system = A + 1 / len(played)  # antisymmetric plus e e' / m: its solution for e / m sums to one
    np.fill_diagonal(system, system.diagonal() + 1e-7)
    lu, pivots, _ = dgetrf(system)
    pi = policy[played] / policy.sum()
    for _ in range(3):
        correction, _ = dgetrs(lu, pivots, (1 - pi.sum()) / len(played) - A @ pi)
        pi = pi + correction
    result = np.zeros_like(policy)
    result[played] = np.maximum(pi, 0) / np.maximum(pi, 0).sum()
    return result
