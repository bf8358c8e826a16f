"""NLHF: the Nash equilibrium of the symmetric preference game, with or without a KL price.

Both players pay tau KL(pi || pi_ref). The equilibrium is the fixed point
pi ~ pi_ref exp(P(. > pi) / tau) (arXiv 2312.00886). Because A = P - 1/2 is antisymmetric,
E_pi A pi = 0 for every pi, and what pi's best opponent can gain is::

    f(pi) = tau logsumexp(log pi_ref + A pi / tau) + tau KL(pi || pi_ref) = tau KL(pi || rho),

with rho ~ pi_ref exp(A pi / tau) the best response to pi. So every iterate certifies itself:
f >= 0, f = 0 only at the equilibrium, and ||pi - pi*||_1 <= sqrt(2 f / tau).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import numpy as np
from array_api_compat import device, is_numpy_array
from numpy.typing import ArrayLike, NDArray

from slhf.certificates import Certificate
from slhf.errors import InvalidParameter, NotConverged
from tabular import compiled, lotteries
from tabular.arrays import AnyArray, array_namespace, solve
from tabular.policies import check_temperature, log_of, log_reference, log_softmax
from tabular.preferences import PreferenceMatrix

Selection = Literal["any", "max_entropy", "exact"]

RADIUS, SMALLEST_RADIUS = 0.1, 1e-3
"""How large a second step (see :func:`follow_path`) may be; a tenth of it after getting stuck, down to the least."""
MAX_STEPS = 2000
ENTRIES_AT_ONCE = 1 << 20
"""How many matrix entries to work on at a time, so that a large batch needs little memory (8 MB an array)."""
ROUNDING = 1e-15
"""A second step of this size is the last one."""
LARGEST_LOOPED = 64
"""Alternatives up to which loops over numbers beat LAPACK."""


class NashSolution(NamedTuple):
    """The Nash equilibrium of a (batch of) symmetric preference game(s).

    Attributes:
        policy: ``(..., n)``.
        log_policy: its logs; -inf where it is 0.
        certificate: gap = f, what the best opponent can gain (exploitability), in units of preference;
            residual = how unequal the actions in the support are, KL price included.
        rational: ``(..., n)`` array of ``Fraction`` when ``selection="exact"``, else None.
    """

    policy: AnyArray
    log_policy: AnyArray
    certificate: Certificate
    rational: NDArray[np.object_] | None = None

    @property
    def value(self) -> AnyArray:
        """``(...)``, one half, by symmetry."""
        return 0 * self.policy[..., 0] + 0.5

    @property
    def support(self) -> AnyArray:
        """``(..., n)``, True where the policy is positive."""
        return self.log_policy > -math.inf


def solve_nlhf(
    P: PreferenceMatrix, tau: float = 0.0, reference: ArrayLike | AnyArray | None = None, selection: Selection = "any"
) -> NashSolution:
    """The Nash equilibrium: KL-regularised for tau > 0, a maximal lottery for tau = 0.

    Args:
        P: preferences of shape ``(..., n, n)``.
        tau: temperature >= 0, in units of preference per nat.
        reference: pi_ref, full support, broadcastable to ``(..., n)``; None is uniform.
        selection: which lottery to take at tau = 0, where there can be many: "any" that
            :func:`tabular.lotteries.any_lotteries` finds; "max_entropy", the I-projection of the reference
            onto all of them, which is the limit for tau -> 0; "exact", a vertex proved in rational arithmetic,
            with preferences read as :func:`tabular.lotteries.as_fractions` says. The last two are for numpy's arrays.

    Raises:
        InvalidParameter: a bad temperature or selection, or a reference that would play no part.
        InvalidReference: a bad reference.
        InvalidPreferences: P holds another array than numpy's, which ``selection`` does not take.
        NotConverged: the tolerance was missed; the error carries the best policy found.
    """
    tau = check_temperature(tau, "tau")
    if selection != "any" and selection not in get_args(Selection):
        raise InvalidParameter(f"selection = {selection!r}: choose one of {', '.join(get_args(Selection))}.")
    if tau > 0 and selection != "any":
        raise InvalidParameter(
            f'selection = "{selection}" at tau = {tau}: there the equilibrium is unique; drop the selection.'
        )
    if tau == 0 and reference is not None and selection != "max_entropy":
        raise InvalidParameter(
            f'At tau = 0 the reference plays no part with selection = "{selection}"; '
            f'pass selection="max_entropy", or no reference.'
        )
    if tau > 0:
        return _kl_nash(P, tau, reference)
    if selection == "any":
        return _lottery(P, *lotteries.any_lotteries(P.margins.reshape((-1, P.n, P.n))))
    P.require_numpy(f'solve_nlhf with selection="{selection}"')
    if selection == "exact":
        return _exact_lottery(P)
    log_ref = log_reference(reference, P.p.shape[:-1], "reference", full_support=True).reshape(-1, P.n)
    log_policies, certificate, proved = lotteries.max_entropy_lotteries(P.margins.reshape(-1, P.n, P.n), log_ref)
    return _lottery(P, np.exp(log_policies), certificate, proved, log_policies)


def _batched(certificate: Certificate, shape: tuple[int, ...]) -> Certificate:
    """A certificate of a list of games as that of a batch of this shape."""
    gap, residual, iterations = certificate.gap, certificate.residual, certificate.iterations
    return Certificate(gap.reshape(shape), residual.reshape(shape), iterations.reshape(shape), certificate.method)


def _exact_lottery(P: PreferenceMatrix) -> NashSolution:
    """Temperature 0 in rational arithmetic, game by game."""
    found = [lotteries.exact(p) for p in P.p.reshape(-1, P.n, P.n)]
    rational = np.array(found, dtype=object).reshape(P.p.shape[:-1])
    policy = rational.astype(np.float64)
    zero = np.zeros(P.batch_shape)
    return NashSolution(policy, log_of(policy), Certificate(zero, zero, 0, "rational simplex", exact=True), rational)


def _lottery(
    P: PreferenceMatrix,
    policies: AnyArray,
    certificate: Certificate,
    proved: AnyArray,
    log_policies: AnyArray | None = None,
) -> NashSolution:
    """Temperature 0 in floating point, from what :mod:`tabular.lotteries` found."""
    certificate = _batched(certificate, P.batch_shape)
    log_policies, shape = log_of(policies) if log_policies is None else log_policies, P.p.shape[:-1]
    solution = NashSolution(policies.reshape(shape), log_policies.reshape(shape), certificate)
    if False in proved.tolist():
        raise NotConverged(
            f"The {certificate.method} left an exploitability of {float(certificate.gap.max()):.1e} and a residual of "
            f'{float(certificate.residual.max()):.1e}; the game is almost degenerate; try selection="exact", or a '
            f"small positive tau.",
            solution,
            certificate,
        )
    return solution


def _kl_nash(P: PreferenceMatrix, tau: float, reference: ArrayLike | AnyArray | None) -> NashSolution:
    """Positive temperature, many games at once, by :func:`follow_path`, compiled if the games are small."""
    log_ref = log_reference(reference, tuple(P.p.shape[:-1]), "reference", full_support=True, pattern=P.p)
    xp, n, log_ref = array_namespace(P.p), P.n, log_ref.reshape((-1, P.n))
    loops = (
        compiled.NASH.for_games(P.p, 5e-3 + 2e-6 * P.p.size) if n <= LARGEST_LOOPED and is_numpy_array(P.p) else None
    )
    if loops is not None:
        log_policy, numbers = np.empty(log_ref.shape), np.empty((3, len(log_ref)))
        control = RADIUS, SMALLEST_RADIUS, MAX_STEPS, ROUNDING
        loops.follow_paths(P.p.reshape(-1, n, n), np.array(log_ref), 1 / tau, *control, log_policy, numbers)
        divergence, spread, iterations = *numbers[:2], numbers[2].astype(np.int64)
    else:
        margins = P.margins.reshape((-1, n, n))
        log_policy, iterations = _follow_paths(margins, log_ref, 1 / tau)
        error = _log_error(margins, log_ref, log_policy, 1 / tau)
        divergence, spread = _divergence(log_policy, error), xp.max(error, axis=-1) - xp.min(error, axis=-1)
    certificate = Certificate(tau * divergence, tau * spread, iterations, "newton path following")
    log_policy = log_policy.reshape(P.p.shape[:-1])
    solution = NashSolution(xp.exp(log_policy), log_policy, _batched(certificate, P.batch_shape))
    distance = xp.sqrt(2 * divergence)  # bounds ||pi - pi*||_1; below 1e-14 / tau it is rounding in P
    if not xp.all(distance <= 1e-9 + 1e-14 / tau):
        raise NotConverged(
            f"Path following left the policy up to {float(xp.max(distance)):.1e} (L1) from the equilibrium at tau = "
            f"{tau}; try a larger tau, or tau = 0.",
            solution,
            solution.certificate,
        )
    return solution


def _follow_paths(margins: AnyArray, log_ref: AnyArray, target: float) -> tuple[AnyArray, AnyArray]:
    """:func:`follow_path`; for numpy some games at a time, which saves memory, and would leave a GPU idle."""
    games, n, _ = margins.shape
    count = max(1, ENTRIES_AT_ONCE // n**2) if is_numpy_array(margins) else max(1, games)
    starts = range(0, max(1, games), count)
    parts = [follow_path(margins[i : i + count], log_ref[i : i + count], target) for i in starts]
    xp = array_namespace(margins)
    return xp.concat([logs for logs, _ in parts]), xp.concat([steps for _, steps in parts])


def follow_path(margins: AnyArray, log_ref: AnyArray, target: float) -> tuple[AnyArray, AnyArray]:
    """Newton's method along the equilibria at inverse temperatures from 0, where pi = pi_ref, to ``target``.

    Newton's method alone diverges at small temperatures. Here the first of two Newton steps also advances
    the inverse temperature, as far as leaves the second one small: then it converges (the natural
    criterion of Deuflhard 2004, Section 5.1). A game is done when, at the target, the second step's size is
    within ``ROUNDING`` or stops shrinking: the rest is rounding.

    Args:
        margins: ``(games, n, n)``.
        log_ref: ``(games, n)``.
        target: 1 / tau.

    Returns:
        log policies ``(games, n)`` and the number of Newton steps ``(games,)``.
    """
    xp, games, where = array_namespace(margins), len(margins), {"device": device(margins)}
    log_policy, reach = xp.asarray(log_ref, copy=True), xp.max(xp.abs(margins), axis=-2)
    position, size = xp.zeros(games, dtype=xp.float64, **where), xp.full(games, xp.inf, dtype=xp.float64, **where)
    largest = xp.max(reach, axis=-1)
    first_stride = 1 / xp.where(largest > 1 / target, largest, 1 / target)
    stride, iterations = xp.asarray(first_stride, copy=True), xp.zeros(games, dtype=xp.int64, **where)
    radius = xp.full(games, RADIUS, dtype=xp.float64, **where)
    active, A = xp.arange(games, **where), margins
    for _ in range(MAX_STEPS if games else 0):
        ref, most, old = log_ref[active], reach[active], position[active]
        new = xp.clip(old + stride[active], None, target)
        predicted, _ = newton_step(A, most, ref, log_policy[active], new)
        corrected, correction = newton_step(A, most, ref, predicted, new)
        arrived = old == target
        accept = xp.where(arrived, correction < size[active], correction <= radius[active])
        moved = active[accept]
        log_policy[moved], position[moved], size[moved] = corrected[accept], new[accept], correction[accept]
        stride[active] *= xp.where(accept, 3.0, 0.25)
        iterations[active] += 2
        stuck = active[~accept & ~arrived & (stride[active] < 1e-9 * old)]
        radius[stuck] /= 10
        log_policy[stuck], position[stuck], stride[stuck] = log_ref[stuck], 0.0, first_stride[stuck]
        done = xp.where(accept, (new == target) & (correction <= ROUNDING), arrived)
        leaves = done | (radius[active] < SMALLEST_RADIUS)
        if xp.any(leaves):
            active = active[~leaves]
            A = margins[active]
        if len(active) == 0:
            break
    return log_policy, iterations


def newton_step(
    margins: AnyArray, reach: AnyArray, log_ref: AnyArray, log_policy: AnyArray, inverse_tau: AnyArray
) -> tuple[AnyArray, AnyArray]:
    """One Newton step on the logits of log pi = log pi_ref + A pi / tau + constant.

    Its Jacobian is I - A (diag(pi) - pi pi^T) / tau. For a step with E_pi step = 0, which is a choice of the logits'
    free constant, it is M = I - A diag(pi) / tau up to a constant c, so that M step = c - error. M has eigenvalues
    1 +- i lambda: it is never singular.

    Returns:
        log pi after the step, ``(games, n)``, and the step's size ``(games,)``: the largest change of a
        logit, or how much its nonlinearity, which the next step has to correct, moves a logit, where that is less.
        ``reach``, ``(games, n)``, is the largest margin that each action takes part in.
    """
    xp, n, scale = array_namespace(margins), margins.shape[-1], inverse_tau[:, None]
    policy = xp.exp(log_policy)
    advantage = xp.matmul(margins, policy[..., None])[..., 0]
    matrix = margins * (-scale * policy)[:, None, :]
    diagonal = xp.arange(n, device=device(margins))
    matrix[:, diagonal, diagonal] += 1
    right = xp.stack([log_policy - log_ref - scale * advantage, xp.ones_like(policy)], axis=-1)
    solved = solve(matrix, right)
    error, constant = solved[..., 0], solved[..., 1]
    mean_error, mean_constant = (xp.sum(policy * part, axis=-1, keepdims=True) for part in (error, constant))
    step = constant * (mean_error / mean_constant) - error
    result = log_softmax(log_policy + step)
    nonlinearity = scale * reach * xp.abs(xp.exp(result) - policy * (1 + step))
    return result, xp.max(xp.minimum(xp.abs(step), nonlinearity), axis=-1)


def _log_error(margins: AnyArray, log_ref: AnyArray, log_policy: AnyArray, inverse_tau: float) -> AnyArray:
    """``(..., n)``: log(pi / rho), zero at the equilibrium."""
    xp = array_namespace(margins)
    advantage = xp.matmul(margins, xp.exp(log_policy)[..., None])[..., 0]
    return log_policy - log_softmax(log_ref + inverse_tau * advantage)


def _divergence(log_policy: AnyArray, error: AnyArray) -> AnyArray:
    """``(...)``: KL(pi || rho) from ``error`` = log(pi / rho), correct in every digit even when it is 1e-30.

    It sums pi e + rho - pi, terms that are never negative, instead of pi e, which cancels.
    """
    xp = array_namespace(log_policy)
    policy = xp.exp(log_policy)
    near = policy * (xp.expm1(-xp.clip(error, -1.0, None)) + error)
    far = xp.exp(log_policy - error) + policy * (error - 1)
    return xp.clip(xp.sum(xp.where(error > -1, near, far), axis=-1), 0.0, None)
