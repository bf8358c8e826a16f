"""Policies and references in log space: validation, best responses, divergences.

Everywhere in ``tabular`` a policy over n actions is the last axis of an array, in logs: zero
probability is ``-inf``, never a small number. The functions here take arrays of any kind
(:mod:`tabular.arrays`) and return the same kind; they never write to an argument.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import device
from numpy.typing import ArrayLike

from slhf.errors import InvalidParameter, InvalidReference
from tabular.arrays import AnyArray, Array, array_namespace, first, like

SUM_TOLERANCE = 1e-9
"""How far the probabilities of a reference may be from summing to one."""
TIE_TOLERANCE = 1e-12
"""At temperature 0, scores this close to the best (in units of preference) are optimal too."""
SMALLEST_TEMPERATURE = 1e-12
"""Below it preferences divided by the temperature have no correct digits left in float64."""
LARGEST_TEMPERATURE = 1e9
"""Above it, the temperature times the rounding of a log-probability hides preferences."""

SAFE_MASS = 1e200
"""Sums of exp(logits) up to this, and down to its inverse, have all their digits."""


def check_temperature(value: Any, name: str) -> float:
    """``value`` as a float: 0, or from ``SMALLEST_`` to ``LARGEST_TEMPERATURE``. Raises InvalidParameter."""
    if type(value) is float and (value == 0 or SMALLEST_TEMPERATURE <= value <= LARGEST_TEMPERATURE):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
        raise InvalidParameter(f"{name} = {value!r}: must be a finite number, 0 or positive.")
    if value < 0:
        raise InvalidParameter(f"{name} = {value!r}: must not be negative; 0 means no regularisation.")
    if 0 < value < SMALLEST_TEMPERATURE:
        raise InvalidParameter(
            f"{name} = {value!r}: float64 cannot tell it from 0 (below {SMALLEST_TEMPERATURE}); pass 0."
        )
    if value > LARGEST_TEMPERATURE:
        raise InvalidParameter(
            f"{name} = {value!r}: float64 cannot tell it from infinity (above {LARGEST_TEMPERATURE:g}); pass less."
        )
    return float(value)


def log_reference(
    reference: ArrayLike | AnyArray | None,
    shape: tuple[int, ...],
    name: str,
    *,
    full_support: bool,
    pattern: AnyArray | None = None,
) -> AnyArray:
    """The logs of a reference policy, broadcast to ``shape`` without copies; uniform when ``reference`` is None.

    Args:
        reference: probabilities along the last axis, of a shape that broadcasts to ``shape``.
        shape: ``(..., n)`` for the Leader, ``(..., n, n)`` for the Follower.
        name: what to call it in an error.
        full_support: whether zeros are errors (they are at every positive temperature).
        pattern: an array of the kind and on the device wanted; None is numpy.

    Raises:
        InvalidReference: wrong shape or kind of array, not a distribution, or zeros where none may be.
    """
    pattern = np.empty(0) if pattern is None else pattern
    xp = array_namespace(pattern)
    if reference is None:
        return xp.broadcast_to(like(-math.log(shape[-1]), pattern), shape)
    try:
        array = like(reference, pattern)
    except (TypeError, ValueError) as error:
        raise InvalidReference(f"{name} cannot be read as probabilities of shape {shape}: {error}.") from error
    if not _broadcasts(tuple(array.shape), shape):
        given = tuple(array.shape)
        raise InvalidReference(f"{name} has shape {given}; the game needs {shape}, or one that broadcasts to it.")
    bad = ~(xp.isfinite(array) & (array >= 0))
    if xp.any(bad):
        where = first(bad)
        raise InvalidReference(f"{name}{where} = {array[where]}: probabilities must be finite and not negative.")
    total = xp.sum(array, axis=-1, keepdims=True)
    off = xp.abs(total - 1) > SUM_TOLERANCE
    if xp.any(off):
        where = first(off[..., 0])
        raise InvalidReference(
            f"{name}{where or ''} sums to {float(total[where][0]):.10g}, not 1; normalise it, in float64."
        )
    if full_support and xp.any(array == 0):
        raise InvalidReference(
            f"{name}{first(array == 0)} = 0: at a positive temperature the reference must give every action "
            f"some probability; drop the action from the game, or mix in a little of the uniform policy."
        )
    return xp.broadcast_to(log_of(array) - xp.log(total), shape)


def _broadcasts(given: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a policy of shape ``given`` can stand for one of shape ``shape``."""
    try:
        return given[-1:] == shape[-1:] and np.broadcast_shapes(given, shape) == shape
    except ValueError:
        return False


class Response(NamedTuple):
    """A best response: ``log_policy`` and ``policy`` ``(..., n)``, and the ``value`` ``(...)`` that it attains."""

    log_policy: AnyArray
    policy: AnyArray
    value: AnyArray


