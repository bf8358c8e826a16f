"""Maximal lotteries: the Nash equilibria {pi : A pi <= 0} of one game without a KL price.

(Kreweras 1965, Fishburn 1984.) There is always one; there can be a polytope of them.
"""

from __future__ import annotations

import copy
import math
from fractions import Fraction

import numpy as np
from array_api_compat import is_numpy_array, to_device
from numpy.typing import NDArray

from slhf.certificates import Certificate
from slhf.errors import NotConverged
from tabular import compiled
from tabular.arrays import AnyArray, Array, array_namespace, like
from tabular.interior_point import central_lottery, polish
from tabular.pivoting import SMALLEST_PROBABILITY, TOLERANCE, pivoted_lotteries
from tabular.policies import log_softmax

CLEAR = 1e-6
"""Probabilities and slacks of a central lottery that are surely positive; up to ``TOLERANCE`` they are surely 0."""
MAX_ITERATIONS = 500
LARGEST_PIVOTED = 500
"""Pivots cost n^2 each and about n^1.5 are needed; interior-point steps cost n^3, and about 17 are needed."""


def any_lotteries(margins: AnyArray) -> tuple[AnyArray, Certificate, AnyArray]:
    """A lottery of each game of ``margins`` ``(games, n, n)``, and what it is worth.

    Principal pivoting finds it (a vertex of the lotteries), or for numpy's arrays beyond ``LARGEST_PIVOTED``
    alternatives an interior-point method (a lottery inside them, where there are several). Where that does not prove
    its answer to ``TOLERANCE``, a linear program is solved, in main memory; the certificate's ``method`` says for how
    many games.

    Returns:
        policies ``(games, n)``, their certificate, and which of them are within ``TOLERANCE``.
    """
    games, n = margins.shape[:-1]
    if n <= LARGEST_PIVOTED or not is_numpy_array(margins):
        method = "principal pivoting"
        policies, iterations = pivoted_lotteries(margins)
    else:
        method = "interior point"
        policies, iterations = np.empty((games, n)), np.empty(games, dtype=np.int_)
        for game, A in enumerate(margins):
            x, w, steps = central_lottery(A)
            policies[game], iterations[game] = polish(A, np.where(x > w, x, 0)), steps
    gap, residual, proved = exploitability(margins, policies)
    if False in proved.tolist():
        failed = [index for index, found in enumerate(proved.tolist()) if not found]
        method += f", linear program for {len(failed)} of {games} games"
        for index in failed:
            policy, iterations[index] = _minimax_program(np.asarray(to_device(margins[index], "cpu")))
            policies[index] = like(policy if is_numpy_array(margins) else policy.tolist(), margins)
        gap, residual, proved = exploitability(margins, policies)
    return policies, Certificate(gap, residual, iterations, method), proved


def exploitability(margins: AnyArray, policies: AnyArray) -> tuple[AnyArray, AnyArray, AnyArray]:
    """``(games,)`` each: what the best opponent gains, the same less what the worst action played earns, both small.

    As E_pi A pi = 0, the second is the larger of the two. Both are infinite for what is no policy (NaNs, say).
    """
    loops = compiled.LOTTERIES.for_games(margins, 1e-4)
    if loops is not None:
        gap, residual, proved = np.empty(len(margins)), np.empty(len(margins)), np.empty(len(margins), dtype=bool)
        loops.exploitability(margins, policies, gap, residual, proved)
        return gap, residual, proved
    xp = array_namespace(margins)
    advantage = xp.matmul(margins, policies[..., None])[..., 0]
    is_policy = (xp.abs(xp.sum(xp.abs(policies), axis=-1) - 1) <= TOLERANCE) & (xp.min(policies, axis=-1) >= 0)
    best, worst = xp.max(advantage, axis=-1), xp.min(xp.where(policies != 0, advantage, xp.inf), axis=-1)
    gap, residual = xp.where(is_policy, best, xp.inf), xp.where(is_policy, best - worst, xp.inf)
    return gap, residual, residual <= TOLERANCE * xp.max(xp.abs(margins), axis=(-2, -1))


