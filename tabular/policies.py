"""Policies and references in log space: validation, best responses, divergences.

Everywhere in ``tabular`` a policy over n actions is the last axis of an array, in logs: zero
probability is ``-inf``, never a small number.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax, logsumexp

from slhf.errors import InvalidParameter, InvalidReference

Array = NDArray[np.float64]

SUM_TOLERANCE = 1e-9
"""How far the probabilities of a reference may be from summing to one."""
TIE_TOLERANCE = 1e-12
"""At temperature 0, scores this close to the best (in units of preference) are optimal too."""
SMALLEST_TEMPERATURE = 1e-12
"""Below it preferences divided by the temperature have no correct digits left in float64."""


def check_temperature(value: Any, name: str) -> float:
    """``value`` as a float: 0, or finite and at least ``SMALLEST_TEMPERATURE``. Raises InvalidParameter."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
        raise InvalidParameter(f"{name} = {value!r}: must be a finite number, 0 or positive.")
    if value < 0:
        raise InvalidParameter(f"{name} = {value!r}: must not be negative; 0 means no regularisation.")
    if 0 < value < SMALLEST_TEMPERATURE:
        raise InvalidParameter(
            f"{name} = {value!r}: float64 cannot tell it from 0 (below {SMALLEST_TEMPERATURE}); pass 0."
        )
    return float(value)


def log_reference(reference: ArrayLike | None, shape: tuple[int, ...], name: str, *, full_support: bool) -> Array:
    """The logs of a reference policy, broadcast to ``shape``; uniform when ``reference`` is None.

    Args:
        reference: probabilities along the last axis, of a shape that broadcasts to ``shape``.
        shape: ``(..., n)`` for the Leader, ``(..., n, n)`` for the Follower.
        name: what to call it in an error.
        full_support: whether zeros are errors (they are at every positive temperature).

    Raises:
        InvalidReference: wrong shape, not a distribution, or zeros where none may be.
    """
    n = shape[-1]
    if reference is None:
        return np.full(shape, -math.log(n))
    try:
        array = np.asarray(reference, dtype=np.float64)
        array = np.broadcast_to(array, shape) if array.shape[-1:] == (n,) else array
    except (TypeError, ValueError) as error:
        raise InvalidReference(f"{name} cannot be read as probabilities of shape {shape}: {error}.") from error
    if array.shape != shape:
        raise InvalidReference(f"{name} has shape {array.shape}; the game needs {shape}, or one that broadcasts to it.")
    if not np.all(np.isfinite(array) & (array >= 0)):
        where = _first(~(np.isfinite(array) & (array >= 0)))
        raise InvalidReference(f"{name}{where} = {array[where]}: probabilities must be finite and not negative.")
    total = array.sum(-1)
    if np.any(abs(total - 1) > SUM_TOLERANCE):
        where = _first(abs(total - 1) > SUM_TOLERANCE)
        raise InvalidReference(f"{name}{where or ''} sums to {total[where]:.10g}, not 1; normalise it.")
    if full_support and np.any(array == 0):
        raise InvalidReference(
            f"{name}{_first(array == 0)} = 0: at a positive temperature the reference must give every action "
            f"some probability; drop the action from the game, or mix in a little of the uniform policy."
        )
    with np.errstate(divide="ignore"):
        return np.log(array / total[..., None])


def _first(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    """The index of the first True entry."""
    return tuple(int(i) for i in np.argwhere(mask)[0])


def best_response_value(score: Array, log_ref: Array, tau: float) -> Array:
    """``(...)``: max over policies of E[score] - tau KL(policy || reference), for ``score`` of shape ``(..., n)``."""
    if tau == 0:
        return score.max(-1)
    return tau * logsumexp(log_ref + score / tau, axis=-1)


def best_response(score: Array, log_ref: Array, tau: float, *, ties: float = TIE_TOLERANCE) -> Array:
    """``(..., n)``: the log of the policy that attains :func:`best_response_value`.

    At temperature 0 it is the reference restricted to the actions within ``ties`` of the best.

    Raises:
        InvalidReference: at temperature 0, when the reference gives no probability to any best action.
    """
    if tau > 0:
        return log_softmax(log_ref + score / tau, axis=-1)
    restricted = np.where(score >= score.max(-1, keepdims=True) - ties, log_ref, -np.inf)
    if np.any(restricted.max(-1) == -np.inf):
        where = _first(restricted.max(-1) == -np.inf)
        raise InvalidReference(
            f"At temperature 0 the reference{' of game ' + str(where) if where else ''} gives no probability to any "
            f"optimal action, so it cannot choose among them; use a reference with full support."
        )
    return log_softmax(restricted, axis=-1)


def log_ratio(log_policy: Array, log_ref: Array) -> Array:
    """``log_policy - log_ref`` on the policy's support and 0 off it, where it always has weight 0."""
    out = np.zeros(np.broadcast_shapes(log_policy.shape, log_ref.shape))
    return np.subtract(log_policy, log_ref, out=out, where=log_policy > -np.inf)


def kl(log_policy: Array, log_ref: Array) -> Array:
    """KL(policy || reference) along the last axis, with 0 log 0 = 0."""
    return np.sum(np.exp(log_policy) * log_ratio(log_policy, log_ref), axis=-1)


def total_variation(policy: Array, other: Array) -> Array:
    """Half the L1 distance along the last axis."""
    return np.abs(policy - other).sum(-1) / 2


def log_of(policy: Array) -> Array:
    """The logs of probabilities, -inf where they are 0."""
    with np.errstate(divide="ignore"):
        return np.log(policy)


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