def respond(score: AnyArray, log_ref: AnyArray, tau: float, *, ties: float = TIE_TOLERANCE) -> Response:
    """The policy that maximises E[score] - tau KL(policy || reference), for ``score`` of shape ``(..., n)``.

    It is proportional to reference exp(score / tau), with value tau log E_reference[exp(score / tau)]. At
    temperature 0 it is the reference restricted to the actions within ``ties`` of the best.

    Raises:
        InvalidReference: at temperature 0, when the reference gives no probability to any best action.
    """
    xp = array_namespace(score, log_ref)
    if tau > 0:
        logits = score * (1 / tau)
        logits += log_ref
        return _normalise(logits, tau)
    best = xp.max(score, axis=-1, keepdims=True)
    logits = xp.where(score >= best - ties, log_ref, -xp.inf)
    out_of_reach = xp.max(logits, axis=-1) == -xp.inf
    if xp.any(out_of_reach):
        where = first(out_of_reach)
        raise InvalidReference(
            f"At temperature 0 the reference{' of game ' + str(where) if where else ''} gives no probability to any "
            f"optimal action, so it cannot choose among them; use a reference with full support."
        )
    return _normalise(logits, tau)._replace(value=best[..., 0])


def _normalise(logits: AnyArray, tau: float) -> Response:
    """The policy with these logits, which are overwritten, and tau log sum exp(logits) as its value."""
    xp = array_namespace(logits)
    with np.errstate(over="ignore"):
        policy = xp.exp(logits)
    mass, top = total(policy), 0.0
    if not (xp.min(mass) > 1 / SAFE_MASS and xp.max(mass) < SAFE_MASS):
        top = xp.max(logits, axis=-1)
        logits -= top[..., None]
        policy = xp.exp(logits)
        mass = total(policy)
    log_mass = xp.log(mass)
    policy *= (1 / mass)[..., None]
    logits -= log_mass[..., None]
    return Response(logits, policy, tau * (top + log_mass))


def log_softmax(logits: AnyArray) -> AnyArray:
    """``(..., n)``: the logs of the policy with these logits."""
    xp = array_namespace(logits)
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))


def total(x: AnyArray) -> AnyArray:
    """The sum along the last axis, as a product with ones: many times faster than ``sum`` where rows are short."""
    xp = array_namespace(x)
    return xp.vecdot(x, xp.ones(x.shape[-1], dtype=x.dtype, device=device(x)))


def best_response_value(score: AnyArray, log_ref: AnyArray, tau: float) -> AnyArray:
    """``(...)``: the value of :func:`respond`."""
    if tau == 0:
        return array_namespace(score).max(score, axis=-1)
    return respond(score, log_ref, tau).value


def best_response(score: AnyArray, log_ref: AnyArray, tau: float, *, ties: float = TIE_TOLERANCE) -> AnyArray:
    """``(..., n)``: the log of the policy of :func:`respond`."""
    return respond(score, log_ref, tau, ties=ties).log_policy


def log_ratio(log_policy: AnyArray, log_ref: AnyArray) -> AnyArray:
    """``log_policy - log_ref`` on the policy's support and 0 off it, where it always has weight 0."""
    xp = array_namespace(log_policy, log_ref)
    if xp.min(log_policy) > -xp.inf:
        return log_policy - log_ref
    support = log_policy > -xp.inf
    return xp.where(support, log_policy, 0.0) - xp.where(support, log_ref, 0.0)


def kl(log_policy: AnyArray, log_ref: AnyArray) -> AnyArray:
    """KL(policy || reference) along the last axis, with 0 log 0 = 0."""
    xp = array_namespace(log_policy, log_ref)
    return xp.sum(xp.exp(log_policy) * log_ratio(log_policy, log_ref), axis=-1)


def total_variation(policy: AnyArray, other: AnyArray) -> AnyArray:
    """Half the L1 distance along the last axis."""
    xp = array_namespace(policy, other)
    return xp.sum(xp.abs(policy - other), axis=-1) / 2


def log_of(policy: AnyArray) -> AnyArray:
    """The logs of probabilities, -inf where they are 0."""
    with np.errstate(divide="ignore"):
        return array_namespace(policy).log(policy)


def project_to_simplex(v: Array) -> Array:
    """The nearest point of the simplex, along the last axis (Held, Wolfe and Crowder 1974)."""
    descending = -np.sort(-v, axis=-1)
    excess = np.cumsum(descending, axis=-1) - 1
    size = np.arange(1, v.shape[-1] + 1)
    kept = np.sum(descending * size > excess, axis=-1, keepdims=True)
    threshold = np.take_along_axis(excess, kept - 1, axis=-1) / kept
    return np.maximum(v - threshold, 0)


def refuse_follower(follower_reference: ArrayLike | None, who: str) -> None:
    """Raise InvalidParameter if a one-player algorithm is given a Follower's reference."""
    if follower_reference is not None:
        raise InvalidParameter(f"{who} has no Follower; drop follower_reference.")