def _minimax_program(margins: Array) -> tuple[Array, int]:
    """The lottery that minimises the best opponent's gain v, by HiGHS, and its iterations."""
    n = len(margins)
    scale = np.abs(margins).max() or 1.0
    return _linear_program(np.append(np.zeros(n), 1), np.c_[margins / scale, -np.ones(n)], n)


def _linear_program(cost: Array, upper: Array, n: int) -> tuple[Array, int]:
    """Minimise ``cost`` over (pi, v) with ``upper (pi, v) <= 0``, pi a policy and v free; returns pi."""
    from scipy.optimize import linprog  # here, for its import takes longer than most games

    result = linprog(
        cost,
        A_ub=upper,
        b_ub=np.zeros(len(upper)),
        A_eq=np.append(np.ones(n), 0)[None],
        b_eq=[1],
        bounds=[(0, None)] * n + [(None, None)],
        method="highs-ds",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if result.status != 0:
        certificate = Certificate(np.inf, np.inf, int(result.nit), "linear program")
        raise NotConverged(f"The linear program of a maximal lottery failed: {result.message}", None, certificate)
    policy = np.where(result.x[:n] > SMALLEST_PROBABILITY, result.x[:n], 0)
    return policy / policy.sum(), int(result.nit)


def essential_set(margins: Array) -> NDArray[np.bool_]:
    """``(n,)``: True for the actions that some lottery plays.

    By Tucker's theorem (1956) a skew-symmetric A has a lottery with pi_i > (A pi)_i for every i: it plays
    every action that any lottery plays, and loses strictly to no other. Mostly the vertex that pivoting finds is one:
    then it is the only lottery. The interior-point method ends at one always. Where its differences are too small to
    tell, a linear program finds the lottery for which the least of them is largest.

    Raises:
        NotConverged: that least difference is too small to trust.
    """
    n = len(margins)
    if n <= LARGEST_PIVOTED:
        vertex = pivoted_lotteries(margins[None])[0][0]
        slack = -margins @ vertex / (np.abs(margins).max() or 1.0)
        if _is_strict(vertex, slack):
            return vertex > slack
    x, w, _ = central_lottery(margins)
    if _is_strict(x, w):
        return x > w
    A = margins / (np.abs(margins).max() or 1.0)
    upper = np.r_[np.c_[A, np.zeros(n)], np.c_[A - np.eye(n), np.ones(n)]]
    policy, iterations = _linear_program(np.append(np.zeros(n), -1), upper, n)
    slack = -A @ policy
    separation = float(np.abs(policy - slack).min())
    if separation < 10 * TOLERANCE:
        raise NotConverged(
            f"Which actions some lottery plays cannot be told: the game is within {separation:.0e} of another answer. "
            f'Use selection="exact" or "any", or a small positive tau.',
            policy,
            Certificate(float(-slack.min()), separation, iterations, "linear program"),
        )
    return policy > slack


def _is_strict(x: Array, w: Array) -> bool:
    """Whether of each probability and its slack one is surely positive and the other surely 0."""
    return bool(np.all((np.maximum(x, w) >= CLEAR) & (np.abs(np.minimum(x, w)) <= TOLERANCE)))


def max_entropy_lotteries(margins: Array, log_ref: Array) -> tuple[Array, Certificate, NDArray[np.bool_]]:
    """The lottery of each game nearest to its reference in KL(pi || pi_ref): logs; the rest as above."""
    found = [_max_entropy(A, ref) for A, ref in zip(margins, log_ref, strict=True)]
    log_policies, residuals, iterations = (np.array(part) for part in zip(*found, strict=True))
    gap = np.matmul(margins, np.exp(log_policies)[..., None])[..., 0].max(-1)
    proved = np.maximum(gap, residuals) <= TOLERANCE * np.abs(margins).max((-2, -1))
    return log_policies, Certificate(gap, residuals, iterations, "projected newton"), proved


def _max_entropy(margins: Array, log_ref: Array) -> tuple[Array, float, int]:
    """One game's logs, residual and iterations.

    On the essential set E the constraints A pi <= 0 are equalities. Their multipliers ``m`` (free on E, not
    negative elsewhere) give pi ~ pi_ref exp(A m) on E, and minimise logsumexp_E(log pi_ref + A m),
    here by projected Newton steps (Bertsekas 1982). The residual is the largest violation of feasibility
    or of complementary slackness.
    """
    essential = essential_set(margins)
    scale = np.abs(margins).max() or 1.0
    A = margins / scale
    base = np.where(essential, log_ref, -np.inf)
    m, value, iterations = np.zeros(len(A)), _logsumexp(base), 0
    while iterations < MAX_ITERATIONS:
        policy = np.exp(log_softmax(base + A @ m))
        gradient = -(A @ policy)
        free = essential | (m > 0) | (gradient < 0)
        violation = float(np.abs(gradient[free]).max())
        if violation <= 1e-15:
            break
        iterations += 1
        step = _damped_newton(A[free], policy, gradient[free])
        fraction = 1.0
        while fraction > 1e-12:
            trial = m.copy()
            trial[free] += fraction * step
            trial = np.where(essential, trial, np.maximum(trial, 0))
            after = _logsumexp(base + A @ trial)
            if after <= value + 1e-4 * gradient @ (trial - m) + 1e-16 * (1 + abs(value)):
                break
            fraction /= 2
        improved = after < value
        m, value = trial, after
        if not improved and violation <= TOLERANCE / 10:
            break
    log_policy = log_softmax(base + A @ m)
    advantage = A @ np.exp(log_policy)
    infeasible = np.where(essential, np.abs(advantage), np.maximum(advantage, 0)).max()
    slackness = np.abs(np.where(essential, 0, m * advantage)).max()
    return log_policy, float(scale * max(infeasible, slackness)), iterations


def _logsumexp(logits: Array) -> float:
    top = float(logits.max())
    return top + math.log(np.exp(logits - top).sum())


def _damped_newton(rows: Array, policy: Array, gradient: Array) -> Array:
    """The Newton step for logsumexp(base + A m) in the multipliers of ``rows`` of A.

    Redundant constraints make the Hessian singular; a ridge that all but vanishes with the gradient
    keeps the step finite and the convergence fast.
    """
    mean = rows @ policy
    hessian = (rows * policy) @ rows.T - np.outer(mean, mean)
    ridge = (1e-3 * np.abs(gradient).max() + 1e-12) * np.eye(len(rows))
    return np.linalg.solve(hessian + ridge, -gradient)


def as_fractions(p: Array) -> list[list[Fraction]]:
    """The margins of one game ``(n, n)`` in rationals, antisymmetric.

    A preference means the fraction with denominator up to 1000 that is within 1e-15 of it, if there is one
    (.1 is 1/10, not its binary neighbour), and else its float64 value exactly.
    """
    margins = [[Fraction(0)] * len(p) for _ in p]
    for i in range(len(p)):
        for j in range(i):
            value = Fraction(float(p[i, j]))
            simple = value.limit_denominator(1000)
            margins[i][j] = (simple if abs(simple - value) <= Fraction(1, 10**15) else value) - Fraction(1, 2)
            margins[j][i] = -margins[i][j]
    return margins


def exact(p: Array) -> list[Fraction]:
    """A lottery of one preference matrix ``(n, n)`` in rational arithmetic, with A pi <= 0 verified.

    The floating-point lottery suggests which actions are played; where A_SS pi = 0 then has one solution only, that
    is it, nearly always. If not, the simplex method solves max sum(x) subject to (A + c) x <= 1 and x >= 0, for
    c > max |A|, and pi = x / sum(x). It starts from the basis that the floating-point lottery suggests, or from
    scratch where that is infeasible.
    """
    margins = as_fractions(p)
    common = math.lcm(*(entry.denominator for row in margins for entry in row))
    payoff = np.array([[int(entry * common) for entry in row] for row in margins], dtype=object)
    suggestion = any_lotteries(p[None] - 0.5)[0][0]
    x = _kernel(payoff, np.flatnonzero(suggestion))
    if not _is_lottery(payoff, x):
        start = _Tableau(payoff + (np.abs(payoff).max() + 1))
        x = (start.suggested(p - 0.5, suggestion) or start).optimum()
        if not _is_lottery(payoff, x):
            failed = Certificate(np.inf, np.inf, 0, "rational simplex")
            raise NotConverged("The rational simplex method did not reach a lottery.", x, failed)
    return [Fraction(entry, sum(x)) for entry in x]


def _is_lottery(payoff: NDArray[np.object_], x: list[int]) -> bool:
    """The proof, independent of how ``x`` was found: A x <= 0, x >= 0 and x not 0, in integers."""
    return min(x) >= 0 and sum(x) > 0 and max(payoff @ np.array(x, dtype=object)) <= 0


def _kernel(payoff: NDArray[np.object_], played: NDArray[np.intp]) -> list[int]:
    """Integers x, 0 outside ``played``, that solve A_SS x = 0 if that determines them up to a factor; else zeros."""
    *others, last = played
    system, d = payoff[np.ix_(others, played)], 1
    for i in range(len(others)):
        row = next((k for k in range(i, len(others)) if system[k, i] != 0), None)
        if row is None:
            return [0] * len(payoff)
        system[[i, row]] = system[[row, i]]
        system, d = _eliminate(system, i, i, d), system[i, i]
    x = np.zeros(len(payoff), dtype=object)
    x[last] = d
    x[others] = -system[:, -1]
    return [int(entry) * (1 if d > 0 else -1) for entry in x]


def _eliminate(T: NDArray[np.object_], row: int, column: int, d: int) -> NDArray[np.object_]:
    """Clear ``column`` of T, an integer matrix over the common denominator ``d``, except in ``row``.

    The new common denominator is the pivot, T[row, column], so that each division is exact (Edmonds 1967).
    """
    kept = T[row].copy()
    T = (kept[column] * T - np.outer(T[:, column], kept)) // d
    T[row] = kept
    return T


class _Tableau:
    """The simplex tableau of max sum(x), M x + s = 1, for an integer matrix M, in integers over ``d``."""

    def __init__(self, matrix: NDArray[np.object_]) -> None:
        n = len(matrix)
        ones = np.array([1] * n, dtype=object)
        self.n, self.d, self.basis = n, 1, list(range(n, 2 * n))
        self.T = np.c_[matrix, np.diag(ones), ones]
        self.T = np.r_[self.T, np.array([[-1] * n + [0] * (n + 1)], dtype=object)]

    def pivot(self, row: int, column: int) -> None:
        pivot = self.T[row, column]
        self.T = _eliminate(self.T, row, column, self.d)
        self.d, self.basis[row] = pivot, column

    def suggested(self, margins: Array, policy: Array) -> _Tableau | None:
        """A copy at the basis of the floating-point lottery, or None where that is not feasible."""
        guess = copy.deepcopy(self)
        tight = [int(i) for i in np.flatnonzero(margins @ policy > -TOLERANCE * np.abs(margins).max())]
        for column in np.flatnonzero(policy):
            row = next((i for i in tight if guess.basis[i] >= self.n and guess.T[i, column] != 0), None)
            if row is not None:
                guess.pivot(row, int(column))
        return guess if guess.d > 0 and (guess.T[:-1, -1] >= 0).all() else None

    def optimum(self) -> list[int]:
        """x, up to a common factor, by Bland's rule, which cannot cycle."""
        while (self.T[-1, :-1] < 0).any():
            column = next(j for j in range(2 * self.n) if self.T[-1, j] < 0)
            rows = [i for i in range(self.n) if self.T[i, column] > 0]
            ratios = [(Fraction(self.T[i, -1], self.T[i, column]), self.basis[i], i) for i in rows]
            self.pivot(min(ratios)[2], column)
        x = [0] * self.n
        for i, variable in enumerate(self.basis):
            if variable < self.n:
                x[variable] = self.T[i, -1]
        return x
