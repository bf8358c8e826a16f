"""NLHF: the Nash equilibrium of the symmetric preference game, with or without a KL price.

Both players pay tau KL(pi || pi_ref). The equilibrium is the fixed point
pi ~ pi_ref exp(P(. > pi) / tau) (arXiv 2312.00886). Because A = P - 1/2 is antisymmetric,
E_pi A pi = 0 for every pi, and what pi's best opponent can gain is::

    f(pi) = tau logsumexp(log pi_ref + A pi / tau) + tau KL(pi || pi_ref) = tau KL(pi || rho),

with rho ~ pi_ref exp(A pi / tau) the best response to pi. So every iterate certifies itself:
f >= 0, f = 0 only at the equilibrium, and ||pi - pi*||_1 <= sqrt(2 f / tau).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax

from slhf.certificates import Certificate
from slhf.errors import InvalidParameter, NotConverged
from tabular import lotteries
from tabular.policies import Array, check_temperature, log_of, log_reference
from tabular.preferences import PreferenceMatrix

Selection = Literal["any", "max_entropy", "exact"]

RADIUS, SMALLEST_RADIUS = 0.1, 1e-3
"""How large a second step (see :func:`follow_path`) may be; a tenth of it after getting stuck, down to the least."""
MAX_STEPS = 2000
ENTRIES_AT_ONCE = 1 << 20
"""How many matrix entries to work on at a time, so that a large batch needs little memory (8 MB an array)."""
ROUNDING = 1e-15
"""A second step of this size is the last one."""


@dataclass(frozen=True)
class NashSolution:
    """The Nash equilibrium of a (batch of) symmetric preference game(s).

    Attributes:
        policy: ``(..., n)``.
        log_policy: its logs; -inf where it is 0.
        value: ``(...)``, one half, by symmetry.
        support: ``(..., n)``, True where the policy is positive.
        certificate: gap = f, what the best opponent can gain (exploitability), in units of preference;
            residual = how unequal the actions in the support are, KL price included.
        rational: ``(..., n)`` array of ``Fraction`` when ``selection="exact"``, else None.
    """

    policy: Array
    log_policy: Array
    value: Array
    support: NDArray[np.bool_]
    certificate: Certificate
    rational: NDArray[np.object_] | None = None


def solve_nlhf(
    P: PreferenceMatrix, tau: float = 0.0, reference: ArrayLike | None = None, selection: Selection = "any"
) -> NashSolution:
    """The Nash equilibrium: KL-regularised for tau > 0, a maximal lottery for tau = 0.

    Args:
        P: preferences of shape ``(..., n, n)``.
        tau: temperature >= 0, in units of preference per nat.
        reference: pi_ref, full support, broadcastable to ``(..., n)``; None is uniform.
        selection: which lottery to take at tau = 0, where there can be many: "any" that
            :func:`tabular.lotteries.any_lotteries` finds; "max_entropy", the I-projection of the reference
            onto all of them, which is the limit for tau -> 0; "exact", a vertex proved in rational arithmetic,
            with preferences read as :func:`tabular.lotteries.as_fractions` says.

    Raises:
        InvalidParameter: a bad temperature or selection, or a reference that would play no part.
        InvalidReference: a bad reference.
        InvalidPreferences: P holds another array than numpy's.
        NotConverged: the tolerance was missed; the error carries the best policy found.
    """
    P.require_numpy("solve_nlhf")
    tau = check_temperature(tau, "tau")
    if selection not in get_args(Selection):
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
    log_ref = log_reference(reference, P.p.shape[:-1], "reference", full_support=True)
    if tau > 0:
        return _kl_nash(P, tau, log_ref)
    return _exact_lottery(P) if selection == "exact" else _lottery(P, log_ref, selection)


def _solution(log_policy: Array, certificate: Certificate, rational: NDArray[np.object_] | None = None) -> NashSolution:
    half = np.full(log_policy.shape[:-1], 0.5)
    return NashSolution(np.exp(log_policy), log_policy, half, log_policy > -np.inf, certificate, rational)


def _batched(certificate: Certificate, shape: tuple[int, ...]) -> Certificate:
    """A certificate of a list of games as that of a batch of this shape."""
    gap, residual, iterations = certificate.gap, certificate.residual, certificate.iterations
    return Certificate(gap.reshape(shape), residual.reshape(shape), iterations.reshape(shape), certificate.method)


def _exact_lottery(P: PreferenceMatrix) -> NashSolution:
    """Temperature 0 in rational arithmetic, game by game."""
    found = [lotteries.exact(p) for p in P.p.reshape(-1, P.n, P.n)]
    rational = np.array(found, dtype=object).reshape(P.p.shape[:-1])
    log_policy = log_of(rational.astype(np.float64))
    zero = np.zeros(P.batch_shape)
    return _solution(log_policy, Certificate(zero, zero, 0, "rational simplex", exact=True), rational)


def _lottery(P: PreferenceMatrix, log_ref: Array, selection: Selection) -> NashSolution:
    """Temperature 0 in floating point."""
    margins = P.margins.reshape(-1, P.n, P.n)
    if selection == "max_entropy":
        log_policies, certificate, proved = lotteries.max_entropy_lotteries(margins, log_ref.reshape(-1, P.n))
    else:
        policies, certificate, proved = lotteries.any_lotteries(margins)
        log_policies = log_of(policies)
    solution = _solution(log_policies.reshape(log_ref.shape), _batched(certificate, P.batch_shape))
    if not proved.all():
        raise NotConverged(
            f"The {certificate.method} left an exploitability of {np.max(certificate.gap):.1e} and a residual of "
            f'{np.max(certificate.residual):.1e}; the game is almost degenerate; try selection="exact", or a small '
            f"positive tau.",
            solution,
            solution.certificate,
        )
    return solution


def _kl_nash(P: PreferenceMatrix, tau: float, log_ref: Array) -> NashSolution:
    """Positive temperature, many games at once, by :func:`follow_path`."""
    margins, flat = P.margins.reshape(-1, P.n, P.n), log_ref.reshape(-1, P.n)
    count = max(1, ENTRIES_AT_ONCE // P.n**2)
    parts = [
        follow_path(margins[i : i + count], flat[i : i + count], 1 / tau) for i in range(0, max(1, len(flat)), count)
    ]
    log_policy, iterations = (np.concatenate(part) for part in zip(*parts, strict=True))
    error = _log_error(margins, flat, log_policy, np.full(len(flat), 1 / tau))
    divergence = _divergence(log_policy, error)
    certificate = _batched(
        Certificate(tau * divergence, tau * np.ptp(error, axis=-1), iterations, "newton path following"), P.batch_shape
    )
    solution = _solution(log_policy.reshape(log_ref.shape), certificate)
    distance = np.sqrt(2 * divergence)  # bounds ||pi - pi*||_1; below 1e-14 / tau it is rounding in P
    if not np.all(distance <= 1e-9 + 1e-14 / tau):
        raise NotConverged(
            f"Path following left the policy up to {np.max(distance):.1e} (L1) from the equilibrium at tau = {tau}; "
            f"try a larger tau, or tau = 0.",
            solution,
            certificate,
        )
    return solution


def follow_path(margins: Array, log_ref: Array, target: float) -> tuple[Array, NDArray[np.int_]]:
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
    log_policy, reach = log_ref.copy(), np.abs(margins).max(-2)
    position, size = np.zeros(len(margins)), np.full(len(margins), np.inf)
    first_stride = 1 / np.maximum(reach.max(-1), 1 / target)
    stride, iterations = first_stride.copy(), np.zeros(len(margins), dtype=int)
    radius = np.full(len(margins), RADIUS)
    active, A = np.arange(len(margins)), margins
    for _ in range(MAX_STEPS):
        ref, most, old = log_ref[active], reach[active], position[active]
        new = np.minimum(target, old + stride[active])
        predicted, _ = newton_step(A, most, ref, log_policy[active], new)
        corrected, correction = newton_step(A, most, ref, predicted, new)
        arrived = old == target
        accept = np.where(arrived, correction < size[active], correction <= radius[active])
        moved = active[accept]
        log_policy[moved], position[moved], size[moved] = corrected[accept], new[accept], correction[accept]
        stride[active] *= np.where(accept, 3, 0.25)
        iterations[active] += 2
        stuck = active[~accept & ~arrived & (stride[active] < 1e-9 * old)]
        radius[stuck] /= 10
        log_policy[stuck], position[stuck], stride[stuck] = log_ref[stuck], 0, first_stride[stuck]
        done = np.where(accept, (new == target) & (correction <= ROUNDING), arrived)
        if (done | (radius[active] < SMALLEST_RADIUS)).any():
            active = active[~done & (radius[active] >= SMALLEST_RADIUS)]
            A = margins[active]
        if len(active) == 0:
            break
    return log_policy, iterations


def newton_step(
    margins: Array, reach: Array, log_ref: Array, log_policy: Array, inverse_tau: Array
) -> tuple[Array, Array]:
    """One Newton step on the logits of log pi = log pi_ref + A pi / tau + constant.

    Its Jacobian is I - A (diag(pi) - pi pi^T) / tau. For a step with E_pi step = 0, which is a choice of the logits'
    free constant, it is M = I - A diag(pi) / tau up to a constant c, so that M step = c - error. M has eigenvalues
    1 +- i lambda: it is never singular.

    Returns:
        log pi after the step, ``(games, n)``, and the step's size ``(games,)``: the largest change of a
        logit, or how much its nonlinearity, which the next step has to correct, moves a logit, where that is less.
        ``reach``, ``(games, n)``, is the largest margin that each action takes part in.
    """
    policy = np.exp(log_policy)
    scale = inverse_tau[:, None]
    advantage = np.matmul(margins, policy[..., None])[..., 0]
    matrix = margins * (-scale * policy)[:, None, :]
    np.einsum("gii->gi", matrix)[...] += 1
    right = np.stack([log_policy - log_ref - scale * advantage, np.ones_like(policy)], axis=-1)
    error, constant = np.moveaxis(np.linalg.solve(matrix, right), -1, 0)
    mean_error, mean_constant = (np.sum(policy * part, axis=-1, keepdims=True) for part in (error, constant))
    step = constant * (mean_error / mean_constant) - error
    result = log_softmax(log_policy + step, axis=-1)
    nonlinearity = scale * reach * np.abs(np.exp(result) - policy * (1 + step))
    return result, np.minimum(np.abs(step), nonlinearity).max(-1)


def _log_error(margins: Array, log_ref: Array, log_policy: Array, inverse_tau: Array) -> Array:
    """``(games, n)``: log(pi / rho), zero at the equilibrium."""
    advantage = np.matmul(margins, np.exp(log_policy)[..., None])[..., 0]
    return log_policy - log_softmax(log_ref + inverse_tau[..., None] * advantage, axis=-1)


def _divergence(log_policy: Array, error: Array) -> Array:
    """``(games,)``: KL(pi || rho) from ``error`` = log(pi / rho), correct in every digit even when it is 1e-30.

    It sums pi e + rho - pi, terms that are never negative, instead of pi e, which cancels.
    """
    policy = np.exp(log_policy)
    near = policy * (np.expm1(-np.maximum(error, -1)) + error)
    far = np.exp(log_policy - error) + policy * (error - 1)
    return np.maximum(np.where(error > -1, near, far).sum(-1), 0)
