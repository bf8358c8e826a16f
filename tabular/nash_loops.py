"""KL-Nash by :func:`tabular.nash.follow_path`, compiled, game by game."""

from __future__ import annotations

import numpy as np
from numba import njit

compiled = njit(cache=True, error_model="numpy", nogil=True, fastmath={"contract", "reassoc"})


@compiled
def follow_paths(p, log_ref, target, radius, smallest_radius, max_steps, rounding, log_policy, numbers):  # type: ignore[no-untyped-def]
    """Follow the path of each game ``p`` ``(games, n, n)``; ``log_ref`` is ``(games or 1, n)``.

    Filled in are ``log_policy`` ``(games, n)`` and ``numbers`` ``(3, games)``: KL(pi || rho), the range of
    log(pi / rho) and the Newton steps.
    """
    games, n, _ = p.shape
    margins, work = np.empty((n, n)), (np.empty((n, n)), np.empty((2, n)), np.empty((6, n)))
    for game in range(games):
        for i in range(n):
            for j in range(n):
                margins[i, j] = (p[game, i, j] - p[game, j, i]) / 2
        ref = log_ref[game % len(log_ref)]
        numbers[2, game] = _follow(
            margins, ref, target, radius, smallest_radius, max_steps, rounding, log_policy[game], work
        )
        numbers[0, game], numbers[1, game] = _certify(margins, ref, target, log_policy[game], work[2][0])


@compiled
def _follow(margins, log_ref, target, radius, smallest_radius, max_steps, rounding, log_policy, work):  # type: ignore[no-untyped-def]
    """One game's path, as :func:`tabular.nash.follow_path` says: fills in the logs; the number of Newton steps."""
    n = len(margins)
    predicted, corrected, reach = work[2][3], work[2][4], work[2][5]
    largest = 1 / target
    for i in range(n):
        reach[i] = 0.0
        for j in range(n):
            reach[i] = max(reach[i], abs(margins[i, j]))
        largest = max(largest, reach[i])
        log_policy[i] = log_ref[i]
    position, size, stride = 0.0, np.inf, 1 / largest
    for step in range(max_steps):
        new, arrived = min(target, position + stride), position == target
        _newton_step(margins, reach, log_ref, log_policy, new, work, predicted)
        correction = _newton_step(margins, reach, log_ref, predicted, new, work, corrected)
        accept = correction < size if arrived else correction <= radius
        if accept:
            log_policy[:] = corrected
            size, stride = correction, 3 * stride
        else:
            stride *= 0.25
        if (new == target and correction <= rounding) if accept else arrived:
            return 2 * step + 2
        if accept:
            position = new
        elif stride < 1e-9 * position:
            radius /= 10
            if radius < smallest_radius:
                return 2 * step + 2
            log_policy[:] = log_ref
            position, stride = 0.0, 1 / largest
    return 2 * max_steps


@compiled
def _newton_step(margins, reach, log_ref, log_policy, scale, work, result):  # type: ignore[no-untyped-def]
    """:func:`tabular.nash.newton_step`: fills in ``result``; the step's size."""
    n, (matrix, right, rows) = len(margins), work
    policy, top = rows[0], -np.inf
    for i in range(n):
        policy[i] = np.exp(log_policy[i])
    for i in range(n):
        advantage = 0.0
        for j in range(n):
            advantage += margins[i, j] * policy[j]
            matrix[i, j] = -scale * policy[j] * margins[i, j]
        matrix[i, i] += 1
        right[0, i], right[1, i] = log_policy[i] - log_ref[i] - scale * advantage, 1.0
    _solve(matrix, right)
    mean_error, mean_constant = 0.0, 0.0
    for i in range(n):
        mean_error += policy[i] * right[0, i]
        mean_constant += policy[i] * right[1, i]
    for i in range(n):
        right[0, i] = right[1, i] * (mean_error / mean_constant) - right[0, i]
        result[i] = log_policy[i] + right[0, i]
        top = max(top, result[i])
    mass, size = 0.0, 0.0
    for i in range(n):
        right[1, i] = np.exp(result[i] - top)
        mass += right[1, i]
    log_mass = top + np.log(mass)
    for i in range(n):
        result[i] -= log_mass
        nonlinearity = scale * reach[i] * abs(right[1, i] / mass - policy[i] * (1 + right[0, i]))
        change = min(abs(right[0, i]), nonlinearity)
        size = change if change > size or change != change else size
    return size


@compiled
def _solve(matrix, right):  # type: ignore[no-untyped-def]
    """Gaussian elimination with row pivoting: the rows of ``right`` become the solutions; ``matrix`` is used up."""
    n = len(matrix)
    for k in range(n):
        pivot = k
        for i in range(k + 1, n):
            if abs(matrix[i, k]) > abs(matrix[pivot, k]):
                pivot = i
        if pivot != k:
            for j in range(k, n):
                matrix[k, j], matrix[pivot, j] = matrix[pivot, j], matrix[k, j]
            for r in range(len(right)):
                right[r, k], right[r, pivot] = right[r, pivot], right[r, k]
        inverse = 1 / matrix[k, k]
        for i in range(k + 1, n):
            factor = matrix[i, k] * inverse
            for j in range(k + 1, n):
                matrix[i, j] -= factor * matrix[k, j]
            for r in range(len(right)):
                right[r, i] -= factor * right[r, k]
    for k in range(n - 1, -1, -1):
        for r in range(len(right)):
            rest = right[r, k]
            for j in range(k + 1, n):
                rest -= matrix[k, j] * right[r, j]
            right[r, k] = rest / matrix[k, k]


@compiled
def _certify(margins, log_ref, scale, log_policy, best):  # type: ignore[no-untyped-def]
    """KL(pi || rho) for the best response rho to pi, and the range of log(pi / rho)."""
    n, top, mass = len(margins), -np.inf, 0.0
    for i in range(n):
        advantage = 0.0
        for j in range(n):
            advantage += margins[i, j] * np.exp(log_policy[j])
        best[i] = log_ref[i] + scale * advantage
        top = max(top, best[i])
    for i in range(n):
        mass += np.exp(best[i] - top)
    log_mass = top + np.log(mass)
    divergence, least, most = 0.0, np.inf, -np.inf
    for i in range(n):
        error, policy = log_policy[i] - best[i] + log_mass, np.exp(log_policy[i])
        if error > -1:
            divergence += policy * (np.expm1(-error) + error)
        else:
            divergence += np.exp(log_policy[i] - error) + policy * (error - 1)
        least, most = min(least, error), max(most, error)
    return max(divergence, 0.0), most - least
