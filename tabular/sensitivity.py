"""How the regularised solutions move with P: derivatives by implicit differentiation, and condition numbers.

A preference matrix can only move along antisymmetric directions D (p(i > j) + d, p(j > i) - d), so all
derivatives are along those. Each solution here depends on P through one score per action::

    d score_i = sum_j exposure[i, j] D[i, j],    d output = gain @ d score,

so that n^2 numbers twice say everything that the Jacobian's n^3 say:

- SLHF: V(y) earns d V(i) = sum_j omega(j|i) D[i, j] (envelope), and d pi = S dV / tau_L, with
  S = diag(pi) - pi pi^T the covariance of a soft-max.
- NLHF: log pi = log pi_ref + P pi / tau + constant gives (I - A S / tau) d logits = D pi / tau and d pi = S d logits.
- RLHF: the score equations give H dr = (sum_j W[i, j] D[i, j])_i, H the information matrix, and d pi = S dr / tau.

At temperature 0 solutions jump, and there is no derivative: see :func:`tabular.adversary.flip_budgets`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from slhf.errors import InvalidParameter, InvalidPreferences
from tabular.arrays import of_numpy
from tabular.nash import NashSolution, solve_nlhf
from tabular.policies import Array
from tabular.preferences import TOLERANCE, PreferenceMatrix
from tabular.rlhf import PairWeights, RLHFSolution, information, pair_weights_of, solve_rlhf, win_probability
from tabular.stackelberg import StackelbergSolution, solve_slhf

LARGEST_CONDITION = 16
"""A condition number takes 2^(n - 1) n^2 steps; more alternatives are refused."""


@dataclass(frozen=True)
class Derivative:
    """The derivative of m outputs with respect to P, in factors.

    Attributes:
        gain: ``(..., m, n)``, d output / d score.
        exposure: ``(..., n, n)``, d score_i / d p(i > j) at [i, j].
    """

    gain: Array
    exposure: Array

    def along(self, direction: ArrayLike) -> Array:
        """``(..., m)``: how fast the outputs move when P moves along D, antisymmetric, ``(..., n, n)``.

        Takes O(n^2 + m n) steps. Leading axes broadcast.

        Raises:
            InvalidPreferences: D is not antisymmetric.
        """
        score = np.sum(self.exposure * _antisymmetric(direction), axis=-1)
        return np.matmul(self.gain, score[..., None])[..., 0]

    def gradient(self, weights: ArrayLike) -> Array:
        """``(..., n, n)``: how fast sum_k weights_k output_k moves with p(i > j) (and p(j > i) against it).

        ``weights`` is ``(..., m)``. Antisymmetric, each pair twice.
        """
        score = np.matmul(np.asarray(weights, dtype=np.float64)[..., None, :], self.gain)[..., 0, :]
        one_way = score[..., :, None] * self.exposure
        return one_way - np.swapaxes(one_way, -1, -2)

    def jacobian(self) -> Array:
        """``(..., m, n, n)``: [k, i, j] is d output_k when p(i > j) rises and p(j > i) falls; m n^2 numbers."""
        one_way = self.gain[..., :, :, None] * self.exposure[..., None, :, :]
        return one_way - np.swapaxes(one_way, -1, -2)


@dataclass(frozen=True)
class FollowerDerivative:
    """The derivative of omega(y'|y), which moves with row y of P only.

    Attributes:
        follower: ``(..., n, n)``, omega*.
        tau: tau_F.
    """

    follower: Array
    tau: float

    def along(self, direction: ArrayLike) -> Array:
        """``(..., n, n)``: how fast omega(y'|y) moves along D: -omega (D[y, y'] - E_omega D[y, .]) / tau_F."""
        moved = _antisymmetric(direction)
        mean = np.sum(self.follower * moved, axis=-1, keepdims=True)
        return -self.follower * (moved - mean) / self.tau


@dataclass(frozen=True)
class StackelbergSensitivity:
    """The solution of :func:`solve_slhf` and how it moves.

    Attributes:
        solution: where it stands.
        policy: d pi*, m = n.
        follower_value: d V(y), m = n.
        value: d value, m = 1; along single entries pi(i) omega(j|i), the envelope theorem.
        follower: d omega*.
    """

    solution: StackelbergSolution
    policy: Derivative
    follower_value: Derivative
    value: Derivative
    follower: FollowerDerivative


@dataclass(frozen=True)
class NashSensitivity:
    """The solution of :func:`solve_nlhf` and how it moves. (Its value is 1/2, whatever P.)

    Attributes:
        solution: where it stands.
        policy: d pi*, m = n.
    """

    solution: NashSolution
    policy: Derivative


@dataclass(frozen=True)
class RLHFSensitivity:
    """The solution of :func:`solve_rlhf` and how it moves.

    Attributes:
        solution: where it stands.
        reward: dr, m = n, sum zero.
        policy: d pi*, m = n.
    """

    solution: RLHFSolution
    reward: Derivative
    policy: Derivative


def slhf_sensitivity(
    P: PreferenceMatrix,
    tau_leader: float = 0.1,
    tau_follower: float = 0.1,
    leader_reference: ArrayLike | None = None,
    follower_reference: ArrayLike | None = None,
) -> StackelbergSensitivity:
    """Derivatives of :func:`solve_slhf`, which documents arguments and errors; both temperatures positive."""
    s = solve_slhf(P, tau_leader, tau_follower, leader_reference, follower_reference)
    _positive(tau_leader=tau_leader, tau_follower=tau_follower)
    return StackelbergSensitivity(
        solution=s,
        policy=Derivative(_covariance(s.policy) / tau_leader, s.follower),
        follower_value=Derivative(np.broadcast_to(np.eye(P.n), P.p.shape), s.follower),
        value=Derivative(s.policy[..., None, :], s.follower),
        follower=FollowerDerivative(s.follower, tau_follower),
    )


def nlhf_sensitivity(P: PreferenceMatrix, tau: float, reference: ArrayLike | None = None) -> NashSensitivity:
    """The derivative of :func:`solve_nlhf`, which documents arguments and errors; tau positive."""
    _positive(tau=tau)
    s = solve_nlhf(P, tau, reference)
    covariance = _covariance(s.policy)
    # The transpose of S (I - A S / tau)^-1, since A is antisymmetric and S symmetric.
    gain = np.linalg.solve(np.eye(P.n) + covariance @ P.margins / tau, covariance / tau)
    return NashSensitivity(s, Derivative(np.swapaxes(gain, -1, -2), np.broadcast_to(s.policy[..., None, :], P.p.shape)))


def rlhf_sensitivity(
    P: PreferenceMatrix,
    tau: float = 0.1,
    reference: ArrayLike | None = None,
    pair_weights: PairWeights = None,
    l2: float = 0.0,
) -> RLHFSensitivity:
    """Derivatives of :func:`solve_rlhf`, which documents arguments and errors; tau positive.

    The weights stay: it is the win rates that move, not how often a pair is asked.
    """
    _positive(tau=tau)
    s = solve_rlhf(P, tau, reference, pair_weights, l2)
    weights = pair_weights_of(pair_weights, P)
    hessian = information(win_probability(s.reward), weights, l2)
    # Rewards are defined up to a constant, and D moves the scores' sum by nothing: fix it at zero.
    anchor = np.trace(hessian, axis1=-2, axis2=-1)[..., None, None] / P.n**2
    center = np.eye(P.n) - 1 / P.n
    inverse = center @ np.linalg.solve(hessian + anchor, np.broadcast_to(center, hessian.shape))
    return RLHFSensitivity(s, Derivative(inverse, weights), Derivative(_covariance(s.policy) @ inverse / tau, weights))


@dataclass(frozen=True)
class Condition:
    """How ill-conditioned a policy is.

    Attributes:
        number: ``(...)``, the largest total variation that the policy moves by, per unit that the largest
            entry of P moves by, to first order.
        direction: ``(..., n, n)``, the antisymmetric direction of -1, 0 and 1 that does it.
    """

    number: Array
    direction: Array


def condition(policy: Derivative) -> Condition:
    """The worst direction for a policy: max over antisymmetric |D| <= 1 of TV = ||d pi||_1 / 2, exactly.

    ||d pi||_1 is the largest s . d pi over signs s; each s has its best D, the sign of its gradient. So all
    2^(n - 1) signs are tried (s and -s do the same). It does not know that P ends at 0 and 1.

    Raises:
        InvalidParameter: more than ``LARGEST_CONDITION`` alternatives.
    """
    n = policy.exposure.shape[-1]
    if n > LARGEST_CONDITION:
        raise InvalidParameter(
            f"{n} alternatives: a condition number takes 2^(n - 1) n^2 steps, so at most {LARGEST_CONDITION}; "
            f"`along` and `gradient` work at any size."
        )
    shape = np.broadcast_shapes(policy.gain.shape, policy.exposure.shape)
    gains, exposures = (np.broadcast_to(a, shape).reshape(-1, n, n) for a in (policy.gain, policy.exposure))
    signs = np.array(list(product([1], *[[1, -1]] * (n - 1))))
    numbers, directions = np.empty(len(gains)), np.empty(gains.shape)
    for game, (gain, exposure) in enumerate(zip(gains, exposures, strict=True)):
        slopes = Derivative(gain, exposure).gradient(signs)
        change = np.abs(slopes).sum((-2, -1)) / 4  # half the norm, and every pair is there twice
        worst = int(np.argmax(change))
        numbers[game], directions[game] = change[worst], np.sign(slopes[worst])
    return Condition(numbers.reshape(shape[:-2])[()], directions.reshape(shape))


def influence(P: PreferenceMatrix, policy: Derivative) -> pd.DataFrame:
    """Which pairs matter to a policy: one row per pair, the most influential first.

    Args:
        P: one game.
        policy: the derivative of a policy for it.

    Returns:
        Columns: ``first``, ``second``, labels; ``preference``, p(first > second), missing for a pair that
        never met; ``influence``, the total
        variation that the policy moves by per unit of it, to first order; ``gains``, ``loses``, the labels
        whose probability rises and falls most when p(first > second) rises.

    Raises:
        InvalidParameter: P is a batch, or the derivative is not about it.
    """
    if P.batch_shape or policy.gain.shape != P.shape:
        raise InvalidParameter(
            f"Influence is about one game, got P of shape {P.shape} and a derivative of shape {policy.gain.shape}."
        )
    i, j = np.triu_indices(P.n, 1)
    moves = policy.jacobian()[:, i, j]
    labels = np.array(P.labels, dtype=object)
    table = pd.DataFrame(
        {
            "first": labels[i],
            "second": labels[j],
            "preference": np.where(P.known, P.win_rates, np.nan)[i, j],
            "influence": np.abs(moves).sum(0) / 2,
            "gains": labels[moves.argmax(0)],
            "loses": labels[moves.argmin(0)],
        }
    )
    return table.sort_values("influence", ascending=False, kind="stable", ignore_index=True)


def _covariance(policy: Array) -> Array:
    """``(..., n, n)``: S = diag(pi) - pi pi^T, the derivative of a soft-max with respect to its logits."""
    return np.eye(policy.shape[-1]) * policy[..., None] - policy[..., :, None] * policy[..., None, :]


def _antisymmetric(direction: ArrayLike) -> Array:
    try:
        d = of_numpy(direction)
    except (TypeError, ValueError) as error:
        raise InvalidPreferences(f"The direction cannot be read as an array of numbers: {error}.") from error
    if d.ndim < 2 or not np.all(np.abs(d + np.swapaxes(d, -1, -2)) <= TOLERANCE * np.abs(d).max(initial=0)):
        raise InvalidPreferences(
            f"The direction, of shape {d.shape}, must be antisymmetric: where p(i > j) rises, p(j > i) falls as much."
        )
    return d


def _positive(**temperatures: float) -> None:
    for name, tau in temperatures.items():
        if tau == 0:
            raise InvalidParameter(f"{name} = 0: the solution jumps there and has no derivative; make it positive.")
